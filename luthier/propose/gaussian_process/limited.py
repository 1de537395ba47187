"""Limits as the model sees them: a Gaussian process of each limited metric, whose bounds are known, says how probable
it is that a result lies within all of them; one more, of what ended without its metrics, that there is a result at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from luthier.jobs import OK, PRUNED, History
from luthier.limits import Bounds
from luthier.propose.gaussian_process.posterior import Posterior
from luthier.space.encoder import Points

ENDED = "\0ended"  # the output that is 1 where a result has its metrics, and -1 where it has not: no metric's name


class Output(NamedTuple):
    """One function of the configuration that is modelled, where it was observed.

    Args:
        name: ``""`` of the objective, else the metric, or ENDED.
        numbers: (n,) job numbers of the results; below 0 for results from elsewhere.
        points: (n) their configurations.
        y: (n,) transformed values.
        low: Its lower bound, transformed as the values are.
        high: Its upper bound.
        merit: (n,) values as methods rank them; of the objective under limits alone.
    """

    name: str
    numbers: np.ndarray
    points: Points
    y: np.ndarray
    low: float = -np.inf
    high: float = np.inf
    merit: np.ndarray = np.empty(0)


class Within(NamedTuple):
    """An output with bounds, given its results.

    Args:
        posterior: Given the results, and perhaps imagined ones.
        low: The lower bound.
        high: The upper bound.
    """

    posterior: Posterior
    low: float
    high: float

    def log_probability(self, features: np.ndarray) -> np.ndarray:
        """The logarithm of the probability that a result lies within the bounds, (m, worlds)."""
        mean, deviation = self.posterior.predict(features)
        spread = np.sqrt(deviation**2 + self.posterior.noise)[:, None]
        return log_between((self.low - mean) / spread, (self.high - mean) / spread)

    def holds(self) -> np.ndarray:
        """Mask of the imagined results that lie within the bounds, (imagined, worlds)."""
        drawn = self.posterior.y[self.posterior.told :]
        return (self.low <= drawn) & (drawn <= self.high)


def log_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """``log(Φ(high) - Φ(low))``, also where both are far out; ``low`` is below ``high``."""
    flipped = low > 0  # Φ is near 1 on this side, and differences there are lost
    low, high = np.where(flipped, -high, low), np.where(flipped, -low, high)
    above, below = log_ndtr(high), log_ndtr(low)
    return above + np.log1p(-np.exp(np.minimum(below - above, -1e-12)))


def bounded(history: History, numbers: np.ndarray, most: int) -> list[Output]:
    """The limited metrics of the results of these jobs, and what ended without them.

    Of more than ``most`` values those nearest to a bound and the latest. Where all results have their metrics, or none
    has, nothing is learnt of that.
    """
    status = history.status[numbers]
    judged = np.isin(status, (OK, PRUNED))
    results = [history.results[number] for number in numbers]
    there = judged & np.isfinite(history.measured[numbers]).all(axis=1) & ~np.isposinf(history.violation[numbers])
    codes, mask = history.codes[numbers], history.mask[numbers]
    points = Points(codes, mask)
    found = []
    for name, bounds in history.limits.items():
        values = np.array([np.nan if r is None else r.metrics.get(name, np.nan) for r in results], dtype=float)
        values[~judged] = np.nan
        rows = np.flatnonzero(np.isfinite(values))
        if len(rows) > 1:
            away = np.min([np.abs(values[rows] - bound) for bound in bounds if bound is not None], axis=0)
            rows = rows[chosen(away, most)]
            found.append(Output(name, numbers[rows], points.take(rows), *_spread(values[rows], bounds)))
    if there.any() and not there.all():
        rows = np.arange(len(numbers))[-most:]
        y = np.where(there[rows], 1.0, -1.0)
        found.append(Output(ENDED, numbers[rows], Points(codes[rows], mask[rows]), y, 0.0))
    return found


def chosen(scores: np.ndarray, most: int) -> np.ndarray:
    """The places, in order, of the half of ``most`` with the lowest scores and of the latest; all of fewer."""
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(scores, kind="stable")[: most // 2]] = True
    latest = np.flatnonzero(~kept)[-(most - most // 2) :] if len(scores) > most else slice(None)
    kept[latest] = True
    return np.flatnonzero(kept)


def _spread(values: np.ndarray, bounds: Bounds) -> tuple[np.ndarray, float, float]:
    """Values that spread around their bounds, standardised, and both bounds on that scale.

    ``sum asinh((value - bound) / s)`` over the bounds, where ``s`` is the median distance: it rises everywhere, is
    linear near each bound, where it decides, and logarithmic far from them, so that no outlier hides the bound.
    """
    ends = [bound for bound in bounds if bound is not None]
    scales = [float(np.median(np.abs(values - bound))) or 1.0 for bound in ends]

    def spread(x: np.ndarray) -> np.ndarray:
        return np.sum([np.arcsinh((x - bound) / scale) for bound, scale in zip(ends, scales, strict=True)], axis=0)

    y = spread(values)
    centre, size = float(y.mean()), float(y.std())
    size = size if size > 1e-12 else 1.0
    low, high = (
        float((spread(np.array([bound]))[0] - centre) / size) if bound is not None else side * np.inf
        for bound, side in zip(bounds, (-1.0, 1.0), strict=True)
    )
    return (y - centre) / size, low, high
