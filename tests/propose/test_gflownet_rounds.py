"""What a GFlowNet draws from in a study: samples at any beta, jobs that are better and jobs that are different."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.jobs import Budget, History, Job, Result
from luthier.propose import GaussianProcess, GFlowNet, Random
from luthier.propose.flow import Exact, Leaves, LogReward, Settings, Tree
from luthier.propose.gaussian_process.encoding import Points, encoding_of, join
from luthier.propose.gaussian_process.memory import observed
from luthier.propose.gflownet import _different, good_until
from luthier.propose.process import process_of
from luthier.propose.rounds import Making, Round, apart_from, round_of
from luthier.propose.tempering import Samples, distinct, temper
from luthier.space import Choice, Config, Float, Int, Space
from luthier.space.distance import distances, first_apart
from luthier.testing import simulate

SQUARE = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))


def ring(config: Config) -> float:
    """Zero on a circle of radius 3."""
    return float((np.hypot(config["x"], config["y"]) - 3.0) ** 2)


def normal(leaves: Leaves) -> np.ndarray:
    return -0.5 * ((leaves.codes[:, 0] - 0.6) / 0.1) ** 2


def tempered(tree: Tree, log_reward: LogReward, beta: float, count: int) -> tuple[Samples, Samples] | None:
    """Samples that begin with those of the exact sampler over the tree's bins."""
    rng = np.random.default_rng(0)
    sampler = Exact(tree, beta * log_reward(tree.all) + tree.log_volume(tree.all))
    leaves = sampler.sample(count, rng=rng)
    return temper(tree, leaves, sampler.log_mass(leaves) - tree.log_volume(leaves), log_reward, beta, rng)


def test_samples_keep_their_target_at_both_betas() -> None:
    found = tempered(Tree(Space(x=Float(0.0, 1.0)), 4), normal, 2.0, 20_000)
    assert found is not None
    assert found[0].beta == 2.0 and found[1].beta > 50.0
    for samples in found:
        codes, deviation = samples.points.codes[:, 0], 0.1 / np.sqrt(samples.beta)
        assert abs(codes.mean() - 0.6) < 0.2 * deviation
        assert codes.std() == pytest.approx(deviation, rel=0.15)
        np.testing.assert_array_equal(samples.heights, normal(Leaves(samples.points.codes, np.zeros((20_000, 1), int))))


def test_values_of_coarse_bins_come_in_proportion_to_their_reward() -> None:
    space = Space(n=Int(0, 9), kind=Choice(["a", "b"]), m=Choice([1, 2, 3], ordered=True, when={"kind": "b"}))
    wide = np.array([0.1, 0.5, 0.2, 0.9, 1.0, 0.3, 0.7, 0.2, 0.6, 0.4])

    def log_reward(leaves: Leaves) -> np.ndarray:
        n = np.rint(leaves.codes[:, 0] * 10 - 0.5).astype(int)
        return np.log(wide[n]) + 0.5 * leaves.mask[:, 2] * leaves.codes[:, 2]

    tree = Tree(space, 3)
    found = tempered(tree, log_reward, 1.0, 20_000)
    assert found is not None
    configs = space.decode(found[0].points.codes)
    everything = encoding_of(space).all_points
    truth = np.exp(log_reward(Leaves(everything.codes, np.where(everything.mask, 0, -1))))
    truth /= np.where(everything.mask[:, 2], 3.0, 1.0)  # as likely as random ones, times R
    names = [tuple(config.items()) for config in configs]
    for config, share in zip(space.decode(everything.codes), truth / truth.sum(), strict=True):
        assert names.count(tuple(config.items())) / 20_000 == pytest.approx(share, abs=5 * np.sqrt(share / 20_000))


def test_each_configuration_is_a_sample_once() -> None:
    space = Space(n=Int(0, 3), kind=Choice(["a", "b"]))
    tree = Tree(space, 4)
    found = tempered(tree, flat, 1.0, 500)
    assert found is not None
    samples = distinct(*found)
    assert len(samples.names) == len(set(samples.names)) == len(samples.points.codes) == len(samples.heights) == 8


def test_there_are_no_samples_where_no_reward_is() -> None:
    tree = Tree(SQUARE, 4)
    assert temper(tree, tree.all, np.zeros(16), nothing, 1.0, np.random.default_rng(0)) is None


def flat(leaves: Leaves) -> np.ndarray:
    return np.zeros(len(leaves))


def nothing(leaves: Leaves) -> np.ndarray:
    return np.full(len(leaves), -np.inf)


