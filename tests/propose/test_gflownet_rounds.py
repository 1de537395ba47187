"""What a GFlowNet proposes in a study: jobs that are better and jobs that are different."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.jobs import Budget, History, Job, Result
from luthier.propose import GaussianProcess, GFlowNet, Random
from luthier.propose.flow import Settings, Tree
from luthier.propose.gaussian_process.fold import observed
from luthier.propose.gflownet import _improving, good_until
from luthier.propose.process_surrogate import Where, process_of
from luthier.propose.rounds import WORTH, Known, Making, Round, apart_from, nearly_best, round_of
from luthier.propose.surrogate import Surrogate
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Space
from luthier.space.distance import distances, first_apart
from luthier.space.encoder import Points, encoding_of, join, keys
from luthier.testing import simulate

SQUARE = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))


def ring(config: Config) -> float:
    """Zero on a circle of radius 3."""
    return float((np.hypot(config["x"], config["y"]) - 3.0) ** 2)


def flat(leaves: Where) -> np.ndarray:
    return np.zeros(len(leaves.codes))


def round_after(count: int, method: str | None = None, ensemble: bool = False) -> Round:
    """A round after results on the ring."""
    points = encoding_of(SQUARE).sample(np.random.default_rng(0), count)
    y = np.array([ring(config) for config in SQUARE.decode(points.codes)])
    y = (y - y.mean()) / y.std()
    making = Making(Tree(SQUARE, 8), None, 20.0, Settings(evaluations=500, hidden=16), method, 0.1, 0)
    model = Surrogate().fit_points(SQUARE, *points, y, 0) if ensemble else process_of(SQUARE, points, y)
    return round_of(making, model, Known(points, y, float(np.quantile(y, 0.2))), np.random.default_rng(2))


def drawn(found: Round, improving: bool, near: Points, seed: int) -> Points:
    """One draw as a point."""
    code = found.draw(improving, set(), near, np.random.default_rng(seed))
    assert code is not None
    return Points(code[None], np.ones((1, 2), dtype=bool))


def values(points: Points) -> np.ndarray:
    return np.array([ring(config) for config in SQUARE.decode(points.codes)])


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("method", ["exact", "learnt"])
def test_different_ones_are_apart_from_good_ones_and_from_one_another(method: str, ensemble: bool) -> None:
    found = round_after(60, method, ensemble)
    near = found.known.good.take([])
    for number in range(4):
        point = drawn(found, False, near, number)
        assert distances(SQUARE, *point, *join(found.known.good, near)).min() > 0.1
        near = join(near, point)
    assert np.median(values(near)) < 1.0, "the median of random ones is 2"


def test_a_different_one_is_where_a_good_result_is_most_likely() -> None:
    """By enumeration: a fine grid has none apart from the good ones that is much more likely."""
    found = round_after(60, "exact")
    codes = np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 101)] * 2), axis=-1).reshape(-1, 2)
    grid = Points(codes, np.ones(codes.shape, dtype=bool))
    reward = apart_from(SQUARE, found.known.good, 0.1, nearly_best(found.model, found.known.limit))
    nothing = found.known.good.take([])
    highest = [float(reward(drawn(found, False, nothing, seed))[0]) for seed in range(5)]
    assert min(highest) > reward(grid).max() - 0.01


def test_samples_come_in_proportion_to_their_reward() -> None:
    """Places and a beta that are given: how often each leaf is the first sample, beside R^beta by enumeration."""
    found = round_after(60, "exact")
    found = found._replace(making=found.making._replace(beta=0.5))
    nothing = found.known.good.take([])
    counts = np.zeros(found.making.tree.size)
    for seed in range(4_000):
        first = found._samples(nothing, np.random.default_rng(seed)).take([0])
        counts[int((first.codes[0, 0] * 8) // 1) * 8 + int((first.codes[0, 1] * 8) // 1)] += 1
    truth = np.exp(0.5 * found.places.heights)
    assert np.abs(counts / counts.sum() - truth / truth.sum()).sum() < 0.08


def test_better_ones_are_near_the_best_and_not_where_a_job_is_running() -> None:
    found = round_after(60)
    found = found._replace(known=found.known._replace(limit=found.known.best))  # any improvement is worth a job
    nothing = found.known.good.take([])
    first = drawn(found, True, nothing, 0)
    assert values(first)[0] < 0.1
    again = join(*[drawn(found, True, nothing, seed) for seed in range(1, 6)])
    moved = join(*[drawn(found, True, first, seed) for seed in range(1, 6)])
    assert distances(SQUARE, *moved, *first).min() > distances(SQUARE, *again, *first).max()


def test_an_improvement_that_is_not_worth_a_job_is_left_for_a_different_one() -> None:
    found = round_after(60)
    nothing, best = found.known.good.take([]), found.known.best
    code, gain = found._better(set(), nothing, np.random.default_rng(0))
    assert code is not None and gain > 0.0
    for part, better in ((0.99, True), (1.01, False)):
        other = found._replace(known=found.known._replace(limit=best + part * gain / WORTH))
        point = drawn(other, True, nothing, 0)
        assert bool((point.codes[0] == code).all()) == better
        assert better or distances(SQUARE, *point, *other.known.good).min() > 0.1


def test_where_all_was_seen_there_is_no_code() -> None:
    space = Space(n=Choice([1, 2, 3, 4]))
    points = encoding_of(space).all_points
    known = Known(points, np.arange(4.0), 1.0)
    making = Making(Tree(space, 4), None, 20.0, Settings(), None, 0.1, 0)
    found = round_of(making, process_of(space, points, known.y), known, np.random.default_rng(0))
    for seen, one in ((keys(points.codes), None), (keys(points.codes[:3]), 3)):
        for improving in (True, False):
            code = found.draw(improving, set(seen), points.take([]), np.random.default_rng(0))
            assert (code is None) if one is None else np.array_equal(code, points.codes[one])


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


def test_in_the_end_no_job_is_for_a_better_one() -> None:
    hundred = [_improving(number, Budget(trials=100), 0) for number in range(100)]
    assert all(hundred[:60]) and not any(hundred[60:])
    assert all(_improving(number, Budget(), 0) for number in range(100)), "without a known end the improvement decides"
    rest = [_improving(number, Budget(trials=100), 50) for number in range(50, 100)]
    assert all(rest[:30]) and not any(rest[30:]), "of what another method has left of the budget"


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


def test_rounds_are_kept_for_the_next_one_alone() -> None:
    method = GFlowNet(batch=4, initial=4).bind(Budget(trials=24))
    history, seeds = History(SQUARE), Seeds(0)
    for number in range(24):
        (job,) = method.propose(history, 1, seeds)
        history.add(job)
        history.add(Result(number, "ok", {"loss": ring(job.config)}))
    rounds = history.fold(("gflownet", method, seeds), dict, lambda state, event: state)
    assert sorted(rounds) == [4, 5]
