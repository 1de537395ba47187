"""The worker process: what it is sent, what it answers, and its loop."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import pickle
import queue
import signal
import sys
import threading
import time
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from luthier.errors import TaskError
from luthier.execute.forked import handle
from luthier.execute.surroundings import Surroundings, settle, surroundings
from luthier.jobs import Job, Lost, Partial, Report, Result
from luthier.task import is_torch, load_task, source_of
from luthier.task.call import describe
from luthier.task.file import FILES, load_file
from luthier.train import Work, halt, run

TWICE = 0.3  # seconds: a signal that comes again sooner is the same one (a terminal and its shell both send SIGHUP)


@dataclass(frozen=True)
class Load:
    """Message to the worker: the work of a study. ``path`` is the driver's sys.path, ``files`` are the work's own."""

    surroundings: Surroundings
    path: list[str]
    files: list[str]
    payload: bytes
    device: str | None = None


@dataclass(frozen=True)
class Train:
    """Message to the worker: a chunk of jobs, what they continue and what earlier attempts at them have left."""

    jobs: list[Job]
    parents: dict[int, Result]
    partials: dict[int, str]


@dataclass(frozen=True)
class Stop:
    """Message to the worker: these jobs are asked to stop."""

    numbers: set[int]


@dataclass(frozen=True)
class Back:
    """Message to the worker: its jobs are to be given back."""


@dataclass(frozen=True)
class Ready:
    """Message from the worker: it has its work, or ``error`` says why not."""

    error: str = ""


@dataclass(frozen=True)
class Reports:
    """Message from the worker: reports as they are made, and states as they are saved on the way."""

    reports: list[Report | Partial]


@dataclass(frozen=True)
class Ended:
    """Message from the worker: a job has ended, or cannot go on."""

    outcome: Result | Lost


@dataclass(frozen=True)
class Idle:
    """Message from the worker: its chunk is over."""


def load_message(work: Work) -> Load:
    """The message that takes ``work`` to another process.

    A task from :func:`luthier.task.load_task` goes as the path of its file; whatever the driver's ``__main__`` or a
    function defines goes by value; what a module defines goes by name.

    Raises:
        TaskError: If a part of the task cannot be sent; it names the part.
    """
    payload, files = pickled(work, Pickler)
    return Load(surroundings(), list(sys.path), sorted(files), payload)


def pickled(work: Any, kind: type[Pickler]) -> tuple[bytes, set[str]]:
    """Work as a kind of pickler writes it, and the files that it is loaded from again.

    Raises:
        TaskError: If a part of the task cannot be sent; it names the part.
    """
    buffer = io.BytesIO()
    pickler = kind(buffer)
    try:
        pickler.dump(work)
        pickler.dump(pickler.script)
    except Exception as error:
        part, reason = _culprit(getattr(work, "task", work), "task", error, 6)
        raise TaskError(
            f"it cannot be sent to a worker process: {type(reason).__name__}: {reason}",
            where=part,
            remedy="Make it inside the function, define the task in a file that is loaded by path "
            "(luthier tune FILE, lt.load_task), or use Local(workers=1).",
        ) from error
    return buffer.getvalue(), pickler.files


class Pickler(cloudpickle.Pickler):
    """Pickles by value, except what files loaded by path define: that is loaded by path again."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self.files: set[str] = set()
        self.script: dict[str, Any] = {}  # classes and functions of the driver's __main__, by name

    def persistent_id(self, obj: Any) -> tuple[str, str] | None:
        module = self.noted(obj)
        if module in FILES:  # goes by name, and its module must be there
            self.files.add(str(FILES[module]))
        return source_of(obj)

    def noted(self, obj: Any) -> str | None:
        """Note a class or a function of the script; return the module of any class or function."""
        if not isinstance(obj, type | types.FunctionType):
            return None
        if obj.__module__ == "__main__" and getattr(sys.modules["__main__"], obj.__name__, None) is obj:
            self.script[obj.__name__] = obj
        return obj.__module__


class Unpickler(pickle.Unpickler):
    """Reads what a :class:`Pickler` has written."""

    def persistent_load(self, pid: tuple[str, str]) -> Any:
        return load_task(*pid)

    def work(self) -> Any:
        """The work. What the script defines is found by its name too, as where a training saves a model whole."""
        work = self.load()
        vars(sys.modules["__main__"]).update(self.load())
        return work


def _culprit(part: Any, where: str, error: Exception, depth: int) -> tuple[str, Exception]:
    """The innermost attribute, element or closure variable of ``part`` that cannot be pickled, and why."""
    for name, inner in _parts(part) if depth else ():
        try:
            Pickler(io.BytesIO()).dump(inner)
        except Exception as reason:
            return _culprit(inner, f"{where}{name}", reason, depth - 1)
    return where, error


