"""Studies are read by people who may not write, and reading changes nothing."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sqlite3
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import luthier as lt
from luthier.cli import app
from luthier.errors import StoreError, StudyError
from luthier.store import open_store
from luthier.study.study import Study

NOBODY = 65534
SPACE = lt.Space(x=lt.Float(0, 1))


def tuned(store: Any, trials: int, name: str = "mine") -> lt.Study:
    return lt.tune(lambda config: config["x"], space=SPACE, trials=trials, store=store, name=name, progress=False)


def count(path: Path | str) -> int:
    return len(lt.Study.load("mine", path).trials)


def as_another(action: Callable[[Callable[[], None]], Any], between: Callable[[], None] = lambda: None) -> Any:
    """``action(wait)`` in a process that may read what all may; ``wait()`` lets ``between()`` be done in this one."""
    asked, answered = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)

            def wait() -> None:
                os.write(asked[1], b"?\n")
                os.read(answered[0], 1)

            told = json.dumps(action(wait))
        except BaseException as error:
            told = json.dumps(f"{type(error).__name__}: {error}")
        os.write(asked[1], told.encode() + b"\n")
        os._exit(0)
    os.close(asked[1])
    with os.fdopen(asked[0]) as stream:
        line = stream.readline()
        if line == "?\n":
            between()
            os.write(answered[1], b"!")
            line = stream.readline()
    os.waitpid(child, 0)
    for end in answered:
        os.close(end)
    return json.loads(line)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may look into."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)
        Path(name).chmod(0o755)


def only_read(folder: Path) -> dict[str, bytes]:
    """Take the right to write away; what is there."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for name in found:
        (folder / name).chmod(0o444)
    folder.chmod(0o555)
    return found


@pytest.mark.parametrize("left", [(), ("-wal",), ("-wal", "-shm")])
def test_a_file_is_read_where_nothing_can_be_written(left: tuple[str, ...], shared: Path, tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        tuned(store, 5)
        for ending in left:  # as a kill leaves them
            shutil.copyfile(f"{tmp_path}/a.db{ending}", shared / f"a.db{ending}")
        if left:
            shutil.copyfile(tmp_path / "a.db", shared / "a.db")
    if not left:
        shutil.copyfile(tmp_path / "a.db", shared / "a.db")
    path, told = shared / "a.db", CliRunner().invoke
    # once here: another user may not be able to read the modules that this imports
    assert not told(app, ["report", "mine", "-o", f"{tmp_path}/p.html", "--store", f"{tmp_path}/a.db"]).exit_code
    before = only_read(shared)

    def commands(wait: Any) -> Any:
        tempfile.tempdir = out = tempfile.mkdtemp()
        found = [count(path)]
        for command in (
            ["studies"],
            ["show", "mine"],
            ["export", "mine"],
            ["report", "mine", "-o", f"{out}/p.html"],
        ):
            result = told(app, [*command, "--store", str(path)])
            found.append(f"{result.output} {result.exception!r}" if result.exit_code else command[0])
        gc.collect()  # this process ends without its finalizers
        found += [file.name for file in Path(out).iterdir()]
        shutil.rmtree(out)
        return found

    assert as_another(commands) == [5, "studies", "show", "export", "report", "p.html"]
    assert {file.name: file.read_bytes() for file in shared.iterdir()} == before


@pytest.mark.parametrize("begun", [True, False])
def test_a_reader_without_rights_sees_what_is_written_meanwhile(begun: bool, shared: Path) -> None:
    path = shared / "a.db"
    tuned(path, 3)
    store = open_store(path) if begun else None
    if store is not None:
        tuned(store, 4)
    for file in shared.glob("a.db*"):
        if file.is_file():
            file.chmod(0o444)
    shared.chmod(0o755)

    def follow(wait: Callable[[], None]) -> list[int]:
        study = lt.Study.load("mine", path)
        first = len(study.trials)
        wait()
        return [first, len(study.trials)]

    def write() -> None:
        nonlocal store
        path.chmod(0o644)
        store = store or open_store(path)
        tuned(store, 6)

    assert as_another(follow, write) == [4 if begun else 3, 6]
    assert store is not None
    store.close()


def test_a_reader_makes_no_file_that_would_lock_a_writer_out(shared: Path) -> None:
    path = shared / "a.db"
    tuned(path, 3)
    path.chmod(0o444)
    shared.chmod(0o777)  # the reader may write beside the file, and does not
    before = sorted(file.name for file in shared.iterdir())
    assert as_another(lambda wait: [count(path), sorted(file.name for file in shared.iterdir())]) == [3, before]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    tuned(path, 3)

    def rows() -> list[Any]:
        with sqlite3.connect(path) as base:
            tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = [(name, base.execute(f"SELECT * FROM {name}").fetchall()) for name in tables]
        base.close()
        return found

    before = rows()
    study = lt.Study.load("mine", path)
    assert study.best.number == min(study.trials, key=lambda one: one.metrics["loss"]).number
    study.close()
    with open_store(path, read_only=True) as store:
        assert [one.name for one in store.studies()] == ["mine"]
        for write in (
            lambda: store.create("other", {}),
            lambda: store.update_settings("mine", {}),
            lambda: store.delete("mine"),
        ):
            with pytest.raises(StoreError, match="cannot be written"):
                write()
    assert rows() == before


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "no.db", "there is no such file"), (tmp_path, "it is a folder")):
        with pytest.raises(StoreError, match=message):
            open_store(path, read_only=True)
        with pytest.raises(StoreError, match=message):
            lt.Study.load("mine", path)
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="the database is empty"):
        open_store(tmp_path / "empty.db", read_only=True)
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("empty.db", 0)]


