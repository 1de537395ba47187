"""The store for a study that need not outlive its process."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from luthier.jobs import Event, History, Job, Report, Result
from luthier.store import LEASE, StudySummary, codec
from luthier.store.checkpoints import Checkpoints, study_folder
from luthier.store.summary import Best, check_jobs, check_name, no_study, not_filled_by_sync, settings_text


@dataclass
class _Study:
    name: str
    settings: str
    created: float
    updated: float
    best: Best
    deleted: bool = False
    events: list[Event] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    owners: dict[int, _MemoryStudy | None] = field(default_factory=dict)  # of the unfinished jobs
    turn: tuple[_MemoryStudy | None, float] = (None, 0.0)
    vectors: dict[int, list[int | None]] = field(default_factory=dict)  # job: its long reports, None if thinned


class Memory:
    """Studies in this process's memory, under the same contract as a database.

    Args:
        lease: Seconds after which an owner that has not renewed loses its jobs to whoever claims them.
        checkpoints: Folder of the checkpoints; without it a temporary one that is removed by :meth:`close`.
    """

    url = ":memory:"

    def __init__(self, *, lease: float = LEASE, checkpoints: str | Path | None = None) -> None:
        self._studies: dict[str, _Study] = {}
        self._lease = lease
        self._folder = None if checkpoints is None else str(checkpoints)
        self._temporary: weakref.finalize | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return "Memory()"

    def create(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        check_name(name)
        with self._lock:
            if name not in self._studies:
                now = time.time()
                self._studies[name] = _Study(name, settings_text(settings), now, now, Best.of(settings))
            return self.settings(name)

    def settings(self, name: str) -> dict[str, Any]:
        return codec.loads(self._study(name).settings)

    def update_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        with self._lock:
            self._study(name).settings = settings_text(settings)

    def studies(self) -> list[StudySummary]:
        with self._lock:
            return [
                StudySummary(s.name, len(s.jobs), len(s.jobs) - len(s.owners), *s.best.summary(), s.created, s.updated)
                for s in self._studies.values()
            ]

    def delete(self, name: str) -> None:
        with self._lock:
            study = self._study(name)
            study.deleted = True
            del self._studies[name]
            if self._folder is not None:
                self._checkpoints(name).clear()

    def attach(self, name: str, owner: str | None) -> _MemoryStudy:
        return _MemoryStudy(self, self._study(name), self._lock, self._lease)

    def close(self) -> None:
        with self._lock:
            for study in self._studies.values():
                study.owners = dict.fromkeys(study.owners)
                study.turn = (None, 0.0)
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

    def _checkpoints(self, name: str) -> Checkpoints:
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="luthier-")
                self._temporary = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            return Checkpoints(study_folder(self._folder, name), durable=self._temporary is None)


class _MemoryStudy:
    """One owner's view of a study in memory; see :class:`luthier.store.StudyStore`."""

    def __init__(self, store: Memory, study: _Study, lock: threading.RLock, lease: float) -> None:
        self._store, self._study, self._lock, self._lease = store, study, lock, lease
        self._until = time.monotonic() + lease

    @property
    def checkpoints(self) -> Checkpoints:
        return self._store._checkpoints(self._study.name)

    def append(self, jobs: Sequence[Job], history: History) -> bool:
        check_jobs(jobs, len(history))
        kept = [codec.normal(job) for job in jobs]
        with self._lock:
            study = self._open()
            if len(study.jobs) != len(history):
                return False
            study.jobs += kept
            study.events += kept
            study.owners.update((job.number, self) for job in kept)
            self._wrote()
        return True

    def record(self, results: Sequence[Result], reports: Sequence[Report] = ()) -> list[int]:
        kept_reports = [codec.normal(report) for report in reports]
        kept_results = [codec.normal(result) for result in results]
        with self._lock:
            study, accepted = self._open(), []
            for report in kept_reports:
                if study.owners.get(report.number) is self:
                    self._add_report(report)
            for result in kept_results:
                if study.owners.get(result.number) is self:
                    del study.owners[result.number]
                    study.vectors.pop(result.number, None)
                    study.events.append(result)
                    study.best.see(result)
                    accepted.append(result.number)
            self._wrote()
        return accepted

    def claim(self, count: int) -> list[Job]:
        with self._lock:
            study, now = self._open(), time.monotonic()
            free = [
                n for n, owner in study.owners.items() if owner is None or (owner is not self and owner._until < now)
            ]
            taken = sorted(free)[:count]
            study.owners.update((number, self) for number in taken)
            if taken:
                self._wrote()
            return [study.jobs[number] for number in taken]

    def renew(self) -> None:
        self._until = time.monotonic() + self._lease

    def release(self, numbers: Sequence[int] | None = None) -> None:
        with self._lock:
            owners = self._open().owners
            mine = [number for number, owner in owners.items() if owner is self]
            owners.update((number, None) for number in mine if numbers is None or number in numbers)

    def sync(self, history: History) -> list[Event]:
        with self._lock:
            events, known = self._open().events, len(history.events)
            if known > len(events):
                raise not_filled_by_sync(known + 1, len(events), f"store {Memory.url}, study {self._study.name!r}")
            new = events[known:]
        for event in new:
            history.add(event)
        return new

    def turn(self, seconds: float) -> bool:
        with self._lock:
            study, now = self._open(), time.monotonic()
            owner, until = study.turn
            if owner in (None, self) or until < now:
                study.turn = (self, now + seconds)
                return True
            return False

    def end_turn(self) -> None:
        with self._lock:
            if self._study.turn[0] is self:
                self._study.turn = (None, 0.0)

    def _open(self) -> _Study:
        if self._study.deleted:
            raise no_study(self._study.name, Memory.url, self._store._studies)
        return self._study

    def _wrote(self) -> None:
        self._study.updated = time.time()
        self.renew()

    def _add_report(self, report: Report) -> None:
        study = self._study
        study.events.append(report)
        if not codec.has_vectors(report):
            return
        places = study.vectors.setdefault(report.number, [])
        places.append(len(study.events) - 1)
        stride = codec.stride(len(places))
        for position, place in enumerate(places):
            if place is not None and position % stride:
                study.events[place] = codec.thinned(study.events[place])  # type: ignore[arg-type]
                places[position] = None
