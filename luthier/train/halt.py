"""Ending a training from outside: at its next report or measurement, and a little later wherever it is.

Each thread that trains has a :class:`Guard`. It knows until when what runs may run, and whether it may be interrupted
right now: user code may, the writing of records may not. A training ends by :class:`Halt`, which is raised where it
reports. One that has not reported within ``GRACE`` seconds is interrupted: in the main thread by a signal, which ends
system calls too (``time.sleep``, sockets), in another thread at the next line of Python. What holds the interpreter's
lock, as some compiled code does, can be ended only from another process: that is what worker processes are for.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

Value = TypeVar("Value")

GRACE = 1.5  # seconds in which a training that has to end may reach its next report by itself
_LOOK = 0.1  # seconds between two looks at the clock
_AGAIN = 1.0  # seconds until code that has swallowed a Halt is interrupted once more
# Ignored by default and used by hardly any program; Go's runtime interrupts its threads by it for the same reason.
_RING = signal.SIGURG


class Halt(BaseException):
    """Raised inside a training that has to end now and is given back. Let it pass."""


class Overtime(Halt):
    """Raised inside a training whose own time is over, which is a result. Let it pass."""


class Guard:
    """Until when the training in a thread may run, and whether it may be interrupted right now."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._main = threading.current_thread() is threading.main_thread()
        self._back_at = self._over_at = math.inf  # by time.monotonic()
        self._open = self._active = 0
        self._previous: Any = None
        self._ended = threading.Event()

    @property
    def open(self) -> bool:
        """True if the thread may be interrupted: it is running user code, or waiting."""
        return self._open > 0

    def give_back(self, after: float = 0.0) -> None:
        """Have whatever trains here given back after ``after`` seconds. May be called from any thread."""
        self._back_at = time.monotonic() + after

    def due(self, grace: float = 0.0) -> Halt | None:
        """Return the exception to raise if the time was up ``grace`` seconds ago, else None."""
        now = time.monotonic() - grace
        if now >= self._back_at:
            return Halt()
        return Overtime() if now >= self._over_at else None

    def check(self) -> None:
        """Raise where the time is up: called between two steps of a training."""
        halt = self.due()
        if halt is not None:
            raise halt

    @contextlib.contextmanager
    def active(self) -> Iterator[Guard]:
        """Inside, what does not end by itself is interrupted. May be nested."""
        self._active += 1
        if self._active == 1:
            self._ended = threading.Event()
            if self._main:
                self._previous = signal.signal(_RING, self._rung)
            threading.Thread(target=self._watch, args=(self._ended,), name="luthier time", daemon=True).start()
        try:
            yield self
        finally:
            self._active -= 1
            if not self._active:
                self._ended.set()
                self._back_at = math.inf
                if self._main:
                    signal.signal(_RING, signal.SIG_DFL if self._previous is None else self._previous)

    @contextlib.contextmanager
    def until(self, when: float) -> Iterator[None]:
        """Inside, what trains here is given back at a moment of ``time.monotonic()``, unless it is to be before."""
        before = self._back_at
        self._back_at = mine = min(before, when)
        try:
            yield
        finally:
            if self._back_at == mine:  # else a signal came
                self._back_at = before

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Inside, the thread may be interrupted."""
        before = self._open
        try:
            self._open = before + 1
            yield
        finally:
            self._open = before
            self._clear()

    @contextlib.contextmanager
    def limit(self, seconds: float | None) -> Iterator[None]:
        """Inside is a training that may take ``seconds``, and be interrupted."""
        before = self._over_at
        self._over_at = math.inf if seconds is None else time.monotonic() + seconds
        try:
            with self.allowed():
                yield
        finally:
            self._over_at = before

    def deferred(self, action: Callable[[], Value]) -> Value:
        """The value of ``action``; nothing interrupts it, even within :meth:`allowed`."""
        before, self._open = self._open, 0
        try:
            return action()
        finally:
            self._open = before

    def _watch(self, ended: threading.Event) -> None:
        rung = -math.inf
        while not ended.wait(_LOOK):
            now = time.monotonic()
            if self._open and now - rung > _AGAIN and self.due(GRACE) is not None:
                rung = now
                self._ring()

    def _ring(self) -> None:
        if self._main:
            signal.pthread_kill(self._thread, _RING)
        else:
            _raise_in(self._thread, type(self.due(GRACE) or Halt()))

    def _rung(self, number: int, frame: FrameType | None) -> None:
        if self._open and (halt := self.due(GRACE)) is not None:
            raise halt

    def _clear(self) -> None:
        """Take back what was to be raised in this thread and has not been yet."""
        if not self._open and not self._main:
            _raise_in(self._thread, None)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have an exception raised in another thread, between two instructions of Python."""
    raised = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_LOCAL = threading.local()


def guard() -> Guard:
    """The guard of the thread that calls.

    Examples:
        >>> with guard().active() as own:
        ...     own.give_back(after=60.0)
        >>> own.due() is None
        True
    """
    if not hasattr(_LOCAL, "guard"):
        _LOCAL.guard = Guard()
    return _LOCAL.guard
