"""Activity of the columns as small automata, one for each group of names that conditions tie together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.errors import MethodError

LARGEST = 100_000  # states of one automaton at one column

Requirements = Mapping[int, Mapping[int, np.ndarray]]
"""For each conditional level, each level it looks at: (bins,) bool, under which of its bins it may be active."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """The state of a group of tied levels while they are set one after another.

    A state says which of the levels to come are ruled out by the actions so far. The lists have one entry a level of
    the group, in order.

    Args:
        levels: The levels of the group.
        active: (states,) bool, whether the level is active.
        following: (states, bins + 1), the state after each action; the last column is that of "inactive".
        counts: (states,) as Python integers: the ways to set this level and those after it. One entry more, for after
            the last level.
    """

    levels: list[int]
    active: list[np.ndarray]
    following: list[np.ndarray]
    counts: list[list[int]]


def groups(levels: int, requirements: Requirements) -> list[list[int]]:
    """The sets of levels that are tied together by conditions; levels without any are left out."""
    root = list(range(levels))

    def find(level: int) -> int:
        while root[level] != level:
            level = root[level]
        return level

    for level, parents in requirements.items():
        for parent in parents:
            root[find(level)] = find(parent)
    tied = {level for level, parents in requirements.items() for level in (level, *parents)}
    found: dict[int, list[int]] = {}
    for level in sorted(tied):
        found.setdefault(find(level), []).append(level)
    return list(found.values())


def automaton(levels: Sequence[int], bins: Sequence[int], requirements: Requirements) -> Automaton:
    """The automaton of one group.

    Args:
        levels: The group, in order.
        bins: Number of bins of every level of the tree.
        requirements: Requirements of every conditional level.

    Raises:
        MethodError: If the conditions can combine in too many ways.
    """
    children: dict[int, list[int]] = {level: [] for level in levels}
    for level in levels:
        for parent in requirements.get(level, {}):
            children[parent].append(level)
    states: list[dict[frozenset[int], int]] = [{frozenset(): 0}]
    active, following = [], []
    for level in levels:
        here, after = states[-1], {}
        table = np.zeros((len(here), bins[level] + 1), dtype=np.int64)
        rules = [frozenset(c for c in children[level] if not requirements[c][level][a]) for a in range(bins[level])]
        rules.append(frozenset(children[level]))  # an inactive name fulfils no condition
        for ruled_out, i in here.items():
            for a, more in enumerate(rules):
                table[i, a] = after.setdefault((ruled_out | more) - {level}, len(after))
        if len(after) > LARGEST:
            raise MethodError(
                f"the conditions of {len(levels)} columns combine in more than {LARGEST} ways",
                where="space",
                remedy="Put each conditional name right after the names that it depends on.",
            )
        active.append(np.array([level not in ruled_out for ruled_out in here]))
        following.append(table)
        states.append(after)
    return Automaton(list(levels), active, following, _count(active, following, len(states[-1])))


def _count(active: list[np.ndarray], following: list[np.ndarray], last: int) -> list[list[int]]:
    counts = [[1] * last]
    for on, table in zip(reversed(active), reversed(following), strict=True):
        below = counts[0]
        counts.insert(
            0,
            [
                sum(below[j] for j in (row[:-1] if is_on else row[-1:]))
                for is_on, row in zip(on, table.tolist(), strict=True)
            ],
        )
    return counts


def logs(counts: Sequence[int]) -> np.ndarray:
    """Logarithms of integers of any size."""
    return np.array([math.log(count) for count in counts])
