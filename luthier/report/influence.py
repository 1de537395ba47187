"""Influence of the hyperparameters on the objective: importance, slices, parallel coordinates."""

from __future__ import annotations

import numpy as np

from luthier.jobs import DIVERGED, FAILED, PRUNED
from luthier.report.axes import Axis, axes
from luthier.report.facts import INFEASIBLE, STATUS_NAMES, Facts
from luthier.report.figures import (
    LARGEST,
    SYMBOLS,
    Figure,
    Html,
    Section,
    axis,
    beyond_note,
    layout,
    thin,
    thin_ranked,
    thinned_note,
    value_axis,
    worst_edge,
)
from luthier.report.formatting import label, number, plural, setting
from luthier.report.importance import RELIABLE, Importance

PANEL_POINTS = 800  # markers in one slice: there is a panel for each hyperparameter
PANELS = 24
PARALLEL_LINES = 500
PARALLEL_AXES = 12


def importance_section(known: Facts, found: Importance | None) -> Section | None:
    """Bars with their uncertainty; None where nothing could be computed."""
    if found is None or len(found.names) < 2:
        return None
    shown = slice(None, 20)
    names, mean, deviation = found.names[shown], found.mean[shown], found.deviation[shown]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(names))),
        "x": mean,
        "error_x": {"type": "data", "array": deviation, "color": "@muted", "thickness": 1.4, "width": 4},
        "marker": {"color": "@primary"},
        "width": 0.6,
        "customdata": np.stack([mean, deviation], axis=1),
        "hovertemplate": "%{customdata[0]:.3f} ± %{customdata[1]:.3f}<extra></extra>",
    }
    ticks = {"tickvals": list(range(len(names))), "ticktext": [label(name, 28) for name in names]}
    y = axis("", **ticks, range=[len(names) - 0.5, -0.5], showline=False, ticks="", showgrid=False)
    x = axis(
        "increase in squared error when shuffled (share of the variance)", 80, zeroline=True, zerolinecolor="@rule"
    )
    aged = "; the training steps behind each are one more input" if known.continued else ""
    caption = (
        "Random forest on the ranks of the objective, permutation importance on trials held out (Breiman 2001): the "
        "longer the bar, the worse the prediction without that hyperparameter; whiskers are one standard deviation "
        f"over the forests. The forest explains {max(0.0, found.explained):.0%} of the variance of unseen trials "
        f"({plural(found.trials, known.noun)} used, diverged ones ranked last{aged})."
    )
    figure = Figure({"data": [bars], "layout": layout(x, y)}, 110 + 34 * len(names), alt="Hyperparameter importance")
    return Section("importance", "Hyperparameter importance", [*_reliability(found), figure, caption])


def _reliability(found: Importance) -> list[Html]:
    if found.reliable:
        return []
    reason = "the forest cannot predict trials it has not seen, so the bars carry no information."
    if found.finished < RELIABLE:
        reason = f"only {found.finished} finished; below about {RELIABLE} the bars say little more than chance."
    return [Html(f'<p class="notice"><strong>Unreliable:</strong> {reason}</p>')]


