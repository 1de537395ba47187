"""States on their way to the disk and back: trouble of the disk is waited out, never a result of the training."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.errors import CheckpointError
from luthier.jobs import Reason
from luthier.train.halt import guard

if TYPE_CHECKING:
    from luthier.store.checkpoints import Checkpoints

Value = TypeVar("Value")

PAUSES = (0.25, 0.5, 1.0, 2.0)  # seconds between attempts at a file
SHARE = 0.02  # of a training's time that saving it on the way may take
log = logging.getLogger("luthier")


class StorageTrouble(Exception):  # noqa: N818 - no fault of the training: it is never recorded
    """A state could not be written or read, though that was tried for some seconds."""

    def __init__(self, error: CheckpointError, why: Reason) -> None:
        super().__init__(str(error))
        self.why: Reason = why  # the Lost that comes of it


def save(checkpoints: Checkpoints, name: str, state: Any, meta: Mapping[str, Any]) -> str:
    """Write a state and return its file's name.

    Raises:
        CheckpointError: If the state holds what cannot be kept.
        StorageTrouble: If the disk is full or cannot be written.
    """
    return _patiently(lambda: checkpoints.save(name, state, meta), _of_writing)


def load(checkpoints: Checkpoints, file: str) -> tuple[Any, dict[str, Any]]:
    """State and meta of a file.

    Raises:
        StorageTrouble: If it is missing or damaged, or the disk cannot be read.
    """
    return _patiently(lambda: checkpoints.load(file), _of_reading)


def load_partial(checkpoints: Checkpoints, file: str) -> tuple[Any, dict[str, Any]] | None:
    """The state that an earlier attempt at a job has left; None where it is missing or damaged, which costs the time
    that it took.

    Raises:
        StorageTrouble: If the disk cannot be read.
    """
    try:
        return checkpoints.load(file)
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError):
            return load(checkpoints, file)
        log.warning("a half-trained state is left aside, and its job begins anew: %s", error)
        return None


def _of_writing(error: CheckpointError) -> Reason | None:
    if error.__cause__ is None:  # the state cannot be kept anywhere
        return None
    too_large = getattr(error.__cause__, "errno", None) == errno.EFBIG  # for the limit of a process: nobody makes room
    return "file" if too_large else "storage"


def _of_reading(error: CheckpointError) -> Reason | None:
    return "storage" if isinstance(error.__cause__, OSError) else "file"


def _patiently(action: Callable[[], Value], trouble: Callable[[CheckpointError], Reason | None]) -> Value:
    for pause in (*PAUSES, None):
        try:
            return action()
        except CheckpointError as error:
            why = trouble(error)
            if why is None:
                raise
            if pause is None:
                raise StorageTrouble(error, why) from error
            log.info("trying again in %g s: %s", pause, error)
        guard().check()
        time.sleep(pause)
    raise AssertionError


class Rhythm:
    """Schedule of saves during a training: every so many seconds, but rarely enough to cost little of its time.

    Args:
        seconds: Minimum time between two saves.
    """

    def __init__(self, seconds: float) -> None:
        self._least, self._every, self._last = seconds, seconds, time.monotonic()

    @property
    def due(self) -> bool:
        """True if it is time to save."""
        return time.monotonic() - self._last > self._every

    def save(self, action: Callable[[], None]) -> None:
        """Save by ``action``, unless the disk is in trouble: what is saved on the way is saved later then."""
        begun = time.perf_counter()
        try:
            action()
        except CheckpointError as error:
            if error.__cause__ is None:
                raise
            log.warning("a training in progress could not be saved: %s", error)
        took = time.perf_counter() - begun
        self._last, self._every = time.monotonic(), self._least * max(1.0, took / SHARE / max(self._least, 1.0))
