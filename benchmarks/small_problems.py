"""Methods on problems with known answers and on scikit-learn's digits: for docs/genetic.md, pbt.md and optuna.md.

    python benchmarks/small_problems.py

Regret is the lowest value found less the optimum. Every row has the seed that it was made with; a method without an
optional package that it needs is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import luthier as lt

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "small_problems.json"
SMALL = ("branin", "bowl", "tree")
MODELS = {"random": lt.propose.Random, "tpe": lt.interop.optuna.TPE, "cmaes": lt.interop.cmaes.CMAES}
GENETIC: dict[str, Callable[[], Any]] = {
    "random": lt.propose.Random,
    "default": lt.propose.Genetic,
    "nudge=0.5, mutation=0.3": lambda: lt.propose.Genetic(nudge=0.5, mutation=0.3),
    "elite=0, distinct=False": lambda: lt.propose.Genetic(elite=0, distinct=False),
}
DIGITS: dict[str, tuple[Any, int, int]] = {  # method, trials, epochs
    "genetic: random": ("random", 40, 5),
    "genetic: population=8": (lt.propose.Genetic(population=8), 40, 5),
    "genetic: inherit=parent": (lt.propose.Genetic(population=8, inherit="parent"), 40, 5),
    "genetic: inherit=best": (lt.propose.Genetic(population=8, inherit="best"), 40, 5),
    "pbt: random": ("random", 10, 20),
    "pbt: default": (lt.propose.PBT(), 10, 20),
    "pbt: asynchronous": (lt.propose.PBT(asynchronous=True), 10, 20),
    "pbt: tournament": (lt.propose.PBT(exploit="tournament"), 10, 20),
    "pbt: fresh=2": (lt.propose.PBT(fresh=2), 10, 20),
}


def regret(problem: str, method: Any, trials: int, seed: int) -> float:
    """What a search is above the optimum at its end."""
    one = lt.testing.PROBLEMS[problem]
    history = lt.testing.simulate(method, one.objective, one.space, lt.Budget(trials=trials), seed)
    return float(history.values[history.best, 0]) - one.optimum


def rows() -> Iterator[dict[str, Any]]:
    """Everything, one row a run."""
    for seed in range(10):
        for name in SMALL:
            for method, make in MODELS.items():
                yield {"part": "models", "problem": name, "method": method, "seed": seed} | {
                    "regret": regret(name, make(), 100, seed)
                }
    for seed in range(20):
        for name in SMALL:
            found = {method: regret(name, make(), 120, seed) for method, make in GENETIC.items()}
            for method, value in found.items():
                row = {"part": "genetic", "problem": name, "method": method, "seed": seed}
                yield row | {"log10 regret": math.log10(value), "below random": float(value < found["random"])}
    for seed in range(5):
        for title, (method, trials, epochs) in DIGITS.items():
            file = str(ROOT / "examples" / "digits.py")
            study = lt.tune(file, method, trials=trials, epochs=epochs, seed=seed, progress=False)
            yield {"part": "digits", "method": title, "seed": seed, "loss": study.best.value}  # type: ignore[union-attr]


def summary(runs: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over the seeds."""
    lines = []
    groups = dict.fromkeys((run["part"], run.get("problem", ""), run["method"]) for run in runs)
    for part, problem, method in groups:
        of = [run for run in runs if (run["part"], run.get("problem", ""), run["method"]) == (part, problem, method)]
        for key in ("regret", "log10 regret", "below random", "loss"):
            if key in of[0]:
                values = [run[key] for run in of]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                lines.append(f"{part:8}{problem:8}{method:28}{key:14}{statistics.fmean(values):8.3f} ± {spread:.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for row in rows():
        runs.append(row)
        command = "python benchmarks/small_problems.py"
        found = {"command": command, "machine": lt.environment("optuna", "cmaes"), "runs": runs}
        if row["part"] == "digits" or row["seed"] % 5 == 4:
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(summary(runs))


if __name__ == "__main__":
    main()
