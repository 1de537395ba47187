"""method="diverse": what a configuration has to improve on, batches, limits, settings. (See tests/contracts, too.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import Budget
from luthier.propose import Diverse, GaussianProcess, Random
from luthier.propose.diverse import marks_of
from luthier.propose.gaussian_process.acquisition import improvement_within
from luthier.propose.gaussian_process.fold import model
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Space
from luthier.space.distance import first_apart
from luthier.space.encoder import encoding_of
from luthier.testing import rebuild, simulate

PLACES = np.array([[0.2, 0.2, 0.2], [0.8, 0.8, 0.3], [0.3, 0.8, 0.8], [0.8, 0.2, 0.8]])
CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(3)})


def modes(config: Config) -> float:
    """Four modes of one height, 0 at each."""
    point = np.array([config[f"x{i}"] for i in range(3)])
    squared = ((point - PLACES) ** 2).mean(axis=1) / 0.04
    return float(1.0 - (1.0 / (1.0 + squared)).max())


def score(method: Any, seed: int, count: int = 4, apart: float = 0.2) -> float:
    """The mean of the best that are far apart."""
    history = simulate(method, modes, CUBE, Budget(trials=60), seed=seed, batch=4)
    order = np.argsort(history.values[:, 0])
    rows = first_apart(CUBE, history.codes[order], history.mask[order], apart, count)
    return float(history.values[order[rows], 0].mean())


def test_the_set_is_better_than_that_of_gp_and_of_random_search() -> None:
    found = {
        name: np.array([score(make(), seed) for seed in range(3)])
        for name, make in (
            ("diverse", lambda: Diverse(count=4, apart=0.2)),
            ("gp", GaussianProcess),
            ("random", Random),
        )
    }
    assert all(found["diverse"].mean() < 0.7 * found[other].mean() for other in ("gp", "random")), found


@pytest.mark.parametrize("count", [1, 3, 50])
def test_what_is_to_be_improved_on_is_the_set_member_nearby_or_its_last(count: int) -> None:
    space, apart = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0), kind=Choice(["a", "b"])), 0.2
    rng = np.random.default_rng(count)
    encoding = encoding_of(space)
    points, asked = encoding.sample(rng, 30), encoding.sample(rng, 40)
    levels = rng.normal(size=(30, 3))
    levels[5:9, 1] = np.inf  # these do not count in one world
    levels[:, 2] = np.inf  # and none does in another
    marks = marks_of(space, points, count, apart, levels)(asked)

    def gap(one: np.ndarray, other: np.ndarray) -> float:
        squares = [(one[i] - other[i]) ** 2 if i < 2 else float(one[i] != other[i]) for i in range(3)]
        return float(np.sqrt(sum(squares) / 3))

    for world in range(2):
        chosen: list[int] = []
        for row in sorted(range(30), key=lambda r: levels[r, world]):
            free = all(gap(points.codes[row], points.codes[other]) > apart for other in chosen)
            if np.isfinite(levels[row, world]) and free and len(chosen) < count:
                chosen.append(row)
        finite = levels[np.isfinite(levels[:, world]), world]
        last = levels[chosen[-1], world] if len(chosen) == count else finite.max()
        for code, mark in zip(asked.codes, marks[:, world], strict=True):
            near = [levels[row, world] for row in chosen if gap(code, points.codes[row]) <= apart]
            assert mark == min(near, default=last)
    assert np.isinf(marks[:, 2]).all()


def test_with_one_in_the_set_it_is_a_search_for_the_best() -> None:
    history = simulate(Diverse(count=1, apart=0.0), modes, CUBE, Budget(trials=50), batch=4)
    assert history.values.min() < 0.05


def test_a_batch_is_what_single_proposals_would_be_while_the_earlier_ones_are_running() -> None:
    history = simulate(Random(), modes, CUBE, Budget(trials=15))
    bound = Diverse(count=3).bind(Budget())
    batch = bound.propose(rebuild(history), 4, Seeds(1))
    for job in batch:
        assert bound.propose(history, 1, Seeds(1)) == [job]
        history.add(job)


def test_the_set_lies_within_limits() -> None:
    """Two of the four modes are outside of a limit: the set keeps out of them."""

    def task(config: Config) -> dict[str, float]:
        return {"loss": modes(config), "size": config["x0"]}

    settings: dict[str, Any] = {"space": CUBE, "trials": 50, "progress": False, "limits": {"size": (None, 0.5)}}
    study = lt.tune(task, Diverse(count=2, apart=0.2), **settings)
    several = study.diverse(2, within=1e9, by="loss", apart=0.2)
    assert all(one.metrics["size"] <= 0.5 for one in several) and len(several) == 2
    found = model(study.history, 8, 400)
    assert found is not None and 0 < found.inside.sum() < len(found.inside)
    encoding, told = encoding_of(CUBE), list[np.ndarray]()

    def marks(levels: np.ndarray) -> Any:
        told.append(levels)
        return lambda points: np.zeros((len(points.codes), levels.shape[1]))

    running, rng = encoding.sample(np.random.default_rng(0), 2), np.random.default_rng(0)
    improvement_within(found.posterior, found.inside, found.limits, encoding, running, rng, marks)
    assert (np.isfinite(told[0][:-2]) == found.inside[:, None]).all()  # what lies outside is in no set
    late = [row.metrics["size"] <= 0.5 for row in study.trials[20:]]
    assert np.mean(late) > 0.7


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": 0}, "count must be an integer ≥ 1, got 0"),
        ({"apart": 1.5}, "apart must be .*, got 1.5"),
        ({"initial": 1}, "initial must be an integer ≥ 2, got 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(MethodError, match=f"method diverse: {said}"):
        Diverse(**wrong).bind(Budget())


def test_several_objectives_are_refused_by_its_own_name() -> None:
    with pytest.raises(MethodError, match="method diverse: there are 2 objectives"):
        lt.tune(lambda config: {"a": 1.0, "b": 2.0}, "diverse", space=CUBE, trials=9, metric=["a", "b"], progress=False)
