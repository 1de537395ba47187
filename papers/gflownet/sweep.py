"""The paper's sweep on real data: 1,400 trainings of a feed-forward network on Fashion-MNIST.

    python -m papers.gflownet.sweep            # writes sweep.json; a run that was stopped goes on where it was

Five batch sizes, 28 learning rates and 1 to 10 epochs, every combination trained from weights and with an order of the
data of its own. Trainings of one batch size run in stacks.
"""

from __future__ import annotations

import itertools
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

import luthier as lt

FOLDER = Path(__file__).resolve().parent
SWEEP = FOLDER / "sweep.json"
ROWS, VALID = 6_000, 10_000
BATCH_SIZES = (16, 32, 64, 128, 256)
RATES, LOWEST, HIGHEST = 28, 1e-3, 0.3
EPOCHS = 10

SPACE = lt.Space(
    batch_size=lt.Choice(list(BATCH_SIZES), ordered=True),
    lr=lt.Float(LOWEST, HIGHEST, log=True),
    epochs=lt.Int(1, EPOCHS),
)


@dataclass(frozen=True)
class Given:
    """A proposer that trains given configurations, each for as many epochs as it says itself.

    Args:
        configs: What to train, in this order.
        budget: Set by :meth:`bind`.
    """

    configs: tuple[dict[str, Any], ...]
    budget: lt.Budget = field(default_factory=lt.Budget, repr=False)
    extendable: ClassVar[bool] = True

    def bind(self, budget: lt.Budget) -> Given:
        """The same, under a budget of the most epochs."""
        return replace(self, budget=budget)

    def propose(self, history: lt.History, count: int, seeds: lt.Seeds) -> list[lt.Job]:
        """The next of the configurations."""
        first = len(history)
        jobs = []
        for number, config in enumerate(self.configs[first : first + count], start=first):
            read = {name: value for name, value in config.items() if name != "epochs"}  # what the training reads
            steps = self.budget.steps_for(read, config["epochs"] / EPOCHS)
            jobs.append(lt.Job(number, read, steps, tag={"epochs": config["epochs"]}))
        return jobs


def task() -> lt.TorchTask:
    """The feed-forward network, 784-128-10, plain stochastic gradient descent."""
    return lt.TorchTask(
        space=lt.Space(batch_size=SPACE["batch_size"], lr=SPACE["lr"]),
        model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
        data=lt.data.fashion_mnist(valid=VALID, train=ROWS),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.sgd,
        own_batches=True,
        evaluate_every=EPOCHS + 1,  # at the end alone
        metrics={"accuracy": lt.metrics.accuracy},
    )


def train(
    configs: Sequence[dict[str, Any]], seed: int, given: lt.TorchTask | None = None, store: Path | None = None
) -> np.ndarray:
    """Train configurations for real: the validation accuracy of each, (n,)."""
    study = lt.tune(
        given if given is not None else task(),
        Given(tuple(configs)),
        metric="accuracy",
        mode="max",
        trials=len(configs),
        epochs=EPOCHS,
        seed=seed,
        store=store,
        name="sweep",
        checkpoints=False,
        progress=store is not None,
    )
    found = [
        result.metrics.get("accuracy", float("nan")) if result else float("nan") for result in study.history.results
    ]
    return np.array(found)


def grid() -> list[dict[str, Any]]:
    """The 1,400 configurations."""
    rates = [float(rate) for rate in np.geomspace(LOWEST, HIGHEST, RATES)]
    rates[0], rates[-1] = LOWEST, HIGHEST
    return [
        {"batch_size": size, "lr": rate, "epochs": epochs}
        for size, rate, epochs in itertools.product(BATCH_SIZES, rates, range(1, EPOCHS + 1))
    ]


def main() -> None:
    """Run the sweep, write its table."""
    torch.set_num_threads(1)
    configs = grid()
    wall, cpu = time.perf_counter(), time.process_time()
    accuracies = train(configs, seed=0, store=FOLDER / "sweep.db")
    found = {
        "command": "python -m papers.gflownet.sweep",
        "machine": f"{platform.processor() or platform.machine()}, one thread, shared",
        "torch": torch.__version__,
        "seed": 0,
        "cpu seconds": round(time.process_time() - cpu, 1),
        "wall seconds": round(time.perf_counter() - wall, 1),
        "columns": [*SPACE, "accuracy"],
        "rows": [[*c.values(), round(float(a), 5)] for c, a in zip(configs, accuracies, strict=True)],
    }
    SWEEP.write_text(json.dumps(found).replace("], [", "],\n[") + "\n")
    print(f"{len(configs)} trainings, {found['cpu seconds']} CPU s, best accuracy {accuracies.max():.4f}")


if __name__ == "__main__":
    main()
