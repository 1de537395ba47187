"""Draws of a generative sampler: metrics as violins, its training loss, and the places where its samples fall."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from luthier.report.axes import Axis, axes
from luthier.report.facts import Facts
from luthier.report.figures import (
    CURVE_POINTS,
    LARGEST,
    Figure,
    Html,
    Section,
    axis,
    beyond_note,
    layout,
    log_axis,
    log_ticks,
    step_axis,
    thin,
    thin_ranked,
    thinned_note,
    value_axis,
)
from luthier.report.formatting import escape, label, number, plural
from luthier.report.info import Samples

COLUMNS = 4  # of which each two are drawn
MARKS = 500  # evaluated configurations in one panel
DOTS = 600  # samples in one panel
SECOND = 0.7548776662466927  # of the vertical axis: see Axis.jittered

Group = tuple[str, np.ndarray, str]
"""Title, values, and the colour of one violin."""


def sampler_section(known: Facts, found: Samples | None, order: list[str]) -> Section | None:
    """Section on what a sampler drew and would draw; None if the method has no sampler or nothing was proposed.

    Args:
        known: The study.
        found: The sampler's draws and predictions.
        order: Names of the hyperparameters, the most important first.
    """
    if found is None or not len(known.history):
        return None
    blocks: list[Any] = [Html(f'<p class="caption">{_words(known, found)}</p>')]
    if figure := _violins(known, found):
        blocks.append(figure)
    if found.missing:
        blocks.append(Html(f'<p class="notice"><strong>No sampler was fitted:</strong> {escape(found.missing)}.</p>'))
        return Section("sampler", "What the sampler draws", blocks)
    blocks += _loss(found)
    blocks += _map(known, found, order)
    return Section("sampler", "What the sampler draws", blocks)


def _words(known: Facts, found: Samples) -> str:
    """Explain what was measured and what is predicted, as HTML."""
    measured = (
        f"<strong>Measured:</strong> the finished ones of the {plural(len(found.initial), known.noun)} with which the "
        f"method began, spread evenly over the space, and of the {len(found.drawn):,} that it then proposed."
    )
    if found.missing:
        return measured
    cells = f"{found.leaves:,}" if found.leaves < 1e9 else number(float(found.leaves), 2)
    made = f"exact over {cells} cells of the space" if found.losses is None else f"learnt over {cells} cells, briefly"
    error = f", whose held-out error is {number(found.rmse, 2)}" if np.isfinite(found.rmse) else ""
    return (
        f"{measured} <strong>Predicted</strong> by a surrogate{error}: {len(found.configs):,} configurations each from "
        f"a sampler that was fitted to all results when this page was written ({made}; P = R^β / Z, "
        f"β = {number(found.beta, 3)}), from the same sampler before it has learnt anything, and drawn at random."
    )


def _violins(known: Facts, found: Samples) -> Figure | None:
    """The objective of each group, the measured ones on top; None where no value is finite."""
    groups = _groups(known, found)
    x, beyond = value_axis(known.objective, np.concatenate([values for _, values, _ in groups]), known.mode)
    if "range" not in x:
        return None
    low, high = x["range"]
    if log := x.get("type") == "log":  # the shape is that of the logarithms, so they are what is drawn
        ticks = log_ticks(10**low, 10**high)
        x = axis(known.objective, range=[low, high])
        x |= {"tickvals": np.log10(ticks), "ticktext": [number(tick) for tick in ticks]}
    data, titles = [], []
    for title, values, colour in groups:
        sane = values[np.isfinite(values) & (np.abs(values) < LARGEST)]
        shown = np.log10(sane[sane > 0]) if log else sane
        shown = shown[(shown >= low) & (shown <= high)]
        if len(shown):
            titles.append(title)
            data.append(_violin(known, shown, 10**shown if log else shown, len(titles) - 1, colour))
    ticks = {"tickvals": list(range(len(titles))), "ticktext": titles}
    y = axis("", **ticks, range=[len(titles) - 0.5, -0.5], showline=False, ticks="", showgrid=False)
    caption = (
        f"{known.objective} ({known.better}), one shape for each way to choose configurations: wide where values are "
        "many, the box holds the middle half, its line is the median. Dots are measured values. Predictions have no "
        f"noise, and far from all results they may lie where no value can.{beyond_note(beyond)}"
    )
    alt = f"{known.objective} of what was drawn, and as predicted of what would be drawn"
    return Figure({"data": data, "layout": layout(x, y)}, 90 + 82 * len(titles), caption, alt)


def _groups(known: Facts, found: Samples) -> list[Group]:
    """Title, values and colour of each violin, the measured ones first."""

    def measured(title: str, numbers: Any, colour: str) -> Group:
        values = known.values[np.intersect1d(np.array(numbers, dtype=np.int64), known.finished)]
        return f"{title}<br>measured, {len(values):,}", values, colour

    def predicted(title: str, values: np.ndarray, colour: str) -> Group:
        return f"{title}<br>predicted, {len(values):,}", values, colour

    return [
        measured("drawn in the study", found.drawn, "primary"),
        measured("at the beginning", found.initial, "finished"),
        predicted("fitted sampler", found.predicted, "cycle2"),
        predicted("untrained sampler", found.untrained, "finished"),
        predicted("at random", found.random, "finished"),
    ]


def _violin(known: Facts, places: np.ndarray, values: np.ndarray, row: int, colour: str) -> dict[str, Any]:
    measured = row < 2 and len(values) < MARKS
    return {
        "type": "violin",
        "orientation": "h",
        "x": places,
        "y": np.full(len(places), row),
        "width": 0.9,
        "spanmode": "hard",
        "box": {"visible": len(values) > 4, "width": 0.16, "fillcolor": "@surface"},
        "line": {"color": f"@{colour}", "width": 1.5},
        "points": "all" if measured else False,
        "pointpos": 0,
        "jitter": 0.5,
        "marker": {"size": 5, "opacity": 0.55, "color": f"@{colour}"},
        "text": [number(float(value), 5) for value in values],
        "hoveron": "points",
        "hovertemplate": f"{label(known.objective)} %{{text}}<extra></extra>",
    }


def _loss(found: Samples) -> list[Any]:
    """The loss of the sampler's training, or the sentence that there is none."""
    if found.losses is None:
        return ["There is no training loss: the sampler is exact, by enumeration of all cells of the space."]
    steps = np.arange(1, len(found.losses) + 1)
    keep = thin(len(steps), CURVE_POINTS)
    losses = found.losses[keep]
    positive = losses[np.isfinite(losses) & (losses > 0)]
    y = axis("loss")
    if len(positive) and positive.max() > 50 * positive.min():
        y = log_axis("loss", float(positive.min()), float(positive.max()), 0.05)
    line = {"type": "scatter", "mode": "lines", "x": steps[keep], "y": losses}
    line |= {"line": {"color": "@cycle2", "width": 1.5}}
    line |= {"hovertemplate": "step %{x:,}<br>loss %{y:.4g}<extra></extra>"}
    caption = (
        "Loss of the fitted sampler's training against its gradient steps: how far the flow into each configuration "
        "is from its reward, in squared logarithms."
    )
    spec = {"data": [line], "layout": layout(step_axis(len(steps), "gradient step"), y)}
    return [Figure(spec, 260, caption, alt="Training loss of the sampler")]


