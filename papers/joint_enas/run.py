"""The joint controller on Fashion-MNIST: what the optimizer's hyperparameters and the response gradient add to ENAS.

    python -m papers.joint_enas.run              all arms on three stages, at equal training steps
    python -m papers.joint_enas.run --full       the whole of Fashion-MNIST: days of one core
    python -m papers.joint_enas.run --figures    only draw and write the tables again, from results.json

``--device`` and ``--anew`` are those of every paper (papers/command.py). What has been run is kept after every study,
so the same command goes on where it was stopped. The settings of the arms were chosen by papers/joint_enas/choose.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import luthier as lt
from papers import figures
from papers.command import Paper, Run, main, tuned
from papers.joint_enas.network import ARCHITECTURE, JOINT
from papers.joint_enas.stages import FULL, REDUCED, STAGES, Stage, task_of

HERE = Path(__file__).resolve().parent
SPLIT = json.loads((HERE / "split.json").read_text())
SAFE = lt.optim.Adam(lr=3e-3)  # of the shared weights, where the children train copies


@dataclass(frozen=True)
class Arm:
    """One way of spending the training steps; ``fixed`` trains the best setting known, again and again."""

    title: str
    space: lt.Space
    method: Callable[[Stage], Any]
    fixed: bool = False


def searched(response: str = "none", **settings: Any) -> Callable[[Stage], Any]:
    """A search over shared weights with half of the budget, and its best children from scratch with the other half."""
    return lambda stage: (
        lt.propose.Derive(draws=stage.draws, draw_steps=stage.draw_steps),
        lt.adapt.Enas(response, steps=stage.child, warmup=0.5, **settings),  # type: ignore[arg-type]
    )


ARMS = {
    "random": Arm("random search", JOINT, lambda _: "random"),
    "random fixed": Arm("random search, Adam(1e-3)", ARCHITECTURE, lambda _: "random"),
    "best": Arm("best fixed setting, again and again", JOINT, lambda _: "random", fixed=True),
    "shared": Arm("random search over the shared weights", JOINT, searched(learner=None)),
    "enas none": Arm("ENAS, Adam(1e-3), response none", ARCHITECTURE, searched()),
    "enas unrolled": Arm("ENAS, Adam(1e-3), response unrolled", ARCHITECTURE, searched("unrolled")),
    "enas implicit": Arm("ENAS, Adam(1e-3), response implicit", ARCHITECTURE, searched("implicit")),
    "none": Arm("joint controller, response none", JOINT, searched()),
    "none safe": Arm("joint controller, response none, children train copies", JOINT, searched(shared=SAFE)),
    "identity": Arm("joint controller, response identity", JOINT, searched("identity")),
    "unrolled": Arm("joint controller, response unrolled", JOINT, searched("unrolled")),
    "implicit": Arm("joint controller, response implicit", JOINT, searched("implicit")),
}
SMALL = ("random", "random fixed", "best", "enas none", "none", "none safe", "unrolled")
ON = {"large": [name for name in ARMS if name not in ("best", "none safe")], "long": SMALL, "short": SMALL}


def one(stage: Stage, arm: Arm, task: lt.TorchTask, seed: int, clock: Any, best: Any = None) -> dict:
    """One study, chosen by validation loss among what was trained from scratch; the test split is read once."""
    settings: dict[str, Any] = {"start": [dict(best)] * stage.trainings} if arm.fixed else {}
    method, begin = arm.method(stage), clock()
    study = tuned(task, method, trials=stage.trainings, epochs=stage.epochs, seed=seed, progress=False, **settings)
    found: dict[str, Any] = {"seconds": clock() - begin, "steps": int(study.history.steps.sum())}
    chosen, history = study.best, study.history
    if chosen is None:  # the search diverged, and nothing was drawn from it
        return found
    scratch = [history.results[job.number] for job in history.jobs if job.tag.get("phase", "train") == "train"]
    found |= {
        "convolutional": 100.0 * (chosen.config["network"] == "convolutional"),
        "valid_loss": chosen.metrics["loss"],
        "valid_accuracy": 100 * chosen.metrics["accuracy"],
        "test_accuracy": 100 * chosen.test["accuracy"],
        "mean_accuracy": 100 * float(np.mean([r.metrics["accuracy"] for r in scratch if r and r.status == "ok"])),
        "config": chosen.config,
    }
    return found | (of_search(history) if history.jobs[0].tag.get("phase") == "search" else {})


def of_search(history: Any) -> dict[str, Any]:
    """How the controller went."""
    reports, last = history.reports[0], history.results[0].metrics
    names = ("reward", "reward_direct", "reward_response", "entropy", "undone", "shared_accuracy", "train_loss")
    curves = {name: [round(report.metrics[name], 4) for report in reports] for name in names}
    if "policy.lr.mean" in last:
        curves["lr"] = [round(report.metrics["policy.lr.mean"], 6) for report in reports]
    return {
        "search_steps": [report.step for report in reports],
        "curves": curves,
        "policy": {name: round(value, 5) for name, value in last.items() if name.startswith("policy.")},
        "entropy": last["entropy"],
        "collapsed": last["collapsed"],
        "shared": 100 * last["shared_accuracy"],
        "undone": 100 * float(np.mean(curves["undone"])),
        "lr": last.get("policy.lr.mean"),
    }


def correlation(task: lt.TorchTask, stage: Stage, seed: int) -> dict[str, Any]:
    """How well the shared weights rank 30 children drawn uniformly, as they are and after 10 steps of their own."""
    found: dict[str, Any] = {"stage": "large", "method": "correlation", "seed": seed}
    for name, response, children in (("as they are", "none", stage.draws), ("after own steps", "unrolled", 1)):
        trials = round(stage.trainings / 2) + children
        derive = lt.propose.Derive(search=1 - children / trials, draws=stage.draws)
        method = derive, lt.adapt.Enas(response, warmup=0.5, learner=None, shared=None)  # type: ignore[arg-type]
        study = lt.tune(task, method, trials=trials, epochs=stage.epochs, seed=seed, progress=False)
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


def best_known(stage: str) -> dict[str, Any]:
    """The configuration of the lowest validation loss that random search found on the seeds for choosing."""
    rows = json.loads((HERE / "choosing.json").read_text())["runs"]
    found = [row for row in rows if (row["stage"], row["method"]) == (stage, "random")]
    return min(found, key=lambda row: row["valid_loss"])["config"]


def work(run: Run) -> None:
    """Run what has not been run, all arms of a stage and seed before the next."""
    for name in STAGES:
        stage = run.size.stage(name)
        tasks = {id(space): task_of(space, stage, run.device) for space in (ARCHITECTURE, JOINT)}
        for seed in SPLIT["reporting"][name][: stage.seeds]:
            for method in ON[name]:
                arm = ARMS[method]
                if not run.made(stage=name, method=method, seed=seed):
                    best = best_known(name) if arm.fixed else None
                    found = one(stage, arm, tasks[id(arm.space)], seed, run.clock, best)
                    run.keep([{"stage": name, "method": method, "seed": seed, **found}])
            if name == "large" and not run.made(method="correlation", seed=seed):
                run.keep([correlation(tasks[id(JOINT)], stage, seed)])


def tables_of() -> dict[str, Any]:
    """What the README shows."""
    less = {"key": "test_accuracy", "digits": 1}
    columns = [
        {"key": "valid_accuracy", "title": "validation accuracy, %", "digits": 1},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 1},
        {**less, "title": "test, less random's", "against": {"method": "random"}},
        {**less, "title": "test, less random's with Adam(1e-3)", "against": {"method": "random fixed"}},
        {"key": "mean_accuracy", "title": "mean of the trained, %", "digits": 1},
        {"key": "convolutional", "title": "best is convolutional, %", "digits": 0},
        {"key": "seconds", "title": "CPU seconds", "digits": 0},
        {"key": "steps", "title": "training steps", "digits": 0},
    ]
    controller = [
        {"key": "entropy", "title": "entropy at the end, nats", "digits": 2},
        {"key": "lr", "title": "mean learning rate at the end", "digits": 4},
        {"key": "shared", "title": "accuracy under shared weights, %", "digits": 1},
        {"key": "undone", "title": "steps undone, %", "digits": 1},
        {"key": "collapsed", "title": "collapsed", "digits": 1},
    ]
    found: dict[str, Any] = {}
    for stage, told in STAGES.items():
        rows = [{"title": ARMS[name].title, "where": {"stage": stage, "method": name}} for name in ON[stage]]
        found[stage] = {"by": told, "columns": columns, "rows": rows}
        found[f"{stage}-controller"] = {"by": told, "columns": controller, "rows": rows[2 if stage == "large" else 3 :]}
    ranks = [
        {"key": "as they are", "title": "shared weights as they are", "digits": 2},
        {"key": "after own steps", "title": "after 10 steps of the child's own", "digits": 2},
        {"key": "as they are pairs", "title": "children", "digits": 0},
    ]
    rows = [{"title": "Spearman", "where": {"stage": "large", "method": "correlation"}}]
    return {**found, "ranks": {"by": "", "columns": ranks, "rows": rows}}


def draw(run: Run) -> None:
    """Entropy, and accuracy of the most probable child under the shared weights, over the search."""
    for curve, y in (("entropy", "entropy of the controller, nats"), ("shared_accuracy", "accuracy, shared weights")):
        for stage in STAGES:
            series = {}
            for name, arm in ARMS.items():
                runs = [r for r in run.rows if (r["stage"], r["method"]) == (stage, name) and "curves" in r]
                if runs:
                    values = np.array([row["curves"][curve] for row in runs])
                    series[arm.title.replace(", response", ",")] = (runs[0]["search_steps"], values)
            if series:
                figures.lines(run.folder / f"{curve}_{stage}.png", series, x="training steps of the search", y=y)


PAPER = Paper("joint_enas", __doc__, REDUCED, FULL, work, tables_of, draw)

if __name__ == "__main__":
    main(PAPER)
