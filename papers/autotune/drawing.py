"""The paper's figures 5 to 34: nine panels each, a network a row and a data set a column, of the first seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import luthier as lt
from papers.figures import COLOURS

StudyOf = Callable[[str, str, int], lt.Study]  # of a method, a network and a data set


def curve_of(study: lt.Study, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric of the best training over its epochs, from its first ancestor on: (points,), (points,)."""
    best = study.best
    assert best is not None
    history, chain = study.history, [best.number]
    while (parent := history.jobs[chain[-1]].parent) is not None:
        chain.append(parent)
    points = {report.step: report.metrics[metric] for number in chain[::-1] for report in history.reports[number]}
    steps = np.array(sorted(points))
    whole = float(study.settings["budget"]["epochs"])
    return steps * whole / max(steps), np.array([points[step] for step in steps])


def draw(folder: Path, study_of: StudyOf, networks: Sequence[str], datasets: Sequence[int]) -> None:
    """Write every figure as a PNG."""
    for name, arm, panel, x, y in (
        ("random", "random", _sampled, "trial", "learning rate"),
        ("grid", "grid", _sampled, "trial", "learning rate"),
        ("bayesian_tpe", "tpe", _sampled, "trial", "learning rate"),
        ("bayesian_gp", "gp", _sampled, "trial", "learning rate"),
        ("hypergradient", "hypergradient 1", _moving, "epoch", "learning rate"),
        ("pbt", "pbt 15", _population, "epoch", "validation accuracy"),
        ("pbt_schedules", "pbt 15", _schedules, "epoch", "learning rate"),
    ):
        studies = [[study_of(arm, network, dataset) for dataset in datasets] for network in networks]
        titles = [[f"{network} on data set {dataset}" for dataset in datasets] for network in networks]
        _panels(folder / f"{name}.png", studies, titles, panel, x, y)


def _panels(
    file: Path,
    studies: Sequence[Sequence[lt.Study]],
    titles: list[list[str]],
    panel: Callable[..., Any],
    x: str,
    y: str,
) -> None:
    figure = Figure(figsize=(11, 8.4), dpi=100)
    FigureCanvasAgg(figure)  # files alone, no window
    for row, line in enumerate(studies):
        for column, study in enumerate(line):
            axes = figure.add_subplot(len(studies), len(line), len(line) * row + column + 1)
            panel(axes, study, first=row == column == 0)
            axes.set_title(titles[row][column], fontsize=9)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
            if row == len(studies) - 1:
                axes.set_xlabel(x)
            if column == 0:
                axes.set_ylabel(y)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})  # the same results, the same bytes


def _sampled(axes: Any, study: lt.Study, first: bool) -> None:
    """Learning rates in the order in which they were tried, coloured by accuracy; the best ringed."""
    history = study.history
    numbers = [number for number in history.arrival if history.results[number].metrics]  # type: ignore[union-attr]
    rates = [history.jobs[number].config["lr"] for number in numbers]
    accuracies = [history.results[number].metrics["accuracy"] for number in numbers]  # type: ignore[union-attr]
    dots = axes.scatter(numbers, rates, c=accuracies, s=14, cmap="viridis", vmin=0.5, vmax=1.0)
    if study.best is not None:
        axes.scatter([study.best.number], [study.best.config["lr"]], s=70, facecolors="none", edgecolors=COLOURS[3])
    axes.set_yscale("log")
    bar = axes.figure.colorbar(dots, ax=axes, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    if first:
        bar.set_label("validation accuracy", fontsize=8)


def _moving(axes: Any, study: lt.Study, first: bool) -> None:
    """The learning rate over one training, and the loss beside it."""
    best = study.best
    assert best is not None
    reports = study.history.reports[best.number]
    epochs = np.array([report.step for report in reports]) / reports[-1].step * study.settings["budget"]["epochs"]
    axes.plot(epochs, [report.hyperparameters["lr"] for report in reports], color=COLOURS[0], label="learning rate")
    axes.set_yscale("log")
    beside = axes.twinx()
    beside.plot(epochs, [report.metrics["loss"] for report in reports], color=COLOURS[1], label="validation loss")
    beside.set_yscale("log")
    beside.tick_params(which="both", labelsize=7)
    beside.set_ylabel("validation loss", fontsize=8)
    if first:
        lines = axes.get_lines() + beside.get_lines()
        axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize=8, loc="center right")


def _population(axes: Any, study: lt.Study, first: bool) -> None:
    """The best member's accuracy after each round, and the other members'."""
    history = study.history
    whole = study.settings["budget"]["epochs"] / history.age.max()
    rows = [(int(history.age[n]) * whole, history.results[n].metrics["accuracy"]) for n in history.arrival]  # type: ignore[union-attr]
    at = np.array(rows)
    axes.scatter(at[:, 0], at[:, 1], s=6, color=COLOURS[0], alpha=0.35, label="members")
    rounds = np.unique(at[:, 0])
    best = np.maximum.accumulate([at[at[:, 0] == epoch, 1].max() for epoch in rounds])
    axes.plot(rounds, best, color=COLOURS[1], label="best so far")
    if first:
        axes.legend(frameon=False, fontsize=8)


def _schedules(axes: Any, study: lt.Study, first: bool) -> None:
    """The learning rate of every member over the rounds; the best one's own schedule thick."""
    history = study.history
    whole = study.settings["budget"]["epochs"] / history.age.max()
    for job in history.jobs:
        begun = 0 if job.parent is None else int(history.age[job.parent])
        span = np.array([begun, int(history.age[job.number])]) * whole
        axes.plot(span, [job.config["lr"]] * 2, color=COLOURS[0], alpha=0.35, lw=0.8)
    assert study.best is not None
    steps, rates = zip(*((step, config["lr"]) for step, config in study.best.schedule), strict=True)
    at = np.array([*steps, history.age[study.best.number]]) * whole
    axes.step(at, [*rates, rates[-1]], where="post", color=COLOURS[1], lw=2)
    axes.set_yscale("log")
