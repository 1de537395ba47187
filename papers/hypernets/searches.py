"""10 and 7,850 hyperparameters: the validation loss over time, and what a step costs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import luthier as lt
from papers.command import Run
from papers.hypernets.problems import Start, fashion, per_class, per_weight, regression, shared

SLOW = 1e-4  # the learning rate of the paper's global experiment
EPOCHS = {"ten": 50, "many": 10}  # of each training of a search


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Args:
        tuner: An adapter, a proposer, or None for one training under penalties that stay.
        own: Whether each weight, or class, has its own penalty.
        rate: Of the Adam that trains the weights, or the hypernetwork.
    """

    tuner: Any
    own: bool = True
    rate: float = 1e-3


def arms(part: str) -> dict[str, Arm]:
    """The arms, by their names."""
    warm: dict[str, Any] = {"warmup": 1.0, "outer_lr": 0.05}
    pair: dict[str, Any] = {"samples": 2, "smoothing": 0.0, "follow": False, "gate": 0}
    cheap: dict[str, Any] = {"samples": 1, "smoothing": 0.0, "inner_steps": 10, "gate": 0}
    plain = {"plain": Arm(None), "plain slow": Arm(None, rate=SLOW)}
    if part == "ten":
        linear = lt.adapt.Hypernet(structure="linear", **warm, **pair)
        return {"linear": Arm(linear), "linear slow": Arm(linear, rate=SLOW), **others(True), **plain}
    # Adam moves all 7,850 at once, far beyond the draws in the ten directions of this structure: smaller moves
    low_rank = lt.adapt.Hypernet(structure="low_rank", scale=0.3, warmup=1.0, outer_lr=0.002, **cheap)
    implicit = lt.adapt.Bilevel("implicit", settings={"iterations": 10}, **warm)
    return {
        "low_rank": Arm(low_rank),
        "low_rank held": Arm(replace(low_rank, warmup=1e9)),
        "low_rank slow": Arm(low_rank, rate=SLOW),
        "diagonal": Arm(lt.adapt.Hypernet(structure="diagonal", **warm, **cheap)),
        "diagonal slow": Arm(lt.adapt.Hypernet(structure="diagonal", **warm, **cheap), rate=SLOW),
        "implicit": Arm(implicit),
        "implicit slow": Arm(implicit, rate=SLOW),
        "unrolled": Arm(lt.adapt.Bilevel("unrolled", **warm)),
        **others(False),
        **plain,
    }


def others(own: bool) -> dict[str, Arm]:
    """The two methods that search between trainings."""
    return {"random": Arm(lt.propose.Random(), own), "gp": Arm(lt.propose.GaussianProcess(batch=1), own)}


EQUAL = {  # what is compared at equal epochs, and at how many
    "ten": (40, ("plain", "linear", "plain slow", "linear slow")),
    "many": (6, ("plain", "low_rank", "diagonal", "plain slow", "low_rank slow", "diagonal slow", "implicit slow")),
}
BRIEF = ("diagonal slow", "implicit slow")  # at equal epochs alone


def problem(part: str, run: Run, method: str, seed: int) -> tuple[lt.TorchTask, Any]:
    """The task of an arm, and its method."""
    arm = arms(part)[method]
    data = fashion(seed, run.size.ten_rows if part == "ten" else run.size.many_rows)
    per, numbers = (per_class, 10) if part == "ten" else (per_weight, 7_850)
    settings: dict[str, Any] = {"batch_size": 100, "optimizer": lt.optim.Adam(lr=arm.rate), "device": run.device}
    shape = (per, numbers) if arm.own else (shared, None)
    task = regression(data, 1e-8, 1e-1, *shape, **settings)
    if arm.tuner is None:
        return task, Start(numbers)
    return task, (Start(numbers), arm.tuner) if trains(method, part) else arm.tuner


def trains(method: str, part: str) -> bool:
    """Whether all of the time is one training's, and not many trainings'."""
    tuner = arms(part)[method].tuner
    return tuner is None or hasattr(tuner, "step")


def equal(part: str, run: Run, method: str, seed: int) -> dict[str, Any]:
    """One training of so many epochs, with and without tuning."""
    task, tuner = problem(part, run, method, seed)
    study = lt.tune(task, tuner, trials=1, epochs=run.size.steps(EQUAL[part][0]), seed=seed, progress=False)
    best = study.best
    assert best is not None
    return {"valid_loss": best.metrics["loss"], "test_loss": best.test["loss"]}


def compared(part: str, run: Run, method: str, seed: int) -> dict[str, Any]:
    """One arm for its CPU time: the best validation loss so far, and the test loss of what it chooses."""
    task, tuner = problem(part, run, method, seed)

    def tune(count: int) -> tuple[lt.Study, float]:
        clock = run.clock()
        trials, epochs = (1, count) if trains(method, part) else (count, EPOCHS[part])
        study = lt.tune(task, tuner, trials=trials, epochs=epochs, seed=seed, progress=False)
        return study, run.clock() - clock

    tune(3)  # traces the step
    _, first = tune(3)  # what an epoch, or a training, costs
    seconds = run.size.ten if part == "ten" else run.size.many
    study, spent = tune(max(3, round(seconds / (first / 3))))
    assert study.best is not None
    if trains(method, part):
        losses = [report.metrics["loss"] for report in study.history.reports[study.best.number]]
    else:
        losses = [trial.metrics["loss"] for trial in sorted(study.trials, key=lambda trial: trial.number)]
    penalties = np.array({**study.best.config, **study.best.final}["penalty"], ndmin=1)
    return {
        "seconds": spent,
        "count": len(losses),
        "course": np.round(np.minimum.accumulate(losses), 6).tolist(),
        "lowest": float(np.min(losses)),
        "valid_loss": study.best.metrics["loss"],
        "test_loss": study.best.test["loss"],
        "test_accuracy": 100 * study.best.test["accuracy"],
        "quantiles": np.log10(np.quantile(penalties, (0.05, 0.5, 0.95))).tolist(),
    }


def cost(run: Run, method: str, seed: int) -> list[dict[str, Any]]:
    """CPU time of training steps with 7,850 penalties, each hypernetwork's and a plain one, in turns."""
    settings: dict[str, Any] = {"batch_size": 100, "optimizer": lt.optim.Adam(lr=1e-3), "device": run.device}
    task = regression(fashion(seed, run.size.many_rows), 1e-8, 1e-1, per_weight, 7_850, **settings)
    tuners: dict[str, Any] = {"plain": Start(7_850)} | {
        name: (Start(7_850), arms("many")[name].tuner) for name in ("low_rank", "diagonal")
    }

    def spent(name: str, steps: int) -> float:
        clock = run.clock()
        lt.tune(task, tuners[name], trials=1, steps=run.size.steps(steps), seed=seed, progress=False)
        return run.clock() - clock

    for name in tuners:
        spent(name, 5_000)  # the step is traced meanwhile, once for all
    # the difference has neither start nor the measurement at the end in it
    times = [{name: spent(name, 1_480) - spent(name, 490) for name in tuners} for _ in range(5)]
    step = {
        name: 1e3 * statistics.median(one[name] for one in times) / (run.size.steps(1_480) - run.size.steps(490))
        for name in tuners
    }
    ratio = {name: statistics.median(one[name] / one["plain"] for one in times) for name in tuners}
    return [{"method": name, "ms": step[name], "ratio": ratio[name]} for name in tuners]