def _parts(part: Any) -> list[tuple[str, Any]]:
    if isinstance(part, Mapping):
        return [(f"[{key!r}]", value) for key, value in part.items()]
    if isinstance(part, list | tuple):
        return [(f"[{index}]", value) for index, value in enumerate(part)]
    if isinstance(part, types.MethodType):
        return [(".__self__", part.__self__)]
    if isinstance(part, types.FunctionType):
        used = inspect.getclosurevars(part)
        return [(f", variable {name}", value) for name, value in {**used.nonlocals, **used.globals}.items()]
    state = None if isinstance(part, type | types.ModuleType) else part.__getstate__()
    return [(f".{name}", value) for name, value in state.items()] if isinstance(state, dict) else []


def main(descriptor: int) -> None:
    """Work until the driver closes the connection or dies, or a signal tells this process to end.

    Args:
        descriptor: File descriptor of this process's end of the connection.
    """
    connection = Connection(descriptor)
    inbox: queue.SimpleQueue[Load | Train | None] = queue.SimpleQueue()
    asked: set[int] = set()
    guard = halt.guard()
    told = _end_on_signals(guard, inbox)
    receiver = threading.Thread(target=_receive, args=(connection, inbox, asked, guard), daemon=True)
    receiver.start()
    work: Work | None = None
    with guard.active():
        while (message := inbox.get()) is not None:
            if isinstance(message, Load):
                try:
                    work = _load(message)
                    answer = Ready()
                except BaseException as error:
                    answer = Ready(describe(error))
                _send(connection, answer)
            elif work is not None:
                _train(connection, work, message, asked, told)
    _flush()
    os._exit(128 + signal.Signals[told[0]] if told else 0)  # no exit handlers of the user's: the driver is waiting


def _end_on_signals(guard: halt.Guard, inbox: queue.SimpleQueue[Any]) -> list[str]:
    """Give back what runs at the first SIGTERM or SIGHUP, and end; a second one ends at once.

    Returns:
        A list to which the signal's name will be added.
    """
    told: list[str] = []

    def end(number: int, frame: types.FrameType | None) -> None:
        if told and time.monotonic() - since[0] > TWICE:
            os._exit(128 + number)
        if not told:
            told.append(signal.Signals(number).name)
            since.append(time.monotonic())
            guard.give_back()
            inbox.put(None)  # SimpleQueue.put may be called from a signal's handler

    since: list[float] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            handle(number, end)
    return told


def _receive(connection: Connection, inbox: queue.SimpleQueue[Any], asked: set[int], guard: halt.Guard) -> None:
    """Reads in a thread of its own, so that a stop or the driver's end is noticed while the user's code runs."""
    driver = os.getppid()
    try:
        while True:
            while not connection.poll(1.0):
                if os.getppid() != driver:  # a process that the driver forked may hold the connection open
                    os._exit(1)
            message = pickle.loads(connection.recv_bytes())
            if isinstance(message, Stop):
                asked |= message.numbers
            elif isinstance(message, Back):
                guard.give_back()
            else:
                inbox.put(message)
                if message is None:
                    return
    except (EOFError, OSError):
        os._exit(1)


def _load(message: Load) -> Work:
    sys.path[:] = message.path
    settle(message.surroundings)
    for file in message.files:
        load_file(file)
    work = Unpickler(io.BytesIO(message.payload)).work()
    if message.device is not None:
        work = replace(work, device=message.device)
        if not is_torch(work.task):  # whose functions find one GPU, their own, by the name "cuda"
            _show_one_gpu(message.device)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(work.threads)  # more pools of threads than cores run many times slower
    return work


def _show_one_gpu(device: str) -> None:
    kind, _, index = device.partition(":")
    if kind == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        place = int(index or 0)
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[place] if place < len(visible) and visible[0] else str(place)


def _train(connection: Connection, work: Work, message: Train, asked: set[int], told: list[str]) -> None:
    def on_reports(reports: Sequence[Report | Partial]) -> set[int]:
        if reports:
            _send(connection, Reports(list(reports)))
        return set(asked)

    for outcome in run(work, message.jobs, message.parents, on_reports, message.partials):
        if told and isinstance(outcome, Lost):
            outcome = Lost(outcome.number, "machine", f"its worker process was told to end by {told[0]}")
        _send(connection, Ended(outcome))
    asked.difference_update(job.number for job in message.jobs)
    _flush()
    if not told:  # else it ends now
        _send(connection, Idle())


def _send(connection: Connection, message: object) -> None:
    try:
        connection.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))
    except OSError:  # the driver is gone: not an error of the user's code, in which we may be
        os._exit(1)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
