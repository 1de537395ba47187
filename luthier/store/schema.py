"""The tables, their version, and how an older database becomes a newer one.

One counter a study, ``events``, numbers its events without gaps from 1: a job has the number at which it was
``created`` and, once it has ended, the one at which it was ``done``; a report has its own. A study's row is locked
while anybody writes to the study, so whoever reads the counter can read every event up to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from luthier.errors import StoreError

metadata = sa.MetaData()


def _study_id() -> sa.Column[int]:
    return sa.Column("study", sa.ForeignKey("luthier_studies.id", ondelete="CASCADE"), primary_key=True)


version_table = sa.Table("luthier_schema", metadata, sa.Column("version", sa.Integer, nullable=False))

studies = sa.Table(
    "luthier_studies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("settings", sa.Text, nullable=False),  # JSON
    sa.Column("events", sa.BigInteger, nullable=False),
    sa.Column("jobs", sa.BigInteger, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("best", sa.BigInteger),
    sa.Column("best_value", sa.Double),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("turn_owner", sa.Integer),
    sa.Column("turn_until", sa.Double),
    sqlite_autoincrement=True,  # the id of a deleted study is not given again: whoever still holds it gets an error
)

owners = sa.Table(
    "luthier_owners",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.ForeignKey("luthier_studies.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)

jobs = sa.Table(
    "luthier_jobs",
    metadata,
    _study_id(),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("config", sa.Text, nullable=False),  # JSON, as are tag, metrics, final and error
    sa.Column("config_vectors", sa.LargeBinary),
    sa.Column("steps", sa.BigInteger, nullable=False),
    sa.Column("parent", sa.BigInteger),
    sa.Column("tag", sa.Text),
    sa.Column("owner", sa.Integer),  # who holds it, or who ended it
    sa.Column("snapshots", sa.BigInteger, nullable=False, server_default="0"),  # reports with long vectors that came
    sa.Column("done", sa.BigInteger),
    sa.Column("status", sa.Text),
    sa.Column("metrics", sa.Text),
    sa.Column("steps_done", sa.BigInteger),
    sa.Column("final", sa.Text),
    sa.Column("final_vectors", sa.LargeBinary),
    sa.Column("seconds", sa.Double),
    sa.Column("error", sa.Text),
    sa.Column("checkpoint_file", sa.Text),
    sa.Column("checkpoint_row", sa.BigInteger),
    sa.Index("luthier_jobs_done", "study", "done"),
    sqlite_with_rowid=False,
)

reports = sa.Table(
    "luthier_reports",
    metadata,
    _study_id(),
    sa.Column("event", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),  # JSON
    sa.Column("hyperparameters", sa.Text),  # JSON
    sa.Column("vectors", sa.LargeBinary),
    sa.Column("position", sa.BigInteger),  # of its long vectors among those of the job; NULL without any
    sqlite_with_rowid=False,
)
sa.Index(
    "luthier_reports_vectors",
    reports.c.study,
    reports.c.number,
    sqlite_where=reports.c.position.is_not(None),
    postgresql_where=reports.c.position.is_not(None),
)

VERSION = 1
MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {}  # version n: what makes a database of it one of n + 1


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


def prepare(connection: sa.Connection, write: Callable[[], Any], where: str) -> None:
    """Create the tables in an empty database, bring older ones up to date, and check the rest.

    Args:
        connection: An open connection that is not in a transaction.
        write: A context manager that is an exclusive transaction of the whole database.
        where: The database, for messages.

    Raises:
        StoreError: If the database belongs to a newer luthier, or to something else.
    """
    if _version(connection, where) != VERSION:
        with write():
            version = _version(connection, where)  # another process may have been first
            if version is None:
                _check_empty(connection, where)
                metadata.create_all(connection)
                connection.execute(version_table.insert().values(version=VERSION))
            else:
                for step in range(version, VERSION):
                    MIGRATIONS[step](connection)
                connection.execute(version_table.update().values(version=VERSION))
    _check_columns(connection)


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
