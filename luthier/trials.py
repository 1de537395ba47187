"""Views of a history: the best configuration, its schedule, and trials as chains of jobs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.attributes import elsewhere
from luthier.jobs import REPEATS, Event, History, Job, Report, Result
from luthier.pareto import non_dominated
from luthier.schedule import Schedule
from luthier.space import Config


@dataclass(frozen=True, repr=False)
class Best:
    """The best job of a study.

    Args:
        number: The job.
        value: The objective at its end, the first of several, in the user's own units and direction.
        config: The configuration it was started with.
        metrics: Measured values at its end, in the user's own units and direction (validation, never test).
        final: Hyperparameters at its end; they differ from ``config`` where the method moves them.
        result: The whole result.
        schedule: Hyperparameters over the training, from the first ancestor on: (step, values in force from there);
            ``tune(task, schedule=…)`` replays it.
        test: Metrics on the test split, where the task has one and the study has ended.

    Examples:
        >>> import luthier as lt
        >>> space = lt.Space(x=lt.Choice([1, 2, 3]))
        >>> study = lt.tune(lambda c: c["x"] ** 2, "grid", space=space, progress=False)
        >>> study.best.number, study.best.value, study.best.config
        (0, 1.0, {'x': 1})
    """

    number: int
    value: float
    config: Config
    metrics: Mapping[str, float]
    final: Config
    result: Result
    schedule: Schedule
    test: Mapping[str, float] = field(default_factory=dict)

    if not TYPE_CHECKING:
        __getattr__ = elsewhere("Best")

    def __repr__(self) -> str:
        return f"Best({self.number}, value={self.value!r}, config={self.config!r})"


@dataclass(frozen=True)
class TrialRecord:
    """One configuration started, and all the jobs that continued it.

    Args:
        number: The number of its first job.
        jobs: Its jobs, oldest first.
        config: The configuration of its last job.
        status: Status of its last job; ``"running"`` while that is pending, ``"waiting"`` where nobody runs it now.
        metrics: Metrics of the last job that has ended; while it runs, those that it reported last.
        steps: Training steps done over the whole lineage.
        seconds: Wall time of its own jobs that have ended.
        error: The message of a failure, else "".
        parent: The job of another trial whose state this one was started from, or None.
        notes: Values that the trial passed to ``trial.note``.
        feasible: True if its last job ended within the limits, False if outside; None where that is not judged.
        since: Time at which its running job was asked for, seconds since 1970; None where none runs.

    Examples:
        >>> import luthier as lt
        >>> space = lt.Space(x=lt.Choice([1, 2, 3]))
        >>> study = lt.tune(lambda c: c["x"] ** 2, "grid", space=space, progress=False)
        >>> [(trial.number, trial.status, trial.metrics["loss"]) for trial in study.trials]
        [(0, 'ok', 1.0), (1, 'ok', 4.0), (2, 'ok', 9.0)]
    """

    number: int
    jobs: tuple[int, ...]
    config: Config
    status: str
    metrics: Mapping[str, float]
    steps: int
    seconds: float
    error: str = ""
    parent: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    feasible: bool | None = None
    since: float | None = None

    if not TYPE_CHECKING:
        __getattr__ = elsewhere("TrialRecord")


def record(history: History, number: int, test: Any = None, seed: int | None = None) -> Best:
    """Return any finished job in the same form as the best one.

    Args:
        history: The study.
        number: The job.
        test: Test metrics kept in the study's settings; used where they belong to this very job.
        seed: The study's seed, by which the schedule replays to the same weights.
    """
    result = history.results[number]
    assert result is not None
    return Best(
        number=number,
        value=result.metrics.get(next(iter(history.objectives)), math.nan),
        config=history.space.given(history.jobs[number].config),
        metrics=dict(result.metrics),
        final=history.space.given(history.final(number)),
        result=result,
        schedule=schedule(history, number, seed),
        test=on_test(test, number),
    )


def lineage(history: History, number: int) -> list[int]:
    """The job and its ancestors, oldest first."""
    chain = [number]
    while (parent := history.jobs[chain[-1]].parent) is not None:
        chain.append(parent)
    return chain[::-1]


def schedule(history: History, number: int, seed: int | None = None) -> Schedule:
    """Hyperparameters along the lineage of a finished job.

    What an adapter moves during a job is known where the job reported: the values of a report stand until the next one.

    Args:
        history: The study.
        number: The job.
        seed: The study's seed; None does not ask for the same weights in a replay.
    """
    parts: list[dict[str, Any]] = []
    noise, before = number, None
    for link in lineage(history, number):
        job, end = history.jobs[link], int(history.age[link])
        begin = 0 if job.parent is None else int(history.age[job.parent])
        if dict(job.config) != before:  # a job that changes nothing goes on with the noise of its parent
            noise = job.tag.get(REPEATS, link)
        points = [(begin, dict(job.config))]
        for report in history.reports.get(link, ()):
            values = {**job.config, **report.hyperparameters}
            if begin < report.step < end and values != points[-1][1]:
                points.append((report.step, values))
        before = history.final(link)
        for (step, values), (stop, _) in pairwise([*points, (end, before)]):
            if stop > step:
                parts.append({"job": noise, "steps": stop - step, "config": values})
    if not parts or parts[-1]["config"] != before:
        parts.append({"job": noise, "steps": 0, "config": before})
    return Schedule(parts, seed)


@dataclass
class _Front:
    """The jobs that nothing has beaten yet, and those that ended well since."""

    numbers: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)


def front(history: History) -> list[int]:
    """Jobs that no other job dominates, the best by the first objective first; of one objective, all that are equal.

    What has come since the last call is compared with the front of then, so nothing is read twice.
    """

    def update(state: _Front, event: Event) -> _Front:
        if isinstance(event, Result) and event.status == "ok" and history.violation[event.number] == 0:
            state.fresh.append(event.number)
        return state

    state = history.fold("front", _Front, update)
    if state.fresh:
        numbers = np.array(state.numbers + state.fresh)
        numbers = numbers[non_dominated(history.values[numbers])]
        state.numbers, state.fresh = numbers[np.lexsort((numbers, history.values[numbers, 0]))].tolist(), []
    return list(state.numbers)


def best_jobs(history: History) -> list[int]:
    """The job that is best; of several objectives, the front."""
    if len(history.objectives) > 1:
        return front(history)
    return [] if history.best is None else [history.best]


def on_test(test: Any, number: int) -> dict[str, float]:
    """Return a job's metrics on the test split from ``{"number": job, "metrics": {...}}``, a list of such, or None."""
    kept = [test] if isinstance(test, Mapping) else test or []
    return next((dict(one["metrics"]) for one in kept if one["number"] == number), {})


