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
from luthier.jobs import OK, PRUNED, REPEATS, Budget
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


def falling(config: Config, trial: lt.Trial) -> float:
    left = 1.0
    for step in range(trial.steps):
        left *= 1.0 - config["lr"]
        trial.report(step, loss=left**2)
    return left**2


def flat(config: Config, trial: lt.Trial) -> float:
    for step in range(trial.steps):
        trial.report(step, loss=(config["x"] - 0.37) ** 2)
    return (config["x"] - 0.37) ** 2


def test_of_functions_what_is_believed_best_has_been_run_whole() -> None:
    rate, again = Space(lr=Float(1e-3, 1.0, log=True)), 0
    for seed in range(4):
        for end in ({"trials": 16}, {"total_steps": 8 * 27}):
            study = lt.tune(falling, "freeze_thaw", space=rate, steps=27, seed=seed, progress=False, **end)  # type: ignore[arg-type]
            assert study.best is not None and study.best.value < 1e-5, (seed, end)  # half of all end above 0.1
            assert len(study.trials) == 16 if "trials" in end else study.history.steps.sum() <= 8 * 27
            jobs = study.history.jobs
            for job in jobs:
                if REPEATS in job.tag:
                    again, stopped = again + 1, job.tag[REPEATS]
                    assert job.number == len(jobs) - 1 and job.config == jobs[stopped].config
                    assert study.trials[stopped].status == "pruned" and study.trials[job.number].steps == 27
                    assert study.best.value <= study.trials[stopped].metrics["loss"]
    assert again >= 4


def test_a_function_that_is_believed_best_is_not_stopped() -> None:
    for seed in range(4):  # a flat curve says itself how it ends: a new one promises more than any that is known
        study = lt.tune(flat, "freeze_thaw", space=Space(x=Float(0, 1)), trials=16, steps=27, seed=seed, progress=False)
        assert study.best is not None and study.best.value == min(trial.metrics["loss"] for trial in study.trials)
        assert not any(REPEATS in job.tag for job in study.history.jobs), seed


def test_a_last_trial_repeats_the_noise_and_is_the_same_where_the_study_is_cut(tmp_path: Path) -> None:
    drawn: dict[int, float] = {}

    def noisy(config: Config, trial: lt.Trial) -> float:
        drawn[trial.number] = noise = np.random.default_rng(trial.seed).normal()
        for step in range(trial.steps):
            trial.report(step, loss=(1.0 - config["lr"]) ** (2 * step + 2) * math.exp(0.1 * noise))
        return (1.0 - config["lr"]) ** (2 * trial.steps) * math.exp(0.1 * noise)

    space, settings = Space(lr=Float(1e-3, 1.0, log=True)), {"trials": 16, "steps": 27, "progress": False}
    for seed in range(8):
        whole = lt.tune(noisy, "freeze_thaw", space=space, seed=seed, **settings)  # type: ignore[arg-type]
        last = whole.history.jobs[-1]
        if REPEATS in last.tag:
            break
    assert drawn[last.number] == drawn[last.tag[REPEATS]]
    for store in (str(tmp_path / "cut.db"),):
        for enough in (15, 16):  # the second call resumes before the last trial
            stop = [lambda study, enough=enough: len(study.history.arrival) >= enough]
            cut = lt.tune(noisy, "freeze_thaw", space=space, seed=seed, store=store, stop=stop, **settings)  # type: ignore[arg-type]
    assert [dict(job.tag) for job in cut.history.jobs] == [dict(job.tag) for job in whole.history.jobs]
    assert cut.history.steps.tolist() == whole.history.steps.tolist() and cut.best.value == whole.best.value


def test_beside_known_results_it_is_the_studys_own_job_that_is_repeated() -> None:
    known = [({"lr": 0.01}, {"loss": 0.34}), ({"lr": 0.02}, {"loss": 0.11})]
    settings: dict[str, Any] = {"space": Space(lr=Float(1e-3, 1.0, log=True)), "trials": 16, "steps": 27}
    for seed in range(2):
        study = lt.tune(falling, "freeze_thaw", known=known, seed=seed, progress=False, **settings)
        last = study.history.jobs[-1]
        assert last.config == study.history.jobs[last.tag[REPEATS]].config, "it sees the known results as jobs"


LIST = [{"lr": value} for value in (0.02, 0.35, 0.3, 0.9, 0.6, 0.2, 0.003, 0.1)]


