"""Databases that the version before wrote (schema1/make.py has made them): the same events, and the studies go on."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

import luthier as lt
from luthier.errors import StoreError
from luthier.jobs import History
from luthier.space import Space
from luthier.store import Store, migrate, open_store

OLD = Path(__file__).parent / "schema1"


@pytest.fixture
def made() -> ModuleType:
    """The script that made the databases, for its tasks."""
    spec = importlib.util.spec_from_file_location("made_schema_1", OLD / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the SQLite file, with its folder of checkpoints."""
    shutil.copy(OLD / "old.v1.db", tmp_path)
    shutil.copytree(OLD / "old.v1.checkpoints", tmp_path / "old.v1.checkpoints")
    return tmp_path / "old.v1.db"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("path"))
    monkeypatch.setenv("LUTHIER_CHECKPOINTS", str(tmp_path / "old.v1.checkpoints"))
    shutil.copytree(OLD / "old.v1.checkpoints", tmp_path / "old.v1.checkpoints")
    url = request.getfixturevalue("postgres_url")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.connection.cursor().execute((OLD / "old.sql").read_text())
    return url


def lines(store: Store) -> list[str]:
    """What a store says of all its studies, as the script wrote it down."""
    found = []
    for summary in store.studies():
        settings = store.settings(summary.name)
        history = History(Space.from_json(settings["space"]), settings["objectives"])
        store.attach(summary.name, None).sync(history)
        said = [f"{summary.name} {event!a}" for event in history.events]
        found += [line.replace(", notes={})", ")") for line in said]  # results have had notes since then
        found.append(f"{summary.name} {summary.jobs} {summary.done} {summary.best} {summary.best_value!r}")
        assert not history.notes and all(at != at for at in history.times), "times were not kept"
    return found


def names_of_files(found: list[str]) -> list[str]:
    """Without the random parts of names, in which the two databases differ, and what a clock has measured."""
    import re

    return [re.sub(r"-[0-9a-f]{12}\.ckpt|seconds=[\d.e-]+", "", line) for line in found]


def test_every_event_is_as_it_was(url: str) -> None:
    expected = (OLD / "events.txt").read_text().splitlines()
    for _ in range(2):
        with open_store(url) as store:
            found = lines(store)
        exact = url.endswith(".db")
        assert found == expected if exact else names_of_files(found) == names_of_files(expected)
    assert len(expected) > 200 and any("Result(number=1, status='diverged'" in line for line in expected)


def test_studies_go_on(url: str, made: ModuleType) -> None:
    quiet: dict[str, Any] = {"store": url, "progress": False, "seed": 3, "space": made.SPACE}
    running = lt.tune(made.Training(), trials=30, steps=8, name="running", **quiet)
    assert [result.status for result in running.history.results if result is not None] == ["ok"] * 30
    afresh = lt.tune(made.Training(), trials=30, steps=8, progress=False, seed=3, space=made.SPACE)
    assert [job.config for job in running.history.jobs] == [job.config for job in afresh.history.jobs]
    assert running.history.values.tolist() == afresh.history.values.tolist()
    if url.endswith(".db"):
        pbt = lt.tune(made.Training(), lt.propose.PBT(rounds=4), trials=4, steps=80, name="pbt", **quiet)
        assert {result.status for result in pbt.history.results if result is not None} == {"ok"}
        whole = lt.tune(
            made.Training(), lt.propose.PBT(rounds=4), trials=4, steps=80, seed=3, space=made.SPACE, progress=False
        )
        assert pbt.history.values.tolist() == whole.history.values.tolist()
        assert (Path(url).with_suffix(".checkpoints") / "pbt" / "luthier.json").exists(), "the same folder as before"


def test_an_old_database_is_read_without_writing(path: Path) -> None:
    def files() -> dict[str, tuple[int, bytes]]:
        return {
            str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in path.parent.rglob("*") if file.is_file()
        }

    before = files()
    with open_store(path, read_only=True) as store:
        assert lines(store) == (OLD / "events.txt").read_text().splitlines()
        folder = Path(store.attach("pbt", None).checkpoints.folder)
        assert folder == path.with_suffix(".checkpoints") / "pbt"
        study = lt.Study.load("running", store)
        assert len(study.to_records()) == len(study.history) and study.best is not None
        assert files() == before
        with open_store(path) as writer:  # somebody brings it up to date, and goes on
            writer.create("new", {})
        assert "new" in [summary.name for summary in store.studies()]


def test_a_new_study_in_an_old_database_has_a_folder_of_its_own(path: Path) -> None:
    with open_store(path) as store:
        store.create("pbt/2", {})
        folders = {Path(store.attach(name, "me").checkpoints.folder).name for name in ("pbt", "pbt/2")}
    assert "pbt" in folders and len(folders) == 2


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sqlite3.connect(path).iterdump())
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "_QUEUE", "INSERT INTO luthier_nothing VALUES (1)")
        with pytest.raises(StoreError, match="luthier_nothing"):
            open_store(path)
    assert list(sqlite3.connect(path).iterdump()) == before
    with open_store(path) as store:
        assert lines(store) == (OLD / "events.txt").read_text().splitlines()
