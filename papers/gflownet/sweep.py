"""The paper's sweep on real data: 1,400 trainings of a feed-forward network on Fashion-MNIST.

Five batch sizes, 28 learning rates and 1 to 10 epochs, every combination trained from weights and with an order of the
data of its own. Trainings of one batch size run in stacks. It is the first
step of papers/gflownet/run.py; what was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

import luthier as lt
from papers.command import Run, text

VALID = 10_000
BATCH_SIZES = (16, 32, 64, 128, 256)
LOWEST, HIGHEST = 1e-3, 0.3
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


def task(rows: int | None, device: str) -> lt.TorchTask:
    """The feed-forward network, 784-128-10, plain stochastic gradient descent."""
    return lt.TorchTask(
        space=lt.Space(batch_size=SPACE["batch_size"], lr=SPACE["lr"]),
        model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
        data=lt.data.fashion_mnist(valid=VALID, train=rows),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.sgd,
        own_batches=True,
        evaluate_every=EPOCHS + 1,  # at the end alone
        metrics={"accuracy": lt.metrics.accuracy},
        device=device,
    )


def train(configs: Sequence[dict[str, Any]], seed: int, task: lt.TorchTask, store: Path | None = None) -> np.ndarray:
    """Train configurations for real: the validation accuracy of each, (n,)."""
    study = lt.tune(
        task,
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


def grid(rates: int, epochs: int) -> list[dict[str, Any]]:
    """The configurations: every combination."""
    levels = [float(rate) for rate in np.geomspace(LOWEST, HIGHEST, rates)]
    levels[0], levels[-1] = LOWEST, HIGHEST
    return [
        {"batch_size": size, "lr": rate, "epochs": passes}
        for size, rate, passes in itertools.product(BATCH_SIZES, levels, range(1, epochs + 1))
    ]


def sweep(run: Run) -> lt.History:
    """The sweep as a history; it is run where it has not been."""
    file = run.folder / "sweep.json"
    if not file.exists():
        configs = grid(run.size.rates, run.size.epochs)
        begun = run.clock()
        accuracies = train(configs, 0, task(run.size.rows, run.device), run.folder / "sweep.db")
        found = {
            "seconds": round(run.clock() - begun, 1),
            "columns": [*SPACE, "accuracy"],
            "runs": [[*c.values(), round(float(a), 5)] for c, a in zip(configs, accuracies, strict=True)],
        }
        file.write_text(text(found))
        print(f"{len(configs)} trainings, {found['seconds']} s, best accuracy {accuracies.max():.4f}", flush=True)
    found = json.loads(file.read_text())
    past = lt.History(SPACE, {"accuracy": "max"})
    for number, row in enumerate(found["runs"]):
        past.add(lt.Job(number, dict(zip(found["columns"][:-1], row, strict=False))))
        past.add(lt.Result(number, "ok", {"accuracy": row[-1]}))
    return past
