"""The figures of papers/*: lines with their spread, in one look for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STYLES = ("-", "--", "-.", ":")  # lines that lie on each other are seen
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#64b5cd", "#333333", "#ccb974", "#da8bc3")


def lines(
    file: Path,
    series: Mapping[str, tuple[Sequence[float], np.ndarray]],
    *,
    x: str,
    y: str,
    limits: tuple[float, float] | None = None,
    steps: bool = False,
) -> None:
    """Draw the mean of each series over its seeds, in a band of one standard deviation, and write a PNG.

    Where there are more than four series their names stand beside the axes.

    Args:
        file: Where to.
        series: By its name: where on the x axis (points,), and the values (seeds, points).
        x: Title of the x axis.
        y: Title of the y axis.
        limits: Of the y axis.
        steps: Draw stairs: a value holds until the next.
    """
    beside = len(series) > 4
    figure = Figure(figsize=(9.2 if beside else 6.4, 3.8), dpi=120)
    FigureCanvasAgg(figure)  # files alone, no window
    axes = figure.subplots()
    for place, (name, (at, values)) in enumerate(series.items()):
        colour, style = COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else 0.0
        axes.plot(at, mean, color=colour, ls=style, label=name, drawstyle="steps-post" if steps else "default")
        axes.fill_between(
            at, mean - spread, mean + spread, color=colour, alpha=0.12, lw=0, step="post" if steps else None
        )
    axes.set(xlabel=x, ylabel=y, ylim=limits)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if beside:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})  # the same results, the same bytes
