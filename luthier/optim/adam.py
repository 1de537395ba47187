"""Adam and AdamW over a stack of members, each with its own learning rate, betas and weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from luthier.optim.common import (
    MANY,
    Scale,
    Tensors,
    add_scaled,
    add_scaled_each,
    clip_by_norm,
    followed,
    read,
    root,
    rows,
    rows_of_each,
)

MISSED = "missed"  # the slot that counts, (members,) int64 a parameter, where a network branches on its data


@dataclass(frozen=True)
class Adam:
    """``torch.optim.Adam`` and ``AdamW``, as one pure function of stacked tensors.

    A setting named like a hyperparameter of the space is taken from there, one value a member; the values given
    here serve where the space has no such name.

    Args:
        lr: Learning rate.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        weight_decay: Decay of the weights.
        clip_norm: Largest norm of a member's whole gradient before weight decay, or None.
        eps: Added to the root of the second moment.
        decoupled: Weight decay apart from the gradient (AdamW) instead of an L2 penalty within it (Adam).

    References:
        Kingma and Ba 2015, Adam, algorithm 1; Loshchilov and Hutter 2019, Decoupled weight decay regularization.
    """

    lr: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float | None = None
    eps: float = 1e-8
    decoupled: bool = False

    reads: ClassVar[tuple[str, ...]] = ("lr", "beta1", "beta2", "weight_decay", "clip_norm")

    def init(self, params: Tensors, hyper: Mapping[str, Tensor]) -> dict[str, Tensors]:
        """Both moments, zero."""
        return {slot: {name: torch.zeros_like(p) for name, p in params.items()} for slot in ("first", "second")}

    def update(
        self,
        params: Tensors,  # (members, …)
        gradients: Tensors,  # (members, …)
        state: dict[str, Tensors],
        hyper: Mapping[str, Tensor],  # (members,)
        step: Tensor,  # (members,) steps done before this one
    ) -> tuple[Tensors, dict[str, Tensors]]:
        """One step. Returns the new parameters and the new optimizer state."""
        lr, beta1, beta2 = (read(name, getattr(self, name), hyper) for name in ("lr", "beta1", "beta2"))
        if "clip_norm" in hyper or self.clip_norm is not None:
            gradients = clip_by_norm(gradients, read("clip_norm", self.clip_norm, hyper))
        if "weight_decay" in hyper or self.weight_decay != 0:
            decay = read("weight_decay", self.weight_decay, hyper)
            if self.decoupled:
                params = {name: p * (1 - rows(lr * decay, p)) for name, p in params.items()}
            else:
                gradients = add_scaled_each(gradients, params, decay)
        missed = state.get(MISSED, {})  # steps that did not reach a parameter, which count for none of its moments
        kept = {MISSED: missed} if missed else {}
        watched = followed([*params.values(), *gradients.values(), *hyper.values(), *missed.values()])
        if not watched and not (missed and bool(torch.cat([*missed.values()]).any())):
            new, moments = self._at_once(params, gradients, state, (lr, beta1, beta2), step)
            return new, moments | kept
        first = {name: _lerp(m, gradients[name], beta1) for name, m in state["first"].items()}
        second = {name: _lerp(v, gradients[name].square(), beta2) for name, v in state["second"].items()}
        correction1, correction2 = self._corrections(step, beta1, beta2, params)
        new = {}
        for name, p in params.items():
            if missed:
                correction1, correction2 = self._corrections(step - missed[name], beta1, beta2, params)
            denominator = root(second[name]) / rows(correction2, p) + self.eps
            new[name] = add_scaled(p, first[name] / denominator, lr / correction1, -1.0)
        return new, {"first": first, "second": second} | kept

    def _at_once(
        self, params: Tensors, gradients: Tensors, state: dict[str, Tensors], settings: tuple[Scale, ...], step: Tensor
    ) -> tuple[Tensors, dict[str, Tensors]]:
        """The same step in a call of each operator for all parameters, where nobody follows the operators."""
        lr, beta1, beta2 = settings
        names, p = list(params), list(params.values())
        slopes, first, second = (
            [tree[name] for name in names] for tree in (gradients, state["first"], state["second"])
        )
        each = lambda scale: rows_of_each(scale, p)  # noqa: E731
        first = MANY._foreach_lerp(first, slopes, each(1 - beta1))
        second = MANY._foreach_lerp(second, MANY._foreach_pow(slopes, 2), each(1 - beta2))
        correction1, correction2 = self._corrections(step, beta1, beta2, params)
        denominator = MANY._foreach_add(MANY._foreach_div(MANY._foreach_sqrt(second), each(correction2)), self.eps)
        new = MANY._foreach_addcmul(p, MANY._foreach_div(first, denominator), each(lr / correction1), value=-1.0)
        trees = [dict(zip(names, tensors, strict=True)) for tensors in (new, first, second)]
        return trees[0], {"first": trees[1], "second": trees[2]}

    def least_rates(self, state: dict[str, Tensors], hyper: Mapping[str, Tensor], step: Tensor) -> Tensors:
        """The least factor of the first moment within each parameter in the step that led to ``state``, (members,).

        Args:
            state: Both moments after that step.
            hyper: Hyperparameters of that step.
            step: Steps done before it, (members,).
        """
        lr, beta1, beta2 = (read(name, getattr(self, name), hyper) for name in ("lr", "beta1", "beta2"))
        missed, found = state.get(MISSED, {}), {}
        for name, v in state["second"].items():
            count = step - missed[name] if missed else step
            correction1, correction2 = self._corrections(count, beta1, beta2, state["second"])
            largest = v.reshape(len(v), -1).amax(1)
            found[name] = lr / correction1 / (largest.sqrt() / correction2 + self.eps)
        return found

    def _corrections(self, step: Tensor, beta1: Scale, beta2: Scale, params: Tensors) -> tuple[Tensor, Tensor]:
        """Bias corrections of both moments, which start at zero, (members,) each."""
        count = step.to(torch.float64) + 1  # float32 powers of beta2 lose the digits that the correction needs
        return _to(1 - beta1**count, params), _to((1 - beta2**count).sqrt(), params)


def _lerp(average: Tensor, value: Tensor, beta: Scale) -> Tensor:
    """``beta · average + (1 - beta) · value``."""
    return torch.lerp(average, value, 1 - rows(beta, average))


def _to(value: Tensor, like: Tensors) -> Tensor:
    return value.to(next(iter(like.values())).dtype)


adam = Adam()
adamw = Adam(decoupled=True, weight_decay=0.01)
