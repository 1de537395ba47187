"""Several objectives against each other, and the Pareto set: the trials that no other dominates."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from luthier.report.facts import Facts
from luthier.report.figures import POINTS, Figure, Section, beyond_note, layout, thin, value_axis
from luthier.report.formatting import label, plural
from luthier.report.table import front_table

SHOWN = 3  # objectives of which each two are drawn; the table has them all


def trade_off(known: Facts) -> Section | None:
    """The objectives against each other with the Pareto set, drawn and listed; None where there is but one."""
    if not known.front:
        return None
    objectives = list(known.history.objectives)
    pairs = list(combinations(range(min(len(objectives), SHOWN)), 2))
    figures = [_pair(known, first, second, alone=len(objectives) == 2) for first, second in pairs]
    set_of = plural(len(known.front), known.noun)
    words = f"The Pareto set: {set_of}, none of which another equals in every objective and betters in one."
    drawn = figures if len(figures) == 1 else [figures]
    return Section("pareto", "Trade-off between the objectives", [*drawn, words, front_table(known)])


def _pair(known: Facts, first: int, second: int, alone: bool) -> Figure:
    """Two of the objectives; ``alone`` where there are no others, so that the set is a line."""
    rows = known.finished[np.isfinite(known.history.values[known.finished]).all(axis=1)]
    chosen = np.isin(rows, known.front)
    names = [list(known.history.objectives)[i] for i in (first, second)]
    modes = [known.history.objectives[name] for name in names]
    values = known.history.values[rows][:, [first, second]] * [-1.0 if mode == "max" else 1.0 for mode in modes]
    others = np.flatnonzero(~chosen)
    others = others[thin(len(others), POINTS)]
    front = np.flatnonzero(chosen)[np.argsort(values[chosen, 0], kind="stable")]
    x, beyond_x = value_axis(names[0], values[:, 0], modes[0])
    y, beyond_y = value_axis(names[1], values[:, 1], modes[1])
    hover = (
        f"{known.noun} %{{customdata}}<br>{label(names[0])} %{{x:.5g}}<br>{label(names[1])} %{{y:.5g}}<extra></extra>"
    )

    def trace(name: str, picked: np.ndarray, **more: object) -> dict:
        points = {"x": values[picked, 0], "y": values[picked, 1], "customdata": rows[picked]}
        return {"type": "scatter", "name": name, "hovertemplate": hover, **points, **more}

    # the region that the set dominates ends in a staircase, whose corners depend on the directions
    line = {"line": {"color": "@best", "width": 1.5, "shape": "hv" if modes[0] == "min" else "vh"}} if alone else {}
    data = [
        trace(f"other {known.noun}s", others, mode="markers", marker={"color": "@finished", "size": 7, "opacity": 0.7}),
        trace(
            "Pareto set",
            front,
            mode="lines+markers" if alone else "markers",
            marker={"color": "@best", "size": 9},
            **line,
        ),
    ]
    words = " and ".join(
        f"{n} ({'higher' if m == 'max' else 'lower'} is better)" for n, m in zip(names, modes, strict=True)
    )
    caption = (
        f"{words}: {plural(len(front), known.noun)} {'on the line' if alone else 'in colour'} form the Pareto set, "
        f"where one objective cannot be bettered without worsening {'the other' if alone else 'another'}."
        f"{beyond_note(beyond_x + beyond_y)}"
    )
    return Figure({"data": data, "layout": layout(x, y, showlegend=True)}, 440, caption, alt="Pareto set")
