"""A search space as every model sees it: codes of values, active columns, and features with their lengthscales.

A *code* is a row of :meth:`luthier.Space.encode`. Integers and options are always at the code of a value ("snapped"),
so that two candidates which are one configuration are one point for the model too; inactive columns are at 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, final

import numpy as np

from luthier.space.codec import Config
from luthier.space.domains import Domain, Int
from luthier.space.space import Space

SAME = 1e-7  # codes nearer than this in every column count as one configuration


class Points(NamedTuple):
    """Configurations as arrays.

    Args:
        codes: (points, columns) in [0, 1], snapped, 0.5 where inactive.
        mask: (points, columns) bool, which columns are active.
    """

    codes: np.ndarray
    mask: np.ndarray

    def take(self, rows: np.ndarray | slice | list[int]) -> Points:
        """Some of the points."""
        return Points(self.codes[rows], self.mask[rows])


def join(*parts: Points) -> Points:
    """All points, in order."""
    return Points(np.concatenate([p.codes for p in parts]), np.concatenate([p.mask for p in parts]))


def keys(codes: np.ndarray) -> list[bytes]:
    """Something hashable for each configuration; equal for equal ones."""
    return [row.tobytes() for row in np.rint(codes / SAME).astype(np.int64)]


@dataclass(frozen=True)
class Levels:
    """The values of a finite domain, counted from its lowest, and their codes.

    Args:
        domain: The domain.
        count: Number of values.
    """

    domain: Domain
    count: int

    @property
    def log(self) -> bool:
        """Equal codes are equal ratios; only of an Int."""
        return isinstance(self.domain, Int) and self.domain.log

    def at(self, codes: np.ndarray) -> np.ndarray:
        """Return the value that each code stands for, int64."""
        if not self.log:
            return np.minimum((codes * self.count).astype(np.int64), self.count - 1)
        return np.clip(np.floor(self.places(codes) + 0.5), 0, self.count - 1).astype(np.int64)

    def places(self, codes: np.ndarray) -> np.ndarray:
        """Return where codes lie among the values: whole at a value, a half between two."""
        if not self.log:
            return codes * self.count - 0.5
        start, length = self.domain.stretch
        return 10.0 ** (start + length * codes) - self.domain.low  # type: ignore[union-attr]

    def code(self, places: np.ndarray) -> np.ndarray:
        """Return the code of each value; of a half, that between two values."""
        if not self.log:
            return (places + 0.5) / self.count
        start, length = self.domain.stretch
        return (np.log10(self.domain.low + places) - start) / length  # type: ignore[union-attr]


def levels_of(domain: Domain) -> Levels | None:
    """Return the values of a domain; None where there are infinitely many."""
    return None if domain.levels is None else Levels(domain, domain.levels)


@final
class Encoding:
    """Sampling, snapping and features of one space. Create it with :func:`encoding_of`.

    Numbers and ordered options are one feature each, their code; the options of an unordered choice are one-hot
    divided by √2, so that two different ones are at distance 1. Inactive names lie in the middle: 0.5, or 1/K for each
    of K options. Constants have no feature.

    Args:
        space: The search space.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.width = len(space.columns)
        self.kinds = [column.kind for column in space.columns]
        self.levels = [levels_of(space[column.name]) for column in space.columns]
        self._conditional = _conditional(space)
        # groups: the lengthscale of each feature; warped: the features that have an input warp
        groups, self._sources = [], []
        warped: list[bool] = []
        for i, levels in enumerate(self.levels):
            if levels is not None and levels.count == 1:
                continue
            group = len(set(groups))
            hot = self.kinds[i] == "categorical" and levels is not None and levels.count > 2
            features = levels.count if hot and levels is not None else 1
            self._sources.append((i, features))
            groups += [group] * features
            # two values have one distance, whatever the warp
            warped += [self.kinds[i] != "categorical" and (levels is None or levels.count > 2)] * features
        self.groups = np.array(groups, dtype=np.intp)
        self.warped = np.flatnonzero(warped)

    def sample(self, rng: np.random.Generator, count: int) -> Points:
        """``count`` uniform configurations."""
        return self.complete(self.snap(rng.random((count, self.width))))

    def snap(self, codes: np.ndarray) -> np.ndarray:
        """Each code moved to that of the value it stands for."""
        snapped = codes.copy()
        for i, levels in enumerate(self.levels):
            if levels is not None:
                snapped[:, i] = levels.code(levels.at(codes[:, i]))
        return snapped

    def complete(self, codes: np.ndarray, before: np.ndarray | None = None, drawn: np.ndarray | None = None) -> Points:
        """Settle which columns are active.

        Args:
            codes: (points, columns), snapped; changed in place.
            before: (points, columns) which codes mean something; all by default.
            drawn: (points, columns) uniform numbers, for the codes of columns that are active now and were not before.
        """
        mask = np.ones(codes.shape, dtype=bool)
        for columns, parents in self._conditional:
            active = np.ones(len(codes), dtype=bool)
            for parent, accepted in parents:
                active &= mask[:, parent]
                active &= (np.abs(codes[:, parent, None] - accepted) < 1e-9).any(axis=1)
            absent = np.flatnonzero(~active)[:, None]
            mask[absent, columns] = False
            codes[absent, columns] = 0.5
            if before is not None and drawn is not None:
                fresh = active[:, None] & ~before[:, columns]
                rows = np.flatnonzero(fresh.any(axis=1))[:, None]
                if len(rows):
                    new = self.snap(drawn[rows[:, 0]])[:, columns]
                    codes[rows, columns] = np.where(fresh[rows[:, 0]], new, codes[rows, columns])
        return Points(codes, mask)

    def features(self, points: Points) -> np.ndarray:
        """Return the features that the kernel compares, (points, features)."""
        parts = []
        for i, count in self._sources:
            codes, levels = points.codes[:, i], self.levels[i]
            if count == 1 or levels is None:
                parts.append(codes[:, None])
                continue
            hot = np.zeros((len(codes), count))
            hot[np.arange(len(codes)), levels.at(codes)] = 1.0
            hot[~points.mask[:, i]] = 1.0 / count
            parts.append(hot * 0.5**0.5)
        return np.concatenate(parts, axis=1)

    @cached_property
    def all_points(self) -> Points:
        """Every configuration of a finite space."""
        finite, listed = self.space.finite, self.space.listed
        assert finite is not None and listed is not None, "there are few"
        return self.points([finite[i] for i in listed])

    def allowed(self, points: Points) -> np.ndarray:
        """Return a mask of the points that the constraint allows, (points,) bool."""
        if self.space.constraint is None:
            return np.ones(len(points.codes), dtype=bool)
        return np.array([self.space.feasible(config) for config in self.space.decode(points.codes)], dtype=bool)

    def points(self, configs: list[Config]) -> Points:
        """Configurations as points."""
        return Points(*self.space.encode(configs))


@lru_cache(maxsize=32)
def encoding_of(space: Space) -> Encoding:
    """The encoding of a space, made once."""
    return Encoding(space)


def _conditional(space: Space) -> list[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    """The distinct conditions: for each the columns that have it, and the accepted codes of each column it looks at.

    In the order of the space, so that what a condition looks at is settled before it.
    """
    columns: dict[str, list[int]] = {}
    for i, column in enumerate(space.columns):
        columns.setdefault(column.name, []).append(i)
    under: dict[str, list[int]] = {}
    parents: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, conditions in space.conditions.items():
        text = repr(conditions)
        under.setdefault(text, []).extend(columns[name])
        parents[text] = []
        for other, values in conditions.items():
            domain = space[other]
            start, length = domain.stretch
            parents[text].append((columns[other][0], (np.array(domain.numbers(values)) - start) / length))
    return [(np.array(under[text]), parents[text]) for text in under]
