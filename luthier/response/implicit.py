"""Hypergradients by the implicit function theorem: dL_V/dλ = ∂L_V/∂λ - vᵀ H⁻¹ M at a minimum of the training loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from luthier.errors import MethodError
from luthier.response.problem import Problem, build
from luthier.response.products import Mode, Products
from luthier.response.result import Hypergradient, Loss, ResponseWarning, Tree
from luthier.response.solvers import conjugate_gradients, neumann, neumann_step
from luthier.response.trees import norm, scaled

Solve = Callable[[Products, list[Tensor]], tuple[list[Tensor], dict[str, Any]]]


def implicit(
    train_loss: Loss,
    valid_loss: Loss,
    params: Tree,
    hyper: Tree,
    train_batches: list[Any] | None = None,
    valid_batch: Any = None,
    *,
    solver: Literal["cg", "neumann"] = "cg",
    iterations: int = 20,
    damping: float = 1e-3,
    tolerance: float = 1e-6,
    alpha: float | Tensor | Literal["auto"] = "auto",
    power_iterations: int = 5,
    products: Mode = "auto",
    radius: float | None = None,
    traced: bool = False,
) -> Hypergradient:
    """Hypergradient by the implicit function theorem, the linear system solved approximately.

    -vᵀ (H + δI)⁻¹ M with v = ∂L_V/∂w, H = ∂²L_T/∂w², M = ∂²L_T/∂w∂λ. Conjugate gradients need no step size and end at
    negative curvature; the Neumann series is the unrolling of gradient descent.

    Args:
        train_loss: (params, hyper, batch) -> () or (members,), minimised by the weights.
        valid_loss: The same of the validation loss; hyperparameters may enter it directly.
        params: Weights by name, near a minimum of the training loss.
        hyper: Hyperparameters by name, real numbers that enter the training loss.
        train_batches: Minibatches; the mean of their losses is what H and M are of. None: the loss needs none.
        valid_batch: The validation batch.
        solver: "cg" or "neumann".
        iterations: Products with the Hessian (terms after the first in the Neumann series).
        damping: δ; must be far below the smallest eigenvalue of H for an accurate result.
        tolerance: Conjugate gradients end at this relative residual.
        alpha: Step of the Neumann series, below 2/λ_max; "auto": 1/λ_max by power iteration.
        power_iterations: Products spent on "auto".
        products: How H and M are multiplied with: "double_backward", "finite_difference", or "auto", the second where
            a module has no second derivative, with a warning.
        radius: Distance of the finite difference, None: by the precision.
        traced: For a step that is recorded (make_fx): no value decides anything, so no early end and no error.

    Returns:
        The hypergradient; `residual` and `inner_gradient_norm` tell how far to trust it.

    Raises:
        MethodError: A hyperparameter has no response (a learning rate), or an argument is wrong.
        NonFiniteError: The result is NaN or infinite.

    Example:
        >>> w, penalty = {"w": torch.tensor([1.0])}, {"penalty": torch.tensor([1.0])}
        >>> train = lambda p, h, _: ((p["w"] - 2) ** 2 + h["penalty"] * p["w"] ** 2).sum()
        >>> valid = lambda p, h, _: ((p["w"] - 3) ** 2).sum()
        >>> implicit(train, valid, w, penalty, damping=0.0).total
        {'penalty': tensor([2.])}

    References:
        Pedregosa, Hyperparameter optimization with approximate gradient, ICML 2016; Lorraine, Vicol & Duvenaud,
        Optimizing millions of hyperparameters by implicit differentiation, AISTATS 2020.
    """
    check_number("iterations", iterations, 0)
    check_number("damping", damping, 0)
    check_number("tolerance", tolerance, 0)
    if solver not in ("cg", "neumann"):
        raise MethodError(f"solver={solver!r} is unknown", where="solver", remedy='Give "cg" or "neumann".')
    if alpha != "auto" if isinstance(alpha, str) else not isinstance(alpha, Tensor) and not alpha > 0:
        raise MethodError(
            f"alpha={alpha!r} is not positive", where="alpha", remedy='Give a step below 2/λ_max or "auto".'
        )
    check_number("power_iterations", power_iterations, 1)
    problem = build(train_loss, valid_loss, params, hyper, train_batches, valid_batch, traced)

    def solve(matrix: Products, v: list[Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
        product = _damped(matrix, damping)
        if solver == "cg":
            return conjugate_gradients(
                product, v, iterations=iterations, tolerance=tolerance, members=problem.members, traced=traced
            )
        if isinstance(alpha, str):
            step = neumann_step(product, v, power_iterations, problem.members)
        else:
            step = alpha
        q, diagnostics = neumann(product, v, iterations=iterations, alpha=step, members=problem.members)
        left = diagnostics["residual"]
        if not traced and left is not None and bool((left > 1).any()):
            warnings.warn(
                f"The Neumann series diverges: residual {left.max().item():.3g} after {iterations} terms. The "
                "Hessian has a negative eigenvalue or alpha is above 2/λ_max: use solver='cg', more damping or a "
                "smaller alpha.",
                ResponseWarning,
                stacklevel=4,
            )
        return q, diagnostics

    return respond(problem, solve, products, radius)


def identity(
    train_loss: Loss,
    valid_loss: Loss,
    params: Tree,
    hyper: Tree,
    train_batches: list[Any] | None = None,
    valid_batch: Any = None,
    *,
    alpha: float | Tensor = 1.0,
    products: Mode = "auto",
    radius: float | None = None,
    traced: bool = False,
) -> Hypergradient:
    """Hypergradient with H⁻¹ replaced by a multiple of the identity (T1-T2): the effect of the last step alone.

    Args:
        train_loss: As in `implicit`.
        valid_loss: As in `implicit`.
        params: As in `implicit`.
        hyper: As in `implicit`.
        train_batches: As in `implicit`.
        valid_batch: As in `implicit`.
        alpha: The learning rate of the training; it scales the response term only.
        products: As in `implicit`.
        radius: As in `implicit`.
        traced: As in `implicit`.

    Returns:
        The hypergradient; its direction is what counts.

    Raises:
        MethodError: As `implicit`.
        NonFiniteError: As `implicit`.

    References:
        Luketina, Berglund, Greff & Raiko, Scalable gradient-based tuning of continuous regularization
        hyperparameters, ICML 2016.
    """
    if not isinstance(alpha, Tensor):
        check_number("alpha", alpha, 0)
    problem = build(train_loss, valid_loss, params, hyper, train_batches, valid_batch, traced)
    return respond(problem, lambda _, v: (scaled(alpha, v), {"alpha": alpha}), products, radius)


def finite_difference(
    train_loss: Loss,
    valid_loss: Loss,
    params: Tree,
    hyper: Tree,
    train_batches: list[Any] | None = None,
    valid_batch: Any = None,
    *,
    alpha: float | Tensor = 1.0,
    radius: float | None = None,
    traced: bool = False,
) -> Hypergradient:
    """Hypergradient of `identity` without any second derivative: two more gradients, at w ± εv.

    vᵀM ≈ [∂L_T/∂λ(w + εv) - ∂L_T/∂λ(w - εv)] / 2ε with ε = radius/‖v‖. `implicit(..., products="finite_difference")`
    solves the linear system too by such differences.

    Args:
        train_loss: As in `implicit`.
        valid_loss: As in `implicit`.
        params: As in `implicit`.
        hyper: As in `implicit`.
        train_batches: As in `implicit`.
        valid_batch: As in `implicit`.
        alpha: The learning rate of the training; it scales the response term only.
        radius: Distance in the weights; None: the cube root of the rounding unit times max(1, ‖w‖). DARTS has 0.01.
        traced: As in `implicit`.

    Returns:
        The hypergradient; its direction is what counts.

    Raises:
        MethodError: As `implicit`.
        NonFiniteError: As `implicit`.

    References:
        Liu, Simonyan & Yang, DARTS: differentiable architecture search, ICLR 2019, eq. 8.
    """
    return identity(
        train_loss,
        valid_loss,
        params,
        hyper,
        train_batches,
        valid_batch,
        alpha=alpha,
        products="finite_difference",
        radius=radius,
        traced=traced,
    )


def respond(problem: Problem, solve: Solve, products: Mode, radius: float | None) -> Hypergradient:
    """What all implicit methods share: v, then q ≈ H⁻¹v by ``solve``, then ∂L_V/∂λ - qᵀM."""
    loss, v, direct = problem.validation()
    length = norm(v, problem.members)
    matrix = Products(problem, problem.params, problem.train_batches, products, radius)
    q, diagnostics = solve(matrix, v)
    response = [None if x is None else -x for x in matrix.mixed(q)]
    inner = norm(matrix.gradient, problem.members)
    del v, q, matrix  # and with it the graph, before the result is put together
    return problem.finish(loss, direct, response, gradient_norm=length, inner_gradient_norm=inner, **diagnostics)


def check_number(name: str, value: float, least: float) -> None:
    """Refuse a setting below its least value, or NaN."""
    if not value >= least:
        raise MethodError(f"{name}={value!r} is below {least}", where=name, remedy=f"Give at least {least}.")


def _damped(matrix: Products, damping: float) -> Callable[..., list[Tensor]]:
    if damping == 0:
        return matrix.hessian

    def product(v: list[Tensor]) -> list[Tensor]:
        # The product may share memory with the graph (a gradient that passes through unchanged): not in place.
        return [x.add(y, alpha=damping) for x, y in zip(matrix.hessian(v), v, strict=True)]

    return product
