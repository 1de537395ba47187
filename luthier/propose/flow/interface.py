"""The interface shared by the exact and the learnt sampler."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from luthier.propose.flow.tree import Leaves, Tree


class Sampler(Protocol):
    """A distribution over the leaves of a tree, uniform inside the bins of a leaf.

    Attributes:
        tree: The tree.
        log_z: Logarithm of the sum of R^beta over all leaves; for a learnt sampler, an estimate of it.
        evaluations: Number of rewards asked for to make it.
    """

    @property
    def tree(self) -> Tree: ...
    @property
    def log_z(self) -> float: ...
    @property
    def evaluations(self) -> int: ...

    def sample(self, count: int, *, rng: np.random.Generator, temperature: float = 1.0) -> Leaves:
        """Draw ``count`` leaves independently, their codes uniform inside the bins.

        The first draws are the same whatever ``count`` is, up to rounding of the network's float32 arithmetic.

        Args:
            count: Number of leaves.
            rng: Source of all randomness.
            temperature: Divides the logits of each step: below 1 greedier, above 1 flatter, 1 as trained.

        Raises:
            MethodError: If the temperature is not above zero.
        """
        ...

    def log_mass(self, leaves: Leaves, temperature: float = 1.0) -> np.ndarray:
        """Logarithm of the probability of each leaf, (n,): over all leaves of the tree they sum to 1."""
        ...

    def log_prob(self, leaves: Leaves, temperature: float = 1.0) -> np.ndarray:
        """Logarithm of the density at the codes of each leaf, (n,).

        It is a density in the codes of Floats and a probability in the values of all else: summed over the values of
        Ints and Choices and integrated over the codes of Floats, it gives 1. Which codes count is part of the
        configuration: inactive ones do not. It equals :meth:`log_mass` where a space has no Float and no bin with
        several values.
        """
        ...
