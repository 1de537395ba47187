"""Hyperparameters as axes that can be drawn: numbers on a linear or log scale, options at whole positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.report.figures import axis, linear_ticks, log_axis, log_ticks
from luthier.report.formatting import label, number
from luthier.space import Choice, Config, Space

COMPONENTS = 4  # a vector with more elements is drawn as its mean


@dataclass(frozen=True)
class Axis:
    """One hyperparameter (or one element of a vector) over some configurations.

    Args:
        name: The hyperparameter.
        title: Title of the axis; differs from ``name`` for vectors.
        values: One value a configuration, (n,); options as their positions, NaN where inactive.
        low: Lower end of the domain.
        high: Upper end.
        log: Drawn on a log scale.
        options: Labels of the options, None for numbers.
        whole: Only whole numbers are possible.
    """

    name: str
    title: str
    values: np.ndarray
    low: float
    high: float
    log: bool = False
    options: tuple[str, ...] | None = None
    whole: bool = False

    def positions(self) -> np.ndarray:
        """Place of each value between the ends of the axis, 0 to 1, (n,); NaN where inactive."""
        if self.options is not None:
            return (self.values + 0.5) / len(self.options)
        if self.high <= self.low:
            return np.where(np.isnan(self.values), np.nan, 0.5)
        return _fraction(self.values, self.low, self.high, self.log)

    def ticks(self) -> list[tuple[float, str]]:
        """Places between 0 and 1, with labels."""
        if self.options is not None:
            return [((i + 0.5) / len(self.options), text) for i, text in enumerate(self.options)]
        if self.high <= self.low:
            return [(0.5, number(self.low))]
        places = log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high, self.whole)
        fractions = _fraction(np.array(places), self.low, self.high, self.log)
        return [(float(f), number(p)) for f, p in zip(fractions, places, strict=True)]

    def plotly(self) -> dict[str, Any]:
        """The axis as Plotly takes it, over the whole domain."""
        if self.options is not None:
            places = list(range(len(self.options)))
            text = [label(option, 18) for option in self.options]
            span = [-0.5, len(self.options) - 0.5]
            return axis(self.title, type="linear", tickvals=places, ticktext=text, range=span)
        if self.log:
            return log_axis(self.title, self.low, self.high)
        pad = 0.03 * (self.high - self.low) or 0.5
        return axis(self.title, type="linear", range=[self.low - pad, self.high + pad], nticks=6)

    def jittered(self, stride: float = 0.6180339887498949) -> np.ndarray:
        """The values, options spread a little so that equal ones do not hide each other (the same at every call).

        Args:
            stride: An irrational number; two axes of one figure need two, or their options would lie on a line.
        """
        if self.options is None:
            return self.values
        spread = (np.arange(len(self.values)) * stride) % 1.0 - 0.5
        return self.values + 0.5 * spread


def axes(space: Space, configs: Sequence[Config]) -> list[Axis]:
    """All hyperparameters over ``configs``; vectors element by element, or as their mean where they are long."""
    found: list[Axis] = []
    for name, domain in space.domains.items():
        column = [config.get(name) if name in config else _INACTIVE for config in configs]
        if isinstance(domain, Choice):
            found.append(choice_axis(name, domain, column))
            continue
        log, low, high = domain.log, float(domain.low), float(domain.high)
        if domain.kind == "int" or not getattr(domain, "shape", ()):
            values = np.array([_real(value) for value in column])
            found.append(Axis(name, name, values, low, high, log, whole=domain.kind == "int"))
            continue
        width = domain.width
        rows = [np.full(width, np.nan) if v is _INACTIVE else np.asarray(v, dtype=float) for v in column]
        table = np.array(rows).reshape(len(column), width)
        if width <= COMPONENTS:
            found += [Axis(name, f"{name}[{i}]", table[:, i], low, high, log) for i in range(width)]
            continue
        mean = np.exp(np.log(table).mean(axis=1)) if log else table.mean(axis=1)
        finite = mean[np.isfinite(mean)]  # means crowd together: the axis follows them, not the domain
        if len(finite) and finite.max() > finite.min():
            low, high = float(finite.min()), float(finite.max())
        found.append(Axis(name, f"{name} (mean of {width:,})", mean, low, high, log))
    return found


def choice_axis(name: str, domain: Choice, column: Sequence[Any]) -> Axis:
    """The axis of a Choice; a value that is no option is left out."""
    values = [_place(domain, value) for value in column]
    options = tuple(str(option) for option in domain.options)
    return Axis(name, name, np.array(values, dtype=float), 0, len(options) - 1, options=options)


def _place(domain: Choice, value: Any) -> float:
    try:
        return domain.index(value)
    except (KeyError, TypeError):  # TypeError: it has no hash
        return math.nan


def activity(space: Space, configs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Masks of where each hyperparameter is active, name -> (n,) bool."""
    return {name: np.array([name in config for config in configs], dtype=bool) for name in space.names}


_INACTIVE = object()


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) else math.nan


def _fraction(values: np.ndarray, low: float, high: float, log: bool) -> np.ndarray:
    if log:
        return (np.log10(values) - math.log10(low)) / (math.log10(high) - math.log10(low))
    return (values - low) / (high - low)
