"""The joint controller on Fashion-MNIST: what the optimizer's hyperparameters and the response gradient add to ENAS.

    python -m papers.joint_enas.run              all arms on two stages, at equal training steps
    python -m papers.joint_enas.run --full       the whole of Fashion-MNIST: days of one core
    python -m papers.joint_enas.run --figures    only draw and write the tables again, from results.json

``--device`` and ``--anew`` are those of every paper (papers/command.py). What has been run is kept after every study,
so the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import luthier as lt
from papers import figures
from papers.command import Paper, Run, main, tuned
from papers.joint_enas.network import ARCHITECTURE, DECIDED, FIXED, JOINT, network


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    train: int | None = 1_280
    valid: int = 1_000
    epochs: int = 3  # of each training from scratch
    trainings: int = 8  # in all: a search over shared weights takes half of them
    seeds: int = 5
    draws: int = 10  # children of a search, of which the best are trained
    batch: int = 32
    scale: int = 2  # images are means of so many by so many pixels
    child: int = 3  # minibatches on which a child trains in the search
    ranked: int = 1  # seeds of the rank correlation


REDUCED = Size()
FULL = Size(  # the paper has no experiment
    train=None, valid=10_000, epochs=10, trainings=30, draws=30, batch=64, scale=1, child=5
)
STAGES = {"usual": "images in their place", "moved": "images moved"}


@dataclass(frozen=True)
class Arm:
    """One way of spending the training steps."""

    title: str
    space: lt.Space
    method: Callable[[Size], Any]


def searched(response: str = "none", **settings: Any) -> Callable[[Size], Any]:
    """A search over shared weights with half of the budget, and its best children from scratch with the other half."""
    return lambda size: (
        lt.propose.Derive(draws=size.draws),
        lt.adapt.Enas(response, steps=size.child, warmup=0.5, **settings),  # type: ignore[arg-type]
    )


THEIRS: dict[str, Any] = {"shared": None}  # the shared weights train under the optimizers of the children
ARMS = {
    "random": Arm("random search, from scratch", JOINT, lambda size: "random"),
    "random fixed": Arm("random search, from scratch, fixed optimizer", ARCHITECTURE, lambda size: "random"),
    "enas": Arm("ENAS, fixed optimizer, response none", ARCHITECTURE, searched()),
    "enas identity": Arm("ENAS, fixed optimizer, response identity", ARCHITECTURE, searched("identity")),
    "none": Arm("joint controller, response none", JOINT, searched()),
    "identity theirs": Arm(
        "joint controller, response identity, shared weights under the children's optimizers",
        *(JOINT, searched("identity", **THEIRS)),
    ),
    "identity": Arm("joint controller, response identity", JOINT, searched("identity")),
    "unrolled": Arm("joint controller, response unrolled", JOINT, searched("unrolled")),
}


ONLY_MOVED = ("enas identity", "unrolled")  # arms that are left out on the other stage: they take the most time


def arms_of(stage: str) -> dict[str, Arm]:
    """The arms that are run on a stage."""
    return {name: arm for name, arm in ARMS.items() if stage == "moved" or name not in ONLY_MOVED}


def moved(part: lt.Split, seed: int) -> lt.Split:
    """The images, each at a place of its own on an empty image that is larger by three sevenths."""
    small: Tensor = part.inputs
    side, drawn = small.shape[-1], torch.Generator().manual_seed(seed)
    images = small.new_full((len(small), 1, side + room(side), side + room(side)), float(small.min()))
    for image, inputs, (row, column) in zip(
        images, small, torch.randint(0, room(side) + 1, (len(small), 2), generator=drawn).tolist(), strict=True
    ):
        image[:, row : row + side, column : column + side] = inputs
    return lt.Split(images, part.targets)


def room(side: int) -> int:
    """Pixels by which an image can be moved."""
    return side * 3 // 7


def data_of(stage: str, size: Size) -> lt.Splits:
    """A part of Fashion-MNIST."""
    whole = lt.data.fashion_mnist(valid=size.valid, train=size.train)
    parts = [whole.train, whole.valid, whole.test]
    parts = [lt.Split(nn.functional.avg_pool2d(part.inputs, size.scale), part.targets) for part in parts]
    if stage == "moved":
        parts = [moved(part, seed) for seed, part in enumerate(parts)]
    return lt.Splits(*parts, whole.classes)


def task_of(space: lt.Space, size: Size, device: str, stage: str = "usual") -> lt.TorchTask:
    """The space on one of the stages."""
    pixels = (side := 28 // size.scale) + (room(side) if stage == "moved" else 0)
    return lt.TorchTask(
        space=space,
        model=lambda config: network(pixels),
        data=data_of(stage, size),
        loss=lt.losses.cross_entropy,
        optimizer=DECIDED if space is JOINT else FIXED,
        batch_size=size.batch,
        metrics={"accuracy": lt.metrics.accuracy},
        device=device,
    )


def one(run: Run, stage: str, name: str, task: lt.TorchTask, seed: int) -> dict[str, Any]:
    """One study, chosen by validation loss among what was trained from scratch; the test split is read once."""
    size, method, place = run.size, ARMS[name].method(run.size), {"stage": stage, "method": name, "seed": seed}
    clock = run.clock()
    study = tuned(task, method, trials=size.trainings, epochs=size.epochs, seed=seed, progress=False)
    seconds = run.clock() - clock
    best, history = study.best, study.history
    if best is None:  # the search diverged, and nothing was drawn from it
        ended = [f"{result.status}: {result.error.splitlines()[:1]}" for result in history.results if result]
        print(f"{name}, seed {seed}: nothing to train; {ended[:3]}", flush=True)
        return {**place, "seconds": seconds, "steps": int(history.steps.sum())}
    scratch = [history.results[job.number] for job in history.jobs if job.tag.get("phase", "train") == "train"]
    found: dict[str, Any] = {
        **place,
        "convolutional": 100.0 * (best.config["network"] == "convolutional"),
        "valid_loss": best.metrics["loss"],
        "valid_accuracy": 100 * best.metrics["accuracy"],
        "test_accuracy": 100 * best.test["accuracy"],
        "mean_accuracy": 100 * float(np.mean([r.metrics["accuracy"] for r in scratch if r and r.status == "ok"])),
        "seconds": seconds,
        "steps": int(history.steps.sum()),
        "config": best.config,
    }
    if history.jobs[0].tag.get("phase") == "search":
        found |= of_search(history)
    return found


def of_search(history: Any) -> dict[str, Any]:
    """How the controller went."""
    reports, last = history.reports[0], history.results[0].metrics
    names = ("reward", "reward_direct", "reward_response", "entropy", "undone", "shared_accuracy", "train_loss")
    curves = {name: [round(report.metrics[name], 4) for report in reports] for name in names}
    policy = {name: round(value, 5) for name, value in last.items() if name.startswith("policy.")}
    return {
        "search_seconds": history.results[0].seconds,
        "search_steps": [report.step for report in reports],
        "curves": curves,
        "policy": policy,
        "entropy": last["entropy"],
        "collapsed": last["collapsed"],
        "shared": 100 * last["shared_accuracy"],
        "undone": 100 * float(np.mean(curves["undone"])),
        "lr": last.get("policy.lr.mean"),
        "gradients": [last["gradient_direct"], last["gradient_response"]],
    }


def correlation(task: lt.TorchTask, size: Size, stage: str, seed: int) -> dict[str, Any]:
    """How well the shared weights rank children drawn uniformly, as they are and after 10 steps of their own."""
    found: dict[str, Any] = {"stage": stage, "method": "correlation", "seed": seed}
    for name, response, children in (("as they are", "none", size.draws), ("after own steps", "unrolled", 1)):
        trials = round(size.trainings / 2) + children
        derive = lt.propose.Derive(search=1 - children / trials, draws=size.draws)
        method = derive, lt.adapt.Enas(response, warmup=0.5, learner=None)  # type: ignore[arg-type]
        study = lt.tune(task, method, trials=trials, epochs=size.epochs, seed=seed, progress=False)
        jobs, results = study.history.jobs, study.history.results
        drawn = {job.number: results[job.number] for job in jobs if job.tag["phase"] == "draw"}
        if response == "none":
            scratch = {
                json.dumps(job.config, sort_keys=True): results[job.number]
                for job in jobs
                if job.tag["phase"] == "train"
            }
        pairs = [
            (result.metrics["shared_accuracy"], own.metrics["accuracy"] if own.status == "ok" else 0.1)
            for result in drawn.values()
            if (own := scratch.get(json.dumps(result.final, sort_keys=True))) is not None and result.status == "ok"
        ]
        found |= {name: float(spearmanr(*zip(*pairs, strict=True)).statistic), f"{name} pairs": len(pairs)}
    return found


def work(run: Run) -> None:
    """Run what has not been run, all arms of a stage and seed before the next."""
    size = run.size
    tasks = {(s, id(of)): task_of(of, size, run.device, s) for s in STAGES for of in (ARCHITECTURE, JOINT)}
    for seed, stage in product(range(size.seeds), STAGES):
        for name, arm in arms_of(stage).items():
            if not run.made(stage=stage, method=name, seed=seed):
                run.keep([one(run, stage, name, tasks[stage, id(arm.space)], seed)])
    for seed, stage in product(range(size.ranked), STAGES):
        if not run.made(stage=stage, method="correlation", seed=seed):
            run.keep([correlation(tasks[stage, id(JOINT)], size, stage, seed)])


def tables_of() -> dict[str, Any]:
    """What the README shows."""
    columns = [
        {"key": "valid_accuracy", "title": "validation accuracy, %", "digits": 1},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 1},
        {"key": "test_accuracy", "title": "test, less random's", "digits": 1, "against": {"method": "random"}},
        {
            "key": "test_accuracy",
            "title": "test, less random's with the fixed optimizer",
            "digits": 1,
            "against": {"method": "random fixed"},
        },
        {"key": "mean_accuracy", "title": "mean of the trained, %", "digits": 1},
        {"key": "seconds", "title": "CPU seconds", "digits": 0},
        {"key": "steps", "title": "training steps", "digits": 0},
    ]
    columns.insert(5, {"key": "convolutional", "title": "best is convolutional, %", "digits": 0})
    controller = [
        {"key": "entropy", "title": "entropy at the end, nats", "digits": 2},
        {"key": "lr", "title": "mean learning rate at the end", "digits": 4},
        {"key": "shared", "title": "accuracy under shared weights, %", "digits": 1},
        {"key": "undone", "title": "steps undone, %", "digits": 1},
        {"key": "collapsed", "title": "collapsed", "digits": 1},
    ]
    ranks = [
        {"key": "as they are", "title": "shared weights as they are", "digits": 2},
        {"key": "after own steps", "title": "after 10 steps of the child's own", "digits": 2},
        {"key": "as they are pairs", "title": "children", "digits": 0},
    ]
    found: dict[str, Any] = {}
    for stage, told in STAGES.items():
        rows = [{"title": arm.title, "where": {"stage": stage, "method": name}} for name, arm in arms_of(stage).items()]
        found[stage] = {"by": told, "columns": columns, "rows": rows}
        found[f"{stage}-controller"] = {"by": told, "columns": controller, "rows": rows[2:]}
    ranked = [{"title": told, "where": {"stage": stage, "method": "correlation"}} for stage, told in STAGES.items()]
    return {**found, "ranks": {"by": "Spearman", "columns": ranks, "rows": ranked}}


def draw(run: Run) -> None:
    """Entropy, and accuracy of the most probable child under the shared weights, over the search."""
    for curve, y in (("entropy", "entropy of the controller, nats"), ("shared_accuracy", "accuracy, shared weights")):
        for stage in STAGES:
            series = {}
            for name, arm in ARMS.items():
                runs = [r for r in run.rows if (r["stage"], r["method"]) == (stage, name) and "curves" in r]
                if runs:
                    values = np.array([row["curves"][curve] for row in runs])
                    series[arm.title.replace(", shared weights under the children's optimizers", ", theirs")] = (
                        *(runs[0]["search_steps"], values),
                    )
            if series:
                file = run.folder / f"{curve}_{stage}.png"
                figures.lines(file, series, x="training steps of the search", y=y)


PAPER = Paper("joint_enas", __doc__, REDUCED, FULL, work, tables_of, draw)

if __name__ == "__main__":
    main(PAPER)
