"""What luthier's own work costs now beside an earlier version of luthier: the public benchmarks of the clock, paired.

    git worktree add ../earlier d7b0629
    python benchmarks/before_and_after.py ../earlier [--parts overhead pbt ...] [--pairs 3] [--output FILE]

Each part is a benchmark as the earlier version wrote it, run in a process of its own with the earlier library and with
this one by turns, so that both do the same work through the same public calls. (gflownet.py and hypergradient.py name
things that have moved, so that each version runs its own; the work is the same.) A row's figure is the median over the
pairs of its cost now divided by its cost then: above 1 is slower. tuning.py needs the tables named by LUTHIER_BENCH.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import luthier as lt

HERE = Path(__file__).resolve().parents[1]
Costs = dict[str, float]


@dataclass(frozen=True)
class Part:
    """A benchmark, and how the costs of its rows are read from the file that it writes.

    Args:
        command: Script and arguments.
        out: The option that names the file of results.
        costs: From the file's content to the cost of each row, in any unit.
        own: Whether each version runs its own script.
    """

    command: tuple[str, ...]
    out: str
    costs: Callable[[Any], Costs]
    own: bool = False


def _overhead(found: Any) -> Costs:
    return {name: row["median"] for name, row in found["results"].items() if "Optuna" not in name}


def _pbt(found: Any) -> Costs:
    return {name: row["processor milliseconds a round"] for name, row in found["rows"].items()}


def _population(found: Any) -> Costs:
    return {name: 1 / row["luthier, member-steps a second"] for name, row in found["cases"].items()}


def _hypergradient(found: Any) -> Costs:
    return {row["row"]: row["ms min"] for row in found["rows"] if "by hand" not in row["row"]}


def _tuning(found: Any) -> Costs:
    return {f"{row['method']}, CPU s in 100": row["cpu"] for row in found["summary"]}


def _gflownet(found: Any) -> Costs:
    return {row["what"]: row["cpu"] for row in found["settings"] if row["what"] == "default"}


PARTS = {
    "overhead": Part(("overhead.py", "--repeats", "1", "--trials", "500"), "--output", _overhead),
    "pbt": Part(("pbt.py", "--repeats", "1", "--ray-seconds", "1"), "--output", _pbt),
    "population": Part(("population.py", "--repeats", "1", "--cases", "2-3-1", "784"), "--output", _population),
    "hypergradient": Part(("hypergradient.py", "--repeats", "10"), "--out", _hypergradient, own=True),
    "tuning": Part(("tuning.py", "--seeds", "1", "--batches", "1"), "--out", _tuning),
    "gflownet": Part(("gflownet.py", "--seeds", "1"), "--out", _gflownet, own=True),
}


def costs(part: Part, tree: Path, earlier: Path) -> Costs:
    """Costs of the part's rows with the library of one tree."""
    script = (tree if part.own else earlier) / "benchmarks" / part.command[0]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, str(script), *part.command[1:], part.out, str(out)]
        path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if not out.exists():  # a benchmark that misses its own target says so by its exit code: the figures are there
            raise SystemExit(f"{' '.join(command)} with {tree} wrote nothing:\n{done.stderr[-2000:]}")
        return part.costs(json.loads(out.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path, help="a checkout of the earlier version")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/before_and_after.json"))
    arguments = parser.parse_args()
    earlier = arguments.earlier.resolve()
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"rows": {}}
    found["machine"] = {**lt.environment(), "pairs": arguments.pairs}
    for name in arguments.parts:
        pairs = []
        for turn in range(arguments.pairs):  # who goes first alternates too
            trees = (earlier, HERE) if turn % 2 else (HERE, earlier)
            of = {tree: costs(PARTS[name], tree, earlier) for tree in trees}
            pairs.append((of[earlier], of[HERE]))
        for row in sorted(pairs[0][0].keys() & pairs[0][1].keys()):
            ratios = [now[row] / then[row] for then, now in pairs]
            found["rows"][f"{name}: {row}"] = {
                "now / then": round(statistics.median(ratios), 3),
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
                "then": statistics.median(then[row] for then, _ in pairs),
                "now": statistics.median(now[row] for _, now in pairs),
            }
            print(f"{name}: {row:52}", found["rows"][f"{name}: {row}"], flush=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
