"""The tables, their version, and how an older database becomes a newer one.

A study is a log of immutable events and a queue of the jobs that have not ended. ``seq`` numbers the rows of the log
without gaps from 1 and is the one order for all; whoever holds the study's row gives it. SQLite gives it at once, for
its writers are alone anyway; in PostgreSQL reports and results are added without it (so that their transactions need no
lock and are committed in groups) and are numbered by whoever reads next.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from luthier.errors import StoreError

VERSION = 2

metadata = sa.MetaData()
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")

version_table = sa.Table(
    "luthier_schema",
    metadata,
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("store", sa.Text, nullable=False),  # uuid
    sa.Column("checkpoints", sa.Text),  # folder of all studies' checkpoints; NULL: beside the SQLite file
)

studies = sa.Table(
    "luthier_studies",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("uid", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("settings", sa.Text, nullable=False),  # JSON
    sa.Column("folder", sa.Text, nullable=False),  # of its checkpoints, within that of the store
    sa.Column("events", sa.BigInteger, nullable=False),
    sa.Column("jobs", sa.BigInteger, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("best", sa.BigInteger),
    sa.Column("best_value", sa.Double),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("turn_owner", sa.BigInteger),
    sa.Column("turn_until", sa.Double),
    sa.Column("janitor", sa.BigInteger),
    sa.Column("janitor_until", sa.Double),
    sqlite_autoincrement=True,  # the id of a deleted study is not given again: whoever still holds it gets an error
)

owners = sa.Table(
    "luthier_owners",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("study", sa.BigInteger, nullable=False, index=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("batch", sa.BigInteger, nullable=False),  # number of its last transaction
    sa.Column("wants", sa.BigInteger, nullable=False),  # jobs that it is waiting for
    sa.Column("given", sa.BigInteger, nullable=False),  # how often others have put jobs aside for it
    sqlite_autoincrement=True,
)

queue = sa.Table(
    "luthier_queue",
    metadata,
    sa.Column("study", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event", sa.BigInteger, nullable=False),  # seq of the job
    sa.Column("owner", sa.BigInteger),  # NULL: free
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("not_before", sa.Double, nullable=False),
    sa.Column("claimed", sa.Double),
    sa.Column("partial", sa.Text),  # file from which it can go on
    sa.Column("partial_steps", sa.BigInteger),
    sqlite_with_rowid=False,
)

events = sa.Table(
    "luthier_events",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("study", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("number", sa.BigInteger),  # of the job; NULL in a row of several reports
    sa.Column("owner", sa.BigInteger),
    sa.Column("attempt", sa.Integer),
    sa.Column("at", sa.Double),  # seconds since 1970 by the database's clock; NULL before schema 2
    sa.Column("body", sa.Text, nullable=False),  # JSON
    sa.Column("vectors", sa.LargeBinary),
    sa.Column("position", sa.BigInteger),  # of a report's long vectors among those of its job; NULL without any
    sqlite_autoincrement=True,
)
for name, columns, condition, unique in (
    ("luthier_events_order", (events.c.study, events.c.seq), events.c.seq.is_not(None), True),
    ("luthier_events_new", (events.c.study,), events.c.seq.is_(None), False),
    ("luthier_events_vectors", (events.c.study, events.c.number), events.c.position.is_not(None), False),
):
    sa.Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


class clock(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, which all that share it agree on."""

    type = sa.Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


def prepare(
    connection: sa.Connection,
    write: Callable[[], Any],
    where: str,
    migrations: dict[int, Callable[[sa.Connection], None]],
) -> None:
    """Create the tables in an empty database, bring older ones up to date, and check the rest.

    Args:
        connection: An open connection that is not in a transaction.
        write: A context manager that is an exclusive transaction of the whole database.
        where: The database, for messages.
        migrations: For version n, the step that makes a database of it one of n + 1.

    Raises:
        StoreError: If the database belongs to a newer luthier, or to something else.
    """
    if _version(connection, where) != VERSION:
        with write():
            version = _version(connection, where)  # another process may have been first
            if version is None:
                _check_empty(connection, where)
                metadata.create_all(connection)
                connection.execute(version_table.insert().values(version=VERSION, store=uuid.uuid4().hex))
            else:
                for step in range(version, VERSION):
                    migrations[step](connection)
                connection.execute(version_table.update().values(version=VERSION))
    _check_columns(connection)


def is_older(connection: sa.Connection, where: str) -> bool:
    """Return True if the database is luthier's, and of a version before this one."""
    return (_version(connection, where) or VERSION) < VERSION


def check(connection: sa.Connection, where: str) -> None:
    """Check a database that is only read.

    Raises:
        StoreError: If it is not luthier's, or of another version.
    """
    version = _version(connection, where)
    if version is None:
        _check_empty(connection, where)
        remedy = "Check the name: a study is kept in the store that it was run with."
        raise StoreError("the database is empty", where=where, remedy=remedy)
    if version < VERSION:
        remedy = "Open it once where you may write to it: luthier.open_store(…) brings it up to date."
        raise StoreError(f"the database has version {version}, and is read as {VERSION}", where=where, remedy=remedy)
    _check_columns(connection)


def _check_columns(connection: sa.Connection) -> None:
    for table in metadata.sorted_tables:  # a column that is missing is named here rather than in mid-study
        connection.execute(sa.select(table).where(sa.false()))


def _version(connection: sa.Connection, where: str) -> int | None:
    if not sa.inspect(connection).has_table(version_table.name):
        return None
    rows = connection.execute(sa.select(version_table.c.version)).scalars().all()
    if len(rows) != 1 or not isinstance(rows[0], int) or rows[0] < 1:
        raise StoreError(
            f"the table {version_table.name} holds {rows!r} instead of one version",
            where=where,
            remedy="It was changed by hand, or is not luthier's: restore a backup, or use another database.",
        )
    if rows[0] > VERSION:
        raise StoreError(
            f"the database has version {rows[0]}, this luthier knows versions up to {VERSION}",
            where=where,
            remedy="Upgrade luthier here to the version that last wrote to it, or use another database.",
        )
    return rows[0]


def _check_empty(connection: sa.Connection, where: str) -> None:
    present = set(sa.inspect(connection).get_table_names())
    ours = present & set(metadata.tables)
    # an SQLite file is one program's; a PostgreSQL database is shared by many
    foreign = ours or (present if connection.dialect.name == "sqlite" else set())
    if foreign:
        raise StoreError(
            f"the database has tables ({', '.join(sorted(foreign)[:5])}) that luthier did not make",
            where=where,
            remedy="It belongs to another program: give luthier a file or a database of its own.",
        )
