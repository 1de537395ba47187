"""Jobs that came back without a result: when each runs again, and when that has no point any more."""

from __future__ import annotations

import time
from collections.abc import Collection

from luthier.errors import StudyError
from luthier.jobs import Job, Lost, Result
from luthier.store import OUTAGE
from luthier.store.counts import DEATHS

MISSING = 10.0  # seconds without a single result after which files that are missing or damaged end the call
LONGEST = 60.0  # seconds of a pause at most


class Again:
    """The jobs of this process that wait for another attempt.

    Args:
        study: The study's name, for messages.
        deaths: Processes that may die under a job until it has failed.
        outage: Seconds without a single result after which a disk in trouble ends the call.
    """

    def __init__(self, study: str, deaths: int = DEATHS, outage: float = OUTAGE) -> None:
        self._study, self._deaths, self._outage = study, deaths, outage
        self._pauses: dict[int, float] = {}
        self._waiting: dict[int, tuple[float, Job]] = {}  # until when
        self._suspects: dict[int, Job] = {}
        self._trouble_since: float | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    @property
    def numbers(self) -> Collection[int]:
        """The jobs that wait."""
        return self._waiting.keys() | self._suspects.keys()

    def suspect(self, job: Job) -> None:
        """Take in a job under which processes have died: it runs alone, after the others."""
        self._suspects[job.number] = job

    def lost(self, job: Job, lost: Lost, begins: int) -> Result | None:
        """Take in a job that came back; its result, where it will not be tried again.

        A job whose process died is not taken in: it goes back to the store, which counts how often it was begun.

        Raises:
            StudyError: If the disk is in trouble and has been for some time.
        """
        number = job.number
        if lost.why == "process" and begins >= self._deaths:
            times = f"ended its worker {begins} times" if begins > 1 else "ended its worker"
            last = _told(lost, ", the last time: " if begins > 1 else ": ")
            why = "Out of memory, a crash in compiled code and os._exit end a process so."
            return Result(number, "failed", error=f"{times}{last}. {why}")
        if lost.why == "machine":
            self._waiting[number] = 0.0, job
        elif lost.why in ("storage", "file"):
            now = time.monotonic()
            self._trouble_since = now if self._trouble_since is None else self._trouble_since
            if now - self._trouble_since > (self._outage if lost.why == "storage" else min(MISSING, self._outage)):
                raise StudyError(
                    f"the state of a training cannot be kept or read{_told(lost, ': ')}",
                    where=f"study {self._study!r}, job {number}",
                    remedy="No trial has failed by it. Mend the disk and run again: what is recorded stays.",
                )
            pause = self._pauses[number] = min(LONGEST, 2 * self._pauses.get(number, 0.5))
            self._waiting[number] = now + pause, job
        return None

    def went_well(self) -> None:
        """Results have come: the disk is well."""
        self._trouble_since = None

    def due(self, room: int) -> list[Job]:
        """Jobs to run now, beside others."""
        now = time.monotonic()
        numbers = [number for number, (when, _) in self._waiting.items() if when <= now][: max(0, room)]
        return [self._waiting.pop(number)[1] for number in numbers]

    def alone(self, room: int) -> list[Job]:
        """Jobs under which processes have died, each to run alone in its worker, when there are no others."""
        numbers = sorted(self._suspects)[: max(0, room)]
        return [self._suspects.pop(number) for number in numbers]


def _told(lost: Lost, before: str) -> str:
    """Return what the executor says of it, after ``before``, or nothing where it says nothing."""
    said = lost.error.strip().removesuffix(".")
    return before + said if said else ""
