"""The genetic paper's setting on Fashion-MNIST: random search, and its algorithm with and without inherited weights.

    python -m papers.genetic.run              as committed: a smaller network on fewer images
    python -m papers.genetic.run --full       the paper's images and a network of its kind: a day of one core
    python -m papers.genetic.run --figures    only draw and write the tables again, from results.json

``--device`` and ``--anew`` are those of every paper (papers/command.py). What has been run is kept after every study,
so the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

import luthier as lt
from papers import figures
from papers.command import Paper, Run, main

PAPER_SPACE = lt.Space(lr=lt.Float(1e-4, 1.0), momentum=lt.Float(0.0, 0.9), weight_decay=lt.Float(0.0, 0.1))
LOG_SPACE = lt.Space(
    lr=lt.Float(1e-4, 1.0, log=True), momentum=lt.Float(0.0, 0.9), weight_decay=lt.Float(1e-6, 0.1, log=True)
)


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    train: int | None
    valid: int
    epochs: int  # of each training; the paper does not give it
    channels: tuple[int, int]
    hidden: int
    seeds: int = 5
    alone: int = 0  # seeds with one training of the paper's size


REDUCED = Size(train=6_400, valid=2_000, epochs=3, channels=(8, 16), hidden=32, alone=1)
FULL = Size(train=None, valid=10_000, epochs=10, channels=(32, 64), hidden=128)


def paper(population: int = 10, generations: int = 3, mutation: float = 0.2, inherit: str = "none") -> Any:
    """The algorithm as printed: no elite, and a child may equal an earlier individual."""
    return lt.propose.Genetic(population, generations, mutation, elite=0, distinct=False, inherit=inherit)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Arm:
    """One way of spending the epochs."""

    title: str
    space: lt.Space
    method: Callable[[], Any]
    trainings: int
    longer: int = 1  # times the epochs of a training
    generation: int = 10


ARMS = {
    "random": Arm("random search", PAPER_SPACE, lambda: "random", 30),
    "random long": Arm("random search, 10 trainings three times as long", PAPER_SPACE, lambda: "random", 10, longer=3),
    "none": Arm("genetic, weights afresh (the paper's run 1)", PAPER_SPACE, paper, 30),
    "parent": Arm('genetic, `inherit="parent"`', PAPER_SPACE, lambda: paper(inherit="parent"), 30),
    "best": Arm('genetic, `inherit="best"`', PAPER_SPACE, lambda: paper(inherit="best"), 30),
    "log random": Arm("random search, log ranges", LOG_SPACE, lambda: "random", 30),
    "log parent": Arm('genetic, `inherit="parent"`, log ranges', LOG_SPACE, lambda: paper(inherit="parent"), 30),
    "run 2": Arm("run 2", PAPER_SPACE, lambda: paper(5, 2, mutation=0.1), 10, generation=5),
    "run 3": Arm("run 3", PAPER_SPACE, lambda: paper(5, 2), 10, generation=5),
    "run 4": Arm("run 4", PAPER_SPACE, lambda: paper(5, 5), 25, generation=5),
}
COMPARED = tuple(name for name in ARMS if not name.startswith("run "))
# Population, generations, mutation rate (its text gives none for the first three), and the three numbers it reports.
PAPER_RUNS = {
    "baseline": ("> 10", "> 3", "?", "0.1604", "0.0236", "79.7"),
    "run 1": ("10", "3", "?", "0.3047", "0.1149", "29.8"),
    "run 2": ("5", "2", "?", "0.7646", "0.3955", "27.3"),
    "run 3": ("5", "2", "0.2", "0.7277", "0.3605", "26.5"),
    "run 4": ("5", "5", "0.2", "0.2649", "0.1561", "26.1"),
}


def task_of(space: lt.Space, size: Size, device: str) -> lt.TorchTask:
    """Two convolutional and two dense layers, SGD, batches of 64, and 0.7 of the learning rate after each epoch."""
    (first, second), hidden = size.channels, size.hidden

    def network(config: dict) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, first, 5, stride=2), nn.ReLU(), nn.Conv2d(first, second, 3, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(second * 25, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
        )

    return lt.TorchTask(
        space=space,
        model=network,
        data=lt.data.fashion_mnist(valid=size.valid, train=size.train),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.sgd,
        batch_size=64,
        schedule=lt.optim.StepDecay(0.7, every=1),
        metrics={"accuracy": lt.metrics.accuracy},
        evaluate_every=size.epochs,  # once, at the end of each training
        device=device,
    )


def measured(best: Any) -> dict[str, Any]:
    """What is kept of a training: its configuration, and what it reached."""
    return {
        "train_loss": best.metrics["train_loss"],
        "valid_loss": best.metrics["loss"],
        "valid_accuracy": 100 * best.metrics["accuracy"],
        "test_loss": best.test["loss"],
        "test_accuracy": 100 * best.test["accuracy"],
        "config": best.config,
    }


def one(run: Run, name: str, task: lt.TorchTask, seed: int) -> dict[str, Any]:
    """One study, chosen by validation loss; the test split is read once, for what was chosen."""
    arm, size = ARMS[name], run.size
    epochs = size.epochs * arm.longer
    clock = run.clock()
    study = lt.tune(task, arm.method(), trials=arm.trainings, epochs=epochs, seed=seed, progress=False)
    seconds = run.clock() - clock
    assert study.best is not None
    losses = np.where(study.history.status == 1, study.history.values[:, 0], np.inf)
    return {
        "method": name,
        "seed": seed,
        **measured(study.best),
        "last_loss": float(losses[-arm.generation :].min()),  # what the paper would choose
        "failed": 100 * float((losses > 2.2).mean()),  # no better than chance, log 10 = 2.30, or not finite
        "minutes": seconds / 60,
        "steps": int(study.history.steps.sum()),
        "best_so_far": np.round(np.minimum.accumulate(losses), 5).tolist(),
        "number": study.best.number,
    }


def alone(run: Run, seed: int) -> dict[str, Any]:
    """One training at the paper's size, as random search in log ranges would have it: what loss such a network has."""
    best = next(row for row in run.rows if (row["method"], row["seed"]) == ("log random", seed))
    space = lt.Space({name: lt.Choice([value]) for name, value in best["config"].items()})
    clock = run.clock()
    study = lt.tune(task_of(space, FULL, run.device), "random", trials=1, epochs=FULL.epochs, seed=seed, progress=False)
    assert study.best is not None
    return {
        "method": "alone",
        "seed": seed,
        **measured(study.best),
        "minutes": (run.clock() - clock) / 60,
    }


