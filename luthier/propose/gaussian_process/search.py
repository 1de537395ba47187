"""Maximising the acquisition over a mixed space, without gradients: look around, then closer around the best found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luthier.propose.gaussian_process.candidates import around, neighbours, perturb
from luthier.space.encoder import Encoding, Points, join, keys

UNIFORM, NEAR = 600, 400
CLOSER = (0.08, 0.03, 0.01)  # the noise of each round
LEADERS, CHILDREN = 6, 33  # perturbed in each round, and how often each
SMALL = 1500  # finite spaces up to this size are searched whole
APART = 0.01  # least root mean square difference of codes to a job that is running


def maximise(
    acquisition: Callable[[Points], np.ndarray],
    encoding: Encoding,
    best: Points,
    seen: set[bytes],
    running: np.ndarray,
    rng: np.random.Generator,
    hold: Callable[[Points], Points] = lambda points: points,
) -> np.ndarray | None:
    """The code at which the acquisition is highest, as far as it can be found.

    What was seen is left out; so is what is within 1 % of a running job, unless nothing else is found.

    Args:
        acquisition: Function from m points to (m,) values.
        encoding: Encoding of the space.
        best: The best configurations so far, best first.
        seen: Keys of the configurations that are not to be proposed.
        running: (jobs, columns) codes of the running jobs.
        rng: Source of the candidates.
        hold: Applied to all candidates; it may put some of their columns where they have to stay.

    Returns:
        (columns,), or None where every candidate was seen.
    """
    if encoding.space.size is not None and encoding.space.size <= SMALL:
        pool = _unseen(encoding, hold(encoding.all_points), seen)
        values = acquisition(pool) if len(pool.codes) else np.empty(0)
    else:
        pool = _unseen(encoding, hold(around(encoding, best, UNIFORM, NEAR, rng)), seen)
        values = acquisition(pool) if len(pool.codes) else np.empty(0)
        for scale in CLOSER if len(values) else ():
            leaders = pool.take(np.argsort(-values, kind="stable")[:LEADERS])
            near = perturb(encoding, leaders, CHILDREN, scale, rng, spread=0.7)
            fresh = _unseen(encoding, hold(join(near, neighbours(encoding, leaders.take([0]), rng))), seen)
            pool, values = join(pool, fresh), np.concatenate([values, acquisition(fresh)])
    if not len(values):
        return None
    values = np.where(_apart(pool.codes, running), values, values - 1e9)
    return pool.codes[int(np.argmax(values))]


def _unseen(encoding: Encoding, points: Points, seen: set[bytes]) -> Points:
    points = points.take(np.flatnonzero(encoding.allowed(points)))
    fresh: dict[bytes, int] = {}
    for row, key in enumerate(keys(points.codes)):
        if key not in seen and key not in fresh:
            fresh[key] = row
    return points.take(list(fresh.values()))


def _apart(codes: np.ndarray, running: np.ndarray) -> np.ndarray:
    """Return which codes are far enough from all running jobs, (points,) bool."""
    if not len(running):
        return np.ones(len(codes), dtype=bool)
    squared = ((codes[:, None, :] - running[None, :, :]) ** 2).mean(axis=2)
    return squared.min(axis=1) >= APART**2
