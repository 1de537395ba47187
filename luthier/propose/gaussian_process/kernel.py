"""The covariance: Matérn 5/2 with a lengthscale a hyperparameter and a warp of each numeric input, with gradients."""

from __future__ import annotations

from typing import NamedTuple, Protocol, final

import numpy as np

ROOT5 = 5.0**0.5
EDGE = 1e-7  # the warp and its gradient are taken this far inside [0, 1]


class Warp(NamedTuple):
    """Warped features ``1 - tail`` with what their derivatives need, (n, warped) each."""

    log_x: np.ndarray
    power: np.ndarray  # x^a
    log_left: np.ndarray  # log(1 - x^a)
    tail: np.ndarray  # (1 - x^a)^b


class Gram(NamedTuple):
    """A covariance matrix and the intermediate results that its gradient needs.

    Args:
        warp: Warp applied to the features.
        scaled: (n, features) warped features over their lengthscales.
        covariance: (n, n) without noise.
        slope: (n, n) derivative of the covariance by the squared distance.
    """

    warp: Warp
    scaled: np.ndarray
    covariance: np.ndarray
    slope: np.ndarray


class Covariance(Protocol):
    """The covariance that a Gaussian process needs: matrices, their gradient, and the layout of its parameters.

    Attributes:
        size: Number of parameters.
        at_scale: Place of ``log s``.
        at_noise: Place of the logarithm of the noise variance.
        places: The parameters of each kind; all are logarithms.
    """

    size: int
    at_scale: int
    at_noise: int
    places: dict[str, slice]

    def variance(self, theta: np.ndarray) -> float:
        """The variance of the function at any point, without noise."""
        ...

    def scaled(self, theta: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The points as :meth:`cross` compares them."""
        ...

    def gram(self, theta: np.ndarray, features: np.ndarray) -> Gram:
        """The covariance among points."""
        ...

    def cross(self, theta: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """The covariance between scaled points, (n, m)."""
        ...

    def gradient(self, theta: np.ndarray, gram: Gram, weights: np.ndarray) -> np.ndarray:
        """``Σ_ij weights_ij ∂K_ij / ∂θ``, (parameters,)."""
        ...


@final
class Kernel:
    """``k(x, x') = s (1 + √5 r + 5 r² / 3) exp(-√5 r)``, where ``r² = Σ (w(x_d) - w(x'_d))² / l_d²``.

    ``w`` is the Kumaraswamy distribution function ``1 - (1 - x^a)^b`` for warped features and the identity for others
    (Snoek et al., "Input warping for Bayesian optimization of non-stationary functions", ICML 2014).

    The parameters are one vector: ``log l`` of each group, ``log s``, ``log noise variance``, then ``log a`` and
    ``log b`` of each warped feature.

    Args:
        groups: (features,) which lengthscale each feature has.
        warped: Indices of the features that are warped; each is alone in its group.
    """

    def __init__(self, groups: np.ndarray, warped: np.ndarray) -> None:
        self.groups, self.warped = groups, warped
        self.lengths = int(groups.max()) + 1 if len(groups) else 0
        self.size = self.lengths + 2 + 2 * len(warped)
        first = self.lengths + 2
        self.at_length = slice(0, self.lengths)
        self.at_scale, self.at_noise = self.lengths, self.lengths + 1
        self.at_a, self.at_b = slice(first, first + len(warped)), slice(first + len(warped), self.size)
        self.places = {
            "length": self.at_length,
            "scale": slice(self.at_scale, self.at_scale + 1),
            "noise": slice(self.at_noise, self.at_noise + 1),
            "warp": slice(first, self.size),
        }

    def variance(self, theta: np.ndarray) -> float:
        """The variance of the function at any point, without noise."""
        return float(np.exp(theta[self.at_scale]))

    def scaled(self, theta: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Warped features over their lengthscales, (n, features)."""
        return self._scaled(theta, features, self._warp(theta, features))

    def gram(self, theta: np.ndarray, features: np.ndarray) -> Gram:
        """The covariance among points, (n, n), with its slope."""
        warp = self._warp(theta, features)
        scaled = self._scaled(theta, features, warp)
        r = _distance(scaled, scaled)
        np.fill_diagonal(r, 0.0)
        r *= ROOT5
        falling = np.exp(-r)
        falling *= np.exp(theta[self.at_scale])
        rising = r + 1.0
        slope = falling * rising
        slope *= -5.0 / 6.0
        rising += r * r / 3.0
        rising *= falling
        return Gram(warp, scaled, rising, slope)

    def cross(self, theta: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """The covariance between scaled points, (n, m)."""
        r = _distance(one, two)
        r *= ROOT5
        rising = r * r
        rising /= 3.0
        rising += r
        rising += 1.0
        np.negative(r, out=r)
        np.exp(r, out=r)
        rising *= r
        rising *= np.exp(theta[self.at_scale])
        return rising

    def gradient(self, theta: np.ndarray, gram: Gram, weights: np.ndarray) -> np.ndarray:
        """``Σ_ij weights_ij ∂K_ij / ∂θ`` for K with noise on its diagonal, (parameters,).

        Args:
            weights: (n, n), symmetric.
        """
        found = np.empty(self.size)
        found[self.at_scale] = np.vdot(weights, gram.covariance)
        found[self.at_noise] = np.exp(theta[self.at_noise]) * np.trace(weights)
        # Σ_ij g_ij (z_i - z_j)(t_i - t_j) = 2 Σ_i t_i (z_i Σ_j g_ij - Σ_j g_ij z_j) for symmetric g, feature by feature
        g = weights * gram.slope
        pull = gram.scaled * g.sum(axis=1)[:, None] - g @ gram.scaled
        by_feature = -4.0 * np.einsum("nf,nf->f", gram.scaled, pull)
        found[self.at_length] = np.bincount(self.groups, weights=by_feature, minlength=self.lengths)
        if len(self.warped):
            a, b = np.exp(theta[self.at_a]), np.exp(theta[self.at_b])
            log_x, power, log_left, tail = gram.warp
            by_a = b * a * tail * power * log_x / (1.0 - power)
            by_b = -b * tail * log_left
            pull = 4.0 * pull[:, self.warped] / np.exp(theta[self.groups[self.warped]])
            found[self.at_a] = np.einsum("nf,nf->f", by_a, pull)
            found[self.at_b] = np.einsum("nf,nf->f", by_b, pull)
        return found

    def _warp(self, theta: np.ndarray, features: np.ndarray) -> Warp:
        a, b = np.exp(theta[self.at_a]), np.exp(theta[self.at_b])
        log_x = np.log(np.minimum(np.maximum(features[:, self.warped], EDGE), 1.0 - EDGE))
        power = np.exp(a * log_x)
        log_left = np.log1p(-power)
        return Warp(log_x, power, log_left, np.exp(b * log_left))

    def _scaled(self, theta: np.ndarray, features: np.ndarray, warp: Warp) -> np.ndarray:
        if len(self.warped):
            features = features.copy()
            features[:, self.warped] = 1.0 - warp.tail
        return features * np.exp(-theta[self.at_length])[self.groups]


def _distance(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Euclidean distances, (n, m)."""
    squared = one @ (-2.0 * two.T)
    squared += np.einsum("nf,nf->n", one, one)[:, None]
    squared += np.einsum("nf,nf->n", two, two)[None, :]
    np.maximum(squared, 0.0, out=squared)
    return np.sqrt(squared, out=squared)
