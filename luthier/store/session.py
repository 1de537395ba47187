"""Statements of SQLAlchemy's, compiled once and sent by the database's own driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa


class Compiled(NamedTuple):
    """A statement as its driver takes it."""

    text: str
    given: dict[str, Any]  # values that the statement has itself; what its users give begins with b_
    row: Callable[[Any], Any]


class Session:
    """SQLAlchemy's statements, sent by the driver itself.

    Each is compiled once for the database. SQLAlchemy's own execution costs more than all else that a small
    transaction does (0.8 of 1.4 ms for a trial with ten reports in SQLite).
    """

    def __init__(self, connection: Any, compiled: Callable[[sa.Executable], Compiled]) -> None:
        self._connection, self._compiled = connection, compiled
        self.wrote = False  # whether a row was changed: a transaction without one needs no right to write

    def all(self, statement: sa.Executable, values: Mapping[str, Any]) -> list[Any]:
        """The rows of a query, as named tuples."""
        text, given, row = self._compiled(statement)
        return [row(found) for found in self._connection.execute(text, {**given, **values}).fetchall()]

    def first(self, statement: sa.Executable, values: Mapping[str, Any]) -> Any | None:
        """The first row of a query, or None."""
        rows = self.all(statement, values)
        return rows[0] if rows else None

    def run(self, statement: sa.Executable, values: Mapping[str, Any]) -> int:
        """The number of rows that a statement changed."""
        text, given, _ = self._compiled(statement)
        changed = self._connection.execute(text, {**given, **values}).rowcount
        self.wrote = self.wrote or changed > 0
        return changed

    def run_all(self, statement: sa.Executable, values: Sequence[Mapping[str, Any]]) -> None:
        """A statement for each of ``values``."""
        if len(values) == 1:
            self.run(statement, values[0])
        elif values:
            text, given, _ = self._compiled(statement)
            cursor = self._connection.cursor()
            cursor.executemany(text, [{**given, **entry} for entry in values] if given else values)
            cursor.close()
            self.wrote = True

    def backup(self, copy: Any) -> None:
        """Copy the whole of an SQLite database to another connection, as it is at one moment."""
        self._connection.backup(copy)

    def execute(self, text: str) -> None:
        """A command without parameters, such as COMMIT."""
        self._connection.execute(text)
