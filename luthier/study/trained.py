"""Results of a study's trainings, to be loaded: the job that is meant, its task, its network or its state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import CheckpointError, StudyError
from luthier.jobs import History, Job, Result
from luthier.study.ledger import Ledger
from luthier.task import TrainableTask, as_task, is_torch, load_task
from luthier.trials import best_jobs

if TYPE_CHECKING:
    from torch import nn  # imported where there is a network


def ended_well(history: History, name: str, number: int | None) -> tuple[Job, Result]:
    """A job that has ended, and its result; the best one by default.

    Raises:
        StudyError: If there is no such job.
    """
    number = next(iter(best_jobs(history)), None) if number is None else number
    result = history.results[number] if number is not None and 0 <= number < len(history) else None
    if number is None or result is None:
        raise StudyError(
            "no job ended well" if number is None else f"job {number} has not ended",
            where=f"study {name!r}",
            remedy=f"It has {len(history.arrival)} jobs that ended; study.trials says how.",
        )
    return history.jobs[number], result


def work_on(ledger: Ledger, known: Any, task: Any, number: int | None, verb: str) -> Any:
    """Return what a worker needs to load a job.

    Args:
        ledger: The study, up to date.
        known: The work of this process's own tuning, if it did tune.
        task: The task that was given, or None.
        number: The job, for messages.
        verb: The method of the study that asks.

    Raises:
        StudyError: If there is neither, or the task has another space.
    """
    if task is None and known is not None:
        return known
    if task is None:
        which = "this study" if number is None else f"job {number}"
        raise StudyError(
            f"{which} was not trained in this process, and no task was given",
            where=f"study {ledger.name!r}, {verb}",
            remedy=f"Give what was tuned, study.{verb}(task=…), or call lt.tune with it again: it resumes.",
        )
    space = ledger.history.space
    own = getattr(task, "space", None) is not None
    given = load_task(task) if isinstance(task, str | Path) else as_task(task, None if own else space)
    if given.space != space:
        raise StudyError(
            f"the task's space {given.space!r} is not that of the study, {space!r}",
            where=f"study {ledger.name!r}, {verb}",
            remedy="Give the task that was tuned.",
        )
    from luthier.train import Work

    return Work(given, ledger.seeds, None, ledger.checkpoints, ledger.history.objectives)


def network(work: Any, name: str, job: Job, result: Result, last: bool) -> nn.Module:
    """The network of a job with its trained weights.

    Raises:
        StudyError: If the task is no TorchTask.
        CheckpointError: If its state was not kept.
    """
    if not is_torch(work.task):
        raise StudyError(
            f"job {job.number} trained {work.task!r}, which is no network of a TorchTask",
            where=f"study {name!r}, model",
            remedy="Use study.state() of a Trainable; a function keeps its own files in trial.folder.",
        )
    from luthier.train.restore import load_model  # imports torch

    return load_model(work, job, result, last)


def state(work: Any, name: str, job: Job, result: Result) -> Any:
    """The state at the end of a job of a Trainable.

    Raises:
        StudyError: If the task is no Trainable.
        CheckpointError: If its state was not kept.
    """
    if not isinstance(work.task, TrainableTask):
        raise StudyError(
            f"job {job.number} trained {work.task!r}, which is no Trainable",
            where=f"study {name!r}, state",
            remedy="Use study.model() of a TorchTask; a function keeps its own files in trial.folder.",
        )
    if result.checkpoint is None or work.checkpoints is None:
        raise CheckpointError(
            "no state was kept",
            where=f"study {name!r}, job {job.number}",
            remedy="Tune with checkpoints=True: the state of the best training is kept.",
        )
    from luthier.train.alone import restored  # imports what trains

    return restored(work, work.task, job, work.checkpoints.load(result.checkpoint[0])[0])
