"""Starting points of a stack's trainings: afresh, at their parents' ends, or where an earlier attempt was cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from luthier.adapt.window import whole
from luthier.errors import CheckpointError, TaskError
from luthier.jobs import Job, Partial, Report, Result
from luthier.train.best import with_best, without_best
from luthier.train.keep import load, load_partial, log
from luthier.train.members import on_device, rows_of

if TYPE_CHECKING:
    from luthier.store.checkpoints import Checkpoints
    from luthier.task.program import Program, State
    from luthier.train import Ask, Work


@dataclass
class StackMember:
    """One job on its way through a stack."""

    job: Job
    state: State  # a stack of one: where it starts from here
    start: int  # steps of its lineage before this job
    end: int
    reports: list[Report] = field(default_factory=list)
    seconds: float = 0.0
    limit: float | None = None  # seconds that it may take
    best: Any = None  # the weights of its best measurement, a stack of one, where they are kept
    saved: int = -1  # the age in steps at which it was last saved on the way


class Saved:
    """States left on disk for some jobs by their parents and by earlier attempts that were cut off."""

    def __init__(
        self, work: Work, program: Program, parents: Mapping[int, Result], partials: Mapping[int, str]
    ) -> None:
        self._checkpoints, self._program, self.parents = work.checkpoints, program, parents
        self._files: dict[str, tuple[State, dict[str, Any]] | None] = {}
        self._partials = partials if work.checkpoints else {}

    def partial(self, job: Job) -> tuple[State, dict[str, Any]] | None:
        """The state in which an earlier attempt at the job was last saved, and what it had measured."""
        file = self._partials.get(job.number)
        return None if file is None else self._load(file, load_partial)

    def parent(self, job: Job) -> tuple[State, Mapping[str, Any]] | None:
        """The state, a stack of one, and the hyperparameters at the end of the job's parent."""
        if job.parent is None:
            return None
        result = self.parents[job.parent]
        if result.checkpoint is None:
            raise CheckpointError(
                f"its parent, job {job.parent}, has no checkpoint",
                where=f"job {job.number}",
                remedy="Only a job that ended well can be continued.",
            )
        file, row = result.checkpoint
        return rows_of(self._state(file), [row]), result.final

    def age(self, job: Job) -> int:
        """Steps of the job's lineage at the moment from which it goes on."""
        partial = self.partial(job)
        if partial is not None:
            return int(partial[0]["t"][0])
        checkpoint = None if job.parent is None else self.parents[job.parent].checkpoint
        if checkpoint is None:
            return 0
        file, row = checkpoint
        return int(self._state(file)["t"][row])

    def _state(self, file: str) -> State:
        found = self._load(file, load)
        assert found is not None
        return found[0]

    def _load(self, file: str, read: Callable[..., Any]) -> tuple[State, dict[str, Any]] | None:
        if file not in self._files:
            found = read(self._checkpoints, file)
            self._files[file] = None if found is None else (on_device(found[0], self._program), found[1])
        return self._files[file]


def begin(work: Work, program: Program, adapter: Any, job: Job, saved: Saved) -> StackMember:
    """The starting point of a job: afresh, at its parent's end, or where it was cut off."""
    state, partial = _first(work, program, adapter, job, saved), saved.partial(job)
    limit = work.seconds_left(job, saved.parents)
    if partial is not None and _is_of(partial, job, state):
        (kept, best), meta = without_best(partial[0]), partial[1]
        state = {**kept, "hyper": {**program.hyper(job.config), **kept["hyper"]}}
        reports = [Report(job.number, *report) for report in meta["reports"]]
        age = int(state["t"][0])
        return StackMember(job, state, meta["start"], meta["end"], reports, meta["seconds"], limit, best, age)
    start = int(state["t"][0])
    asked = max(job.steps, adapter.window) if work.begun_earlier else job.steps
    return StackMember(job, state, start, start + whole(adapter, asked, f"job {job.number}"), limit=limit)


def _first(work: Work, program: Program, adapter: Any, job: Job, saved: Saved) -> State:
    """The state in which a job begins: afresh, or at its parent's end."""
    key = work.key(job)
    parent = saved.parent(job)
    if parent is None:
        return adapter.init(program, job.config, key)
    before, final = without_best(parent[0])[0], parent[1]
    if program.task.static(dict(final)) != program.static:
        fresh = adapter.init(program, job.config, key)
        slots = before["opt"] if getattr(program.optimizer, "starts_empty", False) else fresh["opt"]
        _check_fits(job, before, {**fresh, "opt": slots})
    overwrite = {name: value for name, value in job.config.items() if name not in final or final[name] != value}
    return adapter.init(program, job.config, key, before, overwrite)


def _is_of(partial: tuple[State, dict[str, Any]], job: Job, fresh: State) -> bool:
    """Return True if a partial state belongs to this very job and to its network as it is now."""
    state, meta = partial
    if meta.get("config") != repr(dict(job.config)) or not torch.equal(state["key"], fresh["key"]):
        return False
    there, here = (
        {pytree.keystr(path): tuple(leaf.shape) for path, leaf in pytree.tree_flatten_with_path(tree)[0]}
        for tree in ({part: whole[part] for part in ("params", "buffers", "opt")} for whole in (state, fresh))
    )
    if there != here:
        log.warning("job %d begins anew: its half-trained state is of another network", job.number)
    return there == here


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


def save_partials(
    checkpoints: Checkpoints, state: State, rows: list[StackMember], active: Iterable[int], ask: Ask
) -> None:
    """Save how far members of a stack have come, a file each."""
    for i in active:
        member, age = rows[i], int(state["t"][i])
        if age <= max(member.start, member.saved):
            continue
        reports = [[report.step, dict(report.metrics), dict(report.hyperparameters)] for report in member.reports]
        of = repr(dict(member.job.config))
        meta = {"config": of, "start": member.start, "end": member.end, "seconds": member.seconds, "reports": reports}
        file = checkpoints.save(f"partial-{member.job.number}", with_best(state, rows, [i]), meta)
        member.saved = age
        ask([Partial(member.job.number, file, age - member.start)])
