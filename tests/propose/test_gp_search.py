"""Candidates and their maximiser: valid, distinct, near what they should be near, and at the maximum."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.propose.gaussian_process.candidates import around, neighbours, perturb
from luthier.propose.gaussian_process.design import sobol
from luthier.propose.gaussian_process.search import APART, maximise
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.space.encoder import Encoding, Points, encoding_of, keys
from luthier.testing import SPACES

SPACE = Space(
    lr=Float(1e-5, 1.0, log=True),
    width=Int(8, 5000, log=True),
    depth=Int(1, 4),
    order=Choice([1, 2, 3, 4], ordered=True),
    optimizer=Choice(["sgd", "adam", "rms"]),
    momentum=Float(0.0, 0.9, shape=(2,), when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd", "depth": [3, 4]}),
    decay=Int(0, 3, when={"nesterov": True}),
    constant=Int(3, 3),
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_exact(encoding: Encoding, points: Points) -> None:
    """The points are the codes and masks of the configurations that they decode to."""
    codes, mask = encoding.space.encode(encoding.space.decode(points.codes))
    np.testing.assert_array_equal(points.mask, mask)
    np.testing.assert_allclose(points.codes, codes, atol=1e-9)


@pytest.mark.parametrize("space", [SPACE, *SPACES.values()], ids=["all kinds", *SPACES])
def test_candidates_are_configurations(space: Space) -> None:
    encoding = encoding_of(space)
    points = encoding.sample(rng(), 500)
    assert_exact(encoding, points)
    best = points.take(slice(0, 5))
    for scale in (0.01, 0.3):
        assert_exact(encoding, perturb(encoding, best, 100, scale, rng(1), spread=0.7))
    assert_exact(encoding, neighbours(encoding, best, rng(2)))
    assert_exact(encoding, around(encoding, best, 50, 50, rng(3)))


def test_uniform_candidates_are_as_likely_as_the_spaces_own() -> None:
    ours = encoding_of(SPACE).sample(rng(), 4000)
    own, _ = SPACE.encode(SPACE.sample(rng(1), 4000))
    np.testing.assert_allclose(ours.codes.mean(axis=0), own.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(ours.codes.std(axis=0), own.std(axis=0), atol=0.03)


def test_names_that_become_active_are_drawn_from_their_whole_range() -> None:
    encoding = encoding_of(SPACE)
    parent = encoding.points([{"lr": 0.1, "width": 64, "depth": 3, "order": 2, "optimizer": "adam", "constant": 3}])
    children = perturb(encoding, parent, 3000, 0.1, rng())
    born = children.mask[:, 5]
    assert 300 < born.sum() < 2000
    low, high = np.quantile(children.codes[born, 5], [0.1, 0.9])
    assert 0.05 < low < 0.15 and 0.85 < high < 0.95


def test_a_perturbation_changes_something_and_stays_near() -> None:
    space = SPACES["floats"]
    encoding = encoding_of(space)
    parent = encoding.points([space.decode([[0.5, 0.5, 1.0]])[0]])
    children = perturb(encoding, parent, 2000, 0.05, rng()).codes
    moved = np.abs(children - parent.codes)
    assert (
        moved.max(axis=1).min() >= 0 and (moved.max(axis=1) > 0).mean() > 0.7
    )  # at a bound, half of the moves are cut
    assert (moved[:, :2] > 0).any(axis=1).mean() > 0.5
    assert moved.max() < 0.3
    assert (children[:, 2] == 1.0).mean() > 0.4


def test_neighbours_differ_in_one_option_each_and_are_all_there() -> None:
    encoding = encoding_of(SPACE)
    config: Config = {"lr": 0.1, "width": 64, "depth": 2, "order": 2, "optimizer": "adam", "constant": 3}
    found = SPACE.decode(neighbours(encoding, encoding.points([config]), rng()).codes)
    changes = [{name for name in config if near.get(name) != config[name]} - {"lr", "width"} for near in found]
    assert sorted(min(c) for c in changes) == ["depth"] * 3 + ["optimizer"] * 2 + ["order"] * 3
    assert all(len(c) == 1 for c in changes)
    wide = Space(x=Choice([f"option {i}" for i in range(500)]), y=Float(0, 1))
    assert len(neighbours(encoding_of(wide), encoding_of(wide).sample(rng(), 1), rng()).codes) in (49, 50)


def test_features_of_options_are_one_apart_and_inactive_ones_in_the_middle() -> None:
    space = Space(a=Choice(["x", "y", "z"]), b=Choice(["u", "v", "w"], when={"a": "x"}), c=Choice([0, 1]))
    encoding = encoding_of(space)
    configs: list[Config] = [
        {"a": "x", "b": "u", "c": 0},
        {"a": "x", "b": "w", "c": 0},
        {"a": "y", "c": 0},
        {"a": "y", "c": 1},
    ]
    features = encoding.features(encoding.points(configs))
    squared = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared[0, 1], 1.0)
    np.testing.assert_allclose(squared[0, 2], 1.0 + (1 - 1 / 3) / 2)
    np.testing.assert_allclose(squared[2, 3], 0.25)
    assert encoding.groups.tolist() == [0, 0, 0, 1, 1, 1, 2] and encoding.warped.tolist() == []


def test_the_search_finds_the_maximum_of_a_mixed_function() -> None:
    space = Space(x=Float(0, 1), y=Float(0, 1), z=Choice(list("abcde")), w=Int(1, 100, log=True))
    encoding = encoding_of(space)
    target = encoding.points([{"x": 0.123, "y": 1.0, "z": "d", "w": 37}]).codes

    def acquisition(points: Points) -> np.ndarray:
        return -np.abs(points.codes - target).sum(axis=1)

    for seed in range(5):
        best = encoding.sample(rng(seed), 5)
        code = maximise(acquisition, encoding, best, set(), np.empty((0, 4)), rng(seed + 10))
        assert code is not None
        [found] = space.decode([code])
        assert found["z"] == "d" and abs(found["x"] - 0.123) < 0.02 and found["y"] > 0.98 and abs(found["w"] - 37) <= 3


def test_what_was_seen_is_left_out_and_running_jobs_are_kept_apart_from() -> None:
    space = Space(a=Int(0, 9), b=Choice([True, False]))
    encoding = encoding_of(space)
    everything = encoding.all_points
    assert len(set(keys(everything.codes))) == space.size == 20

    def acquisition(points: Points) -> np.ndarray:
        return points.codes[:, 0]

    seen: set[bytes] = set()
    for i in range(20):
        code = maximise(acquisition, encoding, everything.take(slice(0, 1)), seen, np.empty((0, 2)), rng())
        assert code is not None and encoding.space.decode([code])[0]["a"] == 9 - i // 2
        seen.update(keys(code[None]))
    assert maximise(acquisition, encoding, everything.take(slice(0, 1)), seen, np.empty((0, 2)), rng()) is None

    floats = Space(x=Float(0, 1), y=Float(0, 1))
    running = np.array([[1.0, 0.3]])
    code = maximise(
        acquisition, encoding_of(floats), encoding_of(floats).points([{"x": 1.0, "y": 0.3}]), set(), running, rng()
    )
    assert code is not None and np.sqrt(((code - running) ** 2).mean()) >= APART and code[0] > 0.97


def test_the_design_is_even_in_every_column_and_differs_between_studies() -> None:
    points = np.array([sobol(11, n, Seeds(3)) for n in range(8)])
    for column in points.T:
        assert np.all(np.sort(np.floor((column - column.min()) * 8 + 1e-9)) == np.arange(8))
    assert not np.allclose(points[0], sobol(11, 0, Seeds(4)))
