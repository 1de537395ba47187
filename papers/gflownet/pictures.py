"""The figures: the paper's figures 2 and 3, and where samples fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import luthier as lt
from papers.figures import COLOURS

SHOWN = ("untrained", "paper", "paper x0.1", "paper /0.1", "ours")
NAMES = {"paper x0.1": "paper\nlogits × 0.1", "paper /0.1": "paper\nlogits / 0.1", "paper": "paper\ntrained"}


def draw_all(results: dict[str, Any], past: lt.History, folder: Path) -> None:
    """Write violin.png, loss.png and map.png from the runs of seed 0."""
    rows = {row["method"]: row for row in results["runs"] if row["seed"] == 0}
    if "uniform" not in rows:
        return
    violin(rows, past, folder / "violin.png")
    loss(results["facts"]["0"], folder / "loss.png")
    places(rows, past, folder / "map.png")


def violin(rows: dict[str, Any], past: lt.History, file: Path) -> None:
    """Accuracies of the sweep and of each sampler: by the surrogate on the left, of real trainings on the right."""
    grid = -past.values[:, 0]
    figure, (left, right) = _figure(9.6, 1, 2)
    for axes, key, title in ((left, "predicted", "samples, by the surrogate"), (right, "real", "samples, trained")):
        shown = [name for name in SHOWN if key in rows[name]]
        values = [grid, *(np.array(rows[name][key]) for name in shown)]
        parts = axes.violinplot(values, showmedians=True)
        colours = [COLOURS[0], *(COLOURS[1 + SHOWN.index(name)] for name in shown)]
        for body, colour in zip(parts["bodies"], colours, strict=True):
            body.set(facecolor=colour, alpha=0.5)
        names = ["sweep\n(trained)", *(NAMES.get(name, name) for name in shown)]
        axes.set_xticks(range(1, len(names) + 1), names, fontsize=7)
        axes.set(ylabel="validation accuracy", title=title)
        axes.grid(alpha=0.3, axis="y")
    _write(figure, file)


def loss(facts: dict[str, Any], file: Path) -> None:
    """The losses of the two trainings, each in its own units."""
    figure, pair = _figure(9.6, 1, 2)
    for axes, key, title in zip(
        pair, ("losses", "our losses"), ("paper's settings: flow matching", "ours: trajectory balance"), strict=True
    ):
        axes.plot(facts[key], color=COLOURS[0], lw=0.7)
        axes.set_yscale("log")
        axes.set(xlabel="gradient steps", ylabel="loss", title=title)
        axes.grid(alpha=0.3)
    _write(figure, file)


def places(rows: dict[str, Any], past: lt.History, file: Path) -> None:
    """Where the trained samples of each sampler fall, over the sweep's accuracies at each batch size."""
    names = ("untrained", "paper", "ours")
    pairs = ((1, 0, "learning rate", "batch size"), (1, 2, "learning rate", "epochs"))
    figure, grid = _figure(9.6, len(pairs), len(names), 5.6)
    table = np.array([list(job.config.values()) for job in past.jobs], dtype=float)
    rng = np.random.default_rng(0)
    for line, (x, y, x_title, y_title) in zip(grid, pairs, strict=True):
        for axes, name in zip(line, names, strict=True):
            axes.scatter(table[:, x], table[:, y], c=-past.values[:, 0], s=14, marker="s", cmap="viridis", alpha=0.35)
            drawn = np.array(rows[name]["configs"], dtype=float)
            jitter = drawn[:, y] * np.exp(rng.normal(size=len(drawn)) * 0.03)
            axes.scatter(drawn[:, x], jitter, c="crimson", s=6)
            axes.set_xscale("log")
            if y == 0:
                axes.set_yscale("log", base=2)
            axes.set_title(name, fontsize=9)
            axes.set_xlabel(x_title, fontsize=8)
            axes.set_ylabel(y_title, fontsize=8)
    _write(figure, file)


def _figure(width: float, rows: int, columns: int, height: float = 3.8) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _write(figure: Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})
