"""The controller alone, as a proposer, on a full table of real architectures, beside random search and evolution.

    python benchmarks/controller.py                                # 10 seeds, 1,000 architectures each
    python benchmarks/controller.py --seeds 3 --trials 300 --table path/to/nb201_cifar10.npz

The table is NAS-Bench-201 (Dong and Yang 2020): 15,625 cells, the validation error on CIFAR-10 of each, the mean over
up to three trainings. It is not part of this repository: LUTHIER_TABLE or --table, by default
../shared/data/dev/tables/nb201_cifar10.npz beside the checkout. Regret is the error above the best cell's, in
percentage points. Every method asks for one architecture at a time and sees the table's mean.

``genetic`` is luthier's, generational. Regularised (ageing) evolution, where one child replaces the oldest at a time,
is written out below with the sizes of Real et al. 2019.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  after the number of threads is set

import luthier as lt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(os.environ.get("LUTHIER_TABLE", ROOT.parent / "shared" / "data" / "dev" / "tables" / "nb201_cifar10.npz"))
OUT = ROOT / "benchmarks" / "results" / "controller.json"
BUDGETS = (50, 100, 200, 300, 500, 1000)


@dataclass(frozen=True)
class AgeingEvolution:
    """Regularised evolution (Real et al. 2019): the best of a sample of the population has a mutated child, the oldest
    dies."""

    population: int = 100
    sample: int = 25
    budget: lt.Budget | None = None
    extendable: ClassVar[bool] = True

    def bind(self, budget: lt.Budget) -> AgeingEvolution:
        return replace(self, budget=budget)

    def propose(self, history: lt.History, count: int, seeds: lt.Seeds) -> list[lt.Job]:
        first, trials = len(history), (self.budget or lt.Budget()).trials
        jobs = []
        for number in range(first, first + count if trials is None else min(first + count, trials)):
            rng = seeds.rng(number, "propose")
            config = history.space.sample(rng)
            if number >= self.population:
                alive = history.arrival[-self.population :]
                drawn = rng.choice(len(alive), min(self.sample, len(alive)), replace=False).tolist()
                best = min((alive[i] for i in drawn), key=lambda n: float(history.values[n, 0]))
                parent = history.jobs[best].config
                name = list(parent)[int(rng.integers(len(parent)))]
                options = [o for o in history.space[name].options if o != parent[name]]  # type: ignore[union-attr]
                config = {**parent, name: options[int(rng.integers(len(options)))]}
            jobs.append(lt.Job(number, config))
        return jobs


METHODS: dict[str, Any] = {
    "random": lambda: lt.propose.Random(),
    "genetic": lambda: lt.propose.Genetic(),
    "ageing evolution (100, 25)": lambda: AgeingEvolution(),
    "ageing evolution (20, 5)": lambda: AgeingEvolution(20, 5),
    "reinforce, factorised": lambda: lt.propose.Reinforce(),
    "reinforce, lstm": lambda: lt.propose.Reinforce(policy="lstm"),
}


def load(file: Path) -> tuple[lt.Space, Any]:
    """The space, and the validation error in % of every architecture, one axis a choice."""
    with np.load(file) as table:
        names = [str(name).replace(".", "_") for name in table["names"]]
        options = [json.loads(str(choices)) for choices in table["choices"]]
        error = 100.0 - np.nanmean(table["Y"].astype(np.float64), -1)
    return lt.Space({name: lt.Choice(values) for name, values in zip(names, options, strict=True)}), error


def run(method: str, space: lt.Space, error: Any, seed: int, trials: int) -> dict[str, Any]:
    """One study: the regret after each number of architectures, and what asking and telling took."""
    positions = [space[name].positions for name in space]  # type: ignore[union-attr]

    def objective(config: lt.Config) -> float:
        return float(error[tuple(place[value] for place, value in zip(positions, config.values(), strict=True))])

    begin = time.process_time()
    history = lt.testing.simulate(METHODS[method](), objective, space, lt.Budget(trials=trials), seed)
    row: dict[str, Any] = {"method": method, "seed": seed, "cpu": time.process_time() - begin}
    regret = np.minimum.accumulate(history.values[:, 0]) - error.min()
    row |= {str(n): float(regret[n - 1]) for n in BUDGETS if n <= trials}
    row["mean of the last 100"] = float(history.values[-100:, 0].mean() - error.min())
    row["different"] = len({repr(job.config) for job in history.jobs})
    describe = getattr(METHODS[method](), "describe", None)
    if describe is not None:
        collapse = describe(history, lt.Seeds(seed))["collapse"]
        row["mode"] = objective(collapse.config) - float(error.min())
        row["probability of the mode"] = collapse.probability
    return row


def main() -> None:
    """Run the studies, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if not arguments.table.exists():
        print(f"skipped: there is no table {arguments.table}; set LUTHIER_TABLE to nb201_cifar10.npz")
        sys.exit(1 if "LUTHIER_TABLE" in os.environ else 0)
    space, error = load(arguments.table)
    rows, lines = [], []
    for method in arguments.methods:
        runs = [run(method, space, error, seed, arguments.trials) for seed in range(arguments.seeds)]
        rows += runs
        line: dict[str, Any] = {"method": method}
        for name in runs[0]:
            if name not in ("method", "seed"):
                values = [row[name] for row in runs]
                line[name] = statistics.fmean(values)
                line[f"{name} sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(line)
        shown = [f"{n}: {line[n]:.3f} ± {line[f'{n} sd']:.3f}" for n in map(str, BUDGETS) if n in line]
        print(f"{method:28}{'  '.join(shown)}  CPU {line['cpu']:.2f} s", flush=True)
    found = {
        "command": " ".join(["python", "benchmarks/controller.py", *sys.argv[1:]]),
        "machine": lt.environment(),
        "architectures": int(error.size),
        "best error": float(error.min()),
        "median error": float(np.median(error)),
        "summary": lines,
        "runs": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
