"""The one place where jobs become results: a chunk of jobs is trained in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.adapt import Adapter
from luthier.errors import CheckpointError, MethodError, TaskError
from luthier.jobs import Job, Report, Result, Status
from luthier.seeds import Seeds
from luthier.space import Config
from luthier.task import FunctionTask, Task, TrainableTask, is_torch
from luthier.task.call import Pruned, Trial, as_metrics, as_objectives, describe, is_finite, short
from luthier.train.blob import pack, unpack

if TYPE_CHECKING:
    from luthier.store.checkpoints import Checkpoints  # imports torch, which functions do without

OnReports = Callable[[list[Report]], set[int]]
"""Takes reports to the study and returns the numbers of jobs that are asked to stop; an empty list only asks."""

MOST_STACKED = 256
"""Members of one chunk under ``width="auto"``; the width trained at once is measured where they are trained."""


@dataclass(frozen=True)
class Work:
    """What a study asks of a worker, the same for all its jobs.

    Args:
        task: What is trained.
        seeds: The study's seeds.
        adapter: What moves hyperparameters during a training; None moves nothing.
        checkpoints: Where states are kept; needed to continue a job.
        objectives: Name of each objective and its direction, ``{"loss": "min"}``.
        save: Keep the state at the end of each job, so that later jobs can continue from it.
        device: Where a TorchTask is trained; None leaves it to the task.
    """

    task: Task
    seeds: Seeds
    adapter: Adapter | None = None
    checkpoints: Checkpoints | None = None
    objectives: Mapping[str, str] = field(default_factory=lambda: {"loss": "min"})
    save: bool = False
    device: str | None = None

    def key(self, job: Job) -> int:
        """Of all randomness inside a job: its own, or that of the job in another study that it repeats."""
        return self.seeds.key(job.tag.get("repeats", job.number), "train")


def chunks(
    work: Work, jobs: Sequence[Job], parents: Mapping[int, Result], width: int = MOST_STACKED
) -> list[list[Job]]:
    """Split jobs into groups that :func:`run` can train together, each of at most ``width`` jobs.

    Functions and Trainables are trained one at a time. Of a TorchTask, jobs share a chunk when they can share a
    stack; order is kept inside a group, and groups come in the order of their first job. A job whose model cannot be
    made is left to fail alone.
    """
    if not is_torch(work.task):
        return [[job] for job in jobs]
    from luthier.train.stack import group_key  # imports torch

    groups: dict[Hashable, list[Job]] = {}
    for job in jobs:
        try:
            key = group_key(work, job, parents)
        except KeyboardInterrupt:
            raise
        except BaseException:  # it asks the user's model, which raises again where that becomes a result
            key = ("alone", job.number)
        groups.setdefault(key, []).append(job)
    return [group[i : i + width] for group in groups.values() for i in range(0, len(group), width)]


def run(work: Work, jobs: Sequence[Job], parents: Mapping[int, Result], on_reports: OnReports) -> Iterator[Result]:
    """Train one chunk in this process.

    Args:
        work: What is trained and how.
        jobs: A chunk of :func:`chunks`.
        parents: The results of the jobs that these continue from, by number.
        on_reports: Called with reports as they are made.

    Returns:
        The results, as the jobs end. An exception in the user's code is a result with status ``"failed"``;
        KeyboardInterrupt passes through.
    """
    if not is_torch(work.task):
        for job in jobs:
            yield _run_alone(work, job, parents, on_reports)
        return
    from luthier.train.stack import run_stack  # imports torch

    begun, left = time.perf_counter(), {job.number for job in jobs}
    try:
        for result in run_stack(work, list(jobs), parents, on_reports):
            left.remove(result.number)
            yield result
        assert not left, f"no result of the jobs {left}"
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        share, text = (time.perf_counter() - begun) / len(jobs), describe(error)
        for number in sorted(left):
            yield Result(number, "failed", seconds=share, error=text)


@dataclass
class _Progress:
    """How far a job has come: what is known of it when it ends, in whatever way."""

    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: tuple[str, int] | None = None


def _run_alone(work: Work, job: Job, parents: Mapping[int, Result], on_reports: OnReports) -> Result:
    begun, progress = time.perf_counter(), _Progress()
    run_one = _run_function if isinstance(work.task, FunctionTask) else _run_trainable
    error = ""
    try:
        status = run_one(work, job, parents, on_reports, progress)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as failure:  # SystemExit and MemoryError too: one job's end is not the study's
        status, error = "failed", describe(failure)
    seconds = time.perf_counter() - begun
    return Result(job.number, status, progress.metrics, progress.steps, {}, seconds, error, progress.checkpoint)


def _run_function(
    work: Work, job: Job, parents: Mapping[int, Result], on_reports: OnReports, progress: _Progress
) -> Status:
    task = work.task
    assert isinstance(task, FunctionTask)
    if job.parent is not None:
        raise MethodError(
            f"it continues job {job.parent}, and {task!r} is a function, which cannot be continued",
            where=f"job {job.number}",
            remedy="Methods that continue trainings need a Trainable (init, advance, evaluate) or a TorchTask.",
        )
    config = work.task.space.given(job.config)
    trial = Trial(
        job.number,
        config,
        work.key(job),
        job.steps,
        send=lambda step, metrics: job.number in on_reports([Report(job.number, step, metrics)]),
        asked=lambda: job.number in on_reports([]),
    )
    try:
        returned = task(config, trial)
    except Pruned:
        returned = None
        trial.stopped = True
    except BaseException:
        progress.steps = trial.last[0] if trial.last else 0
        raise
    if trial.stopped:
        progress.steps = trial.last[0] if trial.last else 0
        if returned is None:
            progress.metrics = trial.last[1] if trial.last else {}
        else:
            progress.metrics = as_objectives(returned, work.objectives, repr(task))
        return "pruned"
    progress.steps = trial.last[0] if trial.last else job.steps
    progress.metrics = as_objectives(returned, work.objectives, repr(task))
    return "ok" if is_finite(progress.metrics, work.objectives) else "diverged"


def _run_trainable(
    work: Work, job: Job, parents: Mapping[int, Result], on_reports: OnReports, progress: _Progress
) -> Status:
    task = work.task
    assert isinstance(task, TrainableTask)
    config = work.task.space.given(job.config)
    if job.parent is None:
        state, age = task.trainable.init(config, work.key(job)), 0
    else:
        state, age = _load(work, task, job, parents)
    every = task.report_steps(config) or job.steps
    status: Status = "ok"
    while progress.steps < job.steps and status == "ok":
        count = min(every - (age + progress.steps) % every, job.steps - progress.steps)  # reports keep their rhythm
        state, metrics = _advance(task, state, config, count)
        progress.steps += count
        last = progress.steps == job.steps
        found = as_metrics(metrics or {}, f"advance of {task!r}")
        if last or not set(work.objectives) <= set(found):
            found |= as_metrics(task.trainable.evaluate(state) or {}, f"evaluate of {task!r}")
        progress.metrics = as_objectives(found, work.objectives, repr(task))
        asked = on_reports([Report(job.number, age + progress.steps, found)])
        if not is_finite(found, work.objectives):
            status = "diverged"
        elif job.number in asked and not last:
            status = "pruned"
    if work.save and work.checkpoints is not None and status != "diverged":
        progress.checkpoint = _save(work.checkpoints, task, job, state, age + progress.steps)
    return status


def _advance(task: TrainableTask, state: Any, config: Config, steps: int) -> tuple[Any, Mapping[str, Any] | None]:
    returned: Any = task.trainable.advance(state, config, steps)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TaskError(
            f"advance returned {short(returned)}", where=repr(task), remedy="Return two things: (state, metrics)."
        )
    return returned


def _save(checkpoints: Checkpoints, task: TrainableTask, job: Job, state: Any, age: int) -> tuple[str, int]:
    save = getattr(task.trainable, "save", None)
    blob = pack(state if save is None else save(state), f"the state of {task!r}")
    return checkpoints.save(f"job-{job.number}", {"trainable": blob}, {"age": age}), 0


def _load(work: Work, task: TrainableTask, job: Job, parents: Mapping[int, Result]) -> tuple[Any, int]:
    """The state to continue from, and its age in steps."""
    parent = parents.get(job.parent) if job.parent is not None else None
    if parent is None or parent.checkpoint is None or work.checkpoints is None:
        raise CheckpointError(
            f"it continues job {job.parent}, whose state was not kept",
            where=f"job {job.number}",
            remedy="Run the study with a store that keeps checkpoints.",
        )
    state, meta = work.checkpoints.load(parent.checkpoint[0])
    blob = unpack(state["trainable"])
    load = getattr(task.trainable, "load", None)
    return (blob if load is None else load(blob)), int(meta["age"])
