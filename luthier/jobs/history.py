"""The record of a study: all jobs, reports, results and notes, in columns that proposers read."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from luthier.errors import StudyError
from luthier.jobs.records import (
    ENQUEUED,
    OK,
    PENDING,
    STATUS_CODES,
    Event,
    Foreign,
    Job,
    Note,
    Report,
    Result,
    Succession,
)
from luthier.limits import Bounds, merits, out_of_memory, violation
from luthier.space import Config, Space

State = TypeVar("State")


class History:
    """All that is known of a study: columnar, append-only, incremental.

    Job ``n`` is row ``n`` of every column. Appending is O(1) amortised; nothing here is ever rescanned, and a
    proposer that wants statistics of its own keeps them with :meth:`fold`.

    A job that the user tries again (:attr:`reopened`) keeps its old result for everybody until the new one comes, which
    then takes the old one's place in :attr:`events`, as if the job had never ended otherwise. So what a proposer sees
    is at every moment a function of the :attr:`log` up to there, and replaying the log gives the same proposals.

    Args:
        space: The search space.
        objectives: Name of each objective and its direction, ``{"loss": "min"}``. Inside, all are minimised: the
            value of a ``"max"`` objective is negated in :attr:`values`.
        limits: Bounds of metrics, see :mod:`luthier.limits`: the :attr:`values` of what lies outside are above those
            of all that lies inside.
        whole: True where a result without a limited metric violates its limit; of the history that an inner proposer
            sees, whose results are another's reports, it is False.

    Examples:
        >>> from luthier.space import Float
        >>> history = History(Space(x=Float(0, 1)), {"loss": "min"})
        >>> history.add(Job(0, {"x": 0.25})); history.add(Result(0, "ok", {"loss": 3.0}))
        >>> history.best, history.values[0, 0].item(), len(history.pending)
        (0, 3.0, 0)
    """

    def __init__(
        self,
        space: Space,
        objectives: Mapping[str, str] | None = None,
        limits: Mapping[str, Bounds] | None = None,
        whole: bool = True,
    ) -> None:
        self.space = space
        self.limits: dict[str, Bounds] = {name: (low, high) for name, (low, high) in (limits or {}).items()}
        self._whole = whole
        self.objectives: dict[str, str] = dict(objectives or {"loss": "min"})
        self._signs = [-1.0 if mode == "max" else 1.0 for mode in self.objectives.values()]
        self.events: list[Event] = []
        self.log: list[Event | Note] = []  # all that was said, in the one order
        self.times: list[float] = []  # of the log: seconds since 1970 by the store's clock, NaN where not known
        self.jobs: list[Job] = []
        self.results: list[Result | None] = []
        self.reports: dict[int, list[Report]] = {}
        self.pending: dict[int, Job] = {}
        self.arrival: list[int] = []  # job numbers in the order in which their results came
        self.best: int | None = None  # job number of the lowest first objective among those that are feasible
        self.notes: list[Note] = []
        self.reopened: dict[int, list[Report]] = {}  # jobs that are tried again, and what they have reported since
        self.enqueued: list[Config] = []  # the user's own configurations, in order
        self.given: dict[int, int] = {}  # place in enqueued: the job that tries it
        self.foreign: list[Foreign] = []
        self.stops: list[str] = []  # reasons of the stop requests, in order
        self.fingerprints: list[tuple[int, str]] = []  # (first job, what identifies the task's code from there on)
        self.methods: list[Succession] = []  # each time that another method went on with the study
        self.before: set[int] = set()  # jobs that the method has not proposed, in what it is shown: propose/sight.py
        self.cursor: tuple[int, int] = (
            0,
            0,
        )  # the store's own: how far it has filled this history, and len(log) there
        self._encoded = 0
        self._folds: dict[Hashable, tuple[int, Any]] = {}
        width = len(space.columns)
        self._columns: dict[str, np.ndarray] = {
            "codes": np.empty((0, width)),
            "mask": np.empty((0, width), dtype=bool),
            "values": np.empty((0, len(self.objectives))),
            "measured": np.empty((0, len(self.objectives))),
            "violation": np.empty(0),
            "status": np.empty(0, dtype=np.int8),
            "parent": np.empty(0, dtype=np.int64),
            "steps": np.empty(0, dtype=np.int64),
            "age": np.empty(0, dtype=np.int64),
            "asked": np.empty(0),
            "ended": np.empty(0),
        }

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        return f"History({len(self)} jobs, {len(self.pending)} running, best {self.best})"

    def add(self, event: Event | Note, at: float = np.nan) -> None:
        """Append a job, a report, a result or a note.

        A report whose step is not past the job's last one is an event, but not a point of the job's curve.

        Args:
            event: The event.
            at: Time of the event, in seconds since 1970.

        Raises:
            StudyError: If the job's number is not the next one, or the event is of an unknown or finished job.
        """
        if isinstance(event, Note):
            self._add_note(event)
        elif event.number in self.reopened and not isinstance(event, Job):
            self._add_again(event, at)
        else:
            if isinstance(event, Report):
                if event.number not in self.pending:
                    self._check_running(event.number, "report")  # raises
                curve = self.reports.setdefault(event.number, [])
                if not curve or event.step > curve[-1].step:  # a job that was taken over repeats what it has said
                    curve.append(event)
            elif isinstance(event, Job):
                self._add_job(event, at)
            else:
                self._add_result(event, at)
            self.events.append(event)
        self.log.append(event)
        self.times.append(at)

    def add_reports(self, reports: Sequence[Report], at: float = np.nan) -> None:
        """Append reports as :meth:`add` does, those of running jobs all at once."""
        if not all(report.number in self.pending for report in reports):
            for report in reports:
                self.add(report, at)
            return
        curves = self.reports
        for report in reports:
            curve = curves.get(report.number)
            if curve is None:
                curves[report.number] = [report]
            elif report.step > curve[-1].step:
                curve.append(report)
        self.events += reports
        self.log += reports
        self.times += [at] * len(reports)

    def clear(self) -> None:
        """Forget everything, to be filled again."""
        self.__init__(self.space, self.objectives, self.limits, self._whole)

    def inner(self) -> History:
        """An empty history with the same goals, for a proposer that sees single results of this one, or reports."""
        return History(self.space, self.objectives, self.limits, whole=False)

    @property
    def waiting(self) -> list[int]:
        """The places in :attr:`enqueued` that no job has tried yet."""
        return [place for place in range(len(self.enqueued)) if place not in self.given]

    def fold(self, key: Hashable, start: Callable[[], State], update: Callable[[State, Event], State]) -> State:
        """``update`` folded over all events, kept under ``key`` so that each event is visited once.

        It is a cache: dropping it changes the time, never the answer.
        """
        cursor, state = self._folds[key] if key in self._folds else (0, start())
        for event in self.events[cursor:]:
            state = update(state, event)
        self._folds[key] = (len(self.events), state)
        return state

    @property
    def codes(self) -> np.ndarray:
        """Configurations in the unit cube, (jobs, columns) float64."""
        self._encode()
        return self._column("codes")

    @property
    def mask(self) -> np.ndarray:
        """Mask of the active columns, (jobs, columns) bool."""
        self._encode()
        return self._column("mask")

    @property
    def values(self) -> np.ndarray:
        """Objectives, minimised, (jobs, objectives) float64; NaN where there is none.

        With :attr:`limits` those of an infeasible result are above those of every feasible one, from
        :data:`luthier.limits.PENALTY` on, and order infeasible results by their violation.
        """
        return self._column("values")

    @property
    def measured(self) -> np.ndarray:
        """Objectives, minimised, as they were measured, also outside the limits, (jobs, objectives) float64."""
        return self._column("measured")

    @property
    def violation(self) -> np.ndarray:
        """Violation of the limits, (jobs,) float64: 0 where they are kept, NaN of what is not judged.

        Not judged is what failed, diverged or has no objective, and what was pruned before it had all limited metrics;
        where there are limits, running out of memory violates them infinitely.
        """
        return self._column("violation")

    @property
    def good(self) -> np.ndarray:
        """Mask of the jobs that ended well, within the limits, (jobs,) bool."""
        return (self.status == OK) & (self.violation == 0)

    @property
    def status(self) -> np.ndarray:
        """PENDING, OK, DIVERGED, FAILED or PRUNED, (jobs,) int8."""
        return self._column("status")

    @property
    def parent(self) -> np.ndarray:
        """The job continued, or -1, (jobs,) int64."""
        return self._column("parent")

    @property
    def steps(self) -> np.ndarray:
        """Steps done by each job itself (while pending: asked), (jobs,) int64."""
        return self._column("steps")

    @property
    def age(self) -> np.ndarray:
        """Steps over the whole lineage up to the end of each job, (jobs,) int64."""
        return self._column("age")

    @property
    def asked(self) -> np.ndarray:
        """Time at which each job was asked for, seconds since 1970 (NaN where not known), (jobs,) float64."""
        return self._column("asked")

    @property
    def ended(self) -> np.ndarray:
        """Time at which each job ended, seconds since 1970 (NaN where it has not, or not known), (jobs,) float64."""
        return self._column("ended")

    def objective_values(self, metrics: Mapping[str, float]) -> list[float]:
        """The objectives in ``metrics``, minimised, ranked by the limits on what is there; NaN where one is absent."""
        values = self.measured_values(metrics)
        return merits(values, violation(self.limits, metrics, whole=False)) if self.limits else values

    def measured_values(self, metrics: Mapping[str, float]) -> list[float]:
        """The objectives in ``metrics``, minimised, whatever the limits; NaN where one is absent."""
        return [
            sign * float(metrics.get(name, np.nan)) for name, sign in zip(self.objectives, self._signs, strict=True)
        ]

    def _violation(self, result: Result) -> float:
        if result.status == "failed":
            return math.inf if self.limits and out_of_memory(result.error) else math.nan
        if result.status == "diverged" or not any(name in result.metrics for name in self.objectives):
            return math.nan
        whole = self._whole and result.status == "ok" and result.number not in self.before
        violated = violation(self.limits, result.metrics, whole)
        known = whole or all(name in result.metrics for name in self.limits)
        return violated if violated > 0 or known else math.nan

    def final(self, number: int) -> Config:
        """Hyperparameters at the end of job ``number``."""
        result = self.results[number]
        return {**self.jobs[number].config, **(result.final if result else {})}

    def _add_job(self, job: Job, at: float) -> None:
        n = len(self.jobs)
        if job.number != n:
            raise StudyError(
                f"the job's number is {job.number}, the next one is {n}",
                where="history",
                remedy="Numbers are given without gaps: number jobs from len(history) on.",
            )
        if job.parent is not None and not 0 <= job.parent < n:
            raise StudyError(
                f"parent={job.parent} does not exist",
                where=f"job {n}",
                remedy=f"A parent is an earlier job: 0 to {n - 1}.",
            )
        if n == len(self._columns["status"]):
            self._grow()
        self.jobs.append(job)
        self.results.append(None)
        self.pending[n] = job
        columns = self._columns
        for name in ("values", "measured", "violation"):
            columns[name][n] = np.nan
        columns["status"][n] = PENDING
        columns["parent"][n] = -1 if job.parent is None else job.parent
        columns["steps"][n] = job.steps
        columns["age"][n] = job.steps + (0 if job.parent is None else columns["age"][job.parent])
        columns["asked"][n], columns["ended"][n] = at, np.nan
        if ENQUEUED in job.tag:
            self.given[job.tag[ENQUEUED]] = n

    def _add_result(self, result: Result, at: float) -> None:
        n = result.number
        self._check_running(n, "result")
        self._set_result(result, at)
        del self.pending[n]
        self.arrival.append(n)
        self._see_best(n)

    def _set_result(self, result: Result, at: float) -> None:
        n, columns = result.number, self._columns
        columns["age"][n] += result.steps - columns["steps"][n]
        columns["steps"][n] = result.steps
        columns["status"][n] = STATUS_CODES[result.status]
        measured, violated = self.measured_values(result.metrics), self._violation(result)
        columns["measured"][n], columns["violation"][n] = measured, violated
        judged = self.limits and result.status in ("ok", "pruned")
        columns["values"][n] = merits(measured, violated) if judged else measured
        columns["ended"][n] = at
        self.results[n] = result

    def _see_best(self, n: int) -> None:
        values = self._columns["values"]
        value = values[n, 0]
        best = np.inf if self.best is None else values[self.best, 0]
        good = self._columns["status"][n] == OK and self._columns["violation"][n] == 0
        if good and -np.inf < value < best:  # never so of NaN
            self.best = n

    def _add_note(self, note: Note) -> None:
        body = note.body
        if note.kind == "reopened":
            number = body["number"]
            if not 0 <= number < len(self.jobs) or number in self.pending:
                raise StudyError(
                    f"job {number} is to be tried again and has not ended",
                    where="history",
                    remedy="A job is tried again after its result.",
                )
            self.reopened[number] = []
        elif note.kind == "enqueued":
            self.enqueued.append(body["config"])
        elif note.kind == "foreign":
            self.foreign.append(Foreign(body["config"], body["metrics"]))
        elif note.kind == "stop":
            self.stops.append(body["reason"])
        elif note.kind == "fingerprint":
            self.fingerprints.append((body["first"], body["text"]))
        elif note.kind == "method":
            self.methods.append(Succession(len(self.jobs), len(self.log), body["before"], body["now"]))
        self.notes.append(note)

    def _add_again(self, event: Report | Result, at: float) -> None:
        """Keep reports of a job that is tried again aside; its result takes the place of the old one."""
        n = event.number
        if isinstance(event, Report):
            if not self.reopened[n] or event.step > self.reopened[n][-1].step:
                self.reopened[n].append(event)
            return
        reports = self.reopened.pop(n)
        events: list[Event] = []
        for old in self.events:
            if old.number != n or isinstance(old, Job):
                events.append(old)
            elif isinstance(old, Result):
                events += [*reports, event]
        self.events = events
        self.reports.pop(n, None)
        if reports:
            self.reports[n] = reports
        self._set_result(event, at)
        self._folds.clear()
        self.best = None
        for number in self.arrival:
            self._see_best(number)

    def _check_running(self, number: int, what: str) -> None:
        if number not in self.pending:
            known = 0 <= number < len(self.jobs)
            raise StudyError(
                f"a {what} came for job {number}, which {'has ended already' if known else 'does not exist'}",
                where="history",
                remedy="Each job that was asked for is told once.",
            )

    def _column(self, name: str) -> np.ndarray:
        view = self._columns[name][: len(self.jobs)]
        view.flags.writeable = False
        return view

    def _grow(self) -> None:
        for name, old in self._columns.items():
            new = np.empty((max(64, 2 * len(old)), *old.shape[1:]), dtype=old.dtype)
            new[: len(old)] = old
            self._columns[name] = new

    def _encode(self) -> None:  # in one batch when first asked: a configuration alone costs ten times more
        n = len(self.jobs)
        if self._encoded < n:
            rows = slice(self._encoded, n)
            self._columns["codes"][rows], self._columns["mask"][rows] = self.space.encode(self.configs(self._encoded))
            self._encoded = n

    def configs(self, start: int = 0) -> Sequence[Config]:
        """The configurations of the jobs from ``start`` on."""
        return [job.config for job in self.jobs[start:]]
