"""Training of a stack of TorchTask jobs: the one loop under every method."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from luthier.adapt.plain import Plain
from luthier.jobs import Job, Lost, Report, Result, Status
from luthier.optional import optional
from luthier.stack.mapped import TURN
from luthier.stack.run import make_runner, stack_width
from luthier.stack.trace import Eager
from luthier.task.batches import Batches
from luthier.task.call import describe
from luthier.task.torch_task import TorchTask
from luthier.train import keep
from luthier.train.alone import over_time
from luthier.train.best import noted, with_best, worn_out
from luthier.train.halt import Halt, Overtime, guard
from luthier.train.keep import Rhythm, StorageTrouble
from luthier.train.members import rows_of, stacked
from luthier.train.saved import Saved, StackMember, begin, save_partials

if TYPE_CHECKING:
    from luthier.task.program import Program, State
    from luthier.train import Ask, Work

SHARED = "shared_"  # prefix of what is measured under weights that many configurations share
PARTIAL_SECONDS = 5.0  # a training that takes longer is saved on the way, at its next measurement


def group_key(work: Work, job: Job, parents: Mapping[int, Result]) -> Hashable:
    """Jobs with equal keys may train as one stack (their ages are told apart later, from their checkpoints)."""
    task, adapter = trainer(work, job)
    before = None if job.parent is None else task.static(dict(parents[job.parent].final))
    return (adapter, task.shared, task.static(job.config), tuple(job.config), before)


def trainer(work: Work, job: Job) -> tuple[TorchTask, Any]:
    """Return a job's task and adapter; where weights are shared, the task has all its choices in one network."""
    assert isinstance(work.task, TorchTask)
    task = work.task.on(work.device)
    adapter: Any = work.adapter or Plain()
    if optional(adapter, "phase"):
        adapter = adapter.phase(job.tag)
    return (task.sharing() if optional(adapter, "shares_weights") else task), adapter


