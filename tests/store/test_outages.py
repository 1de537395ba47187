"""What the place does to a database, and to those that work on it, is waited out or named, and is no result."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from luthier.errors import CheckpointError, StoreError
from luthier.jobs import Job
from luthier.store import open_store, schema
from luthier.store.liveness import ProcessIdentity, this_process
from luthier.testing.store_events import fresh, jobs, new_study, ok, synced

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return str(tmp_path / "a.db")


def sql(store: Any, text: str) -> None:
    """Send a statement by the store's own connection."""
    with store._database.read() as session:
        session.execute(text)


def locked(path: Path) -> sqlite3.Connection:
    """Another program that keeps the database to itself."""
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    return holder


def test_a_lock_is_waited_for_with_the_results_in_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with open_store(f"sqlite:///{path}?timeout=0.05") as store:
        study, told = new_study(store), []
        study.append(jobs(0, 2), fresh())
        store.when_away(told.append)
        holder = locked(path)
        threading.Timer(0.5, lambda: (holder.execute("ROLLBACK"), holder.close())).start()
        assert study.record([ok(0)]) == [0]
        assert "kept the database locked" in told[0] and str(path) in told[0]
        assert told[-1] is None and store.away is None
        assert synced(study).arrival == [0]


def test_an_outage_that_lasts_too_long_says_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with open_store(f"sqlite:///{path}?timeout=0.05", outage=0.3) as store:
        study = new_study(store)
        study.append(jobs(0, 2), fresh())
        holder, begun = locked(path), time.monotonic()
        with pytest.raises(StoreError, match=r"kept the database locked.*before is kept; what was running.*run again"):
            study.record([ok(0)])
        assert 0.3 <= time.monotonic() - begun < 10
        holder.execute("ROLLBACK")
        holder.close()
        assert study.record([ok(0)]) == [0], "the caller still has it"
        assert study.record([ok(0)]) == []
        assert synced(study).arrival == [0]


