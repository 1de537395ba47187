"""A controller's decisions over its search: probabilities of options, rewards, and the network that was found."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.jobs import Report
from luthier.report.facts import DECIDED, Facts
from luthier.report.figures import Figure, Html, Section, axis, layout, log_axis, step_axis
from luthier.report.formatting import label, number, setting, tile
from luthier.space import Float

PANELS = 24
CYCLE = 8  # colours of options


def decisions(known: Facts) -> Section | None:
    """Section on how a controller came to its decisions; None if there was no controller."""
    reports = _search(known)
    if not reports:
        return None
    steps = np.array([report.step for report in reports], dtype=float)
    columns = {name: np.array([r.metrics.get(name, np.nan) for r in reports]) for name in reports[-1].metrics}
    names = [name for name in known.history.space.names if any(_belongs(key, name) for key in columns)]
    panels = [_panel(known, name, steps, columns) for name in names[:PANELS]]
    gone = next((r.step for r in reports if r.metrics.get("collapsed") == 1.0), None)
    end = f" From step {gone:,} on one decision was all that was left of it." if gone is not None else ""
    text = (
        "What the controller decided each hyperparameter by, against training steps of the shared weights: the "
        "probability of each option; of a real number the mean, and one standard deviation to each side." + end
    )
    found = [_found(known, columns, names)] if known.best is not None else []
    return Section("decisions", "The controller's decisions", [*found, _rewards(steps, columns), panels, text])


def _search(known: Facts) -> list[Report]:
    """The reports of the search; of several searches, those of the longest."""
    told = [
        [report for report in reports if any(name.startswith(DECIDED) for name in report.metrics)]
        for reports in known.history.reports.values()
    ]
    longest = max(told, key=len, default=[])
    return longest if len(longest) > 1 else []


def _belongs(key: str, name: str) -> bool:
    rest = key.removeprefix(DECIDED + name)
    return rest != key and rest[:1] in ("=", ".", "[")


def _rewards(steps: np.ndarray, columns: dict[str, np.ndarray]) -> list[Figure]:
    """Rewards with their two parts, and the entropy."""
    figures = []
    for title, chosen in (
        ("reward", {"reward": "reward", "reward_direct": "direct", "reward_response": "response"}),
        ("entropy, nats", {"entropy": "entropy"}),
    ):
        data = [_line(legend, steps, columns[name], i) for i, (name, legend) in enumerate(chosen.items())]
        spec = {"data": data, "layout": layout(step_axis(steps[-1], nticks=5), axis(title), showlegend=len(data) > 1)}
        figures.append(Figure(spec, 270, alt=f"{title} over time"))
    return figures


def _panel(known: Facts, name: str, steps: np.ndarray, columns: dict[str, np.ndarray]) -> Figure:
    """Panel of one hyperparameter: a line per option, or the mean within its band."""
    domain = known.history.space.domains[name]
    mine = {key: values for key, values in columns.items() if _belongs(key, name)}
    shares = {key.removeprefix(f"{DECIDED}{name}="): values for key, values in mine.items() if "=" in key}
    y: dict[str, Any] = axis(name, range=[-0.02, 1.02])
    if shares:
        data = [_line(option, steps, values, i) for i, (option, values) in enumerate(shares.items())]
    else:
        first = next(iter(mine)).rpartition(".")[0]
        low, mean, high = (mine[f"{first}.{what}"] for what in ("low", "mean", "high"))
        blank = {"type": "scatter", "mode": "lines", "x": steps, "hoverinfo": "skip", "showlegend": False}
        blank |= {"line": {"color": "@clear", "width": 0}}
        data = [blank | {"y": low}, blank | {"y": high, "fill": "tonexty", "fillcolor": "@band"}]
        data.append(_line("mean", steps, mean, 0))
        log = isinstance(domain, Float) and domain.log
        y = log_axis(name, float(low.min()), float(high.max())) if log else axis(name)
    spec = {"data": data, "layout": layout(step_axis(steps[-1], nticks=5), y, showlegend=bool(shares))}
    return Figure(spec, 270, alt=f"How {name} was decided over time")


def _line(name: str, steps: np.ndarray, values: np.ndarray, place: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label(name),
        "x": steps,
        "y": values,
        "line": {"color": f"@cycle{place % CYCLE}", "width": 2},
        "hovertemplate": f"{label(name)}<br>step %{{x:,}}<br>%{{y:.4g}}<extra></extra>",
    }


def _found(known: Facts, columns: dict[str, np.ndarray], names: list[str]) -> Html:
    """The best network as a chain of its decisions, each with the probability that it had at the end."""
    assert known.best is not None
    config = known.history.jobs[known.best].config
    boxes = []
    for name in names:
        if name in config:
            share = columns.get(f"{DECIDED}{name}={config[name]}")
            odds = f'<div class="name">probability {number(float(share[-1]), 2)}</div>' if share is not None else ""
            boxes.append(tile(setting(config[name]), name, more=odds))
    caption = (
        f'<p class="caption">What {known.noun} {known.best:,}, the best, is made of, in the order of decision.</p>'
    )
    return Html(f'<div class="tiles">{"".join(boxes)}</div>{caption}')
