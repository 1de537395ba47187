"""The median stopping rule: against its definition, on functions and stacks, over several proposers."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import DIVERGED, OK, PRUNED, Budget, History, Job, Report, Result
from luthier.propose.genetic import Genetic
from luthier.propose.median import Median
from luthier.propose.pbt import PBT
from luthier.propose.random import Random
from luthier.space import Config, Float, Space
from luthier.testing import simulate
from luthier.testing.problems import decay
from tests.networks import digits_task

RATE = Space(lr=Float(1e-5, 1e2, log=True))


def curve(history: History, number: int, until: int) -> list[float]:
    values = [report.metrics["loss"] for report in history.reports.get(number, ()) if report.step <= until]
    return [value if math.isfinite(value) else math.inf for value in values]


def mean(values: list[float]) -> float:
    return math.inf if math.inf in values else statistics.mean(values)  # its sum is exact


def by_definition(history: History, number: int, startup: int, quantile: float = 0.5) -> bool:
    """The rule, from the whole history each time."""
    now = history.reports[number][-1].step
    best, means = min(curve(history, number, now)), list[float]()
    for other in range(len(history)):
        values, status = curve(history, other, now), history.status[other]
        came_as_far = bool(values) and history.reports[other][-1].step >= now
        if other == number or not values or not (came_as_far or status in (OK, DIVERGED, PRUNED)):
            continue
        value = math.inf if status == DIVERGED and not came_as_far else mean(values)
        stopped = status == PRUNED and history.reports[other][-1].step <= now
        means.append(value - 1e-9 if stopped and value == best else value)
    if len(means) < startup:
        return False
    limit = statistics.median(means) if quantile == 0.5 else float(np.quantile(means, quantile))
    return best == math.inf or best > limit


def test_it_follows_its_definition() -> None:
    asked: list[bool] = []

    class Watched:
        def bind(self, budget: Budget) -> Any:
            self.inner = Median(startup=4).bind(budget)
            self.propose = self.inner.propose
            return self

        def stop(self, history: History, number: int) -> bool:
            said = self.inner.stop(history, number)
            assert said == by_definition(history, number, 4)
            asked.append(said)
            return said

    watched: Any = Watched()
    for workers in (1, 4):
        simulate(watched, decay, RATE, Budget(trials=40, steps=27), stateful=True, report_every=3, workers=workers)
    assert 0.05 < statistics.fmean(asked) < 0.5
    asked.clear()
    rng, bound, history = np.random.default_rng(0), watched.bind(Budget()), History(RATE)
    running: dict[int, int] = {}
    for _ in range(1_500):  # each job on a grid of its own, some values missing or infinite, in any order
        if len(running) < 6:
            running[len(history)] = 0
            history.add(Job(len(history), {"lr": 0.1}, 60))
        number = int(rng.choice(list(running)))
        running[number] += 1 + number % 5
        bad = rng.random() < (0.9 if number % 7 == 0 else 0.02)
        history.add(Report(number, running[number], {"loss": math.nan if bad else number % 11 + rng.normal()}))
        over = running[number] >= 60
        if bound.stop(history, number) or over:
            history.add(Result(number, "pruned" if not over else "diverged" if bad else "ok", {}, running.pop(number)))
    assert 0.02 < statistics.fmean(asked) < 0.5


@pytest.mark.parametrize("quantile", [0.5, 0.3])
def test_equal_values_and_constant_curves_are_judged_by_it_too(quantile: float) -> None:
    bound, said = Median(startup=2, quantile=quantile).bind(Budget()), list[bool]()
    for seed in range(12):
        rng, history = np.random.default_rng(seed), History(RATE)
        for number in range(16):
            history.add(Job(number, {"lr": 0.1}, 9))
            constant, kind = 0.1 * int(rng.integers(1, 20)), number % 3
            status = "ok"
            for step in range(1, 10):
                value = (constant, 0.1 * int(rng.integers(1, 20)), constant + 0.1 * (step % 2))[kind]
                history.add(Report(number, step, {"loss": value}))
                said.append(bound.stop(history, number))
                assert said[-1] == by_definition(history, number, 2, quantile), (seed, number, step)
                if said[-1]:
                    status = "pruned"
                    break
            history.add(Result(number, status, {"loss": value}, step))  # type: ignore[arg-type]
    assert 0.05 < statistics.fmean(said) < 0.5


def test_the_median_of_two_lies_between_them_and_what_equals_it_goes_on() -> None:
    def function(config: Config, trial: lt.Trial) -> float:
        for step in range(10):
            trial.report(step, loss=config["x"])
        return config["x"]

    for others, value, steps in (
        *(((1.0, 2.0), value, 1) for value in (1.55, 1.6, 1.7, 1.8, 1.85, 1.9, 1.95)),
        *(((1.0, 2.0), value, 10) for value in (0.7, 1.1, 1.5)),
        *(((value, value), value, 10) for value in (0.1, 0.7, 1.6)),
    ):
        start = [{"x": x} for x in (*others, value)]
        method, space = Median(startup=2), Space(x=Float(0.0, 10.0))
        study = lt.tune(function, method, space=space, trials=3, steps=10, start=start, progress=False)
        assert study.trials[2].steps == steps, (others, value)


def test_about_half_are_stopped_not_half_each_time() -> None:
    history = simulate(Median(), decay, RATE, Budget(trials=200, steps=60), stateful=True, report_every=1)
    pruned = int((history.status == PRUNED).sum())
    assert 80 < pruned < 130
    assert history.steps.sum() < 0.65 * 200 * 60
    plain = simulate(Random(), decay, RATE, Budget(trials=200, steps=60), stateful=True)
    assert history.best == plain.best, "the best one was not among them"


def test_members_of_a_stack_report_together_and_the_better_half_survives() -> None:
    history, bound = History(RATE), Median().bind(Budget(trials=64, steps=100))
    running = list(range(64))
    for number in running:
        history.add(Job(number, {"lr": 0.1}, 100))
    for step in range(1, 11):
        for number in running:
            history.add(Report(number, step, {"loss": float(number)}))
        stopped = [number for number in running if bound.stop(history, number)]
        for number in stopped:
            history.add(Result(number, "pruned", {"loss": float(number)}, step))
        running = [number for number in running if number not in stopped]
    assert running == list(range(32)) or running == list(range(33))


def test_startup_warmup_and_quantile_hold_it_back() -> None:
    settings: dict[str, Any] = {"stateful": True, "report_every": 1}
    budget = Budget(trials=60, steps=30)
    all_ = {
        name: simulate(method, decay, RATE, budget, **settings)
        for name, method in {
            "plain": Median(),
            "startup": Median(startup=30),
            "warmup": Median(warmup=10),
            "quantile": Median(quantile=0.8),
            "never": Median(quantile=1.0),
        }.items()
    }
    counts = {name: int((history.status == PRUNED).sum()) for name, history in all_.items()}
    assert counts["never"] == 0 < counts["quantile"] < counts["plain"]
    assert not (all_["startup"].status[:30] == PRUNED).any() and (all_["startup"].status == PRUNED).any()
    pruned = all_["warmup"].steps[all_["warmup"].status == PRUNED]
    assert len(pruned) and pruned.min() >= 10


def test_a_metric_that_rises_and_values_that_are_not_there() -> None:
    def rising(config: Config, steps: int, state: Any) -> Any:
        loss, state = decay(config, steps, state)
        return {"accuracy": 1 - loss}, state

    history = simulate(
        Median(),
        rising,
        RATE,
        Budget(trials=40, steps=27),
        stateful=True,
        report_every=3,
        objectives={"accuracy": "max"},
    )
    same = simulate(Median(), decay, RATE, Budget(trials=40, steps=27), stateful=True, report_every=3)
    assert history.status.tolist() == same.status.tolist()
    bound, strange = Median(startup=1).bind(Budget()), History(RATE)
    for number in range(3):
        strange.add(Job(number, {"lr": 0.1}, 10))
    strange.add(Report(0, 1, {"loss": 1.0}))
    strange.add(Report(1, 1, {"loss": float("nan")}))
    strange.add(Report(2, 1, {"accuracy": 0.5}))
    assert bound.stop(strange, 1), "no number is worse than any number"
    assert not bound.stop(strange, 2), "it has not reported what is compared"
    strange.add(Report(2, 2, {"loss": 5.0}))
    assert not bound.stop(strange, 2), "nobody else has come so far"


def test_trials_that_report_nothing_finite_are_stopped_however_many_there_are() -> None:
    history, bound = History(RATE), Median(startup=5).bind(Budget())
    for number in range(60):
        history.add(Job(number, {"lr": 0.1}, 10))
        history.add(Report(number, 1, {"loss": 1.0 if number < 6 else [math.nan, math.inf, -math.inf][number % 3]}))
        assert bound.stop(history, number) == (number >= 6)
        history.add(Result(number, "ok" if number < 6 else "pruned", {}, 1))


def test_a_hundred_bad_trials_do_not_excuse_one_another_and_equal_ones_are_let_be() -> None:
    for value, expected in ((100.0, 100), (1.0, 0)):
        history, bound = History(RATE), Median().bind(Budget())
        for number in range(110):
            history.add(Job(number, {"lr": 0.1}, 10))
            history.add(Report(number, 100 + number, {"loss": 1.0 if number < 10 else value}))
            history.add(Result(number, "pruned" if bound.stop(history, number) else "ok", {}, 1))
        assert int((history.status == PRUNED).sum()) == expected


def test_the_inner_proposer_may_be_any_method_by_name() -> None:
    def objective(config: Config, trial: lt.Trial) -> float:
        for epoch in range(1, 4):
            trial.report(epoch, loss=config["lr"])
        return config["lr"]

    study = lt.tune(objective, Median(inner="tpe"), space=RATE, trials=15, progress=False)
    assert study.settings["method"]["proposer"]["inner"]["class"] == "TPE" and len(study.trials) == 15
    assert study.best is not None and study.best.metrics["loss"] < 1e-3


def test_functions_are_pruned_through_their_reports() -> None:
    def objective(config: Config, trial: lt.Trial) -> float:
        loss = 1.0
        for epoch in range(1, 21):
            loss, _ = decay(config, 1, loss)
            trial.report(epoch, loss=loss)
        return loss

    study = lt.tune(objective, Median(), space=RATE, trials=60, progress=False)
    statuses = [record.status for record in study.trials]
    assert statuses.count("pruned") > 15 and statuses.count("ok") > 15
    assert study.best is not None and study.best.result.status == "ok"


def test_other_proposers_choose_and_their_own_weights_are_kept() -> None:
    assert Median().bind(Budget(trials=3)).extendable and Median(inner="genetic").parents is None
    inner = PBT(rounds=3)
    assert Median(inner=inner).parents is not None
    bound = Median(inner=inner).bind(Budget(trials=4, steps=9))
    assert bound.parents is not None and not bound.extendable
    method = Median(inner=Genetic(population=8))
    history = simulate(method, decay, RATE, Budget(trials=40, steps=9), stateful=True, report_every=1)
    assert [job.tag["generation"] for job in history.jobs] == [n // 8 for n in range(40)]


def test_it_prunes_a_stack_of_networks() -> None:
    study = lt.tune(digits_task(), Median(), trials=16, steps=5 * 33, seed=0, progress=False)
    pruned = [result for result in study.history.results if result is not None and result.status == "pruned"]
    assert pruned and all(result.steps in (33, 66, 99, 132) for result in pruned)
    assert study.best is not None and study.best.metrics["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Median(startup=0), r"startup must be .* got 0"),
        (Median(warmup=-1), r"warmup must be .* got \-1"),
        (Median(quantile=2.0), r"quantile must be .* got 2\.0"),
        (Median(inner="median"), "inner='median'"),
    ],
)
def test_impossible_settings_are_refused(method: Median, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        method.bind(Budget(trials=4))
