"""A learning rate that moves down the validation loss, its response to first order: the way that the weights have gone.

Steps are proportional to the learning rate α. Had it been another since the last move, the weights would be, to first
order, w + (α' / α - 1) Δ, with Δ the way that they have gone since: dw / d log α = Δ. So the validation loss has a
derivative by the rate, ∇L_V · Δ: it falls along the way where the steps could be longer, and rises where they run back
and forth, or fit what the validation split does not share. Hypergradient descent (Baydin et al. 2018) is the same of a
single step and of the training loss; `luthier.response.unrolled` has the terms of higher order too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.adapt import unconstrained
from luthier.adapt.hypergradient import movable_rate
from luthier.optim.common import Tensors, rows
from luthier.space import Float
from luthier.task.program import Program


def domain_of(task: Program, where: str = "Hypernet(rate=True)") -> Float:
    """The domain of ``lr``.

    Raises:
        MethodError: If the rate cannot be moved.
    """
    return movable_rate(task, where)


def scaled(domain: Float, params: Tensors, gone: Tensors, rate: Tensor) -> Tensors:
    """The weights as they are, with their derivative by the rate's unconstrained number, (members, 1)."""
    now = unconstrained.value(domain, rate).squeeze(1)
    here = now.detach()
    apart = torch.where(here > 0, now / torch.where(here > 0, here, 1.0), 1.0) - 1  # 0; from a rate of 0 nothing goes
    return {name: param + rows(apart, param) * gone[name] for name, param in params.items()}


def moved(domain: Float, rate: Tensor, allowed: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """The rate's number, held within the bounds, and the learning rate there, where ``allowed``, (members,)."""
    rate = rate.clamp(*unconstrained.limits(domain))
    return rate, torch.where(allowed, unconstrained.value(domain, rate).squeeze(1), lr)
