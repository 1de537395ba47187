"""Hypergradients with the whole Hessian, formed column by column."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.checks import checked, real
from luthier.errors import MethodError
from luthier.response.implicit import respond
from luthier.response.problem import Losses, Problem
from luthier.response.products import Mode, Products
from luthier.response.result import Hypergradient
from luthier.response.trees import flatten, unflatten

_LARGEST = 5_000  # weights: 200 MB of float64, and a minute of products


def exact(
    problem: Problem,
    *,
    damping: float = 0.0,
    products: Mode = "auto",
    radius: float | None = None,
) -> Hypergradient:
    """Hypergradient by the implicit function theorem with the whole Hessian: for tests and tiny problems.

    Args:
        problem: The problem.
        damping: δ of H + δI.
        products: See `implicit`.
        radius: See `implicit`.

    Returns:
        The hypergradient; `negative_curvature` says whether the Hessian is not positive definite.

    Raises:
        MethodError: Too many weights, a singular Hessian, or any reason of `implicit`.
        NonFiniteError: The result is NaN or infinite.
    """
    damping = checked("damping", damping, real(0), where="exact")
    losses = Losses(problem)

    def solve(matrix: Products, v: list[Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
        right = flatten(v, losses.members)  # (members, numbers)
        size = right.shape[1]
        if size > _LARGEST:
            remedy = "Use luthier.response.implicit, which never forms the Hessian."
            raise MethodError(f"{size} weights, and {_LARGEST} at most", where="exact", remedy=remedy)
        hessian = columns(matrix, v, range(size))
        hessian = (hessian + hessian.mT) / 2 + damping * torch.eye(size, dtype=right.dtype, device=right.device)
        solution, info = torch.linalg.solve_ex(hessian, right)
        if not losses.traced and bool((info != 0).all()):
            remedy = "A weight does not enter the training loss, or is not determined by it: give damping=1e-3."
            raise MethodError("the Hessian is singular", where="exact", remedy=remedy)
        solution = torch.where((info != 0)[:, None], torch.full_like(solution, float("nan")), solution)
        left = right - (hessian @ solution.unsqueeze(-1)).squeeze(-1)
        return unflatten(solution, v), {
            "residual": _relative(left, right, losses.members),
            "iterations": torch.full_like(problem_shape(right, losses.members), size),
            "negative_curvature": problem_shape(torch.linalg.cholesky_ex(hessian)[1] != 0, losses.members),
        }

    return respond(losses, solve, products, radius)


def columns(matrix: Products, like: list[Tensor], chosen: list[int] | range) -> Tensor:
    """Columns of the Hessian over all weights of a member, (members, numbers, columns)."""
    members = matrix.losses.members
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
