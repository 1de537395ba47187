"""Several methods on one task as one page: the table, best so far with bands, and what each seed reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luthier.report import save
from luthier.report.figures import Figure, Html, Section, axis, layout, step_axis, value_axis
from luthier.report.formatting import duration, escape, grid, label, number, plural
from luthier.report.page import document
from luthier.report.standings import Band, Run, Standing, bands, common_level, spread, standings

COLOURS = 8  # that the style sheet cycles through


def write(name: str, runs: Sequence[Run], total: int, path: str | Path, level: float | None = None) -> Path:
    """Write the page of a comparison and return its absolute path.

    Args:
        name: Name of the comparison.
        runs: One for each method and seed.
        total: Training steps that each could spend.
        path: The file.
        level: Value that the columns "to the level" count to; by default what every method reached in half its seeds.

    Raises:
        StudyError: If the file cannot be written.
    """
    level = common_level(runs) if level is None else level
    rows = standings(runs, level)
    objective, mode = next(iter(runs[0].history.objectives.items()))
    seeds = len({run.seed for run in runs})
    lead = (
        f"{plural(len(rows), 'method')}, {plural(seeds, 'seed')} each, {total:,} training steps for each; "
        f"best by mean rank: <strong>{escape(rows[0].label)}</strong>."
    )
    top = f'<header><p class="over">luthier · comparison</p><h1>{escape(name)}</h1><p class="lead">{lead}</p></header>'
    parts = [_table(rows, objective, mode, level), _curves(runs, rows, objective, mode), _seeds(rows, objective, mode)]
    return save(document(name, top, parts, ""), path)


def _table(rows: Sequence[Standing], objective: str, mode: str, level: float) -> Section:
    heads = ("method", "rank", f"validation {objective}", f"test {objective}", "steps to level", "trials to level")
    heads += ("training to level", "trials", "tuned", "in the method", "wall time")
    table = grid("standings", heads, [f"<tr>{''.join(_cells(row))}</tr>" for row in rows])
    better = "higher" if mode == "max" else "lower"
    caption = (
        f"Mean ± standard deviation over the seeds; {better} is better. The level is {objective} {number(level)}: "
        "medians over the seeds of what was spent until it was reached, · where most seeds did not. The test split is "
        "read once, for the best configuration of each seed. In the method: CPU time of its own proposals."
    )
    return Section("table", "The methods", [Html(f'<div class="scroll">{table}</div>'), caption])


def _cells(row: Standing) -> list[str]:
    tuned = f'<span title="{escape(", ".join(row.tuned))}">{len(row.tuned)}</span>'
    values = [
        f"{row.rank:.2f}",
        spread(row.valid),
        spread(row.test),
        _median(row.steps_to_level),
        _median(row.trials_to_level),
        duration(float(np.median(row.seconds_to_level))) if np.isfinite(np.median(row.seconds_to_level)) else "·",
        number(round(row.trials, 1)),
        tuned,
        duration(row.method_seconds),
        duration(row.wall_seconds),
    ]
    return [f"<td>{escape(row.label)}</td>", *(f"<td>{value}</td>" for value in values)]


def _median(values: np.ndarray) -> str:
    middle = float(np.median(values))
    return f"{middle:,.0f}" if np.isfinite(middle) else "·"


def _curves(runs: Sequence[Run], rows: Sequence[Standing], objective: str, mode: str) -> Section:
    found = bands(runs)
    ranked = [(f"@cycle{i % COLOURS}", row.label, found[row.label]) for i, row in enumerate(rows) if row.label in found]
    data = [trace for colour, name, line in ranked for trace in _line(colour, name, line)]
    y, _ = value_axis(f"best {objective} so far", np.concatenate([[], *(line.mean for _, _, line in ranked)]), mode)
    x = step_axis(max((float(line.steps[-1]) for _, _, line in ranked), default=1.0), "training steps spent")
    caption = (
        "The mean over the seeds of the best so far, counted when a trial or one of its parts ends; the band reaches "
        "from the lowest to the highest seed. A line begins where every seed has a first result."
    )
    spec = {"data": data, "layout": layout(x, y, showlegend=True)}
    return Section("curves", "Best so far", [Figure(spec, 460, caption, alt="Best so far of every method")])


def _line(colour: str, name: str, line: Band) -> list[dict]:
    """A mean in its band: the lower edge, the upper one filled down to it, and the line itself."""
    shown = {"type": "scatter", "mode": "lines", "x": line.steps, "legendgroup": name}
    edge = shown | {"hoverinfo": "skip", "showlegend": False, "line": {"width": 0, "shape": "hv", "color": colour}}
    return [
        edge | {"y": line.low},
        edge | {"y": line.high, "fill": "tonexty", "fillcolor": f"{colour}/1c"},
        shown
        | {
            "y": line.mean,
            "name": label(name),
            "line": {"width": 2.2, "shape": "hv", "color": colour},
            "hovertemplate": f"{label(name)}<br>%{{x:,}} steps: %{{y:.5g}}<extra></extra>",
        },
    ]


def _seeds(rows: Sequence[Standing], objective: str, mode: str) -> Section:
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(row.label),
            "x": row.valid,
            "y": [label(row.label)] * len(row.valid),
            "marker": {"size": 9, "color": f"@cycle{index % COLOURS}"},
            "hovertemplate": "%{x:.5g}<extra></extra>",
        }
        for index, row in enumerate(rows)
    ]
    x, _ = value_axis(f"best {objective}", np.concatenate([row.valid for row in rows]), mode, share=1.0)
    spec = {"data": data, "layout": layout(x, axis("", autorange="reversed", type="category"))}
    return Section("seeds", "Every seed", [Figure(spec, 90 + 34 * len(rows), "One dot a seed.", alt="Every seed")])
