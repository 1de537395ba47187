"""Rules that move a learning rate against its hypergradient (Baydin et al. 2018), and their settings."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from luthier.checks import checked, one_of, real
from luthier.errors import MethodError

Rule = Literal["adaptive", "multiplicative", "additive"]
Memory = dict[str, Tensor]  # of the adaptive rule, one number a member, by the names of MEMORY

HYPER_LR = {"adaptive": 1.0, "multiplicative": 0.05}  # a multiplicative step changes the rate by a twentieth at most
MEMORY = {"turns": -1.0, "reversals": 0.0, "size": 0.0}  # turns, -1 before a gradient has agreed; in a row; last ‖g‖
SHARE = 0.5  # of the step before in what a gradient is held against: two steps, one of which may be noise
REVERSED, ROW = -0.9, 3  # a larger gradient with a cosine below is a reversal; so many in a row are no noise
BACK = 1.0  # largest step of the logarithm, and the one back from a rate that is far too high


def memory(like: Tensor) -> Memory:
    """Memory of the adaptive rule before the first step."""
    return {name: torch.full_like(like, value) for name, value in MEMORY.items()}


def adapted(
    rate: Tensor, h: Tensor, sizes: tuple[Tensor, Tensor], known: Memory, hyper_lr: float
) -> tuple[Tensor, Memory]:
    """The next learning rates under the adaptive rule: α ← α exp(β c / (1 + n)).

    c = -h / (‖g‖ ‖∂u/∂α‖) is the cosine between the gradient and the way that the weights came, and n counts the turns,
    steps with c < 0. It is high while the rate is too low, so the rate climbs e-fold within few steps, slows down where
    it begins to overshoot, and is all but fixed some dozens of turns later. There lies its worth: the rate at which
    gradients begin to turn serves the next hundreds of steps; later, where noise turns every second gradient, one that
    went on following them would sink far below it. Down by e goes a first rate before any gradient has agreed, and a
    later one, however settled, after three reversals in a row: the curvature has risen and the steps explode.

    Args:
        rate: The rates, (members,).
        h: The hypergradients, g · ∂u/∂α, with the share of the steps before in u.
        sizes: ‖g‖ and ‖∂u/∂α‖.
        known: Memory, begun by :func:`memory`.
        hyper_lr: β.

    Returns:
        The rates, not bounded; the old ones, and the old memory, where h is not finite or a size is zero.

    References:
        Kesten (1958), Accelerated stochastic approximation: gains that fall with the changes of sign.
    """
    scale = sizes[0] * sizes[1]
    usable = h.isfinite() & scale.isfinite() & (scale > 0)
    cosine = torch.where(usable, -h / scale, 0.0)
    agreed = (known["turns"] >= 0) | (cosine > 0)
    turns = known["turns"].clamp_min(0.0)
    reversals = torch.where((cosine < REVERSED) & (sizes[0] > known["size"]), known["reversals"] + 1, 0.0)
    back = (~agreed & (cosine < 0)) | (reversals >= ROW)
    step = hyper_lr * torch.where(back, -BACK, cosine / (1 + turns))
    turns = torch.where(agreed, turns + (cosine < 0), known["turns"])
    new = {"turns": turns, "reversals": reversals, "size": sizes[0]}
    moved = torch.where(usable, rate * step.clamp(-BACK, BACK).exp(), rate)
    return moved, {name: torch.where(usable, x, known[name]) for name, x in new.items()}


def share(before: Tensor, now: Tensor) -> Tensor:
    """Share of the direction before in the next, of steps at two rates: the steps themselves are added up.

    Where the rate has fallen a direction counts as if it had been gone at the new one; else the step that was too long
    would outweigh those after it, whose gradients would be held against it alone.
    """
    return torch.where(now > 0, SHARE * (before / now).clamp_max(1.0), 0.0)


def check_memory(known: Any, where: str) -> None:
    """Refuse a training that another form of the adaptive rule has begun.

    Raises:
        MethodError: If the memory is not this rule's.
    """
    if set(known) != set(MEMORY):
        raise MethodError(
            f"the state was written under an earlier adaptive rule, which kept {sorted(known)}",
            where=where,
            remedy="Begin this training anew, or finish it with the version of luthier that began it.",
        )


def moved(rate: float, h: float, scale: float, hyper_lr: float, rule: Rule, bounds: tuple[float, float]) -> float:
    """The next learning rate.

    Args:
        rate: The rate.
        h: The hypergradient, g · ∂u/∂α.
        scale: ‖g‖ ‖∂u/∂α‖.
        hyper_lr: β.
        rule: Name of the rule, one of the two that remember nothing.
        bounds: Smallest and largest rate.

    Returns:
        The rate within its bounds; the old one where h is not finite or, under the multiplicative rule, zero over zero.
    """
    if rule == "additive":
        new = rate - hyper_lr * h
    else:
        new = rate * (1.0 - hyper_lr * h / scale) if scale > 0.0 else rate
    return min(max(new, bounds[0]), bounds[1]) if math.isfinite(new) else rate


def checked_hyper_lr(hyper_lr: float | None, rule: str, where: str) -> float:
    """β, or the default of its rule.

    Raises:
        MethodError: If there is no such rule, or β does not fit it.
    """
    checked("rule", rule, one_of("adaptive", "multiplicative", "additive"), where=where)
    if hyper_lr is None and rule == "additive":
        raise MethodError(
            "the additive rule came without hyper_lr",
            where=where,
            remedy="Give hyper_lr: its right size goes with 1/‖gradient‖², so try powers of ten from 1e-6 on.",
        )
    value = HYPER_LR[rule] if hyper_lr is None else hyper_lr
    return float(checked("hyper_lr", value, real(0, below=1.0 if rule == "multiplicative" else None), where=where))


def checked_bounds(bounds: tuple[float, float], where: str) -> tuple[float, float]:
    """Bounds of the learning rate as two floats.

    Raises:
        MethodError: If they are not two finite numbers above zero in rising order.
    """
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0.0 < low < high < math.inf:
        raise MethodError(f"bounds={bounds!r}", where=where, remedy="Give (low, high) with 0 < low < high.")
    return low, high