@pytest.mark.server
def test_a_role_that_may_only_select_reads(postgres_url: str, tmp_path: Path) -> None:
    with open_store(postgres_url, checkpoints=tmp_path) as store:
        tuned(store, 4)
    url = sa.make_url(postgres_url)
    schema = str(url.query["options"]).partition("=")[2]
    role = f"reader_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
        try:
            text = url.set(username=role).render_as_string(hide_password=False)
            assert count(text) == 4
            for command in (["studies"], ["show", "mine"], ["export", "mine"]):
                result = CliRunner().invoke(app, [*command, "--store", text])
                assert result.exit_code == 0, result.output
            with pytest.raises(StoreError, match="the database refuses this to this user"):
                tuned(text, 5)
        finally:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
    with open_store(postgres_url, checkpoints=tmp_path, read_only=True) as store:  # who may write does not, either
        with pytest.raises(StoreError, match="cannot be written"):
            store.create("other", {})


def test_a_damaged_study_spoils_no_listing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    for name in ("good", "bad", "worse", "worst"):
        tuned(path, 2, name)
    with sqlite3.connect(path) as base:
        base.execute("UPDATE luthier_studies SET settings = '{' WHERE name = 'bad'")
        base.execute("UPDATE luthier_studies SET updated = 'yesterday' WHERE name = 'worse'")
        base.execute("UPDATE luthier_studies SET settings = ?, best = x'00' WHERE name = 'worst'", ["[" * 100_000])
    base.close()
    with open_store(path, read_only=True) as store:
        found = {one.name: one for one in store.studies()}
    assert found["good"].done == 2 and not found["good"].damaged
    assert "settings" in found["bad"].damaged and "'yesterday'" in found["worse"].damaged and found["worst"].damaged
    result = CliRunner().invoke(app, ["studies", "--store", str(path)])
    assert result.exit_code == 0 and result.output.count("damaged:") == 3
    assert CliRunner().invoke(app, ["show", "good", "--store", str(path)]).exit_code == 0
    result = CliRunner().invoke(app, ["show", "bad", "--store", str(path)])
    assert result.exit_code == 1 and "study 'bad'" in result.output and isinstance(result.exception, SystemExit)
    with sqlite3.connect(path) as base:
        base.execute(
            "UPDATE luthier_studies SET settings = json_set(settings, '$.objectives', 'x') WHERE name = 'worse'"
        )
    base.close()
    with pytest.raises(StudyError, match=r"study 'worse' in .*: its settings are damaged"):
        Study.load("worse", path)
