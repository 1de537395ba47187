"""A follower on a thread of its own, so that no training waits for what it waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, final

from luthier.follow import Follower
from luthier.jobs import Event, History
from luthier.text import warn

PATIENCE = 60.0  # seconds that the end of a study waits for what is left to write


@final
class Background(Follower):
    """Calls another follower, in order, on a thread; that one must tolerate a history that grows meanwhile.

    What it raises becomes a warning, once. At the end of the study its thread is waited for, with patience; what it has
    not done by then is given up.

    Args:
        inner: The follower that does the work.
        patience: Seconds that ``finished`` waits.
    """

    def __init__(self, inner: Any, patience: float = PATIENCE) -> None:
        self.inner, self._patience = inner, patience
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._warned = False

    def __repr__(self) -> str:
        return repr(self.inner)

    def started(self, study: Any) -> None:
        self.inner.started(study)  # here: a study belongs to one thread

    def events(self, history: History, new: Sequence[Event]) -> None:
        self._later(lambda: self.inner.events(history, new))
        self._tell()

    def finished(self, study: Any) -> None:
        self._later(lambda: self.inner.finished(study))
        self._calls.put(None)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(self._patience)
            if thread.is_alive():
                text = f"{self.inner!r} was not ready {self._patience:.0f} s after the study, and is left behind"
                warn(text)
        self._tell()

    def _later(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"luthier {self.inner!r}", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # a tracker's package may raise anything
                self._error = self._error or error

    def _tell(self) -> None:
        """Warn of the first error, on the study's thread, where the user's warning filters apply."""
        if self._error is not None and not self._warned:
            self._warned = True
            text = f"{self.inner!r} failed, and the study goes on: {type(self._error).__name__}: {self._error}"
            warn(text)
