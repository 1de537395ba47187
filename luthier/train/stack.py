"""Training of a stack of TorchTask jobs: the one loop under every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from luthier.adapt.plain import Plain
from luthier.errors import CheckpointError, MethodError, TaskError
from luthier.jobs import Job, Report, Result, Status
from luthier.stack.run import make_runner, measured_width
from luthier.task.batches import Batches
from luthier.task.torch_task import TorchTask

if TYPE_CHECKING:
    from luthier.store.checkpoints import Checkpoints
    from luthier.task.program import Program, State
    from luthier.train import Work

PARTIAL = "partial-"  # how the file of a job in the middle of its training is called
SHARED = "shared_"  # before the name of what is measured under weights that many configurations share
PARTIAL_SECONDS = 30.0  # a training that takes longer is saved on the way, at its next measurement


@dataclass
class Member:
    """One job on its way through a stack."""

    job: Job
    state: State  # a stack of one: where it starts from here
    start: int  # steps of its lineage before this job
    end: int
    reports: list[Report] = field(default_factory=list)
    seconds: float = 0.0
    partial: str | None = None  # the file that it could be resumed from


def group_key(work: Work, job: Job, parents: Mapping[int, Result]) -> Hashable:
    """Jobs with equal keys may train as one stack (their ages are told apart later, from their checkpoints)."""
    task, adapter = _trainer(work, job)
    before = None if job.parent is None else task.static(dict(parents[job.parent].final))
    return (adapter, task.shared, task.static(job.config), tuple(job.config), before)


def _trainer(work: Work, job: Job) -> tuple[TorchTask, Any]:
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
    task, adapter = _trainer(work, jobs[0])
    program = task.program(jobs[0].config)
    saved = _Saved(work, program, jobs, parents)
    ages: dict[int, list[Job]] = {}
    for job in jobs:
        ages.setdefault(saved.age(job), []).append(job)
    for group in ages.values():
        first = [_begin(work, program, adapter, group[0], saved)]
        data = _Data(work, program, adapter, first)
        width = measured_width(program, adapter, first[0].state, data, len(group))
        for i in range(0, len(group), width):
            stop = on_reports([])  # the time may be up before these have begun
            yield from (Result(job.number, "pruned") for job in group[i : i + width] if job.number in stop)
            members = [_begin(work, program, adapter, j, saved) for j in group[i : i + width] if j.number not in stop]
            if members:
                yield from _train(work, program, adapter, members, on_reports)


class _Saved:
    """What parents, and earlier attempts that were cut off, have left on disk for some jobs."""

    def __init__(self, work: Work, program: Program, jobs: list[Job], parents: Mapping[int, Result]) -> None:
        self._checkpoints, self._program, self._parents = work.checkpoints, program, parents
        self._files: dict[str, tuple[State, dict[str, Any]]] = {}
        numbers = {job.number for job in jobs}
        files = work.checkpoints.files() if work.checkpoints else []
        found = {int(file.split("-")[1]): file for file in files if file.startswith(PARTIAL)}
        self.partials = {number: file for number, file in found.items() if number in numbers}

    def partial(self, job: Job) -> tuple[State, dict[str, Any]] | None:
        """The state in which an earlier attempt at the job was last saved, and what it had measured."""
        return self._load(self.partials[job.number]) if job.number in self.partials else None

    def parent(self, job: Job) -> tuple[State, Mapping[str, Any]] | None:
        """The state, a stack of one, and the hyperparameters at the end of the job's parent."""
        if job.parent is None:
            return None
        result = self._parents[job.parent]
        if result.checkpoint is None:
            raise CheckpointError(
                f"its parent, job {job.parent}, has no checkpoint",
                where=f"job {job.number}",
                remedy="Only a job that ended well can be continued.",
            )
        file, row = result.checkpoint
        return _rows(self._load(file)[0], [row]), result.final

    def age(self, job: Job) -> int:
        """Steps of the job's lineage at the moment from which it goes on."""
        partial = self.partial(job)
        if partial is not None:
            return int(partial[0]["t"][0])
        checkpoint = None if job.parent is None else self._parents[job.parent].checkpoint
        if checkpoint is None:
            return 0
        file, row = checkpoint
        return int(self._load(file)[0]["t"][row])

    def _load(self, file: str) -> tuple[State, dict[str, Any]]:
        if file not in self._files:
            assert self._checkpoints is not None
            state, meta = self._checkpoints.load(file)
            self._files[file] = _to(state, self._program), meta
        return self._files[file]


