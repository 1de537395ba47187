"""The poster's figures 2 to 4, and tuning on few images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from papers import figures
from papers.command import Run

BLUE, RED = figures.COLOURS[0], figures.COLOURS[3]


def draw(run: Run, titles: Mapping[str, str], predictions: Mapping[str, str]) -> None:
    """Write a figure for each part that there is."""
    of: dict[str, list[dict[str, Any]]] = {}
    for row in run.rows:
        of.setdefault(row["part"], []).append(row)
    if "curve" in of:
        curves(of["curve"], run.folder / "figure2.png")
    if "predict" in of:
        scatter(of["predict"], predictions, run.folder / "figure3.png")
    if "local" in of:
        surfaces(of["local"][0], run.folder / "figure4.png")
    if "few" in of:
        starts(of["few"], titles, run.folder / "few.png")


def starts(runs: Sequence[dict[str, Any]], titles: Mapping[str, str], file: Path) -> None:
    """Test loss by images and start, means with their standard deviation; of a search one for all starts."""
    keys = list(dict.fromkeys(key for row in runs for key in row if key.split(" ")[0].isdigit() and "from" in key))
    shown = [name for name in titles if any(row["method"] == name for row in runs)]
    figure, pair = _figure(12.0, 4.0, 1, len(keys))
    for axes, key in zip(pair, keys, strict=True):
        for place, name in enumerate(shown):
            mine = [float(row[key if key in row else key.split(" ")[0]]) for row in runs if row["method"] == name]
            if mine:
                colour = figures.COLOURS[place % len(figures.COLOURS)]
                axes.errorbar(np.mean(mine), place, xerr=np.std(mine), fmt="o", capsize=3, color=colour)
        names = [titles[name].replace("`", "") for name in shown]
        axes.set(title=key.replace(" ", " images, ", 1), xlabel="test loss", yticks=range(len(names)))
        axes.locator_params(axis="x", nbins=4)  # more labels would overlap
        axes.set_yticklabels(names if axes is pair[0] else [], fontsize=7)
        axes.grid(alpha=0.3)
    _write(figure, file)


def curves(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Figure 2: training and validation loss over the penalty, of networks trained from scratch and of a hypernet."""
    at = [math.log10(x) for x in runs[0]["at"]]
    figure, pair = _figure(9.6, 3.8, 1, 2)
    for axes, key, title in zip(pair, ("predicted", "local"), ("global hypernet", "local hypernet"), strict=True):
        for split, colour, name in (("", BLUE, "validation"), ("_train", figures.COLOURS[1], "training")):
            true, found = (np.mean([row[kind + split] for row in runs], axis=0) for kind in ("true", key))
            axes.plot(at, true, "x", color=colour, label=f"{name}, trained from scratch")
            axes.plot(at, found, color=colour, label=f"{name}, hypernet")
        axes.set(xlabel="log10 of the penalty", ylabel="loss", title=title, ylim=(0, 0.14))
        axes.grid(alpha=0.3)
    pair[1].axvline(-1, color="black", lw=0.8, ls=":")
    pair[0].legend(frameon=False, fontsize=8)
    _write(figure, file)


def scatter(runs: Sequence[dict[str, Any]], predictions: Mapping[str, str], file: Path) -> None:
    """Figure 3: predicted against true validation loss, and the distribution of the differences."""
    figure, grid = _figure(8.0, 8.6, len(predictions), 2)
    shown = np.concatenate([row["true"] for row in runs])
    low, high = 0.95 * shown.min(), 1.2 * shown.max()
    for (left, right), colour, (name, title) in zip(grid, figures.COLOURS, predictions.items(), strict=False):
        mine = [row for row in runs if row["method"] == name]
        true, predicted = (np.concatenate([row[key] for row in mine] or [[]]) for key in ("true", "predicted"))
        left.plot([low, high], [low, high], color="black", lw=0.8)
        left.plot(true, predicted.clip(max=high), ".", ms=2.5, color=colour)
        left.set(xlim=(low, shown.max() * 1.02), ylim=(low, high), ylabel="predicted loss")
        left.set_title(title, fontsize=9)
        right.hist(predicted - true, bins=np.linspace(-0.025, 0.025, 51), color=colour)
        right.axvline(0, color="black", lw=0.8)
        right.set_ylabel("configurations")
    grid[-1][0].set_xlabel("true validation loss")
    grid[-1][1].set_xlabel("predicted less true validation loss")
    _write(figure, file)


def surfaces(one: dict[str, Any], file: Path) -> None:
    """Figure 4: exact and approximate best weights over the surfaces of the training and the validation loss."""
    at = np.log10(one["at"])
    exact, approximate = np.array(one["exact"]), np.array(one["approximate"])
    weight = np.linspace(-0.2, 1.2, 141)
    figure, pair = _figure(9.6, 4.0, 1, 2)
    for axes, (xx, xy, yy), kind in zip(pair, one["squares"], ("training", "validation"), strict=True):
        loss = (xx * weight**2 - 2 * xy * weight + yy)[:, None] + np.zeros(len(at))
        if kind == "training":
            loss = loss + 10**at * weight[:, None] ** 2
        drawn = axes.contourf(at, weight, np.log10(loss), 20, cmap="Greys", alpha=0.7)
        figure.colorbar(drawn, ax=axes, label=f"log10 of the {kind} loss")
        axes.plot(at, exact, color=BLUE, label="exact best weight")
        axes.plot(at, approximate, color=RED, ls="--", label="approximate best weight")
        axes.axvline(one["optimum"], color=BLUE, lw=1, ls=":", label="best penalty")
        axes.axvline(one["found"], color=RED, lw=1, ls=":", label="penalty that is found")
        axes.set(xlabel="log10 of the penalty", ylabel="weight", ylim=(weight[0], weight[-1]), title=f"{kind} loss")
    pair[0].legend(fontsize=8, loc="lower left")
    _write(figure, file)


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)  # files alone, no window
    return figure, figure.subplots(rows, columns)


def _write(figure: Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})  # the same results, the same bytes
