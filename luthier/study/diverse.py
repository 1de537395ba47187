"""Configurations that are nearly as good as the best and differ from one another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np

from luthier.errors import MethodError
from luthier.jobs import History
from luthier.space.distance import farthest, first_apart
from luthier.trials import Best

By = str | Callable[[Best], float] | None


def diverse(
    history: History, record: Callable[[int], Best], count: int, within: float, by: By, mode: str, apart: float
) -> list[Best]:
    """See :meth:`luthier.Study.diverse`.

    Args:
        history: The study.
        record: Gives a finished job in the shape of the best.
        count: Maximum number of jobs.
        within: Largest distance of a value from the best value, as a fraction of the best value's size.
        by: The second measure.
        mode: ``"min"`` or ``"max"``, of the second measure.
        apart: The distance that any two exceed where there is a second measure.
    """
    where = "study.diverse"
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise MethodError(f"count={count!r} cannot be", where=where, remedy="Give a whole number above zero.")
    for name, value, remedy in (
        ("within", within, "Give a number from 0 on: 0.01 is 1 % of the best value."),
        ("apart", apart, "Give a number from 0 on: 0.1 is a tenth of the box."),
    ):
        if not _number(value) or not 0 <= value < math.inf:
            raise MethodError(f"{name}={value!r} cannot be", where=where, remedy=remedy)
    if by is not None and not isinstance(by, str) and not callable(by):
        remedy = 'Give the name of a metric or a hyperparameter, "seconds", or a function of a Best.'
        raise MethodError(f"by={by!r} cannot be", where=where, remedy=remedy)
    if mode not in ("min", "max"):
        raise MethodError(f"mode={mode!r} cannot be", where=where, remedy="Give 'min' or 'max'.")
    values = np.where(history.good, history.values[:, 0], np.nan) if len(history) else np.zeros(0)
    if not np.isfinite(values).any():
        return []
    best = float(np.nanmin(values))
    rows = np.flatnonzero(values <= best + within * abs(best))
    rows = rows[np.argsort(values[rows], kind="stable")]
    if by is None:
        chosen = farthest(history.space, history.codes[rows], history.mask[rows], count)
        return [record(int(rows[i])) for i in chosen]
    measured = np.array([_measure(record(int(row)), by, where) for row in rows])
    rows = rows[np.argsort(measured if mode == "min" else -measured, kind="stable")]
    chosen = first_apart(history.space, history.codes[rows], history.mask[rows], apart, count)
    return [record(int(rows[i])) for i in chosen]


def _measure(one: Best, by: str | Callable[[Best], float], where: str) -> float:
    if not isinstance(by, str):
        value = by(one)
        if not _number(value):
            remedy = "Return a number for every Best."
            raise MethodError(f"by(job {one.number}) returned {value!r}", where=where, remedy=remedy)
        return float(value)
    known: dict[str, Any] = {"seconds": one.result.seconds, **one.config, **one.metrics}
    value = known.get(by)
    if not _number(value):
        raise MethodError(
            f"job {one.number} has no number by the name {by!r}",
            where=where,
            remedy=f"Give a function of a Best, or one of {', '.join(known)}.",
        )
    return float(value)


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
