"""A study by hand: ask and tell, resuming, sharing, and what can be read from it."""

from __future__ import annotations

import copy
import math
import os
import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from luthier.errors import ConfigError, MethodError, StudyError, TaskError
from luthier.jobs import Budget, History, Job
from luthier.propose import Grid, Random
from luthier.seeds import Seeds
from luthier.space import Float, Int, Space
from luthier.store import open_store
from luthier.study.study import Study
from luthier.study.tuning import tune

SPACE = Space(x=Float(-1.0, 1.0), lr=Float(1e-4, 1.0, log=True), layers=Int(1, 4))


def value(config: dict[str, Any]) -> float:
    return config["x"] ** 2 + config["layers"]


def finish(study: Study, batch: int = 1) -> Study:
    while jobs := study.ask(batch):
        for job in jobs:
            study.tell(job, {"loss": value(job.config)})
    return study


def configs(study: Study) -> list[dict[str, Any]]:
    return [job.config for job in study.history.jobs]


@dataclass(frozen=True)
class Halving:
    """Continues each of its first trials once, the better half of them; prunes what reports a loss above 5."""

    trials: int = 4
    budget: Budget = field(default_factory=Budget, repr=False)
    extendable: ClassVar[bool] = False

    def bind(self, budget: Budget) -> Halving:
        return Halving(budget.trials or self.trials, budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        first = len(history)
        if first < self.trials:
            end = min(self.trials, first + count)
            return [
                Job(n, history.space.sample(seeds.rng(n, "propose")), 2, None, {"slot": n}) for n in range(first, end)
            ]
        if history.pending and min(history.pending) < self.trials:
            return []
        ranked = sorted(range(self.trials), key=lambda number: history.values[number, 0])[: self.trials // 2]
        left = ranked[first - self.trials :][:count]
        return [
            Job(first + i, {**history.final(parent), "lr": 0.5}, 3, parent, {"slot": parent})
            for i, parent in enumerate(left)
        ]

    def stop(self, history: History, number: int) -> bool:
        return history.reports[number][-1].metrics["loss"] > 5

    def parents(self, history: History) -> set[int]:
        return set(range(self.trials))


def test_ask_and_tell_find_a_good_configuration() -> None:
    study = finish(Study("bowl", SPACE, trials=40, seed=3), batch=8)
    best = study.best
    assert best is not None
    assert len(study.trials) == 40 and study.over
    assert best.metrics["loss"] == min(value(config) for config in configs(study))
    assert best.config == study.history.jobs[best.number].config == best.final
    assert best.result.seconds > 0


def test_maximised_metrics_stay_in_the_users_direction() -> None:
    study = Study("accuracy", SPACE, metric="accuracy", mode="max", trials=10)
    while jobs := study.ask():
        study.tell(jobs[0], {"accuracy": jobs[0].config["x"], "note": 1})
    best = study.best
    assert best is not None
    assert best.metrics["accuracy"] == max(config["x"] for config in configs(study))
    assert study.history.values[best.number, 0] == -best.metrics["accuracy"]


def test_numbers_dicts_and_numpy_scalars_are_told() -> None:
    study = Study("kinds", SPACE, trials=4)
    a, b, c, d = study.ask(4)
    study.tell(a, 1.5)
    study.tell(b.number, {"loss": np.float32(0.5), "epochs": 3})
    study.tell(c, np.float64(2.0))  # type: ignore[arg-type]
    study.tell(d, np.array([2.5]))  # type: ignore[arg-type]
    assert [record.metrics["loss"] for record in study.trials] == [1.5, 0.5, 2.0, 2.5]


def test_many_are_told_at_once_or_none(tmp_path: Path) -> None:
    study = Study("many", SPACE, trials=6, store=tmp_path / "s.db")
    jobs = study.ask(6)
    with pytest.raises(TaskError, match="cost"):
        study.tell_many([(jobs[0], 1.0), (jobs[1], {"cost": 2.0})])
    assert study.history.arrival == []
    study.tell_many((job, value(job.config)) for job in jobs)
    assert study.history.arrival == list(range(6))
    assert Study.load("many", tmp_path / "s.db").trials == study.trials


def test_what_is_not_finite_is_diverged_and_never_best() -> None:
    study = Study("nan", SPACE, trials=4)
    a, b, c, d = study.ask(4)
    study.tell(a, math.nan)
    study.tell(b, {"loss": -math.inf})
    study.tell(c, status="failed", error="out of memory")
    study.tell(d, {"loss": 7.0}, status="pruned")
    assert [record.status for record in study.trials] == ["diverged", "diverged", "failed", "pruned"]
    assert study.best is None
    assert study.trials[2].error == "out of memory"


def test_bad_tells_leave_the_study_as_it_was() -> None:
    study = Study("bad", SPACE, trials=4)
    a, b = study.ask(2)
    study.tell(a, 1.0)
    for arguments, error, words in [
        ((b, {"accuracy": 0.5}), TaskError, ["loss", "accuracy"]),
        ((b, {"loss": "low"}), TaskError, ["low"]),
        ((b, None), TaskError, ["None"]),
        ((a, 1.0), StudyError, ["job 0", "ended"]),
        ((7, 1.0), StudyError, ["7", "does not exist"]),
        (("first", 1.0), StudyError, ["first"]),
    ]:
        with pytest.raises(error) as caught:
            study.tell(*arguments)  # type: ignore[arg-type]
        assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(StudyError, match="status='done'"):
        study.tell(b, 1.0, status="done")  # type: ignore[arg-type]
    assert len(study.history.arrival) == 1
    study.tell(b, 2.0)
    assert [record.status for record in study.trials] == ["ok", "ok"]


def test_enqueued_configurations_come_first_and_count_as_trials(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    study = Study("mine", SPACE, trials=5, store=store)
    mine = [{"x": 0.0, "lr": 0.1, "layers": 1}, {"x": 0.5, "lr": 0.1, "layers": 2}]
    assert [study.enqueue(config) for config in mine] == [0, 1]
    with pytest.raises(ConfigError, match="x"):
        study.enqueue({**mine[0], "x": 3.0})
    asked = study.ask(3)
    assert [job.config for job in asked[:2]] == mine
    for job in asked:
        study.tell(job, value(job.config))
    finish(study)
    assert len(study.trials) == 5
    with pytest.raises(StudyError, match="no more to propose"):
        study.enqueue(mine[0])
    untouched = finish(Study("untouched", SPACE, trials=5))
    assert configs(study)[2:] == configs(untouched)[2:]
    assert configs(Study.load("mine", store)) == configs(study)


def test_enqueueing_into_a_grid_is_refused() -> None:
    with pytest.raises(MethodError, match="fixed points"):
        Study("grid", SPACE, method="grid").enqueue({"x": 0.0, "lr": 0.1, "layers": 1})


def test_a_study_goes_on_where_it_was_left(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    first = Study("resumed", SPACE, trials=12, seed=5, store=store)
    for job in first.ask(5):
        first.tell(job, value(job.config))
    left = first.ask(2)  # asked for and never told
    first.close()
    second = Study("resumed", SPACE, trials=12, seed=5, store=store)
    assert second.ask(2) == left
    for job in left:
        second.tell(job, value(job.config))
    finish(second, batch=3)
    whole = finish(Study("whole", SPACE, trials=12, seed=5))
    assert configs(second) == configs(whole)
    assert second.history.values.tolist() == whole.history.values.tolist()


def test_trials_may_grow_and_the_result_is_that_of_the_larger_budget(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    finish(Study("grown", SPACE, trials=4, store=store))
    grown = finish(Study("grown", SPACE, trials=9, store=store))
    assert configs(grown) == configs(finish(Study("whole", SPACE, trials=9)))
    assert Study.load("grown", store).settings["budget"]["trials"] == 9


def test_other_settings_are_refused_and_each_difference_is_named(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    finish(Study("fixed", SPACE, trials=3, store=store))
    other = Space(x=Float(-2.0, 1.0), lr=Float(1e-4, 1.0, log=True), width=Int(1, 4))
    for arguments, words in [
        ({"seed": 1}, ["seed: stored 0, given 1"]),
        ({"space": other}, ["space.x.low: stored -1.0, given -2.0", "space.layers", "space.width"]),
        ({"method": "grid"}, ["Random", "Grid"]),
        ({"method": Grid(points=3)}, ["Grid"]),
        ({"metric": "cost"}, ["loss", "cost"]),
        ({"mode": "max"}, ["min", "max"]),
        ({"steps": 5}, ["budget.steps: stored null, given 5"]),
        ({"space": Space(lr=SPACE["lr"], x=SPACE["x"], layers=SPACE["layers"])}, ["order", "x, lr, layers"]),
    ]:
        given = {"space": SPACE, "trials": 3, **arguments}
        with pytest.raises(StudyError) as caught:
            Study("fixed", store=store, **given)
        assert all(word in str(caught.value) for word in [*words, "name="]), caught.value
    assert len(Study("fixed", SPACE, trials=3, store=store).trials) == 3


def test_whole_epochs_are_the_same_as_an_int_and_a_float(tmp_path: Path) -> None:
    Study("epochs", SPACE, trials=2, epochs=5, store=tmp_path / "s.db")
    (job,) = Study("epochs", SPACE, trials=2, epochs=5.0, store=tmp_path / "s.db").ask()
    assert job.steps == 5


def test_the_budget_of_a_method_that_cannot_be_extended_is_fixed(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    Study("halving", SPACE, method=Halving(), trials=4, store=store)
    with pytest.raises(StudyError, match=r"budget\.trials: stored 4, given 8"):
        Study("halving", SPACE, method=Halving(), trials=8, store=store)


def test_three_askers_of_unequal_speed_share_a_study(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    askers = [Study("shared", SPACE, trials=30, seed=2, store=store) for _ in range(3)]
    held: list[list[Job]] = [[], [], []]
    chance = np.random.default_rng(0)
    while not askers[0].over:
        who = int(chance.choice(3, p=[0.6, 0.3, 0.1]))
        if held[who]:
            job = held[who].pop(int(chance.integers(len(held[who]))))
            askers[who].tell(job, value(job.config))
        else:
            held[who] += askers[who].ask(who + 1)
    whole = finish(Study("whole", SPACE, trials=30, seed=2))
    for study in askers:
        assert configs(study) == configs(whole)
        assert study.history.arrival == askers[0].history.arrival
        assert sorted(study.history.arrival) == list(range(30))


def test_a_job_that_another_process_holds_cannot_be_told(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    one, two = (Study("held", SPACE, trials=3, store=store) for _ in range(2))
    (job,) = one.ask()
    assert two.ask(3)[0].number == 1
    with pytest.raises(StudyError, match="job 0 is not held by this process"):
        two.tell(job, 1.0)
    one.tell(job, 1.0)
    assert two.history.results[0] is not None


@dataclass(frozen=True)
class SlowRandom:
    """Random search that thinks for 30 ms."""

    random: Random = field(default_factory=Random)
    calls: ClassVar[list[int]] = []
    extendable: ClassVar[bool] = True

    def bind(self, budget: Budget) -> SlowRandom:
        return SlowRandom(self.random.bind(budget))

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        end = time.thread_time() + 0.03
        while time.thread_time() < end:
            pass
        self.calls.append(len(history))
        return self.random.propose(history, count, seeds)


def test_a_slow_method_is_asked_by_one_process_at_a_time(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        one, two = (Study("slow", SPACE, method=SlowRandom(), trials=6, store=store) for _ in range(2))
        one.ask()  # the first call shows that it is slow
        two.ask()
        rival = store.attach("slow", "rival")
        assert rival.turn(30.0)
        SlowRandom.calls.clear()
        assert one._ledger.take(1) == [] and one._ledger.busy
        assert SlowRandom.calls == []  # it did not even try: another process has the turn
        rival.end_turn()
        assert [job.number for job in one.ask()] == [2]
        assert [job.number for job in two.ask()] == [3]


def test_reports_are_kept_and_a_method_may_stop_a_job(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    study = Study("pruned", SPACE, method=Halving(), store=store)
    (job,) = study.ask()
    assert study.report(job, 1, loss=2.0) is False
    assert study.report(job, 2, loss=6.0) is True
    study.tell(job, {"loss": 6.0}, status="pruned")
    kept = Study.load("pruned", store).history.reports[0]
    assert [(report.step, report.metrics["loss"]) for report in kept] == [(1, 2.0), (2, 6.0)]


def test_reports_without_a_pruning_method_are_written_with_the_result(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    study = Study("curves", SPACE, trials=1, store=store)
    (job,) = study.ask()
    for step in range(10):
        assert study.report(job.number, step, loss=1 / (step + 1), accuracy=step) is False
    study.tell(job, 0.1)
    kept = Study.load("curves", store).history.reports[0]
    assert [report.metrics for report in kept] == [{"loss": 1 / (s + 1), "accuracy": float(s)} for s in range(10)]


def test_a_stored_study_is_read_without_its_method(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    study = Study("stored", SPACE, metric="cost", trials=6, store=store)
    for job in study.ask(6):
        study.tell(job, {"cost": value(job.config)})
    loaded = Study.load("stored", store)
    assert loaded.best == study.best and loaded.trials == study.trials
    for call in (lambda: loaded.ask(), lambda: loaded.tell(0, 1.0), lambda: loaded.enqueue({})):
        with pytest.raises(StudyError, match="opened to be read"):
            call()


def test_the_report_is_written(tmp_path: Path) -> None:
    study = finish(Study("page", SPACE, trials=5))
    path = study.write_report(tmp_path / "page.html")
    assert path == tmp_path / "page.html" and "Best configuration" in path.read_text()


def test_a_context_gives_back_what_was_not_told(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    with Study("left", SPACE, trials=2, store=store) as study:
        asked = study.ask(2)
    assert Study("left", SPACE, trials=2, store=store).ask(2) == asked


def test_time_ends_asking() -> None:
    study = Study("timed", SPACE, seconds=0.05)
    assert study.ask()
    time.sleep(0.06)
    assert study.ask() == []


def test_suggest_asks_the_methods_model_and_says_who_has_one() -> None:
    space = Space(x=Float(-1.0, 1.0))
    study = tune(lambda config: config["x"] ** 2, "gp", space=space, trials=12, progress=False)
    assert abs(study.suggest()["x"]) < 0.3
    plain = tune(lambda config: config["x"] ** 2, space=space, trials=2, progress=False)
    with pytest.raises(MethodError, match="Random has no model"):
        plain.suggest()


def test_ask_gives_a_job_that_its_processes_die_with_after_all_others(tmp_path: Path) -> None:
    def opened() -> Study:
        return Study("s", SPACE, trials=4, store=tmp_path / "a.db")

    for _ in range(5):
        if not (child := os.fork()):
            opened().ask()
            os._exit(1)
        os.waitpid(child, 0)
    begun = opened()
    first = begun.ask(2)
    assert [job.number for job in first] == [1, 2], "four times it came first"
    assert begun.ask(2)[0].number == 3 and begun.ask(2) == [], "and then only by itself"
    begun.tell_many([(number, 0.5) for number in (1, 2, 3)])
    assert [job.number for job in begun.ask(2)] == [0] and not begun.over
    begun.tell(0, 0.5)
    assert begun.over


def test_a_pickled_study_is_the_one_in_its_store(tmp_path: Path) -> None:
    study = tune(value, space=SPACE, trials=3, store=tmp_path / "a.db", name="s", progress=False)
    for again in (pickle.loads(pickle.dumps(study)), copy.deepcopy(study)):
        assert again.best == study.best and again.name == "s"
    memory = tune(value, space=SPACE, trials=3, progress=False)
    with pytest.raises(StudyError, match=r"cannot be pickled or copied.*store="):
        pickle.dumps(memory)
    assert len(pickle.loads(pickle.dumps(memory.history))) == 3
