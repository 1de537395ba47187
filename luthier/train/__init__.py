"""The one place where jobs become results: a chunk of jobs is trained in this process.

May import: jobs, adapt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.adapt import Adapter
from luthier.jobs import REPEATS, Job, Lost, Partial, Report, Result
from luthier.limits import Bounds, out_of_memory
from luthier.seeds import Seeds
from luthier.task import Task, is_torch
from luthier.task.call import describe
from luthier.train.alone import run_alone
from luthier.train.halt import Halt, guard
from luthier.train.keep import StorageTrouble

if TYPE_CHECKING:
    from luthier.store.checkpoints import Checkpoints  # imports torch, which functions do without

Ask = Callable[[Sequence[Report | Partial]], set[int]]
"""Takes reports, and states saved on the way, to the study and returns the numbers of jobs that are asked to stop; an
empty list only asks."""

MOST_STACKED = 256
"""Members of one chunk under ``width="auto"``; the width trained at once is measured where they are trained."""


@dataclass(frozen=True)
class Work:
    """Task and settings that a study gives its workers, the same for all its jobs. The study makes it.

    Args:
        task: Task to train.
        seeds: The study's seeds.
        adapter: Adapter that moves hyperparameters during a training; None moves nothing.
        checkpoints: Store of the states; needed to continue a job.
        objectives: Name of each objective and its direction, ``{"loss": "min"}``.
        save: Keep the state at the end of each job, so that later jobs can continue from it.
        device: Device that a TorchTask is trained on; None leaves it to the task.
        trial_seconds: Time that a trial may take, over all the jobs of its lineage; of a stack, its share.
        threads: Number of torch threads that a training may use.
        study: The study's name.
        files: The folder in which each trial has one for its own files; None where this machine has none.
        limits: Bounds of metrics.
        begun_earlier: The study goes on as a version began it that trained a whole window where less was asked.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.task import as_task
        >>> task = as_task(lambda config: config["x"] ** 2, Space(x=Float(0.0, 5.0)))
        >>> Work(task, Seeds(0)).key(Job(0, {"x": 1.0})) == Seeds(0).key(0, "train")
        True
    """

    task: Task
    seeds: Seeds
    adapter: Adapter | None = None
    checkpoints: Checkpoints | None = None
    objectives: Mapping[str, str] = field(default_factory=lambda: {"loss": "min"})
    save: bool = False
    device: str | None = None
    trial_seconds: float | None = None
    threads: int = 1
    study: str = ""
    files: str | None = None
    limits: Mapping[str, Bounds] = field(default_factory=dict)
    begun_earlier: bool = False

    def seconds_left(self, job: Job, parents: Mapping[int, Result]) -> float | None:
        """Return the seconds that a job has left of its trial's time; None where there is no limit."""
        if self.trial_seconds is None:
            return None
        parent = None if job.parent is None else parents.get(job.parent)
        return self.trial_seconds - (0.0 if parent is None else parent.seconds)

    def key(self, job: Job) -> int:
        """Return the key of all randomness in a job: its own, or that of the job in another study that it repeats."""
        return self.seeds.key(job.tag.get(REPEATS, job.number), "train")


def chunks(
    work: Work, jobs: Sequence[Job], parents: Mapping[int, Result], width: int = MOST_STACKED
) -> list[list[Job]]:
    """Split jobs into groups that :func:`run` can train together, each of at most ``width`` jobs.

    Functions and Trainables are trained one at a time. Of a TorchTask, jobs share a chunk when they can share a
    stack; order is kept inside a group, and groups come in the order of their first job. A job whose model cannot be
    made is left to fail alone.

    Args:
        work: The study's work, as :meth:`luthier.execute.Executor.start` was given it.
        jobs: The jobs.
        parents: The results of the jobs that these continue from, by number.
        width: Jobs of a chunk at most.

    Returns:
        The chunks, each a list of jobs.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.task import as_task
        >>> work = Work(as_task(lambda config: config["x"] ** 2, Space(x=Float(0.0, 5.0))), Seeds(0))
        >>> [[job.number for job in chunk] for chunk in chunks(work, [Job(0, {"x": 1.0}), Job(1, {"x": 2.0})], {})]
        [[0], [1]]
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


def run(
    work: Work,
    jobs: Sequence[Job],
    parents: Mapping[int, Result],
    on_reports: Ask,
    partials: Mapping[int, str] | None = None,
) -> Iterator[Result | Lost]:
    """Train one chunk in this process.

    Args:
        work: Task to train, and its settings.
        jobs: A chunk of :func:`chunks`.
        parents: The results of the jobs that these continue from, by number, with the seconds of their whole lineage.
        on_reports: Called with reports as they are made, and with states as they are saved on the way.
        partials: By number, the states that earlier attempts at these jobs have left.

    Returns:
        The results, as the jobs end. An exception in the user's code is a result with status ``"failed"``;
        under limits, a stack that runs out of memory is trained job by job. A job that
        was halted, or whose state the disk does not take or give, is lost: no result of the training.
        KeyboardInterrupt passes through.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.task import as_task
        >>> work = Work(as_task(lambda config: config["x"] ** 2, Space(x=Float(0.0, 5.0))), Seeds(0))
        >>> [(result.status, result.metrics) for result in run(work, [Job(0, {"x": 3.0})], {}, lambda reports: set())]
        [('ok', {'loss': 9.0})]
    """

    def ask(events: Sequence[Report | Partial]) -> set[int]:
        return guard().deferred(lambda: on_reports(events))

    given = partials or {}
    if not is_torch(work.task):
        for job in jobs:
            yield run_alone(work, job, parents, given, ask)
        return
    from luthier.train.stack import run_stack  # imports torch

    begun, left = time.perf_counter(), {job.number for job in jobs}
    again: list[Job] = []
    try:
        for outcome in run_stack(work, list(jobs), parents, ask, given):
            left.remove(outcome.number)
            yield outcome
        assert not left, f"no result of the jobs {left}"
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except Halt:
        yield from (Lost(number, "asked") for number in sorted(left))
    except StorageTrouble as trouble:
        yield from (Lost(number, trouble.why, str(trouble)) for number in sorted(left))
    except BaseException as error:
        share, text = (time.perf_counter() - begun) / len(jobs), describe(error)
        if work.limits and len(left) > 1 and out_of_memory(text):
            again = [job for job in jobs if job.number in left]  # memory ran out for all, and nobody knows whose fault
        else:
            yield from (Result(number, "failed", seconds=share, error=text) for number in sorted(left))
    for job in again:  # here, where the error no longer holds the stack's tensors
        yield from run(work, [job], parents, on_reports, partials)
