"""Hyperband and ASHA: rungs, promotions, what is continued, and the proposers inside."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job, Result
from luthier.propose.asha import ASHA
from luthier.propose.genetic import Genetic
from luthier.propose.grid import Grid
from luthier.propose.hyperband import Hyperband
from luthier.propose.inner import first_results
from luthier.propose.pbt import PBT
from luthier.propose.random import Random
from luthier.seeds import Seeds
from luthier.space import Config, Float, Int, Space
from luthier.study.study import Study
from luthier.testing import rebuild, simulate
from luthier.testing.problems import decay
from tests.networks import digits_task

RATE = Space(lr=Float(1e-5, 1e2, log=True))


def run(method: Any, trials: int | None = 49, steps: int = 81, **settings: Any) -> History:
    budget = Budget(trials=trials, steps=steps)
    return simulate(method, settings.pop("objective", decay), RATE, budget, stateful=True, **settings)


def rungs(history: History) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for job in history.jobs:
        found.setdefault((job.tag.get("bracket", 0), job.tag["rung"]), []).append(job.number)
    return found


def test_the_brackets_of_the_paper() -> None:
    """Table 1 of the paper's section 3 for R = 81 and eta = 3, up to the rungs that it has one more of."""
    history = run(Hyperband(rungs=5), trials=143)
    sizes = {place: len(numbers) for place, numbers in rungs(history).items()}
    assert [sizes[0, i] for i in range(5)] == [81, 27, 9, 3, 1]
    assert [sizes[1, i] for i in range(4)] == [34, 11, 3, 1]
    assert [sizes[2, i] for i in range(3)] == [15, 5, 1]
    assert [sizes[3, i] for i in range(2)] == [8, 2]
    assert sizes[4, 0] == 5
    ages = {place: set(history.age[numbers].tolist()) for place, numbers in rungs(history).items()}
    assert [ages[0, i] for i in range(5)] == [{1}, {3}, {9}, {27}, {81}] and ages[3, 0] == {27} and ages[4, 0] == {81}


def test_brackets_are_of_as_many_kinds_as_are_asked_for() -> None:
    history = run(Hyperband(rungs=5, brackets=2), trials=143)
    starts = {
        bracket: set(history.age[numbers].tolist()) for (bracket, rung), numbers in rungs(history).items() if not rung
    }
    assert [starts[bracket] for bracket in range(3)] == [{1}, {3}, {1}]


class Endless:
    """An inner proposer that knows of no budget."""

    def bind(self, budget: Budget) -> Endless:
        return self

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        numbers = range(len(history), len(history) + count)
        return [Job(number, history.space.sample(seeds.rng(number, "propose")), 1) for number in numbers]


def test_as_many_configurations_are_started_as_trials_are_given() -> None:
    for inner in ("random", Endless()):
        for method in (Hyperband(inner), Hyperband(inner, brackets=1), ASHA(inner)):
            for trials in (1, 5, 20, 40):
                assert (run(method, trials).parent < 0).sum() == trials


def test_the_best_of_a_rung_are_continued_from_their_own_weights() -> None:
    history = run(Hyperband(), trials=27 + 12)
    for (bracket, rung), numbers in rungs(history).items():
        if rung == 0:
            continue
        below = rungs(history)[bracket, rung - 1]
        best = sorted(below, key=lambda n: history.values[n, 0])[: len(numbers)]
        assert [history.jobs[n].parent for n in numbers] == best
        for n in numbers:
            parent = history.jobs[n].parent
            assert parent is not None and history.jobs[n].config == history.jobs[parent].config
            assert history.steps[n] == history.age[n] - history.age[parent]
    assert history.age.max() == 81


def test_after_failures_a_rung_takes_as_many_as_there_are() -> None:
    study = Study("failures", RATE, method=Hyperband(rungs=3, brackets=1), trials=9, steps=9)
    jobs = study.ask(20)
    assert len(jobs) == 9
    for job in jobs[:-1]:
        study.tell(job, status="failed")
    assert study.ask(20) == [], "the last one may still be the best"
    study.tell(jobs[-1], 1.0)
    (promoted,) = study.ask(20)
    assert promoted.parent == jobs[-1].number and promoted.steps == 2
    study.tell(promoted, status="failed")
    assert study.ask(20) == [] and study.over
    history = run(Hyperband(rungs=3, brackets=1), trials=27, steps=9, failures={"failed": 1.0})
    assert len(history) == 27, "three brackets of nine that have nothing to promote"


