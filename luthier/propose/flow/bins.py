"""One column of a space cut into bins: the actions that set it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from luthier.space import Choice, Domain, Int
from luthier.space.encoder import Levels, levels_of


@dataclass(frozen=True, eq=False)
class Bins:
    """The bins of a column.

    A Float has bins of equal length on its scale. An Int and an ordered Choice have one bin a value, or neighbouring
    values together where there are too many. Every option of an unordered Choice is a bin.

    Args:
        domain: The domain of the column.
        firsts: (bins,) int64, the first value of each bin, counted from the domain's lowest; of a Float its number.
    """

    domain: Domain
    firsts: np.ndarray

    @cached_property
    def count(self) -> int:
        """Number of bins."""
        return len(self.firsts)

    @cached_property
    def edges(self) -> np.ndarray:
        """(bins + 1,) codes at which the bins begin and end."""
        if self.domain.continuous:
            return np.arange(self.count + 1) / self.count
        inner = self.levels.code(self.firsts[1:] - 0.5)
        return np.concatenate([[0.0], inner, [1.0]])

    @cached_property
    def centres(self) -> np.ndarray:
        """(bins,) the code in the middle of each bin; of a value or several, that of the (middle) value."""
        middles = (self.edges[1:] + self.edges[:-1]) / 2
        if self.domain.continuous:
            return middles
        return np.where(self._several, self._snap(middles, np.arange(self.count)), self.levels.code(self.firsts))

    def at(self, codes: np.ndarray) -> np.ndarray:
        """The bin in which each code lies."""
        return np.clip(np.searchsorted(self.edges, codes, side="right") - 1, 0, self.count - 1)

    def place(self, bins: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """A code inside each bin, at a fraction of it: where it is a value of an Int or a Choice, that value's code."""
        codes = self.edges[bins] + uniform * (self.edges[bins + 1] - self.edges[bins])
        if self.domain.continuous:
            return codes
        return np.where(self._several[bins], self._snap(codes, bins), self.centres[bins])

    def log_density(self, bins: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Logarithm of the density (of a Float) or the probability (of a value) at ``codes``, given their bins."""
        widths = np.diff(self.edges)
        if self.domain.continuous:
            return -np.log(widths[bins])
        if not self._several.any():
            return np.zeros(len(bins))
        values = self._values(codes, bins)
        lower, upper = self.levels.code(values - 0.5).clip(0.0), self.levels.code(values + 0.5).clip(max=1.0)
        return np.where(self._several[bins], np.log((upper - lower) / widths[bins]), 0.0)

    @cached_property
    def _several(self) -> np.ndarray:
        """(bins,) whether it holds more than one value."""
        return np.diff(np.append(self.firsts, self.domain.levels or self.count)) > 1

    @property
    def levels(self) -> Levels:
        """The values of a finite domain."""
        levels = levels_of(self.domain)
        assert levels is not None, "the domain is finite"
        return levels

    def _values(self, codes: np.ndarray, bins: np.ndarray) -> np.ndarray:
        """The value at each code, kept inside its bin."""
        lasts = np.append(self.firsts[1:], self.levels.count) - 1
        return np.clip(self.levels.at(codes), self.firsts[bins], lasts[bins])

    def _snap(self, codes: np.ndarray, bins: np.ndarray) -> np.ndarray:
        return self.levels.code(self._values(codes, bins))


def cut(domain: Domain, bins: int, conditions: Sequence[Sequence[int]]) -> Bins:
    """The bins of a column.

    Args:
        domain: Its domain.
        bins: Most bins of a Float, an Int and an ordered Choice.
        conditions: The sets of values (counted from the lowest) that other names' conditions ask for: no bin holds both
            a value of such a set and one that is not in it, so that an action settles which names are active.
    """
    levels = levels_of(domain)
    if levels is None:
        return Bins(domain, np.arange(bins))
    if levels.count <= bins or (isinstance(domain, Choice) and not domain.ordered):
        return Bins(domain, np.arange(levels.count))
    low = domain.origin if isinstance(domain, Int) else 0  # an end in the middle of a value goes to the even one
    between = np.rint(levels.places(np.arange(1, bins) / bins) + low + 0.5).astype(np.int64) - low
    asked = [v for values in conditions for one in values for v in (one, one + 1) if (v in values) != (v - 1 in values)]
    firsts = np.unique(np.concatenate([[0], between, np.array(asked, dtype=np.int64)]))
    return Bins(domain, firsts[(firsts >= 0) & (firsts < levels.count)])
