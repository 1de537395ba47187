"""Hypergradients by the implicit function theorem: dL_V/dλ = ∂L_V/∂λ - vᵀ H⁻¹ M at a minimum of the training loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from luthier.checks import checked, one_of, real, whole
from luthier.response.problem import Losses, Problem
from luthier.response.products import Mode, Products
from luthier.response.result import Hypergradient, ResponseWarning
from luthier.response.solvers import conjugate_gradients, neumann, neumann_step
from luthier.response.trees import norm, scaled

Solve = Callable[[Products, list[Tensor]], tuple[list[Tensor], dict[str, Any]]]


def implicit(
    problem: Problem,
    *,
    solver: Literal["cg", "neumann"] = "cg",
    iterations: int = 20,
    damping: float = 1e-3,
    tolerance: float = 1e-6,
    alpha: float | Tensor | Literal["auto"] = "auto",
    power_iterations: int = 5,
    products: Mode = "auto",
    radius: float | None = None,
) -> Hypergradient:
    """Hypergradient by the implicit function theorem, the linear system solved approximately.

    -vᵀ (H + δI)⁻¹ M with v = ∂L_V/∂w, H = ∂²L_T/∂w², M = ∂²L_T/∂w∂λ. Conjugate gradients need no step size and end at
    negative curvature; the Neumann series is the unrolling of gradient descent.

    Args:
        problem: The losses, and where they are taken.
        solver: "cg" or "neumann".
        iterations: Products with the Hessian (terms after the first in the Neumann series).
        damping: δ; must be far below the smallest eigenvalue of H for an accurate result.
        tolerance: Conjugate gradients end at this relative residual.
        alpha: Step of the Neumann series, below 2/λ_max; "auto": 1/λ_max by power iteration.
        power_iterations: Products spent on "auto".
        products: Kind of products with H and M: "double_backward", "finite_difference", or "auto", the second where
            a module has no second derivative, with a warning.
        radius: Distance of the finite difference, None: by the precision.

    Returns:
        The hypergradient; `residual` and `inner_gradient_norm` tell how far to trust it.

    Raises:
        MethodError: A hyperparameter has no response (a learning rate), or an argument is wrong.
        NonFiniteError: The result is NaN or infinite.

    Examples:
        >>> import torch
        >>> w, penalty = {"w": torch.tensor([1.0])}, {"penalty": torch.tensor([1.0])}
        >>> train = lambda p, h, _: ((p["w"] - 2) ** 2 + h["penalty"] * p["w"] ** 2).sum()
        >>> valid = lambda p, h, _: ((p["w"] - 3) ** 2).sum()
        >>> implicit(Problem(train, valid, w, penalty), damping=0.0).total
        {'penalty': tensor([2.])}

    References:
        Pedregosa, Hyperparameter optimization with approximate gradient, ICML 2016; Lorraine, Vicol & Duvenaud,
        Optimizing millions of hyperparameters by implicit differentiation, AISTATS 2020.
    """
    where = "implicit"
    iterations = checked("iterations", iterations, whole(0), where=where)
    damping = checked("damping", damping, real(0), where=where)
    tolerance = checked("tolerance", tolerance, real(0), where=where)
    solver = checked("solver", solver, one_of("cg", "neumann"), where=where)
    if not isinstance(alpha, Tensor | str):
        alpha = checked("alpha", alpha, real(above=0), where=where, remedy='Give a step below 2/λ_max or "auto".')
    elif not isinstance(alpha, Tensor):
        checked("alpha", alpha, one_of("auto"), where=where, remedy='Give a step below 2/λ_max or "auto".')
    power_iterations = checked("power_iterations", power_iterations, whole(1), where=where)
    losses = Losses(problem)

    def solve(matrix: Products, v: list[Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
        product = _damped(matrix, damping)
        if solver == "cg":
            return conjugate_gradients(
                product, v, iterations=iterations, tolerance=tolerance, members=losses.members, traced=losses.traced
            )
        if isinstance(alpha, str):
            step = neumann_step(product, v, power_iterations, losses.members)
        else:
            step = alpha
        q, diagnostics = neumann(product, v, iterations=iterations, alpha=step, members=losses.members)
        left = diagnostics["residual"]
        if not losses.traced and left is not None and bool((left > 1).any()):
            warnings.warn(
                f"The Neumann series diverges: residual {left.max().item():.3g} after {iterations} terms. The "
                "Hessian has a negative eigenvalue or alpha is above 2/λ_max: use solver='cg', more damping or a "
                "smaller alpha.",
                ResponseWarning,
                stacklevel=4,
            )
        return q, diagnostics

    return respond(losses, solve, products, radius)


def identity(
    problem: Problem,
    *,
    alpha: float | Tensor = 1.0,
    products: Mode = "auto",
    radius: float | None = None,
) -> Hypergradient:
    """Hypergradient with H⁻¹ replaced by a multiple of the identity (T1-T2): the effect of the last step alone.

    Args:
        problem: The problem.
        alpha: The learning rate of the training; it scales the response term only.
        products: See `implicit`.
        radius: See `implicit`.

    Returns:
        The hypergradient; its direction is what counts.

    Raises:
        MethodError: A hyperparameter has no response (a learning rate), or an argument is wrong.
        NonFiniteError: The result is NaN or infinite.

    References:
        Luketina, Berglund, Greff & Raiko, Scalable gradient-based tuning of continuous regularization
        hyperparameters, ICML 2016.
    """
    if not isinstance(alpha, Tensor):
        alpha = checked("alpha", alpha, real(0), where="identity")
    return respond(Losses(problem), lambda _, v: (scaled(alpha, v), {"alpha": alpha}), products, radius)


def finite_difference(
    problem: Problem,
    *,
    alpha: float | Tensor = 1.0,
    radius: float | None = None,
) -> Hypergradient:
    """Hypergradient of `identity` without any second derivative: two more gradients, at w ± εv.

    vᵀM ≈ [∂L_T/∂λ(w + εv) - ∂L_T/∂λ(w - εv)] / 2ε with ε = radius/‖v‖. `implicit(..., products="finite_difference")`
    solves the linear system too by such differences.

    Args:
        problem: The problem.
        alpha: The learning rate of the training; it scales the response term only.
        radius: Distance in the weights; None: the cube root of the rounding unit times max(1, ‖w‖). DARTS has 0.01.

    Returns:
        The hypergradient; its direction is what counts.

    Raises:
        MethodError: A hyperparameter has no response (a learning rate), or an argument is wrong.
        NonFiniteError: The result is NaN or infinite.

    References:
        Liu, Simonyan & Yang, DARTS: differentiable architecture search, ICLR 2019, eq. 8.
    """
    return identity(problem, alpha=alpha, products="finite_difference", radius=radius)


def respond(losses: Losses, solve: Solve, products: Mode, radius: float | None) -> Hypergradient:
    """Return ∂L_V/∂λ - qᵀM with v = ∂L_V/∂w and q ≈ H⁻¹v by ``solve``: the part of all implicit methods."""
    loss, v, direct = losses.validation()
    length = norm(v, losses.members)
    matrix = Products(losses, losses.params, losses.train_batches, products, radius)
    q, diagnostics = solve(matrix, v)
    response = [None if x is None else -x for x in matrix.mixed(q)]
    inner = norm(matrix.gradient, losses.members)
    del v, q, matrix  # and with it the graph, before the result is put together
    return losses.finish(loss, direct, response, gradient_norm=length, inner_gradient_norm=inner, **diagnostics)


def _damped(matrix: Products, damping: float) -> Callable[..., list[Tensor]]:
    if damping == 0:
        return matrix.hessian

    def product(v: list[Tensor]) -> list[Tensor]:
        # The product may share memory with the graph (a gradient that passes through unchanged): not in place.
        return [x.add(y, alpha=damping) for x, y in zip(matrix.hessian(v), v, strict=True)]

    return product
