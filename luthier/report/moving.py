"""Hyperparameters that move: their values over the training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from luthier.report.axes import choice_axis
from luthier.report.curves import Curve, joined
from luthier.report.facts import Facts
from luthier.report.figures import (
    CURVE_POINTS,
    LINES,
    Figure,
    Section,
    axis,
    layout,
    log_axis,
    step_axis,
    thin,
    thin_ranked,
)
from luthier.report.formatting import label
from luthier.report.vectors import Point, vector_figures
from luthier.space import Choice
from luthier.trials import lineage

PANELS = 24


def schedules(known: Facts) -> Section | None:
    """All hyperparameters that changed during training; None where none did."""
    names = moving(known)
    if not names:
        return None
    lines, total = _lines(known)
    scalars: list[Figure] = []
    vectors: list[str | list[Figure]] = []
    for name in names[:PANELS]:
        if _is_vector(name, lines):
            vectors += vector_figures(known, name, lines)
        elif figure := _scalar_figure(known, name, lines):
            scalars.append(figure)
    blocks: list[Any] = []
    if scalars:
        left = f" {PANELS} of {len(names)} hyperparameters are drawn." if len(names) > PANELS else ""
        thinned = f" {len(lines)} of {total:,} lines are drawn." if len(lines) < total else ""
        blocks += [
            scalars,
            "Values of the hyperparameters that changed during training, against training steps: one line per line of "
            f"training with what it inherited, the thick one led to the best.{thinned}{left}",
        ]
    blocks += vectors
    return Section("schedules", "Hyperparameters over time", blocks) if blocks else None


def moving(known: Facts) -> list[str]:
    """Names that were reported during training, ended elsewhere than they began, or differ from the parent's end."""
    history = known.history
    names: dict[str, None] = {}
    for reports in history.reports.values():
        for report in reports:
            names.update(dict.fromkeys(report.hyperparameters))
    for job, result in zip(history.jobs, history.results, strict=True):
        before = history.final(job.parent) if job.parent is not None else job.config
        after = {**job.config, **(result.final if result else {})}
        names.update(dict.fromkeys(name for name in after if _differ(after.get(name), before.get(name))))
        names.update(dict.fromkeys(name for name in job.config if _differ(job.config[name], before.get(name))))
    order = {name: i for i, name in enumerate(history.space.names)}
    return sorted(names, key=lambda name: order.get(name, len(order)))


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple | np.ndarray) or isinstance(b, list | tuple | np.ndarray):
        return a is not b and not np.array_equal(np.asarray(a, dtype=object), np.asarray(b, dtype=object))
    return a != b


def _lines(known: Facts) -> tuple[list[tuple[int, list[Point]]], int]:
    """(last job, points over its lineage) of each line of training: at most some, the best of them
    last, and how many there are."""
    history = known.history
    parents = set(history.parent.tolist())
    ends = [n for n in range(len(history)) if n not in parents and n != known.best]
    place = {n: i for i, n in enumerate(known.ranked().tolist())}
    ends.sort(key=lambda n: place.get(n, len(place)))
    kept = thin_ranked(np.array(ends, dtype=np.int64), LINES).tolist()
    ordered = [*kept[::-1], *([known.best] if known.best is not None else [])]
    return [(n, _points(known, n)) for n in ordered], len(ends) + (known.best is not None)


def _points(known: Facts, end: int) -> list[Point]:
    """Hyperparameters in force at each known step along a lineage."""
    history = known.history
    points: list[Point] = []
    for n in lineage(history, end):
        job, result = history.jobs[n], history.results[n]
        points.append((0 if job.parent is None else int(history.age[job.parent]), job.config))
        points += [(report.step, report.hyperparameters) for report in history.reports.get(n, ())]
        if result is not None:
            points.append((max(points[-1][0], int(history.age[n])), {**_latest(points, job.config), **result.final}))
    return points


def _latest(points: list[Point], config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **points[-1][1]}


def _is_vector(name: str, lines: list[tuple[int, list[Point]]]) -> bool:
    first = next((values[name] for _, points in lines for _, values in points if name in values), None)
    return isinstance(first, list | tuple | np.ndarray)


def _scalar_figure(known: Facts, name: str, lines: list[tuple[int, list[Point]]]) -> Figure | None:
    domain = known.history.space.domains.get(name)
    curves: list[Curve] = []
    y = axis(name)
    for end, points in lines:
        column = [(step, values[name]) for step, values in points if name in values]
        if isinstance(domain, Choice):
            one = choice_axis(name, domain, [value for _, value in column])
            y, numbers = one.plotly(), one.values
        else:
            numbers = np.array([float(v) if isinstance(v, int | float | np.number) else math.nan for _, v in column])
        steps = np.array([step for step, _ in column], dtype=float)
        finite = np.isfinite(numbers)
        if finite.sum() > 1:
            keep = thin(int(finite.sum()), CURVE_POINTS)
            curves.append((end, steps[finite][keep], numbers[finite][keep]))
    if not curves:
        return None
    if not isinstance(domain, Choice):
        everything = np.concatenate([values for _, _, values in curves])
        low, high = float(everything.min()), float(everything.max())
        if low > 0 and (high > 50 * low if domain is None else domain.log):
            y = log_axis(name, low, high)
    hover = f"{known.noun} %{{customdata}}<br>step %{{x:,}}<br>{label(name)} %{{y:.5g}}<extra></extra>"
    others = [curve for curve in curves if curve[0] != known.best]
    best = [curve for curve in curves if curve[0] == known.best]
    data = []
    if others:
        width = 1.2 if len(others) > 5 else 1.8
        data.append(joined("others", others, {"color": "@finished", "width": width}, hover) | {"opacity": 0.7})
    if best:
        data.append(joined("best", best, {"color": "@best", "width": 2.5}, hover))
    return Figure(
        {"data": data, "layout": layout(step_axis(max(curve[1][-1] for curve in curves), nticks=5), y)},
        270,
        alt=f"{name} over time",
    )
