"""What a study's process says beside its jobs, and whom it reaches."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import luthier as lt
from luthier.errors import StudyError
from luthier.jobs import Budget, History, Result
from luthier.seeds import Seeds
from luthier.store import Store, open_store
from luthier.study.ledger import Ledger

SPACE = lt.Space(x=lt.Float(0.0, 1.0), size=lt.Choice([16, 32]))
SETTINGS = {"space": SPACE.to_json(), "objectives": {"loss": "min"}, "seed": 0}


def opened(store: Store, budget: Budget, method: object = None) -> Ledger:
    store.create("s", SETTINGS)
    proposer = (method or lt.propose.Random()).bind(budget)  # type: ignore[attr-defined]
    return Ledger(store, "s", SETTINGS, History(SPACE, {"loss": "min"}), proposer, Seeds(0), budget)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    with open_store(None if request.param == "memory" else tmp_path / "a.db") as made:
        yield made


def test_what_one_says_reaches_the_others(store: Store) -> None:
    one, two = (opened(store, Budget(trials=6)) for _ in range(2))
    one.fingerprint("v1")
    one.fingerprint("v1")
    jobs = one.take(2)
    one.record([Result(jobs[0].number, "failed", error="no file"), Result(jobs[1].number, "ok", {"loss": 1.0}, 1)])
    two.know([({"x": 0.5, "size": 16}, {"loss": 0.25}), ({"x": 0.5, "size": 32}, {"loss": 0.5})])
    two.fingerprint("v2")
    assert two.reopen([0, 1]) == [0]
    one.sync()
    for ledger in (one, two):
        history = ledger.history
        assert history.fingerprints == [(0, "v1"), (2, "v2")] and len(history.foreign) == 2
        assert list(history.reopened) == [0] and not history.pending and not ledger.over()
    assert [job.number for job in one.take(2)] == [0, 2], "what is tried again, then what is new"
    assert one.attempts == {0: 1, 2: 1}


def test_an_enqueued_configuration_takes_the_place_of_the_next_fresh_one(store: Store) -> None:
    budget = Budget(trials=4, epochs=2, epoch_steps=lambda config: 960 // config["size"])
    one, two = (opened(store, budget) for _ in range(2))
    mine = {"x": 0.125, "size": 16}
    assert two.enqueue(mine) == 0 and two.enqueue(mine) == 1
    jobs = one.take(3)
    assert [job.config == mine for job in jobs] == [True, True, False]
    assert [job.steps for job in jobs] == [budget.steps_for(job.config) for job in jobs], "two of its own epochs"
    assert one.history.given == {0: 0, 1: 1} and not one.history.waiting
    (last,) = two.take(1)
    assert last.number == 3 and last.config != mine, "nobody tries it twice"
    with pytest.raises(StudyError, match="no more to propose"):
        one.enqueue(mine)


def test_results_and_the_next_jobs_are_one_transaction(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db") as store:
        ledger = opened(store, Budget(trials=30))
        jobs = ledger.take(1)
        commits = 0
        write = store._database.write  # type: ignore[attr-defined]

        def counted(everything: bool = False):
            nonlocal commits
            commits += 1
            return write(everything)

        store._database.write = counted  # type: ignore[attr-defined]
        for _ in range(20):
            ledger.record([Result(jobs[0].number, "ok", {"loss": 0.5}, 1)], room=1)
            jobs = ledger.take(1)
        assert commits == 20 and [job.number for job in jobs] == [20]
        ledger.record([], room=1)
        ledger.release()
        assert len(opened(store, Budget(trials=30)).take(3)) == 3, "what was not taken was given back"


def test_only_one_process_removes_files_and_only_what_results_name(store: Store) -> None:
    one, two = (opened(store, Budget(trials=9)) for _ in range(2))
    for number, job in enumerate(one.take(3)):
        file = one.checkpoints.save(f"job-{job.number}", {"n": number})
        one.record([Result(job.number, "ok", {"loss": 1.0 - number}, 1, checkpoint=(file, 0))])
    unnamed = two.checkpoints.save("on its way", {})
    two.sync()
    two._tidying.run(True, grace=0.0)
    one._tidying.run(True, grace=0.0)
    kept = one.history.results[2]
    assert kept is not None and kept.checkpoint is not None
    assert sorted(one.checkpoints.files()) == sorted([unnamed, kept.checkpoint[0]])


def test_what_a_dead_process_had_not_named_goes_at_the_end_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys; from luthier.store import open_store; from luthier.jobs import Job, Result, History\n"
        "from luthier.space import Float, Space; study = open_store(sys.argv[1]).attach('s', 'dies')\n"
        "study.append([Job(0, {}), Job(1, {})], History(Space(x=Float(0, 1)), {'loss': 'min'}))\n"
        "files = [study.checkpoints.save(name, {}) for name in ('named', 'partial', 'stray')]\n"
        "study.record([Result(0, 'ok', {'loss': 1.0}, 1, checkpoint=(files[0], 0))]); study.partial(1, files[1], 3)\n"
        "print(*files); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "a.db"
    with open_store(path) as store:
        ledger = opened(store, Budget(trials=2))
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        told = subprocess.run([sys.executable, "-c", code, path], env=environment, capture_output=True, text=True)
        named, partial, stray = told.stdout.split()
        mine = ledger.checkpoints.save("on its way", {})
        ledger.sync()
        ledger._tidying.run(True, grace=0.0)
        assert sorted(ledger.checkpoints.files()) == sorted([named, partial, mine]) and stray != mine
        assert [job.number for job in ledger.take(1)] == [1] and ledger.partials == {1: partial}


@pytest.mark.parametrize("reports", [0, 10])
def test_a_result_through_tune_is_one_transaction(reports: int, tmp_path: Path) -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        for step in range(reports):
            trial.report(step, loss=config["x"] + step)
        return config["x"]

    space = lt.Space(x=lt.Float(0.0, 1.0))
    with open_store(tmp_path / "a.db") as store:
        study = lt.tune(train, space=space, trials=40, store=store, name="one", progress=False)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        (transactions,) = connection.execute("SELECT sum(batch) FROM luthier_owners").fetchone()
    connection.close()
    assert transactions <= 1.2 * 40
    assert [job.config for job in study.history.jobs] == [
        job.config for job in lt.tune(train, space=space, trials=40, progress=False).history.jobs
    ]


def test_nothing_is_proposed_before_whoever_may_object_has_seen_the_result(tmp_path: Path) -> None:
    space, seen = lt.Space(x=lt.Float(0.0, 1.0)), []

    class Watcher:
        def events(self, history: lt.History, new: Any) -> None:
            seen.append((len(history.arrival), len(history)))

    lt.tune(lambda config: config["x"], space=space, trials=5, callbacks=[Watcher()], progress=False)
    assert all(jobs <= ended + 1 for ended, jobs in seen)
    stopped = lt.tune(
        lambda config: config["x"], space=space, trials=9, stop=lambda study: len(study.trials) > 2, progress=False
    )
    assert len(stopped.history) == len(stopped.history.arrival), "no job is left that nobody begins"
    with pytest.raises(StudyError) as caught:
        lt.tune(_fails, space=space, trials=9, max_failures=3, progress=False)
    assert len(caught.value.study.history) == 3


def _fails(config: dict[str, Any]) -> float:
    raise ValueError("no")
