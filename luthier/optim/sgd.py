"""Stochastic gradient descent over a stack of members, each with its own learning rate, momentum and weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from luthier.optim.common import Tensors, add_scaled_each, clip_by_norm, read


@dataclass(frozen=True)
class SGD:
    """``torch.optim.SGD``, as a pure function of stacked tensors.

    A setting named like a hyperparameter of the space is taken from there, one value a member; the values given
    here serve where the space has no such name.

    Args:
        lr: Learning rate.
        momentum: Momentum, no dampening.
        weight_decay: L2 penalty added to the gradient.
        clip_norm: Largest norm of a member's whole gradient before weight decay, or None.
        nesterov: Nesterov momentum.

    References:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.
    """

    lr: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    nesterov: bool = False

    reads: ClassVar[tuple[str, ...]] = ("lr", "momentum", "weight_decay", "clip_norm")

    def init(self, params: Tensors, hyper: Mapping[str, Tensor]) -> dict[str, Tensors]:
        """The optimizer's state for ``params``: a momentum buffer where there is momentum."""
        if "momentum" in hyper or self.momentum != 0:
            return {"momentum": {name: torch.zeros_like(param) for name, param in params.items()}}
        return {}

    def update(
        self,
        params: Tensors,  # (members, …)
        gradients: Tensors,  # (members, …)
        state: dict[str, Tensors],
        hyper: Mapping[str, Tensor],  # (members,)
        step: Tensor,  # (members,) steps done before this one
    ) -> tuple[Tensors, dict[str, Tensors]]:
        """One step. Returns the new parameters and the new optimizer state."""
        lr, momentum = read("lr", self.lr, hyper), read("momentum", self.momentum, hyper)
        if "clip_norm" in hyper or self.clip_norm is not None:
            gradients = clip_by_norm(gradients, read("clip_norm", self.clip_norm, hyper))
        if "weight_decay" in hyper or self.weight_decay != 0:
            decay = read("weight_decay", self.weight_decay, hyper)
            gradients = add_scaled_each(gradients, params, decay)
        if state:
            buffers = add_scaled_each(gradients, state["momentum"], momentum)
            state = {"momentum": buffers}
            gradients = add_scaled_each(gradients, buffers, momentum) if self.nesterov else buffers
        return add_scaled_each(params, gradients, lr, -1.0), state


sgd = SGD()
