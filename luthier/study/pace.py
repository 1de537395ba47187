"""Progress of the running jobs and remaining time of the study, as estimated from their reports."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from luthier.jobs import Budget, History, Report, Result

EVERY = 0.25  # seconds between two marks


class Pace:
    """Followed by one call of tune(), from its first report on.

    Args:
        history: The study.
        budget: Its budget.
        total: Number of jobs that it will have, where that is known.
    """

    def __init__(self, history: History, budget: Budget, total: int | None) -> None:
        self._history, self._budget, self._total = history, budget, total
        self._at: dict[int, int] = {}  # steps over its lineage that each running job has reported
        self._began = time.monotonic()
        self._at_first = self.part()
        self._marks = deque([(self._began, self._at_first)])  # when which part was done, from the middle of the call on
        self.steps = 0  # steps that this call has seen done
        self.latest: Report | None = None

    def heard(self, reports: Iterable[Report]) -> None:
        """Take in reports as they come."""
        for report in reports:
            known = self._history.reports.get(report.number)
            before = self._at.get(report.number, known[-1].step if known else self._start(report.number))
            self.steps += max(0, report.step - before)
            self._at[report.number] = max(before, report.step)
            self.latest = report

    def ended(self, results: Iterable[Result]) -> None:
        """Forget jobs that have ended."""
        for result in results:
            self._at.pop(result.number, None)

    def furthest(self) -> str:
        """The running job that is farthest, as "epoch 3.4 of 20" or "step 340 of 1,000"; empty where none has said."""
        if not self._at:
            return ""
        number = max(self._at, key=lambda n: self._at[n] - self._start(n))
        job, done = self._history.jobs[number], self._at[number]
        whole = self._start(number) + job.steps
        if self._budget.epochs is not None:
            epoch = self._budget.epoch_steps(job.config)
            return f"epoch {done / epoch:.3g} of {whole / epoch:.3g}"
        return f"step {done:,} of {whole:,}" if done <= whole else f"step {done:,}"

    def rate(self) -> float:
        """Steps a second of this call, all jobs together."""
        return self.steps / max(1e-9, time.monotonic() - self._began)

    def left(self) -> float | None:
        """Seconds until the study has all its jobs, at the pace of this call; None where that cannot be said.

        It is the pace of the call's second half so far: a stack is built and traced before its first steps.
        """
        part, now = self.part(), time.monotonic()
        if part <= self._at_first or self._total is None:
            return None
        while len(self._marks) > 1 and self._marks[1][0] <= (self._began + now) / 2:
            self._marks.popleft()
        (since, before), latest = self._marks[0], self._marks[-1][0]
        if now - latest >= EVERY:
            self._marks.append((now, part))
        if part <= before:
            since, before = self._began, self._at_first
        return (now - since) * (1 - part) / (part - before)

    def part(self) -> float:
        """The part of the study's jobs that is done, running ones by their steps."""
        ended = [result for number in self._history.arrival[-20:] if (result := self._history.results[number])]
        usual = sum(result.steps for result in ended) / len(ended) if ended else 0.0
        running = 0.0
        for number, at in self._at.items():
            asked = self._history.jobs[number].steps
            whole = asked if asked > 1 else usual  # a function that was asked for nothing takes what others took
            running += min(1.0, (at - self._start(number)) / whole) if whole else 0.0
        return min(1.0, (len(self._history.arrival) + running) / self._total) if self._total else 0.0

    def _start(self, number: int) -> int:
        parent = self._history.jobs[number].parent
        return 0 if parent is None else int(self._history.age[parent])
