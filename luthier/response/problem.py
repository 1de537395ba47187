"""A bilevel problem at one point, and its two losses as functions of leaves of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from luthier.errors import MethodError
from luthier.response.result import Hypergradient, Loss, NonFiniteError, Tree
from luthier.response.trees import norm, select, total

_NO_RESPONSE = (
    "A hyperparameter that does not enter the training loss, such as a learning rate, has no implicit response: use "
    "luthier.response.unrolled with an optimizer that reads it, or hypergradient descent"
)


@dataclass(frozen=True)
class Problem:
    """Two losses with weights, hyperparameters and batches: the first argument of every method.

    Args:
        train_loss: (params, hyper, batch) -> () or (members,), minimised by the weights.
        valid_loss: The same of the validation loss; hyperparameters may enter it directly.
        params: Weights by name: near a minimum of the training loss, of `unrolled` before the first step.
        hyper: Hyperparameters by name, real numbers that enter the losses (of `unrolled` or the optimizer).
        train_batches: Minibatches: the mean of their losses is the training loss (of `unrolled` one is a step). None:
            the loss needs none.
        valid_batch: The validation batch.
        traced: For a step that is recorded (make_fx): no value decides anything, so no early end and no error.

    Raises:
        MethodError: If a tensor cannot be differentiated by, or the batches are no list.
    """

    train_loss: Loss
    valid_loss: Loss
    params: Tree
    hyper: Tree
    train_batches: list[Any] | None = None
    valid_batch: Any = None
    traced: bool = False

    def __post_init__(self) -> None:
        for what, tree in (("params", self.params), ("hyper", self.hyper)):
            if not tree:
                raise MethodError("is empty", where=what, remedy="Give a dictionary of named tensors.")
            for name, value in tree.items():
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    kind = f"a {value.dtype} tensor" if isinstance(value, Tensor) else f"{value!r}"
                    raise MethodError(
                        f"is {kind}, and a gradient needs a floating-point tensor",
                        where=f"{what}[{name!r}]",
                        remedy="Discrete choices cannot be tuned by gradients: use the methods that tune between "
                        "trainings (random, gp, genetic, pbt) or a learnt controller.",
                    )
        batches = self.train_batches
        # A tuple is refused: (inputs, targets) would be taken for two minibatches.
        if batches is not None and (not isinstance(batches, list) or not batches):
            found = "is an empty list" if isinstance(batches, list) else f"is a {type(batches).__name__}"
            remedy = "Give a list of minibatches; [batch] if there is one."
            raise MethodError(found, where="train_batches", remedy=remedy)


class Losses:
    """The two losses of a problem at leaves of a graph. Their shape is known once one was evaluated.

    Args:
        problem: The problem.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.traced = problem, problem.traced
        self.param_names, self.hyper_names = tuple(problem.params), tuple(problem.hyper)
        self.params = [p.detach().requires_grad_() for p in problem.params.values()]
        self.hyper = [h.detach().requires_grad_() for h in problem.hyper.values()]
        self.train_batches = problem.train_batches or [None]
        self.shape: torch.Size | None = None

    @property
    def members(self) -> int | None:
        """Members of the stack; None for one training."""
        return None if not self.shape else int(self.shape[0])

    def train(self, params: Sequence[Tensor], hyper: Sequence[Tensor], batches: Sequence[Any]) -> Tensor:
        """Training loss, mean over the batches, () or (members,), in a form that can be differentiated twice."""
        # The fused attention kernels have no second derivative; which kernel runs is decided in the forward pass.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            tree, knobs = self._trees(params, hyper)
            losses = [self.problem.train_loss(tree, knobs, batch) for batch in batches]
        for loss in losses:
            self._check_loss(loss, "train_loss")
        return losses[0] if len(losses) == 1 else total(losses) / len(losses)

    def train_gradient(self, params: Sequence[Tensor], hyper: Sequence[Tensor], batches: Sequence[Any]) -> list[Tensor]:
        """∂L_T/∂w as constants."""
        return filled(params, gradients(self.train(params, hyper, batches), params))

    def validation(self) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Validation loss, its gradient by the weights, and its direct gradient by the hyperparameters (None: none)."""
        with torch.enable_grad():
            loss = self.problem.valid_loss(*self._trees(self.params, self.hyper), self.problem.valid_batch)
            self._check_loss(loss, "valid_loss")
        grads = gradients(loss, [*self.params, *self.hyper])
        count = len(self.params)
        return loss.detach(), filled(self.params, grads[:count]), grads[count:]

    def finish(
        self,
        valid_loss: Tensor,
        direct: list[Tensor | None],
        response: list[Tensor | None],
        *,
        gradient_norm: Tensor,
        inner_gradient_norm: Tensor,
        **diagnostics: Any,
    ) -> Hypergradient:
        """Add the two terms; refuse what has neither of them and what is not finite."""
        for name, a, b in zip(self.hyper_names, direct, response, strict=True):
            if a is None and b is None:
                raise MethodError(
                    "neither the validation loss nor the weights depend on it", where=name, remedy=_NO_RESPONSE + "."
                )
        first, second = filled(self.hyper, direct), filled(self.hyper, response)
        present = zip(direct, response, first, second, strict=True)
        total = [y if a is None else x if b is None else x + y for a, b, x, y in present]
        parts = {"validation gradient": gradient_norm, "training gradient": inner_gradient_norm}
        parts["hypergradient"] = norm(total, self.members)
        finite = torch.stack([torch.isfinite(x) for x in parts.values()]).all(0)
        if not self.traced and not bool(finite.any()):
            which = next(name for name, x in parts.items() if not bool(torch.isfinite(x).all()))
            raise NonFiniteError(
                f"the {which} is NaN or infinite",
                where="hypergradient",
                remedy="Lower the learning rate, unroll fewer steps, or look for a square root of zero; the "
                "optimizers of luthier.optim have a finite derivative at a gradient of zero, torch.optim's do not.",
            )
        if self.members is not None:  # one member that diverged must not stop the others, nor look like a zero
            total = select(finite, total, [torch.full_like(x, float("nan")) for x in total])
        return Hypergradient(
            total=dict(zip(self.hyper_names, total, strict=True)),
            direct=dict(zip(self.hyper_names, first, strict=True)),
            response=dict(zip(self.hyper_names, second, strict=True)),
            valid_loss=valid_loss,
            gradient_norm=gradient_norm,
            inner_gradient_norm=inner_gradient_norm,
            finite=finite,
            **diagnostics,
        )

    def _trees(self, params: Sequence[Tensor], hyper: Sequence[Tensor]) -> tuple[Tree, Tree]:
        return dict(zip(self.param_names, params, strict=True)), dict(zip(self.hyper_names, hyper, strict=True))

    def _check_loss(self, loss: Tensor, where: str) -> None:
        if not isinstance(loss, Tensor) or loss.ndim > 1:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r}"
            raise MethodError(f"returned {found}", where=where, remedy="Return one number, or one number a member.")
        if not loss.requires_grad:
            raise MethodError(
                "does not depend on the weights it was given",
                where=where,
                remedy="Compute it from its first argument, with luthier.response.functional for a module.",
            )
        if self.shape is None:  # the first loss ever evaluated decides
            self.shape = loss.shape
            if self.members is not None:
                self._check_members(self.members)
        if loss.shape != self.shape:
            raise MethodError(
                f"returned shape {tuple(loss.shape)} after a loss of shape {tuple(self.shape)}",
                where=where,
                remedy="Both losses return one number, or both one number a member.",
            )

    def _check_members(self, members: int) -> None:
        names = (*self.param_names, *self.hyper_names)
        for name, x in zip(names, [*self.params, *self.hyper], strict=True):
            if x.ndim == 0 or x.shape[0] != members:
                raise MethodError(
                    f"shape {tuple(x.shape)} beside {members} losses",
                    where=name,
                    remedy="In a stack every weight and hyperparameter has the members axis first.",
                )


def gradients(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor | None]:
    """Gradient of the loss, or of every member's own loss: members do not mix, so it is that of their sum."""
    ones = None if loss.ndim == 0 else torch.ones_like(loss)
    return list(torch.autograd.grad(loss, list(inputs), ones, create_graph=create_graph, allow_unused=True))


def filled(like: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor]:
    """Zeros for the gradients that do not exist."""
    return [torch.zeros_like(x) if g is None else g for x, g in zip(like, grads, strict=True)]
