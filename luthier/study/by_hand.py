"""A study asked and told by hand: which jobs are given out now, and what their reports say of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from luthier.jobs import Job, Report, Status
from luthier.space import Config
from luthier.store.counts import SUSPECT
from luthier.study.ledger import Ledger
from luthier.study.starting import completed, enqueue_new, refuse_fixed


class ByHand:
    """One process's part in a study that is run by hand.

    Args:
        ledger: The study.
        deadline: Time by the monotonic clock after which nothing more is given out, or None.
    """

    def __init__(self, ledger: Ledger, deadline: float | None = None) -> None:
        self._ledger, self._deadline = ledger, deadline
        self._reported: dict[int, tuple[int, int]] = {}  # by job: the first step reported, and the steps done
        self._enqueued: list[Config] = []
        self._suspected: list[Job] = []  # taken, and not given out while there are others

    def ask(self, count: int) -> list[Job]:
        """Jobs to run now; waits only while another process proposes."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return []
        while True:
            with self._ledger.lock:
                jobs = self._taken(count)
            if jobs or not self._ledger.busy:
                return jobs
            time.sleep(0.02)  # another process is proposing

    def _taken(self, count: int) -> list[Job]:
        """Jobs to run now, one that is suspected of ending its process only when there is no other."""
        ledger, jobs = self._ledger, []
        while len(jobs) < count and (taken := ledger.take(count - len(jobs))):
            suspected = [job for job in taken if ledger.attempts.get(job.number, 1) > SUSPECT]
            self._suspected += suspected
            jobs += [job for job in taken if job not in suspected]
        waiting = {job.number for job in self._suspected}
        if not jobs and not ledger.busy and not ledger.mine.keys() - waiting:
            jobs, self._suspected = self._suspected[:1], self._suspected[1:]
        return jobs

    def enqueue(self, config: Mapping[str, Any]) -> int | None:
        """Enqueue a configuration; its place, or None where the method has started it by itself.

        Raises:
            ConfigError, StudyError, MethodError: See :meth:`luthier.Study.enqueue`.
        """
        ledger = self._ledger
        refuse_fixed(ledger.proposer, config, "enqueue")
        with ledger.lock:
            place = len(self._enqueued)  # the same when the script is run again
            whole = completed(config, ledger.history.space, ledger.seeds, place, f"enqueue[{place}]")
            self._enqueued.append(whole)
            return enqueue_new(ledger, [one for one in self._enqueued if one == whole])[-1]

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> bool:
        """Report the progress of a job that this process holds; True if it should stop."""
        first = self._reported[number][0] if number in self._reported else min(step, 1)
        self._reported[number] = first, step + 1 - first
        return number in self._ledger.report([Report(number, step + 1 - first, metrics)])

    def done(self, job: Job | int, steps: int | None, status: Status | None) -> int | None:
        """The steps of a job that ends: as given, else the last that was reported; None where that says nothing."""
        number = job.number if isinstance(job, Job) else job
        reported = self._reported.get(number) if isinstance(number, int) else None
        if steps is not None or (reported is None and status not in ("failed", "pruned")):
            return steps
        if status in ("failed", "pruned"):
            return 0 if reported is None else reported[1]
        asked = self._ledger.history.jobs[number].steps if number in self._ledger.mine else 0
        return max(asked, reported[1]) if reported else asked

    def close(self) -> None:
        """Give back what was taken and not told."""
        self._suspected.clear()
        self._ledger.release()
