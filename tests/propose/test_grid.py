"""Grid search: which points, in which order, and which grids are refused."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from luthier.errors import MethodError
from luthier.jobs import Budget, History
from luthier.propose import Grid
from luthier.propose.grid import _shuffled
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space


def configs(grid: Grid, space: Space, trials: int | None = None, seed: int = 0) -> list[Config]:
    jobs = grid.bind(Budget(trials=trials)).propose(History(space), 10_000, Seeds(seed))
    assert [job.number for job in jobs] == list(range(len(jobs)))
    for job in jobs:
        assert space.check(job.config) == job.config
    return [job.config for job in jobs]


def axis(domain: Any, points: Any) -> list[Any]:
    return [config["x"] for config in configs(Grid(points=points), Space(x=domain))]


@pytest.mark.parametrize(
    ("domain", "points", "values"),
    [
        (Float(0.0, 1.0), 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Float(-1.0, 3.0), 2, [-1.0, 3.0]),
        (Float(0.0, 1.0), 1, [0.5]),
        (Float(1e-4, 1.0, log=True), 5, [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (Float(0.3, 0.7, log=True), 2, [0.3, 0.7]),
        (Int(0, 10), 3, [0, 5, 10]),
        (Int(1, 4), 9, [1, 2, 3, 4]),
        (Int(7, 7), 3, [7]),
        (Int(1, 1024, log=True), 6, [1, 4, 16, 64, 256, 1024]),
        (Int(1, 8, log=True), 7, [1, 2, 3, 4, 6, 8]),  # seven points, two of which round to 2
        (Choice(["a", None, True]), 2, ["a", None, True]),
        (Float(0.0, 1.0), {"x": 3}, [0.0, 0.5, 1.0]),
        (Float(0.0, 1.0), {"x": [0.9, 0.1, 0.9, 1]}, [0.9, 0.1, 1.0]),
        (Int(1, 9), {"x": np.array([3, 1])}, [3, 1]),
        (Choice(["a", "b", "c"]), {"x": ["c", "a"]}, ["c", "a"]),
        (Int(0, 100), {}, [0, 25, 50, 75, 100]),
    ],
)
def test_the_points_of_one_axis(domain: Any, points: Any, values: list[Any]) -> None:
    found = axis(domain, points)
    assert [type(value) for value in found] == [type(value) for value in values]
    assert found == pytest.approx(values, rel=1e-12) if isinstance(values[0], float) else found == values


def test_bounds_are_hit_exactly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        low, high = sorted((10 ** rng.uniform(-9, 9, 2)).tolist())
        points = axis(Float(low, high, log=bool(rng.integers(2))), 4)
        assert (points[0], points[-1]) == (low, high)


def test_every_combination_once_the_last_name_fastest() -> None:
    space = Space(a=Float(0, 1), b=Choice(["x", "y", "z"]), c=Int(1, 2))
    found = [tuple(config.values()) for config in configs(Grid(points=2), space)]
    assert found == list(itertools.product([0.0, 1.0], "xyz", [1, 2]))
    assert Grid(points=2).size(space) == 12


CONDITIONAL = Space(
    optimizer=Choice(["sgd", "adam"]),
    momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
    layers=Int(1, 3),
    widths=Float(0.0, 1.0, shape=(2,), when={"layers": [2, 3]}),
    schedule=Choice(["cosine", "step"], when={"optimizer": "sgd", "layers": 3}),
    factor=Float(0.1, 0.9, when={"schedule": "step"}),
)


def test_conditional_names_vary_only_where_they_are_active() -> None:
    found = configs(Grid(points=3), CONDITIONAL)
    assert len({json.dumps(config) for config in found}) == len(found)
    # by hand: adam: 1 + 9 + 9; sgd: 3 momenta times (1 + 9 + 9 · (cosine 1 + step 3))
    assert len(found) == 19 + 3 * (1 + 9 + 9 * 4) == Grid(points=3).size(CONDITIONAL)
    assert {len(config.get("widths", [0, 0])) for config in found} == {2}


def test_values_that_a_condition_asks_for_are_on_the_grid() -> None:
    space = Space(n=Int(1, 100), x=Float(0, 1, when={"n": 42}))
    assert [config["n"] for config in configs(Grid(points=2), space)] == [1, 42, 42, 100]
    assert [config["n"] for config in configs(Grid(points={"n": [1, 2]}), space)] == [1, 2]  # the user's own list


def test_a_huge_grid_is_not_written_down() -> None:
    space = Space({f"x{i}": Float(0, 1) for i in range(30)})
    grid = Grid(points=10, shuffle=True).bind(Budget(trials=500))
    assert grid.size(space) == 10**30
    found = grid.propose(History(space), 500, Seeds(0))
    assert len({json.dumps(job.config) for job in found}) == 500
    means = np.array([list(job.config.values()) for job in found]).mean(axis=0)
    assert np.all(np.abs(means - 0.5) < 0.08)  # an even sample; unshuffled, all but the last names stay at 0


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 100, 257, 1000])
def test_shuffling_is_a_permutation(size: int) -> None:
    orders = [[_shuffled(i, size, Seeds(seed)) for i in range(size)] for seed in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(size))
    if size >= 16:
        assert orders[0] != orders[1]
        assert orders[0] != sorted(orders[0])


def test_shuffled_places_are_even() -> None:
    first = np.array([[_shuffled(i, 100, Seeds(seed)) for i in range(5)] for seed in range(400)])
    counts, _ = np.histogram(first, bins=10, range=(0, 100))
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi squared, 9 degrees of freedom, 0.1 %


def test_shuffling_visits_the_same_grid() -> None:
    def texts(shuffle: bool, seed: int = 0) -> list[str]:
        return [json.dumps(config) for config in configs(Grid(points=3, shuffle=shuffle), CONDITIONAL, seed=seed)]

    assert texts(True) != texts(False)
    assert texts(True) != texts(True, seed=1)
    assert sorted(texts(True)) == sorted(texts(False))


def test_it_ends_with_the_grid_or_the_budget() -> None:
    space = Space(a=Int(1, 4), b=Int(1, 4))
    assert len(configs(Grid(), space)) == 16
    assert len(configs(Grid(), space, trials=100)) == 16
    assert configs(Grid(), space, trials=5) == configs(Grid(), space)[:5]


def test_a_space_of_constants_has_one_configuration() -> None:
    assert configs(Grid(), Space(a=Int(3, 3), b=Choice(["only"]))) == [{"a": 3, "b": "only"}]


@pytest.mark.parametrize("points", [0, -1, 2.5, True, "5", None, [1, 2], {"lr": 0}, {"lr": []}, {"lr": "abc"}])
def test_points_that_are_none_are_refused_when_bound(points: Any) -> None:
    with pytest.raises(MethodError, match="is not a number of points"):
        Grid(points=points).bind(Budget())


@pytest.mark.parametrize(
    ("points", "space", "message"),
    [
        ({"lrr": 3}, Space(lr=Float(0, 1)), "Did you mean 'lr'"),
        ({"lr": [0.1, 2.0]}, Space(lr=Float(0, 1)), r"grid: lr: 2.0 is outside \[0.0, 1.0\]"),
        ({"n": [1.5]}, Space(n=Int(1, 3)), "1.5 is not a whole number"),
        ({"c": ["d"]}, Space(c=Choice(["a", "b"])), "'d' is not an option"),
        ({"c": 1}, Space(c=Choice(["a", "b"])), "1 points are asked of a Choice"),
        (3, Space(v=Float(0, 1, shape=(17,))), "a vector of 17 numbers is too large"),
        (10, Space({f"x{i}": Float(0, 1) for i in range(40)}), r"about 1e\+40 configurations"),
    ],
)
def test_grids_that_do_not_fit_the_space_are_refused(points: Any, space: Space, message: str) -> None:
    grid = Grid(points=points).bind(Budget())
    with pytest.raises(MethodError, match=message):
        grid.propose(History(space), 1, Seeds(0))
