"""The genetic paper's setting on Fashion-MNIST: random search, and its algorithm with and without inherited weights.

    python -m papers.genetic.run                      as committed: a smaller network on fewer images
    python -m papers.genetic.run --full               the paper's images and a network of its kind; hours
    python -m papers.genetic.run --figures            only draw and write the tables again, from results.json

What has been run is kept after every study, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import luthier as lt
from papers import figures, tables

HERE = Path(__file__).resolve().parent
COMMAND = "python -m papers.genetic.run"
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


REDUCED = Size(train=6_400, valid=2_000, epochs=3, channels=(8, 16), hidden=32)
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


def task_of(space: lt.Space, size: Size) -> lt.TorchTask:
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
    )


def run(name: str, task: lt.TorchTask, size: Size, seed: int) -> dict[str, Any]:
    """One study, chosen by validation loss; the test split is read once, for what was chosen."""
    arm = ARMS[name]
    epochs = size.epochs * arm.longer
    clock = time.process_time()
    study = lt.tune(task, arm.method(), trials=arm.trainings, epochs=epochs, seed=seed, progress=False)
    seconds = time.process_time() - clock
    assert study.best is not None
    losses = np.where(study.history.status == 1, study.history.values[:, 0], np.inf)
    return {
        "method": name,
        "seed": seed,
        "train_loss": study.best.metrics["train_loss"],
        "valid_loss": study.best.metrics["loss"],
        "valid_accuracy": 100 * study.best.metrics["accuracy"],
        "test_loss": study.best.test["loss"],
        "test_accuracy": 100 * study.best.test["accuracy"],
        "last_loss": float(losses[-arm.generation :].min()),  # what the paper would choose
        "failed": 100 * float((losses > 2.2).mean()),  # no better than chance, log 10 = 2.30, or not finite
        "minutes": seconds / 60,
        "steps": int(study.history.steps.sum()),
        "best_so_far": np.round(np.minimum.accumulate(losses), 5).tolist(),
        "config": study.best.config,
        "number": study.best.number,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's size; writes full.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figures", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, file = (FULL, HERE / "full.json") if arguments.full else (REDUCED, HERE / "results.json")
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    settings = {**asdict(size), "channels": list(size.channels)}
    if results.setdefault("size", settings) != settings:
        raise SystemExit(f"{file} was run with {results['size']}: remove it to run with {settings}")
    if not arguments.figures:
        work(results, size, arguments.seeds, file)
    results["tables"] = tables_of()
    write(results, file)
    if file.name == "results.json":
        draw(results)
        if (HERE / "README.md").exists():
            readme = (HERE / "README.md").read_text()
            (HERE / "README.md").write_text(tables.filled(readme, results))
    for name in results["tables"]:
        print(tables.render(results, name), end="\n\n")


def work(results: dict[str, Any], size: Size, seeds: int, file: Path) -> None:
    """Run what has not been run, all arms of a seed before the next."""
    results["command"] = COMMAND
    results["machine"] = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    made = {(one["method"], one["seed"]) for one in results["runs"]}
    tasks = {id(space): task_of(space, size) for space in (PAPER_SPACE, LOG_SPACE)}
    for seed in range(seeds):
        for arm in ARMS:
            if (arm, seed) not in made:
                results["runs"].append(run(arm, tasks[id(ARMS[arm].space)], size, seed))
                write(results, file)
                shown = ("valid_loss", "test_loss", "test_accuracy", "minutes")
                print(arm, seed, *(f"{key} {results['runs'][-1][key]:.3f}" for key in shown), flush=True)


def write(results: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(results, indent=1) + "\n")


def tables_of() -> dict[str, Any]:
    """What the README shows."""
    columns = [
        {"key": "valid_loss", "title": "validation loss"},
        {"key": "last_loss", "title": "best of the last ten"},
        {"key": "test_loss", "title": "test loss"},
        {"key": "test_loss", "title": "test loss, less random's", "against": {"method": "random"}},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 1},
        {"key": "failed", "title": "no better than chance, %", "digits": 0},
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
    return {
        "compared": {"by": "method", "columns": columns, "rows": rows},
        "paper": {"by": "run", "columns": theirs + ours, "rows": runs},
    }


def draw(results: dict[str, Any]) -> None:
    """The paper's figure 1, and the comparison at equal epochs."""
    lines: dict[str, np.ndarray] = {}
    for one in results["runs"]:
        row = np.minimum(one["best_so_far"], 2.303)[None]
        lines[one["method"]] = np.concatenate([lines[one["method"]], row]) if one["method"] in lines else row
    epochs = results["size"]["epochs"]
    titles = {"none": "run 1: 10 × 3", "run 2": "run 2: 5 × 2, mutation 0.1", "run 3": "run 3: 5 × 2"}
    titles |= {"run 4": "run 4: 5 × 5"}
    axes: dict[str, Any] = {"y": "best validation loss so far", "limits": (0.4, 1.1), "steps": True}
    of_paper = {titles[arm]: (_axis(lines[arm], 1), lines[arm]) for arm in titles if arm in lines}
    figures.lines(HERE / "figure1.png", of_paper, x="trainings", **axes)
    compared = {
        ARMS[arm].title.replace("`", "").replace(" (the paper's run 1)", ""): (
            _axis(lines[arm], epochs * ARMS[arm].longer),
            lines[arm],
        )
        for arm in COMPARED
        if arm in lines
    }
    figures.lines(HERE / "compared.png", compared, x="epochs in all", **axes)


def _axis(values: np.ndarray, scale: int) -> list[float]:
    return [scale * (place + 1) for place in range(values.shape[1])]


if __name__ == "__main__":
    main()
