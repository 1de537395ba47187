"""All randomness, as a function of (study seed, job number, purpose): nothing depends on the order of calls."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Seeds:
    """The seeds of one study.

    Two calls with equal arguments give equal numbers, in any process and after any resume; two calls
    that differ in seed, number or purpose are independent.

    Args:
        study: The study's seed, any integer.

    Examples:
        >>> Seeds(0).rng(3, "propose").integers(100) == Seeds(0).rng(3, "propose").integers(100)
        np.True_
    """

    study: int

    def rng(self, number: int, purpose: str) -> np.random.Generator:
        """A NumPy generator (counter-based Philox, about 10 µs) for one job and one purpose."""
        return np.random.Generator(np.random.Philox(key=self._digest(number, purpose, 16)))

    def key(self, number: int, purpose: str) -> int:
        """An integer in [0, 2**62) for one job and one purpose: the key of noise inside a training."""
        return self._digest(number, purpose, 8) >> 2

    def _digest(self, number: int, purpose: str, size: int) -> int:
        text = f"{self.study}/{number}/{purpose}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=size).digest(), "little")
