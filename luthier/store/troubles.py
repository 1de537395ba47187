"""Troubles of a database: what a driver's error means, whether it may pass, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from luthier.errors import StoreError
from luthier.text import without_secrets

# What a driver's message means: pattern, fact, remedy. The first that matches is told.
_PROBLEMS = [
    (r"readonly|read-only", "the database cannot be written",
     "Check the permissions of the file and of its folder (SQLite writes beside the file), or use another store."),
    (r"permission denied", "the database refuses this to this user",
     "Ask its owner for the right (GRANT SELECT is enough to read), or check the permissions of the file."),
    (r"disk is full|no space left|could not extend", "the disk is full",
     "Free some space and run again: what was recorded before is there."),
    (r"disk i/o error|input/output error", "the disk refused to read or write",
     "Check the disk and its free space, then run again: what was recorded before is there."),
    (r"is locked|busy|lock timeout", "another process has kept the database locked",
     "Find it and end it, or allow more time by ?timeout=… in the URL. On a network disk use PostgreSQL instead."),
    (r"not a database|malformed|corrupt|file is encrypted", "the file is damaged, or is no SQLite database",
     "Restore it from a backup, or choose another file."),
    (r"unable to open", "the file cannot be opened",
     "Check that the folder exists and that you may write there."),
    (r"no such (table|column)|(relation|column) .* does not exist|has no column", "a table is not as luthier made it",
     "It was changed by hand or is not luthier's: restore a backup, or use another database."),
    (r"constraint|violates|datatype mismatch", "a row contradicts another",
     "The database was changed by hand or by another program: restore a backup, or use another database."),
    (r"connection|connect|server|terminat|resolve|timeout expired|authentication|role |database .* does not exist",
     "the database server cannot be reached, or let the connection go",
     "Check the URL, the password and that the server runs, then run again: what was recorded before is there."),
]  # fmt: skip


# What passes by itself or by somebody's help: SQLite's messages, PostgreSQL's classes of states.
_PASSING = re.compile("locked|busy|disk is full|disk i/o error", re.IGNORECASE)
_READ_ONLY = re.compile("readonly database|read-only transaction", re.IGNORECASE)
CROWDED = re.compile("too many (clients|connections)|connection slots|(starting up|shutting down|recovery mode)")
_PASSING_STATES = ("08", "40", "53", "55", "57")


class AwayError(StoreError):
    """A trouble of the database that may pass: the same again is worth a try."""


def passes(error: BaseException | None, sqlite: bool, wrote: bool) -> bool:
    """Return True if the error that the driver raised may be transient.

    Args:
        error: The error.
        sqlite: The database is an SQLite file.
        wrote: A transaction has been committed before.
    """
    if wrote and _READ_ONLY.search(str(error)):  # a right taken away, a server that fell back to a replica
        return True
    if sqlite:
        return bool(_PASSING.search(str(error)))
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return state[:2] in _PASSING_STATES
    return type(error).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout")


def explained(error: Exception, where: str, secrets: Iterable[str] = (), passing: bool = False) -> StoreError:
    """The StoreError for what a database driver raised, without the secrets in it; an AwayError where it may pass."""
    kind = AwayError if passing else StoreError
    message = without_secrets(str(getattr(error, "orig", None) or error).strip(), secrets)
    first = message.splitlines()[0] if message else type(error).__name__
    for pattern, what, remedy in _PROBLEMS:
        if re.search(pattern, message, re.IGNORECASE):
            return kind(f"{what} ({first})", where=where, remedy=remedy)
    remedy = "What was recorded before is there; check the database and run again."
    return kind(f"the database answered: {first}", where=where, remedy=remedy)


def given_up(error: AwayError, seconds: float) -> StoreError:
    """The StoreError after an outage that lasted too long."""
    waited = f" for {seconds:.0f} s" if seconds >= 1 else ""
    kept = "What was recorded before is kept; what was running, and results in hand, will run again with the next call."
    return StoreError(f"{error.what}{waited}", where=error.where, remedy=f"{error.remedy} {kept}")
