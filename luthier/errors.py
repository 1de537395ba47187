"""The errors that a user can meet: each names what is wrong, where, and what to do about it."""

from __future__ import annotations

from typing import Any

from luthier.text import without_secrets


class LuthierError(Exception):
    """Base of every error that luthier raises on purpose.

    Args:
        what: The fact, with the offending value in it: ``"low=3.0 is not below high=1.0"``.
        where: The place: a hyperparameter, a job, a file, an argument.
        remedy: The way out for the user, as a sentence.

    Passwords in these texts are not kept: an error ends in logs and on screens that others see.

    Examples:
        >>> print(LuthierError("low=3.0 is not below high=1.0", where="lr", remedy="Swap them."))
        lr: low=3.0 is not below high=1.0. Swap them.
    """

    def __init__(self, what: str, *, where: str, remedy: str) -> None:
        what, where, remedy = map(without_secrets, (what, where, remedy))
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.what.rstrip('.')}. {self.remedy}"

    def __reduce__(self):  # keyword-only arguments do not survive the default pickling
        return _rebuild, (type(self), self.what, self.where, self.remedy)


def _rebuild(kind: type[LuthierError], what: str, where: str, remedy: str) -> LuthierError:
    return kind(what, where=where, remedy=remedy)


class SpaceError(LuthierError, ValueError):
    """A search space that cannot exist."""


class ConfigError(LuthierError, ValueError):
    """A configuration that does not belong to its space."""


class MissingAttributeError(LuthierError, AttributeError):
    """An attribute that there is not, by the name that another tool has for it."""


class TaskError(LuthierError, ValueError):
    """A task that cannot be trained as described."""


class HiddenStateError(TaskError):
    """Code that gives something else, or may come to do so, when it is run again; it may seem sound the next time."""


class DataError(LuthierError, ValueError):
    """Data that is missing, damaged or of the wrong shape."""


class MethodError(LuthierError, ValueError):
    """A method that is unknown, badly set, or asks for more than its task can do."""


class ArgumentError(LuthierError, TypeError):
    """An argument that a function does not have, or lacks."""


class StudyError(LuthierError, RuntimeError):
    """A study that cannot go on: settings that changed, results that do not fit, no trial that succeeded.

    Attributes:
        study: The :class:`luthier.Study` with all that is recorded, where ``tune`` raised it after it had begun.
    """

    study: Any = None


class StoreError(LuthierError, RuntimeError):
    """A database that cannot be opened, read or written."""


class CheckpointError(LuthierError, RuntimeError):
    """A checkpoint that is missing, damaged, or cannot be written."""


class ExecutionError(LuthierError, RuntimeError):
    """A worker that cannot be started, reached or given its work."""
