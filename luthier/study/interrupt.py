"""Ctrl-C at a chosen moment: while records are being written it waits, elsewhere it stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Value = TypeVar("Value")


class Interrupts:
    """A SIGINT handler that raises KeyboardInterrupt only where the loop can be left.

    A context manager. Inside, Ctrl-C is remembered and raised by :meth:`check` or on entering :meth:`allowed`; inside
    ``allowed`` (user code is running, or the loop is waiting for workers) it is raised at once. A second Ctrl-C is
    always raised at once. In a thread other than the main one, where signals never arrive, it does nothing.
    """

    def __init__(self) -> None:
        self._count = 0
        self._open = 0
        self._previous: Any = None
        self._installed = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)
            self._installed = False

    def check(self) -> None:
        """Raise the KeyboardInterrupt that has been waiting, if there is one."""
        if self._count:
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Inside, Ctrl-C is raised at once."""
        self.check()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def deferred(self, action: Callable[[], Value]) -> Value:
        """The value of ``action``; while it runs, even within :meth:`allowed`, Ctrl-C waits, and is raised after it."""
        before, self._open = self._open, 0
        try:
            value = action()
        finally:
            self._open = before
        if before:
            self.check()
        return value

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._open or self._count > 1:
            raise KeyboardInterrupt
