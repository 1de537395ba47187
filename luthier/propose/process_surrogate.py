"""A Gaussian process as the surrogate of a sampler: better than an ensemble of networks where results are few."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from luthier.propose.flow import Leaves
from luthier.propose.gaussian_process.acquisition import improvement_beside
from luthier.propose.gaussian_process.fit import fit, start
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.posterior import Posterior, posterior
from luthier.space import Space
from luthier.space.encoder import Points, encoding_of

CHUNK = 16_384  # rows predicted at once

Where = Leaves | Points
Reward = Callable[[Where], np.ndarray]
"""log R, (n,), of n configurations."""


@dataclass(frozen=True, eq=False)
class FittedProcess:
    """The Gaussian process of :class:`luthier.propose.GaussianProcess`, fitted anew to given values.

    Args:
        space: The search space.
        posterior: Given the values.
        centre: Mean of the values.
        scale: Their standard deviation.
    """

    space: Space
    posterior: Posterior
    centre: float = 0.0
    scale: float = 1.0

    @property
    def noise(self) -> float:
        """Variance of a result about the function."""
        return self.scale**2 * self.posterior.noise

    def predict(self, codes: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation at each configuration without noise, (n,) each, in the units of the values."""
        encoding = encoding_of(self.space)
        means, deviations = [np.zeros(0)], [np.zeros(0)]
        for begin in range(0, len(codes), CHUNK):
            rows = slice(begin, begin + CHUNK)
            mean, deviation = self.posterior.predict(encoding.features(Points(codes[rows], mask[rows])))
            means.append(mean[:, 0])
            deviations.append(deviation)
        return self.centre + self.scale * np.concatenate(means), self.scale * np.concatenate(deviations)

    def improvement(self, running: Points, rng: np.random.Generator) -> Reward:
        """Logarithm of the improvement that is expected if the running jobs ended as they may, in units of the values.

        Args:
            running: (jobs) configurations whose results are imagined.
            rng: Source of the imagined results.
        """
        expected = improvement_beside(self.posterior, encoding_of(self.space), running, rng)
        return lambda where: expected(Points(where.codes, where.mask)) + math.log(self.scale)


def process_of(space: Space, points: Points, y: np.ndarray) -> FittedProcess:
    """The process of standardised values, (n,)."""
    encoding = encoding_of(space)
    kernel, features = Kernel(encoding.groups, encoding.warped), encoding.features(points)
    return FittedProcess(space, posterior(kernel, fit(kernel, features, y, start(kernel)), features, y))