@pytest.mark.parametrize("by", ["nothing", "another", "its copy"])
def test_a_database_that_was_replaced_is_noticed_before_anything_is_written(by: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with open_store(tmp_path / "another.db") as another:
        another.create("study", {})
    with open_store(path) as store:
        study = new_study(store)
        study.append(jobs(0, 2), fresh())
        shutil.copy(path, tmp_path / "copy.db")
        for file in tmp_path.glob("a.db*"):
            file.unlink()
        if by != "nothing":
            (tmp_path / {"another": "another.db", "its copy": "copy.db"}[by]).rename(path)
        for use in (lambda: study.record([ok(0)]), lambda: study.append(jobs(0, 1), fresh()), lambda: study.release()):
            with pytest.raises(StoreError, match=r"removed, or replaced by another.*backup"):
                use()
    assert path.exists() == (by != "nothing"), "it is not made again"


DIES = """
import os, signal, sys
from luthier.store import open_store
with open_store(sys.argv[1], checkpoints=sys.argv[2]) as store:
    study = store.attach("study", "dies")
    print([job.number for job in study.claim(9)], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_that_was_lost_with_its_process_comes_last_and_fails_in_the_end(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open_store(url, checkpoints=tmp_path) as store:
        study = new_study(store)
        study.append(jobs(0, 3), fresh())
        study.release()
        seen = []
        for number in range(3):
            told = subprocess.run([sys.executable, "-c", DIES, url, tmp_path], env=environment, capture_output=True)
            assert told.returncode == -signal.SIGKILL, told.stderr
            seen.append(told.stdout.decode().strip())
            if number == 0:
                assert study.claim(2) == jobs(0, 2) and study.attempts == {0: 2, 1: 2}
                study.release([0])
                assert study.record([ok(1)]) == [1]
        assert seen == ["[0, 1, 2]", "[0, 2]", "[0, 2]"]
        assert study.claim(9) == [jobs(0, 1)[0], jobs(2, 3)[0]] and study.attempts == {0: 4, 2: 4}
        study.release()
        study.append(jobs(3, 4), synced(study))
        study.release()
        assert study.claim(1) == jobs(3, 4), "what was never lost comes first"
        monkeypatch.setattr("luthier.store.sql_study.LOSSES", 4)
        subprocess.run([sys.executable, "-c", DIES, url, tmp_path], env=environment, capture_output=True)
        assert study.claim(9) == []
        history = synced(study)
        assert [result and result.status for result in history.results] == ["failed", "ok", "failed", None]
        assert history.results[0] is not None and "ended its worker 4 times" in history.results[0].error


def test_a_lease_that_a_clock_ahead_has_given_ends_all_the_same(url: str, tmp_path: Path) -> None:
    with open_store(url, checkpoints=tmp_path, lease=0.3) as store:
        study = new_study(store)
        study.append(jobs(0, 1), fresh())
        text = "UPDATE luthier_owners SET host = 'elsewhere', until = until + 3600"
        sql(store, text)
        with open_store(url, checkpoints=tmp_path, lease=0.3) as second:
            other = second.attach("study", "other")
            assert other.claim(1) == []
            time.sleep(0.7)
            study.renew()
            sql(store, text)
            assert other.claim(1) == [], "who renews is alive"
            time.sleep(0.7)
            assert other.claim(1) == jobs(0, 1)


def test_a_right_to_write_that_is_lost_for_a_while_is_waited_for(url: str, tmp_path: Path) -> None:
    with open_store(url, checkpoints=tmp_path) as store:
        study, told = new_study(store), []
        study.append(jobs(0, 2), fresh())
        store.when_away(told.append)
        on, off = ("PRAGMA query_only = on", "PRAGMA query_only = off")
        if "://" in url:
            on, off = ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off")
        with store._database.read() as session:  # pyright: ignore[reportAttributeAccessIssue]
            session.execute(on)
        threading.Timer(0.5, session.execute, (off,)).start()
        assert study.record([ok(0)]) == [0]
        assert "the database cannot be written" in told[0] and told[-1] is None


def test_a_server_without_a_free_connection_is_waited_for(postgres_url: str, tmp_path: Path) -> None:
    import psycopg

    plain = postgres_url.replace("+psycopg", "")
    role, database = f"r{uuid.uuid4().hex}", sa.make_url(postgres_url).database
    with psycopg.connect(plain, autocommit=True) as chief:
        found = chief.execute("SELECT current_schema()").fetchone()
        assert found is not None
        chief.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
        chief.execute(f"GRANT ALL ON DATABASE {database} TO {role}")
        chief.execute(f"GRANT ALL ON SCHEMA {found[0]} TO {role}")
        try:
            url = sa.make_url(postgres_url).set(username=role).render_as_string(hide_password=False)
            holder = psycopg.connect(url.replace("+psycopg", ""))
            threading.Timer(1.0, holder.close).start()
            with open_store(url, checkpoints=tmp_path) as store:
                assert store.studies() == []
            with psycopg.connect(url.replace("+psycopg", "")):
                with pytest.raises(StoreError, match="too many connections"):
                    open_store(url, checkpoints=tmp_path, outage=0.1)
        finally:
            chief.execute(f"DROP OWNED BY {role}")
            chief.execute(f"DROP ROLE {role}")


KILLED = """
import sys, psycopg
import luthier as lt
study = lt.Study("killed", lt.Space(x=lt.Float(0, 1)), trials=3, store=sys.argv[1])
for number in range(3):
    with psycopg.connect(sys.argv[1].replace("+psycopg", ""), autocommit=True) as other:
        other.execute("select pg_terminate_backend(pid) from pg_stat_activity"
                      " where datname = current_database() and pid <> pg_backend_pid()")
    study.tell(study.ask()[0], 0.5)
print(len(study.trials))
"""


def test_a_connection_that_the_server_ends_is_no_traceback(postgres_url: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, postgres_url], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_dead_is_what_the_system_says_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_process()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert ProcessIdentity(here.host, child.pid, "").dead, "there is no such process"
    if os.geteuid() == 0:  # another user asks: EPERM, and where /proc is hidden nothing more

        def hidden() -> list[bool]:
            os.setuid(65534)
            monkeypatch.setattr("luthier.store.liveness._seen", lambda pid: None)
            return [
                ProcessIdentity(here.host, os.getppid(), here.started).dead,
                ProcessIdentity(here.host, os.getppid(), "1").dead,
            ]

        assert in_a_fork(hidden) == [False, False]


def in_a_fork(action: Callable[[], Any]) -> Any:
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if not child:
        try:
            os.write(into, repr(action()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(into)
    with os.fdopen(out) as stream:
        return eval(stream.read())  # what this file has written


def test_databases_and_studies_never_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "b.db").symlink_to(tmp_path / "exp.v1")
    folders = {}
    for name in ("exp.v1", "exp.v2", "exp.db", "exp.sqlite", "link/b.db"):
        with open_store(tmp_path / name) as store:
            store.create("study", {})
            folders[name] = store.attach("study", "me").checkpoints.folder
    assert folders.pop("link/b.db") == folders["exp.v1"], "one file by two names"
    assert len(set(folders.values())) == 4
    with open_store(tmp_path / "exp.v1") as store:
        file = store.attach("study", "me").checkpoints.save("state", {"n": 1})
        store.delete("study")
        store.create("study", {})
        again = store.attach("study", "me").checkpoints
        assert again.folder != folders["exp.v1"] and again.files() == [], "a new study finds nothing of the old one"
        with pytest.raises(CheckpointError, match="does not exist"):
            again.load(file)


def test_the_place_of_checkpoints_is_kept_in_the_database(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CHECKPOINTS", str(tmp_path / "by default"))
    with open_store(url, checkpoints=tmp_path / "here") as store:
        folder = new_study(store).checkpoints.folder
    monkeypatch.setenv("LUTHIER_CHECKPOINTS", str(tmp_path / "elsewhere"))
    with open_store(url) as store:
        assert store.attach("study", "me").checkpoints.folder == folder
    assert Path(folder).parent == tmp_path / "here"


@pytest.mark.server
def test_two_postgresql_databases_have_two_folders(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CHECKPOINTS", str(tmp_path / "one"))
    with open_store(postgres_url) as store:
        folder = Path(new_study(store).checkpoints.folder)
    assert folder.parent.parent == tmp_path / "one" and len(folder.parent.name) == 32, "its id"
    monkeypatch.setenv("LUTHIER_CHECKPOINTS", str(tmp_path / "two"))
    with open_store(postgres_url) as store:
        assert store.attach("study", "me").checkpoints.folder == str(folder), "wherever it is opened"


def test_owners_that_are_silent_for_a_day_and_hold_nothing_are_forgotten(url: str, tmp_path: Path) -> None:
    with open_store(url, checkpoints=tmp_path) as store:
        study = new_study(store)
        held = store.attach("study", "holds a job")
        assert held.append(jobs(0, 1), fresh())
        for _ in range(5):
            store.attach("study", "was here")
        database: Any = store._database  # type: ignore[attr-defined]

        def labels() -> list[str]:
            with database.read() as session:
                return sorted(row.label for row in session.all(sa.select(schema.owners.c.label), {}))

        assert len(labels()) == 7, "each may be alive"
        with database.write() as session:
            session.run(sa.update(schema.owners).values(until=schema.owners.c.until - 100_000.0), {})
        store.attach("study", "new")
        assert labels() == ["holds a job", "new"]
        assert study.append(jobs(1, 2), synced(study)), "whoever comes back is another owner"


def test_an_owner_that_was_forgotten_goes_on_as_another(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with open_store(path) as store:
        study = new_study(store)
        study.append(jobs(0, 2), fresh())
        connection = sqlite3.connect(path)
        connection.execute("DELETE FROM luthier_owners")
        connection.commit()
        connection.close()
        assert study.record([ok(0)]) == [0]
        assert study.claim(9) == jobs(1, 2), "nobody held it"
        assert study.append([Job(2, {})], synced(study))


@pytest.mark.server
def test_who_finds_the_study_locked_is_served_by_the_next_who_proposes(postgres_url: str, tmp_path: Path) -> None:
    def never(first: int, count: int) -> list[Job]:
        raise AssertionError("another proposes for it")

    with open_store(postgres_url, checkpoints=tmp_path) as store, open_store(postgres_url, checkpoints=tmp_path) as far:
        one = new_study(store)
        one.append(jobs(0, 2), fresh())
        two = far.attach("study", "two")
        one.release([1])
        assert two.claim(1) == jobs(1, 2)
        history, others = synced(one), synced(two)
        asked: list[tuple[int, int]] = []

        def propose(first: int, count: int) -> list[Job]:
            asked.append((first, count))
            if len(asked) == 1:  # the study's row is held now
                done = two.exchange([ok(1)], room=3, propose=never, history=others)
                assert done.accepted == [1] and not done.jobs and done.busy
            return jobs(first, first + count)

        assert one.exchange([ok(0)], room=1, propose=propose, history=history).jobs == jobs(2, 3)
        assert one.exchange([ok(2)], room=2, propose=propose, history=history).jobs == jobs(3, 5)
        assert asked == [(2, 1), (3, 5)], "for itself, and for who waits"
        assert two.exchange(room=3, propose=never, history=others).jobs == jobs(5, 8)