def test_a_bracket_that_the_trials_cut_short_still_trains_one_whole() -> None:
    for trials in (1, 2, 5, 28, 30):
        history = run(Hyperband(), trials=trials)
        assert sum(job.parent is None for job in history.jobs) == trials
        assert history.age.max() == 81


def test_grids_end_and_names_are_understood() -> None:
    history = run(Hyperband(inner=Grid(points=10)), trials=None)
    assert sum(job.parent is None for job in history.jobs) == 10 and history.age.max() == 81
    history = run(ASHA(inner=Grid(points=10)), trials=20)
    assert sum(job.parent is None for job in history.jobs) == 10 and history.age.max() == 81
    names = [job.config for job in run(Hyperband(inner="random"), trials=9).jobs if job.parent is None]
    assert names == [Random().propose(History(RATE), 9, Seeds(0))[i].config for i in range(9)]


def valley(config: Config, steps: int, age: int | None) -> tuple[float, int]:
    age = (age or 0) + steps
    return (config["a"] - 0.3) ** 2 + (config["b"] - 0.6) ** 2 + (config["c"] - 0.9) ** 2 + 1 / age, age


@pytest.mark.parametrize("outer", [Hyperband, ASHA])
def test_an_inner_proposer_sees_each_configuration_once(outer: Any) -> None:
    space = Space(a=Float(0, 1), b=Float(0, 1), c=Float(0, 1))
    history = simulate(outer(inner=Genetic(10)), valley, space, Budget(trials=60, steps=27), stateful=True)
    seen = first_results(history, "test")
    starts = [job for job in history.jobs if job.parent is None]
    assert [job.config for job in seen.jobs] == [job.config for job in starts] and len(starts) == 60
    assert seen.values[:, 0].tolist() == history.values[[job.number for job in starts], 0].tolist()
    assert not seen.pending
    far = np.linalg.norm(history.codes[[job.number for job in starts]] - [0.3, 0.6, 0.9], axis=1)
    assert far[40:].mean() < 0.8 * far[:10].mean(), "nothing was learnt from them"


