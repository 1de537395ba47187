"""The autotune paper: grid, random, hypergradient descent, Bayesian optimisation and PBT on nine small problems.

    python -m papers.autotune.run              5 seeds, in stacks: some minutes
    python -m papers.autotune.run --full       20 seeds and 20 epochs
    python -m papers.autotune.run --figures    only draw and write the tables again, from results.json and the studies

Every study is kept in studies.db beside this file, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import luthier as lt
from papers import tables
from papers.autotune import drawing
from papers.autotune.problems import BATCH, DATASETS, NETWORKS, data, task

HERE = Path(__file__).resolve().parent
COMMAND = "python -m papers.autotune.run"
TRIALS = 50  # the paper's
EPOCHS = 5  # the published code's
MEMBERS = 15  # the published code's
EPSILON = 1e-3  # |L(i-1) - L(i)| below it is convergence; the paper gives no value
NEAR = 0.01  # accuracy: how near to the best of all methods a trial must come


@dataclass(frozen=True)
class Arm:
    """One method, as it is compared: with the trainings of the others, or with the paper's own number."""

    title: str
    method: Any
    claim: tuple[str, str, str]  # trials to convergence, training accuracy, parameters: the paper's figure 4
    trainings: int = TRIALS


ARMS = {
    "grid": Arm("grid search", lt.propose.Grid({"lr": 10, "momentum": 5}), ("left out", "left out", "-")),
    "random": Arm("random search", "random", ("< 5 trials", "99.9", "1+")),
    "tpe": Arm("Bayesian optimisation, TPE", "tpe", ("10 trials", "99.9", "1+")),
    "gp": Arm("Bayesian optimisation, GP", "gp", ("10 trials", "99.9", "1+")),
    "pbt": Arm("population based training, 50 members", lt.propose.PBT(rounds=10), ("-", "-", "-")),
    "pbt 15": Arm(
        "population based training, 15 members", lt.propose.PBT(rounds=10), ("1 trial", "100", "1+"), trainings=MEMBERS
    ),
    "hypergradient": Arm("hypergradient descent, from 50 starts", "hypergradient", ("-", "-", "-")),
    "hypergradient 1": Arm(
        "hypergradient descent, one training", "hypergradient", ("< 25 iterations", "100", "1"), trainings=1
    ),
}
CAST = ("pbt 15", "hypergradient 1")
KEYS = ("test_accuracy", "train_accuracy", "valid_accuracy", "epochs_to_convergence", "trials_to_near", "seconds")


def study_of(arm: str, network: str, dataset: int, seed: int, epochs: float, cast: bool = False) -> lt.Study:
    """Tune one network on one data set; the data are drawn from the seed, too."""
    single = ARMS[arm].trainings == 1
    return lt.tune(
        task(network, data(dataset, seed, cast), evaluate_every=0.1 if single else 1.0),
        ARMS[arm].method,
        trials=ARMS[arm].trainings,
        epochs=epochs,
        store=HERE / "studies.db",
        name=f"{network} on {dataset}{' cast' if cast else ''}: {arm}, {epochs:g} epochs, seed {seed}",
        seed=seed,
        progress=False,
    )


def measured(study: lt.Study, train: lt.Split, epochs: float) -> dict[str, float]:
    """What one study reached."""
    best = study.best
    if best is None:
        return {}
    with torch.no_grad():
        right = (study.model()(train.inputs) > 0) == train.targets.bool()
    return {
        "test_accuracy": 100 * best.test["accuracy"],
        "valid_accuracy": 100 * best.metrics["accuracy"],
        "train_accuracy": 100 * float(right.double().mean()),
        "epochs_to_convergence": converged(drawing.curve_of(study, "loss"), epochs),
        "seconds": study.settings["wall_seconds"],
    }


def converged(curve: tuple[np.ndarray, np.ndarray], epochs: float) -> float:
    """The first epoch after which the validation loss has moved by less than EPSILON, else all of them."""
    at, losses = curve
    ends = np.interp(np.arange(1, round(epochs) + 1), at, losses)
    still = np.flatnonzero(np.abs(np.diff(ends)) < EPSILON)
    return float(still[0] + 2) if len(still) else float(round(epochs))


def near(study: lt.Study, aim: float) -> float | None:
    """Configurations started until a validation accuracy of ``aim``, in percent; None where there was none."""
    history = study.history
    fresh = np.cumsum(history.parent < 0)
    for number in history.arrival:
        result = history.results[number]
        if result is not None and 100 * result.metrics.get("accuracy", 0.0) >= aim:
            return float(fresh[number])
    return None


def run(seeds: int, epochs: float) -> list[dict[str, Any]]:
    """All networks × data sets × methods × seeds."""
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for network in NETWORKS:
            for dataset in DATASETS:
                studies = {arm: study_of(arm, network, dataset, seed, epochs) for arm in ARMS}
                train = data(dataset, seed).train
                found = {arm: measured(study, train, epochs) for arm, study in studies.items()}
                aim = max(row.get("valid_accuracy", 0.0) for row in found.values()) - 100 * NEAR
                for arm, row in found.items():
                    place = {"method": arm, "network": network, "dataset": dataset, "seed": seed}
                    rows.append({**place, **row, "trials_to_near": near(studies[arm], aim)})
                print(f"seed {seed}, {network} on {dataset}: " + told(found), flush=True)
    return rows


