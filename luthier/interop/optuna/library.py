"""The Optuna package: the one file that imports it, and how it is kept quiet."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

from luthier.errors import MethodError
from luthier.lazy import optional_import

with optional_import("Optuna", "luthier.interop.optuna", MethodError):
    import optuna

__all__ = ["optuna", "quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's messages below an error from being logged by this thread, and nothing else.

    No level, handler or verbosity is touched, so that what other threads and the user's own studies log is logged.
    """
    thread = threading.get_ident()

    def drop(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    found = list(logging.Logger.manager.loggerDict.items())  # another thread may add one meanwhile
    loggers = [one for name, one in found if isinstance(one, logging.Logger) and name.split(".")[0] == "optuna"]
    for logger in loggers:
        logger.addFilter(drop)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(drop)


@contextlib.contextmanager
def experimental() -> Iterator[None]:
    """Use what Optuna marks as experimental, on purpose: without that one warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
