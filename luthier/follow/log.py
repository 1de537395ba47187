"""A study's events as one log for each trial, written exactly once however many drivers follow.

The events come to everybody in one order, so a log is a function of them, and where it stands is one number: how many
of them it holds. The driver that holds the lock continues from that number; the others wait, and one of them
takes over when the lock is released, be it by a kill.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from luthier.errors import StudyError
from luthier.files import absolute, write_whole
from luthier.follow import Follower
from luthier.jobs import Event, History, Job, Note, Report, Result
from luthier.space import Space

PAUSE = 1.0  # seconds between two notes of how far the log is
LINGER = 2.0  # seconds for which a driver that leaves waits for the lock


@dataclass
class LoggedTrial:
    """One trial as a log sees it: a configuration, and the jobs that continue it.

    Args:
        number: Number of its first job.
        config: The configuration of its latest job.
        steps: Steps done over the whole lineage at the end of its latest job.
        status: "running", or how its latest job ended.
        error: The message of a failure, else "".
        metrics: The latest values.
        parent: The job of another trial that it was copied from, or None.
    """

    number: int
    config: Mapping[str, Any]
    steps: int = 0
    status: str = "running"
    error: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    parent: int | None = None


class Log(Follower):
    """Base class of logs: a subclass writes what :meth:`begin`, :meth:`point` and :meth:`end` receive.

    Args:
        folder: Folder that holds the lock and the position, one pair per study.
    """

    def __init__(self, folder: str | Path) -> None:
        self._place = absolute(folder)
        self._lock: IO[str] | None = None
        self._count = 0  # events that the log holds
        self._noted = 0.0
        self._last: tuple[Sequence[Event | Note], Sequence[float], int] | None = None
        self._follow = _Chains()
        self.study, self.space, self.goals = "", Space(), {}

    # -- for subclasses ---------------------------------------------------------------------------------------------

    def open(self, state: Mapping[str, Any]) -> None:
        """Continue a log whose ``state`` is that of the last :meth:`flush`; ``{}`` for a new one."""

    def begin(self, trial: LoggedTrial, at: float) -> None:
        """A trial begins, or goes on with another configuration, at ``trial.steps``."""
        raise NotImplementedError

    def point(self, trial: LoggedTrial, step: int, values: Mapping[str, float], at: float) -> None:
        """Numbers that were measured at a step, hyperparameters that move as ``hyperparameters/NAME`` among them."""
        raise NotImplementedError

    def end(self, trial: LoggedTrial, at: float) -> None:
        """A job of a trial has ended; the trial itself may continue."""
        raise NotImplementedError

    def flush(self) -> Mapping[str, Any]:
        """Write the buffer, and return what :meth:`open` needs to go on from here, as JSON."""
        return {}

    def close(self) -> None:
        """Release files and connections."""

    # -- the follower -----------------------------------------------------------------------------------------------

    def started(self, study: Any) -> None:
        self.study, self.space, self.goals = study.name, study.history.space, study.history.objectives

    def events(self, history: History, new: Sequence[Event]) -> None:
        self._last = history.log, history.times, len(history.log)
        if self._locked():
            self._go_on()

    def finished(self, study: Any) -> None:
        end = time.monotonic() + LINGER
        while self._last is not None and not self._locked() and time.monotonic() < end:
            time.sleep(0.1)  # the driver that writes may exit before it sees our last events
        if self._last is not None and self._lock is not None:
            try:
                self._go_on()
                self._note()
            finally:
                self.close()
                self._lock = _unlock(self._lock)

    def _go_on(self) -> None:
        assert self._last is not None
        events, times, end = self._last
        while self._count < end:
            event, at = events[self._count], times[self._count]
            if not isinstance(event, Note):
                self._feed(event, at if math.isfinite(at) else time.time())
            self._count += 1
        if time.monotonic() - self._noted > PAUSE:
            self._note()

    def _feed(self, event: Event, at: float) -> None:
        trial, step, values = self._follow.see(event)
        if isinstance(event, Job):
            self.begin(trial, at)
        if values:
            self.point(trial, step, values, at)
        if isinstance(event, Result):
            self.end(trial, at)

    def _locked(self) -> bool:
        """Return True if this log is ours to write; if it has just become ours, open it where it stands."""
        if self._lock is not None:
            return True
        self._place.mkdir(parents=True, exist_ok=True)
        self._lock = _try_lock(self._file("lock"))
        if self._lock is None:
            return False
        try:
            self._open()
        except BaseException:
            self._lock = _unlock(self._lock)
            raise
        return True

    def _open(self) -> None:
        assert self._last is not None
        events, _, _ = self._last
        identity = self._identity(events)
        try:
            kept = json.loads(self._file("json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            kept = {"study": identity, "events": 0, "state": {}}
        if kept["study"] != identity or kept["events"] > len(events):
            raise StudyError(
                f"it holds the log of another study named {self.study!r}",
                where=str(self._file("json")),
                remedy="Give the log another place, or remove what is there.",
            )
        self._count, self._follow = kept["events"], _Chains()
        for event in events[: self._count]:
            if not isinstance(event, Note):
                self._follow.see(event)
        self.open(kept["state"])

    def _identity(self, events: Sequence[Event | Note]) -> str:
        first = next((event for event in events if isinstance(event, Job)), None)
        text = json.dumps([self.study, first and [dict(first.config), first.steps]], default=str)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _note(self) -> None:
        state = self.flush()
        kept = {"study": self._identity(self._last[0] if self._last else ()), "events": self._count, "state": state}
        write_whole(self._file("json"), json.dumps(kept))
        self._noted = time.monotonic()

    def _file(self, ending: str) -> Path:
        return self._place / f".{folder_name(self.study)}.{type(self).__name__.lower()}.{ending}"


class _Chains:
    """Finds the trial of each event: like :func:`luthier.trials.trials_of`, one event at a time."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._ages: dict[int, int] = {}
        self._trials: dict[int, LoggedTrial] = {}
        self._continued: set[int] = set()
        self._latest: dict[int, Report] = {}

    def see(self, event: Event) -> tuple[LoggedTrial, int, dict[str, float]]:
        """The trial of an event, and the numbers in it with their step."""
        if isinstance(event, Job):
            trial = self._begin(event)
            moves = event.parent is not None or "slot" in event.tag  # otherwise they are in the table and need no curve
            return trial, trial.steps, _numbers(event.config) if moves else {}
        trial, job = self._trials[event.number], self._jobs[event.number]
        trial.metrics.update(event.metrics)
        if isinstance(event, Report):
            self._latest[event.number] = event
            return trial, event.step, {**event.metrics, **_numbers(event.hyperparameters)}
        trial.steps = self._ages[event.number] = event.steps + (0 if job.parent is None else self._ages[job.parent])
        trial.status, trial.error = event.status, event.error
        moved = {name: value for name, value in event.final.items() if value != job.config.get(name)}
        values, latest = {**event.metrics, **_numbers(moved)}, self._latest.pop(event.number, None)
        if latest is not None and latest.step == trial.steps:  # already written
            known = {**latest.metrics, **_numbers(latest.hyperparameters)}
            values = {name: value for name, value in values.items() if known.get(name) != value}
        return trial, trial.steps, values

    def _begin(self, job: Job) -> LoggedTrial:
        parent, self._jobs[job.number] = job.parent, job
        goes_on = (
            parent is not None
            and parent not in self._continued
            and job.tag.get("slot") == self._jobs[parent].tag.get("slot")
        )
        if goes_on and parent is not None:
            self._continued.add(parent)
            trial = self._trials[parent]
            trial.config, trial.status = job.config, "running"
        else:
            steps = 0 if parent is None else self._ages[parent]
            trial = LoggedTrial(job.number, job.config, steps, parent=parent)
        self._trials[job.number] = trial
        return trial


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The hyperparameters that are numbers, under the names that a log has for them."""
    return {
        f"hyperparameters/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def folder_name(study: str) -> str:
    """A study's name as that of a folder."""
    return quote(study, safe=" ()+,=@")[:120].lstrip(".") or "study"


def cut(files: Mapping[str, int]) -> None:
    """Truncate files to the sizes that were noted."""
    for name, size in files.items():
        with contextlib.suppress(FileNotFoundError):
            if Path(name).stat().st_size > size:
                os.truncate(name, size)


def _try_lock(path: Path) -> IO[str] | None:
    stream = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")  # noqa: PTH123
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        return None
    return stream


def _unlock(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.close()
