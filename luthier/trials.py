"""What a history says once it is read: the best configuration, its schedule, and trials as chains of jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from luthier.jobs import OK, Event, History, Job, Result
from luthier.schedule import Schedule
from luthier.space import Config


@dataclass(frozen=True)
class Best:
    """The best job of a study.

    Args:
        number: The job.
        config: The configuration it was started with.
        metrics: Measured values at its end, in the user's own units and direction (validation, never test).
        final: Hyperparameters at its end; they differ from ``config`` where the method moves them.
        result: The whole result.
        schedule: Hyperparameters over the training, from the first ancestor on: (step, values in force from there);
            ``tune(task, schedule=…)`` replays it.
        test: Metrics on the test split, where the task has one and the study has ended.
    """

    number: int
    config: Config
    metrics: Mapping[str, float]
    final: Config
    result: Result
    schedule: Schedule
    test: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """One configuration started, and all the jobs that continued it.

    Args:
        number: The number of its first job.
        jobs: Its jobs, oldest first.
        config: The configuration of its last job.
        status: That of its last job; ``"running"`` while that is pending.
        metrics: Those of the last job that has ended.
        steps: Training steps over the whole lineage.
        seconds: Wall time of its own jobs.
        error: The message of a failure, else "".
        parent: The job of another trial whose state this one was started from, or None.
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


def best(history: History, test: Mapping[str, Any] | None = None, seed: int | None = None) -> Best | None:
    """The best job by the first objective, or None while none has ended well.

    Args:
        history: The study.
        test: ``{"number": job, "metrics": {...}}`` as kept in the settings; used where it is of this very job.
        seed: The study's seed, by which the schedule replays to the same weights.
    """
    return None if history.best is None else record(history, history.best, test, seed)


def record(history: History, number: int, test: Mapping[str, Any] | None = None, seed: int | None = None) -> Best:
    """Any finished job in the shape of the best."""
    result = history.results[number]
    assert result is not None
    return Best(
        number=number,
        config=dict(history.jobs[number].config),
        metrics=dict(result.metrics),
        final=history.final(number),
        result=result,
        schedule=schedule(history, number, seed),
        test=dict(test["metrics"]) if test and test["number"] == number else {},
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
            noise = job.tag.get("repeats", link)
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


def front(history: History) -> list[int]:
    """Jobs that no other job beats in every objective, in order of number."""
    ended = np.flatnonzero((history.status == OK) & np.isfinite(history.values).all(axis=1))
    values = history.values[ended]
    return [
        int(number)
        for number, row in zip(ended, values, strict=True)
        if not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any()
    ]


def best_of_each(history: History) -> set[int]:
    """The best job by each objective, each job visited once."""
    return {number for number, _ in history.fold("best of each objective", dict, _update_best(history)).values()}


def _update_best(history: History) -> Callable[[dict[int, tuple[int, float]], Event], dict[int, tuple[int, float]]]:
    def update(state: dict[int, tuple[int, float]], event: Event) -> dict[int, tuple[int, float]]:
        if isinstance(event, Result) and event.status == "ok":
            for index, value in enumerate(history.objective_values(event.metrics)):
                if value == value and (index not in state or value < state[index][1]):
                    state[index] = (event.number, value)
        return state

    return update


def trials_of(history: History) -> list[TrialRecord]:
    """All trials, in order of their first job.

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
    return [_trial(history, first, chain) for first, chain in chains.items()]


def _trial(history: History, first: int, chain: list[Job]) -> TrialRecord:
    ended = [result for job in chain if (result := history.results[job.number])]
    last = history.results[chain[-1].number]
    return TrialRecord(
        number=first,
        jobs=tuple(job.number for job in chain),
        config=dict(chain[-1].config),
        status="running" if last is None else last.status,
        metrics=dict(ended[-1].metrics) if ended else {},
        steps=int(history.age[chain[-1].number]),
        seconds=sum(result.seconds for result in ended),
        error="" if last is None else last.error,
        parent=chain[0].parent,
    )
