"""Parts shared by all figures: a Plotly figure as plain data, its axes, colours by name, thinning and ranges.

Colours are tokens ("@best", "@ink") that the page's script replaces by the style sheet's, so that light and dark
themes come from one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luthier.report.formatting import label, number

FONT = "Inter, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"
POINTS = 2000  # markers drawn in one panel; more make the page slow and show no more
LINES = 60  # curves drawn in one panel
LARGEST = 1e100  # values beyond it never decide the range of an axis: differences and powers of ten must not overflow
CURVE_POINTS = 200  # points kept of one curve
SYMBOLS = {
    "finished": "circle",
    "infeasible": "diamond-open",
    "pruned": "circle-open",
    "diverged": "x-thin-open",
    "failed": "cross-thin-open",
}


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Args:
        spec: ``data`` and ``layout`` as Plotly takes them, or what the parallel-coordinates script takes.
        height: Height in CSS pixels; the width is the page's.
        caption: One sentence on what the figure shows and how to read it; "" where the section says it.
        alt: Text for screen readers.
        kind: The script that draws it.
    """

    spec: Mapping[str, Any]
    height: int = 380
    caption: str = ""
    alt: str = ""
    kind: str = "plotly"


@dataclass(frozen=True)
class Html:
    """Text that is HTML already; any other string is escaped when the page is put together."""

    text: str


@dataclass(frozen=True)
class Section:
    """A titled part of the page: captions, HTML, figures, and lists of figures that are laid out as a grid."""

    anchor: str
    title: str
    blocks: Sequence[str | Html | Figure | Sequence[Figure]] = field(default_factory=list)


def axis(title: str, limit: int = 32, **more: Any) -> dict[str, Any]:
    """A Plotly axis with a title of at most ``limit`` letters; it may be the user's own text and is defused here."""
    base = {
        "title": {"text": label(title, limit), "standoff": 10, "font": {"size": 13}},
        "automargin": True,
        "gridcolor": "@grid",
        "linecolor": "@rule",
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "@rule",
        "exponentformat": "e",
    }
    return base | more


def step_axis(highest: float, title: str = "training step", **more: Any) -> dict[str, Any]:
    """The axis of training steps, or of trials, up to ``highest``: from zero, thousands as k, no halves of a step."""
    return axis(title, rangemode="tozero", exponentformat="SI", dtick=1 if highest <= 8 else None, **more)


def log_axis(title: str, low: float, high: float, margin: float = 0.03) -> dict[str, Any]:
    """A logarithmic axis from ``low`` to ``high``, with readable ticks over millionths or many decades alike."""
    first, last = math.log10(low), math.log10(high)
    pad = margin * (last - first) or 0.5
    base = axis(title, type="log", range=[first - pad, last + pad])
    if last - first > 2.2:
        minor = {"ticks": "outside", "ticklen": 2, "tickcolor": "@rule", "showgrid": False}
        return base | {"dtick": max(1, math.ceil((last - first) / 6)), "minor": minor}
    ticks = log_ticks(low, high)  # powers of ten alone would label too little
    return base | {"tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}


def layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The common layout of a figure with one pair of axes."""
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left", "bgcolor": "@clear"}
    return {
        "xaxis": x,
        "yaxis": y,
        "font": {"family": FONT, "size": 13, "color": "@ink"},
        "paper_bgcolor": "@clear",
        "plot_bgcolor": "@clear",
        "margin": {"l": 56, "r": 18, "t": 34 if more.get("showlegend") else 14, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "@surface", "bordercolor": "@rule", "font": {"color": "@ink", "family": FONT}},
        "modebar": {"bgcolor": "@clear", "color": "@rule", "activecolor": "@muted"},
        "legend": legend,
        "showlegend": False,
    } | more


def colour_bar() -> dict[str, Any]:
    """A slim colour bar; the caption says what it is of."""
    return {"thickness": 10, "outlinewidth": 0, "tickcolor": "@rule", "exponentformat": "e"}


def thin(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` indices of ``range(count)``, evenly spread, first and last among them."""
    if count <= limit:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, limit).round().astype(np.int64))


def thin_ranked(ranked: np.ndarray, limit: int) -> np.ndarray:
    """At most ``limit`` of jobs given best first: the best half, the rest spread evenly over the others."""
    if len(ranked) <= limit:
        return ranked
    head = limit // 2
    return np.concatenate([ranked[:head], ranked[head:][thin(len(ranked) - head, limit - head)]])


def thinned_note(drawn: int, total: int, noun: str) -> str:
    """The sentence for what :func:`thin_ranked` left out, or ""."""
    if drawn >= total:
        return ""
    return (
        f" {drawn:,} of {total:,} finished {noun}s are drawn: the best {drawn // 2:,} and an even sample of the others."
    )


def value_axis(title: str, values: np.ndarray, mode: str | None, share: float = 0.8) -> tuple[dict[str, Any], int]:
    """An axis for measured values that a few wild ones do not squeeze flat.

    Args:
        title: The axis title.
        values: The values drawn, any shape; NaN and infinity are left out.
        mode: ``"min"``, ``"max"``, or None where the direction is not known.
        share: The part of the values, from the best, that must fill a third of the axis or more.

    Returns:
        The axis, and how many finite values lie beyond its range (a double click shows them).
    """
    finite = values[np.isfinite(values)]
    sane = finite[np.abs(finite) < LARGEST]
    if len(sane) == 0:
        return axis(title), 0
    log = mode != "max" and sane.min() > 1 / LARGEST
    log = log and np.ptp(np.quantile(np.log10(sane), [0.05, 0.95])) > math.log10(50)
    scaled = np.log10(sane) if log else sane
    low, high = float(scaled.min()), float(scaled.max())
    if mode == "max":
        edge = float(np.quantile(scaled, 1 - share))
        low = max(low, edge - 2 * (high - edge)) if high > edge else low
    elif mode == "min":
        edge = float(np.quantile(scaled, share))
        high = min(high, edge + 2 * (edge - low)) if edge > low else high
    beyond = int(((scaled < low) | (scaled > high)).sum()) + len(finite) - len(sane)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    if log:
        return log_axis(title, 10**low, 10**high, 0.05), beyond
    return axis(title, type="linear", range=[low - pad, high + pad]), beyond


def beyond_note(count: int) -> str:
    """The half sentence for values outside the range, or ""."""
    if count == 0:
        return ""
    return f" {count:,} {'value lies' if count == 1 else 'values lie'} outside the range shown: double-click for all."


def worst_edge(y: Mapping[str, Any], mode: str) -> float | None:
    """The place on a value axis, just inside its worst end, for marks that have no value."""
    if "range" not in y:
        return None
    low, high = y["range"]
    place = low + 0.025 * (high - low) if mode == "max" else high - 0.025 * (high - low)
    return float(10**place) if y.get("type") == "log" else float(place)


def linear_ticks(low: float, high: float, whole: bool = False) -> list[float] | list[int]:
    """Round numbers inside [low, high], four to seven of them."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    if whole:
        step = max(1, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    return [int(tick) for tick in ticks] if whole else ticks


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; also their doubles and fives, or round numbers, where these are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / 6))
    multiples = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [m * 10.0**power for power in range(first, last + 1, stride) for m in multiples]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return inside if len(inside) >= 3 else [float(tick) for tick in linear_ticks(low, high)]
