"""The simulated study that the contract tests run on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from luthier.jobs import DIVERGED, FAILED, OK, PRUNED, Budget, History, Job
from luthier.propose import Random
from luthier.seeds import Seeds
from luthier.space import Config, Float, Space
from luthier.testing import PROBLEMS, rebuild, simulate
from luthier.testing.problems import decay

SPACE = Space(lr=Float(1e-5, 1.0, log=True))


@dataclass(frozen=True)
class Chain:
    """One trial, continued two steps at a time; ended early when ``stop_below`` is reached."""

    jobs: int = 5
    stop_below: float = -1.0
    extendable: ClassVar[bool] = False

    def bind(self, budget: Budget) -> Chain:
        return self

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        n = len(history)
        if history.pending or n == self.jobs:
            return []
        return [Job(n, {"lr": 0.1}, 2, n - 1 if n else None)]

    def stop(self, history: History, number: int) -> bool:
        return history.reports[number][-1].metrics["loss"] < self.stop_below


def lr(config: Config) -> float:
    return config["lr"]


def test_jobs_one_at_a_time_come_back_in_order() -> None:
    history = simulate(Random(), lr, SPACE, Budget(trials=12))
    assert history.arrival == list(range(12))
    assert history.values[:, 0].tolist() == [job.config["lr"] for job in history.jobs]


def test_workers_of_unequal_speed_come_back_out_of_order() -> None:
    history = simulate(Random(), lr, SPACE, Budget(trials=12), workers=3)
    assert sorted(history.arrival) == list(range(12))
    assert history.arrival[:6] == [0, 1, 3, 2, 5, 4]


def test_a_batch_is_asked_for_at_once() -> None:
    history = simulate(Random(), lr, SPACE, Budget(trials=10), batch=4)
    kinds = "".join("j" if isinstance(event, Job) else "r" for event in history.events)
    assert kinds == "jjjjrrrrjjjjrrrrjjrr"


def test_failures_are_as_frequent_as_asked_and_the_same_however_jobs_are_run() -> None:
    rates = {"failed": 0.3, "diverged": 0.1}
    one = simulate(Random(), lr, SPACE, Budget(trials=1000), failures=rates)
    assert np.mean(one.status == FAILED) == pytest.approx(0.3, abs=0.05)
    assert np.mean(one.status == DIVERGED) == pytest.approx(0.1, abs=0.03)
    many = simulate(Random(), lr, SPACE, Budget(trials=1000), failures=rates, workers=3, batch=2)
    assert one.status.tolist() == many.status.tolist()
    with pytest.raises(ValueError, match="pruned"):
        simulate(Random(), lr, SPACE, Budget(trials=1), failures={"pruned": 1.0})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_a_divergence(value: float) -> None:
    history = simulate(Random(), lambda config: value, SPACE, Budget(trials=2))
    assert history.status.tolist() == [DIVERGED, DIVERGED]
    assert history.best is None


def test_a_continued_training_equals_an_uninterrupted_one() -> None:
    history = simulate(Chain(), decay, SPACE, Budget(), stateful=True)
    assert history.age.tolist() == [2, 4, 6, 8, 10]
    assert history.values[-1, 0] == pytest.approx(decay({"lr": 0.1}, 10, None)[0], rel=1e-12)
    for cut in range(1, len(history.events)):  # the states of finished jobs are found again by training
        resumed = simulate(Chain(), decay, SPACE, Budget(), stateful=True, history=rebuild(history, cut))
        assert resumed.values.tolist() == history.values.tolist()


def test_reports_can_prune() -> None:
    history = simulate(Chain(3, stop_below=0.75), decay, SPACE, Budget(), stateful=True, report_every=1)
    assert history.status.tolist() == [OK, PRUNED, PRUNED]
    assert history.steps.tolist() == [2, 1, 1]
    assert [report.step for report in history.reports[1]] == [3]


def test_the_limit_stops_a_proposer_without_end() -> None:
    history = simulate(Random(), lr, SPACE, Budget(), limit=40, batch=8)
    assert len(history) == 40
    assert not history.pending


OPTIMA: dict[str, Config] = {
    "branin": {"x": math.pi, "y": 2.275},
    "bowl": {"lr": 1e-2, "weight_decay": 1e-4, "momentum": 0.9, "batch_size": 64},
    "tree": {"lr": 1e-3, "layers": 3, "optimizer": "adam", "beta": 0.99},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_optimum_of_each_problem_is_known(name: str) -> None:
    problem = PROBLEMS[name]
    objective: Callable[[Config], float] = problem.objective
    assert objective(problem.space.check(OPTIMA[name])) == pytest.approx(problem.optimum, abs=1e-6)
    rng = np.random.default_rng(0)
    assert min(map(objective, problem.space.sample(rng, 2000))) >= problem.optimum - 1e-6
