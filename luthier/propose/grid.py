"""Grid search: every combination of a few values of each hyperparameter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from luthier.errors import ConfigError, MethodError
from luthier.jobs import Budget, History, Job
from luthier.propose.listed import drawn
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Domain, Float, Option, Space
from luthier.space.domain_checks import UNSET, plain
from luthier.space.finite import Finite
from luthier.space.space import LISTED
from luthier.space.values import key

POINTS = 5
LARGEST_VECTOR = 16
LARGEST_GRID = 2**120

Points = int | Mapping[str, int | Sequence[Option]]


@dataclass(frozen=True)
class Grid:
    """Grid search.

    A Float has evenly spaced points from bound to bound, on the logarithm where it is on a log scale; an Int the same,
    rounded and without repetitions; a Choice all of its options. Values that a condition of another name asks for are
    always included. Every element of a vector is an axis of its own. Conditional names vary only where they are
    active. The last name changes fastest.

    A budget smaller than the grid is fine, but then ``shuffle=True`` is wanted: without it only the first corner is
    visited, with it an even sample.

    Args:
        points: Points of every Float and Int; or for each name its points or its very values:
            ``{"lr": 7, "momentum": [0.0, 0.9]}``. Names left out have 5 points, or all of their options.
        shuffle: Visit the grid in an order drawn from the study's seed.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Int
        >>> space = Space(lr=Float(1e-4, 1e-2, log=True), layers=Int(1, 2))
        >>> jobs = Grid(points=3).propose(History(space), 4, Seeds(0))
        >>> [(job.config["lr"], job.config["layers"]) for job in jobs]
        [(0.0001, 1), (0.0001, 2), (0.001, 1), (0.001, 2)]
    """

    points: Points = POINTS
    shuffle: bool = False
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True
    learns_known: ClassVar[bool] = False  # it learns from no results at all

    def __post_init__(self) -> None:
        if isinstance(self.points, Mapping):
            points = {name: plain(p) for name, p in self.points.items()}
            lists = {name: [plain(v) for v in p] for name, p in points.items() if isinstance(p, list | tuple)}
            object.__setattr__(self, "points", points | lists)

    def bind(self, budget: Budget) -> Grid:
        """The same grid, ending after ``budget.trials`` configurations where the grid has more.

        Raises:
            MethodError: If the points are not numbers of points or lists of values.
        """
        given = self.points.items() if isinstance(self.points, Mapping) else [("points", self.points)]
        for name, points in given:
            listed = isinstance(points, list) and len(points) > 0
            number = isinstance(points, int) and not isinstance(points, bool) and points > 0
            if not number and not (listed and isinstance(self.points, Mapping)):
                remedy = 'Give a number of points, or {"name": number or list of values}.'
                raise MethodError(f"{points!r} is not a number of points", where=f"grid: {name}", remedy=remedy)
        return replace(self, budget=budget)

    def size(self, space: Space) -> int:
        """Number of configurations on the grid over ``space``."""
        return self._combinations(space).count

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next ``count`` configurations of the grid; none once it, or the budget's trials, are used up.

        Raises:
            MethodError: If the grid does not fit the space.
        """
        combinations = self._combinations(history.space)
        budget, first = self.budget or Budget(), len(history)
        trials = combinations.count if budget.trials is None else min(budget.trials, combinations.count)
        jobs = []
        for number in range(first, min(first + count, trials)):
            place = _shuffled(number, combinations.count, seeds) if self.shuffle else number
            config = combinations[place]
            jobs.append(Job(number, config, budget.steps_for(config)))
        return jobs

    def begins(self, space: Space, count: int, rng: np.random.Generator) -> list[Config]:
        """Some of the grid's configurations.

        Raises:
            MethodError: If the grid does not fit the space.
        """
        combinations = self._combinations(space)
        return [combinations[place] for place in drawn(combinations.count, count, rng)]

    def _combinations(self, space: Space) -> _Grid:
        return _combinations(space, json.dumps(self.points))  # JSON: 1, 1.0 and True are different keys


