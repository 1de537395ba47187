"""Solvers of (H + δI) q = v that see the Hessian only through products: conjugate gradients and the Neumann series.

Both work on one training or on a stack of them. In a stack every member has its own step lengths, and a member that is
done (solved, negative curvature, not finite) is masked: its numbers stand still while the others go on, and no value
decides what is executed. So a stack gives each member what it would get alone, and with ``traced=True`` (which also
leaves out the early end) the solver can be recorded as a flat graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.response.trees import add_scaled_, dot, norm, scaled, select, shifted

Product = Callable[[Sequence[Tensor]], list[Tensor]]


def conjugate_gradients(
    product: Product, v: list[Tensor], *, iterations: int, tolerance: float, members: int | None, traced: bool
) -> tuple[list[Tensor], dict[str, Any]]:
    """q with (H + δI) q ≈ v by conjugate gradients (Hestenes & Stiefel 1952), ended early by negative curvature.

    Where the very first direction v has no positive curvature the quadratic model says nothing; q is then
    v·‖v‖ / ‖(H + δI) v‖, the identity approximation at the scale of the Hessian, with 0 iterations reported.

    Args:
        product: v -> (H + δI) v.
        v: The right-hand side, shaped as the weights.
        iterations: Products with the Hessian at most.
        tolerance: Ends when ‖residual‖ <= tolerance·‖v‖.
        members: Members of the stack, None for one training.
        traced: Make all iterations whatever the values.

    Returns:
        q and the diagnostics: residual, iterations, negative_curvature.
    """
    q = [torch.zeros_like(x) for x in v]
    r, p = [x.clone() for x in v], [x.clone() for x in v]
    start = rr = dot(r, r, members)
    stop = tolerance**2 * start
    active = rr > stop
    negative = broken = torch.zeros_like(active)
    count = torch.zeros_like(rr)
    for iteration in range(iterations):
        if not traced and not bool(active.any()):
            break
        hp = product(p)
        curvature = dot(p, hp, members)
        broken = broken | (active & ~torch.isfinite(curvature))
        negative = negative | (active & (curvature <= 0))
        if iteration == 0:  # nothing better than the identity is known there
            length = norm(hp, members)
            fallback = torch.where(active & (curvature <= 0), rr.sqrt() / length, torch.zeros_like(rr))
            add_scaled_(q, fallback, v)
        active = active & (curvature > 0)
        step = torch.where(active, rr / curvature, torch.zeros_like(rr))
        add_scaled_(q, step, p)
        add_scaled_(r, -step, hp)
        after = dot(r, r, members)
        ratio = torch.where(active, after / rr, torch.zeros_like(rr))
        p = [x + y for x, y in zip(r, scaled(ratio, p), strict=True)]
        count = count + active
        rr = torch.where(active, after, rr)
        active = active & (rr > stop)
    q = select(broken, [torch.full_like(x, float("nan")) for x in q], q)
    residual = torch.where(start > 0, (rr / start).sqrt(), torch.zeros_like(rr))
    return q, {"residual": residual, "iterations": count, "negative_curvature": negative}


def neumann(
    product: Product,
    v: list[Tensor],
    *,
    iterations: int,
    alpha: float | Tensor,
    members: int | None,
) -> tuple[list[Tensor], dict[str, Any]]:
    """q = a Σ_{j=0..iterations} (I - aH)ʲ v (Lorraine, Vicol & Duvenaud 2020, algorithm 3); 0 iterations is T1-T2.

    Converges if and only if 0 < a < 2/λ_max and H is positive definite.

    Args:
        product: v -> (H + δI) v.
        v: The right-hand side, shaped as the weights.
        iterations: Terms after the first one; each costs a product.
        alpha: Step a, () or (members,).
        members: Members of the stack, None for one training.

    Returns:
        q and the diagnostics: residual, iterations, negative_curvature (of the last product), alpha.
    """
    p = total = v
    negative = None
    for iteration in range(iterations):
        hp = product(p)
        if iteration == iterations - 1:
            negative = dot(p, hp, members) < 0
        if iteration == 0:  # v is not ours to write into
            p = shifted(p, -alpha, hp)
            total = shifted(v, 1.0, p)
        else:
            add_scaled_(p, -alpha, hp)
            add_scaled_(total, 1.0, p)
        del hp  # a copy of the weights less while the next product is made
    start = dot(v, v, members)
    left = torch.where(start > 0, dot(p, p, members) / start, torch.zeros_like(start)).sqrt()
    return scaled(alpha, total), {
        "residual": left if iterations else None,
        "iterations": torch.full_like(start, iterations),
        "negative_curvature": negative,
        "alpha": alpha,
    }


def neumann_step(product: Product, v: list[Tensor], iterations: int, members: int | None) -> Tensor:
    """Step 1/|λ|_max, with |λ|_max by power iteration, (members,) or ().

    It starts at v: the series never leaves the space spanned by v, Hv, H²v, …, so the largest eigenvalue there is the
    one that counts, and no random start is needed.
    """
    largest, direction = torch.ones_like(dot(v, v, members)), v
    for _ in range(iterations):
        length = norm(direction, members)
        unit = scaled(torch.where(length > 0, 1 / length, torch.zeros_like(length)), direction)
        direction = product(unit)
        largest = norm(direction, members)
    return torch.where(largest > 0, 1 / largest, torch.ones_like(largest))
