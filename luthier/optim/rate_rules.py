"""Rules that move a learning rate against its hypergradient (Baydin et al. 2018), and their settings."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from luthier.checks import checked, maybe, one_of, real
from luthier.errors import MethodError

Rule = Literal["adaptive", "multiplicative", "additive"]
Memory = dict[str, Tensor]  # of the adaptive rule, one number a member: a mean of scales, its weight, a sum of squares

HYPER_LR = {"adaptive": 2.0, "multiplicative": 0.05}  # a multiplicative step changes the rate by a twentieth at most
OPTIMISM, OPTIMISM_OF_MEMORY = 0.08, 0.02  # of a plain gradient step; of one that remembers earlier gradients
KEEP, LIMIT, STEP = 0.9, 3.0, 1.0  # share of the mean kept; largest feedback; largest step of the logarithm
PRIOR, WEIGHT = 3.0, 3.0  # squares before the first; how much more full disagreement counts than optimism, at least


def memory(like: Tensor) -> Memory:
    """Memory of the adaptive rule before the first step."""
    return {name: torch.zeros_like(like) for name in ("scale", "weight", "squares")}


def adapted(
    rate: Tensor, h: Tensor, scale: Tensor, known: Memory, hyper_lr: float, optimism: Tensor | float
) -> tuple[Tensor, Memory]:
    """The next learning rates under the adaptive rule: AdaGrad on their logarithms.

    With s a running mean of the scale, the feedback is f = b - h / s, and α ← α exp(γ f / √(3 + Σf²)). A mean, and not
    the scale of the step itself, lets large gradients count for more; the root takes the noise out. Without the
    optimism b the rate ends where the *next* minibatch is served best, and that is too low for those after it. Where
    gradients shrink fast s is at most the scale over 3 b: steps that turn back must not be lost in the optimism.

    Args:
        rate: The rates, (members,).
        h: The hypergradients, g · ∂u/∂α.
        scale: ‖g‖ ‖∂u/∂α‖.
        known: Memory, begun by :func:`memory`.
        hyper_lr: γ.
        optimism: b.

    Returns:
        The rates, not bounded; the old ones, and the old memory, where h is not finite or the scale is zero.
    """
    new = {"scale": torch.lerp(scale, known["scale"], KEEP), "weight": known["weight"] * KEEP + (1 - KEEP)}
    mean = torch.minimum(new["scale"] / new["weight"], scale / (WEIGHT * torch.as_tensor(optimism, dtype=scale.dtype)))
    feedback = (optimism - (h / mean).clamp(-LIMIT, LIMIT)).nan_to_num(0.0)
    new["squares"] = known["squares"] + feedback.square()
    step = hyper_lr * feedback / (PRIOR + new["squares"]).sqrt()
    usable = h.isfinite() & scale.isfinite() & (scale > 0)
    moved = torch.where(usable, rate * step.clamp(-STEP, STEP).exp(), rate)
    return moved, {name: torch.where(usable, x, known[name]) for name, x in new.items()}


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


def checked_optimism(optimism: float | None, rule: str, where: str) -> float | None:
    """b as it was given.

    Raises:
        MethodError: If it is no number from 0 to below 1, or the rule has none.
    """
    checked("optimism", optimism, maybe(real(0, below=1)), where=where)
    if optimism is not None and rule != "adaptive":
        remedy = "Leave optimism out, or take rule='adaptive'."
        raise MethodError(f"optimism={optimism} came with the {rule} rule, which has none", where=where, remedy=remedy)
    return optimism


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
