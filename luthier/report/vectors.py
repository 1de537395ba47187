"""Vector-valued hyperparameters over time: quantiles, a histogram at each step, and the last vector as an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from luthier.report.facts import Facts
from luthier.report.figures import Figure, axis, colour_bar, layout, log_axis, step_axis, thin
from luthier.report.formatting import label

FRAMES = 120  # columns of the heat map of a vector
BINS = 40
COMPONENTS = 8  # a vector of at most so many elements is drawn element by element
LEVELS = (5, 25, 50, 75, 95)

Point = tuple[int, Mapping[str, Any]]
"""Hyperparameters in force from a step on."""


def vector_figures(known: Facts, name: str, lines: list[tuple[int, list[Point]]]) -> list[str | list[Figure]]:
    """Quantiles, histogram over time and last value of a vector, along the best line of training that has it.

    Args:
        known: The study.
        name: The hyperparameter.
        lines: (last job, points) of each line of training, the best last.
    """
    candidates = ((end, _frames(name, points)) for end, points in reversed(lines))
    chosen, frames = next((found for found in candidates if len(found[1]) > 1), (-1, []))
    if not frames:
        return []
    keep = thin(len(frames), FRAMES)
    steps = np.array([frames[i][0] for i in keep], dtype=float)
    table = np.array([frames[i][1] for i in keep])  # (frames, elements)
    table[~np.isfinite(table)] = np.nan
    size = table.shape[1]
    domain = known.history.space.domains.get(name)
    log = bool(getattr(domain, "log", False)) and bool(np.nanmin(table) > 0)
    if size <= COMPONENTS:
        figures = [_components(name, steps, table, log)]
        reads = "one line per element"
    else:
        figures = [_quantiles(name, steps, table, log), _histogram(name, steps, table, log)]
        reads = (
            "first the median and the bands that hold the middle 50 % and 90 % of its elements, then how many elements "
            "lie at each value (darker is more)"
        )
    if picture := _picture(name, table[-1], int(steps[-1])):
        figures.append(picture)
        reads += f", last the vector at step {int(steps[-1]):,} as an image"
    return [figures, f"{name}, {size:,} elements, in {known.noun} {chosen}: {reads}."]


def _frames(name: str, points: list[Point]) -> list[tuple[int, np.ndarray]]:
    """The vector at each step where it is one, has a finite element, and is as long as the first."""
    frames: list[tuple[int, np.ndarray]] = []
    for step, values in points:
        vector = _flat(values[name]) if name in values else None
        if vector is not None and np.isfinite(vector).any() and (not frames or len(vector) == len(frames[0][1])):
            frames.append((step, vector))
    return frames


def _flat(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value, dtype=float).ravel()
    except (TypeError, ValueError):
        return None


def _value_axis(name: str, table: np.ndarray, log: bool) -> dict[str, Any]:
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    return log_axis(name, low, high) if log and high > low else axis(name)


def _components(name: str, steps: np.ndarray, table: np.ndarray, log: bool) -> Figure:
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"[{i}]",
            "x": steps,
            "y": table[:, i],
            "line": {"color": f"@cycle{i}", "width": 2},
        }
        for i in range(table.shape[1])
    ]
    spec = {"data": data, "layout": layout(step_axis(steps[-1]), _value_axis(name, table, log), showlegend=True)}
    return Figure(spec, 320, alt=f"Elements of {name} over time")


def _quantiles(name: str, steps: np.ndarray, table: np.ndarray, log: bool) -> Figure:
    bands = np.nanpercentile(table, LEVELS, axis=1)

    def edge(row: int, **more: Any) -> dict[str, Any]:
        blank = {"color": "@clear", "width": 0}
        line = {"type": "scatter", "mode": "lines", "x": steps, "y": bands[row], "line": blank, "hoverinfo": "skip"}
        return line | {"showlegend": False} | more

    data = [
        edge(0),
        edge(4, fill="tonexty", fillcolor="@band", showlegend=True, name="90 %"),
        edge(1),
        edge(3, fill="tonexty", fillcolor="@band", showlegend=True, name="50 %"),
        edge(2, line={"color": "@primary", "width": 2.5}, showlegend=True, name="median", hoverinfo="x+y"),
    ]
    spec = {
        "data": data,
        "layout": layout(step_axis(steps[-1], nticks=5), _value_axis(name, table, log), showlegend=True),
    }
    return Figure(spec, 340, alt=f"Quantiles of {name} over time")


def _histogram(name: str, steps: np.ndarray, table: np.ndarray, log: bool) -> Figure:
    scaled = np.log10(table) if log else table
    low, high = float(np.nanmin(scaled)), float(np.nanmax(scaled))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = np.array([np.histogram(row[np.isfinite(row)], edges)[0] for row in scaled])
    centres = (edges[:-1] + edges[1:]) / 2
    heat = {
        "type": "heatmap",
        "x": steps,
        "y": 10**centres if log else centres,
        "z": np.sqrt(counts / table.shape[1]).T,
        "customdata": counts.T,
        "colorscale": "@heat",
        "showscale": False,
        "hovertemplate": f"step %{{x:,}}<br>{label(name)} %{{y:.4g}}<br>%{{customdata:,}} elements<extra></extra>",
    }
    spec = {"data": [heat], "layout": layout(step_axis(steps[-1], nticks=5), _value_axis(name, table, log))}
    return Figure(spec, 340, alt=f"Distribution of {name} over time")


def _picture(name: str, vector: np.ndarray, step: int) -> Figure | None:
    side = math.isqrt(vector.size)
    if side < 4 or side * side != vector.size:
        return None
    heat = {
        "type": "heatmap",
        "z": vector.reshape(side, side),
        "colorscale": "@heat",
        "colorbar": colour_bar(),
        "hovertemplate": "row %{y}, column %{x}<br>%{z:.4g}<extra></extra>",
    }
    x = axis("column", showgrid=False, constrain="domain")
    y = axis("row", showgrid=False, autorange="reversed", scaleanchor="x", constrain="domain")
    return Figure({"data": [heat], "layout": layout(x, y)}, 340, alt=f"{name} at step {step} as an image")
