"""The numbers behind the page: what a history says in the user's own direction, without any drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from luthier.jobs import DIVERGED, FAILED, OK, PENDING, PRUNED, History
from luthier.trials import front

DECIDED = "policy."  # before the name of what tells how a controller decides: it has figures of its own
INFEASIBLE = 5  # the status here of what ended, or ran out of memory, outside the limits
WAITING = 6  # the status here of what has not ended and nobody runs
STATUS_NAMES = {
    OK: "finished",
    INFEASIBLE: "infeasible",
    PRUNED: "pruned",
    DIVERGED: "diverged",
    FAILED: "failed",
    PENDING: "running",
    WAITING: "waiting",
}


@dataclass(frozen=True)
class Facts:
    """A history as the report reads it.

    Args:
        history: The history itself.
        objective: Name of the first objective, by which "best" is meant.
        mode: ``"min"`` or ``"max"``: the direction in which the first objective is better.
        values: First objective of each job in the user's direction, (jobs,); NaN where there is none.
        status: Status code of each job, (jobs,); INFEASIBLE outside the limits, WAITING where nobody runs it.
        finished: Numbers of the jobs that ended well, within the limits, with a finite objective, in order of arrival.
        best: Number of the best of them, or None.
        front: With several objectives, the jobs that no other dominates, best by the first objective first; else ().
        continued: True where some job continues another.
        noun: Name for one row: "trial", or "job" where a trial is a chain of jobs.
    """

    history: History
    objective: str
    mode: str
    values: np.ndarray
    status: np.ndarray
    finished: np.ndarray
    best: int | None
    front: tuple[int, ...]
    continued: bool
    noun: str

    @property
    def trials(self) -> int:
        """Configurations started: the jobs that continue no other."""
        return int((self.history.parent < 0).sum())

    @property
    def sign(self) -> float:
        """-1 where larger is better: ``sign * values`` is minimised."""
        return -1.0 if self.mode == "max" else 1.0

    @property
    def better(self) -> str:
        """The direction in words."""
        return "higher is better" if self.mode == "max" else "lower is better"

    def count(self, status: int) -> int:
        """Jobs with a status."""
        return int((self.status == status).sum())

    def ranked(self) -> np.ndarray:
        """The finished jobs, best first; ties in order of arrival."""
        return self.finished[np.argsort(self.sign * self.values[self.finished], kind="stable")]


def facts(history: History, waiting: Collection[int] = ()) -> Facts:
    """Read a history once; ``waiting`` are the jobs that have not ended and that nobody runs."""
    objective, mode = next(iter(history.objectives.items()))
    values = history.measured[:, 0] * (-1.0 if mode == "max" else 1.0)
    arrival = np.array(history.arrival, dtype=np.int64)
    status = np.where((history.violation > 0) & (history.status != PRUNED), INFEASIBLE, history.status)
    status[[number for number in waiting if history.status[number] == PENDING]] = WAITING
    finished = arrival[(status[arrival] == OK) & np.isfinite(values[arrival])]
    continued = bool((history.parent >= 0).any())
    noun = "job" if continued else "trial"
    beaten_by_none = tuple(front(history)) if len(history.objectives) > 1 else ()
    return Facts(history, objective, mode, values, status, finished, history.best, beaten_by_none, continued, noun)


@dataclass(frozen=True)
class BestSoFar:
    """The best objective so far, at each arrival of a result.

    Args:
        results: Results that had come, of any status, (points,).
        steps: Training steps that had been spent on them, (points,).
        number: The job that arrived, (points,).
        value: Its objective in the user's direction, (points,).
        best: The best so far, (points,): never worse than the point before.
    """

    results: np.ndarray
    steps: np.ndarray
    number: np.ndarray
    value: np.ndarray
    best: np.ndarray


def progress(known: Facts) -> BestSoFar:
    """Best so far against results and against training steps; steps of pruned and failed jobs count as spent."""
    arrival = np.array(known.history.arrival, dtype=np.int64)
    spent = np.cumsum(known.history.steps[arrival])
    keep = np.isin(arrival, known.finished)
    value = known.values[arrival[keep]]
    extreme = np.maximum if known.mode == "max" else np.minimum
    best = extreme.accumulate(value) if len(value) else value
    return BestSoFar(np.flatnonzero(keep) + 1, spent[keep], arrival[keep], value, best)


def metric_names(known: Facts) -> list[str]:
    """Names of the metrics in results and reports: the objectives first, the others by how often they occur."""
    seen: Counter[str] = Counter()
    for result in known.history.results:
        if result is not None:
            seen.update(result.metrics.keys())
    for reports in known.history.reports.values():
        if reports:
            seen.update(reports[-1].metrics.keys())
    objectives = list(known.history.objectives)
    others = [name for name, _ in seen.most_common() if name not in objectives and not name.startswith(DECIDED)]
    return objectives + others