def work(run: Run) -> None:
    """Run what has not been run, all arms of a seed before the next."""
    tasks = {id(space): task_of(space, run.size, run.device) for space in (PAPER_SPACE, LOG_SPACE)}
    for seed in range(run.size.seeds):
        for arm in ARMS:
            if not run.made(method=arm, seed=seed):
                run.keep([one(run, arm, tasks[id(ARMS[arm].space)], seed)])
        if seed < run.size.alone and not run.made(method="alone", seed=seed):
            run.keep([alone(run, seed)])


def tables_of() -> dict[str, Any]:
    """What the README shows."""
    columns = [
        {"key": "valid_loss", "title": "validation loss"},
        {"key": "last_loss", "title": "best of the last ten"},
        {"key": "test_loss", "title": "test loss"},
        {"key": "test_loss", "title": "test loss, less random's", "against": {"method": "random"}},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 1},
        {"key": "failed", "title": "no better than chance, %", "digits": 0},
        {"key": "steps", "title": "training steps", "digits": 0},
    ]
    rows = [{"title": ARMS[arm].title, "where": {"method": arm}} for arm in COMPARED]
    names = ("population", "generations", "mutation", "their train", "their valid", "their minutes")
    titles = ("population", "generations", "mutation", "its training loss", "its validation loss", "its minutes")
    ours = [
        {"key": "train_loss", "title": "our training loss"},
        {"key": "valid_loss", "title": "our validation loss"},
        {"key": "minutes", "title": "our CPU minutes", "digits": 2},
    ]
    where = {"run 1": "none", **{name: name for name in ("run 2", "run 3", "run 4")}}
    runs = [
        {"title": name, "cells": dict(zip(names, cells, strict=True))}
        | ({"where": {"method": where[name]}} if name in where else {})
        for name, cells in PAPER_RUNS.items()
    ]
    theirs = [{"key": key, "title": title} for key, title in zip(names, titles, strict=True)]
    alone = [
        {"key": "train_loss", "title": "training loss", "digits": 4},
        {"key": "valid_loss", "title": "validation loss", "digits": 4},
        {"key": "valid_accuracy", "title": "validation accuracy, %", "digits": 1},
        {"key": "minutes", "title": "minutes", "digits": 1},
    ]
    best = {"train_loss": "0.1604", "valid_loss": "0.0236", "minutes": "79.7, of a GPU"}
    return {
        "compared": {"by": "method", "columns": columns, "rows": rows},
        "paper": {"by": "run", "columns": theirs + ours, "rows": runs},
        "alone": {
            "by": "at the paper's size",
            "columns": alone,
            "rows": [
                {"title": "the paper's best run, its baseline", "cells": best},
                {"title": "ours, one training of 10 epochs", "where": {"method": "alone"}},
            ],
        },
    }


def draw(run: Run) -> None:
    """The paper's figure 1, and the comparison at equal epochs."""
    lines: dict[str, np.ndarray] = {}
    for one in run.rows:
        if "best_so_far" in one:
            row = np.minimum(one["best_so_far"], 2.303)[None]
            lines[one["method"]] = np.concatenate([lines[one["method"]], row]) if one["method"] in lines else row
    epochs = run.results["size"]["epochs"]
    titles = {"none": "run 1: 10 × 3", "run 2": "run 2: 5 × 2, mutation 0.1", "run 3": "run 3: 5 × 2"}
    titles |= {"run 4": "run 4: 5 × 5"}
    limits = (0.4, 1.1) if run.size == REDUCED else None
    axes: dict[str, Any] = {"y": "best validation loss so far", "limits": limits, "steps": True}
    of_paper = {titles[arm]: (_axis(lines[arm], 1), lines[arm]) for arm in titles if arm in lines}
    figures.lines(run.folder / "figure1.png", of_paper, x="trainings", **axes)
    compared = {
        ARMS[arm].title.replace("`", "").replace(" (the paper's run 1)", ""): (
            _axis(lines[arm], epochs * ARMS[arm].longer),
            lines[arm],
        )
        for arm in COMPARED
        if arm in lines
    }
    figures.lines(run.folder / "compared.png", compared, x="epochs in all", **axes)


def _axis(values: np.ndarray, scale: int) -> list[float]:
    return [scale * (place + 1) for place in range(values.shape[1])]


PAPER = Paper("genetic", __doc__, REDUCED, FULL, work, tables_of, draw)

if __name__ == "__main__":
    main(PAPER)
