"""The output transform: what the Gaussian process is fitted to instead of the raw results (Song et al., 2022)."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from luthier.limits import levelled

LARGEST = 1e300


def transform(values: np.ndarray) -> np.ndarray:
    """Results as the model sees them: standardised, with the bad half squeezed and the good half spread out.

    1. What is not finite counts as the worst finite result; what is infeasible lies near those that are not, see
       :func:`luthier.limits.levelled`.
    2. Half-rank: a value worse than the median becomes ``median + sd * Φ⁻¹((rank + 1/2) / n)``, where ``sd`` is the
       root mean square distance of the better half from the median. Outliers lose their size, not their order; the
       better half keeps its metric, which the search needs near the optimum.
    3. Log: ``log(1 + t / 2)`` of the place ``t`` in [0, 1] between best and worst, which tells good ones apart better.
    4. Mean 0 and standard deviation 1 (constant results become 0).

    Args:
        values: (n,) float64, minimised; at least one is finite.

    Returns:
        (n,) float64, in the same order of goodness.

    References:
        Song et al., "Open source Vizier", AutoML 2022 (the half-rank and log warpers).
    """
    values = levelled(values)
    y = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), np.nan)
    y = np.where(np.isnan(y), np.nanmax(y), y)
    y = _log(_half_rank(y))
    spread = y.std()
    return (y - y.mean()) / spread if spread > 1e-12 else np.zeros_like(y)


def _half_rank(y: np.ndarray) -> np.ndarray:
    centred = y - np.median(y)
    size = np.max(np.abs(centred))
    if size == 0:
        return centred
    good = centred <= 0
    reach = -centred.min()
    # relative to the reach of the better half, so that squares of huge values do not overflow
    spread = reach * np.sqrt(np.mean((centred[good] / reach) ** 2)) if reach > 0 else size
    bad_scores = ndtri((rankdata(y) - 0.5) / len(y))
    return np.where(good, centred, spread * np.maximum(bad_scores, 0.0))


def _log(y: np.ndarray) -> np.ndarray:
    low, high = y.min(), y.max()
    return y if high == low else np.log1p(0.5 * ((y - low) / (high - low)))
