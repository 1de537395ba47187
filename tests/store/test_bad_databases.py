"""What a user can get wrong with a database: each is named, with a remedy, and loses nothing."""

from __future__ import annotations

import os
import pwd
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from luthier.errors import StoreError
from luthier.files import write_whole
from luthier.jobs import History, Job, Report, Result
from luthier.space import Float, Space
from luthier.store import open_store
from luthier.store.memory import Memory
from luthier.store.sql import SQL, _data


def fresh() -> History:
    return History(Space(x=Float(0, 1)), {"loss": "min"})


def filled(path: Path) -> Path:
    """A database with one study of three jobs, two of them done."""
    with open_store(path) as store:
        store.create("mine", {"objectives": {"loss": "min"}})
        study = store.attach("mine", "me")
        study.append([Job(n, {"x": 0.5, "v": [0.5] * 100}, tag={"n": n}) for n in range(3)], fresh())
        study.record([Result(n, "ok", {"loss": 1.0}, 1, {"x": 1.0}) for n in (1, 0)], [Report(0, 1, {"loss": 2.0})])
    return path


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/db", r"'mysql://me:\*\*\*@host/db' is no store.*postgresql://"),
        ("postgresql+psycopg2://host/db", "is no store that luthier knows"),
        ("sqlite:///a.db?synchronous=off", "synchronous=off is not known.*synchronous=full"),
        ("sqlite:///a.db?cache=shared", "cache is not known"),
        ("sqlite:///a.db?timeout=soon", "timeout='soon' is no number"),
        ("postgresql://host/db?timeout=-1", "timeout='-1' is no number"),
        ("http://", "is no store"),
        ("postgresql://me:secret@[::1/db", "is no store"),
        ("postgresql://me:secret@127.0.0.1:1/db", "cannot be reached.*Check the URL"),
        ("postgresql://me:secret@no.such.host.invalid/db", "cannot be reached.*Check the URL"),
    ],
)
def test_a_url_of_no_use_is_named_without_its_password(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", [None, ":memory:", "sqlite://", "sqlite:///:memory:", "memory://"])
def test_memory_has_several_names(url: str | None) -> None:
    with open_store(url) as store:
        assert isinstance(store, Memory)


def test_paths_and_urls_reach_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with open_store("a.db") as store:
        store.create("mine", {})
        url, folder = store.url, store.attach("mine", "me").checkpoints.folder
    assert Path(folder).parent == tmp_path / "a.db.checkpoints" and Path(folder).name.startswith("mine-")
    monkeypatch.chdir("/")
    for same in (url, tmp_path / "a.db", "~/a.db", f"sqlite:///{tmp_path}/a.db?synchronous=FULL&timeout=5"):
        with open_store(same) as store:
            assert [study.name for study in store.studies()] == ["mine"]


def test_a_tilde_that_names_no_user_is_a_file_and_a_path_must_be_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("~no such user.db", checkpoints="~no such user").close()
    assert (tmp_path / "~no such user.db").is_file()
    assert write_whole("~no such user.html", "page") == tmp_path / "~no such user.html"
    with pytest.raises(StoreError, match=r"bad\\udcff\.db: its path is not UTF-8.*rename"):
        open_store("bad\udcff.db")


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "LUTHIER_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # as for a number that /etc/passwd does not have
    with pytest.raises(StoreError, match=r"no home for saved networks.*LUTHIER_CHECKPOINTS"):
        _data()


def test_a_silent_network_ends_a_connection(postgres_url: str) -> None:
    for url, outage, milliseconds in ((postgres_url, 600, 30_000), (postgres_url, 7, 7_000)):
        with open_store(url, outage=outage) as store:
            assert isinstance(store, SQL)
            with store._database.read() as session:
                connection = session._connection
                with socket.socket(fileno=os.dup(connection.fileno())) as wire:
                    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
                    assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
    chosen = f"{postgres_url}&tcp_user_timeout=1234"
    with open_store(chosen) as store, store._database.read() as session:  # pyright: ignore[reportAttributeAccessIssue]
        assert session._connection.info.get_parameters()["tcp_user_timeout"] == "1234"


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    open_store(tmp_path / "one" / "two" / "a.db").close()
    assert (tmp_path / "one" / "two" / "a.db").exists()
    with pytest.raises(StoreError, match=r"it is a folder.*studies.db"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match=r"its folder cannot be created"):
        open_store(tmp_path / "one" / "two" / "a.db" / "b.db")


def test_a_file_that_is_no_database_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"dear diary, today I tuned a network\n" * 200)
    with pytest.raises(StoreError, match=r"notes\.txt: the file is damaged, or is no SQLite database.*another file"):
        open_store(path)
    assert path.read_bytes().startswith(b"dear diary")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"a\.db: the file is damaged"):
        read(path)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "browser.db"
    change(path, "CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match=r"tables \(bookmarks\) that luthier did not make.*a file"):
        open_store(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    connection.close()


@pytest.mark.server
def test_a_postgresql_database_may_be_shared_but_not_the_names_of_tables(postgres_url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE bookmarks (url TEXT)")
        connection.exec_driver_sql("CREATE TABLE luthier_events (id INT)")
        with pytest.raises(StoreError, match=r"tables \(luthier_events\) that luthier did not make"):
            open_store(postgres_url, checkpoints=tmp_path)
        connection.exec_driver_sql("DROP TABLE luthier_events")
    open_store(postgres_url, checkpoints=tmp_path).close()


@pytest.mark.server
def test_a_connection_that_ended_is_replaced(postgres_url: str, tmp_path: Path) -> None:
    with open_store(postgres_url, checkpoints=tmp_path) as store:
        store.create("mine", {})
        study = store.attach("mine", "me")
        study.append([Job(0, {})], fresh())
        told: list[str | None] = []
        store.when_away(told.append)
        for use in (lambda: study.record([Result(0, "ok", {})]), lambda: study.claim(1), lambda: store.studies()):
            end_connections(store, postgres_url, tmp_path)
            use()
        assert len(told) == 6 and told[1] is None and "let the connection go" in str(told[0]) and store.away is None
        history = fresh()
        study.sync(history)
        assert history.arrival == [0]


def end_connections(store: Any, url: str, folder: Path) -> None:
    backend = sa.select(sa.func.pg_backend_pid().label("pid"))
    with store._database.read() as session:
        pid = session.all(backend, {})[0].pid
    with open_store(url, checkpoints=folder) as other, other._database.read() as session:  # type: ignore[attr-defined]
        session.execute(f"SELECT pg_terminate_backend({pid})")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE luthier_schema SET version = 99", r"has version 99, this luthier knows versions up to 2.*Upgrade"),
        ("UPDATE luthier_schema SET version = 'new'", r"holds \['new'\] instead of one version"),
        ("DELETE FROM luthier_schema", r"holds \[\] instead of one version"),
        ("DROP TABLE luthier_schema", r"tables \(luthier_events.* that luthier did not make"),
        ("DROP TABLE luthier_queue", "a table is not as luthier made it.*luthier_queue"),
        ("ALTER TABLE luthier_events DROP COLUMN attempt", "a table is not as luthier made it.*attempt"),
    ],
)
def test_tables_of_another_shape_are_named_when_opened(statement: str, message: str, tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    change(path, statement)
    with pytest.raises(StoreError, match=message):
        open_store(path)


def read(path: Path) -> History:
    history = fresh()
    with open_store(path) as store:
        store.studies()
        study = store.attach("mine", "reader")
        study.sync(history)
        study.release()
    return history


JOB_1 = r"a\.db, table luthier_events, study 'mine', job 1: .*"


def edit(kind: int, old: str, new: str) -> str:
    """A change of the text of the row of one kind that is job 1's."""
    return f"UPDATE luthier_events SET body = replace(body, '{old}', '{new}') WHERE kind = {kind} AND number = 1"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE luthier_events SET body = '{broken' WHERE number = 1", JOB_1 + r"body .*JSON.*\{broken.*backup"),
        ("UPDATE luthier_events SET body = '[1]' WHERE number = 1", JOB_1 + "body holds.*not a mapping"),
        ("UPDATE luthier_events SET body = '{\"config\":{}}' WHERE number = 1", JOB_1 + "'steps' is missing"),
        ("UPDATE luthier_events SET vectors = NULL WHERE number = 1", JOB_1 + "blob of vectors is gone"),
        (edit(0, '"steps":1', '"steps":"many"'), JOB_1 + "steps is 'many'"),
        (edit(0, '"steps":1', '"steps":1,"parent":2'), JOB_1 + "parent is 2"),
        (edit(0, '"tag":{"n":1}', '"tag":"x"'), JOB_1 + "tag"),
        (edit(2, '"status":"ok"', '"status":"great"'), JOB_1 + "status is 'great'"),
        (edit(2, '"loss":1.0', '"loss":"low"'), JOB_1 + "loss='low', not a number"),
        (edit(2, '{"loss":1.0}', "null"), JOB_1 + "metrics"),
        (edit(2, '{"x":1.0}', "[]"), JOB_1 + "final"),
        (edit(2, '"seconds":0.0', '"seconds":"long"'), JOB_1 + "seconds is 'long'"),
        ("UPDATE luthier_events SET kind = 9 WHERE number = 1", JOB_1 + "kind is 9"),
        ("UPDATE luthier_events SET body = '[[0,-1,{}]]' WHERE kind = 1", "study 'mine', event 4: .*step is -1"),
        ("UPDATE luthier_events SET body = '[[0]]' WHERE kind = 1", r"study 'mine', event 4: .*a report is \[0\]"),
        ("UPDATE luthier_events SET body = '[[7,1,{}]]' WHERE kind = 1", "job 7, which does not exist.*by hand"),
        ("DELETE FROM luthier_events WHERE number = 1", "event 2 of 6 is missing.*by hand"),
        ("DELETE FROM luthier_events WHERE kind = 1", "event 4 of 6 is missing.*by hand"),
        ("UPDATE luthier_studies SET settings = 'x'", "table luthier_studies, study 'mine'.*settings"),
    ],
)
def test_a_row_changed_by_hand_is_named(statement: str, message: str, tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    change(path, statement)
    with pytest.raises(StoreError, match=message):
        read(path)


def test_a_lock_that_is_kept_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    with open_store(f"sqlite:///{path}?timeout=0.1", outage=0.0) as store:
        study = store.attach("mine", "me")
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"kept the database locked.*timeout="):
            study.renew()
        assert len(store.studies()) == 1, "reading goes on"
        holder.execute("ROLLBACK")
        holder.close()
        study.renew()


def test_a_database_that_may_only_be_read_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    if os.geteuid():
        path.chmod(0o444)
        with pytest.raises(StoreError, match=r"cannot be written.*permissions"):
            open_store(path).create("new", {})
        return
    done = subprocess.run(["mount", "--bind", "-o", "ro", tmp_path, tmp_path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        with pytest.raises(StoreError, match=r"the (database cannot be written|file cannot be opened).*\. Check"):
            with open_store(path) as store:
                store.create("new", {})
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert len(read(path)) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing_recorded(small_disk: Path) -> None:
    history = fresh()
    config: dict[str, Any] = {"v": [0.5] * 5000}
    with open_store(small_disk / "a.db", outage=0.0) as store:
        store.create("mine", {})
        study = store.attach("mine", "me")
        with pytest.raises(StoreError, match=r"the disk is full.*Free some space"):
            for number in range(100):
                assert study.append([Job(number, config)], history)
                study.sync(history)
        written = len(history)
        assert 2 < written < 100
        subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
        complete = fresh()
        store.attach("mine", "reader").sync(complete)
        assert len(complete) == written
        assert study.append([Job(written, config)], history), "and the study goes on"
        assert study.record([Result(written, "ok", {"loss": 0.5})]) == [written]
    with open_store(small_disk / "a.db") as store:
        history = fresh()
        store.attach("mine", "reader").sync(history)
        assert len(history) == written + 1 and history.arrival == [written]


def test_an_owner_alone_reads_nothing_back(tmp_path: Path) -> None:
    history, statements = fresh(), []
    with open_store(tmp_path / "a.db") as store:
        store.create("mine", {})
        study = store.attach("mine", "me")
        with store._database.read() as session:
            session._connection.set_trace_callback(statements.append)
        for number in range(20):
            assert study.append([Job(number, {"x": 0.5})], history)
            study.sync(history)
            study.record([Result(number, "ok", {"loss": 0.5})], [Report(number, k, {"loss": 0.5}) for k in range(3)])
            study.sync(history)
    assert len(history.arrival) == 20
    reads = [statement for statement in statements if "body" in statement]
    assert all(statement.startswith("INSERT") for statement in reads) and len(reads) == 60
    assert sum(statement == "COMMIT" for statement in statements) <= 45
