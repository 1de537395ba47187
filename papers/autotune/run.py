"""The autotune paper: grid, random, hypergradient descent, Bayesian optimisation and PBT on nine small problems.

    python -m papers.autotune.run              5 seeds of 5 epochs, in stacks: some minutes
    python -m papers.autotune.run --full       20 seeds of 20 epochs: hours
    python -m papers.autotune.run --figures    only draw and write the tables again

``--device`` and ``--anew`` are those of every paper (papers/command.py). Every study is kept in studies.db, so the same
command goes on where it was stopped; the figures are drawn from the studies of seed 0, which are run again where
studies.db is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

import luthier as lt
from papers.autotune import drawing
from papers.autotune.problems import DATASETS, NETWORKS, data, task
from papers.autotune.published import published
from papers.command import Paper, Run, main, tuned

TRIALS = 50  # the paper's
MEMBERS = 15  # the published code's
EPSILON = 1e-3  # |L(i-1) - L(i)| below it is convergence; the paper gives no value
NEAR = 0.01  # accuracy: how near to the best of all methods a trial must come


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    seeds: int
    epochs: int  # the published code has 5, the paper gives none
    trials: float = 1.0  # of the trainings of each method
    networks: tuple[str, ...] = tuple(NETWORKS)
    datasets: tuple[int, ...] = tuple(DATASETS)


REDUCED = Size(seeds=5, epochs=5)
FULL = Size(seeds=20, epochs=20)


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
KEYS = ("test_accuracy", "train_accuracy", "valid_accuracy", "epochs_to_convergence", "trials_to_near", "seconds")

# What stands between 100 and what we measure: the paper's two perfect methods, with one thing changed at a time.
PERFECT = ("pbt 15", "hypergradient 1")
ONE, OTHERS = ((1,), ("2-3-1", "2-5-5-1")), ((2, 3), ("2-3-1", "2-5-5-1"))  # data sets and networks: the paper's six
CAUSES: dict[str, tuple[str, tuple[tuple[int, ...], tuple[str, ...]], int, dict[str, Any]]] = {
    "meant": ("2 and 3: as above", OTHERS, 1, {}),
    "cast": (
        "2 and 3: labels cast to integers, as the published code scores its population",
        OTHERS,
        1,
        {"cast": True},
    ),
    "longer": ("2 and 3: ten times as many epochs", OTHERS, 10, {}),
    "one": ("1: as above", ONE, 1, {}),
    "unflipped": ("1: no label flipped", ONE, 1, {"flips": 0.0}),
    "apart": ("1: no label flipped, classes twice as far apart", ONE, 1, {"flips": 0.0, "apart": 4.0}),
}


def study_of(run: Run, arm: str, network: str, dataset: int, seed: int, longer: int = 1, **changed: Any) -> lt.Study:
    """Tune one network on one data set; the data are drawn from the seed, too."""
    trainings = max(1, round(ARMS[arm].trainings * run.size.trials))
    single, epochs = ARMS[arm].trainings == 1, run.size.epochs * longer
    told = "".join(f" {name}={value}" for name, value in changed.items())
    return tuned(
        task(network, data(dataset, seed, **changed), 0.1 if single else 1.0, run.device),
        ARMS[arm].method,
        trials=trainings,
        epochs=epochs,
        store=run.folder / "studies.db",
        name=f"{network} on {dataset}{told}: {arm}, {epochs} epochs, seed {seed}",
        seed=seed,
        progress=False,
    )


def measured(study: lt.Study, train: lt.Split, epochs: float) -> dict[str, float]:
    """What one study reached."""
    best = study.best
    if best is None:
        return {}
    model = study.model()
    with torch.no_grad():
        right = (model(train.inputs.to(next(model.parameters()).device)) > 0).cpu() == train.targets.bool()
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


def work(run: Run) -> None:
    """What the studies say, which are run where they are not in the store; the tables' rows are made of it anew."""
    run.results["runs"] = []
    size = run.size
    for seed in range(size.seeds):
        for network, dataset in product(size.networks, size.datasets):
            run.keep(compared(run, network, dataset, seed))
        run.keep(list(causes(run, seed)))
        run.keep([published(network, dataset, seed) for network, dataset in product(size.networks, size.datasets)])
    run.results["seconds"] = round(sum(row.get("seconds", 0.0) for row in run.rows), 1)
    run.keep(overall(run.rows) + by_problem(run.rows))


def compared(run: Run, network: str, dataset: int, seed: int) -> list[dict[str, Any]]:
    """All methods on one network and data set."""
    studies = {arm: study_of(run, arm, network, dataset, seed) for arm in ARMS}
    train = data(dataset, seed).train
    found = {arm: measured(study, train, run.size.epochs) for arm, study in studies.items()}
    aim = max(row.get("valid_accuracy", 0.0) for row in found.values()) - 100 * NEAR
    return [
        {"method": arm, "network": network, "dataset": dataset, "seed": seed}
        | row
        | {"trials_to_near": near(studies[arm], aim)}
        for arm, row in found.items()
    ]


def causes(run: Run, seed: int) -> Iterator[dict[str, Any]]:
    """The mean test accuracy of the paper's two perfect methods, for each thing that is changed."""
    for cause, (_, (datasets, networks), longer, changed) in CAUSES.items():
        places = [p for p in product(datasets, networks) if p[0] in run.size.datasets and p[1] in run.size.networks]
        scores: dict[str, list[float]] = {arm: [] for arm in PERFECT}
        for (dataset, network), arm in product(places, PERFECT):
            best = study_of(run, arm, network, dataset, seed, longer, **changed).best
            if best is not None:
                scores[arm].append(100 * best.test["accuracy"])
        yield {"cause": cause, "seed": seed} | {arm: float(np.mean(found)) for arm, found in scores.items() if found}


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


def tables_of() -> dict[str, Any]:
    """What the README shows."""
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
    adamhd = [
        {"key": "first", "title": "the first such iteration", "digits": 0},
        {"key": "first_accuracy", "title": "test accuracy then, %", "digits": 1},
        {"key": "iterations", "title": "and for 25 on end", "digits": 0},
        {"key": "few", "title": "under 25, % of seeds", "digits": 0},
        {"key": "rate", "title": "learning rate then", "digits": 4},
        {"key": "test_accuracy", "title": "test accuracy then, %", "digits": 1},
    ]
    return {
        "published": {
            "by": "AdamHD as published",
            "columns": adamhd,
            "rows": [{"title": row["title"], "where": {"published": row["title"]}} for row in problems],
        },
        "methods": {"by": "method", "columns": theirs + ours, "rows": methods},
        "problems": {
            "by": "test accuracy, %",
            "columns": [{"key": f"test {arm}", "title": arm, "digits": 2} for arm in ARMS],
            "rows": problems,
        },
        "causes": {
            "by": "data sets",
            "columns": [{"key": arm, "title": f"{ARMS[arm].title}, %", "digits": 2} for arm in PERFECT],
            "rows": [{"title": told[0], "where": {"cause": cause}} for cause, told in CAUSES.items()],
        },
    }


def draw(run: Run) -> None:
    """The paper's figures 5 to 34, from the studies of seed 0."""
    study: Callable[..., lt.Study] = lambda arm, network, dataset: study_of(run, arm, network, dataset, 0)  # noqa: E731
    drawing.draw(run.folder, study, run.size.networks, run.size.datasets)


PAPER = Paper(
    *("autotune", __doc__, REDUCED, FULL, work, tables_of, draw),
    also=("studies.db", "studies.db-wal", "studies.db-shm", "studies.checkpoints"),
)

if __name__ == "__main__":
    main(PAPER)
