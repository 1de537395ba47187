"""A study at work in its store: jobs are taken from it, reports and results go back; Study and tune() share it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from luthier.errors import StudyError
from luthier.jobs import ENQUEUED, REPEATS, Budget, History, Job, Note, Report, Result
from luthier.optional import optional
from luthier.propose import door
from luthier.propose.sight import Sight
from luthier.seeds import Seeds
from luthier.space import Config
from luthier.store import Store, StudyStore
from luthier.study.heartbeat import Heartbeat
from luthier.study.succession import check_succession, say_succession
from luthier.study.tidying import Tidying
from luthier.text import warn

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

MEMORY = ":memory:"  # the URL of a store in memory
BEAT = 2.0  # seconds between two renewals of the lease: leases are many times longer
SLOW = 0.02  # seconds: a proposal that takes longer is made under a lease on proposing
FLUSH = 1.0  # seconds between two writes of the reports of running jobs
TURN = 5.0  # seconds of the lease on proposing under which the method changes
RETRY = 1.0  # seconds between two attempts to claim jobs that somebody else holds


def _alone(method: Callable[Concatenate[Ledger, Given], Returned]) -> Callable[Concatenate[Ledger, Given], Returned]:
    """One thread at a time: a study may be asked and told by several."""

    @wraps(method)
    def locked(self: Ledger, *given: Given.args, **named: Given.kwargs) -> Returned:
        with self.lock:
            return method(self, *given, **named)

    return locked


class Ledger:
    """One process's hold on a study: what it has taken, what it still has to write. Its threads may share it.

    Args:
        store: The store that holds the study.
        name: The study.
        settings: Its settings as they are stored.
        history: An empty history; the store fills it.
        proposer: The method, not bound to the budget; None to read only.
        seeds: The study's seeds.
        budget: Budget of the study.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: dict[str, Any],
        history: History,
        proposer: Any,
        seeds: Seeds,
        budget: Budget | None = None,
    ) -> None:
        self.store, self.name, self.settings, self.history = store, name, settings, history
        self.begun_earlier = False  # by a version whose adapters trained a window where less was asked
        self.kept_as = ""  # the name that an older study of this name has now
        self.adapter: Any = None  # what trains its jobs, in the form in which it was begun
        self.seeds, self.budget = seeds, budget or Budget()
        self.proposing = 0.0  # seconds of this thread's CPU time spent in the method
        self.busy = False  # somebody else is proposing: nothing was given, more may come
        self.mine: dict[int, float] = {}  # unfinished jobs that this process holds, and since when
        self.lock = threading.RLock()  # held by a thread that changes the history, or reads it as one state
        self._ready: list[Job] = []  # proposed with the last results: held, not yet given out
        self._study: StudyStore = store.attach(name, None if proposer is None else f"process {os.getpid()}")
        self._told: set[int] = set()  # asked to stop
        self._reports: list[Report] = []
        self._next_flush = self._next_claim = 0.0
        self._slow = 0.0
        self._heartbeat: Heartbeat | None = None
        self.sync()
        self._known = len(history)  # jobs that were there at first, and those that this process has added
        self.sight: Sight | None = None
        self._taken_on = 0  # of the methods that have gone on with the study, those that this process knows
        self._see(proposer)

    def _see(self, proposer: Any) -> None:
        """Take ``proposer`` as the method from here on, or from where it has taken the study on."""
        history = self.history
        last = history.methods[-1] if history.methods else None
        if proposer is not None:
            self.sight = Sight(proposer, self.budget, history, last.place) if last else Sight(proposer, self.budget)
        self._taken_on = len(history.methods)
        continues = self.sight if optional(self.proposer, "parents") else None
        self._tidying = Tidying(self._study, history, continues and continues.parents)

    @property
    def proposer(self) -> Any:
        """The method, bound to what it has of the budget; None to read only."""
        return None if self.sight is None else self.sight.bound

    @property
    def succeeded(self) -> bool:
        """True if another process goes on with the study by another method."""
        return self.sight is not None and len(self.history.methods) > self._taken_on

    @property
    def checkpoints(self) -> Any:
        """The study's folder of checkpoints."""
        return self._study.checkpoints

    @property
    def attempts(self) -> Mapping[int, int]:
        """The jobs that this process holds, and which attempt this is at each: 1 is the first."""
        return self._study.attempts

    @property
    def partials(self) -> Mapping[int, str | None]:
        """The checkpoint from which each job that this process holds can go on, or None."""
        return self._study.partials

    @_alone
    def waiting(self) -> set[int]:
        """The jobs that have not ended and that nobody runs: they were given back, or their process has died."""
        self.sync()
        return set(self.history.pending) - self._study.held() if self.history.pending else set()

    @_alone
    def sync(self) -> None:
        """Bring the history up to date with the store."""
        self._study.sync(self.history)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    @_alone
    def take(self, count: int) -> list[Job]:
        """Jobs to run now, at most ``count``: those that a dead process left, or a user retries, then new ones."""
        self.busy = False
        if self.succeeded:
            return []
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(self._study, BEAT)
        jobs, self._ready = self._ready[:count], self._ready[count:]
        if len(jobs) < count:
            jobs += self._claim(count - len(jobs))
        if len(jobs) < count:
            jobs += self._propose(count - len(jobs))
        return jobs

    @_alone
    def over(self) -> bool:
        """Return True if nothing is pending and the method has nothing more to propose."""
        self.sync()
        return not self.history.pending and not self.history.reopened and not self._proposed(1)

    @_alone
    def report(self, reports: Sequence[Report]) -> set[int]:
        """Keep reports of running jobs; the numbers of all jobs that should stop."""
        for report in reports:
            if report.number in self.mine:
                self._reports.append(report)
        if self.sight is None or not optional(self.proposer, "stop"):
            if time.monotonic() >= self._next_flush:
                self.flush()
            return set(self._told)
        self.flush()  # the history learns of reports from the store
        for number in {report.number for report in reports} - self._told:
            if number in self.mine and number in self.history.pending and self.sight.stop(self.history, number):
                self._told.add(number)
        return set(self._told)

    @_alone
    def flush(self) -> None:
        """Write the reports that have come."""
        if self._reports:
            self.record([])

    @_alone
    def record(self, results: Sequence[Result], room: int = 0) -> list[int]:
        """Write results, and the reports before them, in one transaction; the numbers that count.

        Args:
            results: The results.
            room: Jobs that will be taken next: they are proposed in the same transaction, where that is quick.
        """
        first = len(self.history)
        room = room if self._slow <= SLOW and self.proposer is not None else 0
        plain = [replace(result, notes={}) if result.notes else result for result in results]
        done = self._study.exchange(
            plain, self._reports, room=max(0, room - len(self._ready)), propose=self._next, history=self.history
        )
        said = {result.number: result.notes for result in results if result.notes and result.number in done.accepted}
        if said:
            self._study.note([Note("note", {"number": number, "values": notes}) for number, notes in said.items()])
        self._reports = []
        self._next_flush = time.monotonic() + FLUSH
        for result in results:
            self.mine.pop(result.number, None)
            self._told.discard(result.number)
        self._ready += self._hold(done.jobs, first)
        if len(done.accepted) < len(results):
            lost = sorted({result.number for result in results} - set(done.accepted))
            warn(f"study {self.name!r}: the results of jobs {lost} were dropped: others had brought theirs before")
        if not done.synced:
            self.sync()
        return done.accepted

    @_alone
    def partial(self, number: int, file: str, steps: int) -> bool:
        """Name a checkpoint from which a running job can go on; False, and it is removed, if another holds the job."""
        return self._study.partial(number, file, steps)

    @_alone
    def give_back(self, numbers: Sequence[int], died: bool = False) -> None:
        """Give single jobs back.

        Args:
            numbers: The jobs.
            died: A process has died under them. That counts: a job that has ended three gets a failed result. Else it
                is as if the jobs had not been begun.
        """
        self.flush()
        self._study.release(numbers, died)
        for number in numbers:
            self.mine.pop(number, None)
            self._told.discard(number)

    @_alone
    def release(self) -> None:
        """Write what is left and give back what this process holds, for anybody to take."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        self.flush()
        self._ready.clear()
        if self.mine:
            self._study.release()
            self.mine.clear()

    # -- what is said beside it ---------------------------------------------------------------------------------------

    @_alone
    def enqueue(self, config: Config) -> int:
        """Let a configuration of the user's take the place of the next fresh one that a method proposes.

        Returns:
            Its place in ``history.enqueued``.

        Raises:
            StudyError: If the method starts no new configuration that it could replace.
        """
        self.sync()
        before = len(self.history.waiting)
        proposed = [] if self.proposer is None else self._proposed(before + 1)
        if self.proposer is not None and sum(job.parent is None for job in proposed) <= before:
            left = "it continues trainings now" if len(proposed) > before else "it has no more to propose now"
            raise StudyError(
                f"the method starts no new configuration here: {left}",
                where=f"study {self.name!r}, enqueue({config!r})",
                remedy="Enqueue before the first ask, or give the study more trials.",
            )
        self._say("enqueued", {"config": config})
        place = len(self.history.enqueued) - 1
        while self.history.enqueued[place] != config:  # others have enqueued meanwhile
            place -= 1
        return place

    @_alone
    def know(self, results: Sequence[tuple[Config, Mapping[str, float]]]) -> None:
        """Add results from elsewhere, (configuration, metrics) each: ``history.foreign``."""
        self._study.note([Note("foreign", {"config": config, "metrics": metrics}) for config, metrics in results])
        self.sync()

    @_alone
    def reopen(self, numbers: Sequence[int]) -> list[int]:
        """Let jobs that did not end "ok" be tried again: ``history.reopened``; the numbers of those that can."""
        found = self._study.reopen(numbers)
        self.sync()
        return found

    @_alone
    def fingerprint(self, text: str) -> None:
        """Say what identifies the task's code from the next job on, if it has changed: ``history.fingerprints``."""
        self.sync()
        known = self.history.fingerprints
        if not known or known[-1][1] != text:
            self._say("fingerprint", {"text": text, "first": len(self.history)})

    @_alone
    def go_on(self, given: Mapping[str, Any], on_change: str = "warn") -> None:
        """Go on under the settings of this call: by its method, and within its budget.

        Args:
            given: The settings.
            on_change: ``"error"`` refuses another method.

        Raises:
            StudyError: If another method would go on, and may not or cannot.
            MethodError: If it does not fit what is left of the budget.
        """
        stored, history = self.settings, self.history
        before = history.methods[-1].now if history.methods else stored["method"]
        if before != (now := given["method"]):
            check_succession(self.name, history, before, now, self.budget.trials, on_change)
            while not self._study.turn(TURN):  # nobody proposes meanwhile by the method that was
                time.sleep(0.02)
            try:
                self.sync()
                Sight(self.sight.given, self.budget, history, len(history.log))  # type: ignore[union-attr]  # raises
                self._say("method", {"before": before, "now": now})
            finally:
                self._study.end_turn()
            self._see(self.sight.given)  # type: ignore[union-attr]
            say_succession(self.name, history.methods[-1], self.proposer)
        if (stored["budget"], stored["method"]) != (given["budget"], now):
            self.update_settings(budget=given["budget"], method=now)

    def _say(self, kind: Any, body: Mapping[str, Any]) -> None:
        self._study.note([Note(kind, body)])
        self.sync()

    def update_settings(self, **changes: Any) -> None:
        """Change single settings in the store."""
        self.settings = {**self.store.settings(self.name), **changes}
        self.store.update_settings(self.name, self.settings)

    # -- checkpoints that nobody needs --------------------------------------------------------------------------------

    @_alone
    def tidy(self) -> None:
        """Remove the checkpoints of which it is certain that nobody will name them any more."""
        self.sync()
        if not self.succeeded:  # what the other method may continue is not known here
            self._tidying.run(self._is_alone())

    @_alone
    def tidy_all(self) -> None:
        """Tidy without grace, at the end of a study that nobody else works on."""
        if self._is_alone() and self.over() and not self.succeeded:
            self._tidying.run(True, grace=0.0)
        else:
            self.tidy()

    def _is_alone(self) -> bool:
        history = self.history
        return len(history) == self._known and len(history.pending) + len(history.reopened) == len(self.mine)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _claim(self, count: int) -> list[Job]:
        unended = len(self.history.pending) + len(self.history.reopened)
        if unended == len(self.mine) or time.monotonic() < self._next_claim:
            return []
        jobs = self._study.claim(count)
        if len(jobs) < count:
            self._next_claim = time.monotonic() + RETRY
        return self._hold(jobs, len(self.history))

    def _propose(self, count: int) -> list[Job]:
        if self._slow <= SLOW:
            first = len(self.history)
            done = self._study.exchange(room=count, propose=self._made, history=self.history)
            self.busy = done.busy
            if not done.synced:
                self.sync()
            return self._hold(done.jobs, first)
        while True:
            if not self._study.turn(max(5.0, 5 * self._slow)):
                self.busy = True
                return []
            try:
                self.sync()
                jobs = self._made(len(self.history), count)
                if not jobs:
                    return []
                if self._study.append(jobs, self.history):
                    self.sync()
                    return self._hold(self.history.jobs[jobs[0].number :][: len(jobs)], jobs[0].number)
            finally:
                self._study.end_turn()

    def _made(self, first: int, count: int) -> list[Job]:
        """New jobs; their making is timed."""
        start = time.thread_time()  # of a busy machine's pauses the method is not to blame
        jobs = self._proposed(count)
        self._slow = time.thread_time() - start
        self.proposing += self._slow
        return jobs

    def _next(self, first: int, count: int) -> list[Job]:
        """New jobs beside results; where the method fails it will fail again when it is asked for them alone."""
        try:
            return self._made(first, count)
        except Exception:
            return []

    def _proposed(self, count: int) -> list[Job]:
        """Return the method's proposals, up to the first job that the study's remaining steps do not cover."""
        if self.succeeded:
            return []
        jobs = door.propose(self.proposer, self.history, count, self.seeds, self.sight)
        if self.history.enqueued:
            jobs = self._with_enqueued(jobs)
        if self.budget.total is None:
            return jobs
        left = self.budget.total - int(self.history.steps.sum())
        spent = itertools.accumulate(job.steps for job in jobs)
        return [job for job, steps in zip(jobs, spent, strict=True) if steps <= left]

    def _with_enqueued(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs with the user's own configurations in the places of the first fresh ones."""
        waiting, made = iter(self.history.waiting), []
        for job in jobs:
            place = next(waiting, None) if job.parent is None else None
            if place is not None:
                config = self.history.enqueued[place]
                steps = job.steps
                if self.budget.epochs is not None:  # an epoch may be of another length there
                    ratio = self.budget.steps_for(config) / self.budget.steps_for(job.config)
                    steps = self.budget.window * max(1, round(steps // self.budget.window * ratio))
                tag = {name: value for name, value in job.tag.items() if name != REPEATS}  # it is another one now
                job = replace(job, config=config, steps=steps, tag={**tag, ENQUEUED: place})
            made.append(job)
        return made

    def _hold(self, jobs: Sequence[Job], first: int) -> list[Job]:
        """Note that this process has these jobs; those from number ``first`` on it has added."""
        self._known += sum(job.number >= first for job in jobs)
        self.mine.update(dict.fromkeys((job.number for job in jobs), time.perf_counter()))
        return list(jobs)
