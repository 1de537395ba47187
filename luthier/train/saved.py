"""Where the trainings of a stack begin: afresh, at their parents' ends, or where an earlier attempt was cut off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree

from luthier.errors import CheckpointError, TaskError
from luthier.jobs import Job, Report, Result
from luthier.train.members import on_device, rows_of

if TYPE_CHECKING:
    from luthier.store.checkpoints import Checkpoints
    from luthier.task.program import Program, State
    from luthier.train import Work

PARTIAL = "partial-"  # how the file of a job in the middle of its training is called


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


class Saved:
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
        return rows_of(self._load(file)[0], [row]), result.final

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
            self._files[file] = on_device(state, self._program), meta
        return self._files[file]


def begin(work: Work, program: Program, adapter: Any, job: Job, saved: Saved) -> Member:
    """A job where it starts from here, on whichever of the three grounds there are."""
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
            fresh = adapter.init(program, job.config, key)
            slots = before["opt"] if getattr(program.optimizer, "starts_empty", False) else fresh["opt"]
            _check_fits(job, before, {**fresh, "opt": slots})
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


def save_partial(checkpoints: Checkpoints, state: State, rows: list[Member], active: set[int]) -> None:
    """Write down how far each active member of a stack has come, a file each, in place of the one before."""
    for i in active:
        member, old = rows[i], rows[i].partial
        reports = [[report.step, dict(report.metrics), dict(report.hyperparameters)] for report in member.reports]
        meta = {"start": member.start, "end": member.end, "seconds": member.seconds, "reports": reports}
        member.partial = checkpoints.save(f"{PARTIAL}{member.job.number}", rows_of(state, [i]), meta)
        if old is not None:
            checkpoints.remove([old])