def run_stack(
    work: Work,
    jobs: list[Job],
    parents: Mapping[int, Result],
    ask: Ask,
    partials: Mapping[int, str] | None = None,
) -> Iterator[Result | Lost]:
    """Train jobs with equal :func:`group_key`; yields each result when its member ends.

    Args:
        work: Task, adapter, seeds and checkpoint folder.
        jobs: The jobs.
        parents: Results of the jobs that some of them continue.
        ask: Takes the reports of a moment, returns the numbers of jobs to stop.
        partials: States that earlier attempts at the jobs have left, by number.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(work.threads)  # pools of several processes on the same cores run many times slower
    try:
        yield from _run(work, jobs, parents, ask, partials or {})
    finally:
        torch.set_num_threads(threads)


def _run(
    work: Work, jobs: list[Job], parents: Mapping[int, Result], ask: Ask, partials: Mapping[int, str]
) -> Iterator[Result | Lost]:
    task, adapter = trainer(work, jobs[0])
    program = task.program(jobs[0].config)
    saved = Saved(work, program, parents, partials)
    ages: dict[int, list[Job]] = {}
    for job in jobs:
        try:
            ages.setdefault(saved.age(job), []).append(job)
        except StorageTrouble as trouble:  # of this job's file: the others go on
            yield Lost(job.number, trouble.why, str(trouble))
    for group in ages.values():
        waiting, width = group, 0
        while waiting:
            stop = ask([])  # the study may have stopped them before these have begun
            yield from (Result(job.number, "pruned") for job in waiting if job.number in stop)
            waiting = [job for job in waiting if job.number not in stop]
            guard().check()
            members: list[StackMember] = []
            while waiting and len(members) < max(width, 1):
                member = _begun(work, program, adapter, waiting.pop(0), saved)
                if isinstance(member, StackMember):
                    members.append(member)
                else:
                    yield member
                if members and not width:
                    width = stack_width(program, adapter, members[0].state, 1 + len(waiting))
            if members:
                yield from _train(work, program, adapter, members, ask)


def _begun(work: Work, program: Program, adapter: Any, job: Job, saved: Saved) -> StackMember | Result | Lost:
    """Begin a job; one that cannot begin ends alone."""
    try:
        with guard().allowed():
            return begin(work, program, adapter, job, saved)
    except (KeyboardInterrupt, Halt):
        raise
    except StorageTrouble as trouble:
        return Lost(job.number, trouble.why, str(trouble))
    except BaseException as error:
        return Result(job.number, "failed", error=describe(error))


class _Data:
    """The batches that a stack of members sees."""

    def __init__(self, work: Work, program: Program, adapter: Any, members: list[StackMember]) -> None:
        keys = torch.cat([member.state["key"] for member in members]) if program.task.own_batches else None
        self._window = adapter.window
        self._train = Batches(program, "train", work.seeds, keys)
        self._valid = Batches(program, "valid", work.seeds, keys) if adapter.needs_valid else None

    def at(self, step: int) -> tuple[list[Any], Any]:
        """(minibatches of one adapter step, validation batch or None)."""
        batches = [self._train.at(step + i) for i in range(self._window)]
        return batches, None if self._valid is None else self._valid.at(step // self._window)


def _train(work: Work, program: Program, adapter: Any, members: list[StackMember], ask: Ask) -> Iterator[Result | Lost]:
    """Train members of equal age to their ends; a fault of one of them ends it alone."""
    if any(member.reports for member in members):
        ask([report for member in members for report in member.reports])  # those after the last write were lost
    stack = _Stack(work, program, adapter, members, ask)
    try:
        while stack.active:
            yield from stack.advance()
    except Overtime:
        yield from stack.over()
    except (Halt, KeyboardInterrupt, GeneratorExit):
        guard().deferred(stack.save)
        raise
    except StorageTrouble:
        raise
    except BaseException as error:
        left = stack.left()
        if len(left) == 1:
            yield Result(left[0].job.number, "failed", seconds=left[0].seconds, error=describe(error))
            return
        del stack, error  # and with them the memory that they hold, which may be what was lacking
        for part in (left[: len(left) // 2], left[len(left) // 2 :]):
            yield from _train(work, program, adapter, part, ask)


class _Stack:
    """Members of equal age on their way, as they were at the last measurement.

    A member that ends keeps its row until half of the stack has ended; then the stack is compacted.
    """

    def __init__(self, work: Work, program: Program, adapter: Any, members: list[StackMember], ask: Ask) -> None:
        self._work, self._program, self._adapter, self._ask = work, program, adapter, ask
        self._every = max(1, round(program.epoch_steps * program.task.evaluate_every))
        self._state = stacked([member.state for member in members])
        self._rows = list(members)  # the member in each row of the stack
        self.active = set(range(len(members)))
        self._position = int(self._state["t"][0])
        self._rhythm = Rhythm(PARTIAL_SECONDS)
        self._whole = True  # the state is that of the last measurement

    def advance(self) -> Iterator[Result]:
        """Train until half of the stack has ended, and compact it."""
        window, rows = self._adapter.window, self._rows
        through = [i for i in sorted(self.active) if rows[i].end <= self._position]  # it was cut off there
        if through:
            yield from self._finish({i: _status(rows[i], rows[i].reports[-1], self._position, set()) for i in through})
            if not self.active:
                return
        data = _Data(self._work, self._program, self._adapter, rows)
        ahead = max(rows[i].end for i in self.active) - self._position
        with TURN, guard().limit(self._patience()):
            runner = make_runner(self._program, self._adapter, self._state, data, self._position, ahead // window)
        while 2 * len(self.active) > len(rows):
            try:
                reports = self._to_next_measurement(runner, data)
            except Exception as error:
                if not runner.traced or not self._whole:
                    raise
                runner = self._eager(error)
                data = _Data(self._work, self._program, self._adapter, rows)
                reports = self._to_next_measurement(runner, data)
            stop = self._ask(list(reports.values()))
            ended: dict[int, Status] = {}
            for i, report in reports.items():
                status = _status(rows[i], report, self._position, stop)
                if status is None and worn_out(self._work, self._program, rows[i].reports):
                    status = "ok"
                if status is not None:
                    ended[i] = status
            if ended:
                yield from self._finish(ended)
            if self.active:
                guard().check()
                if self._rhythm.due and self._work.checkpoints:
                    self._rhythm.save(lambda: guard().deferred(self._write))
        rest = sorted(self.active)  # half of the stack has ended
        self._state, self._rows = rows_of(self._state, rest), [rows[i] for i in rest]
        self.active = set(range(len(rest)))

    def _to_next_measurement(self, runner: Any, data: _Data) -> dict[int, Report]:
        window, rows, start = self._adapter.window, self._rows, self._position
        clock, position = time.perf_counter(), start
        due = start + -(-(self._every - start % self._every) // window) * window  # first whole window past one
        due = min(due, *(rows[i].end for i in self.active))
        total: Tensor | float = 0.0
        metrics: dict[str, Tensor] = {}
        self._whole = not runner.traced  # a traced step writes over the state
        kept = None if self._whole else tree_map(Tensor.clone, runner.state)
        with TURN, guard().limit(self._patience()):
            try:
                while position < due:
                    metrics = runner(*data.at(position))
                    total = total + metrics["train_loss"]
                    position += window
            except Exception:
                if kept is not None:
                    self._state, self._whole = kept, True
                raise
            state = runner.state
            measured = {**metrics, **_measured(self._program, state)}
            measured["train_loss"] = total * window / (position - start)
            reports = _reports(self._program, self._adapter, state, rows, self.active, position, measured)
        self._state, self._position, self._whole = state, position, True
        share = (time.perf_counter() - clock) / len(self.active)
        for i, report in reports.items():
            rows[i].reports.append(report)
            rows[i].seconds += share
            rows[i].best = noted(self._work, self._program, state, i, rows[i].reports, rows[i].best)
        return reports

    def _eager(self, error: Exception) -> Eager:
        """The eager form from the last measurement on, after a trace has failed."""
        text = (
            f"a trace failed after step {self._position} ({describe(error).splitlines()[-1]}): that stack ran eagerly"
        )
        warnings.warn(text, stacklevel=2)
        self._program.notes.append(text)
        return Eager(
            lambda state, batches, valid: self._adapter.step(self._program, state, batches, valid), self._state
        )

    def _patience(self) -> float | None:
        """Seconds within which the next measurement must come: the least that a member has left, times the members."""
        members = [self._rows[i] for i in self.active]
        left = [member.limit - member.seconds for member in members if member.limit is not None]
        return max(0.0, min(left)) * len(members) if left else None

    def left(self) -> list[StackMember]:
        """The members that have not ended, where they were measured last, or at their start where that is lost."""
        members = [self._rows[i] for i in sorted(self.active)]
        if self._whole:
            return [replace(self._rows[i], state=rows_of(self._state, [i])) for i in sorted(self.active)]
        ages = [int(member.state["t"][0]) for member in members]
        kept = [[one for one in m.reports if one.step <= age] for m, age in zip(members, ages, strict=True)]
        return [replace(member, reports=reports) for member, reports in zip(members, kept, strict=True)]

    def save(self) -> None:
        """Save how far all members have come, where that is possible."""
        if self._whole and self._work.checkpoints:
            self._rhythm.save(self._write)

    def _write(self) -> None:
        assert self._work.checkpoints
        save_partials(self._work.checkpoints, self._state, self._rows, sorted(self.active), self._ask)

    def over(self) -> Iterator[Result]:
        """The results of members that did not come to their next measurement within the time of their trials."""
        reported = sorted(i for i in self.active if self._rows[i].reports)
        for i in sorted(self.active - set(reported)):
            member = self._rows[i]
            yield Result(member.job.number, "failed", seconds=member.seconds, error=over_time(self._work))
        yield from self._finish(dict.fromkeys(reported, "pruned"), keeps=self._whole)

    def _finish(self, ended: Mapping[int, Status | None], keeps: bool = True) -> Iterator[Result]:
        """Copy ended members out, one file for all of them, then yield their results."""
        rows, position, checkpoints = self._rows, self._position, self._work.checkpoints
        kept = [i for i, status in ended.items() if status != "diverged"]
        file = None
        if kept and self._work.save and checkpoints and keeps:
            numbers = [rows[i].job.number for i in kept]
            state, name = with_best(self._state, rows, kept), f"jobs-{numbers[0]}-{position}"
            file = guard().deferred(lambda: keep.save(checkpoints, name, state, {"jobs": numbers}))
        for i, status in ended.items():
            member, report = rows[i], rows[i].reports[-1]
            self.active.discard(i)
            yield Result(
                number=member.job.number,
                status=status or "ok",
                metrics=report.metrics,
                steps=position - member.start,
                final=_active(self._program, member.job, {**member.job.config, **report.hyperparameters}),
                seconds=member.seconds,
                checkpoint=(file, kept.index(i)) if file is not None and i in kept else None,
            )


def _status(member: StackMember, report: Report, position: int, stop: set[int]) -> Status | None:
    losses = [value for name, value in report.metrics.items() if name in ("loss", f"{SHARED}loss", "train_loss")]
    if not all(map(math.isfinite, losses)):
        return "diverged"
    if member.end <= position:
        return "ok"
    over = member.limit is not None and member.seconds >= member.limit
    return "pruned" if over or member.job.number in stop else None


def _measured(program: Program, state: State) -> dict[str, Tensor]:
    """Loss and metrics on the validation split, under other names where weights are shared, since they judge others."""
    prefix = SHARED if program.task.shared else ""
    return {prefix + name: value for name, value in program.evaluate(state, "valid").items()}


def _reports(
    program: Program,
    adapter: Any,
    state: State,
    rows: list[StackMember],
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
    """Return the moved values without the names that others have made inactive, where weights are shared."""
    if not program.task.shared:
        return dict(moved)
    names = program.task.space.active({**job.config, **moved})
    return {name: value for name, value in moved.items() if name in names}
