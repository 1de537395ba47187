"""The first configurations: a shifted Sobol sequence, which covers every range evenly from the start."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import qmc

from luthier.seeds import Seeds


def sobol(columns: int, number: int, seeds: Seeds) -> np.ndarray:
    """Point ``number`` of the Sobol sequence, shifted by a random vector of the study, modulo 1.

    References:
        Cranley and Patterson, "Randomization of number theoretic methods for multiple integration", 1976.

    Returns:
        (columns,) in [0, 1).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it wants powers of two at once
        sequence = qmc.Sobol(columns, scramble=False)
        if number:
            sequence.fast_forward(number)
        point = sequence.random(1)[0]
    return (point + seeds.rng(0, "sobol shift").random(columns)) % 1.0