@dataclass(frozen=True)
class _Grid:
    """The configurations of a grid that the space's constraint allows, numbered from 0."""

    whole: Finite
    allowed: Sequence[int]

    @property
    def count(self) -> int:
        return self.whole.count if isinstance(self.allowed, range) else len(self.allowed)

    def __getitem__(self, number: int) -> Config:
        return self.whole[self.allowed[number]]


@lru_cache(maxsize=16)
def _combinations(space: Space, text: str) -> _Grid:
    """The grid over ``space`` for the points in ``text`` (JSON)."""
    points = json.loads(text)
    each = points if isinstance(points, dict) else {}
    for name in each:
        if name not in space:
            near = get_close_matches(name, space, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"The names are {', '.join(space)}."
            raise MethodError("there is no such hyperparameter in the space", where=f"grid: {name}", remedy=remedy)
    axes: dict[str, Sequence[Any]] = {}
    for name, domain in space.domains.items():
        axis = _axis(name, domain, each.get(name, POINTS if isinstance(points, dict) else points), name in each)
        asked: list[Any] = [v for parents in space.conditions.values() for v in parents.get(name, ())]
        if not isinstance(each.get(name), list) and not isinstance(domain, Choice):
            axis = sorted({*axis, *asked})
        if isinstance(domain, Float) and domain.shape and domain.width > LARGEST_VECTOR:
            what = f"a grid over a vector of {domain.width} numbers is too large"
            remedy = f"Use random search, or a vector of at most {LARGEST_VECTOR}."
            raise MethodError(what, where=f"grid: {name}", remedy=remedy)
        axes[name] = axis
    combinations = Finite(axes, space.domains, space.conditions)
    if combinations.count > LARGEST_GRID:
        what = f"the grid has about {float(combinations.count):.0e} configurations"
        raise MethodError(what, where="grid", remedy="Give fewer points or names, or use random search.")
    everything = range(combinations.count)
    if space.constraint is None:
        return _Grid(combinations, everything)
    if combinations.count > LISTED:
        what = f"the grid has {combinations.count:,} configurations, too many to try the constraint on each"
        raise MethodError(what, where="grid", remedy="Give fewer points or names, or use random search.")
    allowed = [n for n in everything if space.feasible(combinations[n])]
    if not allowed:
        raise MethodError("the constraint refuses every point of the grid", where="grid", remedy="Give more points.")
    return _Grid(combinations, allowed)


def _axis(name: str, domain: Domain, points: int | list[Any], named: bool) -> Sequence[Any]:
    """The values of one hyperparameter (of one element of a vector), distinct."""
    where = f"grid: {name}"
    scalar = replace(domain, shape=(), when=None, default=UNSET) if isinstance(domain, Float) else domain
    if isinstance(points, list):
        try:
            return list({key(value): value for value in (scalar.check(value, name) for value in points)}.values())
        except ConfigError as error:
            raise MethodError(error.what, where=where, remedy=error.remedy) from error
    if isinstance(scalar, Choice):
        if named:
            remedy = f"Leave {name!r} out for all of its options, or list those wanted: {list(scalar.options)!r}."
            raise MethodError(f"{points} points are asked of a Choice", where=where, remedy=remedy)
        return scalar.options
    if scalar.levels is not None and scalar.levels <= points:
        return list(scalar.axis or ())
    start, end = scalar.numbers([scalar.low, scalar.high])
    parts = [i / (points - 1) for i in range(points)] if points > 1 else [0.5]
    return list(dict.fromkeys(scalar.values([start + (end - start) * part for part in parts])))


def _shuffled(place: int, size: int, seeds: Seeds) -> int:
    """Return the target of the ``place``-th visit: a permutation of 0 … size - 1 that is never written down.

    A Feistel network permutes the next power of four; a place beyond the grid is permuted again until it is inside
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = max(2, ((size - 1).bit_length() + 1) // 2)
    ones = (1 << half) - 1
    while True:
        left, right = place >> half, place & ones
        for turn in range(6):
            left, right = right, left ^ (seeds.key(right, f"grid {turn}") & ones)
        place = left << half | right
        if place < size:
            return place
