"""Checks and counts that are the same in every store."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import StoreError, StudyError
from luthier.jobs import Job, Result
from luthier.limits import Bounds, check_limits, violation
from luthier.store import StudySummary, encoding, rows


@dataclass
class Leader:
    """The best job by the first objective, kept as results come.

    Args:
        objective: Name of the first objective, or None where the settings name none.
        mode: Its direction, ``"min"`` or ``"max"``.
        number: The best job yet.
        value: Its value, in the user's direction.
        limits: Bounds of metrics: a result outside is never the best.
    """

    objective: str | None
    mode: str
    number: int | None = None
    value: float | None = None
    limits: Mapping[str, Bounds] = field(default_factory=dict)

    @staticmethod
    def of(settings: Mapping[str, Any], number: int | None = None, value: float | None = None) -> Leader:
        objectives = settings.get("objectives")
        if not isinstance(objectives, Mapping) or not objectives:
            return Leader(None, "min")
        name = next(iter(objectives))
        try:
            limits = check_limits(settings.get("limits"))
        except StudyError as error:
            remedy = "The database was changed by hand or by another program: restore a backup."
            raise StoreError(f"its limits are damaged: {error.what}", where="settings", remedy=remedy) from error
        return Leader(name, "max" if objectives[name] == "max" else "min", number, value, limits)

    def see(self, result: Result) -> None:
        """Count a result; the earlier of two equal ones stays, as in a History."""
        if self.objective is None or result.status != "ok":
            return
        value = result.metrics.get(self.objective, math.nan)
        if not math.isfinite(value) or violation(self.limits, result.metrics) > 0:
            return
        if self.value is None or (value > self.value if self.mode == "max" else value < self.value):
            self.number, self.value = result.number, value

    def summary(self) -> tuple[str | None, int | None, float | None]:
        """Objective, number and value, as :class:`~luthier.store.StudySummary` has them."""
        return self.objective, self.number, self.value


DEATHS = 3  # so many workers may die under a job while the driver lives
LOSSES = 30  # so often a job may be lost with its driver: that is ended for many reasons, and hardly ever by a job
SUSPECT = 4  # so often a job may be lost with its driver until others come first


def stretched(lease: float, attempts: Iterable[int]) -> float:
    """Seconds of an owner's lease: four times longer with a second attempt among its jobs, and with a third.

    Args:
        lease: Seconds of the first.
        attempts: Number of times that each of its jobs was begun.
    """
    return lease * 4 ** (min(3, max(attempts, default=1)) - 1)


def died(number: int, times: int = DEATHS) -> Result:
    """The result of a job under which too many processes have died."""
    error = (
        f"ended its worker {times} times: out of memory, a crash in compiled code and os._exit end a process so, "
        "and what is silent for longer than its lease counts as dead"
    )
    return Result(number, "failed", error=error)


def summary(row: Any, settings: Callable[[Any], Mapping[str, Any]], late: Iterable[Any] = ()) -> StudySummary:
    """Return one line about a study, or its damage where its row makes no sense.

    Args:
        row: Its row in the table of studies.
        settings: Function that reads the settings from the row.
        late: Rows of results that its counts do not have yet.
    """
    try:
        best = Leader.of(settings(row), row.best, row.best_value)
        numbers = (row.jobs, row.done, row.best or 0, row.best_value or 0.0, row.created, row.updated)
        wrong = [repr(number) for number in numbers if type(number) not in (int, float)]
        if wrong:
            raise StoreError(f"{wrong[0]} is no number", where=f"study {row.name!r}", remedy="")
        done = row.done
        for one in late:
            best.see(rows.read(rows.unpacked, one, "")[0])  # type: ignore[arg-type]
            done += 1
        return StudySummary(str(row.name), row.jobs, done, *best.summary(), row.created, row.updated)
    except StoreError as error:
        return StudySummary(str(row.name), 0, 0, None, None, None, math.nan, math.nan, error.what)


def check_name(name: str) -> None:
    """Raise StoreError unless ``name`` can name a study in every store."""
    if not isinstance(name, str) or not name.strip() or "\0" in name or not name.isprintable():
        remedy = 'Give a text of printable characters, such as name="fashion-mnist".'
        raise StoreError(f"name={name!r} cannot name a study", where="study", remedy=remedy)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as JSON text, or a StoreError that says what in them is not JSON."""
    try:
        return encoding.dumps(encoding.plain(dict(settings)))
    except (TypeError, ValueError, RecursionError) as error:
        remedy = "Settings are numbers, strings, booleans, None, and lists and dicts of them."
        raise StoreError(str(error), where="settings of the study", remedy=remedy) from error


def check_jobs(jobs: Sequence[Job], first: int) -> None:
    """Raise StudyError unless the jobs are numbered ``first``, ``first`` + 1, …"""
    for number, job in enumerate(jobs, first):
        if job.number != number:
            raise StudyError(
                f"the job's number is {job.number}, the next one is {number}",
                where="append",
                remedy="Number jobs from len(history) on, without gaps.",
            )


def no_study(name: str, url: str, known: Iterable[str]) -> StoreError:
    """The error for a study that does not exist, or no longer does."""
    names = sorted(known)
    listed = f"It has {', '.join(map(repr, names[:8]))}{', …' if len(names) > 8 else ''}." if names else "It has none."
    return StoreError(f"there is no study named {name!r}", where=f"store {url}", remedy=f"{listed} Create it first.")


def not_filled_by_sync(event: int, events: int, where: str) -> StoreError:
    """The error for a history, or a database, that is no prefix of the study's events."""
    return StoreError(
        f"event {event} of {events} is missing",
        where=where,
        remedy="Rows were removed by hand, or the history was not filled by sync alone.",
    )
