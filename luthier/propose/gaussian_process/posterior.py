"""The Gaussian process given its results, and given what the jobs that are still running might say."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from luthier.propose.gaussian_process.kernel import Covariance
from luthier.propose.gaussian_process.linear import JITTER, cholesky, forward, solve


class Posterior(NamedTuple):
    """A Gaussian process conditioned on results, in ``worlds`` that differ in the results of running jobs alone.

    Args:
        kernel: The covariance.
        theta: Its parameters.
        features: (n, features) of what was observed.
        scaled: (n, features) the same, as the kernel compares them.
        lower: (n, n) Cholesky factor of the covariance with noise.
        y: (n, worlds) results.
        alpha: (n, worlds) the covariance's inverse times ``y``.
        told: Number of results that are real; the others were imagined.
    """

    kernel: Covariance
    theta: np.ndarray
    features: np.ndarray
    scaled: np.ndarray
    lower: np.ndarray
    y: np.ndarray
    alpha: np.ndarray
    told: int

    @property
    def noise(self) -> float:
        """Variance of the noise."""
        return float(np.exp(self.theta[self.kernel.at_noise]))

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean, (m, worlds), and standard deviation, (m,), of the function without noise."""
        cross = self.kernel.cross(self.theta, self.scaled, self.kernel.scaled(self.theta, features))
        mean = cross.T @ self.alpha
        left = forward(self.lower, cross)
        variance = self.kernel.variance(self.theta) - np.einsum("nm,nm->m", left, left)
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def means(self) -> np.ndarray:
        """Mean of the function without noise where something was observed, (n, worlds)."""
        return self.y - (self.noise + JITTER) * self.alpha  # (K + noise I) alpha = y

    def incumbents(self, counted: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the value to improve on in each world, (worlds,): the lowest result, or mean of an imagined one.

        The lowest result is taken halfway to the lowest mean. Without noise they are the same. With noise one lucky
        result no longer sets the mark; but not the mean alone, since a model that has taken a sharp optimum for noise
        would never look there again.

        Args:
            counted: The real results that count; infinite where there are none.
        """
        means = self.means()
        real, smooth = self.y[: self.told][counted], means[: self.told][counted]
        told = 0.5 * (real.min(axis=0, initial=np.inf) + smooth.min(axis=0, initial=np.inf))
        return np.minimum(told, means[self.told :].min(axis=0, initial=np.inf))

    def levels(self) -> np.ndarray:
        """Return the worth of each result, (n, worlds): halfway to its mean, as in :meth:`incumbents`."""
        means = self.means()
        return np.concatenate([0.5 * (self.y[: self.told] + means[: self.told]), means[self.told :]])

    def imagine(self, features: np.ndarray, normals: np.ndarray) -> Posterior:
        """The process if running jobs had ended: in each world with another draw from the joint posterior.

        Args:
            features: (m, features) of the running jobs.
            normals: (m, worlds) standard normal numbers.

        Raises:
            ValueError: If there is more than one world already.
        """
        if self.told != len(self.y):
            raise ValueError("a posterior can be imagined once")
        everything = np.concatenate([self.features, features])
        n, worlds = len(self.features), normals.shape[1]
        gram = self.kernel.gram(self.theta, everything)
        lower = cholesky(gram.covariance, self.noise)
        # the factor of the joint covariance holds that of the conditional one: results are mean + factor @ normals
        mean = lower[n:, :n] @ forward(lower[:n, :n], self.y)
        drawn = mean + lower[n:, n:] @ normals
        y = np.concatenate([np.repeat(self.y, worlds, axis=1), drawn])
        alpha = solve(lower, y)
        return Posterior(self.kernel, self.theta, everything, gram.scaled, lower, y, alpha, n)


def posterior(kernel: Covariance, theta: np.ndarray, features: np.ndarray, y: np.ndarray) -> Posterior:
    """The process given results.

    Args:
        theta: (parameters,).
        features: (n, features).
        y: (n,) transformed results.
    """
    gram = kernel.gram(theta, features)
    lower = cholesky(gram.covariance, float(np.exp(theta[kernel.at_noise])))
    alpha = solve(lower, y[:, None])
    return Posterior(kernel, theta, features, gram.scaled, lower, y[:, None], alpha, len(y))
