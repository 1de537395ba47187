"""The store over a database: SQLite and PostgreSQL by the same statements."""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from luthier.errors import StoreError
from luthier.store import LEASE, StudySummary, rows
from luthier.store import statements as sql
from luthier.store.checkpoints import Checkpoints, study_folder
from luthier.store.connect import Database
from luthier.store.process import this_process
from luthier.store.sql_study import SQLStudy
from luthier.store.summary import Best, check_name, no_study, settings_text, summary


class SQL:
    """Studies in an SQLite file or a PostgreSQL database.

    SQLite runs in WAL mode with ``synchronous=normal``: what was recorded survives a kill of the process, and with
    ``?synchronous=full`` a loss of power. WAL needs a local disk; several machines need PostgreSQL.

    Args:
        url: See :func:`luthier.store.open_store`, as for the other arguments.
        lease: Seconds of a lease.
        checkpoints: Folder of all studies' checkpoints.
        read_only: Only look at what is there.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        lease: float = LEASE,
        checkpoints: str | Path | None = None,
        read_only: bool = False,
    ) -> None:
        self._database = Database(url, read_only)
        self._lease = lease
        self._folder = str(checkpoints) if checkpoints is not None else _default_folder(self._database)
        self._attached: weakref.WeakSet[SQLStudy] = weakref.WeakSet()

    @property
    def url(self) -> str:
        return self._database.url.render_as_string(hide_password=False)

    def __repr__(self) -> str:
        return f"SQL({self._database.name!r})"

    def create(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        check_name(name)
        text = settings_text(settings)
        with self._database.write(everything=True) as session:
            if session.first(sql.find_study, {"b_name": name}) is None:
                session.run(sql.add_study, {"b_name": name, "b_settings": text})
        return self.settings(name)

    def settings(self, name: str) -> dict[str, Any]:
        return self._settings(self._find(name))

    def update_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        text = settings_text(settings)
        with self._database.write() as session:
            changed = session.run(sql.set_settings, {"b_name": name, "b_settings": text})
        if not changed:
            self._find(name)  # raises

    def studies(self) -> list[StudySummary]:
        with self._database.read() as session:
            found = session.all(sql.all_studies, {})
        return [summary(row, self._settings) for row in found]

    def delete(self, name: str) -> None:
        row = self._find(name)
        with self._database.write() as session:
            session.run(sql.lock_study, {"b_study": row.id})
            session.run(sql.remove_study, {"b_study": row.id})
        self._checkpoints(name).clear()

    def attach(self, name: str, owner: str | None) -> SQLStudy:
        row = self._find(name)
        best, checkpoints = Best.of(self._settings(row)), self._checkpoints(name)
        if owner is None:
            return SQLStudy(self._database, name, row.id, -1, self._lease, best, checkpoints)
        process = this_process()
        values = {
            "b_study": row.id,
            "b_label": owner,
            "b_host": process.host,
            "b_pid": process.pid,
            "b_started": process.started,
            "b_lease": self._lease,
        }
        with self._database.write() as session:
            number = session.all(sql.add_owner, values)[0].id
        study = SQLStudy(self._database, name, row.id, number, self._lease, best, checkpoints)
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
        with self._database.read() as session:
            row = session.first(sql.find_study, {"b_name": name})
            if row is None:
                raise no_study(name, self._database.name, (known.name for known in session.all(sql.study_names, {})))
            return row

    def _settings(self, row: Any) -> dict[str, Any]:
        where = f"{self._database.where}, table luthier_studies, study {row.name!r}"
        return rows.read(lambda row: rows.mapping("settings", row.settings), row, where)

    def _checkpoints(self, name: str) -> Checkpoints:
        return Checkpoints(study_folder(self._folder, name))


def _default_folder(database: Database) -> str:
    if database.sqlite:
        return str(Path(database.name).with_suffix(".checkpoints"))
    if folder := os.environ.get("LUTHIER_CHECKPOINTS"):
        return folder
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    url = database.url.set(password=None).render_as_string()
    mark = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
    return str(Path(data) / "luthier" / "checkpoints" / f"{database.url.database or 'postgresql'}-{mark}")
