"""Limits on metrics: which results keep them, by how much others do not, and the order in which both are ranked.

A limit is a closed interval of a metric, ``{"latency": (None, 10)}``, in the user's own units. A result outside is
*infeasible*: it keeps its metrics, is never the best, and every method ranks it below each result inside; of two
infeasible ones the less violated is better. That order is put into the minimised values of a
:class:`luthier.History`, so that no method has to know of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from luthier.errors import StudyError

Bounds = tuple[float | None, float | None]

PENALTY = 1e300  # values from here on are those of infeasible results, up to twice of it
_WORST_INSIDE = math.nextafter(PENALTY, 0.0)
_NO_MEMORY = re.compile(  # the first line of an error as results keep it: its class, then its message
    r"\w*MemoryError\b|\w*Error: .*(out of memory|DefaultCPUAllocator|(not enough|can't allocate) memory)",
    re.IGNORECASE,
)
REMEDY = 'Give limits={"latency": (None, 10)}: at most 10; (0.9, None) is at least 0.9, (1, 5) both.'


def check_limits(limits: Any) -> dict[str, Bounds]:
    """Limits as a user gives them, checked; None and ``{}`` are none.

    Args:
        limits: A mapping from the name of a metric to its lower and upper bound, one of which may be None.

    Raises:
        StudyError: If it is no such mapping, a bound is not a finite number, both are None or the lower is above the
            upper.

    Examples:
        >>> check_limits({"latency": (None, 10), "accuracy": [0.9, None]})
        {'latency': (None, 10.0), 'accuracy': (0.9, None)}
    """
    if limits is None:
        return {}
    if not isinstance(limits, Mapping):
        raise StudyError(
            f"limits must be a mapping of metrics to bounds, got {limits!r}", where="limits", remedy=REMEDY
        )
    found: dict[str, Bounds] = {}
    for name, given in limits.items():
        if not isinstance(name, str) or not name:
            raise StudyError(f"a limit must be of a metric by name, got {name!r}", where="limits", remedy=REMEDY)
        found[name] = _bounds(name, given)
    return found


def _bounds(name: str, given: Any) -> Bounds:
    where = f"limits[{name!r}]"
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise StudyError(f"bounds must be a pair (low, high), got {given!r}", where=where, remedy=REMEDY)
    low, high = (None if bound is None else _finite(bound) for bound in given)
    if math.nan in (low, high):
        raise StudyError(f"a bound must be a finite number or None, got {given!r}", where=where, remedy=REMEDY)
    if low is None and high is None:
        raise StudyError("bounds must limit something, got (None, None)", where=where, remedy=REMEDY)
    if low is not None and high is not None and low > high:
        remedy = f"The lower bound comes first: ({high:g}, {low:g})."
        raise StudyError(f"the lower bound must be ≤ the upper, got ({low:g}, {high:g})", where=where, remedy=remedy)
    return low, high


def _finite(value: Any) -> float:
    """The number, or the one NaN of this module where it is none."""
    real = not isinstance(value, bool | np.bool_) and isinstance(value, int | float | np.integer | np.floating)
    return float(value) if real and math.isfinite(value) else math.nan


def violation(limits: Mapping[str, Bounds], metrics: Mapping[str, float], whole: bool = True) -> float:
    """The amount by which metrics violate limits: 0 where they keep all of them.

    The excess of each metric is measured in the width of its interval, or in the size of its only bound, so that
    metrics of different units add up.

    Args:
        limits: The limits.
        metrics: The measured values.
        whole: True for a result, which violates a limit on a metric that it lacks, infinitely; a report on the way
            is judged by the metrics that it has.

    Examples:
        >>> violation({"latency": (None, 10)}, {"latency": 15.0}), violation({"latency": (None, 10)}, {"loss": 0.1})
        (0.5, inf)
    """
    return sum(max(0.0, excess) for excess in excesses(limits, metrics, whole).values())


def excesses(limits: Mapping[str, Bounds], metrics: Mapping[str, float], whole: bool = True) -> dict[str, float]:
    """The amount by which metrics exceed each bound, below 0 where they keep it; arguments as in :func:`violation`.

    Examples:
        >>> excesses({"latency": (None, 10), "accuracy": (0.5, 1)}, {"latency": 15.0, "accuracy": 0.75})
        {'latency ≤ 10': 0.5, 'accuracy ≥ 0.5': -0.5, 'accuracy ≤ 1': -0.5}
    """
    found: dict[str, float] = {}
    for name, (low, high) in limits.items():
        value = metrics.get(name, math.inf if whole else math.nan)
        ends = [bound for bound in (low, high) if bound is not None]
        unit = (ends[-1] - ends[0]) or abs(ends[-1]) or 1.0
        for sign, bound, over in (("≥", low, -1.0), ("≤", high, 1.0)):
            if bound is None:
                continue
            if math.isfinite(value):
                excess = over * (value - bound) / unit
            else:  # a report may lack a metric, but neither may say that it is infinite
                excess = math.inf if name in metrics or whole else 0.0
            found[f"{name} {sign} {bound:g}"] = excess
    return found


def merits(values: list[float], violated: float) -> list[float]:
    """Minimised values such that any result within limits is below any other, and those rank by their violation."""
    if violated > 0:
        part = 1.0 if violated == math.inf else violated / (1.0 + violated)
        return [value if math.isnan(value) else PENALTY * (1.0 + part) for value in values]
    return [min(value, _WORST_INSIDE) for value in values]


def levelled(values: np.ndarray) -> np.ndarray:
    """Values in the same order, in which infeasible results lie near the others: what a model is fitted to.

    They lie above the worst feasible result, by half of the spread of the feasible ones and up to as much again.

    Args:
        values: (n,) minimised, as in :attr:`luthier.History.values`.

    Examples:
        >>> levelled(np.array([3.0, 1.0, *merits([0.0], 1.0)])).tolist()
        [3.0, 1.0, 5.0]
    """
    bad = values >= PENALTY
    if not bad.any():
        return values
    good = values[~bad & np.isfinite(values)]
    low, spread = (float(good.max()), float(np.ptp(good))) if len(good) else (0.0, 1.0)
    found = values.copy()
    found[bad] = low + (spread or abs(low) or 1.0) * (values[bad] / PENALTY - 0.5)
    return found


def out_of_memory(error: str) -> bool:
    """Return True if the error of a failed result says that memory ran out, of the machine or of a device.

    Examples:
        >>> out_of_memory("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"), out_of_memory("ValueError")
        (True, False)
    """
    return _NO_MEMORY.match(error.partition("\n")[0]) is not None


def described(limits: Mapping[str, Any]) -> str:
    """Limits in words.

    Examples:
        >>> described({"latency": (None, 10.0), "accuracy": (0.9, 1.0)})
        'latency ≤ 10, 0.9 ≤ accuracy ≤ 1'
    """
    return ", ".join(
        (f"{low:g} ≤ {name} ≤ {high:g}" if high is not None else f"{name} ≥ {low:g}")
        if low is not None
        else f"{name} ≤ {high:g}"
        for name, (low, high) in limits.items()
    )
