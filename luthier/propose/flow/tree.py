"""The tree over a space: columns set one after another, each to one of its bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from luthier.checks import checked, whole
from luthier.errors import MethodError
from luthier.propose.flow.bins import Bins, cut
from luthier.propose.flow.conditions import Requirements, automaton, groups, logs
from luthier.space import Config, Space

LARGEST_TREE = 2**20  # leaves that are still enumerated


@dataclass(frozen=True, eq=False)
class Leaves:
    """Complete configurations.

    Args:
        codes: (n, columns) float64 in [0, 1] as :meth:`luthier.Space.encode` has them; 0.5 where inactive.
        actions: (n, columns) int32, the bin of each column; -1 where inactive.
    """

    codes: np.ndarray
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    @cached_property
    def mask(self) -> np.ndarray:
        """(n, columns) bool, which columns are active."""
        return self.actions >= 0

    def take(self, index: np.ndarray | slice) -> Leaves:
        """Some of them."""
        return Leaves(self.codes[index], self.actions[index])


class Tree:
    """The tree of all configurations of a space.

    The root is the empty configuration. At level l an action sets column l of the space's codec to one of its bins; a
    column whose conditions do not hold is skipped. A vector of d floats is d levels.

    Args:
        space: The space.
        bins: Most bins of a Float, an Int and an ordered Choice; every option of an unordered Choice is one.

    Raises:
        MethodError: If ``bins`` is not a whole number above zero.

    Examples:
        >>> from luthier.space import Choice, Float, Space
        >>> tree = Tree(Space(a=Choice(["x", "y", "z"]), b=Float(0.0, 1.0, when={"a": "z"})), bins=4)
        >>> tree.size, tree.all.actions.tolist()
        (6, [[0, -1], [1, -1], [2, 0], [2, 1], [2, 2], [2, 3]])
        >>> tree.configs(tree.all)[-1]
        {'a': 'z', 'b': 0.875}
    """

    def __init__(self, space: Space, bins: int = 16) -> None:
        self.space, self.bins = space, checked("bins", bins, whole(1), where="tree")
        first = {}
        for i, column in enumerate(space.columns):
            first.setdefault(column.name, i)
        asked: dict[str, list[list[int]]] = {name: [] for name in space}
        for conditions in space.conditions.values():
            for other, values in conditions.items():
                asked[other].append(_indices(space, other, values))
        cuts = {name: cut(space[name], bins, asked[name]) for name in space}
        self.columns: list[Bins] = [cuts[column.name] for column in space.columns]
        self.levels = len(self.columns)
        self.widths = [column.count for column in self.columns]  # actions at each level
        requirements = _requirements(space, first, cuts)
        self._automata = [automaton(g, self.widths, requirements) for g in groups(self.levels, requirements)]
        self._places: dict[int, tuple[int, int]] = {  # level: (its automaton, its place there)
            level: (c, i) for c, one in enumerate(self._automata) for i, level in enumerate(one.levels)
        }
        self._before = [
            [sum(m < level for m in one.levels) for one in self._automata] for level in range(self.levels + 1)
        ]

    @cached_property
    def size(self) -> int:
        """Number of leaves, exactly."""
        free = math.prod(width for level, width in enumerate(self.widths) if level not in self._places)
        return free * math.prod(one.counts[0][0] for one in self._automata)

    @property
    def enumerable(self) -> bool:
        """True if there are few enough leaves to list them all."""
        return self.size <= LARGEST_TREE

    # --- walking down: a walk's state is one automaton state for each group of tied levels

    def start(self, count: int) -> np.ndarray:
        """The states of ``count`` walks at the root, (count, groups)."""
        return np.zeros((count, len(self._automata)), dtype=np.int64)

    def active(self, level: int, state: np.ndarray) -> np.ndarray:
        """Return where the level is to be set, (n,) bool; elsewhere it is skipped. All its bins are legal."""
        if level not in self._places:
            return np.ones(len(state), dtype=bool)
        c, i = self._places[level]
        return self._automata[c].active[i][state[:, c]]

    def step(self, level: int, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The states after the actions at a level, (n,), -1 where it is inactive."""
        if level not in self._places:
            return state
        c, i = self._places[level]
        after = state.copy()
        after[:, c] = self._automata[c].following[i][state[:, c], actions]
        return after

    def log_below(self, level: int, state: np.ndarray) -> np.ndarray:
        """Log number of leaves below each action, (n, actions); meaningless where the level is inactive."""
        free = sum(math.log(self.widths[m]) for m in range(level + 1, self.levels) if m not in self._places)
        total = np.full((len(state), self.widths[level]), free, dtype=np.float64)
        for c, one in enumerate(self._automata):
            counts = logs(one.counts[self._before[level + 1][c]])
            mine = level in self._places and self._places[level][0] == c
            after = one.following[self._places[level][1]][state[:, c], :-1] if mine else state[:, c, None]
            total += counts[after]
        return total

    # --- leaves

    @cached_property
    def all(self) -> Leaves:
        """Every leaf, at the centres of its bins, in lexicographic order: the last column changes fastest.

        Raises:
            MethodError: If there are more than about a million.
        """
        if not self.enumerable:
            raise MethodError(
                f"the tree has {self.size:.3g} leaves, and {LARGEST_TREE} are enumerated at most",
                where="tree",
                remedy="Use fewer bins, or a learnt sampler.",
            )
        actions, state = np.zeros((1, self.levels), dtype=np.int32), self.start(1)
        for level, width in enumerate(self.widths):
            on = self.active(level, state)
            repeats = np.where(on, width, 1)
            begin = np.repeat(np.cumsum(repeats) - repeats, repeats)
            actions, state = np.repeat(actions, repeats, axis=0), np.repeat(state, repeats, axis=0)
            actions[:, level] = np.where(np.repeat(on, repeats), np.arange(len(actions)) - begin, -1)
            state = self.step(level, state, actions[:, level])
        return self.place(actions)

    def rank(self, leaves: Leaves) -> np.ndarray:
        """The place of each leaf in :attr:`all`, (n,)."""
        total, state = np.zeros(len(leaves), dtype=np.int64), self.start(len(leaves))
        for level in range(self.levels):
            actions = leaves.actions[:, level]
            on = self.active(level, state)
            # exact: the numbers of leaves of an enumerable tree are small
            below = np.rint(np.exp(self.log_below(level, state[on]))).astype(np.int64)
            earlier = np.cumsum(below, axis=1) - below
            total[on] += earlier[np.arange(len(earlier)), actions[on]]
            state = self.step(level, state, actions)
        return total

    def place(self, actions: np.ndarray, uniform: np.ndarray | None = None) -> Leaves:
        """Leaves of actions, (n, columns), at fractions ``uniform``, (n, columns), of their bins, or in the middle."""
        codes = np.full(actions.shape, 0.5)
        for level, column in enumerate(self.columns):
            on = np.flatnonzero(actions[:, level] >= 0)
            chosen = actions[on, level]
            codes[on, level] = column.centres[chosen] if uniform is None else column.place(chosen, uniform[on, level])
        return Leaves(codes, actions.astype(np.int32, copy=False))

    def leaves(self, configs: Sequence[Config]) -> Leaves:
        """The leaves in which configurations lie, with the configurations' own codes.

        A condition on one exact value of a Float has probability zero, and never holds here.

        Raises:
            ConfigError: If a configuration does not belong to the space.
        """
        codes, _ = self.space.encode(configs)
        actions, state = np.full(codes.shape, -1, dtype=np.int32), self.start(len(codes))
        for level, column in enumerate(self.columns):
            on = self.active(level, state)
            actions[on, level] = column.at(codes[on, level])
            state = self.step(level, state, actions[:, level])
        codes[actions < 0] = 0.5
        return Leaves(codes, actions)

    def configs(self, leaves: Leaves) -> list[Config]:
        """The configurations at the codes of leaves."""
        return self.space.decode(leaves.codes)

    def log_density(self, leaves: Leaves) -> np.ndarray:
        """Logarithm of the density of the codes (of Floats) and the probability of the values, given the leaf, (n,)."""
        total = np.zeros(len(leaves))
        for level, column in enumerate(self.columns):
            on = np.flatnonzero(leaves.actions[:, level] >= 0)
            total[on] += column.log_density(leaves.actions[on, level], leaves.codes[on, level])
        return total

    def log_volume(self, leaves: Leaves) -> np.ndarray:
        """Logarithm of the probability that :meth:`luthier.Space.sample` falls into the bins of each leaf, (n,).

        Added to a log reward, it makes the target independent of how many bins there are, and of how many of them a
        conditional name adds to its branch.
        """
        total = np.zeros(len(leaves))
        for level, column in enumerate(self.columns):
            on = np.flatnonzero(leaves.actions[:, level] >= 0)
            total[on] += np.log(np.diff(column.edges))[leaves.actions[on, level]]
        return total


def _indices(space: Space, name: str, values: Sequence) -> list[int]:
    """Values of a finite domain, counted from the lowest."""
    domain = space[name]
    return [] if domain.continuous else [domain.index(value) for value in values]


def _requirements(space: Space, first: dict[str, int], cuts: dict[str, Bins]) -> Requirements:
    found: dict[int, dict[int, np.ndarray]] = {}
    for i, column in enumerate(space.columns):
        for other, values in space.conditions.get(column.name, {}).items():
            bins = cuts[other]
            accepted = np.isin(bins.firsts, _indices(space, other, values))
            if bins.domain.continuous:
                accepted = np.zeros(bins.count, dtype=bool)
            found.setdefault(i, {})[first[other]] = accepted
    return found