def trials_of(history: History, waiting: Collection[int] = ()) -> list[TrialRecord]:
    """All trials, in order of their first job; ``waiting`` are the jobs that have not ended and that nobody runs.

    A job continues its parent's trial when it is the first child in the same slot of the proposer (``tag["slot"]``,
    where there is one); any other child of that parent is a copy, and starts a trial of its own.
    """
    chains: dict[int, list[Job]] = {}
    trial_of: dict[int, int] = {}
    continued: set[int] = set()
    for job in history.jobs:
        parent = job.parent
        goes_on = (
            parent is not None
            and parent not in continued
            and job.tag.get("slot") == history.jobs[parent].tag.get("slot")
        )
        first = trial_of[parent] if goes_on and parent is not None else job.number
        if goes_on and parent is not None:
            continued.add(parent)
        trial_of[job.number] = first
        chains.setdefault(first, []).append(job)
    notes = notes_of(history)
    return [_trial(history, first, chain, notes, waiting) for first, chain in chains.items()]


def notes_of(history: History) -> dict[int, Mapping[str, Any]]:
    """Return the values kept by ``trial.note``, by job; the latest for a job that was tried again."""
    said = [note.body for note in history.notes if note.kind == "note" and "number" in note.body]
    return {body["number"]: body["values"] for body in said}


def status_of(history: History, number: int, waiting: Collection[int] = ()) -> str:
    """Return how a job ended; ``"running"`` while it has not, and ``"waiting"`` where nobody runs it."""
    result = history.results[number]
    return ("waiting" if number in waiting else "running") if result is None else result.status


def steps_done(history: History, job: Job) -> int:
    """Steps over the lineage of a job: at its end, or at its last report."""
    if history.results[job.number] is not None:
        return int(history.age[job.number])
    before = 0 if job.parent is None else int(history.age[job.parent])
    reports = history.reports.get(job.number)
    return max(before, reports[-1].step) if reports else before


def _trial(
    history: History, first: int, chain: list[Job], notes: Mapping[int, Mapping[str, Any]], waiting: Collection[int]
) -> TrialRecord:
    number = chain[-1].number
    last, violated, asked = history.results[number], history.violation[number], float(history.asked[number])
    ended = [result for job in chain if (result := history.results[job.number])]
    measured: Sequence[Report | Result] = ended if last else history.reports.get(number, [])[-1:] or ended
    return TrialRecord(
        number=first,
        jobs=tuple(job.number for job in chain),
        config=history.space.given(chain[-1].config),
        status=status_of(history, number, waiting),
        metrics=dict(measured[-1].metrics) if measured else {},
        steps=steps_done(history, chain[-1]),
        seconds=sum(result.seconds for result in ended),
        since=asked if last is None and number not in waiting and asked == asked else None,
        error="" if last is None else last.error,
        parent=chain[0].parent,
        notes=notes.get(number, {}),
        feasible=None if math.isnan(violated) else bool(violated == 0),
    )
