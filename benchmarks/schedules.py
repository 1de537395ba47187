"""Is a schedule of regularisation better than constant values? A small convolutional network on Fashion-MNIST.

    python benchmarks/schedules.py [--output benchmarks/results/schedules.json]

1,000 training and 1,000 validation images, 40 epochs in minibatches of 50, SGD at 0.05 with momentum 0.9. Tuned are two
dropout rates, the strength of Gaussian noise on the images and the weight decay. For each seed:

- "start": the values that the adapter starts from, held for the whole training;
- "adapter": ``lt.adapt.Bilevel`` by implicit gradients, from there;
- "replay": another training under the course of values that the adapter took;
- "final": another training at the values with which it ended, held from the first step;
- "random": random search over the same space, for the adapter's CPU time; its best by validation loss.

All but the adapter's are plain trainings of equal length with the adapter's initial weights. Rows are kept in the
output as they come, and a run that was cut off goes on there.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import luthier as lt

EPOCHS, SEEDS = 40, (0, 1, 2)
START = {"drop_features": 0.1, "drop_hidden": 0.1, "noise": 0.1, "weight_decay": 1e-4}
SPACE = lt.Space(
    drop_features=lt.Float(0.0, 0.9),
    drop_hidden=lt.Float(0.0, 0.9),
    noise=lt.Float(0.0, 1.0),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
)
ADAPTER = lt.adapt.Bilevel(functools.partial(lt.response.implicit, iterations=5, damping=1e-2), outer_lr=0.05)


@dataclass(frozen=True)
class Start:
    """A proposer of one training, at START."""

    budget: lt.Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False

    def bind(self, budget: lt.Budget) -> Start:
        return replace(self, budget=budget)

    def propose(self, history: lt.History, count: int, seeds: lt.Seeds) -> list[lt.Job]:
        config: Any = dict(START)
        return [] if len(history) or self.budget is None else [lt.Job(0, config, self.budget.steps_for(config))]


def model(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()),
        *(lt.nn.Dropout("drop_features"), nn.Linear(576, 64), nn.ReLU(), lt.nn.Dropout("drop_hidden")),
        nn.Linear(64, 10),
    )


def noisy(inputs: Tensor, hyper: dict[str, Tensor], noise: Any) -> Tensor:
    strength = hyper["noise"].view(-1, *(1,) * (inputs.ndim - 1))
    return inputs + strength * noise.normal(0, inputs.shape[1:])


def task() -> lt.TorchTask:
    return lt.TorchTask(
        space=SPACE,
        model=model,
        data=lt.data.fashion_mnist(valid=1_000, train=1_000),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.SGD(lr=0.05, momentum=0.9),
        augment=noisy,
        batch_size=50,
        metrics={"accuracy": lt.metrics.accuracy},
    )


def row(study: lt.Study, seconds: float) -> dict[str, Any]:
    """What a study ends with."""
    best = study.best
    return {
        "validation loss": round(best.metrics["loss"], 4),
        "test loss": round(best.test["loss"], 4),
        "test accuracy": round(best.test["accuracy"], 4),
        "values": {name: float(f"{value:.4g}") for name, value in best.final.items()},
        "trainings": len(study.trials),
        "CPU seconds": round(seconds, 1),
    }


def one_seed(seed: int, rows: dict[str, Any], keep: Any) -> None:
    """All rows of a seed that are not there yet."""
    settings: dict[str, Any] = {"seed": seed, "progress": False}

    def timed(name: str, *arguments: Any, **more: Any) -> lt.Study:
        clock = time.process_time()
        study = lt.tune(task(), *arguments, **settings, **more)
        rows[f"{name}, seed {seed}"] = row(study, time.process_time() - clock)
        print(f"{name}, seed {seed}: {rows[f'{name}, seed {seed}']}", flush=True)
        keep()
        return study

    if f"random, seed {seed}" in rows:
        return
    adapted = timed("adapter", method=(Start(), ADAPTER), trials=1, epochs=EPOCHS)
    rows[f"schedule, seed {seed}"] = [
        [report.step, {name: float(f"{value:.4g}") for name, value in report.hyperparameters.items()}]
        for report in adapted.history.reports[0][::4]
    ]
    steps = adapted.best.result.steps
    timed("start", schedule=[(0, START)], steps=steps)
    timed("replay", schedule=adapted.best.schedule)
    timed("final", schedule=[(0, adapted.best.final)], steps=steps)
    each = rows[f"start, seed {seed}"]["CPU seconds"]
    trials = max(1, round(rows[f"adapter, seed {seed}"]["CPU seconds"] / each))
    timed("random", method="random", trials=trials, epochs=EPOCHS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/schedules.json"))
    output = parser.parse_args().output
    torch.set_num_threads(1)
    rows: dict[str, Any] = json.loads(output.read_text())["rows"] if output.exists() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    machine = {"torch": torch.__version__, "python": platform.python_version()}

    def keep() -> None:
        output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")

    for seed in SEEDS:
        one_seed(seed, rows, keep)
    for kind in ("start", "adapter", "replay", "final", "random"):
        for metric in ("validation loss", "test loss", "test accuracy"):
            values = [rows[f"{kind}, seed {seed}"][metric] for seed in SEEDS]
            print(f"{kind:8} {metric:16} {statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}")


if __name__ == "__main__":
    main()