def run_cast(seeds: int, epochs: float) -> list[dict[str, Any]]:
    """The paper's two perfect methods on its two labelled sets, with labels as its code scores them and as meant."""
    rows = []
    for seed in range(seeds):
        for cast in (False, True):
            scores: dict[str, list[float]] = {arm: [] for arm in CAST}
            for dataset in (2, 3):
                for network in ("2-3-1", "2-5-5-1"):
                    for arm in CAST:
                        best = study_of(arm, network, dataset, seed, epochs, cast).best
                        assert best is not None
                        scores[arm].append(100 * best.test["accuracy"])
            rows.append(
                {"labels": "cast" if cast else "meant", "seed": seed} | {a: np.mean(v) for a, v in scores.items()}
            )
    return rows


def told(found: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{arm} {row.get('test_accuracy', float('nan')):.2f}" for arm, row in found.items())


def overall(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over the nine problems of each seed, for every method."""
    found = []
    for arm in ARMS:
        for seed in sorted({row["seed"] for row in rows}):
            mine = [row for row in rows if row.get("method") == arm and row["seed"] == seed]
            means = {key: [row[key] for row in mine if row.get(key) is not None] for key in KEYS}
            found.append(
                {"method": arm, "over": "all", "seed": seed}
                | {key: float(np.mean(values)) for key, values in means.items() if values}
                | {"reached": sum(row.get("trials_to_near") is not None for row in mine)}
            )
    return found


def by_problem(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a problem and seed, with the test accuracy of every method."""
    rows = [row for row in rows if "network" in row]
    places = sorted({(row["network"], row["dataset"], row["seed"]) for row in rows})
    return [
        {"problem": f"{network} on {dataset}", "seed": seed}
        | {
            f"test {row['method']}": row.get("test_accuracy")
            for row in rows
            if (row["network"], row["dataset"], row["seed"]) == (network, dataset, seed)
        }
        for network, dataset, seed in places
    ]


def results(rows: list[dict[str, Any]], epochs: float, seconds: float) -> dict[str, Any]:
    claims = ("their trials", "their accuracy", "their parameters")
    ours = [
        {"key": "trials_to_near", "title": "trials to within 1 point", "digits": 1},
        {"key": "reached", "title": "of 9 reached", "digits": 1},
        {"key": "epochs_to_convergence", "title": "epochs to convergence", "digits": 1},
        {"key": "train_accuracy", "title": "training accuracy", "digits": 2},
        {"key": "test_accuracy", "title": "test accuracy", "digits": 2},
        {"key": "seconds", "title": "seconds a study", "digits": 1},
    ]
    theirs = [{"key": key, "title": f"paper: {key.removeprefix('their ')}"} for key in claims]
    methods = [
        {
            "title": arm.title,
            "where": {"method": name, "over": "all"},
            "cells": dict(zip(claims, arm.claim, strict=True)),
        }
        for name, arm in ARMS.items()
    ]
    problems = [
        {"title": f"{network} on data set {dataset}", "where": {"problem": f"{network} on {dataset}"}}
        for dataset in DATASETS
        for network in NETWORKS
    ]
    return {
        "command": COMMAND,
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__.partition('+')[0]}",
        "epochs": epochs,
        "batch_size": BATCH,
        "seconds": round(seconds, 1),
        "runs": rows + overall(rows) + by_problem(rows),
        "tables": {
            "methods": {"by": "method", "columns": theirs + ours, "rows": methods},
            "problems": {
                "by": "test accuracy",
                "columns": [{"key": f"test {arm}", "title": arm, "digits": 2} for arm in ARMS],
                "rows": problems,
            },
            "labels": {
                "by": "test accuracy",
                "columns": [{"key": arm, "title": ARMS[arm].title, "digits": 2} for arm in CAST],
                "rows": [
                    {"title": "labels as the paper means them", "where": {"labels": "meant"}},
                    {"title": "labels as its code scores them", "where": {"labels": "cast"}},
                ],
            },
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="20 seeds and 20 epochs")
    parser.add_argument("--figures", action="store_true", help="only draw and write the tables again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, epochs = (20, 20) if options.full else (5, EPOCHS)
    file = HERE / "results.json"
    if not options.figures:
        begun = time.monotonic()
        rows = run(seeds, epochs) + run_cast(seeds, epochs)
        file.write_text(json.dumps(results(rows, epochs, time.monotonic() - begun), indent=1) + "\n")
    drawing.draw(HERE, lambda arm, network, dataset: study_of(arm, network, dataset, 0, epochs))
    readme = HERE / "README.md"
    readme.write_text(tables.filled(readme.read_text(), json.loads(file.read_text())))


if __name__ == "__main__":
    main()
