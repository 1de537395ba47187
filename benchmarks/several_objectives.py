"""Several objectives: the hypervolume that random search, genetic, nsga2 and gp dominate after the same trials.

    python benchmarks/several_objectives.py [--seeds 5] [--methods random genetic nsga2 gp]

Two problems whose Pareto fronts are known: ZDT1 in five dimensions, and a network of one of three kinds with sizes,
learning rate and dropout under conditions, its accuracy (to be maximised) against its number of weights. A number is
the hypervolume as a share of that of the known front. ``nsga2`` is Optuna's, ``gp`` is the expected hypervolume
improvement by BoTorch, at fewer trials since each costs 0.4 CPU seconds. Seeds are paired: seed by seed, all see the
same problem. What has been run is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import luthier as lt

TRIALS = (40, 100)  # gp has the first alone
METHODS: dict[str, tuple[Callable[[], Any], int]] = {
    "random": (lt.propose.Random, 100),
    "genetic": (lt.propose.Genetic, 100),
    "genetic, nudge 0.5, mutation 0.3": (lambda: lt.propose.Genetic(nudge=0.5, mutation=0.3), 100),
    "nsga2, population 10 (Optuna)": (lambda: lt.interop.optuna.NSGA2(population=10), 100),
    "nsga2, population 50 (Optuna's default)": (lambda: lt.interop.optuna.NSGA2(), 100),
    "gp (BoTorch)": (lt.interop.botorch.HypervolumeImprovement, 40),
}


@dataclass(frozen=True)
class Problem:
    """Several objectives of a configuration, and how good a set of them can be."""

    space: lt.Space
    objectives: Mapping[str, str]
    values: Callable[[lt.Config], dict[str, float]]
    reference: tuple[float, ...]  # minimised: the worst that counts
    best: float  # hypervolume of the known front


def zdt1(config: lt.Config) -> dict[str, float]:
    """Zitzler, Deb and Thiele 2000, T1, with five variables: the front is 1 - √x, where all others are 0."""
    first, *others = (float(config[f"x{i}"]) for i in range(5))  # type: ignore[arg-type]
    g = 1 + 9 * sum(others) / 4
    return {"first": first, "second": g * (1 - math.sqrt(first / g))}


NETWORK = lt.Space(
    kind=lt.Choice(["linear", "mlp", "cnn"]),
    layers=lt.Int(1, 3, when={"kind": "mlp"}),
    width=lt.Int(8, 512, log=True, when={"kind": "mlp"}),
    channels=lt.Int(4, 64, log=True, when={"kind": "cnn"}),
    kernel=lt.Choice([3, 5], when={"kind": "cnn"}),
    dropout=lt.Float(0.0, 0.8, when={"kind": ["mlp", "cnn"]}),
    lr=lt.Float(1e-5, 1.0, log=True),
)


def sizes(config: lt.Config) -> tuple[float, float, float, float]:
    """Number of weights, best error that they can have, and the best learning rate (log10) and dropout."""
    if config["kind"] == "linear":
        return 7_850.0, 0.16, -1.0, 0.0
    if config["kind"] == "mlp":
        width, layers = float(config["width"]), int(config["layers"])  # type: ignore[arg-type]
        weights = 785 * width + (layers - 1) * width * (width + 1) + 10 * (width + 1)
        return weights, 0.095 + 1.2 / width + 0.004 * abs(layers - 2), -2.0, 0.2
    channels, kernel = float(config["channels"]), int(config["kernel"])  # type: ignore[arg-type]
    weights = channels * (kernel**2 + 1) + 2 * channels * (channels * kernel**2 + 1) + 10 * (2 * channels * 16 + 1)
    return weights, 0.07 + 0.45 / channels + (0.004 if kernel == 3 else 0.0), -2.5, 0.4


def network(config: lt.Config) -> dict[str, float]:
    """Accuracy against weights, made up in the shape of real ones: bowls in lr and dropout around what size allows."""
    weights, error, lr, dropout = sizes(config)
    off = 0.04 * (math.log10(float(config["lr"])) - lr) ** 2  # type: ignore[arg-type]
    off += 0.2 * (float(config.get("dropout", 0.0)) - dropout) ** 2  # type: ignore[arg-type]
    return {"accuracy": 1 - min(0.9, error + off), "weights": math.log10(weights)}


def network_front() -> np.ndarray:
    """Every network at its best learning rate and dropout, minimised, (networks, 2)."""
    shapes: list[lt.Config] = [{"kind": "linear"}]
    shapes += [{"kind": "mlp", "width": w, "layers": n} for w, n in itertools.product(range(8, 513), (1, 2, 3))]
    shapes += [{"kind": "cnn", "channels": c, "kernel": k} for c, k in itertools.product(range(4, 65), (3, 5))]
    found = [sizes(shape) for shape in shapes]
    return np.array([[error - 1, math.log10(weights)] for weights, error, _, _ in found])


def problems() -> dict[str, Problem]:
    box = lt.Space(**{f"x{i}": lt.Float(0.0, 1.0) for i in range(5)})
    volume = lt.pareto.hypervolume(network_front(), np.array([-0.5, 6.0]))
    return {
        # the front leaves 1/3 of the unit square; the rest of the box up to the reference is dominated
        "zdt1": Problem(box, {"first": "min", "second": "min"}, zdt1, (1.1, 6.0), 1.1 * 6.0 - 1 / 3),
        "network": Problem(NETWORK, {"accuracy": "max", "weights": "min"}, network, (-0.5, 6.0), volume),
    }


def run(problem: Problem, name: str, seed: int) -> dict[str, Any]:
    """One study, and the share of the known hypervolume after some of its trials."""
    make, trials = METHODS[name]
    clock = time.process_time()
    history = lt.testing.simulate(
        make(), problem.values, problem.space, lt.Budget(trials=trials), seed, objectives=problem.objectives
    )
    seconds = time.process_time() - clock
    shares = {
        str(count): lt.pareto.hypervolume(history.values[:count], np.array(problem.reference)) / problem.best
        for count in TRIALS
        if count <= trials
    }
    return {"method": name, "seed": seed, "share": shares, "seconds": seconds}


def summary(results: Mapping[str, Any]) -> str:
    lines = []
    for problem, runs in results["problems"].items():
        lines.append(f"{problem}: mean ± sd of the share; wins against random search of the same trials")
        chance = {(run["seed"], count): share for run in _of(runs, "random") for count, share in run["share"].items()}
        for name in METHODS:
            for count in map(str, TRIALS):
                found = {run["seed"]: run["share"][count] for run in _of(runs, name) if count in run["share"]}
                if len(found) > 1:
                    mean, deviation = statistics.fmean(found.values()), statistics.stdev(found.values())
                    wins = sum(share > chance[seed, count] for seed, share in found.items())
                    beaten = "" if name == "random" else f", {wins} of {len(found)}"
                    lines.append(f"  {name}, {count} trials: {mean:.3f} ± {deviation:.3f}{beaten}")
    return "\n".join(lines)


def _of(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["method"] == name]


def check(results: Mapping[str, Any]) -> list[str]:
    """Where genetic at 100 trials or gp at 40 is not better than random search on average."""
    missed = []
    for problem, runs in results["problems"].items():
        for name, count in (("genetic", "100"), ("gp (BoTorch)", "40")):
            ours, chance = (statistics.fmean(run["share"][count] for run in _of(runs, one)) for one in (name, "random"))
            if not ours > chance:
                missed.append(f"{problem}: {name} {ours:.3f}, random {chance:.3f}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="parts of names")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/several_objectives.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = arguments.output
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"problems": {}}
    results["machine"] = lt.environment("botorch", "optuna")
    for seed in range(arguments.seeds):
        for title, problem in problems().items():
            runs = results["problems"].setdefault(title, [])
            for name in METHODS:
                if any(part in name for part in arguments.methods) and not any(
                    run["seed"] == seed for run in _of(runs, name)
                ):
                    runs.append(run(problem, name, seed))
                    file.write_text(json.dumps(results, indent=1) + "\n")
                    print(title, name, seed, runs[-1]["share"], round(runs[-1]["seconds"], 1), flush=True)
    print(summary(results))
    if len(arguments.methods) == len(METHODS) and (missed := check(results)):
        raise SystemExit(f"not better than random search: {missed}")


if __name__ == "__main__":
    main()
