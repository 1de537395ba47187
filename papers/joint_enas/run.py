"""The joint controller on Fashion-MNIST: what the optimizer's hyperparameters and the response gradient add to ENAS.

python -m papers.joint_enas.run                   all arms, at equal training steps; goes on where it was stopped
python -m papers.joint_enas.run --figures         only draw and write the tables again, from results.json
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
from scipy.stats import spearmanr

import luthier as lt
from papers import figures, tables
from papers.joint_enas.network import ARCHITECTURE, DECIDED, FIXED, JOINT, network

HERE = Path(__file__).resolve().parent
COMMAND = "python -m papers.joint_enas.run"
DRAWS = 30


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    train: int = 6_000
    valid: int = 2_000
    epochs: int = 3  # of each training from scratch
    trainings: int = 10  # in all: a search over shared weights takes half of them


@dataclass(frozen=True)
class Arm:
    """One way of spending the training steps."""

    title: str
    space: lt.Space
    method: Callable[[], Any]


def searched(response: str = "none", **settings: Any) -> Callable[[], Any]:
    """A search over shared weights with half of the budget, and five children from scratch with the other half."""
    return lambda: (lt.propose.Derive(draws=DRAWS), lt.adapt.Enas(response, warmup=0.5, **settings))  # type: ignore[arg-type]


ARMS = {
    "random": Arm("random search, from scratch", JOINT, lambda: "random"),
    "random fixed": Arm("random search, from scratch, fixed optimizer", ARCHITECTURE, lambda: "random"),
    "shared": Arm("random search over the shared weights", JOINT, searched(learner=None)),
    "enas": Arm("ENAS, fixed optimizer (response none)", ARCHITECTURE, searched()),
    "enas unrolled": Arm("ENAS, fixed optimizer, response unrolled", ARCHITECTURE, searched("unrolled")),
    "enas implicit": Arm("ENAS, fixed optimizer, response implicit", ARCHITECTURE, searched("implicit")),
    "none": Arm("joint controller, response none", JOINT, searched()),
    "identity": Arm("joint controller, response identity", JOINT, searched("identity")),
    "unrolled": Arm("joint controller, response unrolled", JOINT, searched("unrolled")),
    "implicit": Arm("joint controller, response implicit", JOINT, searched("implicit")),
}


def task_of(space: lt.Space, size: Size) -> lt.TorchTask:
    """The space on a part of Fashion-MNIST."""
    return lt.TorchTask(
        space=space,
        model=network,
        data=lt.data.fashion_mnist(valid=size.valid, train=size.train),
        loss=lt.losses.cross_entropy,
        optimizer=DECIDED if space is JOINT else FIXED,
        batch_size=64,
        metrics={"accuracy": lt.metrics.accuracy},
    )


def run(name: str, task: lt.TorchTask, size: Size, seed: int) -> dict[str, Any]:
    """One study, chosen by validation loss among what was trained from scratch; the test split is read once."""
    clock = time.process_time()
    study = lt.tune(task, ARMS[name].method(), trials=size.trainings, epochs=size.epochs, seed=seed, progress=False)
    seconds = time.process_time() - clock
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
    for name, response, children in (("as they are", "none", DRAWS), ("after own steps", "unrolled", 1)):
        trials = round(size.trainings / 2) + children
        derive = lt.propose.Derive(search=1 - children / trials, draws=DRAWS)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figures", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, file = Size(), HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    if results.setdefault("size", asdict(size)) != asdict(size):
        raise SystemExit(f"{file} was run with {results['size']}: remove it to run with {asdict(size)}")
    if not arguments.figures:
        work(results, size, arguments.seeds, file)
    results["tables"] = tables_of()
    write(results, file)
    draw(results)
    readme = HERE / "README.md"
    readme.write_text(tables.filled(readme.read_text(), results))
    for name in results["tables"]:
        print(tables.render(results, name), end="\n\n")


def work(results: dict[str, Any], size: Size, seeds: int, file: Path) -> None:
    """Run what has not been run, all arms of a seed before the next."""
    results["command"] = COMMAND
    results["machine"] = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    made = {(one["method"], one["seed"]) for one in results["runs"]}
    tasks = {id(space): task_of(space, size) for space in (ARCHITECTURE, JOINT)}
    for seed in range(seeds):
        for arm in (*ARMS, "correlation"):
            if (arm, seed) in made:
                continue
            one = correlation(tasks[id(JOINT)], size, seed) if arm == "correlation" else None
            results["runs"].append(one or run(arm, tasks[id(ARMS[arm].space)], size, seed))
            write(results, file)
            shown = {k: round(v, 3) for k, v in results["runs"][-1].items() if isinstance(v, float)}
            print(arm, seed, shown, flush=True)


def write(results: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(results, indent=1) + "\n")


def tables_of() -> dict[str, Any]:
    """What the README shows."""
    columns = [
        {"key": "valid_accuracy", "title": "validation accuracy, %", "digits": 1},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 1},
        {"key": "test_accuracy", "title": "test, less random's", "digits": 1, "against": {"method": "random"}},
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


def draw(results: dict[str, Any]) -> None:
    """Entropy, and accuracy of the most probable child under the shared weights, over the search."""
    for curve, y in (("entropy", "entropy of the controller, nats"), ("shared_accuracy", "accuracy, shared weights")):
        series = {}
        for name, arm in ARMS.items():
            runs = [one for one in results["runs"] if one["method"] == name and "curves" in one]
            if runs:
                series[arm.title] = (runs[0]["search_steps"], np.array([one["curves"][curve] for one in runs]))
        if series:
            figures.lines(HERE / f"{curve}.png", series, x="training steps of the search", y=y)


if __name__ == "__main__":
    main()