def test_asha_never_waits_and_promotes_a_third() -> None:
    idle: list[int] = []

    class Watched:
        def bind(self, budget: Budget) -> Any:
            self.inner = ASHA().bind(budget)
            return self

        def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
            jobs = self.inner.propose(history, count, seeds)
            started = sum(job.parent is None for job in history.jobs)
            idle.append(started < 200 and not jobs)
            return jobs

    watched: Any = Watched()
    history = run(watched, trials=200, workers=7)
    assert not any(idle)
    sizes = Counter(job.tag["rung"] for job in history.jobs)
    assert sizes[0] == 200 and all(sizes[i + 1] >= sizes[i] // 3 for i in range(3))
    assert sizes[1] < 110 and history.age.max() == 81


def test_asha_promotes_only_from_the_best_third_of_the_moment() -> None:
    history = run(ASHA(), trials=60, workers=3)
    values: dict[int, dict[int, float]] = {0: {}, 1: {}, 2: {}, 3: {}}
    for event in history.events:
        if isinstance(event, Job) and event.parent is not None:
            below = values[event.tag["rung"] - 1]
            rank = sorted(below.values()).index(below[event.parent])
            assert rank < len(below) // 3
        elif isinstance(event, Result):
            values[history.jobs[event.number].tag["rung"]][event.number] = float(history.values[event.number, 0])


def test_asha_trains_one_whole_even_where_rungs_are_small() -> None:
    for trials in (1, 2, 4, 10):
        assert run(ASHA(), trials=trials).age.max() == 81
    history = run(ASHA(), trials=4, failures={"failed": 0.5}, seed=1)
    assert not history.pending


def test_a_decision_of_asha_does_not_grow_with_the_study() -> None:
    def milliseconds(trials: int) -> float:
        bound = ASHA().bind(Budget(trials=100_000, steps=81))
        history = simulate(ASHA(), decay, RATE, Budget(trials=trials, steps=81), batch=64, stateful=True)
        bound.propose(history, 1, Seeds(0))
        costs = []
        for _ in range(50):
            began = time.process_time()
            (job,) = bound.propose(history, 1, Seeds(0))
            costs.append(1e3 * (time.process_time() - began))
            history.add(job)
            history.add(Result(job.number, "ok", {"loss": job.config["lr"]}, job.steps))
        return sorted(costs)[25]

    few, many = milliseconds(100), milliseconds(5_000)
    assert many < 5 * few + 0.05, f"{few:.3f} ms after 100 configurations, {many:.3f} ms after 5,000"


@pytest.mark.parametrize("method", [Hyperband(), Hyperband(rungs=3, inner="genetic"), ASHA()])
def test_the_states_that_may_be_named_are_kept_and_few_others(method: Any) -> None:
    for workers, failures in ((1, {}), (4, {"failed": 0.2})):
        bound = method.bind(Budget(trials=60, steps=81))
        history = simulate(
            method, decay, RATE, Budget(trials=60, steps=81), stateful=True, workers=workers, failures=failures
        )
        replayed, given_up = History(RATE), set()
        for event in history.events:
            if isinstance(event, Job):
                assert event.parent not in given_up, f"job {event.parent} had been given up"
            before = bound.parents(replayed)
            replayed.add(event)
            given_up |= before - bound.parents(replayed)
            kept = bound.parents(replayed)
            assert kept <= set(range(len(replayed)))
        assert len(bound.parents(rebuild(history))) <= 12


def test_a_state_that_asha_gave_up_is_never_named_again() -> None:
    def train(config: Config, steps: int, state: float | None) -> tuple[float, float]:
        done = (state or 0.0) + steps
        return (config["lr"] if done < 3 else float("nan")), done

    bound = ASHA(rungs=3).bind(Budget(trials=5, steps=9))
    history = simulate(ASHA(rungs=3), train, RATE, Budget(trials=5, steps=9), stateful=True)
    assert sum(job.parent is not None for job in history.jobs) == 3, "the best, and two in its place"
    given_up: set[int] = set()
    for count in range(1, len(history.events) + 1):
        replayed = rebuild(history, count)
        kept = bound.parents(replayed)
        assert not kept & given_up
        given_up |= set(replayed.arrival) - kept
    assert bound.parents(history) == set()


def test_epochs_are_parts_of_a_training_under_every_batch_size() -> None:
    space = Space(lr=Float(1e-3, 1.0, log=True), batch_size=Int(8, 64))
    budget = Budget(trials=27, epochs=9, epoch_steps=lambda config: 1000 // config["batch_size"])
    history = simulate(Hyperband(brackets=1), lambda config: config["lr"], space, budget)
    for job in history.jobs:
        fraction = history.age[job.number] / budget.steps_for(job.config)
        assert fraction == pytest.approx(3.0 ** (job.tag["rung"] - 3), abs=0.02)


@pytest.mark.parametrize("method", [Hyperband(rungs=3), ASHA(rungs=3)])
def test_it_trains_digits(method: Any, tmp_path: Any) -> None:
    store = tmp_path / "digits.db"
    study = lt.tune(digits_task(), method, trials=12, steps=99, seed=0, store=store, name="digits", progress=False)
    assert (study.history.status == 1).all() and study.history.age.max() == 99
    assert study.best is not None and study.best.metrics["accuracy"] > 0.8
    assert len(list(study.model().parameters())) == 4
    resumed = lt.tune(digits_task(), method, trials=12, steps=99, seed=0, store=store, name="digits", progress=False)
    assert len(resumed.history) == len(study.history)


@pytest.mark.parametrize(
    ("method", "budget", "words"),
    [
        (Hyperband(eta=1), Budget(trials=9, steps=81), r"eta must be .* got 1"),
        (Hyperband(rungs=1), Budget(trials=9, steps=81), r"rungs must be .* got 1"),
        (Hyperband(brackets=5), Budget(trials=9, steps=81), r"brackets must be .* got 5"),
        (Hyperband(), Budget(trials=9, steps=2), "steps=2 cannot be cut into 3 parts"),
        (Hyperband(), Budget(trials=9), "neither steps nor epochs"),
        (Hyperband(inner="tpee"), Budget(trials=9, steps=81), "inner='tpee'"),
        (Hyperband(inner=Random), Budget(trials=9, steps=81), "is no proposer"),
        (Hyperband(inner=PBT()), Budget(trials=9, steps=81), "continues trainings itself"),
        (ASHA(eta=1), Budget(trials=9, steps=81), r"eta must be .* got 1"),
        (ASHA(inner=Genetic(inherit="best")), Budget(trials=9, steps=81), "continues trainings itself"),
    ],
)
def test_impossible_settings_are_refused(method: Any, budget: Budget, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        method.bind(budget)
