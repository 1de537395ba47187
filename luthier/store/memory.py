"""The store for a study that need not outlive its process."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from luthier.jobs import Event, History, Job, Note, Report, Result
from luthier.store import LEASE, OUTAGE, Exchanged, Propose, StudySummary, encoding
from luthier.store.checkpoints import Checkpoints, folder_name, study_folder
from luthier.store.counts import (
    DEATHS,
    LOSSES,
    Leader,
    check_jobs,
    check_name,
    died,
    no_study,
    not_filled_by_sync,
    settings_text,
    stretched,
)


@dataclass
class _Unended:
    """A job that has not ended."""

    owner: _MemoryStudy | None
    attempts: int
    partial: str | None = None
    partial_steps: int = 0


@dataclass
class _Study:
    name: str
    uid: str
    settings: str
    created: float
    updated: float
    best: Leader
    deleted: bool = False
    events: list[Event | Note] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    results: dict[int, Result] = field(default_factory=dict)
    queue: dict[int, _Unended] = field(default_factory=dict)
    turn: tuple[_MemoryStudy | None, float] = (None, 0.0)
    janitor: tuple[_MemoryStudy | None, float] = (None, 0.0)
    vectors: dict[int, list[int | None]] = field(default_factory=dict)  # job: its long reports, None if thinned


def _moment(said: tuple[Event | Note, float]) -> tuple[float, bool]:
    """The time of an event, and True for a report: those of one moment are added to a history together."""
    return said[1], isinstance(said[0], Report)


class Memory:
    """Studies in this process's memory, under the same contract as a database.

    Args:
        lease: Seconds after which an owner that has not renewed loses its jobs to whoever claims them.
        checkpoints: Folder of the checkpoints; without it a temporary one that is removed by :meth:`close`.
    """

    url = ":memory:"
    away: str | None = None
    outage = OUTAGE

    def __init__(self, *, lease: float = LEASE, checkpoints: str | Path | None = None) -> None:
        self._studies: dict[str, _Study] = {}
        self._uid = uuid.uuid4().hex
        self._lease = lease
        self._folder = None if checkpoints is None else str(checkpoints)
        self._temporary: weakref.finalize | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return "Memory()"

    def when_away(self, tell: Callable[[str | None], None] | None) -> None:
        """Nothing: memory is never away."""

    def create(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        check_name(name)
        with self._lock:
            if name not in self._studies:
                now = time.time()
                text = settings_text(settings)
                self._studies[name] = _Study(name, uuid.uuid4().hex, text, now, now, Leader.of(settings))
            return self.settings(name)

    def settings(self, name: str) -> dict[str, Any]:
        return encoding.loads(self._study(name).settings)

    def update_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        with self._lock:
            self._study(name).settings = settings_text(settings)

    def studies(self) -> list[StudySummary]:
        with self._lock:
            return [
                StudySummary(s.name, len(s.jobs), len(s.jobs) - len(s.queue), *s.best.summary(), s.created, s.updated)
                for s in self._studies.values()
            ]

    def delete(self, name: str) -> None:
        with self._lock:
            study = self._study(name)
            study.deleted = True
            del self._studies[name]
            if self._folder is not None:
                self._checkpoints(study).clear()

    def attach(self, name: str, owner: str | None) -> _MemoryStudy:
        return _MemoryStudy(self, self._study(name), self._lock, self._lease)

    def close(self) -> None:
        with self._lock:
            for study in self._studies.values():
                for entry in study.queue.values():
                    if entry.owner is not None:
                        entry.owner, entry.attempts = None, entry.attempts - 1
                study.turn = study.janitor = (None, 0.0)
        if self._temporary is not None:
            self._temporary()
            self._temporary, self._folder = None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _study(self, name: str) -> _Study:
        if name not in self._studies:
            raise no_study(name, self.url, self._studies)
        return self._studies[name]

    def _checkpoints(self, study: _Study) -> Checkpoints:
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="luthier-")
                self._temporary = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            folder = study_folder(self._folder, f"{folder_name(study.name)}-{study.uid[:12]}")
            return Checkpoints(
                folder, durable=self._temporary is None, identity={"store": self._uid, "study": study.uid}
            )


class _MemoryStudy:
    """One owner's view of a study in memory; see :class:`luthier.store.StudyStore`."""

    def __init__(self, store: Memory, study: _Study, lock: threading.RLock, lease: float) -> None:
        self.attempts: dict[int, int] = {}
        self._store, self._study, self._lock, self._lease = store, study, lock, lease
        self._until = time.monotonic() + lease

    @property
    def checkpoints(self) -> Checkpoints:
        return self._store._checkpoints(self._study)

    @property
    def partials(self) -> dict[int, str | None]:
        with self._lock:
            return {n: e.partial for n, e in self._study.queue.items() if e.owner is self}

    def append(self, jobs: Sequence[Job], history: History) -> bool:
        check_jobs(jobs, len(history))
        kept = [encoding.normal(job) for job in jobs]
        with self._lock:
            study = self._open()
            if len(study.jobs) != len(history):
                return False
            self._insert(kept)
            self._wrote()
        return True

    def record(self, results: Sequence[Result], reports: Sequence[Report] = ()) -> list[int]:
        kept_reports = [encoding.normal(report) for report in reports]
        kept_results = [encoding.normal(result) for result in results]
        with self._lock:
            study, accepted, now = self._open(), [], time.time()
            for report in kept_reports:
                if report.number in study.queue:
                    self._add_report(report, now)
            for result in kept_results:
                if result.number in study.queue:
                    self._end(result, now)
                    accepted.append(result.number)
                self.attempts.pop(result.number, None)
            self._wrote()
        return accepted

    def exchange(
        self,
        results: Sequence[Result] = (),
        reports: Sequence[Report] = (),
        *,
        room: int = 0,
        propose: Propose | None = None,
        history: History | None = None,
    ) -> Exchanged:
        with self._lock:
            accepted = self.record(results, reports) if results or reports else []
            study = self._open()
            if history is not None:
                self.sync(history)
            if not room or propose is None:
                return Exchanged(accepted, [], False, history is not None)
            if any(entry.owner is None for entry in study.queue.values()):
                return Exchanged(accepted, self.claim(room), False, history is not None)
            owner, until = study.turn
            if owner not in (None, self) and until >= time.monotonic():
                return Exchanged(accepted, [], True, history is not None)
            made = [encoding.normal(job) for job in propose(len(study.jobs), room)]
            check_jobs(made, len(study.jobs))
            self._insert(made)
            self._wrote()
            if history is not None:
                self.sync(history)
            return Exchanged(accepted, made, False, history is not None)

    def claim(self, count: int) -> list[Job]:
        with self._lock:
            study, now = self._open(), time.monotonic()
            for number, entry in list(study.queue.items()):
                if entry.owner is not None and entry.owner is not self and entry.owner._until < now:
                    self._free(number, entry, LOSSES)
            free = [(entry.attempts > 1, n) for n, entry in study.queue.items() if entry.owner is None]
            taken = [number for _, number in sorted(free)[:count]]
            for number in taken:
                entry = study.queue[number]
                entry.owner, entry.attempts = self, entry.attempts + 1
                self.attempts[number] = entry.attempts
            if taken:
                self._wrote()
            return [study.jobs[number] for number in taken]

    def renew(self) -> None:
        self._until = time.monotonic() + stretched(self._lease, self.attempts.values())

    def release(self, numbers: Sequence[int] | None = None, died: bool = False) -> None:
        with self._lock:
            for number, entry in list(self._open().queue.items()):
                if entry.owner is self and (numbers is None or number in numbers):
                    del self.attempts[number]
                    if died:
                        self._free(number, entry, DEATHS)
                    else:
                        entry.owner, entry.attempts = None, entry.attempts - 1

    def partial(self, number: int, file: str, steps: int) -> bool:
        with self._lock:
            entry = self._open().queue.get(number)
            if entry is None or entry.owner is not self:
                superseded = file
            else:
                superseded, entry.partial = entry.partial, file
                if steps > entry.partial_steps:
                    entry.attempts = self.attempts[number] = 1
                entry.partial_steps = steps
        if superseded is not None:
            self.checkpoints.remove([superseded])
        return superseded != file

    def note(self, notes: Sequence[Note]) -> None:
        kept = [encoding.normal(note) for note in notes]
        with self._lock:
            self._open()
            for note in kept:
                self._add(note, time.time())
            self._wrote()

    def reopen(self, numbers: Sequence[int]) -> list[int]:
        with self._lock:
            study = self._open()
            ended = (n for n in sorted(set(numbers)) if n in study.results and n not in study.queue)
            found = [number for number in ended if study.results[number].status != "ok"]
            for number in found:
                self._add(Note("reopened", {"number": number}), time.time())
                study.queue[number] = _Unended(None, 0)
            return found

    def sync(self, history: History) -> list[Event | Note]:
        with self._lock:
            study, (place, known) = self._open(), history.cursor
            if len(history.log) != known or place > len(study.events):
                where = f"store {Memory.url}, study {study.name!r}"
                raise not_filled_by_sync(place + 1, len(study.events), where)
            new, times = study.events[place:], study.times[place:]
            for (at, are_reports), run in groupby(zip(new, times, strict=True), _moment):
                events = [event for event, _ in run]
                if are_reports:
                    history.add_reports(events, at)  # type: ignore[arg-type]
                else:
                    for event in events:
                        history.add(event, at)
            history.cursor = (len(study.events), len(history.log))
        return new

    def turn(self, seconds: float) -> bool:
        return self._leased("turn", seconds)

    def end_turn(self) -> None:
        with self._lock:
            if self._study.turn[0] is self:
                self._study.turn = (None, 0.0)

    def held(self) -> set[int]:
        with self._lock:
            now = time.monotonic()
            owners = {number: entry.owner for number, entry in self._open().queue.items() if entry.owner is not None}
            return {number for number, owner in owners.items() if owner is self or owner._until >= now}

    def strays(self) -> list[str]:
        """None: what is in memory ends with its owners."""
        return []

    def janitor(self, seconds: float) -> bool:
        return self._leased("janitor", seconds)

    def _leased(self, name: str, seconds: float) -> bool:
        """Take a lease of the study, unless another owner has it."""
        with self._lock:
            study, now = self._open(), time.monotonic()
            owner, until = getattr(study, name)
            free = owner in (None, self) or until < now
            if free:
                setattr(study, name, (self, now + seconds))
            return free

    def _open(self) -> _Study:
        if self._study.deleted:
            raise no_study(self._study.name, Memory.url, self._store._studies)
        return self._study

    def _wrote(self) -> None:
        self._study.updated = time.time()
        self.renew()

    def _add(self, event: Event | Note, now: float) -> None:
        self._study.events.append(event)
        self._study.times.append(now)

    def _insert(self, jobs: Sequence[Job]) -> None:
        now = time.time()
        for job in jobs:
            self._study.jobs.append(job)
            self._study.queue[job.number] = _Unended(self, 1)
            self.attempts[job.number] = 1
            self._add(job, now)

    def _end(self, result: Result, now: float) -> None:
        study = self._study
        partial = study.queue.pop(result.number).partial
        study.vectors.pop(result.number, None)
        study.results[result.number] = result
        study.best.see(result)
        self._add(result, now)
        if partial is not None:
            self.checkpoints.remove([partial])

    def _free(self, number: int, entry: _Unended, most: int) -> None:
        """A job whose attempt has come to nothing."""
        if entry.owner is not None:
            entry.owner.attempts.pop(number, None)
        entry.owner = None
        if entry.attempts >= most:
            self._end(died(number, most), time.time())

    def _add_report(self, report: Report, now: float) -> None:
        study = self._study
        self._add(report, now)
        if not encoding.has_vectors(report):
            return
        places = study.vectors.setdefault(report.number, [])
        places.append(len(study.events) - 1)
        stride = encoding.stride(len(places))
        for position, place in enumerate(places):
            if place is not None and position % stride:
                study.events[place] = encoding.thinned(study.events[place])  # type: ignore[arg-type]
                places[position] = None