def round_after(count: int, method: str | None = None) -> tuple[Round, Points, np.ndarray]:
    """A round after results on the ring, the good ones, and where the reward of different ones is zero."""
    points = encoding_of(SQUARE).sample(np.random.default_rng(0), count)
    y = np.array([ring(config) for config in SQUARE.decode(points.codes)])
    y = (y - y.mean()) / y.std()
    limit = float(np.quantile(y, 0.2))
    tree = Tree(SQUARE, 8)
    making = Making(tree, None, 20.0, Settings(evaluations=500, hidden=16), method, 0.1, 0)
    model = process_of(SQUARE, points, y)
    return round_of(making, model, points, y, limit, np.random.default_rng(2)), points.take(y <= limit), y


@pytest.mark.parametrize("method", ["exact", "learnt"])
def test_different_ones_are_apart_from_good_ones_and_from_one_another(method: str) -> None:
    found, good, _ = round_after(60, method)
    heights = found.places.log_reward(found.places.leaves)
    np.testing.assert_array_equal(heights, found.places.heights)
    near, values = good.take([]), []
    for number in range(4):
        code = found.draw(True, set(), near, np.random.default_rng(number))
        assert code is not None
        point = Points(code[None], np.ones((1, 2), dtype=bool))
        assert distances(SQUARE, *point, *join(good, near)).min() > 0.1
        near = join(near, point)
        values.append(ring(SQUARE.decode(code[None])[0]))
    assert np.median(values) < 1.0, "the median of random ones is 2"


def test_better_ones_are_near_the_best_and_not_where_a_job_is_running() -> None:
    found, good, _ = round_after(60)
    codes = [found.draw(False, set(), good.take([]), np.random.default_rng(n)) for n in range(20)]
    assert np.mean([ring(SQUARE.decode(code[None])[0]) for code in codes if code is not None]) < 0.1
    first = Points(np.array(codes[:1]), np.ones((1, 2), dtype=bool))
    again = [found.draw(False, set(), first, np.random.default_rng(n)) for n in range(20)]
    moved = [float(np.abs(code - first.codes[0]).max()) for code in again if code is not None]
    assert np.median(moved) > np.median([np.abs(code - first.codes[0]).max() for code in codes if code is not None])
    everything = set(found.better.names)
    assert found.draw(False, everything, first, np.random.default_rng(0)) is None


def test_where_everything_is_known_to_be_good_nothing_is_different() -> None:
    tree = Tree(SQUARE, 4)
    log_reward = apart_from(SQUARE, Points(tree.all.codes, tree.all.mask), 0.3, flat)
    assert not np.isfinite(log_reward(tree.all)).any()
    one = Points(tree.all.codes[:1], tree.all.mask[:1])
    near = distances(SQUARE, tree.all.codes, tree.all.mask, *one)[:, 0] <= 0.3
    np.testing.assert_array_equal(np.isfinite(apart_from(SQUARE, one, 0.3, flat)(tree.all)), ~near)


def test_good_is_a_part_of_the_way_from_the_best_to_the_first_median() -> None:
    history = History(SQUARE, {"loss": "min"})
    told = [10.0, 8.0, 6.0, 4.0, 2.0, 3.0, 2.5]
    for number, value in enumerate(told):
        history.add(Job(number, {"x": float(number) / 2, "y": 0.0}))
        history.add(Result(number, "ok", {"loss": value}))
    data = observed(history, 7, 100)
    assert data is not None
    assert good_until(history, data, 5, 0.5) == pytest.approx(data.y[3])  # 2 + 0.5 * (6 - 2)
    assert good_until(history, data, 5, 0.25) == pytest.approx(data.y[5])
    assert good_until(history, data, 5, 0.0) == data.y.min()
    history.add(Job(7, {"x": 0.0, "y": 1.0}))
    history.add(Result(7, "failed"))
    data = observed(history, 8, 100)
    assert data is not None
    assert good_until(history, data, 5, 0.5) == pytest.approx(data.y[3])


def test_more_and_more_jobs_are_for_different_ones() -> None:
    hundred = [_different(number, Budget(trials=100)) for number in range(100)]
    assert not any(hundred[:20]) and all(hundred[61:])
    assert sum(hundred[20:40]) < sum(hundred[40:60]) and sum(hundred[20:60]) == pytest.approx(20, abs=3)
    assert sum(_different(number, Budget()) for number in range(100)) == 50


def valley(config: Config) -> float:
    """One hyperparameter matters, one a little, one not at all."""
    return (config["x"] - 1.0) ** 2 + 0.01 * config["y"] ** 2


def test_more_different_good_ones_than_other_methods_find() -> None:
    space, counts = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0), z=Float(-5.0, 5.0)), {}
    for method in (GFlowNet(), GaussianProcess(batch=10), Random()):
        history = simulate(method, valley, space, Budget(trials=50), batch=10)
        values = history.values[:, 0]
        rows = np.argsort(values)[: (values < values.min() + 0.2).sum()]
        counts[type(method).__name__] = len(first_apart(space, history.codes[rows], history.mask[rows], 0.1))
    assert counts["GFlowNet"] >= 2 * max(counts["GaussianProcess"], counts["Random"]), counts
