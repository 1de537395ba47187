"""Handlers of signals that no process has which a training forks, such as those of a multiprocessing.Pool.

A forked process would inherit a handler that only takes note that the study ends: ``Pool.terminate()`` then waits for
ever. Python forgets in a new process what came before it was ready; so signals wait until the handler is put back.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

_before: dict[int, list[Any]] = {}  # of each signal that is handled now: the handlers there were, the oldest first
_mask = threading.local()


def handle(number: int, handler: Callable[..., Any]) -> Any:
    """Set a handler in this process alone; return the one before."""
    before = signal.signal(number, handler)
    _before.setdefault(number, []).append(before)
    return before


def put_back(number: int) -> None:
    """Set the handler that was there before the last :func:`handle`, unless this process has been forked since."""
    if handlers := _before.get(number):
        _set(number, handlers.pop())


def _set(number: int, handler: Any) -> None:
    signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _hold() -> None:
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, [number for number, old in _before.items() if old])


def _go_on() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _forked() -> None:
    for number, handlers in _before.items():
        if handlers:
            _set(number, handlers[0])
    _before.clear()
    _go_on()


os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_forked)
