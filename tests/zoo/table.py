"""Run the zoo and write docs/networks.md: ``PYTHONPATH=.:tests python -m zoo.table [PART…] [--only TEXT…]``.

Parts: ``checks`` (against a plain loop; alone, stacked, traced), ``cut`` (killed and resumed), ``adapters``, ``speed``;
all of them where none is named. What was found stays in benchmarks/results/zoo.json, from which the page is made.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cut import resumed
from zoo.adapters import adapters_of
from zoo.entry import Entry
from zoo.networks import MORE, ZOO
from zoo.rows import row_of, task_of
from zoo.speed import speed_of

import luthier as lt

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs" / "networks.md", ROOT / "benchmarks" / "results" / "zoo.json"
FORMS = {"vmap": "vmap", "loop": "in turn", "": ""}
PACKAGES = ("transformers", "vit-pytorch", "x-transformers", "rtdl_revisiting_models", "tabm", "pytorch-tabnet", "timm")


def checks(entry: Entry) -> dict[str, Any]:
    return row_of(entry)._asdict()


def cut(entry: Entry) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return {"resumed": resumed(lambda: task_of(entry, 0.1), Path(folder))}


def adapters(entry: Entry) -> dict[str, Any]:
    return {"adapters": adapters_of(entry)}


def speed(entry: Entry) -> dict[str, Any]:
    ours, plain = speed_of(entry)
    return {"speed": round(ours), "plain_speed": round(plain), "times_plain": round(round(ours) / round(plain), 2)}


PARTS: dict[str, Callable[[Entry], dict[str, Any]]] = {
    "checks": checks,
    "cut": cut,
    "adapters": adapters,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--only", nargs="*", default=[""], help="networks whose names hold one of these texts")
    parser.add_argument("--missing", action="store_true", help="only what has not been found yet")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    stored = json.loads(given.results.read_text()) if given.results.exists() else {"networks": {}}
    known, began = stored["networks"], time.perf_counter()
    for part in given.parts or PARTS:
        for name, entry in ZOO.items():
            if not any(text.lower() in name.lower() for text in given.only):
                continue
            row = known.setdefault(name, {})
            if given.missing and part in row.get("done", ()):
                continue
            if part != "checks" and row.get("runs") != "runs":
                continue
            found = tried(part, entry)
            known[name] = row = {**row, **found, "done": sorted({*row.get("done", ()), part})}
            print(f"{part:9} {name}: {found}", flush=True)
            stored = {"networks": {n: known[n] for n in ZOO if n in known}, "environment": lt.environment(*PACKAGES)}
            given.results.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    print(f"{time.perf_counter() - began:.0f} s")
    if given.results == RESULTS:
        PAGE.write_text(page(stored))


def tried(part: str, entry: Entry) -> dict[str, Any]:
    """What a part finds; an error that is not luthier's own is a finding too."""
    try:
        return PARTS[part](entry)
    except ImportError as error:
        return {"runs": "absent", "note": f"{error}; pip install -c constraints.txt -e '.[zoo]'"}
    except Exception as error:
        traceback.print_exc()
        return {"runs": "error", "note": f"{part}: {type(error).__name__}: {error}"}


def page(stored: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines, reasons = [], Counter[tuple[str, str]]()
    for name in ZOO:
        row = stored["networks"].get(name, {})
        works = row.get("adapters", {})
        for adapter, said in works.items():
            if said not in ("works", "to rounding"):
                reasons[adapter, said] += 1
        lines.append(f"| {ZOO[name].kind} | {name} | " + " | ".join(_cells(row, works)) + " |")
    of_list = {name: stored["networks"].get(name, {}) for name in ZOO if name not in MORE}
    states = Counter("wrong" if _wrong(row) else row.get("runs", "not run") for row in of_list.values())
    counts = ", ".join(
        f"{states[kind]} {kind}"
        for kind in ("runs", "refused", "absent", "wrong", "error", "not run")
        if states[kind] or kind != "not run"
    )
    said = "\n".join(f"- {adapter}, {count} networks: {text}" for (adapter, text), count in sorted(reasons.items()))
    return HEAD.format(counts=counts, total=len(of_list), more=len(MORE), torch=torch.__version__) + (
        "\n".join(lines) + f"\n\n## What adapters refuse\n\n{said or 'Nothing.'}\n"
    )


def _wrong(row: dict[str, Any]) -> bool:
    adapters = row.get("adapters", {}).values()
    return bool(row.get("resumed")) or any(said.startswith(("wrong", "error")) for said in adapters)


def _cells(row: dict[str, Any], works: dict[str, str]) -> list[str]:
    same = row.get("same", "") + (", resumed" if "resumed" in row and not row["resumed"] else "")
    able = "all" if works and set(works.values()) == {"works"} else ", ".join(n for n in works if works[n] == "works")
    rough = ", ".join(n for n in works if works[n] == "to rounding")
    able = "; ".join(part for part in (able, rough and f"to rounding {rough}") if part)
    ratio = f"{row['speed']:,} | {row['times_plain']:.2f}" if "speed" in row else " | "
    off = "" if row.get("plain") is None else f"{row['plain']:.0e}"
    note = " ".join(str(part) for part in (row.get("note"), row.get("resumed")) if part)
    state = row.get("runs", "not run")
    return [state, FORMS[row.get("form", "")], off, same, able, ratio, " ".join(note.split()).replace("|", "\\|")]


HEAD = """# Networks that run

{total} networks that were named before any was tried, written as others write them or taken from public packages, and
{more} more that draw in every way, each run by one command, `make zoo`. Of the {total}: {counts}.

"Off" is the relative difference of the validation loss to a plain torch loop over the same weights and minibatches,
without dropout. "Equal" is what equals a member alone, bit for bit, at dropout 0.1: the member in a stack, in a traced
stack, and in a study that was ended by SIGKILL in the middle and resumed. A network that draws in itself has no plain
loop to be compared with; one that runs in turn is never traced. "Adapters": pbt, hypergradient, bilevel with the
implicit and the unrolled response, hypernet, and enas over two optimizers, each with two members stacked as alone, bit
for bit; where only last bits differ, it says "to rounding".
Speed is in member-steps a second of eight members in the form that a long study takes, on one core, and in multiples
of a plain loop's; empty where it has not been measured. It is of small networks on minibatches of 32 rows under SGD, at
dropout 0.1 in both; medians of three turns of 0.15 s, so that differences of a tenth are none. Below 1 a member costs
more than in a plain loop: one in turn mostly about a tenth, more where a step takes less than half a millisecond, and
several times where gamma and Poisson numbers are drawn in rounds. Made with torch {torch}, on a CPU.

<!-- figures: benchmarks/results/zoo.json -->

| kind | network | | form | off | equal | adapters | speed | × plain | |
|---|---|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main()
