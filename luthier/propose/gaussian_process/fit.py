"""Fitting the kernel: the most probable parameters given the results, by L-BFGS-B with exact gradients."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from luthier.propose.gaussian_process.kernel import Covariance
from luthier.propose.gaussian_process.linear import cholesky, inverse

ITERATIONS = 30
WARP_DEVIATION = 0.5  # standard deviation of log a and log b
BOUNDS = {
    "length": (0.03, 100.0),
    "scale": (0.01, 100.0),
    "noise": (1e-6, 1.0),
    "warp": (np.exp(-2.0), np.exp(2.0)),
    "drift": (5e-4, 0.5 * np.log(2.0)),  # a forgetting ε of 0.001 to 0.5 a round
    "own length": (0.03, 30.0),
    "own scale": (1e-3, 10.0),
    "trend length": (0.03, 30.0),
    "trend scale": (1e-3, 10.0),
}
# of learning curves: mean and standard deviation of the logarithm
NORMAL = {
    "own length": (0.0, 0.7),
    "own scale": (-1.0, 1.5),
    "trend length": (0.0, 0.7),
    "trend scale": (-1.5, 1.5),
}
START = {"length": 1.0, "scale": 1.0, "noise": 0.01, "warp": 1.0, "drift": -0.5 * np.log(0.9)}
START |= {kind: float(np.exp(mean)) for kind, (mean, _) in NORMAL.items()}


def bounds(kernel: Covariance) -> np.ndarray:
    """Lower and upper bound of each parameter, (parameters, 2)."""
    return np.log(np.stack([_vector(kernel, {k: v[i] for k, v in BOUNDS.items()}) for i in range(2)], axis=1))


def start(kernel: Covariance) -> np.ndarray:
    """Return the starting point of a study's first fit, (parameters,)."""
    return np.log(_vector(kernel, START))


def fit(
    kernel: Covariance, features: np.ndarray, y: np.ndarray, theta: np.ndarray, iterations: int = ITERATIONS
) -> np.ndarray:
    """The parameters near ``theta`` that are most probable.

    Args:
        features: (n, features).
        y: (n,) transformed results.
        theta: Starting point, (parameters,).
        iterations: Most iterations of L-BFGS-B.

    Returns:
        (parameters,).
    """
    limits = bounds(kernel)
    found = minimize(
        lambda t: objective(kernel, features, y, t),
        np.clip(theta, limits[:, 0], limits[:, 1]),
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": iterations, "gtol": 1e-2, "ftol": 1e-6},
    )
    return found.x if np.isfinite(found.fun) else theta


def objective(kernel: Covariance, features: np.ndarray, y: np.ndarray, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the logarithm of marginal likelihood times prior, and its gradient.

    ``log p(y) = -½ yᵀ K⁻¹ y - ½ log|K| - ½ n log 2π`` and ``∂ log p(y) = ½ tr((a aᵀ - K⁻¹) ∂K)`` with ``a = K⁻¹ y``
    (Rasmussen and Williams, "Gaussian processes for machine learning", 2006, eqs. 2.30 and 5.9).
    """
    n = len(y)
    gram = kernel.gram(theta, features)
    lower = cholesky(gram.covariance, float(np.exp(theta[kernel.at_noise])))
    precision = inverse(lower)
    alpha = precision @ y
    value = 0.5 * y @ alpha + np.log(lower.diagonal()).sum() + 0.5 * n * np.log(2 * np.pi)
    weights = 0.5 * (precision - np.outer(alpha, alpha))
    gradient = kernel.gradient(theta, gram, weights)
    prior, by_theta = log_prior(kernel, theta)
    return float(value - prior), gradient - by_theta


def log_prior(kernel: Covariance, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """Logarithm of the prior density, up to a constant, and its gradient by ``theta``.

    With ``w = 1 / l²``: ``-(0.1 / w + 0.1 w)`` for each lengthscale; Gamma(2, 1) for the scale; Gamma(1.1, rate 30) for
    the noise variance; N(0, 0.5²) for each log a and log b; normal in the logarithm for those of learning curves; flat
    for a drift. The first three are those of Optuna's GP sampler.
    """
    length, warp = kernel.places["length"], kernel.places["warp"]
    squared = np.exp(2.0 * theta[length])
    scale, noise = np.exp(theta[kernel.at_scale]), np.exp(theta[kernel.at_noise])
    warps = theta[warp] / WARP_DEVIATION
    value = -0.1 * float(np.sum(squared + 1.0 / squared))
    value += theta[kernel.at_scale] - scale + 0.1 * theta[kernel.at_noise] - 30.0 * noise
    value -= 0.5 * float(warps @ warps)
    gradient = np.zeros(kernel.size)
    gradient[length] = -0.2 * (squared - 1.0 / squared)
    gradient[kernel.at_scale] = 1.0 - scale
    gradient[kernel.at_noise] = 0.1 - 30.0 * noise
    gradient[warp] = -warps / WARP_DEVIATION
    for kind, (mean, deviation) in NORMAL.items():
        if kind in kernel.places:
            away = (theta[kernel.places[kind]] - mean) / deviation
            value -= 0.5 * float(away @ away)
            gradient[kernel.places[kind]] = -away / deviation
    return float(value), gradient


def _vector(kernel: Covariance, values: dict[str, float]) -> np.ndarray:
    vector = np.empty(kernel.size)
    for kind, place in kernel.places.items():
        vector[place] = values[kind]
    return vector
