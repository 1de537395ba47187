"""The joint controller on Fashion-MNIST: what the optimizer's hyperparameters and the response gradient add to ENAS.

    python -m papers.joint_enas.run              all arms, at equal training steps
    python -m papers.joint_enas.run --full       the whole of Fashion-MNIST: days of one core
    python -m papers.joint_enas.run --figures    only draw and write the tables again, from results.json

``--device`` and ``--anew`` are those of every paper (papers/command.py). What has been run is kept after every study,
so the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import luthier as lt
from papers import figures
from papers.command import Paper, Run, main, tuned
from papers.joint_enas.network import ARCHITECTURE, DECIDED, FIXED, JOINT, network


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    train: int | None = 6_000
    valid: int = 2_000
    epochs: int = 3  # of each training from scratch
    trainings: int = 10  # in all: a search over shared weights takes half of them
    seeds: int = 3
    draws: int = 30  # children of a search, of which the best are trained


REDUCED = Size()
FULL = Size(train=None, valid=10_000, epochs=10, trainings=30, seeds=5)  # the paper has no experiment


@dataclass(frozen=True)
class Arm:
    """One way of spending the training steps."""

    title: str
    space: lt.Space
    method: Callable[[int], Any]  # by the number of draws


def searched(response: str = "none", **settings: Any) -> Callable[[int], Any]:
    """A search over shared weights with half of the budget, and its best children from scratch with the other half."""
    settings = {"warmup": 0.5, "shared": None, **settings}  # the children's own optimizers train the shared weights
    return lambda draws: (lt.propose.Derive(draws=draws), lt.adapt.Enas(response, **settings))  # type: ignore[arg-type]


ARMS = {
    "random": Arm("random search, from scratch", JOINT, lambda draws: "random"),
    "random fixed": Arm("random search, from scratch, fixed optimizer", ARCHITECTURE, lambda draws: "random"),
    "shared": Arm("random search over the shared weights", JOINT, searched(learner=None)),
    "enas": Arm("ENAS, fixed optimizer (response none)", ARCHITECTURE, searched()),
    "enas unrolled": Arm("ENAS, fixed optimizer, response unrolled", ARCHITECTURE, searched("unrolled")),
    "enas implicit": Arm("ENAS, fixed optimizer, response implicit", ARCHITECTURE, searched("implicit")),
    "none": Arm("joint controller, response none", JOINT, searched()),
    "identity": Arm("joint controller, response identity", JOINT, searched("identity")),
    "unrolled": Arm("joint controller, response unrolled", JOINT, searched("unrolled")),
    "implicit": Arm("joint controller, response implicit", JOINT, searched("implicit")),
}


def task_of(space: lt.Space, size: Size, device: str) -> lt.TorchTask:
    """The space on a part of Fashion-MNIST."""
    return lt.TorchTask(
        space=space,
        model=network,
        data=lt.data.fashion_mnist(valid=size.valid, train=size.train),
        loss=lt.losses.cross_entropy,
        optimizer=DECIDED if space is JOINT else FIXED,
        batch_size=64,
        metrics={"accuracy": lt.metrics.accuracy},
        device=device,
    )


def one(run: Run, name: str, task: lt.TorchTask, seed: int) -> dict[str, Any]:
    """One study, chosen by validation loss among what was trained from scratch; the test split is read once."""
    size, method = run.size, ARMS[name].method(run.size.draws)
    clock = run.clock()
    study = tuned(task, method, trials=size.trainings, epochs=size.epochs, seed=seed, progress=False)
    seconds = run.clock() - clock
    best, history = study.best, study.history
    if best is None:  # the search diverged, and nothing was drawn from it
        ended = [f"{result.status}: {result.error.splitlines()[:1]}" for result in history.results if result]
        print(f"{name}, seed {seed}: nothing to train; {ended[:3]}", flush=True)
        return {"method": name, "seed": seed, "seconds": seconds, "steps": int(history.steps.sum())}
    scratch = [history.results[job.number] for job in history.jobs if job.tag.get("phase", "train") == "train"]
    found: dict[str, Any] = {
        "method": name,
        "seed": seed,
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
        "lr": last.get("policy.lr.mean"),
        "gradients": [last["gradient_direct"], last["gradient_response"]],
    }


def correlation(task: lt.TorchTask, size: Size, seed: int) -> dict[str, Any]:
    """How well the shared weights rank 30 children drawn uniformly, as they are and after 10 steps of their own."""
    found: dict[str, Any] = {"method": "correlation", "seed": seed}
    for name, response, children in (("as they are", "none", size.draws), ("after own steps", "unrolled", 1)):
        trials = round(size.trainings / 2) + children
        derive = lt.propose.Derive(search=1 - children / trials, draws=size.draws)
        method = derive, lt.adapt.Enas(response, warmup=0.5, learner=None, shared=None)  # type: ignore[arg-type]
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
    """Run what has not been run, all arms of a seed before the next."""
    size = run.size
    tasks = {id(space): task_of(space, size, run.device) for space in (ARCHITECTURE, JOINT)}
    for seed in range(size.seeds):
        for name, arm in ARMS.items():
            if not run.made(method=name, seed=seed):
                run.keep([one(run, name, tasks[id(arm.space)], seed)])
        if not run.made(method="correlation", seed=seed):
            run.keep([correlation(tasks[id(JOINT)], size, seed)])


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
    rows = [{"title": arm.title, "where": {"method": name}} for name, arm in ARMS.items()]
    controller = [
        {"key": "entropy", "title": "entropy at the end, nats", "digits": 2},
        {"key": "lr", "title": "mean learning rate at the end", "digits": 4},
        {"key": "collapsed", "title": "collapsed", "digits": 1},
    ]
    ranks = [
        {"key": "as they are", "title": "shared weights as they are", "digits": 2},
        {"key": "after own steps", "title": "after 10 steps of the child's own", "digits": 2},
        {"key": "as they are pairs", "title": "children", "digits": 0},
    ]
    return {
        "compared": {"by": "method", "columns": columns, "rows": rows},
        "controller": {"by": "method", "columns": controller, "rows": rows[2:]},
        "ranks": {"by": "", "columns": ranks, "rows": [{"title": "Spearman", "where": {"method": "correlation"}}]},
    }


def draw(run: Run) -> None:
    """Entropy, and accuracy of the most probable child under the shared weights, over the search."""
    for curve, y in (("entropy", "entropy of the controller, nats"), ("shared_accuracy", "accuracy, shared weights")):
        series = {}
        for name, arm in ARMS.items():
            runs = [one for one in run.rows if one["method"] == name and "curves" in one]
            if runs:
                series[arm.title] = (runs[0]["search_steps"], np.array([one["curves"][curve] for one in runs]))
        if series:
            figures.lines(run.folder / f"{curve}.png", series, x="training steps of the search", y=y)


PAPER = Paper("joint_enas", __doc__, REDUCED, FULL, work, tables_of, draw)

if __name__ == "__main__":
    main(PAPER)
