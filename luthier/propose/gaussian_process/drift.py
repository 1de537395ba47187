"""A covariance that forgets: what was seen long ago says less about now."""

from __future__ import annotations

from typing import final

import numpy as np

from luthier.propose.gaussian_process.kernel import Gram, Kernel


@final
class Drifting:
    """``k((x, t), (x', t')) = k(x, x') (1 - ε)^(|t - t'| / 2)``, where the last feature is the time t.

    The factor is ``exp(-w |t - t'|)`` with ``w = -½ log(1 - ε)``; the last parameter is ``log w``, of the kind
    ``"drift"``.

    Args:
        kernel: The covariance at one time.

    References:
        Bogunovic, Scarlett and Cevher, "Time-varying Gaussian process bandit optimization", AISTATS 2016, eq. 4.
        Parker-Holder, Nguyen and Roberts, arXiv:2002.02518, 2020.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.size = kernel.size + 1
        self.at_scale, self.at_noise, self.at_drift = kernel.at_scale, kernel.at_noise, kernel.size
        self.places = {**kernel.places, "drift": slice(kernel.size, self.size)}

    def variance(self, theta: np.ndarray) -> float:
        """The variance of the function at any point, without noise."""
        return self.kernel.variance(theta)

    def scaled(self, theta: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Warped features over their lengthscales, with the time as it was, (n, features)."""
        return np.concatenate([self.kernel.scaled(theta[:-1], features[:, :-1]), features[:, -1:]], axis=1)

    def gram(self, theta: np.ndarray, features: np.ndarray) -> Gram:
        """The covariance among points, (n, n), with its slope."""
        gram = self.kernel.gram(theta[:-1], features[:, :-1])
        kept = self._kept(theta, features[:, -1], features[:, -1])
        scaled = np.concatenate([gram.scaled, features[:, -1:]], axis=1)
        return Gram(gram.warp, scaled, gram.covariance * kept, gram.slope * kept)

    def cross(self, theta: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """The covariance between scaled points, (n, m)."""
        found = self.kernel.cross(theta[:-1], one[:, :-1], two[:, :-1])
        found *= self._kept(theta, one[:, -1], two[:, -1])
        return found

    def gradient(self, theta: np.ndarray, gram: Gram, weights: np.ndarray) -> np.ndarray:
        """``Σ_ij weights_ij ∂K_ij / ∂θ`` for K with noise on its diagonal, (parameters,)."""
        times = gram.scaled[:, -1]
        passed = np.abs(times[:, None] - times[None, :])
        by_drift = -np.exp(theta[self.at_drift]) * np.vdot(weights, gram.covariance * passed)
        inner = self.kernel.gradient(theta[:-1], gram._replace(scaled=gram.scaled[:, :-1]), weights)
        return np.append(inner, by_drift)

    def _kept(self, theta: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """The factor between two times, (n, m)."""
        return np.exp(-np.exp(theta[self.at_drift]) * np.abs(one[:, None] - two[None, :]))
