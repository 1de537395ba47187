"""The Gaussian process under limits: the probability of keeping them, and the search that it leads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

import luthier as lt
from luthier.jobs import Budget, History, Job, Result
from luthier.propose.gaussian_process import limited
from luthier.propose.gaussian_process.acquisition import improvement_within
from luthier.propose.gaussian_process.fit import start
from luthier.propose.gaussian_process.fold import model
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.limited import Within, bounded, log_between
from luthier.propose.gaussian_process.posterior import Posterior, posterior
from luthier.space.encoder import Points, encoding_of
from luthier.testing import simulate

SPACE = lt.Space(x=lt.Float(-1.0, 1.0), y=lt.Float(-1.0, 1.0))
RNG = np.random.default_rng(0)


def bowl(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["x"] ** 2 + config["y"] ** 2, "latency": 20.0 * (1.0 - config["x"])}


def history_of(rows: list[tuple[dict[str, Any], dict[str, float] | str]], **bounds: Any) -> History:
    history = History(SPACE, {"loss": "min"}, bounds)
    for number, (config, row) in enumerate(rows):
        history.add(Job(number, config))
        failed = isinstance(row, str)
        history.add(Result(number, "failed", error=row) if failed else Result(number, "ok", row, 1))  # type: ignore[arg-type]
    return history


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (-40.0, -39.5), (30.0, 31.0), (-np.inf, -20.0), (12.0, np.inf)])
def test_the_probability_between_two_bounds_also_far_out(low: float, high: float) -> None:
    peak = min(max(low, 0.0), high)  # where the density is highest; the rest is integrated relative to it
    ends = max(low, peak - 40), min(high, peak + 40)
    mass, _ = quad(lambda x: math.exp(0.5 * (peak * peak - x * x)), *ends, epsabs=0, epsrel=1e-10, limit=200)
    truth = math.log(mass) - 0.5 * peak * peak - 0.5 * math.log(2 * math.pi)
    assert log_between(np.array([low]), np.array([high]))[0] == pytest.approx(truth, rel=1e-7)


def test_bounds_are_spread_as_the_values_are_and_no_outlier_hides_them() -> None:
    values = np.concatenate([RNG.normal(10.0, 3.0, 40), [1e200, -1e200, 9.0, 12.0]])
    for bounds in ((None, 12.0), (9.0, None), (9.0, 12.0)):
        y, low, high = limited._spread(values, bounds)
        inside = (values >= (bounds[0] or -np.inf)) & (values <= (bounds[1] or np.inf))
        assert np.array_equal((low - 1e-12 <= y) & (y <= high + 1e-12), inside)
        assert np.all(np.diff(y[np.argsort(values)]) >= 0) and abs(y.mean()) < 1e-12 and y.std() == pytest.approx(1.0)
        near = y[:40]
        assert near.max() - near.min() > 0.02, "what is near the bounds stays apart"


def process(y: np.ndarray, points: Points) -> Posterior:
    encoding = encoding_of(SPACE)
    kernel = Kernel(encoding.groups, encoding.warped)
    return posterior(kernel, start(kernel), encoding.features(points), y)


@pytest.mark.parametrize("count", [0, 2])
def test_the_acquisition_is_the_mean_of_improvements_that_keep_the_limits(count: int) -> None:
    """Against draws from the posteriors of objective and metric, beside running jobs too."""
    encoding = encoding_of(SPACE)
    points = encoding.points(SPACE.sample(RNG, 12))
    y, c = RNG.normal(size=12), RNG.normal(size=12)
    inside = (c > -0.5) & (c < 0.8)
    objective, metric = process(y, points), process(c, points)
    running = encoding.points(SPACE.sample(RNG, count)) if count else points.take([])
    limits = [Within(metric, -0.5, 0.8)]
    log_values = improvement_within(objective, inside, limits, encoding, running, np.random.default_rng(7))
    where = encoding.points(SPACE.sample(RNG, 5))
    found = np.exp(log_values(where))
    # the same worlds, drawn by hand
    rng, worlds = np.random.default_rng(7), [(objective, metric, slice(None))]
    if count:
        features = encoding.features(running)
        objective = objective.imagine(features, rng.normal(size=(count, 8)))
        metric = metric.imagine(features, rng.normal(size=(count, 8)))
        worlds = [(objective, metric, world) for world in range(8)]
    means, deviations = objective.predict(encoding.features(where))
    middles, spreads = metric.predict(encoding.features(where))
    draws = np.random.default_rng(1).normal(size=(2, 400_000, 1))
    total = np.zeros(5)
    for world in range(len(worlds)):
        mark = 0.5 * (objective.y[:12][inside, world].min() + objective.means()[:12][inside, world].min())
        for job in range(count):
            if -0.5 <= metric.y[12 + job, world] <= 0.8:
                mark = min(mark, objective.means()[12 + job, world])
        f = means[:, world] + deviations * draws[0]
        g = middles[:, world] + np.sqrt(spreads**2 + metric.noise) * draws[1]
        total += (np.maximum(mark - f, 0.0) * ((g >= -0.5) & (g <= 0.8))).mean(axis=0) / len(worlds)
    assert found == pytest.approx(total, rel=0.05, abs=2e-4)


def test_while_nothing_is_inside_the_probability_alone_leads() -> None:
    encoding = encoding_of(SPACE)
    points = encoding.points(SPACE.sample(RNG, 12))
    metric = Within(process(np.linspace(1.0, 2.0, 12), points), -np.inf, 0.0)
    nothing = np.zeros(12, dtype=bool)
    for y in (RNG.normal(size=12), RNG.normal(size=12)):
        found = improvement_within(process(y, points), nothing, [metric], encoding, points.take([]), RNG)(points)
        assert found == pytest.approx(metric.log_probability(encoding.features(points))[:, 0])


def test_results_without_their_metrics_are_learnt_as_such() -> None:
    configs = SPACE.sample(RNG, 6)
    rows: list[Any] = [bowl(config) for config in configs[:3]]
    rows += ["MemoryError", {"loss": 1.0}, "ValueError: a bug"]
    history = history_of(list(zip(configs, rows, strict=True)), latency=(None, 10.0))
    numbers = np.arange(6)
    metric, ended = bounded(history, numbers, 100)
    assert metric.numbers.tolist() == [0, 1, 2] and ended.name == limited.ENDED
    assert ended.y.tolist() == [1.0, 1.0, 1.0, -1.0, -1.0, -1.0] and (ended.low, ended.high) == (0.0, np.inf)
    assert len(bounded(history, numbers[:3], 100)) == 1, "nothing is learnt of what always holds"
    found = model(history, 0, 100)
    assert found is not None and found.numbers.tolist() == [0, 1, 2, 4], "the objective is learnt where it was measured"
    kept = bounded(history_of([(c, bowl(c)) for c in SPACE.sample(RNG, 60)], latency=(None, 10.0)), np.arange(60), 20)
    assert len(kept[0].numbers) == 20 and kept[0].numbers[-1] == 59


def test_it_converges_to_a_best_on_the_bound_and_stays_out_of_what_fails() -> None:
    """The free minimum lies outside, and all that is near it runs out of memory."""

    def task(config: dict[str, Any]) -> dict[str, float]:
        if config["x"] < 0.1:
            raise MemoryError
        return bowl(config)

    study = lt.tune(task, "gp", space=SPACE, trials=40, limits={"latency": (None, 10.0)}, progress=False)
    assert study.best is not None and study.best.value < 0.2505  # 0.25 is the least
    late = [trial for trial in study.trials if trial.number >= 12]
    assert sum(trial.status == "failed" for trial in late) <= 3 and sum(bool(trial.feasible) for trial in late) >= 15


def test_a_strip_of_two_bounds_and_several_limits() -> None:
    bounds = {"latency": (8.0, 10.0), "y": (0.2, None)}  # x from 0.5 to 0.6 and y from 0.2 on: 2 % of the space
    history = simulate(
        lt.propose.GaussianProcess(), lambda c: {**bowl(c), "y": c["y"]}, SPACE, Budget(trials=40), limits=bounds
    )
    assert history.best is not None and history.values[history.best, 0] < 0.2905  # 0.29 is the least
    chosen = lt.propose.GaussianProcess().bind(Budget(trials=40)).suggest(history)
    assert 0.499 < chosen["x"] < 0.601 and chosen["y"] > 0.199


def test_several_at_once_keep_apart_and_inside() -> None:
    history = simulate(
        lt.propose.GaussianProcess(), bowl, SPACE, Budget(trials=40), limits={"latency": (None, 10.0)}, workers=4
    )
    assert history.best is not None and history.values[history.best, 0] < 0.252
    assert len({tuple(job.config.values()) for job in history.jobs}) == 40


@pytest.mark.parametrize("seed", [2, 5])
def test_a_second_island_within_the_limits_is_found(seed: int) -> None:
    """Two islands of 1 % of the space each are inside (Gardner et al. 2014, simulation 2); the better has the best."""

    def task(config: dict[str, Any]) -> dict[str, float]:
        return {"loss": math.sin(config["x"]) + config["y"], "c": math.sin(config["x"]) * math.sin(config["y"])}

    space = lt.Space(x=lt.Float(0.0, 6.0), y=lt.Float(0.0, 6.0))
    study = lt.tune(task, "gp", space=space, trials=30, limits={"c": (None, -0.95)}, seed=seed, progress=False)
    assert study.best is not None and study.best.value < 0.4  # the best is 0.253; of the other island 3.29
