"""The loop of tune(): jobs go out to the executor, reports and results come back to the ledger."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from luthier.errors import CheckpointError, StudyError
from luthier.execute import Executor
from luthier.jobs import DIVERGED, FAILED, PRUNED, Budget, History, Job, Lost, Partial, Report, Result
from luthier.optional import optional
from luthier.store.counts import DEATHS, SUSPECT
from luthier.study.again import Again
from luthier.study.following import Followers
from luthier.study.interrupt import Interrupts
from luthier.study.ledger import FLUSH, MEMORY, Ledger
from luthier.study.pace import Pace
from luthier.study.progress import Tick, choose, moved
from luthier.study.refusals import check_limited
from luthier.task import is_torch
from luthier.text import Tolerant, public_url, warn
from luthier.train import Work
from luthier.train.halt import Halt
from luthier.trials import best_jobs, front, lineage, on_test

log = logging.getLogger("luthier")
PROBE = 8  # jobs at once under a limit of wall time, before it is known how long one takes
GIVE_BACK = 5.0  # seconds that workers get to save what they train and hand it back
WAIT = 0.1  # seconds between two looks at jobs that other processes are running
AT_ONCE = 0.01  # seconds within which an executor that has no job left comes back from collect()
DENIED = 10.0  # seconds of such answers by which it has shown that it lost its jobs
LONELY = 2.0  # seconds of waiting for others until it is said
TIDY = 0.5  # seconds between two looks at which checkpoints can go


class Loop:
    """One call of tune(), from its first job to its last."""

    def __init__(
        self,
        ledger: Ledger,
        work: Work,
        executor: Executor,
        budget: Budget,
        max_failures: int,
        progress: bool | None,
        followers: Followers | None = None,
        ended: Callable[[], bool] = lambda: False,
        eager: bool = True,
    ) -> None:
        self.ledger, self.work, self.executor, self.max_failures = ledger, work, executor, max_failures
        self.total = expected(ledger, budget.trials)
        self.begun = time.monotonic()
        self.deadline = None if budget.seconds is None else self.begun + budget.seconds
        self.running: set[int] = set()
        self.streak = 0  # failures in a row
        self.fresh = 0  # results of this call
        self.next_tidy = 0.0
        self.heard = self.begun  # when the executor last had anything to say, or waited for it
        self.said_once: set[str] = set()
        self.pace = Pace(ledger.history, budget, self.total)
        self.failed_once = False
        self.idle = self.begun  # when there was last something to do
        self.shown = choose(progress, ledger.name)
        self.loud = progress is not False
        self.interrupts = Interrupts()
        self.again = Again(ledger.name, optional(executor, "deaths") or DEATHS, ledger.store.outage)
        self.followers = followers or Followers([], ledger.history)
        self.ended = ended  # whether one of the user's conditions to stop is met
        self.eager = eager  # nobody may want to say something between a result and the next proposal
        self.stopping = False

    def run(self) -> None:
        """Until the study is over, the time is up, or something stops it; then everything is given back."""
        done, left = False, None if self.deadline is None else self.deadline - time.monotonic()
        with self.interrupts:
            try:
                self.stopping = bool(self.ledger.history.arrival) and self.ended()
                self.ledger.store.when_away(self.say_away)
                self.executor.start(self.work, self.on_reports)
                with self.interrupts.limit(left):
                    while self.step():
                        self.interrupts.check()
                done = True
            except (KeyboardInterrupt, SystemExit):
                self.say_how_to_resume()
                raise
            finally:
                self.shut(done)

    def step(self) -> bool:
        """Start what can be started, wait for what ends first, record it; False at the end."""
        over = self.timeup() or self.stopping
        if self.timeup():
            return False
        if not over:
            over = not self.submit() and not self.running and not self.others()
        if self.running:
            self.collect()
            self.idle = time.monotonic()
        elif not over:
            self.check_waiting()
            with self.interrupts.allowed():
                time.sleep(WAIT)
        self.tick()
        return bool(self.running) or not over

    def collect(self) -> None:
        """Wait for what ends first, and record it.

        Raises:
            StudyError: If the executor says that it has no job left while some that it was given have not ended.
        """
        patience, begun = self.patience(), time.monotonic()
        try:
            with self.interrupts.allowed():
                outcomes = self.executor.collect(patience)
        except Halt:
            if not self.timeup() and self.interrupts.told is None:
                raise  # not of this study: it runs inside a training that has to end
            return
        self.ledger.flush() if not outcomes else self.record(outcomes)
        now = time.monotonic()
        if outcomes or now - begun > AT_ONCE:
            self.heard = now
            return
        with self.interrupts.allowed():
            time.sleep(AT_ONCE)
        if now - self.heard > DENIED:
            raise StudyError(
                f"{self.executor!r} has no job left, and {_numbers(self.running)} have not come back",
                where=f"study {self.ledger.name!r}",
                remedy="collect() must hand back each job that was submitted, as a Result or as Lost.",
            )

    def check_waiting(self) -> None:
        """Refuse to wait for what can never come.

        Raises:
            StudyError: If all unended jobs are held by this process, and none of them runs.
        """
        unended = self.ledger.history.pending.keys() | self.ledger.history.reopened.keys()
        held = self.ledger.mine.keys() & unended
        if self.again:
            return
        if held and not self.ledger.busy and held == unended:
            raise StudyError(
                f"nothing is left but {_numbers(held)}, which this process holds and nobody runs",
                where=f"study {self.ledger.name!r}",
                remedy="Tell the jobs that were asked for by hand, or close the study that holds them.",
            )
        if unended and time.monotonic() - self.idle > LONELY:
            self.say_once(f"waiting for {_numbers(unended - held)}, which this process does not hold")

    def submit(self) -> bool:
        """Give the executor as many jobs as it takes; return True if there were any, or will be once it has room."""
        capacity = self.executor.capacity
        if capacity < 1 and not self.running:
            self.say_once("the executor has no room for a job; waiting until it has")
            return True
        room = min(capacity, self.affordable()) - len(self.running)
        jobs = self.again.due(room)
        new = self.ledger.take(room - len(jobs)) if room > len(jobs) else []
        jobs += [job for job in new if not self.suspected(job)]
        alone = [] if new or jobs else self.again.alone(room)
        for chunk in [jobs, *([job] for job in alone)]:
            if chunk:
                self.said_once.clear()
                self.running.update(job.number for job in chunk)
                partials = self.partials(chunk)
                self.executor.submit(chunk, self.parents(chunk), *([partials] if partials else []))
        return bool(new or jobs or alone)

    def room(self, results: Sequence[Result]) -> int:
        """Number of jobs to be proposed in the transaction of these results: those that are certain to be begun."""
        if not self.eager or self.stopping or self.timeup() or self.again or self.interrupts.told is not None:
            return 0
        if any(result.status == "failed" for result in results):  # the last of too many, perhaps
            return 0
        return max(0, min(self.executor.capacity, self.affordable()) - len(self.running))

    def suspected(self, job: Job) -> bool:
        """Return True if processes have died under a job before, so that it has to wait for the others.

        The driver itself was that process where jobs are trained in it. There a job keeps its place the first times: a
        driver is ended for many reasons, and a study that goes on has to give what it would have given.
        """
        begins = self.ledger.attempts.get(job.number, 1)
        if begins <= (SUSPECT if optional(self.executor, "here") else 1):
            return False
        self.again.suspect(job)
        return True

    def partials(self, jobs: Sequence[Job]) -> dict[int, str]:
        """The states that earlier attempts at these jobs have left, in this process or in another."""
        known = self.ledger.partials
        return {job.number: file for job in jobs if (file := known.get(job.number)) is not None}

    def affordable(self) -> int:
        """Jobs that will probably end before the time is up: few at first, then as the pace so far tells.

        A stack that is still training at the deadline is given back as a whole, the more of it the wider it is.
        """
        if self.deadline is None:
            return sys.maxsize
        now = time.monotonic()
        return max(1, int((self.deadline - now) * self.fresh / (now - self.begun))) if self.fresh else PROBE

    def parents(self, jobs: Sequence[Job]) -> Mapping[int, Result]:
        """The results of the jobs that these continue, with the seconds of their lineages where these are limited."""
        history = self.ledger.history
        found = {job.parent: history.results[job.parent] for job in jobs if job.parent is not None}
        given = {number: result for number, result in found.items() if result is not None}
        if self.work.trial_seconds is None:
            return given
        return {number: replace(result, seconds=seconds_of(history, number)) for number, result in given.items()}

    def others(self) -> bool:
        """Return True if more jobs may come: other processes are at work, or one of them is proposing."""
        if self.ledger.succeeded:
            self.say_once("another call goes on with this study by another method: this one ends")
            return False
        return self.ledger.busy or bool(self.ledger.history.pending) or bool(self.ledger.history.reopened)

    def record(self, outcomes: Sequence[Result | Lost]) -> None:
        """Write results, and see to the jobs that have none; stop the study where too many failed in a row.

        Raises:
            StudyError: After ``max_failures`` failures in a row, or where the disk is in trouble.
        """
        self.running.difference_update(outcome.number for outcome in outcomes)
        results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
        if results:
            self.again.went_well()
        for outcome in outcomes:
            if isinstance(outcome, Lost):
                begins = self.ledger.attempts.get(outcome.number, 1)
                failed = self.again.lost(self.ledger.history.jobs[outcome.number], outcome, begins)
                if outcome.why == "process" and failed is None:
                    self.ledger.give_back([outcome.number], died=True)
                results += [] if failed is None else [failed]
                if outcome.error and failed is None:
                    self.say_once(f"job {outcome.number} will run again: {outcome.error}")
        if not results:
            return
        self.pace.ended(results)
        accepted = set(self.ledger.record(results, self.room(results)))
        self.tell_of(results)
        self.fresh += len(accepted)
        self.stopping = self.stopping or self.ended()
        if self.work.save and time.monotonic() >= self.next_tidy:
            self.ledger.tidy()
            self.next_tidy = time.monotonic() + TIDY
        for result in results:
            if result.number in accepted:
                failed = result.status == "failed" and not self.infeasible(result.number)
                self.streak = self.streak + 1 if failed else 0
                check_limited(self.ledger.history, result)
            if self.streak >= self.max_failures:
                raise StudyError(
                    f"{self.streak} trials failed in a row, the last with: {result.error}",
                    where=f"study {self.ledger.name!r}, job {result.number}",
                    remedy="Mend the task and run again: what is recorded stays. max_failures= sets the limit.",
                )

    def infeasible(self, number: int) -> bool:
        """Return True if a job has ended outside the limits."""
        return bool(self.ledger.history.violation[number] > 0)

    def tell_of(self, results: Sequence[Result]) -> None:
        """Log how jobs ended, and put the first failure on the screen while there is time to mend it."""
        for result in results:
            if log.isEnabledFor(logging.INFO):
                values = ", ".join(f"{name}={value:.6g}" for name, value in result.metrics.items())
                log.info("%s: job %d %s %s%s", self.ledger.name, result.number, result.status, values, result.error)
            if result.status == "failed" and not self.failed_once:
                self.failed_once = True
                counts = ", which counts as outside the limits" if self.infeasible(result.number) else ""
                self.shown.say(f"job {result.number} failed{counts}: {result.error}")

    def on_reports(self, events: Sequence[Report | Partial]) -> set[int]:
        """Take reports as they come; the numbers of the jobs that should stop."""
        for event in events:
            if isinstance(event, Partial):
                self.interrupts.deferred(partial(self.ledger.partial, event.number, event.file, event.steps))
        reports = [event for event in events if isinstance(event, Report)]
        self.heard = time.monotonic()
        self.pace.heard(reports)
        stop = self.interrupts.deferred(lambda: self.ledger.report(reports))
        self.tick()
        if self.work.adapter is not None and reports:
            self.shown.say(moved(reports[0]))
        return set(self.ledger.mine) if self.stopping else stop

    def timeup(self) -> bool:
        """Return True if the wall time is used up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def patience(self) -> float:
        """Seconds to wait for results before looking around."""
        left = FLUSH if self.deadline is None else max(0.05, min(FLUSH, self.deadline - time.monotonic()))
        return min(left, 0.25) if Tolerant(sys.stderr).isatty() else left

    def tick(self) -> None:
        """Tell the followers what is new, and show where the study is, if it is time to."""
        self.followers.tell()
        if self.shown.wants(time.monotonic()):
            self.shown.show(self.state())

    def state(self, over: bool = False) -> Tick:
        """Return what there is to show; at the end of the call, unfinished jobs no longer count as running."""
        history, latest = self.ledger.history, self.pace.latest
        metric = next(iter(history.objectives))
        best = None if history.best is None else history.results[history.best]
        return Tick(
            done=len(history.arrival),
            running=0 if over else len(history.pending),
            waiting=len(history.pending) if over else 0,
            total=self.total,
            fresh=self.fresh,
            best=None if best is None else best.metrics[metric],
            metric=metric,
            front=len(front(history)) if len(history.objectives) > 1 else None,
            pruned=int((history.status == PRUNED).sum()),
            infeasible=int((history.violation > 0).sum()),
            furthest="" if over else self.pace.furthest(),
            latest=None if latest is None or over else latest.metrics.get(metric),
            rate=self.pace.rate(),
            left=None if over else self.pace.left(),
            troubled=int((np.isin(history.status, (FAILED, DIVERGED)) & ~(history.violation > 0)).sum()),
            deadline=None if self.deadline is None else self.deadline - time.monotonic(),
        )

    def shut(self, done: bool) -> None:
        """End the workers and give back what is left; at a good end, read the test split."""
        keep_first = contextlib.nullcontext() if done else contextlib.suppress(Exception)
        with keep_first:  # an error on the way out must not hide the one that led here
            try:
                if self.running and optional(self.executor, "give_back"):
                    self.record([one for one in self.executor.give_back(GIVE_BACK) if isinstance(one, Result)])
                self.executor.close(wait=done)
            finally:
                self.ledger.release()
                self.ledger.store.when_away(None)
                self.shown.close(self.state(over=True))
            if done:
                self.finish()
            if self.fresh:
                self.book()

    def finish(self) -> None:
        """Measure what is best on the test split, once, and clear away what nobody needs."""
        ledger, history = self.ledger, self.ledger.history
        if self.work.save:
            ledger.tidy_all()
        if not is_torch(self.work.task):
            return
        known, tests = ledger.settings.get("test"), []
        for number in best_jobs(history):
            result, metrics = history.results[number], on_test(known, number)
            if not metrics and result is not None and result.checkpoint is not None:
                from luthier.train.restore import final_test  # imports torch

                try:
                    metrics = final_test(self.work, history.jobs[number], result)
                except CheckpointError as error:  # the training is recorded all the same
                    text = f"study {ledger.name!r}: the test split could not be measured on job {number}: {error}"
                    warn(text)
            if metrics:
                tests.append({"number": number, "metrics": metrics})
        given = tests if len(history.objectives) > 1 else next(iter(tests), known)
        if given and given != known:
            ledger.update_settings(test=given)

    def book(self) -> None:
        """Add what this call took to the study's settings."""
        took = {"wall_seconds": time.monotonic() - self.begun, "method_seconds": self.ledger.proposing}
        before = self.ledger.settings
        self.ledger.update_settings(**{key: round(before.get(key, 0.0) + value, 3) for key, value in took.items()})

    def say_once(self, text: str) -> None:
        """Put a line on the screen, once until things have changed."""
        if text not in self.said_once:
            self.said_once.add(text)
            self.shown.say(text)

    def say_away(self, trouble: str | None) -> None:
        """Say that the database is away, or there again."""
        if trouble is None:
            self.said_once.clear()
        self.say_once("the database is there again" if trouble is None else f"the database is away: {trouble}")
        if trouble is not None and self.interrupts.since() > GIVE_BACK:
            self.interrupts.check()  # the grace of a signal is short: what is in hand runs again
        if trouble is not None and self.deadline is not None and time.monotonic() > self.deadline + GIVE_BACK:
            remedy = "What is recorded stays, and what is in hand runs again: make the same call once it is there."
            raise StudyError(f"the time is up and {trouble}", where=f"study {self.ledger.name!r}", remedy=remedy)

    def say_how_to_resume(self) -> None:
        if self.loud:
            done, url = len(self.ledger.history.arrival), self.ledger.store.url
            kept = f"are recorded in {public_url(url)}; the same call again goes on from there"
            kept = "were only in memory; give store= to be able to go on" if url == MEMORY else kept
            told = f"{self.ledger.name}: {self.interrupts.name}; {done} finished jobs {kept}"
            print(told, file=Tolerant(sys.stderr), flush=True)


def _numbers(numbers: Collection[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)[:5]))
    return f"{'jobs' if len(numbers) > 1 else 'job'} {shown}{' and others' if len(numbers) > 5 else ''}"


def seconds_of(history: History, number: int) -> float:
    """Time that a job and its ancestors have taken together."""
    results = (history.results[link] for link in lineage(history, number))
    return sum(result.seconds for result in results if result is not None)


def expected(ledger: Ledger, trials: int | None) -> int | None:
    """Return the number of jobs that the study will have, where that is known."""
    sight, proposer, listed = ledger.sight, ledger.proposer, ledger.history.space.listed
    earlier, begun = (0, 0) if sight is None else (sight.first, sight.begun)
    own = optional(proposer, "jobs")
    if own is None and not optional(proposer, "parents"):
        own = trials - begun if trials is not None else None if listed is None else len(listed)
        if optional(proposer, "size"):
            size = proposer.size(ledger.history.space)
            own = size if own is None else min(own, size)
    return None if own is None else earlier + own
