"""A learning rate that moves down the validation loss, its response to first order: the way that the weights have gone.

Steps are proportional to the learning rate α. Had it been another since the last move, the weights would be, to first
order, w + (α' / α - 1) Δ, with Δ the way that they have gone since: dw / d log α = Δ. So the validation loss has a
derivative by the rate, ∇L_V · Δ: it falls along the way where the steps could be longer, and rises where they run back
and forth, or fit what the validation split does not share. Hypergradient descent (Baydin et al. 2018) is the same of a
single step and of the training loss; `luthier.response.unrolled` has the terms of higher order too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from luthier.adapt import unconstrained
from luthier.adapt.hypergradient import dot
from luthier.optim.common import Tensors, rows
from luthier.response import Hypergradient
from luthier.space import Float
from luthier.task.program import State


def scaled(domain: Float, params: Tensors, gone: Tensors, rate: Tensor) -> Tensors:
    """The weights as they are, with their derivative by the rate's unconstrained number, (members, 1)."""
    now = unconstrained.value(domain, rate).squeeze(1)
    here = now.detach()
    apart = torch.where(here > 0, now / torch.where(here > 0, here, 1.0), 1.0) - 1  # 0; from a rate of 0 nothing goes
    return {name: param + rows(apart, param) * gone[name] for name, param in params.items()}


def with_rate(
    found: Hypergradient, objective: Callable[[Tensors], Tensor], before: Tensors, state: State
) -> Hypergradient:
    """A hypergradient to which the derivative by the learning rate is added.

    Args:
        found: The others.
        objective: The validation loss, (members,), as a function of the weights.
        before: The weights before the steps whose rate is meant.
        state: The stack after them.
    """
    params = {name: param.detach().requires_grad_() for name, param in state["params"].items()}
    losses, leaves = objective(params), list(params.values())
    slopes = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, materialize_grads=True)
    gone = {name: param - before[name] for name, param in state["params"].items()}
    along, lr = dot(dict(zip(params, slopes, strict=True)), gone), state["hyper"]["lr"]
    slope = torch.where(lr > 0, along / torch.where(lr > 0, lr, 1.0), 0.0)
    return replace(found, total={**found.total, "lr": slope})


def moved(domain: Float, rate: Tensor, allowed: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """The rate's number, held within the bounds, and the learning rate there, where ``allowed``, (members,)."""
    rate = rate.clamp(*unconstrained.limits(domain))
    return rate, torch.where(allowed, unconstrained.value(domain, rate).squeeze(1), lr)
