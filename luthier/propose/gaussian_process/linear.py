"""Linear algebra of covariance matrices, straight from LAPACK and BLAS.

The checks of SciPy's own wrappers cost as much as the work on matrices this small.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

JITTER = 1e-6  # added to the noise variance

_lapack: Any = scipy.linalg.lapack
_blas: Any = scipy.linalg.blas


def cholesky(covariance: np.ndarray, noise: float) -> np.ndarray:
    """Lower Cholesky factor of ``covariance + (noise + jitter) I``, the jitter as small as works."""
    jitter = JITTER
    while True:
        matrix = covariance.copy()
        matrix.flat[:: len(matrix) + 1] += noise + jitter
        lower, failed = _lapack.dpotrf(matrix, lower=1, clean=1)
        if not failed:
            return lower
        jitter *= 10.0


def inverse(lower: np.ndarray) -> np.ndarray:
    """Inverse of the matrix whose lower Cholesky factor this is."""
    found, _ = _lapack.dpotri(lower, lower=1)
    found += found.T  # the upper triangle was zero
    found.flat[:: len(found) + 1] *= 0.5
    return found


def solve(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``(L Lᵀ)⁻¹ right`` for the lower factor L."""
    return _lapack.dpotrs(lower, right, lower=1)[0]


def forward(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``L⁻¹ right`` for the lower factor L."""
    return _blas.dtrsm(1.0, lower, right, lower=1)
