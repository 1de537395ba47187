"""Fronts, ranks, crowding and hypervolume, against their definitions and against sums that are computed otherwise."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest

from luthier.errors import StudyError
from luthier.pareto import best_first, crowding, hypervolume, non_dominated, ranks

RNG = np.random.default_rng(0)


def dominates(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one <= other).all() and (one < other).any())


def inclusion_exclusion(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume of a union of boxes: of all of them, less of each two, and so on."""
    values = values[(values < reference).all(axis=1)]
    total = 0.0
    for size in range(1, len(values) + 1):
        for chosen in combinations(values, size):
            total += (-1) ** (size + 1) * float(np.prod(reference - np.max(chosen, axis=0)))
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [4, 1000])
def test_the_front_and_the_ranks_are_what_their_definitions_say(objectives: int, levels: int) -> None:
    values = RNG.integers(0, levels, (90, objectives)).astype(float)  # with few levels: ties and copies
    values[3, 0], values[4, -1] = np.nan, np.inf
    finite = [i for i in range(90) if i not in (3, 4)]
    front = {i for i in finite if not any(dominates(values[j], values[i]) for j in finite)}
    assert set(np.flatnonzero(non_dominated(values))) == front
    rank = ranks(values)
    assert set(np.flatnonzero(rank == 0)) == front
    assert rank[3] == rank[4] == rank.max() > rank[finite].max()
    for i in finite:  # the longest chain of rows that dominate each other up to this one
        above = [rank[j] for j in finite if dominates(values[j], values[i])]
        assert rank[i] == max(above, default=-1) + 1


def test_nothing_has_no_front() -> None:
    assert non_dominated(np.empty((0, 2))).shape == (0,) and ranks(np.empty((0, 3))).shape == (0,)
    assert not non_dominated(np.full((2, 2), np.nan)).any()
    assert hypervolume(np.empty((0, 2)), np.ones(2)) == 0.0


def test_crowding_is_the_distance_between_the_neighbours() -> None:
    values = np.array([[0.0, 10.0], [4.0, 2.0], [1.0, 5.0], [5.0, 0.0]])
    # of (1, 5): (4 - 0) / 5 + (10 - 2) / 10; of (4, 2): (5 - 1) / 5 + (5 - 0) / 10
    assert crowding(values).tolist() == [np.inf, pytest.approx(1.3), pytest.approx(1.6), np.inf]
    assert crowding(np.ones((3, 2))).tolist() == [0.0, 0.0, 0.0]
    assert np.isfinite(crowding(np.array([[-1e308, 1e308], [0.0, 0.0], [1e308, -1e308]]))[1])
    order = best_first(np.concatenate([values, values + 1.0]))
    assert set(order[:2]) == {0, 3} and order[2] == 2 and order[3] == 1 and min(order[4:]) > 3


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_hypervolume_is_the_volume_of_the_union_of_boxes(objectives: int) -> None:
    for rows in range(1, 11):
        values = RNG.random((rows, objectives)).round(1)  # rows that are equal in some objectives
        reference = RNG.uniform(0.5, 1.2, objectives)
        assert hypervolume(values, reference) == pytest.approx(inclusion_exclusion(values, reference), abs=1e-12)


def test_the_hypervolume_of_a_known_front() -> None:
    x = np.linspace(0, 1, 20_001)
    assert hypervolume(np.stack([x, 1 - np.sqrt(x)], axis=1), np.ones(2)) == pytest.approx(2 / 3, abs=1e-4)
    with pytest.raises(StudyError, match="reference"):
        hypervolume(np.ones((2, 2)), np.array([1.0, np.inf]))


@pytest.mark.parametrize("objectives", [2, 3])
def test_many_rows_take_little_time(objectives: int) -> None:
    values = RNG.random((20_000, objectives))
    clock = time.process_time()
    assert 3 < non_dominated(values).sum() < 500
    assert time.process_time() - clock < 2.0, "comparing all pairs takes a minute"
