"""A study in another database, and a whole SQLite file as a backup."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sqlite3
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as bind

from luthier.errors import CheckpointError, StoreError
from luthier.files import absolute, replacing
from luthier.store import rows
from luthier.store import statements as sql
from luthier.store.checkpoints import MARKER, SUFFIX, folder_name
from luthier.store.counts import Leader, check_name
from luthier.store.folder import folder_at
from luthier.store.rows import RESULT
from luthier.store.schema import events, queue, studies
from luthier.store.sql import SQL
from luthier.store.troubles import explained

ROWS = 2000  # that are written at once
TRIES = 20  # snapshots of a study that goes on meanwhile
_EVENTS = ("seq", "kind", "number", "attempt", "at", "body", "vectors", "position")
_QUEUE = ("number", "event", "attempts", "partial", "partial_steps")
_STUDY = ("uid", "name", "settings", "folder", "events", "jobs", "done", "best", "best_value", "created", "updated")

_all_events = (
    sa.select(events).where(events.c.study == sql.STUDY).order_by(events.c.seq.is_(None), events.c.seq, events.c.id)
)
_all_queue = sa.select(queue).where(queue.c.study == sql.STUDY)
_add_study = sa.insert(studies).values({name: bind(f"b_{name}") for name in _STUDY})
_add_event = sa.insert(events).values({"study": sql.STUDY, **{name: bind(f"b_{name}") for name in _EVENTS}})
_add_queue = sa.insert(queue).values(
    {"study": sql.STUDY, "not_before": 0.0, **{name: bind(f"b_{name}") for name in _QUEUE}}
)
_rename = sa.update(studies).where(studies.c.id == sql.STUDY).values(name=bind("b_name"))


def copy_study(source: Any, name: str, target: Any, new_name: str | None = None) -> str:
    """Copy a study with its checkpoints into another store, under new ids; running jobs stay with the old one.

    Args:
        source: The open store that it is in; reading is enough.
        name: The study.
        target: The open store that it goes to; it may be the same under a new name.
        new_name: Its name there; the same by default.

    Returns:
        Its name there.

    Raises:
        StoreError: If there is no such study, the name is taken there, or a store is no database.
        CheckpointError: If a checkpoint is damaged, or cannot be written there.
    """
    for store in (source, target):
        if not isinstance(store, SQL):
            raise StoreError(f"{store!r} is no database", where="copy", remedy="Copy from and to SQLite or PostgreSQL.")
    named = new_name or name
    check_name(named)
    if any(one.name == named for one in target.studies()):
        raise _taken(named, target)
    old = source._checkpoints(source._find(name))
    uid = uuid.uuid4().hex
    own = {"uid": uid, "name": named, "folder": f"{folder_name(named)}-{uid[:12]}"}
    place = target._checkpoints(SimpleNamespace(**own))
    try:
        left = TRIES
        while True:
            there = set(old.files())
            row, found, waiting = _snapshot(source, name)
            there.update(old.files())
            made, files = {**row._asdict(), **own}, _Files(old, place)
            new_events = _ordered(found, made, files)
            new_queue = [{f"b_{key}": getattr(one, key) for key in _QUEUE} for one in waiting]
            for one in new_queue:
                one["b_partial"] = one["b_partial"] and files.copied(one["b_partial"])
            left -= 1
            if not left or not files.lost & there:
                break
            place.clear()  # a driver has gone on and removed what the snapshot still needs
        _write(target, made, new_events, new_queue)
    except BaseException:
        place.clear()
        raise
    return named


def rename_study(store: Any, name: str, new_name: str) -> None:
    """Give a study another name; its ids and its checkpoints stay.

    Raises:
        StoreError: If there is no such study, the name is taken, or cannot be one.
    """
    check_name(new_name)
    row = store._find(name)
    if any(one.name == new_name for one in store.studies()):
        raise _taken(new_name, store)

    def change(tries: int) -> None:
        with store._database.write() as session:
            session.run(_rename, {"b_study": row.id, "b_name": new_name})

    store._database.again(change)


def backup(store: Any, path: str | Path) -> tuple[Path, list[str]]:
    """Copy a whole SQLite database with its checkpoints, as it is at one moment, while studies go on in it.

    Args:
        store: The open store; reading is enough.
        path: The new file. Its checkpoints go to ``PATH.checkpoints``.

    Returns:
        The path, and checkpoints that its studies name and that were removed meanwhile, or before.

    Raises:
        StoreError: If the store is no SQLite file, or the copy cannot be written.
        CheckpointError: If a checkpoint cannot be read.
    """
    if not isinstance(store, SQL) or not store._database.sqlite:
        remedy = "Back up PostgreSQL by its own pg_dump; luthier copy takes one study into an SQLite file."
        raise StoreError("only an SQLite file is backed up so", where="backup", remedy=remedy)
    if re.match(r"[a-z][a-z0-9+]*:/", str(path)):
        remedy = "Give the path of a new file; luthier copy takes a study to a server."
        raise StoreError("the backup is a file, and this is a URL", where="backup", remedy=remedy)
    target = absolute(path)
    if target.exists() or Path(f"{target}.checkpoints").exists():
        raise StoreError("there is something already", where=str(target), remedy="Give the path of a new file.")
    folder = target.parent / f".{secrets.token_hex(12)}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_files(store, folder)  # before: a file that is named at the moment of the copy may be removed after it
        with replacing(target) as partial:
            copy = sqlite3.connect(partial)
            try:
                with store._database.read() as session:
                    session.backup(copy)
                copy.execute("UPDATE luthier_schema SET checkpoints = NULL")  # they are beside the new file
                copy.commit()
            finally:
                copy.close()
            _copy_files(store, folder)  # after: files that were written meanwhile
            if folder.exists():
                folder.rename(f"{target}.checkpoints")
    except (OSError, sqlite3.Error) as error:
        raise explained(error, f"backup {target}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what an error or Ctrl-C leaves would be in the next one's way
    with SQL(target, read_only=True) as made:
        return target, [file for one in made.studies() for file in missing(made, one.name)]


class _Files:
    """Checkpoints of one study, written anew under the ids of another."""

    def __init__(self, source: Any, target: Any) -> None:
        self._source, self._target = source, target
        self._known: dict[str, str] = {}
        self.lost: set[str] = set()  # files that are gone

    def copied(self, file: str) -> str:
        """The name of the copy; of a file that is gone, its own: the jobs that need it say so."""
        if file not in self._known:
            try:
                state, meta = self._source.load(file)
            except CheckpointError as error:
                if "does not exist" not in error.what:
                    raise
                self.lost.add(file)
                return file
            self._known[file] = self._target.save(file.removesuffix(SUFFIX).rpartition("-")[0] or "state", state, meta)
        return self._known[file]


def _snapshot(store: SQL, name: str) -> tuple[Any, list[Any], list[Any]]:
    """The rows of a study, of its events and of its queue, all as they were at one moment."""
    store._find(name)  # raises

    def read(tries: int) -> tuple[Any, list[Any], list[Any]]:
        with store._database.read() as session:
            session.execute("BEGIN" if store._database.sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                row = session.first(sql.find_study, {"b_name": name})
                values = {"b_study": row.id if row else -1}
                return row, session.all(_all_events, values), session.all(_all_queue, values)
            finally:
                session.execute("ROLLBACK")

    return store._database.again(read)


def _ordered(found: list[Any], made: dict[str, Any], files: _Files) -> list[dict[str, Any]]:
    """The events with their place in the order, also those that had none yet, and the counts that these change."""
    best = Leader.of(rows.mapping("settings", made["settings"]), made["best"], made["best_value"])
    written = []
    for row in found:
        values = {f"b_{name}": getattr(row, name) for name in _EVENTS}
        if row.seq is None:
            made["events"] += 1
            values["b_seq"] = made["events"]
        if row.kind == RESULT:
            if row.seq is None:
                made["done"] += 1
                best.see(rows.read(rows.unpacked, row, f"study {made['name']!r}")[0])  # type: ignore[arg-type]
            body = json.loads(row.body)
            if body.get("checkpoint"):
                body["checkpoint"][0] = files.copied(body["checkpoint"][0])
                values["b_body"] = json.dumps(body, separators=(",", ":"))
        written.append(values)
    made["best"], made["best_value"] = best.number, best.value
    return written


def _write(target: SQL, made: dict[str, Any], new: list[dict[str, Any]], waiting: list[dict[str, Any]]) -> None:
    def write(tries: int) -> None:
        with target._database.write(everything=True) as session:
            session.run(_add_study, {f"b_{name}": made[name] for name in _STUDY})
            row = session.first(sql.find_study, {"b_name": made["name"]})
            assert row is not None
            for first in range(0, len(new), ROWS):
                session.run_all(_add_event, [{**one, "b_study": row.id} for one in new[first : first + ROWS]])
            session.run_all(_add_queue, [{**one, "b_study": row.id} for one in waiting])

    target._database.again(write)


def _copy_files(store: SQL, target: Path) -> None:
    """Copy the checkpoints of all studies that are not there yet; one that is removed meanwhile is left out."""
    for one in store.studies():
        try:
            row = store._find(one.name)
        except StoreError:  # deleted meanwhile
            continue
        held, copy = folder_at(store._checkpoints(row).folder, durable=False), target / row.folder
        for name in held.names():
            wanted = name == MARKER or (name.endswith(SUFFIX) and not name.startswith("."))
            if not wanted or (copy / name).exists():
                continue
            try:
                data = held.read(name)
            except FileNotFoundError:
                continue
            except Exception as error:  # an object store raises what its own library raises
                remedy = "Check that the folder is reachable and readable by you, then run again."
                where = f"{held.path}/{name}"
                raise CheckpointError(f"cannot be read ({error})", where=where, remedy=remedy) from error
            copy.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(data)


def missing(store: Any, name: str) -> list[str]:
    """Checkpoints of the study's latest results that are not there."""
    _, found, _ = _snapshot(store, name)
    row = store._find(name)
    there = set(store._checkpoints(row).files())
    named = {
        json.loads(one.body).get("checkpoint", [None])[0]
        for one in found
        if one.kind == RESULT and one.number == row.best
    }
    return sorted(named - there - {None})


def _taken(name: str, store: Any) -> StoreError:
    remedy = "Give another name, or delete or rename the one that is there."
    return StoreError(f"there is a study named {name!r} already", where=f"store {store._database.name}", remedy=remedy)
