"""A study at work in its store: jobs are taken from it, reports and results go back; Study and tune() share it."""

from __future__ import annotations

import itertools
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import StudyError
from luthier.jobs import Budget, History, Job, Report, Result
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.store import Store, StudyStore, open_store
from luthier.study import settings as study_settings
from luthier.study.methods import Resolved
from luthier.text import public_url
from luthier.trials import best_jobs

MEMORY = ":memory:"  # the URL of a store in memory
BEAT = 2.0  # seconds between two renewals of the lease: leases are many times longer
SLOW = 0.02  # seconds: a proposal that takes longer is made under a lease on proposing
FLUSH = 1.0  # seconds between two writes of the reports of running jobs
RETRY = 1.0  # seconds between two attempts to claim jobs that somebody else holds
GRACE = 2.0  # seconds for which any checkpoint is spared: results of the same stack may be on their way
SPARE = 30.0  # seconds for which a checkpoint that is no longer needed is spared while others work on the study


def open_ledger(
    name: str,
    space: Space,
    goals: Mapping[str, str],
    method: Resolved,
    budget: Budget,
    seed: int,
    store: str | Path | Store | None,
    task: str = "",
) -> Ledger:
    """Create a study or go on with the one that is there.

    Args:
        name: The study.
        space: Its search space.
        goals: Its objectives and their directions.
        method: Its method, not bound yet.
        budget: What the study may spend.
        seed: Its seed.
        store: A store, or what :func:`luthier.store.open_store` takes.
        task: What is tuned, in a word.

    Raises:
        MethodError: If the method and the budget do not fit.
        StudyError: If the stored study has other settings.
    """
    bound = method.proposer.bind(budget)
    given = study_settings.build(space, goals, seed, method.proposer, method.adapter, budget, task)
    own = not hasattr(store, "attach")
    opened: Any = open_store(store) if own else store  # type: ignore[arg-type]
    try:
        stored = opened.create(name, given)
        lines = study_settings.differences(stored, given, bound.extendable)
        study_settings.refuse(name, public_url(opened.url), lines)
        if stored["budget"] != given["budget"]:
            stored = {**stored, "budget": given["budget"]}
            opened.update_settings(name, stored)
        return Ledger(opened, name, stored, History(space, goals), bound, Seeds(seed), budget.total)
    except BaseException:
        if own:
            opened.close()
        raise


