"""One connection to a database: opened, locked, tried again while the database is away."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from luthier.errors import StoreError
from luthier.store import OUTAGE, schema
from luthier.store.migrate import one_to_two
from luthier.store.read_only import Reader
from luthier.store.session import Compiled, Session
from luthier.store.troubles import CROWDED, AwayError, explained, given_up, passes
from luthier.store.url import parse
from luthier.text import without_secrets

Value = TypeVar("Value")

SLICE = 1.0  # seconds that SQLite waits for a lock at a time
# SQLite looks for a lock after 1 ms, then less and less often, up to every 100 ms. Among many writers those that have
# waited long would never find it free: after so many seconds they begin anew. (To look ever so often costs more than it
# gives: the processors are taken from the one that has the lock.)
ANEW = 0.4
PAUSES = (0.02, 1.0)  # seconds between two tries while the database is away, the first and the longest
# SQLAlchemy logs with a traceback that a connection which the server has ended cannot be rolled back: we wait that out.
logging.getLogger("sqlalchemy.pool.impl.NullPool.luthier").addHandler(logging.NullHandler())
_chance = random.SystemRandom()  # spreads tries of many drivers; no result depends on it


class Database:
    """A database under one lock and one connection, which is opened when needed and again after a fork.

    Args:
        url: See :func:`luthier.store.open_store`.
        read_only: Never write, not even to create or to bring up to date what is there.
        outage: Seconds for which :meth:`again` tries.
        folder: Function that returns where a database of schema 1 keeps its checkpoints.

    Raises:
        StoreError: If the URL is of no known kind, or the database cannot be opened or is not luthier's.
    """

    def __init__(
        self,
        url: str | Path,
        read_only: bool = False,
        outage: float = OUTAGE,
        folder: Callable[[Database], str] | None = None,
    ) -> None:
        self._address = parse(url)
        self.url, self.name = self._address.url, self._address.name
        self.sqlite, self.wait = self._address.sqlite, self._address.wait
        self.outage = outage
        self.away: str | None = None  # what the trouble is, while there is one
        self.on_away: Callable[[str | None], None] | None = None
        self._wrote = False  # whether a transaction has been committed
        self.broken = -float("inf")  # when it was last away, by time.monotonic()
        self._file: tuple[int, int] | None = None  # of an SQLite database: its device and inode
        self.lock = threading.RLock()
        self._open: list[tuple[int, sa.Connection]] = []  # at most one, with the process that opened it
        self.read_only = read_only
        self._reader = Reader(self.name, self.wait) if self.sqlite and read_only else None
        if self.sqlite and not read_only:
            self._prepare_file()
        try:
            # SQLite waits for locks in C, where no signal is heard: in slices, while there is an outage to wait out.
            self._slice = min(self.wait, SLICE) if outage >= self.wait else self.wait
            wait = min(self._slice, ANEW)
            arguments = {"check_same_thread": False, "timeout": wait} if self.sqlite else self._patience()
            self._engine = sa.create_engine(
                self.url,
                isolation_level="AUTOCOMMIT",
                poolclass=sa.NullPool,
                pool_logging_name="luthier",
                connect_args=arguments,
                **({} if self._reader is None else {"creator": self._reader.connect}),
                paramstyle="named" if self.sqlite else "pyformat",
            )
        except ModuleNotFoundError as error:
            remedy = "Install it: pip install 'luthier[postgres]'."
            raise StoreError(f"the package {error.name} is missing", where=self.where, remedy=remedy) from error
        prepared = weakref.WeakMethod(self._on_connect)  # SQLAlchemy keeps what listens for ever
        event.listen(self._engine, "connect", lambda *given: (found := prepared()) and found(*given))
        self._finalizer = weakref.finalize(self, _close, self._open)
        self._compiled: dict[sa.Executable, Compiled] = {}
        self._driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        try:
            self._begin(folder)
        except BaseException:
            self.close()
            raise

    def _patience(self) -> dict[str, int]:
        """Limits of time for libpq, unless the URL has them: a network that swallows packets would hang a driver."""
        silent = max(5, min(30, int(self.outage)))  # seconds without an answer of the other side's kernel
        limits = {
            "connect_timeout": 15,
            "tcp_user_timeout": 1000 * silent,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
        }
        return {name: limit for name, limit in limits.items() if name not in self.url.query}

    def _begin(self, folder: Callable[[Database], str] | None) -> None:
        """Check or make the tables. A server that is there and full, or on its way up, is waited for."""
        kept = folder(self) if folder else ""
        steps = {1: lambda connection: one_to_two(connection, kept)}
        end = time.monotonic() + min(self.outage, self.wait)
        while True:
            try:
                with self.read():
                    if self._reader is not None and schema.is_older(self._connection(), self.where):
                        self._reader.upgrade = lambda copy: Database(copy, folder=lambda _: kept).close()
                        self._drop()
                    if self.read_only:
                        schema.check(self._connection(), self.where)
                    else:
                        schema.prepare(self._connection(), lambda: self.write(everything=True), self.where, steps)
                return
            except AwayError as error:
                if time.monotonic() > end or not CROWDED.search(str(error)):
                    raise
                time.sleep(PAUSES[1] * _chance.uniform(0.5, 1.5))

    @property
    def where(self) -> str:
        """The database as messages name it, without the password."""
        return f"store {self.name}"

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session outside of a transaction; the driver's errors become a StoreError."""
        with self.lock:
            connection = None
            try:
                connection = self._connection().connection.dbapi_connection
                yield Session(connection, self._compile)
            except (exc.SQLAlchemyError, self._driver_error) as error:
                original = getattr(error, "orig", error)
                if isinstance(original, self._driver_error) and connection is not None:
                    if self._engine.dialect.is_disconnect(original, connection, None):  # pyright: ignore
                        self._drop()
                told = explained(error, self.where, self._address.secrets, passes(original, self.sqlite, self._wrote))
                # a cause is printed too, and may hold the password that the message does not
                raise told from None if without_secrets(str(error), self._address.secrets) != str(error) else error

    def again(self, action: Callable[[int], Value]) -> Value:
        """``action(tries)``, from 0 tries on, again and again while the database is away, for ``outage`` seconds.

        Raises:
            StoreError: If the database is away for longer, or at once where the trouble cannot pass.
        """
        pause, begun, tries = PAUSES[0], None, 0
        while True:
            try:
                value = action(tries)
            except AwayError as error:
                self.broken = now = time.monotonic()
                begun = now if begun is None else begun
                left = begun + self.outage - now
                if left <= 0:
                    self._say(None)
                    raise given_up(error, now - begun) from None
                self._say(f"{error.where}: {error.what}")
                tries += 1
                time.sleep(min(left, pause * _chance.uniform(0.5, 1.5)))
                pause = min(2 * pause, PAUSES[1])
            else:
                if tries:
                    self._say(None)
                return value

    @contextlib.contextmanager
    def write(self, everything: bool = False) -> Iterator[Session]:
        """A transaction that is committed at the end, or undone by an exception.

        In SQLite it has the file to itself from the start, for a lock that is taken later can be refused. In
        PostgreSQL it locks what it says it does, and with ``everything`` all that luthier may create.
        """
        self._check_file()
        with self.read() as session:
            if self.sqlite:
                self._take_lock(session)
            else:
                session.execute("BEGIN")
            try:
                if everything and not self.sqlite:
                    session.execute("SELECT pg_advisory_xact_lock(1819637864)")
                yield session
                session.execute("COMMIT")
                self._wrote = self._wrote or session.wrote
            except BaseException:
                try:
                    session.execute("ROLLBACK")
                except self._driver_error:  # the connection is gone, or the database undid it by itself
                    self._drop()
                raise

    def _take_lock(self, session: Session) -> None:
        """Begin a transaction of SQLite's, which has the lock from the start."""
        end = time.monotonic() + self._slice
        while True:
            try:
                session.execute("BEGIN IMMEDIATE")
                return
            except self._driver_error as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        with self.lock:
            self._drop()
            if self._reader is not None:
                self._reader.close()

    def _connection(self) -> sa.Connection:
        if self._open and (self._open[0][0] != os.getpid() or (self._reader is not None and self._reader.stale)):
            self._drop()
        if not self._open:
            self._check_file()
            self._open.append((os.getpid(), self._engine.connect()))
            if self.sqlite and self._file is None:
                self._file = _identity(self.name)
        return self._open[0][1]

    def _check_file(self) -> None:
        """Raise StoreError where the file of an SQLite database is no longer the one that was opened."""
        if self._file is not None and self._file != _identity(self.name):
            raise StoreError(
                "the database's file was removed, or replaced by another, while it was in use",
                where=self.where,
                remedy="What was recorded in it is kept by nothing but a backup: restore it and run again.",
            )

    def _say(self, trouble: str | None) -> None:
        """Tell that the database is away, or back."""
        self.away = trouble
        if self.on_away is not None:
            self.on_away(trouble)

    def _compile(self, statement: sa.Executable) -> Compiled:
        if statement not in self._compiled:
            compiled = statement.compile(dialect=self._engine.dialect)  # type: ignore[attr-defined]
            columns = getattr(statement, "selected_columns", None) or getattr(statement, "exported_columns", ())
            row = namedtuple("row", [column.key for column in columns], rename=True)
            given = {name: value for name, value in compiled.params.items() if not name.startswith("b_")}
            self._compiled[statement] = Compiled(str(compiled), given, row._make)
        return self._compiled[statement]

    def _drop(self) -> None:
        _close(self._open)

    def _prepare_file(self) -> None:
        path = Path(self.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = "Choose a place where you may write."
            raise StoreError(f"its folder cannot be created ({error})", where=self.where, remedy=remedy) from error
        if path.is_dir():
            remedy = f"Name a file in it: {path / 'studies.db'}."
            raise StoreError("it is a folder", where=self.where, remedy=remedy)

    def _on_connect(self, connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        if self._reader is not None:
            pass
        elif self.sqlite:
            _use_wal(cursor, self.wait)
            cursor.execute(f"PRAGMA synchronous={self._address.synchronous}")
            cursor.execute("PRAGMA foreign_keys=ON")
        else:  # a client that vanished in mid-transaction must not block the others for ever
            limit = f"'{round(self.wait * 1000)}ms'"
            cursor.execute(f"SET lock_timeout = {limit}")
            cursor.execute(f"SET idle_in_transaction_session_timeout = {limit}")
            if self.read_only:
                cursor.execute("SET default_transaction_read_only = on")
        cursor.close()


_inherited: list[sa.Connection] = []  # after a fork: closing the parent's connection here would end it there too


def _identity(name: str) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is none."""
    try:
        found = os.stat(name)  # noqa: PTH116 - before each transaction, and a Path costs ten times as much
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _close(connections: list[tuple[int, sa.Connection]]) -> None:
    while connections:
        pid, connection = connections.pop()
        if pid != os.getpid():
            _inherited.append(connection)
            continue
        with contextlib.suppress(exc.SQLAlchemyError):
            connection.close()


def _use_wal(cursor: Any, wait: float) -> None:
    """Several processes that open a new file at once may find it locked here, without SQLite's own waiting."""
    end = time.monotonic() + wait
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)