def _map(known: Facts, found: Samples, order: list[str]) -> list[Any]:
    """Maps of where samples fall: each pair of the most important columns, or one column and the objective."""
    rows = thin_ranked(known.ranked(), MARKS)[::-1]  # the best last: on top
    dots = list(found.configs[:DOTS])
    place = {name: i for i, name in enumerate(order)}
    every = axes(known.history.space, [*dots, *(known.history.jobs[n].config for n in rows)])
    every.sort(key=lambda one: place.get(one.name, len(place)))
    chosen = every[:COLUMNS]
    if len(chosen) == 1:
        values = np.concatenate([found.predicted[: len(dots)], known.values[rows]])
        spec, _ = value_axis(known.objective, values, known.mode)
        panels = [_panel(known, rows, len(dots), chosen[0], known.objective, values, spec)]
        what = f"{label(chosen[0].title)} against {known.objective}, which is predicted of samples"
    else:
        panels = [
            _panel(known, rows, len(dots), one, other.title, other.jittered(SECOND), other.plotly())
            for one, other in combinations(chosen, 2)
        ]
        left = f" (the {len(chosen)} most important of {len(every)})" if len(every) > len(chosen) else ""
        what = f"each two of the hyperparameters{left}"
    thinned = thinned_note(len(rows), len(known.finished), known.noun)
    caption = (
        f"Where samples of the fitted sampler fall (green dots, {len(dots):,}), and the finished {known.noun}s over "
        f"them, the stronger in colour the better, the best ringed: {what}.{thinned}"
    )
    return [panels, caption] if len(panels) > 1 else [panels[0], caption]


def _panel(
    known: Facts, rows: np.ndarray, dots: int, one: Axis, title: str, y: np.ndarray, y_axis: dict[str, Any]
) -> Figure:
    """Samples, the first ``dots`` of the values, under evaluated configurations, the rest of them, worst first."""
    x = one.jittered()
    there = np.isfinite(x) & np.isfinite(y)
    drawn, tried = np.flatnonzero(there[:dots]), np.flatnonzero(there[dots:])
    rank = np.arange(1, len(rows) + 1) / len(rows)
    hover = f"{known.noun} %{{customdata[0]}}<br>{label(known.objective)} %{{customdata[1]}}<extra></extra>"
    texts = [[int(rows[i]), number(float(known.values[rows[i]]), 5)] for i in tried]
    shade = {"color": rank[tried], "coloraxis": "coloraxis", "line": {"width": 0.8, "color": "@surface"}}
    cloud = {"type": "scatter", "mode": "markers", "x": x[drawn], "y": y[drawn], "hoverinfo": "skip"}
    marks = {"type": "scatter", "mode": "markers", "x": x[dots + tried], "y": y[dots + tried], "customdata": texts}
    data = [
        cloud | {"name": "samples", "marker": {"color": "@cycle2", "size": 5, "opacity": 0.4}},
        marks | {"name": "finished", "marker": {"size": 8} | shade, "hovertemplate": hover},
    ]
    best = tried[rows[tried] == known.best]
    if len(best):
        ring = {"symbol": "circle-open", "color": "@best", "size": 14, "line": {"width": 2.5}}
        spot = {"type": "scatter", "mode": "markers", "x": x[dots + best], "y": y[dots + best], "hoverinfo": "skip"}
        data.append(spot | {"name": "best", "marker": ring})
    scale = {"coloraxis": {"colorscale": "@scale", "cmin": 0, "cmax": 1, "showscale": False}}
    spec = {"data": data, "layout": layout(one.plotly(), y_axis, **scale)}
    return Figure(spec, 320, alt=f"Samples and {known.noun}s by {one.title} and {title}")
