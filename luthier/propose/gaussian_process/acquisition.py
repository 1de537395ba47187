"""The logarithm of the expected improvement: it has a slope where the improvement itself underflows to zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import erfcx, logsumexp, ndtr

from luthier.propose.gaussian_process.limited import Within
from luthier.propose.gaussian_process.posterior import Posterior
from luthier.space.encoder import Encoding, Points

HALF_LOG_2PI = 0.5 * np.log(2.0 * np.pi)
WORLDS = 8  # fantasies of the results of running jobs

Marks = Callable[[np.ndarray], Callable[[Points], np.ndarray]]
"""From the levels of all results in each world, (n, worlds), infinite where one does not count, to what a
configuration has to improve on where it is, (m, worlds) of m points, infinite where there is nothing yet."""


def improvement_beside(
    process: Posterior, encoding: Encoding, running: Points, rng: np.random.Generator, marks: Marks | None = None
) -> Callable[[Points], np.ndarray]:
    """The logarithm of the improvement that is expected, (m,) of m points, if running jobs ended as they may.

    Args:
        process: The process given the results.
        encoding: Encoding of the space.
        running: (jobs) configurations whose results are imagined.
        rng: Source of the imagined results.
        marks: Values to be improved on, by place; None is the best everywhere.
    """
    if len(running.codes):
        process = process.imagine(encoding.features(running), rng.normal(size=(len(running.codes), WORLDS)))
    best = process.incumbents()
    mark = (lambda points: best) if marks is None else marks(process.levels())

    def acquisition(points: Points) -> np.ndarray:
        mean, deviation = process.predict(encoding.features(points))
        return log_expected_improvement(mean, deviation, mark(points))

    return acquisition


def improvement_within(
    process: Posterior,
    inside: np.ndarray,
    limits: Sequence[Within],
    encoding: Encoding,
    running: Points,
    rng: np.random.Generator,
    marks: Marks | None = None,
) -> Callable[[Points], np.ndarray]:
    """The logarithm of the improvement that is expected times the probability that all limits are kept, (m,).

    Running jobs end in each world with a value of the objective and of each limited metric, so that one that keeps the
    limits there sets the mark, and one that does not tells where they run. While nothing is inside, it is the
    probability alone.

    Args:
        process: The process of the objective, given the results.
        inside: (n,) bool, which results keep the limits.
        limits: The processes of the limited metrics.
        encoding: Encoding of the space.
        running: (jobs) configurations whose results are imagined.
        rng: Source of the imagined results.
        marks: Values to be improved on, by place; None is the best everywhere.

    References:
        Gardner et al., "Bayesian optimization with inequality constraints", ICML 2014, eq. 3.
    """
    best, counted = process.incumbents(inside), inside[:, None]
    if count := len(running.codes):
        features = encoding.features(running)
        process = process.imagine(features, rng.normal(size=(count, WORLDS)))
        limits = [
            one._replace(posterior=one.posterior.imagine(features, rng.normal(size=(count, WORLDS)))) for one in limits
        ]
        holds = np.logical_and.reduce([one.holds() for one in limits])
        means = process.means()[process.told :]
        best = np.minimum(best, np.where(holds, means, np.inf).min(axis=0))
        counted = np.concatenate([np.repeat(counted, WORLDS, axis=1), holds])
    mark = (lambda points: best) if marks is None else marks(np.where(counted, process.levels(), np.inf))

    def acquisition(points: Points) -> np.ndarray:
        features = encoding.features(points)
        found = sum(one.log_probability(features) for one in limits)
        mean, deviation = process.predict(features)
        level = mark(points)
        known = np.isfinite(level)
        gain = log_h((np.where(known, level, 0.0) - mean) / deviation[:, None]) + np.log(deviation)[:, None]
        return _over_worlds(found + np.where(known, gain, 0.0))

    return acquisition


def log_expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: np.ndarray) -> np.ndarray:
    """``log E[max(best - f, 0)]`` for normal ``f``; of several worlds, the logarithm of the mean improvement.

    Args:
        mean: (m, worlds).
        deviation: (m,), above zero.
        best: (worlds,) what is to be improved on, or (m, worlds) by place.

    Returns:
        (m,).

    References:
        Ament et al., "Unexpected improvements to expected improvement for Bayesian optimization", NeurIPS 2023, eq. 9.
    """
    found = log_h((best - mean) / deviation[:, None]) + np.log(deviation)[:, None]
    return _over_worlds(found)


def _over_worlds(found: np.ndarray) -> np.ndarray:
    """The logarithm of the mean over worlds of what has these logarithms, (m, worlds) to (m,)."""
    return found[:, 0] if found.shape[1] == 1 else logsumexp(found, axis=1) - np.log(found.shape[1])


def log_h(z: np.ndarray) -> np.ndarray:
    """``log(φ(z) + z Φ(z))``, exact to rounding for every z."""
    found = np.empty_like(z)
    near, far = z > -1.0, z < -1e6
    high = z[near]
    found[near] = np.log(np.exp(-0.5 * high * high - HALF_LOG_2PI) + high * ndtr(high))
    middle = z[~near & ~far]
    # Φ(z) / φ(z) = √(π/2) erfcx(-z / √2)
    ratio = 1.0 + middle * np.sqrt(np.pi / 2.0) * erfcx(-middle / np.sqrt(2.0))
    found[~near & ~far] = -0.5 * middle * middle - HALF_LOG_2PI + np.log(ratio)
    low = z[far]
    found[far] = -0.5 * low * low - HALF_LOG_2PI - 2.0 * np.log(-low)
    return found
