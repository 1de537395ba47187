"""Moves: what population methods and local searches do to a configuration, always inside the space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import SPACE, rng, spaces

from luthier.space import Choice, Domain, Float, Int, Space


def moved(domain: Domain, value: Any, count: int = 300, **settings: Any) -> list[Any]:
    space, generator = Space(x=domain), rng()
    return [space.perturb({"x": value}, generator, **settings)["x"] for _ in range(count)]


def test_noise_is_gaussian_on_the_scale_of_the_domain() -> None:
    exponents = np.log10(moved(Float(1e-8, 1.0, log=True), 1e-4, scale=0.05))
    assert exponents.mean() == pytest.approx(-4, abs=0.1)
    assert exponents.std() == pytest.approx(8 * 0.05, rel=0.15)
    values = np.array(moved(Float(-10.0, 10.0), 0.0, scale=0.05))
    assert values.std() == pytest.approx(20 * 0.05, rel=0.15)


def test_noise_is_reflected_at_the_bounds() -> None:
    values = np.array(moved(Float(0.0, 1.0), 0.0, scale=0.2))
    assert values.min() > 0.0  # clipping would leave half of them on the bound
    assert values.mean() == pytest.approx(0.2 * math.sqrt(2 / math.pi), rel=0.2)


def test_factors_multiply_and_clip() -> None:
    assert set(moved(Float(1e-4, 1.0, log=True), 0.01, factors=(0.5, 2.0))) == {0.005, 0.02}
    assert set(moved(Float(0.0, 0.9), 0.8, factors=(0.5, 2.0))) == {0.4, 0.9}
    assert set(moved(Float(-4.0, 4.0), -1.0, factors=(0.5, 2.0))) == {-0.5, -2.0}
    assert set(moved(Int(1, 100), 10, factors=(0.8, 1.2))) == {8, 12}


def test_factors_cannot_get_stuck_at_zero() -> None:
    assert max(moved(Float(0.0, 1.0), 0.0, factors=(0.8, 1.2))) == pytest.approx(0.2)
    assert set(moved(Int(0, 9), 0, factors=(0.8, 1.2))) == {1, 2}  # 0.2 of the range up; down is outside, so up by 1


@pytest.mark.parametrize("settings", [{"factors": (0.9, 1.1)}, {"scale": 1e-3}])
@pytest.mark.parametrize("value", [1, 2, 3, 4])
def test_integers_move_by_at_least_one(value: int, settings: dict[str, Any]) -> None:
    near = {v for v in (value - 1, value + 1) if 1 <= v <= 4}
    assert set(moved(Int(1, 4), value, 40, **settings)) == near
    assert set(moved(Int(1, 4, log=True), value, 40, **settings)) == near


def test_options_move_to_neighbours_if_ordered_and_to_any_other_one_if_not() -> None:
    options = ["a", "b", "c", "d"]
    assert set(moved(Choice(options, ordered=True), "b")) == {"a", "c"}
    assert set(moved(Choice(options, ordered=True), "a")) == {"b"}
    counts = np.unique(moved(Choice(options), "b", 900), return_counts=True)
    assert counts[0].tolist() == ["a", "c", "d"]
    assert counts[1].min() > 240


def test_constants_stay() -> None:
    assert set(moved(Int(3, 3), 3, 9)) == {3}
    assert set(moved(Int(3, 3), 3, 9, factors=(0.5, 2.0))) == {3}
    assert set(moved(Choice([None]), None, 9)) == {None}
    assert Space(n=Int(3, 3), c=Choice(["a"])).neighbours({"n": 3, "c": "a"}, rng()) == []


def test_each_value_moves_with_the_given_probability() -> None:
    space = Space(v=Float(0, 1, shape=(400,)), n=Int(0, 1000))
    config = space.sample(rng(1))
    changed = space.perturb(config, rng(), probability=0.25)
    share = np.mean(np.array(changed["v"]) != np.array(config["v"]))
    assert 0.18 < share < 0.32  # every element by itself
    assert config == space.sample(rng(1))  # and the old one is as it was


def test_newly_active_names_are_drawn_and_inactive_ones_dropped() -> None:
    config = {"lr": 0.1, "layers": 1, "width": 16, "batch": 16, "optimizer": "sgd", "momentum": 0.5, "nesterov": True}
    draws = []
    for seed in range(200):
        near = SPACE.perturb(config, rng(seed))
        assert "momentum" not in near  # the optimizer always moves to another one
        assert len(near["dropout"]) == 3  # and one layer to two
        draws += near["dropout"]
    assert np.mean(draws) == pytest.approx(0.4, abs=0.05)
    assert np.ptp(draws) > 0.7


def test_values_outside_their_bounds_are_clipped_when_moved() -> None:
    space = Space(x=Float(0.0, 1.0), n=Int(1, 5), v=Float(0.0, 1.0, shape=(2,)))
    drifted = {"x": 1.0000001, "n": 9, "v": [-0.1, 0.5]}
    assert space.clip(drifted) == {"x": 1.0, "n": 5, "v": [0.0, 0.5]}
    for seed in range(20):
        for factors in (None, (0.8, 1.2)):
            near = space.perturb(drifted, rng(seed), factors=factors)
            assert space.check(near) == near


def test_moves_do_not_depend_on_the_order_of_the_dict() -> None:
    config = SPACE.sample(rng(5))
    other = dict(reversed(config.items()))
    assert SPACE.perturb(config, rng()) == SPACE.perturb(other, rng())
    assert SPACE.neighbours(config, rng()) == SPACE.neighbours(other, rng())


def test_neighbours_by_hand() -> None:
    space = Space(n=Int(1, 9), o=Choice([1, 2, 3, 4], ordered=True), c=Choice(["a", "c", "b"]))
    near = space.neighbours({"n": 5, "o": 1, "c": "a"}, rng(), count=0)
    assert near == [
        {"n": 4, "o": 1, "c": "a"},
        {"n": 6, "o": 1, "c": "a"},
        {"n": 5, "o": 2, "c": "a"},
        {"n": 5, "o": 1, "c": "c"},
        {"n": 5, "o": 1, "c": "b"},
    ]
    assert len(Space(v=Float(0, 1, shape=(5,))).neighbours({"v": [0.5] * 5}, rng(), count=7)) == 7


@given(spaces(), st.integers(0, 50), st.sampled_from([None, (0.8, 1.2), (0.5, 2.0)]), st.sampled_from([0.01, 0.2, 5.0]))
def test_perturbed_configurations_are_valid(
    space: Space, seed: int, factors: tuple[float, ...] | None, scale: float
) -> None:
    config = space.sample(rng(seed))
    for i in range(5):
        config = space.perturb(config, rng(i), scale=scale, factors=factors)
        assert repr(space.check(config)) == repr(config)
    assert space.perturb(config, rng(), probability=0.0) == config


@given(spaces(), st.integers(0, 50))
def test_neighbours_are_valid_and_differ_in_one_name(space: Space, seed: int) -> None:
    config = space.sample(rng(seed))
    for near in space.neighbours(config, rng(seed)):
        assert repr(space.check(near)) == repr(near)
        names = [name for name in space if name in near and name in config and near[name] != config[name]]
        assert len(names) == 1
        switched = near.keys() ^ config.keys()
        assert all(name in space.conditions for name in switched)
