"""Best so far, and learning curves: how the study and its trainings went."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from luthier.jobs import DIVERGED, FAILED, OK, PENDING, PRUNED
from luthier.report.facts import INFEASIBLE, STATUS_NAMES, WAITING, Facts, metric_names, progress
from luthier.report.figures import (
    CURVE_POINTS,
    LINES,
    POINTS,
    Figure,
    Section,
    beyond_note,
    layout,
    step_axis,
    thin,
    thin_ranked,
    value_axis,
    worst_edge,
)
from luthier.report.formatting import label, plural
from luthier.trials import lineage

CROSSES = 120  # marks of diverged and failed trials in one panel

Curve = tuple[int, np.ndarray, np.ndarray]  # last job of the line, steps (points,), values (points,)


def best_so_far(known: Facts) -> Section | None:
    """The best objective against results and against training steps; None before the second result."""
    series = progress(known)
    if len(series.number) < 2:
        return None
    y, beyond = value_axis(known.objective, series.value, known.mode)
    figures = [_best_figure(known, series.results, f"{known.noun}s ended", y)]
    if (known.history.steps[series.number] > 1).any():
        figures.append(_best_figure(known, series.steps, "training steps spent", y))
    what = "Steps of pruned and failed ones count as spent. " if len(figures) > 1 else ""
    bad = len(known.history.arrival) - sum(known.count(status) for status in (OK, PRUNED, INFEASIBLE))
    crosses = f" ({CROSSES} of {bad:,})" if bad > CROSSES else ""
    caption = (
        f"The line is the best {known.objective} up to that point ({known.better}); dots are single {known.noun}s, "
        f"crosses those that diverged or failed{crosses}. {what}A line that is still moving at the right end says "
        f"that more {known.noun}s may pay.{beyond_note(beyond)}"
    )
    return Section("progress", "Best so far", [figures, caption])


def _best_figure(known: Facts, x: np.ndarray, x_title: str, y: dict) -> Figure:
    series = progress(known)
    improved = np.flatnonzero(np.append(True, series.best[1:] != series.best[:-1]))
    corners = np.unique(np.append(improved, len(series.best) - 1))
    shown = np.unique(np.concatenate([thin(len(x), POINTS), improved[-POINTS:]]))
    hover = f"{known.noun} %{{customdata}}<br>{label(known.objective)} %{{y:.5g}}<extra></extra>"
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": f"one {known.noun}",
        "x": x[shown],
        "y": series.value[shown],
        "customdata": series.number[shown],
        "hovertemplate": hover,
        "marker": {"color": "@finished", "size": 6 if len(shown) < 400 else 4, "opacity": 0.75},
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": x[corners],
        "y": series.best[corners],
        "customdata": series.number[corners],
        "line": {"color": "@best", "width": 2.5, "shape": "hv"},
        "hovertemplate": f"best so far: {hover}",
    }
    data = [dots, line, *_failure_marks(known, x_title, y)]
    x_axis = step_axis(float(x[-1]), x_title)
    spec = {"data": data, "layout": layout(x_axis, y, showlegend=True)}
    return Figure(spec, 340, alt=f"Best {known.objective} so far against {x_title}")


def _failure_marks(known: Facts, x_title: str, y: dict) -> list[dict]:
    edge = worst_edge(y, known.mode)
    arrival = np.array(known.history.arrival, dtype=np.int64)
    bad = np.isin(known.status[arrival], (DIVERGED, FAILED))
    if edge is None or not bad.any():
        return []
    places = np.cumsum(known.history.steps[arrival]) if "steps" in x_title else np.arange(1, len(arrival) + 1)
    rows = np.flatnonzero(bad)
    rows = rows[thin(len(rows), CROSSES)]
    marks = {
        "type": "scatter",
        "mode": "markers",
        "name": "diverged or failed",
        "x": places[rows],
        "y": np.full(len(rows), edge),
        "customdata": [[int(n), STATUS_NAMES[int(known.status[n])]] for n in arrival[rows]],
        "hovertemplate": f"{known.noun} %{{customdata[0]}}: %{{customdata[1]}}<extra></extra>",
        "marker": {"symbol": "x-thin-open", "color": "@failed", "size": 7, "line": {"width": 1.5}},
    }
    return [marks]


def learning_curves(known: Facts) -> Section | None:
    """Metrics against steps, one line per trial; None if no trial reported twice."""
    figures = []
    for name in metric_names(known):
        curves = collect(known, name)
        if curves:
            figures.append(_curves_figure(known, name, curves))
        if len(figures) == 7:  # an adapter's three beside a task's own
            break
    if not figures:
        return None
    main, others = figures[0], figures[1:]
    return Section("curves", "Learning curves", [main, *([others] if others else [])])


def collect(known: Facts, name: str) -> list[Curve]:
    """One curve of a metric for each line of training: a job with all its ancestors, where nothing continues it.

    Only curves of two finite points or more; an ancestor's part is repeated in each line that came from it.
    """
    history = known.history
    parents = set(history.parent[history.parent >= 0].tolist())
    ends = [n for n in range(len(history)) if n not in parents]
    if known.best is not None and known.best in parents:
        ends.append(known.best)
    curves = []
    for end in ends:
        steps, values = _points(known, lineage(history, end), name)
        if len(steps) > 1:
            keep = thin(len(steps), CURVE_POINTS)
            curves.append((end, steps[keep], values[keep]))
    return curves


def _points(known: Facts, chain: list[int], name: str) -> tuple[np.ndarray, np.ndarray]:
    history = known.history
    points: list[tuple[int, float]] = []
    for n in chain:
        points += [(r.step, float(r.metrics[name])) for r in history.reports.get(n, ()) if name in r.metrics]
        result = history.results[n]
        if result is not None and name in result.metrics and (not points or points[-1][0] < history.age[n]):
            points.append((int(history.age[n]), float(result.metrics[name])))
    table = np.array(points, dtype=float).reshape(-1, 2)
    table = table[np.isfinite(table[:, 1])]
    return table[:, 0], table[:, 1]


def _groups(known: Facts, curves: list[Curve]) -> tuple[list[tuple[str, str, list[Curve]]], int]:
    """(legend, colour token, curves) from back to front, and how many curves are shown beside the best."""
    by_end = {curve[0]: curve for curve in curves}
    ranked = np.array([n for n in known.ranked() if n in by_end and n != known.best], dtype=np.int64)
    quarter = set(ranked[: (len(ranked) + 3) // 4].tolist())
    shown = thin_ranked(ranked, LINES)
    rest = np.array([n for n in by_end if known.status[n] != OK or n not in known.finished], dtype=np.int64)
    ended = rest[known.history.status[rest] != PENDING] if len(rest) else rest
    running = [n for n in rest if known.status[n] == PENDING][-LINES // 4 :]
    waiting = [n for n in rest if known.status[n] == WAITING][-LINES // 4 :]
    ended = ended[thin(len(ended), LINES // 2)]
    other = [n for n in ended if known.status[n] == OK]  # that measured something else than the objective

    def chosen(numbers: Iterable[int]) -> list[Curve]:
        return [by_end[int(n)] for n in numbers]

    groups = [
        ("diverged or failed", "@failed", chosen(n for n in ended if known.status[n] in (DIVERGED, FAILED))),
        ("pruned", "@pruned", chosen(n for n in ended if known.status[n] == PRUNED)),
        ("outside the limits", "@infeasible", chosen(n for n in ended if known.status[n] == INFEASIBLE)),
        ("finished", "@finished", chosen([*(n for n in shown if int(n) not in quarter), *other])),
        ("running", "@running", chosen(running)),
        ("waiting", "@waiting", chosen(waiting)),
        ("best quarter", "@primary", chosen(n for n in shown if int(n) in quarter)),
    ]
    return groups, sum(len(group[2]) for group in groups)


def _curves_figure(known: Facts, name: str, curves: list[Curve]) -> Figure:
    groups, count = _groups(known, curves)
    hover = f"{known.noun} %{{customdata}}<br>step %{{x:,}}<br>{label(name)} %{{y:.5g}}<extra></extra>"
    data = []
    for legend, colour, members in groups:
        if members:
            data.append(joined(legend, members, {"color": colour, "width": 1.2}, hover) | {"opacity": 0.7})
    best = [curve for curve in curves if curve[0] == known.best]
    if best:
        data.append(joined(f"best ({known.noun} {known.best})", best, {"color": "@best", "width": 3}, hover))
    drawn = np.concatenate([v for _, _, members in groups for _, _, v in members] + [v for _, _, v in best])
    mode = known.history.objectives.get(name)
    y, beyond = value_axis(name, drawn, mode, share=0.9)
    direction = {"min": " (lower is better)", "max": " (higher is better)"}.get(mode or "", "")
    total = len(curves)
    thinned = f" {count + len(best)} of {plural(total, 'curve')} are drawn." if count + len(best) < total else ""
    main = name == known.objective
    reading = " A line that still improves at its end was stopped before it had converged." if main else ""
    caption = (
        f"{name}{direction} against training steps, one line per {known.noun}.{reading}{thinned}{beyond_note(beyond)}"
    )
    spec = {"data": data, "layout": layout(step_axis(max(curve[1][-1] for curve in curves)), y, showlegend=True)}
    return Figure(spec, 420 if main else 320, caption, alt=f"Learning curves of {name}")


def joined(name: str, curves: list[Curve], line: dict, hover: str) -> dict:
    """Many curves as one Plotly trace with gaps: fast to draw, one entry in the legend."""

    def column(pick: Callable[[Curve], Iterable[float]]) -> list[float | None]:
        return [item for curve in curves for item in (*pick(curve), None)][:-1]

    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": column(lambda curve: curve[1].tolist()),
        "y": column(lambda curve: curve[2].tolist()),
        "customdata": column(lambda curve: [curve[0]] * len(curve[1])),
        "line": line,
        "connectgaps": False,
        "hovertemplate": hover,
    }