class Ledger:
    """One process's hold on a study: what it has taken, what it still has to write.

    Args:
        store: Where the study lives.
        name: The study.
        settings: Its settings as they are stored.
        history: An empty history; the store fills it.
        proposer: The method, bound to the budget; None to read only.
        seeds: The study's seeds.
        total: Training steps that all jobs together may spend, or None.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: dict[str, Any],
        history: History,
        proposer: Any,
        seeds: Seeds,
        total: int | None = None,
    ) -> None:
        self.store, self.name, self.settings, self.history = store, name, settings, history
        self.proposer, self.seeds, self.total = proposer, seeds, total
        self.proposing = 0.0  # seconds of this thread's CPU time spent in the method
        self.busy = False  # somebody else is proposing: nothing was given, more may come
        self.mine: dict[int, float] = {}  # unfinished jobs that this process holds, and since when
        self._waiting: deque[Job] = deque()  # the user's own configurations: held, not yet given out
        self._study: StudyStore = store.attach(name, None if proposer is None else f"process {os.getpid()}")
        self._stop = getattr(proposer, "stop", None)
        self._told: set[int] = set()  # asked to stop
        self._reports: list[Report] = []
        self._next_flush = self._next_claim = 0.0
        self._slow = 0.0
        self._files: dict[str, set[int]] = {}  # checkpoint: jobs whose state it holds
        self._condemned: dict[str, float] = {}
        self._heartbeat: Heartbeat | None = None
        self.sync()
        self._known = len(history)  # jobs that were there at first, and those that this process has added

    @property
    def checkpoints(self) -> Any:
        """The study's folder of checkpoints."""
        return self._study.checkpoints

    def sync(self) -> None:
        """Bring the history up to date with the store."""
        for event in self._study.sync(self.history):
            if isinstance(event, Result):
                self._told.discard(event.number)
                if event.checkpoint is not None:
                    self._files.setdefault(event.checkpoint[0], set()).add(event.number)

    def take(self, count: int) -> list[Job]:
        """At most ``count`` jobs to run now: the user's own, those that a dead process left, then new ones."""
        self.busy = False
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(self._study, BEAT)
        jobs = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        self.sync()
        if len(jobs) < count:
            jobs += self._claim(count - len(jobs))
        if len(jobs) < count:
            jobs += self._propose(count - len(jobs))
        return jobs

    def over(self) -> bool:
        """Whether nothing is pending and the method has nothing more."""
        self.sync()
        return not self.history.pending and not self._proposed(1)

    def enqueue(self, config: Config) -> Job:
        """Put a configuration of the user's in the place of the next fresh one that the method proposes."""
        while True:
            self.sync()
            proposed = self.proposer.propose(self.history, 1, self.seeds)
            if not proposed or proposed[0].parent is not None:
                left = "it continues trainings now" if proposed else "it has no more to propose now"
                raise StudyError(
                    f"the method starts no new configuration here: {left}",
                    where=f"study {self.name!r}, enqueue({config!r})",
                    remedy="Enqueue before the first ask, or give the study more trials.",
                )
            job = Job(proposed[0].number, config, proposed[0].steps, None, proposed[0].tag)
            if self._study.append([job], self.history):
                job = self._hold([job])[0]
                self._waiting.append(job)
                return job

    def report(self, reports: Sequence[Report]) -> set[int]:
        """Keep reports of running jobs; the numbers of all jobs that should stop."""
        for report in reports:
            if report.number in self.mine:
                self._reports.append(report)
        if self._stop is None:
            if time.monotonic() >= self._next_flush:
                self.flush()
            return self._told
        self.flush()  # the history learns of reports from the store
        for number in {report.number for report in reports} - self._told:
            if number in self.mine and self._stop(self.history, number):
                self._told.add(number)
        return set(self._told)

    def flush(self) -> None:
        """Write the reports that have come."""
        if self._reports:
            self.record([])

    def record(self, results: Sequence[Result]) -> list[int]:
        """Write results, and the reports before them, in one transaction; the numbers that count."""
        accepted = self._study.record(results, self._reports)
        self._reports = []
        self._next_flush = time.monotonic() + FLUSH
        for result in results:
            self.mine.pop(result.number, None)
        if len(accepted) < len(results):
            lost = sorted({result.number for result in results} - set(accepted))
            warnings.warn(
                f"study {self.name!r}: the results of jobs {lost} were dropped: others had taken them over",
                RuntimeWarning,
                stacklevel=3,
            )
        self.sync()
        return accepted

    def release(self) -> None:
        """Write what is left and give back what this process holds, for anybody to take."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        self.flush()
        self._waiting.clear()
        if self.mine:
            self._study.release()
            self.mine.clear()

    def update_settings(self, **changes: Any) -> None:
        """Change single settings in the store."""
        self.settings = {**self.store.settings(self.name), **changes}
        self.store.update_settings(self.name, self.settings)

    def tidy(self) -> None:
        """Remove the checkpoints that nothing can name any more."""
        named = getattr(self.proposer, "parents", None)
        keep = set(best_jobs(self.history)) | (set(named(self.history)) if named is not None else set())
        keep |= {job.parent for job in self.history.pending.values() if job.parent is not None}
        alone = len(self.history) == self._known and len(self.history.pending) == len(self.mine)
        now = time.monotonic()
        for file, numbers in self._files.items():
            if numbers & keep:
                self._condemned.pop(file, None)
            else:
                self._condemned.setdefault(file, now)
        spare = GRACE if alone else SPARE
        gone = [file for file, since in self._condemned.items() if now - since > spare]
        if gone:
            self.checkpoints.remove(gone)
        for file in gone:
            del self._condemned[file], self._files[file]

    def tidy_all(self) -> None:
        """At the end of a study: remove every file that no job that is kept names."""
        self.tidy()
        if not self.history.pending:
            self.checkpoints.keep_only(self._files.keys() - self._condemned.keys())

    def _claim(self, count: int) -> list[Job]:
        if len(self.history.pending) == len(self.mine) or time.monotonic() < self._next_claim:
            return []
        jobs = self._study.claim(count)
        if len(jobs) < count:
            self._next_claim = time.monotonic() + RETRY
        self.mine.update(dict.fromkeys((job.number for job in jobs), time.perf_counter()))
        return jobs

    def _propose(self, count: int) -> list[Job]:
        while True:
            turn = self._slow > SLOW
            if turn:
                if not self._study.turn(max(5.0, 5 * self._slow)):
                    self.busy = True
                    return []
                self.sync()
            try:
                start = time.thread_time()  # of a busy machine's pauses the method is not to blame
                jobs = self._proposed(count)
                self._slow = time.thread_time() - start
                self.proposing += self._slow
                if not jobs:
                    return []
                if self._study.append(jobs, self.history):
                    return self._hold(jobs)
            finally:
                if turn:
                    self._study.end_turn()
            self.sync()

    def _proposed(self, count: int) -> list[Job]:
        """What the method proposes, up to the first job that the steps of the study are not enough for."""
        jobs = self.proposer.propose(self.history, count, self.seeds)
        if self.total is None:
            return jobs
        left = self.total - int(self.history.steps.sum())
        spent = itertools.accumulate(job.steps for job in jobs)
        return [job for job, steps in zip(jobs, spent, strict=True) if steps <= left]

    def _hold(self, jobs: Sequence[Job]) -> list[Job]:
        self.sync()
        self._known += len(jobs)
        self.mine.update(dict.fromkeys((job.number for job in jobs), time.perf_counter()))
        return [self.history.jobs[job.number] for job in jobs]


class Heartbeat:
    """A thread that renews a lease, so that a training which says nothing for long is not taken over.

    Args:
        study: Whose lease.
        every: Seconds between two renewals.
    """

    def __init__(self, study: StudyStore, every: float) -> None:
        self._ended = threading.Event()
        target = weakref.ref(study)
        weakref.finalize(study, self._ended.set)
        threading.Thread(target=_beat, args=(target, self._ended, every), name="luthier lease", daemon=True).start()

    def stop(self) -> None:
        """End the thread, at its next look."""
        self._ended.set()


def _beat(target: weakref.ref[StudyStore], ended: threading.Event, every: float) -> None:
    while not ended.wait(every):
        study = target()
        if study is None:
            return
        try:
            study.renew()
        except Exception:
            continue  # the next write of the loop meets the same trouble and tells the user
        del study
