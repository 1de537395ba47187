"""The jobs that one owner of a study holds, as it knows them: counted on while a transaction is tried, or put back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from luthier.jobs import Job
from luthier.store.counts import stretched


@dataclass
class Holdings:
    """Jobs in the hand of an owner.

    Args:
        attempts: For each job that it holds, how often it was begun.
        partials: For each, the state that an earlier attempt has left, or None.
        aside: Jobs that others have proposed for this owner, which it has not handed out yet.
        freed: Partial states of jobs that have ended, to be removed.
    """

    attempts: dict[int, int] = field(default_factory=dict)
    partials: dict[int, str | None] = field(default_factory=dict)
    aside: list[Job] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)

    def copy(self) -> Holdings:
        """A copy that :meth:`restore` takes."""
        return Holdings(dict(self.attempts), dict(self.partials), self.aside, list(self.freed))

    def restore(self, before: Holdings) -> None:
        """Put back what a transaction that came to nothing has changed."""
        made = before.copy()
        self.attempts, self.partials, self.freed = made.attempts, made.partials, made.freed

    def hold(self, number: int, attempts: int, partial: str | None) -> None:
        """Note that this owner holds a job."""
        self.attempts[number], self.partials[number] = attempts, partial

    def let_go(self, numbers: Iterable[int]) -> None:
        """Note that it no longer holds these."""
        for number in numbers:
            self.attempts.pop(number, None)
            self.partials.pop(number, None)

    def take_aside(self, count: int) -> list[Job]:
        """Take so many of the jobs that others have put aside."""
        jobs, self.aside = self.aside[:count], self.aside[count:]
        return jobs

    def take_freed(self) -> list[str]:
        """Take the files that can be removed."""
        files, self.freed = self.freed, []
        return files

    def known(self, jobs: Sequence[Job] = ()) -> set[int]:
        """The numbers of all jobs that it knows it holds, these among them."""
        return set(self.attempts) | {job.number for job in (*jobs, *self.aside)}

    def lease(self, seconds: float) -> float:
        """Seconds of its lease: longer where it has taken a job over that outlasted another's."""
        return stretched(seconds, self.attempts.values())
