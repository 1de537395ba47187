"""Training of a stack of TorchTask jobs: the one loop under every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.adapt.plain import Plain
from luthier.jobs import Job, Report, Result, Status
from luthier.stack.run import make_runner, stack_width
from luthier.task.batches import Batches
from luthier.task.torch_task import TorchTask
from luthier.train.members import rows_of, stacked
from luthier.train.saved import Member, Saved, begin, save_partial

if TYPE_CHECKING:
    from luthier.task.program import Program, State
    from luthier.train import Work

SHARED = "shared_"  # before the name of what is measured under weights that many configurations share
PARTIAL_SECONDS = 30.0  # a training that takes longer is saved on the way, at its next measurement


def group_key(work: Work, job: Job, parents: Mapping[int, Result]) -> Hashable:
    """Jobs with equal keys may train as one stack (their ages are told apart later, from their checkpoints)."""
    task, adapter = trainer(work, job)
    before = None if job.parent is None else task.static(dict(parents[job.parent].final))
    return (adapter, task.shared, task.static(job.config), tuple(job.config), before)


def trainer(work: Work, job: Job) -> tuple[TorchTask, Any]:
    """What trains a job: the task, with all its choices in one network where weights are shared, and the adapter."""
    assert isinstance(work.task, TorchTask)
    task = work.task.on(work.device)
    adapter: Any = work.adapter or Plain()
    if hasattr(adapter, "phase"):
        adapter = adapter.phase(job.tag)
    return (task.sharing() if getattr(adapter, "shares_weights", False) else task), adapter


def run_stack(
    work: Work, jobs: list[Job], parents: Mapping[int, Result], on_reports: Callable[[list[Report]], set[int]]
) -> Iterator[Result]:
    """Train jobs with equal :func:`group_key`; yields each result when its member ends.

    Args:
        work: Task, adapter, seeds and checkpoint folder.
        jobs: The jobs.
        parents: Results of the jobs that some of them continue.
        on_reports: Takes the reports of a moment, returns the numbers of jobs to stop.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # pools of several processes on the same cores run many times slower
    try:
        yield from _run(work, jobs, parents, on_reports)
    finally:
        torch.set_num_threads(threads)


def _run(
    work: Work, jobs: list[Job], parents: Mapping[int, Result], on_reports: Callable[[list[Report]], set[int]]
) -> Iterator[Result]:
    task, adapter = trainer(work, jobs[0])
    program = task.program(jobs[0].config)
    saved = Saved(work, program, jobs, parents)
    ages: dict[int, list[Job]] = {}
    for job in jobs:
        ages.setdefault(saved.age(job), []).append(job)
    for group in ages.values():
        first = begin(work, program, adapter, group[0], saved)
        width = stack_width(program, adapter, first.state, len(group))
        for i in range(0, len(group), width):
            stop = on_reports([])  # the time may be up before these have begun
            yield from (Result(job.number, "pruned") for job in group[i : i + width] if job.number in stop)
            members = [begin(work, program, adapter, j, saved) for j in group[i : i + width] if j.number not in stop]
            if members:
                yield from _train(work, program, adapter, members, on_reports)


