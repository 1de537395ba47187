"""Several objectives at once: which values no others beat, how they rank, and the hypervolume they dominate.

Values are (n, objectives), all minimised, as in :attr:`luthier.History.values`. One row *dominates* another where it is
no worse in every objective and better in one. Rows that are not finite dominate nothing and are never on a front.
"""

from __future__ import annotations

import numpy as np

from luthier.errors import StudyError


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Return a mask of the rows that no other row dominates; equal rows stand or fall together.

    Takes O(n log n) for two objectives, and O(n f) comparisons of rows for more, where f rows are not dominated.

    Args:
        values: (n, objectives), minimised.

    Returns:
        (n,) bool.

    Examples:
        >>> non_dominated(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 4.0]])).tolist()
        [True, True, False]
    """
    chosen = np.zeros(len(values), dtype=bool)
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    if len(finite):
        rows, back = np.unique(values[finite], axis=0, return_inverse=True)
        # in lexicographic order, a row can be dominated by an earlier one only
        kept = _sweep(rows[:, 1]) if rows.shape[1] == 2 else _filter(rows)
        chosen[finite] = kept[back.reshape(-1)]
    return chosen


def _sweep(second: np.ndarray) -> np.ndarray:
    """Mask distinct rows, sorted by the first objective, whose second is below that of every row before."""
    return second < np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])


def _filter(rows: np.ndarray) -> np.ndarray:
    """Mask distinct rows, in lexicographic order, that no row before dominates."""
    kept = np.zeros(len(rows), dtype=bool)
    front = np.empty_like(rows)
    count = 0
    for i, row in enumerate(rows):
        if not (front[:count] <= row).all(axis=1).any():
            kept[i] = True
            front[count] = row
            count += 1
    return kept


def ranks(values: np.ndarray) -> np.ndarray:
    """Non-dominated rank: 0 for the front, 1 for the front of what is left without it, and so on (Deb 2002, III.A).

    Args:
        values: (n, objectives), minimised.

    Returns:
        (n,) int64; rows that are not finite come last, in a rank of their own.

    Examples:
        >>> ranks(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 4.0], [3.0, 5.0]])).tolist()
        [0, 0, 1, 2]
    """
    found = np.zeros(len(values), dtype=np.int64)
    left, rank = np.arange(len(values)), 0
    while len(left):
        front = non_dominated(values[left])
        if not front.any():
            front[:] = True
        found[left[front]] = rank
        left, rank = left[~front], rank + 1
    return found


def crowding(values: np.ndarray) -> np.ndarray:
    """Crowding distance of the rows of one front: how far apart their neighbours are (Deb 2002, III.B).

    Args:
        values: (n, objectives).

    Returns:
        (n,): the sum over objectives of the distance between the two neighbours, each objective scaled to its range;
        infinite for the lowest and the highest of an objective.

    Examples:
        >>> crowding(np.array([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0]])).tolist()
        [inf, 2.0, inf]
    """
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        low, high = column[order[0]], column[order[-1]]
        if high > low:
            # halves, since the range of the largest numbers is no number
            distance[order[1:-1]] += (column[order[2:]] / 2 - column[order[:-2]] / 2) / (high / 2 - low / 2)
            distance[order[[0, -1]]] = np.inf
    return distance


def best_first(values: np.ndarray) -> np.ndarray:
    """All rows by rank, and within a rank by falling crowding distance: the order of NSGA-II (Deb 2002, III.C).

    Args:
        values: (n, objectives), minimised and finite.

    Returns:
        (n,) int64, row numbers; ties in the order of the rows.
    """
    rank, distance = ranks(values), np.zeros(len(values))
    for one in np.unique(rank):
        distance[rank == one] = crowding(values[rank == one])
    return np.lexsort((-distance, rank))


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the rows dominate, up to a reference point (Zitzler and Thiele 1999): larger is better.

    Exact: by a sweep for two objectives, by slices along the last objective for more, which suits fronts of up to about
    a hundred rows and four objectives.

    Args:
        values: (n, objectives), minimised; rows that are not below the reference in every objective count for nothing.
        reference: (objectives,), the worst values that are still of use.

    Raises:
        StudyError: If the reference does not have one finite number for each objective.

    Examples:
        >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([3.0, 3.0]))
        3.0

    References:
        Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study", IEEE TEC 1999.
    """
    values, reference = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    if values.ndim != 2 or reference.shape != values.shape[1:] or not np.isfinite(reference).all():
        raise StudyError(
            f"reference={reference.tolist()} with values of shape {values.shape}",
            where="hypervolume",
            remedy="Give values (n, objectives), and one finite number of reference for each objective.",
        )
    return _volume(values[(values < reference).all(axis=1)], reference)


def _volume(values: np.ndarray, reference: np.ndarray) -> float:
    values = np.unique(values[non_dominated(values)], axis=0)  # sorted by the first objective
    if not len(values):
        return 0.0
    if values.shape[1] == 1:
        return float(reference[0] - values[0, 0])
    if values.shape[1] == 2:
        widths = np.append(values[1:, 0], reference[0]) - values[:, 0]
        return float((widths * (reference[1] - values[:, 1])).sum())
    values = values[np.argsort(values[:, -1], kind="stable")]
    depths = np.append(values[1:, -1], reference[-1]) - values[:, -1]
    slices = (_volume(values[: i + 1, :-1], reference[:-1]) for i in range(len(values)))
    return float(sum(depth * area for depth, area in zip(depths, slices, strict=True) if depth > 0))