def slices(known: Facts, order: list[str]) -> Section | None:
    """The objective against each hyperparameter alone, the names in ``order`` first."""
    history = known.history
    if len(known.finished) < 2:
        return None
    good = thin_ranked(known.ranked(), PANEL_POINTS)
    bad = np.flatnonzero(np.isin(known.status, [DIVERGED, FAILED]))
    bad = bad[thin(len(bad), PANEL_POINTS // 10)]
    other = []
    for status in (PRUNED, INFEASIBLE):
        found = np.flatnonzero((known.status == status) & np.isfinite(known.values))
        other.append(found[thin(len(found), PANEL_POINTS // 4)])
    rows = np.sort(np.concatenate([good, bad, *other]))
    found = axes(history.space, [history.jobs[n].config for n in rows])
    place = {name: i for i, name in enumerate(order)}
    found.sort(key=lambda one: place.get(one.name, len(place)))
    y, beyond = value_axis(known.objective, known.values[rows], known.mode)
    panels = [_slice(known, one, rows, y) for one in found[:PANELS] if np.isfinite(one.values).any()]
    if not panels:
        return None
    shade = "training steps behind it" if known.continued else "the order in which it was tried"
    thinned = thinned_note(len(good), len(known.finished), known.noun)
    left = f" {PANELS} of {len(found)} hyperparameters are drawn." if len(found) > PANELS else ""
    outside = "open diamonds lie outside the limits, " if known.history.limits else ""
    caption = (
        f"{known.objective} ({known.better}) against one hyperparameter at a time; darker is later ({shade}), the ring "
        f"is the best, open circles were pruned, {outside}crosses at the edge diverged or failed. A slope is an "
        f"effect, a flat cloud is none.{thinned}{left}{beyond_note(beyond)}"
    )
    return Section("slices", "One hyperparameter at a time", [panels, caption])


def _slice(known: Facts, one: Axis, rows: np.ndarray, y: dict) -> Figure:
    x = one.jittered()
    shade = known.history.age[rows] if known.continued else rows
    edge = worst_edge(y, known.mode)
    data = []
    for status, name in STATUS_NAMES.items():
        if name not in SYMBOLS:
            continue
        chosen = np.flatnonzero((known.status[rows] == status) & np.isfinite(x))
        if status in (DIVERGED, FAILED):
            heights = np.full(len(chosen), np.nan if edge is None else edge)
        else:
            heights = known.values[rows[chosen]]
        if len(chosen) == 0:
            continue
        marker = {"symbol": SYMBOLS[name], "size": 7}
        if name == "finished":
            marker |= {"color": shade[chosen], "coloraxis": "coloraxis", "line": {"width": 0.5, "color": "@surface"}}
        else:
            marker |= {"color": f"@{name}", "line": {"width": 1.4}}
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": x[chosen],
                "y": heights,
                "customdata": [
                    [int(n), label(setting(known.history.jobs[n].config.get(one.name)))] for n in rows[chosen]
                ],
                "marker": marker,
                "hovertemplate": f"{known.noun} %{{customdata[0]}} ({name})<br>{label(one.title)} %{{customdata[1]}}"
                f"<br>{label(known.objective)} %{{y:.5g}}<extra></extra>",
            }
        )
    at = np.flatnonzero((rows == known.best) & np.isfinite(x))
    if len(at):
        ring = {"symbol": "circle-open", "color": "@best", "size": 13, "line": {"width": 2.5}}
        best = {"type": "scatter", "mode": "markers", "x": x[at], "y": known.values[rows[at]], "marker": ring}
        data.append(best | {"hoverinfo": "skip"})
    coloured = {"coloraxis": {"colorscale": "@scale", "showscale": False}}
    spec = {"data": data, "layout": layout(one.plotly(), y, **coloured)}
    return Figure(spec, 260, alt=f"{known.objective} against {one.title}")


def parallel(known: Facts, order: list[str]) -> Section | None:
    """Every finished configuration as one line across all hyperparameters; drawn by the page's own script."""
    history = known.history
    if len(known.finished) < 2 or not history.space.names:
        return None
    continued = known.history.parent[known.history.parent >= 0]
    ends = known.ranked()
    ends = ends[~np.isin(ends, continued) | (ends == known.best)]
    rows = thin_ranked(ends, PARALLEL_LINES)[::-1]  # the best last: on top
    found = axes(history.space, [history.jobs[n].config for n in rows])
    if len(found) > PARALLEL_AXES:
        place = {name: i for i, name in enumerate(order)}
        keep = {id(one) for one in sorted(found, key=lambda a: place.get(a.name, len(place)))[:PARALLEL_AXES]}
        left = f" {PARALLEL_AXES} of {len(found)} hyperparameters are drawn."
        found = [one for one in found if id(one) in keep]
    else:
        left = ""
    objective, beyond = _objective_axis(known, rows)
    positions = [np.clip(one.positions(), 0, 1) for one in [*found, objective]]
    quality = positions[-1] if known.mode == "max" else 1 - positions[-1]
    spec = {
        "noun": known.noun,
        "axes": [
            {"title": a.title, "ticks": a.ticks(), "inactive": bool(np.isnan(p).any()), "log": a.log}
            for a, p in zip([*found, objective], positions, strict=True)
        ],
        "lines": np.stack(positions, axis=1).round(4),
        "quality": quality.round(4),
        "numbers": rows,
        "texts": [number(float(known.values[n]), 5) for n in rows],
        "best": int(np.flatnonzero(rows == known.best)[0]) if known.best in rows else None,
        "worse": number(objective.low if known.mode == "max" else objective.high),
        "better": number(objective.high if known.mode == "max" else objective.low),
        "objective": known.objective,
    }
    thinned = thinned_note(len(rows), len(ends), known.noun)
    last = " that no other continued" if known.continued else ""
    end = f" {beyond:,} beyond the end of the {known.objective} axis are drawn at its end." if beyond else ""
    caption = (
        f"Each line is one finished {known.noun}{last}, its colour the {known.objective}; drag along an axis to keep "
        f"only lines that pass there, click the axis to let go.{thinned}{left}{end}"
    )
    figure = Figure(spec, 440, alt="Parallel coordinates of all finished configurations", kind="parallel")
    return Section("parallel", "Parallel coordinates", [figure, caption])


def _objective_axis(known: Facts, rows: np.ndarray) -> tuple[Axis, int]:
    """The objective as the last axis; its ends are those of the value axis, without its padding."""
    values = np.clip(known.values[rows], -LARGEST, LARGEST)
    spec, beyond = value_axis(known.objective, known.values[rows], known.mode)
    if "range" not in spec:
        return Axis(known.objective, known.objective, values, float(values.min()), float(values.max())), 0
    low, high = spec["range"]
    log = spec["type"] == "log"
    low, high = (10**low, 10**high) if log else (low, high)
    inside = values[(values >= low) & (values <= high)]
    low, high = float(inside.min()), float(inside.max())
    return Axis(known.objective, known.objective, np.clip(values, low, high), low, high, log), beyond
