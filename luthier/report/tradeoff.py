"""Two objectives against each other, and the set of those that no other beats."""

from __future__ import annotations

import numpy as np

from luthier.report.facts import Facts, pareto
from luthier.report.figures import POINTS, Figure, Section, beyond_note, layout, thin, value_axis
from luthier.report.text import label, plural


def trade_off(known: Facts) -> Section | None:
    """The two objectives against each other, with the Pareto set; None where there are not exactly two."""
    rows = known.finished
    if len(known.history.objectives) != 2:
        return None
    rows = rows[np.isfinite(known.history.values[rows]).all(axis=1)]
    if len(rows) == 0:
        return None
    chosen = pareto(known.history.values[rows])
    names, modes = list(known.history.objectives), list(known.history.objectives.values())
    signs = np.array([-1.0 if mode == "max" else 1.0 for mode in modes])
    values = known.history.values[rows] * signs
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
    shape = "hv" if modes[0] == "min" else "vh"
    data = [
        trace(f"other {known.noun}s", others, mode="markers", marker={"color": "@finished", "size": 7, "opacity": 0.7}),
        trace(
            "Pareto set",
            front,
            mode="lines+markers",
            marker={"color": "@best", "size": 9},
            line={"color": "@best", "width": 1.5, "shape": shape},
        ),
    ]
    words = " and ".join(
        f"{n} ({'higher' if m == 'max' else 'lower'} is better)" for n, m in zip(names, modes, strict=True)
    )
    caption = (
        f"{words}: {plural(len(front), known.noun)} on the line form the Pareto set, where one objective cannot be "
        f"bettered without worsening the other.{beyond_note(beyond_x + beyond_y)}"
    )
    figure = Figure({"data": data, "layout": layout(x, y, showlegend=True)}, 440, caption, alt="Pareto set")
    return Section("pareto", "Trade-off between the objectives", [figure])
