"""Rules that move a learning rate against its hypergradient (Baydin et al. 2018), and their settings."""

from __future__ import annotations

import math
from typing import Literal

from luthier.checks import checked, one_of, real
from luthier.errors import MethodError

Rule = Literal["multiplicative", "additive"]

HYPER_LR = 0.05  # of the multiplicative rule: a step changes the rate by a twentieth at most


def moved(rate: float, h: float, scale: float, hyper_lr: float, rule: Rule, bounds: tuple[float, float]) -> float:
    """The next learning rate.

    Args:
        rate: The rate.
        h: The hypergradient, g · ∂u/∂α.
        scale: ‖g‖ ‖∂u/∂α‖.
        hyper_lr: β.
        rule: Name of the rule, one of the two.
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
    checked("rule", rule, one_of("multiplicative", "additive"), where=where)
    if hyper_lr is None and rule == "additive":
        raise MethodError(
            "the additive rule came without hyper_lr",
            where=where,
            remedy="Give hyper_lr: its right size goes with 1/‖gradient‖², so try powers of ten from 1e-6 on.",
        )
    value = HYPER_LR if hyper_lr is None else hyper_lr
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
