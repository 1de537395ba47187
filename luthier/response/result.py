"""The result of a hypergradient method, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.errors import LuthierError

Tree = dict[str, Tensor]
Loss = Callable[[Tree, Tree, Any], Tensor]  # (params, hyper, batch) -> () or, for a stack, (members,)


class NonFiniteError(LuthierError, ArithmeticError):
    """A hypergradient that came out as NaN or infinity."""


class ResponseWarning(UserWarning):
    """A hypergradient that was computed, but in another way or with less certainty than was asked for."""


@dataclass(frozen=True)
class Hypergradient:
    """The derivative of the validation loss by the hyperparameters, and what tells whether to trust it.

    Numbers are () for one training and (members,) for a stack; trees are constants keyed as ``hyper`` or ``params``;
    where a term is zero, ``total`` is the other one itself.

    Args:
        total: ``direct + response``: the hypergradient, keyed and shaped as ``hyper``.
        direct: The part through the validation loss itself, ∂L_V/∂λ.
        response: The part through the weights, (dw/dλ)ᵀ ∂L_V/∂w.
        valid_loss: The validation loss at the weights used.
        gradient_norm: ‖∂L_V/∂w‖, the norm of the vector that the response is multiplied with.
        inner_gradient_norm: ‖∂L_T/∂w‖ at the weights used (`unrolled`: at the last step). The implicit methods assume
            it is zero; where it is not the result has an error that no number of iterations removes.
        iterations: Products with the Hessian that the solver used (`unrolled`: steps that were differentiated).
        residual: ‖v - (H + damping I) q‖ / ‖v‖ of the linear system that was solved: 0 is solved, 1 is nothing done.
            For the Neumann series the residual before its last term. None where the method has no such system.
        negative_curvature: True if a direction with negative curvature was met: the weights are not at a minimum.
        alpha: The step of the Neumann series or of `identity`.
        adjoint_growth: `unrolled` alone: norm of the gradient by the weights after the first step over that after the
            last step. Much greater than 1 is an exploding unroll, 0 a forgotten beginning.
        finite: True if the member's hypergradient is finite; where it is not, its entries are NaN. A single training
            run that is not finite raises instead.
        params: `unrolled` alone: the weights after the last step.
        state: `unrolled` alone: the optimizer's state after the last step, to be handed to the next window.
    """

    total: Tree
    direct: Tree
    response: Tree
    valid_loss: Tensor
    gradient_norm: Tensor
    inner_gradient_norm: Tensor
    iterations: Tensor | int = 0
    residual: Tensor | None = None
    negative_curvature: Tensor | None = None
    alpha: Tensor | float | None = None
    adjoint_growth: Tensor | None = None
    finite: Tensor | None = None
    params: Tree | None = None
    state: Any = None

    def __str__(self) -> str:
        """One line that a person can read; of a stack, means over the members."""

        def mean(value: Tensor | float) -> str:
            return f"{torch.as_tensor(value, dtype=torch.float64).mean().item():.3g}"

        def size(tree: Tree) -> str:
            squares = torch.stack([x.to(torch.float64).square().sum() for x in tree.values()])
            return f"{squares.sum().sqrt().item():.3g}"

        parts = [
            f"hypergradient {size(self.total)} (direct {size(self.direct)}, response {size(self.response)})",
            f"valid loss {mean(self.valid_loss)}",
            f"inner gradient {mean(self.inner_gradient_norm)}",
            f"{mean(self.iterations)} iterations",
        ]
        if self.residual is not None:
            parts.append(f"residual {mean(self.residual)}")
        if self.alpha is not None:
            parts.append(f"alpha {mean(self.alpha)}")
        if self.adjoint_growth is not None:
            parts.append(f"adjoint growth {mean(self.adjoint_growth)}")
        if self.negative_curvature is not None and bool(self.negative_curvature.any()):
            parts.append("negative curvature met")
        return ", ".join(parts)
