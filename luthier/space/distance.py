"""Distances between configurations, and selections of configurations that are far enough apart.

The distance of two configurations is the root mean square over the columns of their codes' difference: numbers and
ordered options by their place in their range, unordered options 0 or 1, a name that is active in one alone 1, and 0 in
neither. So 0 is equal, 1 is different in everything, and 0.1 is one tenth of the box.
"""

from __future__ import annotations

import numpy as np

from luthier.space.space import Space

SAME = 1e-7  # codes nearer than this are one option


def distances(
    space: Space, codes: np.ndarray, mask: np.ndarray, other_codes: np.ndarray, other_mask: np.ndarray
) -> np.ndarray:
    """The distance of each configuration to each of the others, (n, m).

    Args:
        space: The search space.
        codes: (n, columns) as :meth:`luthier.Space.encode` has them.
        mask: (n, columns) bool, which columns are active.
        other_codes: (m, columns).
        other_mask: (m, columns).

    Examples:
        >>> from luthier.space import Choice, Float
        >>> space = Space(lr=Float(1e-4, 1.0, log=True), kind=Choice(["a", "b", "c"]))
        >>> one = space.encode([{"lr": 0.01, "kind": "a"}])
        >>> distances(space, *one, *space.encode([{"lr": 0.01, "kind": "c"}, {"lr": 1.0, "kind": "a"}])).round(3)
        array([[0.707, 0.354]])
    """
    total = np.zeros((len(codes), len(other_codes)))
    for i, column in enumerate(space.columns):
        gap = np.abs(codes[:, i, None] - other_codes[None, :, i])
        if column.kind == "categorical":
            gap = np.where(gap > SAME, 1.0, 0.0)
        mine, theirs = mask[:, i, None], other_mask[None, :, i]
        total += np.where(mine & theirs, gap, np.where(mine ^ theirs, 1.0, 0.0)) ** 2
    return np.sqrt(total / max(1, len(space.columns)))


def first_apart(space: Space, codes: np.ndarray, mask: np.ndarray, least: float, count: int | None = None) -> list[int]:
    """Select configurations in the given order, each if it is farther than ``least`` from all selected before.

    Args:
        space: The search space.
        codes: (n, columns), the preferred first.
        mask: (n, columns).
        least: Distance that every two must exceed.
        count: Maximum number of configurations.

    Returns:
        Their rows, in order.
    """
    rows: list[int] = []
    nearest = np.full(len(codes), np.inf)
    while count is None or len(rows) < count:
        free = np.flatnonzero(nearest > least)
        if len(free) == 0:
            break
        rows.append(int(free[0]))
        new = distances(space, codes, mask, codes[free[:1]], mask[free[:1]])[:, 0]
        nearest = np.minimum(nearest, new)
        nearest[free[0]] = -1.0
    return rows


def farthest(space: Space, codes: np.ndarray, mask: np.ndarray, count: int, first: int = 0) -> list[int]:
    """Greedy max-min: begin with one, then take again and again what is farthest from all that were taken.

    Equal configurations are taken once. The smallest distance is at least half of the largest that can be had with as
    many configurations (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985).

    Returns:
        At most ``count`` rows, in the order in which they were taken.
    """
    if len(codes) == 0 or count < 1:
        return []
    rows = [first]
    nearest = distances(space, codes, mask, codes[[first]], mask[[first]])[:, 0]
    while len(rows) < count and nearest.max() > SAME:
        rows.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances(space, codes, mask, codes[rows[-1:]], mask[rows[-1:]])[:, 0])
    return rows
