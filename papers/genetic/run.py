"""The genetic paper's setting on Fashion-MNIST: random search, and its algorithm with and without inherited weights.

    python -m papers.genetic.run              as committed: smaller networks on fewer and smaller images
    python -m papers.genetic.run --full       the paper's images and a network of its kind: a day of one core
    python -m papers.genetic.run --figures    only draw and write the tables again, from results.json

``--device`` and ``--anew`` are those of every paper (papers/command.py). What has been run is kept after every study,
so the same command goes on where it was stopped.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
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
    example: tuple[int, int] = (32, 64)  # channels of the network of PyTorch's example
    pixels: int = 28  # a side; 14: means of two by two
    seeds: int = 20
    elsewhere: int = 0  # seeds that are run with another arithmetic, too
    alone: int = 0  # seeds with one training of the paper's size


REDUCED = Size(2_000, 2_000, 3, (8, 16), 32, example=(4, 8), pixels=14, elsewhere=3, alone=1)
FULL = Size(None, 10_000, 10, (32, 64), 128)

# The sums of another machine: without the instructions that this one has beyond those of the oldest x86-64.
OTHER = {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}


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
    network: str = "plain"


ARMS = {
    "random": Arm("random search", PAPER_SPACE, lambda: "random", 30),
    "random long": Arm("random search, 10 trainings three times as long", PAPER_SPACE, lambda: "random", 10, longer=3),
    "none": Arm("genetic, weights afresh (the paper's run 1)", PAPER_SPACE, paper, 30),
    "parent": Arm('genetic, `inherit="parent"`', PAPER_SPACE, lambda: paper(inherit="parent"), 30),
    "best": Arm('genetic, `inherit="best"`', PAPER_SPACE, lambda: paper(inherit="best"), 30),
    "log random": Arm("random search, log ranges", LOG_SPACE, lambda: "random", 30),
    "log parent": Arm('genetic, `inherit="parent"`, log ranges', LOG_SPACE, lambda: paper(inherit="parent"), 30),
    "baseline": Arm("baseline", PAPER_SPACE, lambda: paper(20, 5), 100, generation=20),
    "run 2": Arm("run 2", PAPER_SPACE, lambda: paper(5, 2, mutation=0.1), 10, generation=5),
    "run 3": Arm("run 3", PAPER_SPACE, lambda: paper(5, 2), 10, generation=5),
    "run 4": Arm("run 4", PAPER_SPACE, lambda: paper(5, 5), 25, generation=5),
}
COMPARED = ("random", "random long", "none", "parent", "best", "log random", "log parent")
EXAMPLE = {"example random": "random", "example none": "none", "example parent": "parent"}
ARMS |= {name: replace(ARMS[arm], network="example") for name, arm in EXAMPLE.items()}
ELSEWHERE = ("random", "none", "parent")
ALONE = {"plain": 10}  # epochs
# Population, generations, mutation rate (its text gives none for the first three), and the three numbers it reports.
PAPER_RUNS = {
    "baseline": ("> 10 (here 20)", "> 3 (here 5)", "?", "0.1604", "0.0236", "79.7"),
    "run 1": ("10", "3", "?", "0.3047", "0.1149", "29.8"),
    "run 2": ("5", "2", "?", "0.7646", "0.3955", "27.3"),
    "run 3": ("5", "2", "0.2", "0.7277", "0.3605", "26.5"),
    "run 4": ("5", "5", "0.2", "0.2649", "0.1561", "26.1"),
}


def plain(channels: tuple[int, int], hidden: int, pixels: int) -> nn.Module:
    """Two convolutional layers with strides, and two dense ones."""
    (first, second), side = channels, {28: 5, 14: 2}[pixels]
    return nn.Sequential(
        *(nn.Conv2d(1, first, 5, stride=2), nn.ReLU(), nn.Conv2d(first, second, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(second * side**2, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
    )


def example(channels: tuple[int, int], hidden: int, pixels: int) -> nn.Module:
    """The network of PyTorch's MNIST example: two convolutions, pooling, and dropout before each dense layer."""
    (first, second), side = channels, (pixels - 4) // 2
    return nn.Sequential(
        *(nn.Conv2d(1, first, 3), nn.ReLU(), nn.Conv2d(first, second, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(second * side**2, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, 10)),
    )


def images(size: Size) -> lt.Splits:
    """Fashion-MNIST, smaller by the mean of neighbours where the size says so."""
    whole = lt.data.fashion_mnist(valid=size.valid, train=size.train)
    if size.pixels == 28:
        return whole
    parts = (whole.train, whole.valid, whole.test)
    small = (lt.Split(nn.functional.avg_pool2d(part.inputs, 28 // size.pixels), part.targets) for part in parts)
    return lt.Splits(*small, whole.classes)


def task_of(arm: Arm, size: Size, device: str) -> lt.TorchTask:
    """Two convolutional and two dense layers, SGD, batches of 64, and 0.7 of the learning rate after each epoch."""
    network, channels = (plain, size.channels) if arm.network == "plain" else (example, size.example)
    return lt.TorchTask(
        space=arm.space,
        model=lambda config: network(channels, size.hidden, size.pixels),
        data=images(size),
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


def one(run: Run, name: str, seed: int) -> dict[str, Any]:
    """One study, chosen by validation loss; the test split is read once, for what was chosen."""
    arm, size = ARMS[name], run.size
    task = task_of(arm, size, run.device)
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


def elsewhere(run: Run, name: str, seed: int) -> dict[str, Any]:
    """The same study with another arithmetic, and by how much it differs."""
    here = next(row for row in run.rows if (row["method"], row["seed"]) == (name, seed))
    context = multiprocessing.get_context("spawn")  # what is set is read when torch is loaded
    with patch.dict(os.environ, OTHER), ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as pool:
        there = pool.submit(one, replace(run, results={"runs": []}), name, seed).result()
    kept = {key: there[key] for key in ("valid_loss", "test_loss", "test_accuracy", "config")}
    moved = abs(there["test_loss"] - here["test_loss"])
    same = 100.0 * (there["config"] == here["config"])
    return {"method": f"{name}, elsewhere", "seed": seed, **kept, "moved": moved, "same": same}


def alone(run: Run, network: str, seed: int) -> dict[str, Any]:
    """One training at the paper's size, as random search in log ranges would have it: what loss such a network has."""
    best = next(row for row in run.rows if (row["method"], row["seed"]) == ("log random", seed))
    space = lt.Space({name: lt.Choice([value]) for name, value in best["config"].items()})
    arm, epochs = Arm("", space, lambda: "random", 1, network=network), ALONE[network]
    clock = run.clock()
    measured_each = replace(FULL, epochs=1)  # so that its training loss is that of the last epoch
    task = task_of(arm, measured_each, run.device)
    study = lt.tune(task, "random", trials=1, epochs=epochs, seed=seed, progress=False)
    assert study.best is not None
    return {
        "method": f"alone {network}",
        "seed": seed,
        **measured(study.best),
        "minutes": (run.clock() - clock) / 60,
    }


def work(run: Run) -> None:
    """Run what has not been run, all arms of a seed before the next; the network that takes longest is the last."""
    size = run.size
    for seed, arm in product(range(size.seeds), (arm for arm in ARMS if arm not in EXAMPLE)):
        if not run.made(method=arm, seed=seed):
            run.keep([one(run, arm, seed)])
    for seed, arm in product(range(size.elsewhere), ELSEWHERE):
        if not run.made(method=f"{arm}, elsewhere", seed=seed):
            run.keep([elsewhere(run, arm, seed)])
    for seed, network in product(range(size.alone), ALONE):
        if not run.made(method=f"alone {network}", seed=seed):
            run.keep([alone(run, network, seed)])
    for seed, arm in product(range(size.seeds), EXAMPLE):
        if not run.made(method=arm, seed=seed):
            run.keep([one(run, arm, seed)])


def tables_of() -> dict[str, Any]:
    """What the README shows."""
    columns = [
        {"key": "valid_accuracy", "title": "validation accuracy, %", "digits": 1},
        {"key": "valid_loss", "title": "validation loss"},
        {"key": "last_loss", "title": "best of the last ten"},
        {"key": "test_loss", "title": "test loss"},
        {"key": "test_loss", "title": "test loss, less random's", "against": {"method": "random"}},
        {"key": "test_loss", "title": "less longer random's", "against": {"method": "random long"}},
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
    ours.insert(2, {"key": "valid_accuracy", "title": "our validation accuracy, %", "digits": 1})
    where = {"run 1": "none", **{name: name for name in ("baseline", "run 2", "run 3", "run 4")}}
    runs = [
        {"title": name, "cells": dict(zip(names, cells, strict=True)), "where": {"method": where[name]}}
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
    of_example = [
        {**column, "against": {"method": "example random"}} if "against" in column else column
        for column in columns
        if column.get("against") != {"method": "random long"}
    ]
    moved = [
        {"key": "moved", "title": "test loss moves by", "digits": 4},
        {"key": "same", "title": "the same configuration chosen, %", "digits": 0},
        {"key": "test_loss", "title": "test loss there"},
        {
            "key": "test_loss",
            "title": "less random's, there",
            "against": {"method": "random, elsewhere"},
        },
    ]
    return {
        "compared": {"by": "method", "columns": columns, "rows": rows},
        "example": {
            "by": "with pooling and dropout",
            "columns": of_example,
            "rows": [{"title": ARMS[arm].title, "where": {"method": arm}} for arm in EXAMPLE],
        },
        "elsewhere": {
            "by": "method",
            "columns": moved,
            "rows": [{"title": ARMS[arm].title, "where": {"method": f"{arm}, elsewhere"}} for arm in ELSEWHERE],
        },
        "paper": {"by": "run", "columns": theirs + ours, "rows": runs},
        "alone": {
            "by": "at the paper's size",
            "columns": alone,
            "rows": [
                {"title": "the paper's best run, its baseline", "cells": best},
                {"title": "ours, one training of 10 epochs", "where": {"method": "alone plain"}},
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
    limits = (0.6, 1.4) if run.size == REDUCED else None
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
