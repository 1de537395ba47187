"""Jobs on this machine: in this process, or in long-lived worker processes of one thread each."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from multiprocessing import connection
from typing import Literal, final

from luthier.errors import ExecutionError, MethodError
from luthier.execute import worker as messages
from luthier.execute.process import Process
from luthier.jobs import Job, Report, Result
from luthier.task import is_torch
from luthier.train import MOST_STACKED, Work, chunks, run

_BURST = 0.01  # seconds for which collect() gathers results after the first: members of a stack mostly end together
_PATIENCE = 0.5  # seconds between looks at workers whose end closed no connection; also what close() waits, twice


@final
class Local:
    """Trains on this machine.

    One worker trains inside :meth:`collect`, in this process. More are processes of their own, which live until
    :meth:`close`; one that dies is replaced.

    Args:
        workers: Processes that train at once.
        width: Jobs of a TorchTask that may be trained as one stack, or ``"auto"``, which leaves it to a measurement.
        device: Where a TorchTask is trained: ``"cpu"``, ``"cuda:1"``; None leaves it to the task.
        retries: How often a job is run again whose worker died under it.

    Raises:
        MethodError: If an argument is out of range.

    Example:
        >>> from luthier import jobs, seeds, space, task, train
        >>> square = task.as_task(lambda config: config["x"] ** 2, space.Space(x=space.Float(-1, 1)))
        >>> executor = Local()
        >>> executor.start(train.Work(square, seeds.Seeds(0)), lambda reports: set())
        >>> executor.submit([jobs.Job(0, {"x": 0.5})], {})
        >>> [dict(result.metrics) for result in executor.collect(None)]
        [{'loss': 0.25}]
        >>> executor.close()
    """

    def __init__(
        self, workers: int = 1, width: int | Literal["auto"] = "auto", device: str | None = None, retries: int = 0
    ) -> None:
        for name, value, least in (("workers", workers, 1), ("width", width, 1), ("retries", retries, 0)):
            allowed = name == "width" and value == "auto"
            if not allowed and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise MethodError(
                    f"{name}={value!r}",
                    where="Local",
                    remedy=f"Give an integer, {least} or more{', or auto' if name == 'width' else ''}.",
                )
        self.workers, self.width, self.device, self.retries = workers, width, device, retries
        self._work: Work | None = None
        self._reset()

    def __repr__(self) -> str:
        return f"Local(workers={self.workers}, width={self.width!r}, device={self.device!r}, retries={self.retries})"

    def _reset(self) -> None:
        self._load = b""
        self._on_reports: Callable[[list[Report]], set[int]] = lambda reports: set()
        self._queue: deque[messages.Train] = deque()
        self._running: Iterator[Result] = iter(())  # the chunk in hand, where this process trains
        self._done: list[Result] = []  # results that no collect() has returned yet
        self._raised: Exception | None = None  # by on_reports, while a job ran in this process
        self._attempts: dict[int, int] = {}  # deaths of a worker, by job
        self._pool: list[Process] = []

    @property
    def capacity(self) -> int:
        """Jobs that may be running or queued at once: one a worker, of a TorchTask one stack a worker."""
        return self.workers * (self._most() if self._work is not None and is_torch(self._work.task) else 1)

    def start(self, work: Work, on_reports: Callable[[list[Report]], set[int]]) -> None:
        """Take a study's work, and start the workers.

        Raises:
            TaskError: If there are several workers and the task cannot be sent to them.
            ExecutionError: If a study is running here already, or a worker cannot be started.
        """
        if self._work is not None:
            raise ExecutionError("it is running another study", where=repr(self), remedy="Close it first.")
        work = replace(work, device=self.device or work.device)
        if self.workers > 1:
            self._load = pickle.dumps(messages.load_message(work), protocol=pickle.HIGHEST_PROTOCOL)
        self._work, self._on_reports = work, on_reports
        try:
            while len(self._pool) < self.workers and self.workers > 1:
                self._pool.append(Process())
            for worker in self._pool:  # after all were started: a large task waits until its receiver reads
                worker.send_bytes(self._load)
        except BaseException:
            self.close(wait=False)
            raise

    def submit(self, jobs: list[Job], parents: Mapping[int, Result]) -> None:
        """Queue jobs, in chunks of about equal size, as many as keep all workers busy."""
        work = self._started()
        rounds = -(-len(jobs) // (self._most() * self.workers))  # how often every worker gets a full chunk
        width = max(1, -(-len(jobs) // max(1, rounds * self.workers)))
        for chunk in chunks(work, jobs, parents, width):
            self._queue.append(_train_message(chunk, parents))

    def collect(self, timeout: float | None) -> list[Result]:
        """Results that have come; blocks until there is at least one, or until the timeout.

        With one worker the jobs are trained in here, and ``timeout`` is not looked at.

        Raises:
            ExecutionError: If a worker cannot load the task.
        """
        self._started()
        if self.workers == 1:
            self._collect_here()
        else:
            self._collect_from_workers(timeout)
        results, self._done = self._done, []
        return results

    def close(self, wait: bool = True) -> None:
        """End the workers, whatever they do, within about a second; may be called twice.

        Jobs that have not ended are dropped.

        Args:
            wait: Let idle workers end by themselves; False kills all at once.
        """
        pool = self._pool
        self._work = None
        self._reset()
        for worker in pool:
            worker.end(wait)
        for kill in (False, True):
            deadline = time.monotonic() + _PATIENCE
            for worker in pool:
                worker.reap(max(0.0, deadline - time.monotonic()) if wait or kill else 0.0, kill)

    def _most(self) -> int:
        return MOST_STACKED if self.width == "auto" else int(self.width)

    def _started(self) -> Work:
        if self._work is None:
            raise ExecutionError("it has no work", where=repr(self), remedy="Call start first.")
        return self._work

    def _collect_here(self) -> None:
        begun: float | None = None if not self._done else time.monotonic()
        while begun is None or time.monotonic() - begun < _BURST:
            result = next(self._running, None)
            if self._raised is not None:  # on_reports failed, not the job inside which it was called
                error, self._raised, self._running = self._raised, None, iter(())
                raise error
            if result is not None:
                self._done.append(result)
                begun = begun or time.monotonic()
            elif self._queue and begun is None:
                chunk = self._queue.popleft()
                self._running = run(self._started(), chunk.jobs, chunk.parents, self._ask)
            else:
                return

    def _ask(self, reports: list[Report]) -> set[int]:
        try:
            return self._on_reports(reports)
        except Exception as error:
            self._raised = error
            raise

    def _collect_from_workers(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        settled: float | None = None
        while settled is None or time.monotonic() < settled:
            for worker in self._pool:
                if worker.ready and not worker.left and self._queue:
                    worker.train(self._queue.popleft())
            busy = bool(self._queue) or any(worker.left for worker in self._pool)
            now = time.monotonic()
            if self._done and settled is None:
                settled = now + _BURST
            at_once = bool(self._done) or not busy
            remaining = _PATIENCE if deadline is None else max(0.0, min(_PATIENCE, deadline - now))
            heard = connection.wait([worker.connection for worker in self._pool], 0.0 if at_once else remaining)
            for worker in list(self._pool):
                if worker.connection in heard or worker.process.poll() is not None:
                    self._listen(worker)
            if not heard and (at_once or (deadline is not None and time.monotonic() >= deadline)):
                return

    def _listen(self, worker: Process) -> None:
        """Take in all that a worker has said; replace it where it has died."""
        for message in worker.said():
            self._hear(worker, message)
        if worker.gone:
            self._bury(worker)

    def _hear(self, worker: Process, message: object) -> None:
        if isinstance(message, messages.Ended):
            worker.left.pop(message.result.number, None)
            self._done.append(message.result)
        elif isinstance(message, messages.Reports):
            asked = self._on_reports(message.reports)
            for other in self._pool if asked else ():
                other.stop(asked)
        elif isinstance(message, messages.Idle):
            worker.ready = True
        elif isinstance(message, messages.Ready):
            if message.error:
                raise ExecutionError(
                    f"a worker process cannot load the task: {message.error}",
                    where=repr(self),
                    remedy="Define the task in a file that can be imported alone, or use Local(workers=1).",
                )
            worker.ready = worker.loaded = True

    def _bury(self, worker: Process) -> None:
        """Replace a dead worker; its unfinished jobs are run again or have failed."""
        self._pool.remove(worker)
        how = worker.obituary()
        if not worker.loaded:
            raise ExecutionError(
                f"a worker process {how} before it had its work",
                where=repr(self),
                remedy="What it printed says why; Local(workers=1) trains in this process.",
            )
        self._pool.append(Process())
        self._pool[-1].send_bytes(self._load)
        seconds = (time.monotonic() - worker.begun) / max(1, len(worker.left))
        for number, job in worker.left.items():
            self._attempts[number] = self._attempts.get(number, 0) + 1
            if self._attempts[number] <= self.retries:  # alone, so that it takes no other job with it
                self._queue.appendleft(_train_message([job], worker.parents))
            else:
                tries = f" (attempt {self._attempts[number]})" if self.retries else ""
                self._done.append(
                    Result(
                        number,
                        "failed",
                        seconds=seconds,
                        error=f"the worker process {how} while it trained this job{tries}. Out of memory, a crash in "
                        f"compiled code and os._exit end a process so; Local(retries=1) runs such jobs once more.",
                    )
                )


def _train_message(jobs: list[Job], parents: Mapping[int, Result]) -> messages.Train:
    needed = {job.parent for job in jobs}
    return messages.Train(jobs, {number: result for number, result in parents.items() if number in needed})