@pytest.mark.parametrize(
    ("space", "method", "trials", "seeds"),
    [
        (Space(lr=Float(0.05, 1.0, step=0.05)), FreezeThaw(), 16, (0, 1)),  # it was tried before, and others are left
        (Space(lr=Float(0.05, 1.0, step=0.05)), FreezeThaw(), 40, (0, 1)),  # no other one is left
        (RATE, FreezeThaw(candidates=LIST[:6]), 30, (1, 2)),
        (RATE, FreezeThaw(initial=2, candidates=LIST), 30, (4, 5)),
    ],
)
def test_where_little_or_nothing_is_left_to_begin_the_believed_best_is_run_whole_too(
    space: Space, method: FreezeThaw, trials: int, seeds: tuple[int, int]
) -> None:
    for seed in seeds:
        study = lt.tune(falling, method, space=space, trials=trials, steps=27, seed=seed, progress=False)
        jobs = study.history.jobs
        again = [job for job in jobs if REPEATS in job.tag]
        assert again and again[-1].number == len(jobs) - 1 < trials, seed
        for job in again:
            assert job.config == jobs[job.tag[REPEATS]].config and study.trials[job.number].steps == 27
        begun = [repr(job.config) for job in jobs if job not in again]
        assert len(set(begun)) == len(begun) and study.best is not None and study.best.value < 1e-20


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


class Table(lt.Trainable):
    """Measurements of a few configurations alone."""

    space = Space(lr=Float(1e-3, 1.0, log=True), k=Choice(["a", "b"]), n=Float(0.1, 0.9, step=0.2, when={"k": "b"}))
    rows = ((0.003, 1.0), (0.01, 0.5), (0.1, 0.2), (0.3, 0.3), (0.5, 0.7), (0.7, 0.4))
    report_every = 1

    def __init__(self) -> None:
        self.asked: list[float] = []

    def init(self, config: Config, key: int) -> tuple[float, int]:
        self.asked.append(config["lr"])
        return dict(self.rows)[config["lr"]], 0  # a KeyError where there is no row

    def advance(self, state: Any, config: Config, steps: int) -> Any:
        return (state[0], state[1] + steps), {}

    def evaluate(self, state: Any) -> dict[str, float]:
        return {"loss": state[0] + 1 / (1 + state[1])}


def test_listed_configurations_are_trained_exactly_as_they_were_given() -> None:
    rates, steps = [lr for lr, _ in Table.rows], (0.1, 0.3, 0.5, 0.7, 0.9, 0.3)
    listed = [{"lr": lr, "k": "b", "n": n} for lr, n in zip(rates, steps, strict=True)]
    for given in (listed, tuple(listed), [*listed, listed[0], {**listed[1], "lr": np.float64(0.01)}]):
        task = Table()
        study = lt.tune(task, FreezeThaw(initial=2, candidates=given), trials=12, steps=27, seed=1, progress=False)
        begun = [job.config for job in study.history.jobs if job.parent is None]
        assert sorted(map(repr, begun)) == sorted(map(repr, listed)), "every one, once"
        assert set(task.asked) == set(rates), "none is built for a trial but these"
        assert study.best is not None and study.best.config["lr"] == 0.1
    grid = lt.propose.Grid(points={"lr": rates, "k": ["a"]})
    for method in (grid, lt.propose.ASHA(inner=grid)):
        task = Table()
        study = lt.tune(task, method, trials=6, steps=27, progress=False)
        assert (
            set(task.asked) == {lr for lr, _ in Table.rows}
            and study.best is not None
            and study.best.config["lr"] == 0.1
        )


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ((), "candidates is empty"),
        ({"lr": 0.1}, "candidates must be a list"),
        ("grid", "candidates must be a list"),
        ([{"lr": 0.1, "k": "a"}, {"lr": 7.0, "k": "a"}], r"candidates\[1\], lr: 7.0 is outside"),
        ([{"lr": 0.1, "k": "a", "zz": 3}], r"candidates\[0\], zz"),
        ([{"lr": 0.1}], r"candidates\[0\], k: .* has no value"),
        ([{"lr": 0.1, "k": "a", "n": 0.5}], r"candidates\[0\], n: an inactive"),
        ([{"lr": 0.1, "k": "b", "n": 0.4}], r"candidates\[0\], n"),
        ([{"lr": "x", "k": "a"}], r"candidates\[0\], lr"),
        ([0.1], r"candidates\[0\]"),
    ],
)
def test_a_list_that_cannot_be_is_refused_at_the_call(candidates: Any, words: str) -> None:
    method, task = FreezeThaw(candidates=candidates), Table()
    for call in (
        lambda: lt.tune(task, method, trials=5, steps=27, progress=False),
        lambda: lt.Study("s", Table.space, method=method, trials=5, steps=27),
        lambda: lt.compare(flat, ["random", method], space=Table.space, trials=5, steps=27, seeds=1, progress=False),
        lambda: lt.tune(flat, method, space=Table.space, trials=5, steps=27, progress=False),
    ):
        with pytest.raises(MethodError, match=words) as caught:
            call()
        assert caught.value.where.startswith("method freeze_thaw")
    assert not task.asked, "nothing was built"
