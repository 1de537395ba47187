"""Many writers of one database: nobody waits for long, and nobody waits while another reads what was written."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import StoreError
from luthier.jobs import History, Job, Report
from luthier.store import connect, open_store
from luthier.store import statements as sql
from luthier.store.sql_log import EventLog
from luthier.testing.store_events import fresh, jobs, new_study, ok, synced


def made(first: int, count: int) -> Sequence[Job]:
    return jobs(first, first + count)


def test_a_history_survives_that_a_lock_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cleared = tmp_path / "a.db", []
    clear = History.clear
    monkeypatch.setattr(History, "clear", lambda self: (cleared.append(len(self)), clear(self)))
    with open_store(f"sqlite:///{path}?timeout=0.05") as store:
        study, history = new_study(store), fresh()
        held = study.exchange(room=2, propose=made, history=history).jobs
        holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        threading.Timer(0.3, lambda: (holder.execute("ROLLBACK"), holder.close())).start()
        done = study.exchange([ok(held[0].number)], room=1, propose=made, history=history)
        assert done.accepted == [0] and [job.number for job in done.jobs] == [2]
        assert cleared == [], "nothing had been read into it"
        assert history.log == synced(study).log


def test_waiting_begins_anew_and_is_no_outage_at_first(tmp_path: Path) -> None:
    told: list[str | None] = []
    with open_store(tmp_path / "a.db") as store:
        study = new_study(store)
        store.when_away(told.append)
        holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        threading.Timer(0.6, lambda: (holder.execute("ROLLBACK"), holder.close())).start()
        begun = time.monotonic()
        assert study.append(jobs(0, 1), fresh())
        assert time.monotonic() - begun > 0.5 > connect.ANEW and told == []


def test_what_others_wrote_is_read_before_the_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[tuple[int, bool]] = []
    read_row = EventLog.read_row

    def noted(self: EventLog, row: Any) -> Any:
        connection: Any = self.database._connection().connection.dbapi_connection
        inside.append((row.seq, connection.in_transaction))
        return read_row(self, row)

    with open_store(tmp_path / "a.db") as store, open_store(tmp_path / "a.db") as elsewhere:
        one, history = new_study(store), fresh()
        other, theirs = elsewhere.attach("study", "other"), fresh()
        for _ in range(2):  # the first exchange finds out that there are others
            other.exchange(room=40, propose=made, history=theirs)
            one.exchange(room=1, propose=made, history=history)
        monkeypatch.setattr(EventLog, "read_row", noted)
        new = other.exchange([ok(number) for number in range(40)], room=1, propose=made, history=theirs).jobs
        one.exchange(room=1, propose=made, history=history)
        theirs_read = [where for seq, where in inside if seq <= len(theirs.log)]
        assert new and len(theirs_read) >= 41 and not any(theirs_read)
        assert history.log == synced(one).log


def test_nothing_is_kept_for_a_history_that_has_it(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        study, history = new_study(store), fresh()
        held = study.exchange(room=1, propose=made, history=history).jobs
        for _ in range(30):
            held = study.exchange([ok(held[0].number)], room=1, propose=made, history=history).jobs
        log: Any = study._log  # type: ignore[attr-defined]
        assert log._own == [] and history.log == synced(study).log


def test_the_search_for_garbage_goes_on_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with open_store(path) as store:
        study = new_study(store)
        study.append(jobs(0, 1), fresh())
        study.record([], [Report(0, step, {"loss": 1.0}) for step in (1, 2)])
        assert len(synced(study).reports[0]) == 2 and gc.isenabled()
        with sqlite3.connect(path) as hand:
            hand.execute("UPDATE luthier_events SET body = '[[0,1]]' WHERE kind = 1")
        hand.close()
        with pytest.raises(StoreError, match="a report is"):
            synced(store.attach("study", None))
        assert gc.isenabled()
        gc.disable()
        try:
            with pytest.raises(StoreError):
                synced(store.attach("study", None))
            assert not gc.isenabled(), "it was off before"
        finally:
            gc.enable()


def touched(plan: dict[str, Any]) -> int:
    """Rows that a plan of PostgreSQL's returned or threw away."""
    removed = sum(plan.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Join Filter", "Index Recheck"))
    below = sum(map(touched, plan.get("Plans", ())))
    return int((plan["Actual Rows"] + removed) * plan["Actual Loops"]) + below


def test_postgresql_finds_jobs_by_their_place_in_a_study_that_it_has_no_statistics_of(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        old = new_study(store, "old")
        old.exchange(room=2_000, propose=made)
        with old._database.write() as session:
            session.execute("ANALYZE")
        study = new_study(store, "new")
        held = study.exchange(room=1_500, propose=made).jobs
        study.release([job.number for job in held[64:]])
        owned = {**study._log.owner, "b_numbers": sql.numbers(range(64), False)}
        for statement in (sql.held_jobs, sql.job_events):
            with study._database.read() as session:
                text, given, _ = session._compiled(statement)
                explained = session._connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", {**given, **owned})
                ((plan,),) = explained.fetchall()
                assert len(session.all(statement, owned)) == 64
            assert touched(plan[0]["Plan"]) < 3_000, plan
