"""Freeze-thaw: its covariance against finite differences and its definition, what it advances, and how it ends."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import OK, PRUNED, Budget
from luthier.propose.freeze_thaw import FreezeThaw
from luthier.propose.gaussian_process.curve_kernel import Curves
from luthier.propose.gaussian_process.fit import objective, start
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.posterior import posterior
from luthier.propose.random import Random
from luthier.space import Choice, Config, Float, Space
from luthier.testing import simulate

RATE = Space(lr=Float(1e-5, 1e2, log=True))
PLANE = Space(
    a=Float(0, 1), b=Float(0, 1), kind=Choice(["x", "y"]), only=Float(0, 1, when={"kind": "y"})
)  # curves that cross: what falls fast ends high


def crossing(config: Config, steps: int, age: int | None) -> tuple[float, int]:
    age = (age or 0) + steps
    end = (config["a"] - 0.7) ** 2 + 0.2 * config["b"] ** 2 + (0.1 if config["kind"] == "x" else 0.2 * config["only"])
    return end + math.exp(-(0.03 + 0.3 * config["b"]) * age), age


def matern(r: np.ndarray) -> np.ndarray:
    r = np.sqrt(5) * r
    return (1 + r + r * r / 3) * np.exp(-r)


def made(seed: int = 0) -> tuple[Curves, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kernel = Curves(Kernel(np.array([0, 1]), np.array([0])))
    features = np.column_stack([rng.random((15, 2)), rng.random(15), rng.integers(0, 5, 15)])
    return kernel, features, rng.normal(size=15), start(kernel) + 0.3 * rng.normal(size=kernel.size)


def test_the_covariance_is_its_definition_and_the_gradient_that_of_finite_differences() -> None:
    kernel, features, y, theta = made()
    warped = features[:, :2].copy()
    a, b = np.exp(theta[[5, 6]])
    warped[:, 0] = 1 - (1 - warped[:, 0] ** a) ** b
    t, curve = features[:, 2], features[:, 3]
    gap = np.abs(t[:, None] - t[None, :])
    squared = sum(((warped[:, None, i] - warped[None, :, i]) / np.exp(theta[i])) ** 2 for i in range(2))
    squared = squared + (gap / np.exp(theta[2])) ** 2
    expected = np.exp(theta[3]) * matern(np.sqrt(squared))
    expected = expected + (curve[:, None] == curve) * np.exp(theta[8]) * matern(gap / np.exp(theta[7]))
    expected = expected + np.exp(theta[10]) * matern(gap / np.exp(theta[9]))
    assert np.allclose(kernel.gram(theta, features).covariance, expected, atol=1e-7)
    scaled = kernel.scaled(theta, features)
    assert np.allclose(kernel.cross(theta, scaled, scaled), expected, atol=1e-6)
    assert kernel.variance(theta) == pytest.approx(expected[0, 0])
    value, gradient = objective(kernel, features, y, theta)
    for i in range(kernel.size):
        step = np.zeros(kernel.size)
        step[i] = 1e-5
        up, down = (objective(kernel, features, y, theta + sign * step)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5), i
    mean, deviation = posterior(kernel, theta, features, y).predict(features)
    assert np.isfinite(value) and deviation.max() < np.sqrt(kernel.variance(theta)) and mean.shape == (15, 1)


def best_after(history: Any, steps: int) -> float:
    done, best = 0, math.inf
    for number in history.arrival:
        done += int(history.steps[number])
        if done > steps:
            break
        best = min(best, float(history.values[number, 0]))
    return best


def test_it_finds_better_trainings_than_random_search_in_as_many_steps() -> None:
    wins = 0
    for seed in range(4):
        budget = Budget(trials=40, steps=27)
        history = simulate(FreezeThaw(), crossing, PLANE, budget, seed, stateful=True, report_every=3)
        spent = int(history.steps.sum())
        random = simulate(Random(), crossing, PLANE, Budget(trials=spent // 27, steps=27), seed, stateful=True)
        wins += best_after(history, spent) < best_after(random, spent)
        ages = {int(history.age[n]) for n in range(len(history))}
        assert ages == {1, 3, 9, 27} and spent < 40 * 27 / 2
        ended = [n for n in range(len(history)) if history.age[n] == 27]
        assert ended and history.best is not None and history.jobs[history.best].parent is not None
    assert wins >= 3


def test_batches_go_on_side_by_side_and_never_twice_at_once() -> None:
    history = simulate(FreezeThaw(), crossing, PLANE, Budget(trials=24, steps=27), stateful=True, workers=3, batch=2)
    taken = [job.parent for job in history.jobs if job.parent is not None]
    assert len(taken) == len(set(taken)) > 5 and sum(job.parent is None for job in history.jobs) == 24
    kept = FreezeThaw().bind(Budget(trials=24, steps=27)).parents(history)
    assert all(history.status[n] == OK and history.age[n] < 27 for n in kept)


def test_a_function_is_stopped_where_a_new_configuration_promises_more() -> None:
    def function(config: Config, trial: lt.Trial) -> float:
        loss = math.inf
        for step in range(1, trial.steps + 1):
            loss, _ = crossing(config, step, None)
            trial.report(step, loss=loss)
        return loss

    study = lt.tune(function, "freeze_thaw", space=PLANE, trials=30, steps=27, seed=1, progress=False)
    status = [trial.status for trial in study.trials]
    assert status.count("pruned") > 8 and status.count("ok") > 3 and len(status) == 30
    steps = study.history.steps[study.history.status == PRUNED]
    assert set(steps.tolist()) <= {1, 3, 9} and study.best is not None and study.best.metrics["loss"] < 0.25


def test_settings_are_chosen_on_other_curves_and_seeds_than_those_that_are_reported() -> None:
    split = json.loads((Path(__file__).parents[2] / "benchmarks" / "curves_split.json").read_text())
    for what in ("tasks", "seeds"):
        assert not set(split["choosing"][what]) & set(split["reporting"][what])
    assert len(split["reporting"]["seeds"]) >= 10 and set(split["taskset"].values()) < set(split["sha256"])


def test_what_it_cannot_do_is_refused() -> None:
    for method, budget, words in (
        (FreezeThaw(), Budget(trials=4), "neither steps nor epochs"),
        (FreezeThaw(initial=1), Budget(trials=4, steps=27), "initial"),
        (FreezeThaw(eta=1), Budget(trials=4, steps=27), "eta"),
        (FreezeThaw(), Budget(trials=4, steps=2), "steps=2"),
    ):
        with pytest.raises(MethodError, match=words):
            method.bind(budget)
    with pytest.raises(MethodError, match="it takes one objective"):
        goals = {"a": "min", "b": "min"}
        simulate(FreezeThaw(), crossing, PLANE, Budget(trials=4, steps=27), stateful=True, objectives=goals)


def test_of_a_list_each_is_begun_once_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    listed = tuple(PLANE.sample(rng, 14))
    method = FreezeThaw(candidates=listed, rungs=3)
    history = simulate(method, crossing, PLANE, Budget(trials=30, steps=27), stateful=True, report_every=1, batch=3)
    begun = [job.config for job in history.jobs if job.parent is None]
    assert all(config in listed for config in begun) and len(begun) == len(set(map(repr, begun)))
    best = min(listed, key=lambda config: crossing(config, 27, 0)[0])
    assert history.best is not None and history.jobs[history.best].config == best and len(begun) <= len(listed)
