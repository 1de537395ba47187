"""One trial trained by several processes: the same function in each, ``torch.distributed`` between them."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal, final

from luthier.checks import checked, maybe, one_of, whole
from luthier.errors import TaskError
from luthier.execute.parcel import pack, unpack
from luthier.execute.process import ending, launch
from luthier.space import Config
from luthier.task.call import Pruned, Trial, describe


@final
class Group:
    """A function for :func:`luthier.tune` that several processes train together, on one machine.

    The function is called in each process, with the same configuration; ``torch.distributed`` is ready, and
    ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` are set. Rank 0 holds the trial: what it reports, notes and returns
    counts. Every process calls ``trial.report`` (and reads ``trial.should_stop``) at the same places, so that all of
    them learn at once that the study has asked to stop. One process that fails or dies ends the others.

    On a cluster ask for as much as the whole group needs: ``lt.execute.Ray(gpus=4)`` for four processes.

    Args:
        function: ``f(config, trial)``.
        processes: Number of processes per trial.
        backend: Backend of ``torch.distributed``; None is ``"nccl"`` with a GPU for each process, else ``"gloo"``.

    Raises:
        MethodError: If an argument is out of range.
        TaskError: From a call, if the function cannot be sent to the processes, or one of them fails or dies.

    Examples:
        >>> import luthier as lt
        >>> lt.execute.Group(print, processes=2)
        Group(print, processes=2, backend=None)
    """

    def __init__(
        self,
        function: Callable[[Config, Trial], Any],
        processes: int,
        backend: Literal["gloo", "nccl", "mpi", "ucc"] | None = None,
    ) -> None:
        if not callable(function):
            raise TaskError(
                f"function must be callable, got {function!r}", where="Group", remedy="Give f(config, trial)."
            )
        self.function = function
        self.processes: int = checked("processes", processes, whole(1), where="Group")
        self.backend = checked("backend", backend, maybe(one_of("gloo", "nccl", "mpi", "ucc")), where="Group")
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __repr__(self) -> str:
        return f"Group({self.__name__}, processes={self.processes}, backend={self.backend!r})"

    def __call__(self, config: Config, trial: Trial) -> Any:
        place = None if trial._place is None else trial._place()
        facts = {name: getattr(trial, name) for name in ("number", "key", "steps", "study")}
        parcel = pickle.dumps((pack((self.function, config, facts, place)), self.backend))
        ranks = _start(self.processes)
        try:
            for rank in ranks:
                rank.connection.send_bytes(parcel)
            return _serve(ranks, trial)
        finally:
            for rank in ranks:
                rank.process.kill()
            for rank in ranks:
                rank.process.wait()
                rank.connection.close()


class _Rank:
    """The parent's side of one process."""

    def __init__(self, number: int, processes: int, port: int) -> None:
        places = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        environment = {name: str(value) for name, value in {**places, "MASTER_PORT": port}.items()}
        threads = os.environ.get("OMP_NUM_THREADS", "1")
        environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": threads}
        self.number = number
        self.process, self.connection = launch("group", environment)

    def obituary(self) -> str:
        return f"the process of rank {self.number} {ending(self.process.wait())}"


def _start(processes: int) -> list[_Rank]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks: list[_Rank] = []
    try:
        for number in range(processes):
            ranks.append(_Rank(number, processes, port))
    except BaseException:
        for rank in ranks:
            rank.process.kill()
        raise
    return ranks


def _serve(ranks: list[_Rank], trial: Trial) -> Any:
    """Pass on what rank 0 says until all have ended, and return what it returned."""
    ended: tuple[str, Any] = ("pruned", None)
    running = {rank.connection: rank for rank in ranks}
    while running:
        for rank in [running[heard] for heard in connection.wait(list(running))]:  # type: ignore[index]
            try:
                kind, content = pickle.loads(rank.connection.recv_bytes())
            except (EOFError, OSError):
                remedy = "What it printed says why; the lack of memory is the usual cause."
                raise TaskError(rank.obituary(), where=repr(trial), remedy=remedy) from None
            if kind == "failed":
                raise TaskError(content, where=f"rank {rank.number}", remedy="The other processes were ended.")
            if kind == "note":
                trial.note(**content)
            elif kind in ("report", "asked"):
                rank.connection.send_bytes(pickle.dumps(_asked(trial, content)))
            else:
                del running[rank.connection]
                ended = (kind, content) if rank.number == 0 else ended
    if ended[0] == "pruned":
        raise Pruned(f"trial {trial.number} was stopped")
    return ended[1]


def _asked(trial: Trial, report: tuple[int, dict[str, float]] | None) -> bool:
    """Return True if the study has asked to stop, by now or after a report."""
    if report is None:
        return trial.should_stop
    try:
        trial.report(report[0], **report[1])
    except Pruned:
        return True
    return False


def main(descriptor: int) -> None:
    """One process of a group: load the function, join the others, train.

    Args:
        descriptor: File descriptor of this process's end of the connection.
    """
    parent = connection.Connection(descriptor)
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    parcel, backend = pickle.loads(parent.recv_bytes())

    def receive() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                answers.put(pickle.loads(parent.recv_bytes()))
        os._exit(1)  # the parent is gone

    def say(kind: str, content: Any = None) -> None:
        parent.send_bytes(pickle.dumps((kind, content)))

    threading.Thread(target=receive, daemon=True).start()
    try:
        say(*_train(unpack(parcel), backend, say, answers))
    except BaseException as error:
        say("failed", describe(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without exit handlers: torch's process group would wait for a rank that has left


def _train(
    work: tuple[Callable[..., Any], Config, dict[str, Any], Path | None],
    backend: str | None,
    say: Callable[..., None],
    answers: queue.SimpleQueue[bool],
) -> tuple[str, Any]:
    """Run this process's call, and return how it ended and what it returned."""
    import torch
    from torch import distributed

    function, config, facts, place = work
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= size
    if on_gpus:
        torch.cuda.set_device(rank)
    distributed.init_process_group(backend or ("nccl" if on_gpus else "gloo"))
    control: Any = distributed.new_group(backend="gloo")  # answers travel on the CPU, whatever the training's backend

    def together(kind: str, content: Any = None) -> bool:
        """Ask the parent, by rank 0; all ranks get the answer."""
        box = [False]
        if rank == 0:
            say(kind, content)
            box = [answers.get()]
        distributed.broadcast_object_list(box, src=0, group=control)
        return box[0]

    trial = Trial(
        **facts,
        config=config,
        send=lambda step, metrics: together("report", (step, metrics)),
        asked=lambda: together("asked"),
        place=None if place is None else lambda: place,
    )
    try:
        ended: tuple[str, Any] = ("returned", function(config, trial))
    except Pruned:
        ended = ("pruned", None)
    if rank == 0 and trial.notes:
        say("note", trial.notes)
    distributed.barrier(group=control)  # nobody leaves while another still reduces
    return ended if rank == 0 else (ended[0], None)