class _Data:
    """The batches that a stack of members sees."""

    def __init__(self, work: Work, program: Program, adapter: Any, members: list[Member]) -> None:
        keys = torch.cat([member.state["key"] for member in members]) if program.task.own_batches else None
        self._window = adapter.window
        self._train = Batches(program, "train", work.seeds, keys)
        self._valid = Batches(program, "valid", work.seeds, keys) if adapter.needs_valid else None

    def at(self, step: int) -> tuple[list[Any], Any]:
        """(minibatches of one adapter step, validation batch or None)."""
        batches = [self._train.at(step + i) for i in range(self._window)]
        return batches, None if self._valid is None else self._valid.at(step // self._window)


def _train(
    work: Work, program: Program, adapter: Any, members: list[Member], on_reports: Callable[[list[Report]], set[int]]
) -> Iterator[Result]:
    """Train members of equal age to their ends."""
    window = adapter.window
    every = max(1, round(program.epoch_steps * program.task.evaluate_every))
    state = stacked([member.state for member in members])
    rows = list(members)  # the member in each row of the stack; a row stays when its member has ended
    active = set(range(len(rows)))
    position = int(state["t"][0])
    if any(member.reports for member in members):
        on_reports([report for member in members for report in member.reports])  # those after the last write were lost
    saved = time.monotonic()
    while active:
        data = _Data(work, program, adapter, rows)
        ahead = max(rows[i].end for i in active) - position
        runner = make_runner(program, adapter, state, data, position, ahead // window)
        while 2 * len(active) > len(rows):
            clock = time.perf_counter()
            start = position
            due = position + -(-(every - position % every) // window) * window  # first whole window past a measurement
            due = min(due, *(rows[i].end for i in active))
            total: Tensor | float = 0.0
            metrics: dict[str, Tensor] = {}
            while position < due:
                metrics = runner(*data.at(position))
                total = total + metrics["train_loss"]
                position += window
            state = runner.state
            measured = {**metrics, **_measured(program, state)}
            measured["train_loss"] = total * window / (position - start)
            share = (time.perf_counter() - clock) / len(active)
            reports = _reports(program, adapter, state, rows, active, position, measured)
            for i, report in reports.items():
                rows[i].reports.append(report)
                rows[i].seconds += share
            stop = on_reports(list(reports.values()))
            ended: dict[int, Status] = {}
            for i, report in reports.items():
                status = _status(rows[i], report, position, stop)
                if status is not None:
                    ended[i] = status
            if ended:
                yield from _finish(work, program, state, rows, ended, position)
                active -= set(ended)
            if active and time.monotonic() - saved > PARTIAL_SECONDS and work.checkpoints:
                save_partial(work.checkpoints, state, rows, active)
                saved = time.monotonic()
        keep = sorted(active)  # compact: half of the stack has ended
        state, rows, active = rows_of(state, keep), [rows[i] for i in keep], set(range(len(keep)))


def _status(member: Member, report: Report, position: int, stop: set[int]) -> Status | None:
    losses = [value for name, value in report.metrics.items() if name in ("loss", f"{SHARED}loss", "train_loss")]
    if not all(map(math.isfinite, losses)):
        return "diverged"
    if member.end <= position:
        return "ok"
    return "pruned" if member.job.number in stop else None


def _measured(program: Program, state: State) -> dict[str, Tensor]:
    """Loss and metrics on the validation split; under shared weights by other names, for they judge other things."""
    prefix = SHARED if program.task.shared else ""
    return {prefix + name: value for name, value in program.evaluate(state, "valid").items()}


def _reports(
    program: Program,
    adapter: Any,
    state: State,
    rows: list[Member],
    active: set[int],
    position: int,
    measured: Mapping[str, Tensor],
) -> dict[int, Report]:
    columns = {name: value.tolist() for name, value in measured.items()}
    moved = {name: program.values(name, value) for name, value in adapter.hyperparameters(state).items()}
    return {
        i: Report(
            rows[i].job.number,
            position,
            {name: column[i] for name, column in columns.items()},
            _active(program, rows[i].job, {name: column[i] for name, column in moved.items()}),
        )
        for i in sorted(active)
    }


def _active(program: Program, job: Job, moved: Mapping[str, Any]) -> dict[str, Any]:
    """What was moved without the names that other names have made inactive, where weights are shared."""
    if not program.task.shared:
        return dict(moved)
    names = program.task.space.active({**job.config, **moved})
    return {name: value for name, value in moved.items() if name in names}


def _finish(
    work: Work, program: Program, state: State, rows: list[Member], ended: Mapping[int, Status], position: int
) -> Iterator[Result]:
    """Copy ended members out, one file for all of them, then yield their results."""
    kept = [i for i, status in ended.items() if status != "diverged"]
    file = None
    if kept and work.save and work.checkpoints:
        numbers = [rows[i].job.number for i in kept]
        file = work.checkpoints.save(f"jobs-{numbers[0]}-{position}", rows_of(state, kept), {"jobs": numbers})
    for i, status in ended.items():
        member, report = rows[i], rows[i].reports[-1]
        yield Result(
            number=member.job.number,
            status=status,
            metrics=report.metrics,
            steps=position - member.start,
            final=_active(program, member.job, {**member.job.config, **report.hyperparameters}),
            seconds=member.seconds,
            checkpoint=(file, kept.index(i)) if file is not None and i in kept else None,
        )
        if member.partial is not None and work.checkpoints:
            work.checkpoints.remove([member.partial])
