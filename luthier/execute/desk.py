"""The books of an executor with several workers, wherever they run: chunks that wait, are held or have come back."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, final

from luthier.checks import checked, whole
from luthier.errors import ExecutionError
from luthier.execute.worker import Ended, Reports, Train
from luthier.jobs import Job, Lost, Report, Result
from luthier.task import FunctionTask, is_torch
from luthier.train import MOST_STACKED, Ask, Work, chunks
from luthier.train.alone import over_time

BURST = 0.01  # seconds for which results are gathered after the first: members of a stack mostly end together
_HANGS = 6.0  # seconds beyond its limit until a worker that ignores interruptions is ended


@dataclass
class Hand:
    """The unfinished part of the chunk that one worker was given.

    Args:
        left: Its jobs that have not ended.
        asked: Those of them that were asked to stop.
        latest: The last report of each.
        begun: Time at which it was given, by the monotonic clock.
        until: Time by which the worker has to be through with it.
    """

    left: dict[int, Job] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    latest: dict[int, Report] = field(default_factory=dict)
    begun: float = 0.0
    until: float = math.inf

    @property
    def late(self) -> bool:
        """True if the worker is not through in time: it hangs, or it would have ended by itself."""
        return bool(self.left) and time.monotonic() > self.until

    def ask(self, numbers: set[int]) -> set[int]:
        """Note that jobs are asked to stop, and return those that are here and were not asked before."""
        new = (numbers & self.left.keys()) - self.asked
        self.asked |= new
        return new


@final
class Desk:
    """The chunks of one study on their way to workers, and the results on their way back.

    Args:
        work: The study's work.
        on_reports: Takes reports, and returns the jobs that are asked to stop.
        most: Jobs of a TorchTask that may be trained as one stack.
    """

    def __init__(self, work: Work, on_reports: Ask, most: int) -> None:
        self.work, self.on_reports = work, on_reports
        self.most = most if is_torch(work.task) else 1  # jobs that one worker may hold
        self.queue: deque[Train] = deque()
        self.done: list[Result | Lost] = []  # outcomes that no collect() has returned yet

    def submit(
        self, jobs: list[Job], parents: Mapping[int, Result], partials: Mapping[int, str] | None, workers: int
    ) -> None:
        """Queue jobs in chunks of about equal size, as many as keep all workers busy.

        Each is queued as the message that a worker will get, with the parents and partials that it needs.
        """
        if not jobs:
            return
        rounds = -(-len(jobs) // (self.most * workers))  # how often every worker gets a full chunk
        for chunk in chunks(self.work, jobs, parents, -(-len(jobs) // (rounds * workers))):
            needed, numbers = {job.parent for job in chunk}, {job.number for job in chunk}
            message = Train(
                chunk,
                {number: result for number, result in parents.items() if number in needed},
                {number: file for number, file in (partials or {}).items() if number in numbers},
            )
            self.queue.append(message)

    def hand_out(self, hand: Hand) -> Train | None:
        """Give a worker that is free the next chunk, if there is one."""
        if not self.queue:
            return None
        chunk = self.queue.popleft()
        limits = [self.work.seconds_left(job, chunk.parents) for job in chunk.jobs]
        hand.left, hand.asked, hand.latest = {job.number: job for job in chunk.jobs}, set(), {}
        hand.begun, hand.until = time.monotonic(), math.inf
        if None not in limits:
            hand.until = hand.begun + sum(max(0.0, limit or 0.0) for limit in limits) + _HANGS
        return chunk

    def hear(self, message: object, hand: Hand) -> set[int]:
        """Process a worker's message about its chunk; return the jobs that should stop, whoever holds them."""
        if isinstance(message, Ended):
            hand.left.pop(message.outcome.number, None)
            self.done.append(message.outcome)
        elif isinstance(message, Reports):
            hand.latest |= {report.number: report for report in message.reports if isinstance(report, Report)}
            return self.on_reports(message.reports)
        return set()

    def end_late(self, hand: Hand) -> None:
        """Record what is left in a hand as out of time."""
        seconds = (time.monotonic() - hand.begun) / max(1, len(hand.left))
        for number, job in hand.left.items():
            report = hand.latest.get(number)
            if report is None:
                self.done.append(Result(number, "failed", seconds=seconds, error=over_time(self.work)))
            else:
                steps = min(report.step, job.steps)
                self.done.append(Result(number, "pruned", report.metrics, steps, {}, seconds))
        hand.left = {}

    def lose(self, hand: Hand, why: Literal["asked", "machine", "process"], error: str = "") -> None:
        """Hand back what is left in a hand as lost."""
        self.done += [Lost(number, why, error) for number in hand.left]
        hand.left = {}

    def withdraw(self) -> None:
        """Hand back all that waits, since it was asked for."""
        self.done += [Lost(job.number, "asked") for message in self.queue for job in message.jobs]
        self.queue.clear()

    def gather(
        self, turn: Callable[[float], bool], busy: Callable[[], bool], timeout: float | None, most: float
    ) -> list[Result | Lost]:
        """Return the outcomes that have come; wait for the first, and take those that come right after it.

        Args:
            turn: Does what is to be done, waits at most so many seconds for what workers say, takes it in, and
                returns True if there was anything.
            busy: Returns True while a worker holds a job.
            timeout: Seconds to wait for the first; None waits without limit.
            most: Seconds of one turn at most, so that workers that went away in silence are noticed.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        settled = math.inf
        while (now := time.monotonic()) < settled:
            if self.done:
                settled = min(settled, now + BURST)
            at_once = bool(self.done) or not (self.queue or busy())
            heard = turn(0.0 if at_once else max(0.0, min(most, deadline - now)))
            if not heard and (at_once or time.monotonic() >= deadline):
                break
        return self.take()

    def take(self) -> list[Result | Lost]:
        """Return the outcomes that have come back, each once."""
        outcomes, self.done = self.done, []
        return outcomes


def width_and_most(width: int | Literal["auto"], where: str) -> tuple[int | Literal["auto"], int]:
    """Return a checked width, and the jobs that one chunk may have under it."""
    if width == "auto":
        return "auto", MOST_STACKED
    checked("width", width, whole(1), where=where)
    return width, width


def opened(desk: Desk | None, executor: object) -> Desk:
    """Return the desk of an executor that has work.

    Raises:
        ExecutionError: If it has none.
    """
    if desk is None:
        raise ExecutionError("it has no work", where=repr(executor), remedy="Call start first.")
    return desk


def refuse_second(desk: Desk | None, executor: object) -> None:
    """Raise if an executor runs a study already."""
    if desk is not None:
        raise ExecutionError("it is running another study", where=repr(executor), remedy="Close it first.")


def sent(work: Work) -> Work:
    """Return the work as its workers need it: a function keeps no state, and they are spared the import of torch."""
    return replace(work, checkpoints=None, save=False) if isinstance(work.task, FunctionTask) else work
