"""Is a schedule of regularisation better than constant values? A small convolutional network on Fashion-MNIST.

    python benchmarks/schedules.py [--output benchmarks/results/schedules.json]
    python benchmarks/schedules.py --adapter bilevel --output schedules_bilevel.json
    python benchmarks/schedules.py --horizons --output benchmarks/results/schedules_horizons.json

1,000 training and 1,000 validation images, 40 epochs in minibatches of 50, SGD at 0.05 with momentum 0.9. Tuned are two
dropout rates, the strength of Gaussian noise on the images and the weight decay. For each seed:

- "start": the values that the adapter starts from, held for the whole training;
- "adapter": ``lt.adapt.Hypernet``, the gated one of self-tuning networks, from there;
- "replay": another training under the course of values that the adapter took;
- "final": another training at the values with which it ended, held from the first step;
- "random": random search over the same space, for the adapter's CPU time; its best by validation loss.

All but the adapter's are plain trainings of equal length with the adapter's initial weights. Of every kind the table
has the loss at the end of the training and, beside it, the least that was measured on the way, once an epoch; of the
random search the training that ends best, and the least of all its trainings. The adapter's settings were chosen on
other seeds (10 to 12). Rows are kept in the output as they come, and a run that was cut off goes on there.

``--horizons`` says how far one has to look to see what a hyperparameter does: the derivative of the validation loss
some steps later, by differences of trainings that go on at a higher and a lower value from the same weights.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import luthier as lt

EPOCHS, SEEDS = 40, (0, 1, 2)
START = {"drop_features": 0.1, "drop_hidden": 0.1, "noise": 0.1, "weight_decay": 1e-4}
SPACE = lt.Space(
    drop_features=lt.Float(0.0, 0.9),
    drop_hidden=lt.Float(0.0, 0.9),
    noise=lt.Float(0.0, 1.0),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
)
ADAPTERS = {
    "hypernet": lt.adapt.Hypernet(structure="gated", samples=2, smoothing=0.0, warmup=4, outer_lr=0.2, gate=1),
    "bilevel": lt.adapt.Bilevel(functools.partial(lt.response.implicit, iterations=5, damping=1e-2), outer_lr=0.05),
}
MARKS, HORIZONS, DRAWS, APART = (1, 4, 10, 25), (5, 20, 100, 400), 4, 0.5  # epochs, steps, of masks, to either side


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
    """What a study ends with; of a chain of jobs, what the last one does."""
    best = min(study.trials, key=lambda trial: trial.metrics["loss"])
    last = best.jobs[-1]
    test, model = task().data.test, study.model(last)
    with torch.no_grad():
        outputs = torch.cat([model(inputs) for inputs in test.inputs.split(1_000)])
    measured = [report.metrics["loss"] for reports in study.history.reports.values() for report in reports]
    return {
        "validation loss": round(best.metrics["loss"], 4),
        "least on the way": round(min(*measured, best.metrics["loss"]), 4),
        "test loss": round(nn.functional.cross_entropy(outputs, test.targets).item(), 4),
        "test accuracy": round((outputs.argmax(1) == test.targets).double().mean().item(), 4),
        "values": {name: float(f"{value:.4g}") for name, value in study.history.final(last).items()},
        "trainings": len(study.trials),
        "CPU seconds": round(seconds, 1),
    }


def one_seed(seed: int, adapter: Any, rows: dict[str, Any], keep: Any) -> None:
    """All rows of a seed that are not there yet."""
    settings: dict[str, Any] = {"seed": seed, "progress": False}

    def timed(name: str, *arguments: Any, **more: Any) -> lt.Study:
        clock = time.process_time()
        study = lt.tune(task(), *arguments, **settings, **more)
        seconds = time.process_time() - clock
        rows[f"{name}, seed {seed}"] = row(study, seconds)
        print(f"{name}, seed {seed}: {rows[f'{name}, seed {seed}']}", flush=True)
        keep()
        return study

    if f"random, seed {seed}" in rows:
        return
    adapted = timed("adapter", method=(Start(), adapter), trials=1, epochs=EPOCHS)
    rows[f"schedule, seed {seed}"] = [
        [report.step, {name: float(f"{value:.4g}") for name, value in report.hyperparameters.items()}]
        for report in adapted.history.reports[0][::4]
    ]
    best = adapted.best
    assert best is not None
    timed("start", schedule=[(0, START)], steps=best.result.steps)
    timed("replay", schedule=best.schedule)
    timed("final", schedule=[(0, best.final)], steps=best.result.steps)
    each = rows[f"start, seed {seed}"]["CPU seconds"]
    trials = max(1, round(rows[f"adapter, seed {seed}"]["CPU seconds"] / each))
    timed("random", method="random", trials=trials, epochs=EPOCHS)


def horizons(output: Path, seed: int = 11) -> None:
    """The derivatives, in unconstrained numbers, each of the mean over draws of masks, and its standard error."""
    found: list[dict[str, Any]] = []
    program = task().program(START)
    inputs, targets = program.task.tensors("train")
    generator = torch.Generator().manual_seed(seed)

    def stepped(state: Any) -> Any:
        rows = torch.randint(0, len(inputs), (program.batch_size,), generator=generator)
        _, gradients, buffers = program.gradient(state, state["hyper"], (inputs[rows], targets[rows]))
        return program.apply(state, state["hyper"], gradients, buffers)

    state = program.init(START, 1234567 + seed)
    for mark in MARKS:
        while int(state["t"]) < mark * program.epoch_steps:
            state = stepped(state)
        print(f"epoch {mark}: validation loss {program.evaluate(state, 'valid')['loss'].item():.3f}")
        stack, begun, done = apart(state), generator.get_state(), 0
        for horizon in HORIZONS:
            while done < horizon:
                stack, done = stepped(stack), done + 1
            losses = program.evaluate(stack, "valid")["loss"].view(len(START), 2, DRAWS)
            slopes = (losses[:, 0] - losses[:, 1]) / (2 * APART)
            error = slopes.std(1) / DRAWS**0.5
            for name, mean, se in zip(START, slopes.mean(1).tolist(), error.tolist(), strict=True):
                found.append({"of": name, "epoch": mark, "steps": horizon, "slope": mean, "standard error": se})
                print(f"  {horizon:3} steps {name} {mean:+.4f} ± {se:.4f}", flush=True)
            output.write_text(json.dumps({"machine": lt.environment(), "seed": seed, "rows": found}, indent=1) + "\n")
        generator.set_state(begun)  # the training goes on as if nothing had been tried


def apart(state: Any) -> Any:
    """The state, a stack of one, as a stack of trainings with one value moved up or down, and draws of each."""
    count = len(START) * 2 * DRAWS
    stack = pytree.tree_map(lambda tensor: tensor.expand(count, *tensor.shape[1:]).clone(), state)
    stack["key"] = torch.arange(DRAWS).repeat(len(START) * 2) * 7919 + 17
    for i, name in enumerate(START):
        values = torch.full((count,), START[name])
        for j, sign in enumerate((1, -1)):
            values[(2 * i + j) * DRAWS : (2 * i + j + 1) * DRAWS] = moved(name, sign * APART)
        stack["hyper"][name] = values
    return stack


def moved(name: str, step: float, stretch: float = 1e-3) -> float:
    """The value at the start, moved as adapters do: its logarithm, or the argument of a sigmoid a little too wide."""
    domain: Any = SPACE.domains[name]
    if domain.log:
        return START[name] * math.exp(step)
    share = ((START[name] - domain.low) / (domain.high - domain.low) + stretch) / (1 + 2 * stretch)
    after = 1 / (1 + (1 - share) / share * math.exp(-step))
    return domain.low + (domain.high - domain.low) * (after * (1 + 2 * stretch) - stretch)


def spread(values: list[float]) -> float:
    """The standard deviation, of one value 0."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/schedules.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--adapter", choices=ADAPTERS, default="hypernet")
    parser.add_argument("--horizons", action="store_true")
    given = parser.parse_args()
    output, seeds = given.output, given.seeds
    torch.set_num_threads(1)
    if given.horizons:
        return horizons(output)
    rows: dict[str, Any] = json.loads(output.read_text())["rows"] if output.exists() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    machine = lt.environment()

    def keep() -> None:
        output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")

    for seed in seeds:
        one_seed(seed, ADAPTERS[given.adapter], rows, keep)
    for kind in ("start", "adapter", "replay", "final", "random"):
        for metric in ("validation loss", "least on the way", "test loss", "test accuracy", "CPU seconds"):
            values = [rows[f"{kind}, seed {seed}"][metric] for seed in seeds]
            print(f"{kind:8} {metric:16} {statistics.mean(values):.4f} ± {spread(values):.4f}")


if __name__ == "__main__":
    main()
