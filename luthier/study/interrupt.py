"""Ctrl-C, SIGTERM and SIGHUP at a chosen moment: while records are being written they wait."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from luthier.execute.forked import handle, put_back
from luthier.train.halt import guard

Value = TypeVar("Value")

ENDS = (signal.SIGTERM, signal.SIGHUP)  # what schedulers, containers and a closed terminal send
TWICE = 0.3  # seconds: a signal that comes again sooner is the same one (a terminal and its shell both send SIGHUP)


class Interrupts:
    """Signals that end a study, turned into exceptions only where the loop can be left.

    A context manager. Inside, Ctrl-C is remembered and raised by :meth:`check` or on entering :meth:`allowed`; inside
    ``allowed`` (user code is running, or the loop is waiting for workers) it is raised at once. A second Ctrl-C is
    always raised at once.

    SIGTERM and SIGHUP give back what runs in this process, at its next report or a little later wherever it is;
    :meth:`check` raises SystemExit then, with the code that a shell gives such an end. A second one ends the process
    at once. A signal that is ignored (``nohup``) stays so. A handler that the program had set is put back at the end,
    and called for a signal that came meanwhile.

    In a thread other than the main one, where signals never arrive, it does nothing.
    """

    def __init__(self) -> None:
        self._guard = guard()
        self._count = 0  # of Ctrl-C
        self.told: int | None = None  # the signal that ends the study
        self._since = -math.inf
        self._previous: dict[int, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Interrupts:
        self._stack.enter_context(self._guard.active())
        if threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGINT] = handle(signal.SIGINT, self._interrupt)
            for number in ENDS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = handle(number, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        previous, self._previous = self._previous, {}
        for number in previous:
            put_back(number)
        self._stack.close()
        handler = previous.get(self.told) if self.told is not None else None
        if callable(handler):
            handler(self.told, None)

    def limit(self, seconds: float | None) -> contextlib.AbstractContextManager[None]:
        """Inside, what runs in this process is given back after so many seconds."""
        return self._guard.until(math.inf if seconds is None else time.monotonic() + seconds)

    @property
    def name(self) -> str:
        """Short text for what ended the study."""
        return "interrupted" if self.told is None else f"ended by {signal.Signals(self.told).name}"

    def since(self) -> float:
        """Seconds since the first signal that ends the study; -inf before."""
        return time.monotonic() - self._since if self.told is not None or self._count else -math.inf

    def check(self) -> None:
        """Raise what has been waiting, if anything has."""
        if self.told is not None:
            raise SystemExit(128 + self.told)
        if self._count:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Inside, Ctrl-C is raised at once."""
        self.check()
        with self._guard.allowed():
            yield

    def deferred(self, action: Callable[[], Value]) -> Value:
        """The value of ``action``; while it runs, even within :meth:`allowed`, Ctrl-C waits, and is raised after it."""
        value = self._guard.deferred(action)
        if self._guard.open and self._count:
            raise KeyboardInterrupt
        return value

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self._since = time.monotonic() if self._count == 1 and self.told is None else self._since
        if self._guard.open or self._count > 1 or self.told is not None:
            raise KeyboardInterrupt

    def _end(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if (self.told is not None and now - self._since > TWICE) or self._count:
            os._exit(128 + number)
        if self.told is None:
            self.told, self._since = number, now
            self._guard.give_back()
