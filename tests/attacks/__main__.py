"""Run attacks: ``python -m tests.attacks [NAME or FAMILY …]``; HELD or BROKE for each, and a last line of counts."""

import argparse
import importlib
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .kit import ATTACKS, Attack, CannotRunError, ground

FAMILIES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if path.stem not in {"__init__", "__main__", "kit", "truth", "victim", "look", "test_attacks", "server"}
)


def load() -> dict[str, Attack]:
    """All attacks, by name."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return ATTACKS


def attempt(one: Attack) -> tuple[str, str, float]:
    """Run one attack; return its outcome, what there is to say, and the seconds it took."""
    began = time.monotonic()
    try:
        with ground(one.name) as here:
            one.run(here)
        outcome, why = "HELD", ""
    except CannotRunError as error:
        outcome, why = "CANNOT RUN", str(error)
    except AssertionError as error:
        outcome, why = "BROKE", str(error) or traceback.format_exc()
    except Exception:  # whatever an attack meets is its outcome
        outcome, why = "BROKE", traceback.format_exc()
    return outcome, why, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"attacks or families ({', '.join(FAMILIES)}); all of them without")
    parser.add_argument("--jobs", type=int, default=6, help="attacks at once; most of them wait most of the time")
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--table", action="store_true", help="print the outcomes as the table of README.md")
    given = parser.parse_args()
    attacks = list(load().values())
    unknown = [name for name in given.names if name not in ATTACKS and name not in FAMILIES]
    if unknown:
        parser.error(f"no attack or family {', '.join(unknown)}")
    chosen = [one for one in attacks if not given.names or one.name in given.names or one.family in given.names]
    if given.list:
        for one in chosen:
            print(f"{one.family:11} {one.name:34} {one.made}")
        return 0
    counts: dict[str, int] = {}
    rows = []
    with ThreadPoolExecutor(given.jobs) as pool:
        running = {pool.submit(attempt, one): one for one in chosen}
        for future in as_completed(running):
            one, (outcome, why, seconds) = running[future], future.result()
            counts[outcome] = counts.get(outcome, 0) + 1
            rows.append((one, outcome))
            print(f"{outcome:10} {one.family}/{one.name} ({seconds:.0f} s){': ' + why if why else ''}", flush=True)
    if given.table:
        print("\n| attack | how it is made | what a user would expect | outcome |\n|---|---|---|---|")
        for one, outcome in sorted(rows, key=lambda row: chosen.index(row[0])):
            print(f"| {one.family}/{one.name} | {one.made} | {one.expects} | {outcome} |")
    print(" · ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items(), reverse=True)))
    return 1 if counts.get("BROKE") else 0


if __name__ == "__main__":
    sys.exit(main())
