"""Hypergradients from columns of the Hessian: all of them (`exact`) or a few (`nystrom`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.response.implicit import check_number, respond
from luthier.response.problem import build
from luthier.response.products import Mode, Products
from luthier.response.result import Hypergradient, Loss, Tree
from luthier.response.trees import flatten, unflatten

_LARGEST = 5_000  # weights: 200 MB of float64, and a minute of products


def exact(
    train_loss: Loss,
    valid_loss: Loss,
    params: Tree,
    hyper: Tree,
    train_batches: list[Any] | None = None,
    valid_batch: Any = None,
    *,
    damping: float = 0.0,
    products: Mode = "auto",
    radius: float | None = None,
    traced: bool = False,
) -> Hypergradient:
    """Hypergradient by the implicit function theorem with the whole Hessian: for tests and tiny problems.

    Args:
        train_loss: As in `implicit`.
        valid_loss: As in `implicit`.
        params: As in `implicit`; at most 5,000 numbers a member.
        hyper: As in `implicit`.
        train_batches: As in `implicit`.
        valid_batch: As in `implicit`.
        damping: δ of H + δI.
        products: As in `implicit`.
        radius: As in `implicit`.
        traced: As in `implicit`.

    Returns:
        The hypergradient; `negative_curvature` says whether the Hessian is not positive definite.

    Raises:
        MethodError: Too many weights, or a singular Hessian; and as `implicit`.
        NonFiniteError: As `implicit`.
    """
    check_number("damping", damping, 0)
    problem = build(train_loss, valid_loss, params, hyper, train_batches, valid_batch, traced)

    def solve(matrix: Products, v: list[Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
        right = flatten(v, problem.members)  # (members, numbers)
        size = right.shape[1]
        if size > _LARGEST:
            remedy = "Use luthier.response.implicit, which never forms the Hessian."
            raise MethodError(f"{size} weights, and {_LARGEST} at most", where="exact", remedy=remedy)
        hessian = columns(matrix, v, range(size))
        hessian = (hessian + hessian.mT) / 2 + damping * torch.eye(size, dtype=right.dtype, device=right.device)
        solution, info = torch.linalg.solve_ex(hessian, right)
        if not traced and bool((info != 0).all()):
            remedy = "A weight does not enter the training loss, or is not determined by it: give damping=1e-3."
            raise MethodError("the Hessian is singular", where="exact", remedy=remedy)
        solution = torch.where((info != 0)[:, None], torch.full_like(solution, float("nan")), solution)
        left = right - (hessian @ solution.unsqueeze(-1)).squeeze(-1)
        return unflatten(solution, v), {
            "residual": _relative(left, right, problem.members),
            "iterations": torch.full_like(problem_shape(right, problem.members), size),
            "negative_curvature": problem_shape(torch.linalg.cholesky_ex(hessian)[1] != 0, problem.members),
        }

    return respond(problem, solve, products, radius)


def nystrom(
    train_loss: Loss,
    valid_loss: Loss,
    params: Tree,
    hyper: Tree,
    train_batches: list[Any] | None = None,
    valid_batch: Any = None,
    *,
    rank: int = 10,
    damping: float = 0.1,
    key: int = 0,
    products: Mode = "auto",
    radius: float | None = None,
    traced: bool = False,
) -> Hypergradient:
    """Hypergradient by the implicit function theorem with a low-rank Hessian: no iterations, no step size.

    H ≈ C W⁺ Cᵀ from ``rank`` random columns C and their rows W, and by Woodbury's identity
    (H + δI)⁻¹ v ≈ [v - C (δW + CᵀC)⁺ Cᵀv] / δ. Memory: ``rank`` copies of the weights.

    Args:
        train_loss: As in `implicit`.
        valid_loss: As in `implicit`.
        params: As in `implicit`.
        hyper: As in `implicit`.
        train_batches: As in `implicit`.
        valid_batch: As in `implicit`.
        rank: Columns, each a product with the Hessian; at most the number of weights, where it is exact.
        damping: δ, greater than 0.
        key: The columns' random draw; the same key draws the same columns, for every member of a stack.
        products: As in `implicit`.
        radius: As in `implicit`.
        traced: As in `implicit`.

    Returns:
        The hypergradient; `residual` (one product more) is of the true H + δI.

    Raises:
        MethodError: As `implicit`.
        NonFiniteError: As `implicit`.

    References:
        Hataya & Yamada, Nyström method for accurate and scalable implicit differentiation, AISTATS 2023.
    """
    check_number("rank", rank, 1)
    if not damping > 0:
        raise MethodError(f"damping={damping!r} is not positive", where="damping", remedy="Give, for example, 0.1.")
    problem = build(train_loss, valid_loss, params, hyper, train_batches, valid_batch, traced)

    def solve(matrix: Products, v: list[Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
        right = flatten(v, problem.members)  # (members, numbers)
        generator = torch.Generator().manual_seed(key)
        chosen = torch.randperm(right.shape[1], generator=generator)[:rank].tolist()
        c = columns(matrix, v, chosen)  # (members, numbers, rank)
        w = c[:, chosen, :]
        small = damping * (w + w.mT) / 2 + c.mT @ c
        projected = c.mT @ right.unsqueeze(-1)
        finite = torch.isfinite(small).all(-1).all(-1)  # eigenvalues of NaN raise; the member stays NaN through c
        small = torch.where(finite[:, None, None], small, torch.eye(len(chosen), dtype=c.dtype, device=c.device))
        # Columns of dead units are zero: the pseudo-inverse leaves them out.
        inner = torch.linalg.pinv(small, hermitian=True) @ projected
        solution = (right - (c @ inner).squeeze(-1)) / damping
        q = unflatten(solution, v)
        left = right - flatten(matrix.hessian(q), problem.members) - damping * solution
        return q, {
            "residual": _relative(left, right, problem.members),
            "iterations": torch.full_like(problem_shape(right, problem.members), len(chosen) + 1),
        }

    return respond(problem, solve, products, radius)


def columns(matrix: Products, like: list[Tensor], chosen: list[int] | range) -> Tensor:
    """Columns of the Hessian over all weights of a member, (members, numbers, columns)."""
    members = matrix.problem.members
    basis = flatten([torch.zeros_like(x) for x in like], members)
    found = []
    for index in chosen:
        one = basis.clone()
        one[:, index] = 1.0
        found.append(flatten(matrix.hessian(unflatten(one, like)), members))
    return torch.stack(found, dim=2)


def problem_shape(rows: Tensor, members: int | None) -> Tensor:
    """One number a row, (members,) or (members, anything), as the shape that diagnostics have: () for one training."""
    first = rows if rows.ndim == 1 else rows[:, 0]
    return first if members is not None else first[0]


def _relative(left: Tensor, right: Tensor, members: int | None) -> Tensor:
    size = right.norm(dim=1)
    return problem_shape(torch.where(size > 0, left.norm(dim=1) / size, torch.zeros_like(size)), members)
