"""The store over a database: SQLite and PostgreSQL by the same statements."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from luthier.errors import StoreError
from luthier.files import absolute
from luthier.store import LEASE, OUTAGE, StudySummary, rows
from luthier.store import statements as sql
from luthier.store.checkpoints import Checkpoints, folder_name, is_folder_name, study_folder
from luthier.store.connect import Database
from luthier.store.counts import Leader, check_name, no_study, settings_text, summary
from luthier.store.sql_study import SQLStudy


class SQL:
    """Studies in an SQLite file or a PostgreSQL database.

    SQLite runs in WAL mode with ``synchronous=normal``: what was recorded survives a kill of the process, and with
    ``?synchronous=full`` a loss of power. WAL needs a local disk; several machines need PostgreSQL.

    Args:
        url: See :func:`luthier.store.open_store`, as for the other arguments.
        lease: Seconds of a lease.
        checkpoints: Folder of all studies' checkpoints.
        read_only: Only look at what is there.
        outage: Seconds for which everything is tried again.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        lease: float = LEASE,
        checkpoints: str | Path | None = None,
        read_only: bool = False,
        outage: float = OUTAGE,
    ) -> None:
        self._database = Database(url, read_only, outage, _folder_of_schema_1)
        self._lease = lease
        with self._database.read() as session:
            row = session.all(sql.store_row, {})[0]
        self._uid, recorded = row.store, row.checkpoints
        given = recorded if checkpoints is None else str(checkpoints)
        self._folder = _default_folder(self._database, self._uid) if given is None else given
        if recorded is None and not read_only and (checkpoints is not None or not self._database.sqlite):
            self._database.again(lambda tries: self._record_folder())
        self._attached: weakref.WeakSet[SQLStudy] = weakref.WeakSet()

    @property
    def url(self) -> str:
        return self._database.url.render_as_string(hide_password=False)

    @property
    def outage(self) -> float:
        return self._database.outage

    @property
    def away(self) -> str | None:
        return self._database.away

    def when_away(self, tell: Callable[[str | None], None] | None) -> None:
        self._database.on_away = tell

    def __repr__(self) -> str:
        return f"SQL({self._database.name!r})"

    def create(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        check_name(name)
        text = settings_text(settings)
        uid = uuid.uuid4().hex
        values = {"b_name": name, "b_settings": text, "b_uid": uid, "b_folder": f"{folder_name(name)}-{uid[:12]}"}

        def add(tries: int) -> None:
            with self._database.write(everything=True) as session:
                if session.first(sql.find_study, {"b_name": name}) is None:
                    session.run(sql.add_study, values)

        self._database.again(add)
        return self.settings(name)

    def settings(self, name: str) -> dict[str, Any]:
        return self._settings(self._find(name))

    def update_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        text = settings_text(settings)

        def change(tries: int) -> int:
            with self._database.write() as session:
                return session.run(sql.set_settings, {"b_name": name, "b_settings": text})

        changed = self._database.again(change)
        if not changed:
            self._find(name)  # raises

    def studies(self) -> list[StudySummary]:
        late: dict[int, list[Any]] = {}  # results that have no place in the order yet are not in a study's counts
        for row in self._all(sql.unordered_results, {}):
            late.setdefault(row.study, []).append(row)
        return [summary(row, self._settings, late.get(row.id, ())) for row in self._all(sql.all_studies, {})]

    def delete(self, name: str) -> None:
        row = self._find(name)
        values = {"b_study": row.id}

        def remove(tries: int) -> None:
            with self._database.write() as session:
                session.all(sql.lock_study, values)
                session.run(sql.remove_study, values)
                for statement in sql.remove_rows:
                    session.run(statement, values)

        self._database.again(remove)
        self._checkpoints(row).clear()

    def attach(self, name: str, owner: str | None) -> SQLStudy:
        row = self._find(name)
        best = Leader.of(self._settings(row))
        study = SQLStudy(self._database, name, row.id, owner, self._lease, best, self._checkpoints(row))
        self._attached.add(study)
        return study

    def close(self) -> None:
        for study in list(self._attached):
            with contextlib.suppress(StoreError):  # deleted, or the database is gone: its lease will end
                study.leave()
        self._attached.clear()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _find(self, name: str) -> Any:
        found = self._all(sql.find_study, {"b_name": name})
        if not found:
            raise no_study(name, self._database.name, (known.name for known in self._all(sql.study_names, {})))
        return found[0]

    def _all(self, statement: Any, values: dict[str, Any]) -> list[Any]:
        def read(tries: int) -> list[Any]:
            with self._database.read() as session:
                return session.all(statement, values)

        return self._database.again(read)

    def _record_folder(self) -> None:
        folder = self._folder if "://" in self._folder else str(absolute(self._folder))
        with self._database.write() as session:
            session.run(sql.set_checkpoints, {"b_checkpoints": folder})

    def _settings(self, row: Any) -> dict[str, Any]:
        where = f"{self._database.where}, table luthier_studies, study {row.name!r}"
        return rows.read(lambda row: rows.mapping("settings", row.settings), row, where)

    def _checkpoints(self, row: Any) -> Checkpoints:
        if not is_folder_name(row.folder):
            what = f"the column folder holds {row.folder!r}, not the name of a folder"
            remedy = "The row was changed by hand or by another program; nothing was read or removed there."
            where = f"{self._database.where}, table luthier_studies, study {row.name!r}"
            raise StoreError(what, where=where, remedy=remedy)
        older = row.folder == folder_name(row.name)  # made by schema 1, which gave no ids
        identity = {"store": self._uid, "study": row.uid}
        return Checkpoints(study_folder(self._folder, row.folder), identity=identity, older=older)


def _default_folder(database: Database, uid: str) -> str:
    """The folder of a store for which none was given."""
    if database.sqlite:  # the whole name, of the file itself: neither two files nor two names of one are mixed up
        return f"{Path(database.name).resolve()}.checkpoints"
    return str(_data() / uid)


def _folder_of_schema_1(database: Database) -> str:
    """Return the folder where the previous version kept a store's checkpoints if none was given."""
    if database.sqlite:
        return str(Path(database.name).with_suffix(".checkpoints"))
    if folder := os.environ.get("LUTHIER_CHECKPOINTS"):
        return folder
    url = database.url.set(password=None).render_as_string()
    mark = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
    return str(_data() / f"{database.url.database or 'postgresql'}-{mark}")


def _data() -> Path:
    if folder := os.environ.get("LUTHIER_CHECKPOINTS"):
        return Path(folder)
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:  # a container's user without a name
        remedy = "Set LUTHIER_CHECKPOINTS to a folder, or give checkpoints=."
        raise StoreError("this user has no home for saved networks", where="checkpoints", remedy=remedy) from None
    return Path(data) / "luthier" / "checkpoints"
