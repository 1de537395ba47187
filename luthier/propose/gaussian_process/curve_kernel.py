"""A covariance of learning curves: configurations that are near have like curves, and every curve goes its own way."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import numpy as np

from luthier.propose.gaussian_process.kernel import Gram, Kernel

SILENT = -80.0  # logarithm of the noise variance of a part, which the whole has


class Parts(NamedTuple):
    """The covariance matrix of a sum, and what its gradient needs of the parts."""

    scaled: np.ndarray
    covariance: np.ndarray
    shared: Gram
    own: Gram
    trend: Gram
    same: np.ndarray


@final
class Curves:
    """``k((x, t, c), (x', t', c')) = k₁((x, t), (x', t')) + [c = c'] k₂(t, t') + k₃(t, t')``, all of them Matérn 5/2.

    The first part is what configurations share, the second how one curve departs from it, the third how all fall. The
    last two features are the time t and the number c of the curve.

    The parameters are those of the first part, then ``log l`` and ``log s`` of the second and of the third.

    Args:
        kernel: Kernel of the configurations' features; time becomes one more, with a lengthscale of its own.

    References:
        Swersky, Snoek and Adams, "Freeze-thaw Bayesian optimization", arXiv:1406.3896, 2014 (the idea).
    """

    def __init__(self, kernel: Kernel) -> None:
        self._shared = Kernel(np.append(kernel.groups, kernel.lengths), kernel.warped)
        self._time = Kernel(np.zeros(1, dtype=np.intp), np.zeros(0, dtype=np.intp))
        self.size = self._shared.size + 4
        self.at_scale, self.at_noise = self._shared.at_scale, self._shared.at_noise
        first = self._shared.size
        self.places = {
            **self._shared.places,
            "own length": slice(first, first + 1),
            "own scale": slice(first + 1, first + 2),
            "trend length": slice(first + 2, first + 3),
            "trend scale": slice(first + 3, first + 4),
        }

    def variance(self, theta: np.ndarray) -> float:
        """The variance of the function at any point."""
        return float(np.exp(theta[[self.at_scale, self.size - 3, self.size - 1]]).sum())

    def scaled(self, theta: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Each part's scaled features side by side, and the numbers of the curves."""
        time = features[:, -2:-1]
        parts = [self._shared.scaled(theta[: self._shared.size], features[:, :-1])]
        parts += [self._time.scaled(part, time) for part in self._parts(theta)]
        return np.concatenate([*parts, features[:, -1:]], axis=1)

    def gram(self, theta: np.ndarray, features: np.ndarray) -> Any:
        """The covariance among points, (n, n), with that of its parts."""
        time, curve = features[:, -2:-1], features[:, -1]
        shared = self._shared.gram(theta[: self._shared.size], features[:, :-1])
        own, trend = (self._time.gram(part, time) for part in self._parts(theta))
        same = curve[:, None] == curve[None, :]
        whole = shared.covariance + same * own.covariance + trend.covariance
        scaled = np.concatenate([shared.scaled, own.scaled, trend.scaled, features[:, -1:]], axis=1)
        return Parts(scaled, whole, shared, own, trend, same)

    def cross(self, theta: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """The covariance between scaled points, (n, m)."""
        own, trend = self._parts(theta)
        found = self._shared.cross(theta[: self._shared.size], one[:, :-3], two[:, :-3])
        found += self._time.cross(trend, one[:, -2:-1], two[:, -2:-1])
        same = one[:, -1][:, None] == two[:, -1][None, :]
        if same.any():
            found += same * self._time.cross(own, one[:, -3:-2], two[:, -3:-2])
        return found

    def gradient(self, theta: np.ndarray, gram: Any, weights: np.ndarray) -> np.ndarray:
        """``Σ_ij weights_ij ∂K_ij / ∂θ`` for K with noise on its diagonal, (parameters,)."""
        own, trend = self._parts(theta)
        return np.concatenate(
            [
                self._shared.gradient(theta[: self._shared.size], gram.shared, weights),
                self._time.gradient(own, gram.own, weights * gram.same)[:2],
                self._time.gradient(trend, gram.trend, weights)[:2],
            ]
        )

    def _parts(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = self._shared.size
        return np.append(theta[first : first + 2], SILENT), np.append(theta[first + 2 :], SILENT)
