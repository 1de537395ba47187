"""The truth from outside: databases read by sqlite3 and psql, compared with the log that the objective kept."""

import contextlib
import glob
import hashlib
import json
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from .kit import Ground, ground

Row = tuple[int, str, float | None, Any]


def query(store: Path | str, text: str) -> list[tuple[Any, ...]]:
    """Rows of a database, by sqlite3 or by psql."""
    if str(store).startswith("postgresql"):
        columns = f"SELECT coalesce(json_agg(row_to_json(q)), '[]') FROM ({text}) q"
        done = subprocess.run(
            ["psql", "-X", "-At", str(store), "-c", columns], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return [tuple(row.values()) for row in json.loads(done.stdout)]
    if not Path(store).exists():
        return []
    name = str(store).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{name}?mode=ro", uri=True, timeout=30)) as base:
            return base.execute(text).fetchall()
    except sqlite3.OperationalError:  # a journal that a kill left is rolled back first, in a copy: it is not ours
        with tempfile.TemporaryDirectory() as folder:
            for path in Path(store).parent.glob(f"{glob.escape(Path(store).name)}*"):
                if path.is_file():
                    shutil.copy(path, folder)
            with contextlib.closing(sqlite3.connect(Path(folder) / Path(store).name)) as base:
                return base.execute(text).fetchall()


def results(store: Path | str, name: str = "s") -> list[Row]:
    """(number, status, loss, config) of each result that stands in the database, in order of numbers."""
    quoted = name.replace("'", "''")
    made = str(store).startswith("postgresql") or query(
        store, "SELECT 1 FROM sqlite_master WHERE name = 'luthier_studies'"
    )
    found = made and query(store, f"SELECT id FROM luthier_studies WHERE name = '{quoted}'")
    if not found:
        return []
    events = query(
        store,
        f"SELECT kind, number, body FROM luthier_events WHERE study = {found[0][0]} AND kind IN (0, 2) ORDER BY id",
    )
    configs = {number: json.loads(body)["config"] for kind, number, body in events if kind == 0}
    rows = []
    for kind, number, text in events:
        if kind == 2:
            body = json.loads(text)
            rows.append((number, body["status"], body.get("metrics", {}).get("loss"), configs.get(number)))
    return sorted(rows, key=lambda row: row[0])


def everything(store: Path | str, name: str) -> str:
    """A digest of all that a database holds about a study: equal when nobody has touched it."""
    row = query(store, f"SELECT id, uid, settings, events, jobs, done FROM luthier_studies WHERE name = '{name}'")
    events = query(store, f"SELECT kind, number, body FROM luthier_events WHERE study = {row[0][0]} ORDER BY id")
    return hashlib.sha256(repr((row, events)).encode()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """A digest of every file under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


_making = threading.Lock()


@cache
def _reference(key: str) -> tuple[Row, ...]:
    with ground("reference") as here:
        here.study(here.place / "r.db", **json.loads(key)).done(120)
        return tuple(results(here.place / "r.db", json.loads(key).get("name", "s")))


def reference(**spec: Any) -> tuple[Row, ...]:
    """What the same study gives where nobody attacks it."""
    left_out = ("pause", "lease", "outage", "bad", "workers", "name", "checkpoints", "log", "before", "env", "how")
    kept = {name: value for name, value in spec.items() if name not in left_out}
    with _making:
        return _reference(json.dumps({**kept, "pause": 0.0}, sort_keys=True))


def audit(here: Ground, store: Path | str, *, name: str = "s", begun: int | None = None, **spec: Any) -> list[Row]:
    """Check a finished study against the log and against the study that nobody attacked.

    Nothing lost and nothing twice: one result for each number, all of them ok, each equal to what the log says that the
    objective returned. The same numbers as without the attack, bit for bit. Nothing left in the queue. ``begun`` is
    how many trainings may have been begun in all, where that is to be checked.
    """
    rows = results(store, name)
    numbers = Counter(row[0] for row in rows)
    twice = [number for number, count in numbers.items() if count > 1]
    assert not twice, f"recorded twice: {twice}"
    wanted = reference(**spec)
    lost = sorted({row[0] for row in wanted} - set(numbers))
    assert not lost, f"lost: {lost} of {len(wanted)}"
    bad = [row[:2] for row in rows if row[1] != "ok"]
    assert not bad, f"not ok: {bad}"
    if spec.get("task") != "walk":
        returned = {(line["number"], line["value"]) for line in here.logged("end", study=name)}
        invented = [row[0] for row in rows if (row[0], row[2]) not in returned]
        assert not invented, f"in the database, but never returned by the objective: {invented}"
    differ = [(mine, theirs) for mine, theirs in zip(rows, wanted, strict=False) if mine != theirs]
    assert not differ and len(rows) == len(wanted), f"{len(differ)} differ from the study left alone: {differ[:2]}"
    if begun is not None:
        count = len(here.logged("begin", study=name))
        assert count <= begun, f"{count} trainings were begun for {len(wanted)} trials, at most {begun} need have been"
    quoted = name.replace("'", "''")
    left = query(
        store,
        f"SELECT number FROM luthier_queue WHERE study = (SELECT id FROM luthier_studies WHERE name = '{quoted}')",
    )
    assert not left, f"still queued: {left}"
    if not str(store).startswith("postgresql"):
        whole = query(store, "PRAGMA integrity_check")
        assert whole == [("ok",)], f"integrity_check: {whole[:2]}"
    return rows


def kept(before: list[Row], after: list[Row]) -> None:
    """Check that what stood in the database stands there still."""
    gone = [row for row in before if row not in after]
    assert not gone, f"{len(gone)} recorded results are gone: {gone[:2]}"
