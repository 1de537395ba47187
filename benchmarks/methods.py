"""Every kind of method on Fashion-MNIST, each with the same training steps, on the same splits and seeds.

    python benchmarks/methods.py                 # 3 seeds; writes results/methods.json and docs/methods.png
    python benchmarks/methods.py --seeds 5 --workers 2

The task is a 784-128-10 network on 10,000 images, with learning rate, momentum, weight decay and dropout to be tuned.
What has been run is kept in methods.db, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import luthier as lt

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#5c6675", "#000000")
TRIALS, EPOCHS, TRAIN, VALID = 24, 6, 10_000, 5_000


def network(config: lt.Config) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), lt.nn.Dropout("dropout"), nn.Linear(128, 10))


def task() -> lt.TorchTask:
    whole = lt.data.fashion_mnist(valid=VALID)
    return lt.TorchTask(
        space=lt.Space(
            lr=lt.Float(1e-4, 1.0, log=True),
            momentum=lt.Float(0.0, 0.95),
            weight_decay=lt.Float(1e-6, 0.1, log=True),
            dropout=lt.Float(0.0, 0.6),
        ),
        model=network,
        data=lt.Splits(whole.train.subset(TRAIN), whole.valid, whole.test, whole.classes),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.sgd,
        batch_size=64,
        metrics={"accuracy": lt.metrics.accuracy},
    )


def methods() -> dict[str, object]:
    """Between trainings, and during them: an adapter adapts each of the trainings that random search has started."""
    return {
        "random": "random",
        "gp": "gp",
        "tpe": "tpe",
        "genetic": lt.propose.Genetic(population=6),
        "gflownet": "gflownet",
        "hyperband": "hyperband",
        "pbt": lt.propose.PBT(rounds=12),
        "pb2": lt.propose.PB2(rounds=12),
        "hypergradient": "hypergradient",
        "bilevel, unrolled": lt.adapt.Bilevel("unrolled"),
    }


def draw(found: lt.Comparison, file: Path) -> None:
    """Best so far of every method, the mean over the seeds in the range of the seeds."""
    figure = Figure(figsize=(8.6, 4.8), dpi=110)
    FigureCanvasAgg(figure)  # a file alone, no window
    axes = figure.subplots()
    ranked = [row.label for row in found.table()]
    curves = found.curves()
    for label, colour in zip(ranked, COLOURS * 2, strict=False):
        line = curves[label]
        style = "-" if ranked.index(label) < len(COLOURS) else "--"
        axes.plot(line.steps, line.mean, style, color=colour, label=label, drawstyle="steps-post", lw=1.8)
        axes.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.08, lw=0, step="post")
    final = [curves[label].mean[-1] for label in ranked]
    axes.set_ylim(min(final) - 0.02, max(final) + 0.15)
    axes.set(xlabel="training steps spent, all trainings together", ylabel=f"best validation {found.objective} so far")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=2, title="best mean rank first")
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})  # the same results, the same bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--report", type=Path, help="write the HTML report here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = lt.compare(
        task(),
        methods(),
        trials=TRIALS,
        epochs=EPOCHS,
        seeds=options.seeds,
        store=ROOT / "benchmarks" / "methods.db",
        name="methods on Fashion-MNIST",
        executor=lt.execute.Local(workers=options.workers),
        progress=sys.stderr.isatty(),
    )
    rows = []
    print(f"{'method':15}{'rank':>6}{'valid loss':>18}{'test loss':>18}{'trials':>8}{'steps':>9}{'seconds':>9}")
    for row in found.table():
        rows.append(
            {
                "method": row.label,
                "mean rank": round(row.rank, 3),
                "valid": row.valid.round(5).tolist(),
                "test": row.test.round(5).tolist(),
                "test accuracy": [
                    round(best.test["accuracy"], 5)
                    for (label, _), study in found.studies.items()
                    if label == row.label and (best := study.best) is not None
                ],
                "steps": row.steps,
                "trials": row.trials,
                "tuned": row.tuned,
                "seconds": round(row.wall_seconds, 2),
                "seconds in the method": round(row.method_seconds, 3),
                "steps to level": [float(x) if np.isfinite(x) else None for x in row.steps_to_level],
            }
        )
        spread = [f"{x.mean():.4f} ± {x.std(ddof=1) if len(x) > 1 else 0:.4f}" for x in (row.valid, row.test)]
        print(
            f"{row.label:15}{row.rank:6.2f}{spread[0]:>18}{spread[1]:>18}{row.trials:8.1f}{row.steps:9.0f}"
            f"{row.wall_seconds:9.1f}"
        )
    kept = {"seeds": options.seeds, "total steps": found.total, "trials": TRIALS, "epochs": EPOCHS, "rows": rows}
    (ROOT / "benchmarks" / "results" / "methods.json").write_text(json.dumps(kept, indent=1) + "\n")
    draw(found, ROOT / "docs" / "methods.png")
    if options.report:
        print(found.report(options.report))


if __name__ == "__main__":
    main()