def _begin(work: Work, program: Program, adapter: Any, job: Job, saved: _Saved) -> Member:
    partial = saved.partial(job)
    if partial is not None:
        state, meta = partial
        reports = [Report(job.number, *report) for report in meta["reports"]]
        return Member(job, state, meta["start"], meta["end"], reports, meta["seconds"], saved.partials[job.number])
    key = work.key(job)
    parent = saved.parent(job)
    if parent is None:
        state = adapter.init(program, job.config, key)
    else:
        before, final = parent
        if program.task.static(dict(final)) != program.static:
            _check_fits(job, before, adapter.init(program, job.config, key))
        overwrite = {name: value for name, value in job.config.items() if name not in final or final[name] != value}
        state = adapter.init(program, job.config, key, before, overwrite)
    start = int(state["t"][0])
    return Member(job, state, start, start + max(adapter.window, job.steps // adapter.window * adapter.window))


def _check_fits(job: Job, before: State, fresh: State) -> None:
    """Refuse to go on with the state of another network than the one that the job's configuration describes."""
    for part in ("params", "buffers", "opt"):
        there, here = (
            {pytree.keystr(path): tuple(leaf.shape[1:]) for path, leaf in pytree.tree_flatten_with_path(state[part])[0]}
            for state in (before, fresh)
        )
        for name in {**there, **here}:
            if there.get(name) != here.get(name):
                raise TaskError(
                    f"the state of job {job.parent} does not fit its network: {part}{name} is {there.get(name)} there "
                    f"and {here.get(name)} here",
                    where=f"job {job.number}",
                    remedy="A hyperparameter that shapes the network or its optimizer cannot change while weights"
                    " go on: leave it out of the method's mutate=.",
                )


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
    state = _stack([member.state for member in members])
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
                _save_partial(work.checkpoints, state, rows, active)
                saved = time.monotonic()
        keep = sorted(active)  # compact: half of the stack has ended
        state, rows, active = _rows(state, keep), [rows[i] for i in keep], set(range(len(keep)))


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
        file = work.checkpoints.save(f"jobs-{numbers[0]}-{position}", _rows(state, kept), {"jobs": numbers})
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


def _save_partial(checkpoints: Checkpoints, state: State, rows: list[Member], active: set[int]) -> None:
    for i in active:
        member, old = rows[i], rows[i].partial
        reports = [[report.step, dict(report.metrics), dict(report.hyperparameters)] for report in member.reports]
        meta = {"start": member.start, "end": member.end, "seconds": member.seconds, "reports": reports}
        member.partial = checkpoints.save(f"{PARTIAL}{member.job.number}", _rows(state, [i]), meta)
        if old is not None:
            checkpoints.remove([old])


def _stack(states: list[State]) -> State:
    return _map(lambda *tensors: torch.cat(tensors), *states)


def _rows(state: State, rows: list[int]) -> State:
    """Copies of some members."""
    if len(rows) == 1:
        return _map(lambda tensor: tensor[rows[0] : rows[0] + 1].clone(), state)
    return _map(lambda tensor: tensor[rows], state)


def _to(state: State, program: Program) -> State:
    """A state from the disk, on the device that trains it."""
    return _map(lambda tensor: tensor.to(program.device), state)


def _map(function: Callable[..., Tensor], *states: Any) -> Any:
    """``function`` of the tensors in each place; on nested dicts many times faster than pytree, which does the rest."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if type(first) is dict:
        return {name: _map(function, *(state[name] for state in states)) for name in first}
    return pytree.tree_map(function, *states)


def final_test(work: Work, job: Job, result: Result) -> dict[str, float]:
    """Loss and metrics of a finished job on the test split. Call it once, for the configuration a study ends with."""
    program, state = _restore(work, job, result)
    return {name: float(value) for name, value in program.evaluate(state, "test").items()}


def load_model(work: Work, job: Job, result: Result) -> nn.Module:
    """The user's module with the weights at the end of a job, in evaluation mode."""
    program, state = _restore(work, job, result)
    return program.module(dict(result.final) or job.config, state)


def load_response(work: Work, job: Job, result: Result) -> Any:
    """What the adapter has learnt in a job of how the weights respond.

    Raises:
        MethodError: If it learns nothing of the kind.
    """
    if not callable(getattr(work.adapter, "response", None)):
        raise MethodError(
            f"{work.adapter or 'plain training'} does not learn how the weights respond",
            where=f"job {job.number}",
            remedy="Tune with lt.adapt.Hypernet().",
        )
    program, state = _restore(work, job, result)
    return work.adapter.response(program, job.config, state)  # type: ignore[union-attr]


def _restore(work: Work, job: Job, result: Result) -> tuple[Program, State]:
    if result.checkpoint is None or work.checkpoints is None:
        raise CheckpointError(
            "no checkpoint was kept",
            where=f"job {job.number}",
            remedy="Checkpoints are kept for the best job of a study and for those that others may continue.",
        )
    file, row = result.checkpoint
    state, _ = work.checkpoints.load(file)
    program = _trainer(work, job)[0].program(job.config)
    return program, _to(_rows(state, [row]), program)
