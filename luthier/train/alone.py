"""Functions and Trainables: one job at a time becomes a result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import CheckpointError, MethodError, TaskError
from luthier.jobs import Job, Lost, Partial, Report, Result, Status
from luthier.space import Config
from luthier.task import FunctionTask, TrainableTask
from luthier.task.call import Pruned, Trial, as_metrics, as_objectives, describe, is_finite, short
from luthier.train import keep
from luthier.train.blob import holds_objects, pack, unpack
from luthier.train.halt import Halt, Overtime, guard

if TYPE_CHECKING:
    from luthier.train import Ask, Work

PARTIAL_SECONDS = 5.0  # a Trainable that takes longer is saved on the way, at its next report


@dataclass
class Progress:
    """Progress of a job: what is known of it when it ends, however it ends."""

    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: tuple[str, int] | None = None
    latest: Mapping[str, float] | None = None  # the metrics of the last report
    notes: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # of earlier attempts, whose state this one went on from


def run_alone(
    work: Work, job: Job, parents: Mapping[int, Result], partials: Mapping[int, str], ask: Ask
) -> Result | Lost:
    """Train one job of a function or a Trainable.

    Returns:
        Its result, also where it raised; or that it is lost, where it was halted or the disk is in trouble.
    """
    begun, progress = time.perf_counter(), Progress()
    error = ""
    try:
        if isinstance(work.task, FunctionTask):
            status = _run_function(work, job, parents, ask, progress)
        else:
            status = _run_trainable(work, job, parents, partials.get(job.number), ask, progress)
    except Overtime:
        status, progress.metrics = "pruned" if progress.latest is not None else "failed", progress.latest or {}
        error = "" if progress.latest is not None else over_time(work)
    except Halt:
        return Lost(job.number, "asked")
    except keep.StorageTrouble as trouble:
        return Lost(job.number, trouble.why, str(trouble))
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # SystemExit and MemoryError too: one job's end is not the study's
        status, error = "failed", describe(failure)
    seconds = progress.seconds + time.perf_counter() - begun
    steps, metrics = progress.steps, progress.metrics
    return Result(job.number, status, metrics, steps, {}, seconds, error, progress.checkpoint, progress.notes)


def over_time(work: Work) -> str:
    """The error of a trial that has used up its time before it reported anything."""
    return f"over its time: it reported nothing within trial_seconds={work.trial_seconds:g}"


def _run_function(work: Work, job: Job, parents: Mapping[int, Result], ask: Ask, progress: Progress) -> Status:
    task = work.task
    assert isinstance(task, FunctionTask)
    if job.parent is not None:
        raise MethodError(
            f"it continues job {job.parent}, and {task!r} is a function, which cannot be continued",
            where=f"job {job.number}",
            remedy="Methods that continue trainings need a Trainable (init, advance, evaluate) or a TorchTask.",
        )
    config = work.task.space.given(job.config)

    def send(step: int, metrics: dict[str, float]) -> bool:
        progress.latest = metrics
        progress.steps = step
        asked = job.number in ask([Report(job.number, step, metrics)])
        guard().check()
        return asked

    def asked() -> bool:
        guard().check()
        return job.number in ask([])

    folder = work.files
    place = None if folder is None else lambda: Path(folder, str(job.number))
    trial = Trial(job.number, config, work.key(job), job.steps, send, asked, work.study, place)
    progress.notes = trial.notes
    try:
        with guard().limit(work.seconds_left(job, parents)):
            returned = task(config, trial)
    except Pruned:
        returned = None
        trial.stopped, progress.metrics = True, progress.latest or {}
    if trial.stopped and returned is None:
        return "pruned"
    if returned is None and set(work.objectives) <= set(progress.latest or {}):
        returned = progress.latest  # a function that only reports, as Ray Tune's do: its last values count
    progress.metrics = as_objectives(returned, work.objectives, repr(task))
    if trial.stopped:
        return "pruned"
    progress.steps = trial.last[0] if trial.last else job.steps
    return "ok" if is_finite(progress.metrics, work.objectives) else "diverged"


def _run_trainable(
    work: Work, job: Job, parents: Mapping[int, Result], partial: str | None, ask: Ask, progress: Progress
) -> Status:
    task = work.task
    assert isinstance(task, TrainableTask)
    saver, left = _Saver(work, task, job, progress, ask), work.seconds_left(job, parents)
    config = work.task.space.given(job.config)
    resumed = saver.resume(partial)
    if resumed is not None:
        state, age = resumed
        ask(saver.reports)  # those after the last write were lost
    elif job.parent is None:
        with guard().limit(left):
            state, age = task.trainable.init(config, work.key(job)), 0
    else:
        state, age = _load(work, task, job, parents)
    every = task.report_steps(config) or job.steps
    status: Status = "ok"
    try:
        with guard().limit(None if left is None else left - progress.seconds):
            while progress.steps < job.steps and status == "ok":
                count = min(every - (age + progress.steps) % every, job.steps - progress.steps)  # keeps the rhythm
                saver.safe = False  # the state may be changed in place
                state, metrics = _advance(task, state, config, count)
                last = progress.steps + count == job.steps
                found = as_metrics(metrics or {}, f"advance of {task!r}")
                if last or not set(work.objectives) <= set(found):
                    found |= as_metrics(task.trainable.evaluate(state) or {}, f"evaluate of {task!r}")
                goals = as_objectives(found, work.objectives, repr(task))
                progress.steps, progress.metrics, progress.latest = progress.steps + count, goals, goals
                report = Report(job.number, age + progress.steps, found)
                saver.at(state, age, report)
                stop = ask([report])
                if not is_finite(found, work.objectives):
                    status = "diverged"
                elif job.number in stop and not last:
                    status = "pruned"
                if not last:
                    guard().check()
    except Overtime:
        if not saver.safe:
            raise
        status = "pruned"
    except (Halt, KeyboardInterrupt):
        guard().deferred(saver.leave)
        raise
    if work.save and work.checkpoints is not None and status != "diverged":
        progress.checkpoint = guard().deferred(lambda: saver.keep(state, age + progress.steps))
    return status


class _Saver:
    """Writes the state of a Trainable, on the way and at the end."""

    def __init__(self, work: Work, task: TrainableTask, job: Job, progress: Progress, ask: Ask) -> None:
        self._work, self._task, self._job, self._progress, self._ask = work, task, job, progress, ask
        self._rhythm = keep.Rhythm(PARTIAL_SECONDS)
        self._begun = time.perf_counter()
        self._latest: tuple[Any, int, int] | None = None  # state, age at the job's start, steps of the job
        self._can = True
        self._written = 0  # steps that the newest file is at
        self.reports: list[Report] = []
        self.safe = False  # the latest state has not been given to the user's code since

    def resume(self, file: str | None) -> tuple[Any, int] | None:
        """The state that an earlier attempt has left, and the age at which the job began."""
        checkpoints = self._work.checkpoints
        found = None if file is None or checkpoints is None else keep.load_partial(checkpoints, file)
        if found is None:
            return None
        blob, meta = found
        self.reports = [Report(self._job.number, *report) for report in meta["reports"]]
        progress = self._progress
        progress.steps = self._written = meta["steps"]
        progress.seconds, progress.metrics = meta["seconds"], meta["metrics"]
        progress.latest = progress.metrics
        return restored(self._work, self._task, self._job, blob), meta["start"]

    def at(self, state: Any, age: int, report: Report) -> None:
        """Take note of a state; write it where it is time to."""
        self.reports.append(report)
        self._latest, self.safe = (state, age, self._progress.steps), True
        if self._rhythm.due and self._progress.steps < self._job.steps:
            self._rhythm.save(lambda: guard().deferred(self._write))

    def leave(self) -> None:
        """Write the latest state before the training is left, where that can be done."""
        if self.safe:
            self._rhythm.save(self._write)

    def keep(self, state: Any, age: int) -> tuple[str, int]:
        """Write the state at the end."""
        assert self._work.checkpoints is not None
        blob = {"trainable": self._packed(state)}
        return keep.save(self._work.checkpoints, f"job-{self._job.number}", blob, {"age": age}), 0

    def _write(self) -> None:
        checkpoints, progress = self._work.checkpoints, self._progress
        if self._latest is None or self._latest[2] <= self._written or checkpoints is None or not self._can:
            return
        state, start, steps = self._latest
        meta = {
            "start": start,
            "steps": steps,
            "seconds": progress.seconds + time.perf_counter() - self._begun,
            "metrics": dict(progress.metrics),
            "reports": [[report.step, dict(report.metrics)] for report in self.reports],
        }
        try:
            packed = self._packed(state)
        except Exception as error:  # it need not be kept, unless a method continues it: then its end says so
            self._can = False
            keep.log.info("job %d cannot be saved on the way: %s", self._job.number, error)
            return
        file = checkpoints.save(f"partial-{self._job.number}", {"trainable": packed}, meta)
        self._written = steps
        self._ask([Partial(self._job.number, file, steps)])

    def _packed(self, state: Any) -> Any:
        save = getattr(self._task.trainable, "save", None)
        return pack(state if save is None else save(state), f"the state of {self._task!r}")


def _advance(task: TrainableTask, state: Any, config: Config, steps: int) -> tuple[Any, Mapping[str, Any] | None]:
    returned: Any = task.trainable.advance(state, config, steps)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TaskError(
            f"advance returned {short(returned)}", where=repr(task), remedy="Return two things: (state, metrics)."
        )
    return returned


def _load(work: Work, task: TrainableTask, job: Job, parents: Mapping[int, Result]) -> tuple[Any, int]:
    """The state to continue from, and its age in steps."""
    parent = parents.get(job.parent) if job.parent is not None else None
    if parent is None or parent.checkpoint is None or work.checkpoints is None:
        raise CheckpointError(
            f"it continues job {job.parent}, whose state was not kept",
            where=f"job {job.number}",
            remedy="Run the study with a store that keeps checkpoints.",
        )
    blob, meta = keep.load(work.checkpoints, parent.checkpoint[0])
    return restored(work, task, job, blob), int(meta["age"])


def restored(work: Work, task: TrainableTask, job: Job, blob: Any) -> Any:
    """A state out of what was kept of it."""
    load, packed = getattr(task.trainable, "load", None), blob["trainable"]
    if load is not None:
        return load(unpack(packed))
    fresh = task.trainable.init(work.task.space.given(job.config), work.key(job)) if holds_objects(packed) else None
    return unpack(packed, fresh)
