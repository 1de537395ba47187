"""Jobs on this machine: in this process, or in long-lived worker processes of one thread each."""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import connection
from typing import Literal, final

from luthier.checks import checked, whole
from luthier.errors import ExecutionError, MethodError
from luthier.execute import worker as messages
from luthier.execute.desk import BURST, Desk, Hand, opened, refuse_second, sent, width_and_most
from luthier.execute.process import Process
from luthier.jobs import Job, Lost, Partial, Report, Result
from luthier.train import Ask, Work, run
from luthier.train.halt import guard

_PATIENCE = 0.5  # seconds between looks at workers whose end closed no connection; also what close() waits, twice


@final
class Local:
    """Trains on this machine.

    One worker trains inside :meth:`collect`, in this process, and one thread of it: what a function prints, changes and
    keeps is the program's own. A time limit interrupts it at its next report or wherever it is
    (:mod:`luthier.train.halt`), but not where compiled code holds the interpreter's lock. More workers are processes of
    their own, which live until :meth:`close`; one that dies is replaced, and one that hangs beyond a limit is killed.

    Args:
        workers: Processes that train at once.
        width: Jobs of a TorchTask that may be trained as one stack, or ``"auto"``, which leaves it to a measurement.
        device: Device that a TorchTask is trained on: ``"cpu"``, ``"cuda:1"``; None leaves it to the task.
        devices: Instead of ``device``: several, over which the workers are spread in turn. Functions and Trainables
            find the GPU of their worker by the name ``"cuda"``.
        threads: Threads of torch's that each worker may use.

    Raises:
        MethodError: If an argument is out of range.

    Examples:
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
        self,
        workers: int = 1,
        width: int | Literal["auto"] = "auto",
        device: str | None = None,
        retries: int | None = None,
        *,
        devices: Sequence[str] | None = None,
        threads: int = 1,
    ) -> None:
        where = "Local"
        self.workers = checked("workers", workers, whole(1), where=where)
        self.width, self._most = width_and_most(width, where)
        self.threads, self.device = checked("threads", threads, whole(1), where=where), device
        self.devices = _checked_devices(devices, device, self.workers)
        self.deaths = _deaths(retries)
        self._reset()

    def __repr__(self) -> str:
        where = f"device={self.device!r}" if self.devices is None else f"devices={list(self.devices)!r}"
        return f"Local(workers={self.workers}, width={self.width!r}, {where}, threads={self.threads})"

    def _reset(self) -> None:
        self._desk: Desk | None = None
        self._loads: dict[str | None, bytes] = {}
        self._running: Iterator[Result | Lost] = iter(())  # the chunk in hand, where this process trains
        self._hand = Hand()  # what of it has not ended
        self._raised: Exception | None = None  # by on_reports, while a job ran in this process
        self._ending = False  # jobs are being given back: nobody needs new workers
        self._pool: list[Process] = []

    @property
    def here(self) -> bool:
        """True if jobs are trained in this process."""
        return self.workers == 1

    @property
    def capacity(self) -> int:
        """Jobs that may be running or queued at once: one a worker, of a TorchTask one stack a worker."""
        return self.workers * (1 if self._desk is None else self._desk.most)

    def start(self, work: Work, on_reports: Ask) -> None:
        """Take a study's work, and start the workers.

        Raises:
            TaskError: If there are several workers and the task cannot be sent to them.
            ExecutionError: If a study is running here already, or a worker cannot be started.
        """
        refuse_second(self._desk, self)
        devices = self.devices or (self.device,)
        work = replace(work, device=devices[0] or work.device, threads=self.threads)
        if self.workers > 1:
            load = messages.load_message(sent(work))
            for device in devices:
                mine = replace(load, device=device if self.devices else None)
                self._loads[device] = pickle.dumps(mine, protocol=pickle.HIGHEST_PROTOCOL)
        self._desk = Desk(work, on_reports, self._most)
        try:
            while len(self._pool) < self.workers and self.workers > 1:
                slot = len(self._pool)
                self._pool.append(Process(slot, devices[slot % len(devices)], self.threads))
            for worker in self._pool:  # after all were started: a large task waits until its receiver reads
                worker.send_bytes(self._loads[worker.device])
        except BaseException:
            self.close(wait=False)
            raise

    def submit(self, jobs: list[Job], parents: Mapping[int, Result], partials: Mapping[int, str] | None = None) -> None:
        """Queue jobs, in chunks of about equal size, as many as keep all workers busy."""
        opened(self._desk, self).submit(jobs, parents, partials, self.workers)

    def collect(self, timeout: float | None) -> list[Result | Lost]:
        """Return the results that have come back; block until there is at least one, or until the timeout.

        With one worker the jobs are trained in this call, and ``timeout`` is ignored.

        Raises:
            ExecutionError: If a worker cannot load the task.
        """
        desk = opened(self._desk, self)
        if not self.here:
            return desk.gather(self._turn, lambda: any(worker.hand.left for worker in self._pool), timeout, _PATIENCE)
        if desk.work.trial_seconds is None:
            self._collect_here(desk)
        else:
            with guard().active():
                self._collect_here(desk)
        return desk.take()

    def give_back(self, seconds: float) -> list[Result | Lost]:
        """Stop all that runs, at its next report or wherever it is, and hand back every job that is here.

        The next call is :meth:`close`.
        """
        desk, self._ending = opened(self._desk, self), True
        if isinstance(self._running, Generator):  # it stands between two results, and saves the others' states
            self._running.close()
        self._running = iter(())
        if not self.here:
            self._give_back_workers(desk, seconds)
        desk.lose(self._hand, "asked")
        desk.withdraw()
        return desk.take()

    def close(self, wait: bool = True) -> None:
        """End the workers, whatever they do, within about a second; may be called twice.

        Jobs that have not ended are dropped.

        Args:
            wait: Let idle workers end by themselves; False kills all at once.
        """
        pool = self._pool
        self._reset()
        for worker in pool:
            worker.end(wait)
        for kill in (False, True):
            deadline = time.monotonic() + _PATIENCE
            for worker in pool:
                worker.reap(max(0.0, deadline - time.monotonic()) if wait or kill else 0.0, kill)

    def _collect_here(self, desk: Desk) -> None:
        begun: float | None = None if not desk.done else time.monotonic()
        while begun is None or time.monotonic() - begun < BURST:
            outcome = next(self._running, None)
            if self._raised is not None:  # on_reports failed, not the job inside which it was called
                error, self._raised, self._running = self._raised, None, iter(())
                raise error
            if outcome is not None:
                desk.hear(messages.Ended(outcome), self._hand)
                begun = begun or time.monotonic()
            elif begun is None and (chunk := desk.hand_out(self._hand)) is not None:
                self._running = run(desk.work, chunk.jobs, chunk.parents, self._ask, chunk.partials)
            else:
                return

    def _ask(self, reports: Sequence[Report | Partial]) -> set[int]:
        try:
            return opened(self._desk, self).on_reports(reports)
        except Exception as error:
            self._raised = error
            raise

    def _turn(self, seconds: float) -> bool:
        """Give each worker that is free a chunk, wait for what the workers say, and take it in."""
        desk = opened(self._desk, self)
        for worker in self._pool:
            if worker.ready and not worker.hand.left:
                worker.train(desk.hand_out(worker.hand))
        heard = connection.wait([worker.connection for worker in self._pool], seconds)
        for worker in list(self._pool):
            worker.check_time()
            if worker.connection in heard or worker.process.poll() is not None:
                self._listen(worker)
        return bool(heard)

    def _give_back_workers(self, desk: Desk, seconds: float) -> None:
        desk.withdraw()
        for worker in self._pool:
            if worker.hand.left:
                worker.send(messages.Back())
        deadline = time.monotonic() + seconds
        while any(worker.hand.left for worker in self._pool) and time.monotonic() < deadline:
            self._turn(min(_PATIENCE, max(0.0, deadline - time.monotonic())))
        for worker in self._pool:
            desk.lose(worker.hand, "asked")

    def _listen(self, worker: Process) -> None:
        """Take in all that a worker has said; replace it where it has died."""
        for message in worker.said():
            self._hear(worker, message)
        if worker.gone:
            self._bury(worker)

    def _hear(self, worker: Process, message: object) -> None:
        if isinstance(message, messages.Idle):
            worker.ready = True
        elif isinstance(message, messages.Ready):
            if message.error:
                raise ExecutionError(
                    f"a worker process cannot load the task: {message.error}",
                    where=repr(self),
                    remedy="Define the task in a file that can be imported alone, or use Local(workers=1).",
                )
            worker.ready = worker.loaded = True
        else:
            asked = opened(self._desk, self).hear(message, worker.hand)
            for other in self._pool if asked else ():
                other.stop(asked)

    def _bury(self, worker: Process) -> None:
        """Replace a dead worker, and hand back the jobs that it had not ended."""
        self._pool.remove(worker)
        how, told = worker.obituary()
        if not worker.loaded and not told:
            raise ExecutionError(
                f"a worker process {how} before it had its work",
                where=repr(self),
                remedy="What it printed says why; Local(workers=1) trains in this process.",
            )
        if not self._ending:
            self._pool.append(Process(worker.slot, worker.device, self.threads))
            self._pool[-1].send_bytes(self._loads[worker.device])
        desk = opened(self._desk, self)
        if worker.overdue:
            desk.end_late(worker.hand)
        elif told or self._ending:
            desk.lose(worker.hand, "machine", f"the worker process {how}")
        else:
            desk.lose(worker.hand, "process", f"the worker process {how} while it trained this job")


def _checked_devices(devices: Sequence[str] | None, device: str | None, workers: int) -> tuple[str, ...] | None:
    if devices is None:
        return None
    if isinstance(devices, str) or not devices or not all(isinstance(name, str) for name in devices):
        raise MethodError(
            f"devices must be a list of names, got {devices!r}",
            where="Local",
            remedy='Write devices=["cuda:0", "cuda:1"]; device= names one for all workers.',
        )
    if device is not None or workers < len(devices):
        what = "device and devices were both given" if device is not None else f"{workers} workers use {len(devices)}"
        raise MethodError(
            what, where="Local", remedy="Give devices= alone, and at least as many workers as there are devices."
        )
    return tuple(devices)


def _deaths(retries: int | None) -> int | None:
    """Return how many processes may die under a job, by the old argument; None where it was not given."""
    if retries is None:
        return None
    count = checked("retries", retries, whole(0), where="Local")
    warnings.warn(
        f"Local(retries={retries}): a job whose process died is run again by itself, three times in all; retries= will "
        "go. Until then it is the number of further attempts",
        FutureWarning,
        stacklevel=3,
    )
    return 1 + count
