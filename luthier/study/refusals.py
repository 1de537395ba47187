"""Checks that refuse combinations that cannot work together, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import MethodError, StudyError
from luthier.execute import Local
from luthier.jobs import Budget, History, Result
from luthier.limits import Bounds, described
from luthier.optional import optional
from luthier.study.resolve import Resolved
from luthier.task import Task, is_torch, level, require_level
from luthier.text import warn


def check_fit(
    task: Task,
    method: Resolved,
    goals: Mapping[str, str],
    limits: Mapping[str, Bounds],
    budget: Budget,
    checkpoints: bool | None = None,
) -> None:
    """Refuse what cannot work before anything is trained."""
    endless = budget.trials is None and budget.seconds is None and budget.total is None
    if endless and not optional(method.proposer, "size") and task.space.listed is None:
        raise MethodError(
            f"{method.proposer!r} has no end: trials=None and seconds=None",
            where="trials",
            remedy="Give trials=, or seconds= of wall time.",
        )
    if level(task) != "function" and budget.epochs is None and budget.steps is None:
        name = type(getattr(task, "trainable", task)).__name__
        raise MethodError(
            f"{name} trains step by step, and neither epochs nor steps was given",
            where="epochs",
            remedy="Say how long each trial trains: epochs=5, or steps=1000.",
        )
    if limits and method.alone and budget.trials == 1:
        raise MethodError(
            f"{method.adapter!r} moves the hyperparameters of one training along its loss, which knows no limits",
            where=f"limits ({described(limits)})",
            remedy="Start several, of which the best within the limits is taken: (lt.propose.Random(), …), trials=8.",
        )
    if method.adapter is not None:
        require_level(task, "torch", f"{method.adapter!r} moves hyperparameters during a training")
    if optional(method.proposer, "parents"):
        require_level(task, "trainable", f"{method.proposer!r} continues trainings")
        if checkpoints is False:
            raise MethodError(
                f"{method.proposer!r} continues trainings, and checkpoints=False",
                where="checkpoints",
                remedy="Leave checkpoints out: it keeps only those that may be continued.",
            )
    if not is_torch(task) or method.adapter is not None:
        return
    known = ["loss", "train_loss", *task.metrics, *task.costs]  # type: ignore[union-attr]
    for where, names in (("metric", goals), ("limits", limits)):
        missing = [name for name in names if name not in known]
        if missing:
            raise StudyError(
                f"{where}={missing[0]!r} is not measured by the task",
                where=where,
                remedy=f"It measures {', '.join(known)}; add others by TorchTask(metrics={{name: function}}).",
            )


def check_success(study: Any) -> None:
    """Refuse to hand out a study in which trials have failed or diverged and none has ended well.

    Raises:
        StudyError: With the message of the first failure.
    """
    history = study.history
    ended = [result for number in history.arrival if (result := history.results[number]) is not None]
    pruned = sum(result.status == "pruned" for result in ended)
    ended = [result for result in ended if result.status != "pruned"]
    if not ended or any(result.status == "ok" for result in ended):
        return
    failed = [result for result in ended if result.status == "failed"]
    first = (failed or ended)[0]
    goal = next(iter(history.objectives))
    how = f"the first with: {first.error}" if failed else f"the first with {goal}={first.metrics.get(goal)!r}"
    what = "failed" if len(failed) == len(ended) else "diverged" if not failed else "failed or diverged"
    said = f"all {len(ended)} trials {what}, {how}" if len(ended) > 1 else f"the only trial {what}, {how[10:]}"
    raise StudyError(
        f"no trial ended well: {pruned} were pruned and {len(ended)} {what}, {how}" if pruned else said,
        where=f"study {study.name!r}, job {first.number}",
        remedy="Mend the task and run again: what is recorded stays, and is in the error's study.",
    )


def warn_infeasible(study: Any) -> None:
    """Warn of a study whose results all lie outside its limits, and name the nearest."""
    history: History = study.history
    judged = [number for number in history.arrival if history.violation[number] >= 0]
    if not history.limits or not judged or (history.violation[judged] == 0).any():
        return
    nearest = min(judged, key=lambda number: history.violation[number])
    result = history.results[nearest]
    known = {} if result is None else {name: result.metrics[name] for name in history.limits if name in result.metrics}
    values = ", ".join(f"{name}={value:.6g}" for name, value in known.items())
    warn(
        f"study {study.name!r}: none of {len(judged)} results lies within the limits, {described(history.limits)}"
        + (f"; the nearest is job {nearest} with {values}" if values else "")
    )


def check_limited(history: History, result: Result) -> None:
    """Refuse limits on a metric that neither a result nor any before it has: the first result shows it.

    Raises:
        StudyError: Naming the metric, and those that there are.
    """
    if result.status != "ok" or not any(name in result.metrics for name in history.objectives):
        return
    missing = [name for name in history.limits if name not in result.metrics]
    for name in missing:
        if not any(name in one.metrics for one in history.results if one is not None):
            raise StudyError(
                f"the metric {name!r} is limited, and job {result.number} did not report it",
                where="limits",
                remedy=f"It reported {', '.join(result.metrics)}: return {name!r} too, or limit one of these.",
            )


def check_device(task: Task, executor: Any) -> None:
    """Refuse a device that this machine does not have, where it is here that a TorchTask is to train.

    Raises:
        DataError: Naming the device.
    """
    if not is_torch(task) or not isinstance(executor, Local):
        return
    import torch

    from luthier.data import Split

    Split(torch.zeros(1), torch.zeros(1)).to(executor.device or task.device)  # type: ignore[union-attr]
