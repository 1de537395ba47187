"""Thousands of hyperparameters: one penalty per weight, tuned until a validation split of 50 digits is fitted.

    python benchmarks/overfit_validation.py [--output benchmarks/results/overfit_validation.json]

50 digits train the weights and 50 others the penalties, by ``lt.tune`` with ``lt.adapt.Bilevel``: full batches, Adam at
0.01, five steps of the weights for one of the penalties, which start at exp(-4) and move by RMSprop at 0.01 in their
logarithms. As many hyperparameters as weights: 650 for a linear network, 4,810 for one with 64 hidden units. It is a
test of the optimizer and not of generalisation: the test split is only reported. Beside it the same training with the
penalties held where they start, and with the response by the identity. Rows are kept in the output as they come, and a
run that was cut off goes on there.

The experiment is that of Lorraine, Vicol and Duvenaud 2020, section 5.1, on scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import luthier as lt

OUTER_STEPS, INNER_STEPS, SEEDS = 400, 5, (0, 1, 2)
NETWORKS = {
    "linear": lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    "mlp": lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
}
METHODS = {
    "implicit": lt.adapt.Bilevel(lt.response.implicit, inner_steps=INNER_STEPS, outer="rmsprop", outer_lr=0.01),
    "identity": lt.adapt.Bilevel(lt.response.identity, inner_steps=INNER_STEPS, outer="rmsprop", outer_lr=0.01),
    "held": None,
}


@dataclass(frozen=True)
class Start:
    """A proposer of one training: where it starts."""

    value: float
    budget: lt.Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False

    def bind(self, budget: lt.Budget) -> Start:
        return replace(self, budget=budget)

    def propose(self, history: lt.History, count: int, seeds: lt.Seeds) -> list[lt.Job]:
        if len(history) or self.budget is None:
            return []
        config: Any = {name: [self.value] * domain.width for name, domain in history.space.domains.items()}
        return [lt.Job(0, config, self.budget.steps_for(config))]


def penalty(params: dict[str, Tensor], hyper: dict[str, Tensor]) -> Tensor:
    """One factor for the square of each weight."""
    return (torch.cat([param.flatten() for param in params.values()]).square() * hyper["penalty"]).sum()


def task(network: str, seed: int) -> lt.TorchTask:
    """50 digits to train on and 50 to validate on."""
    everything = lt.data.digits(seed=seed)
    learn = everything.train
    splits = lt.data.Splits(
        train=learn.subset(50), valid=lt.data.Split(learn.inputs[50:100], learn.targets[50:100]), test=everything.test
    )
    weights = sum(p.numel() for p in NETWORKS[network]({}).parameters())
    return lt.TorchTask(
        space=lt.Space(penalty=lt.Float(1e-7, 100.0, log=True, shape=(weights,))),
        model=NETWORKS[network],
        data=splits,
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.Adam(lr=0.01),
        penalty=penalty,
        batch_size=50,
        metrics={"accuracy": lt.metrics.accuracy},
        evaluate_every=10.0 * INNER_STEPS,  # an epoch is one step
    )


def run(network: str, method: str, seed: int, outer_steps: int = OUTER_STEPS) -> dict[str, Any]:
    """One training: outer steps until all validation digits are right, and how it ends."""
    adapter, start = METHODS[method], Start(math.exp(-4.0))
    clock = time.process_time()
    study = lt.tune(
        task(network, seed),
        method=start if adapter is None else (start, adapter),
        trials=1,
        steps=outer_steps * INNER_STEPS,
        seed=seed,
        progress=False,
    )
    reports = study.history.reports[0]
    reached = [report.step // INNER_STEPS for report in reports if report.metrics["accuracy"] == 1.0]
    return {
        "outer steps to 100 %": reached[0] if reached else None,
        "validation accuracy": round(study.best.metrics["accuracy"], 4),
        "validation loss": round(study.best.metrics["loss"], 4),
        "test accuracy": round(study.best.test["accuracy"], 4),
        "CPU seconds": round(time.process_time() - clock, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overfit_validation.json"))
    output = parser.parse_args().output
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = json.loads(output.read_text())["rows"] if output.exists() else {}
    machine = {**lt.environment(), "outer steps": OUTER_STEPS}
    output.parent.mkdir(parents=True, exist_ok=True)
    for method in METHODS:
        for seed in SEEDS:
            for network in NETWORKS:
                name = f"{network}, {method}, seed {seed}"
                if name not in rows:
                    rows[name] = run(network, method, seed)
                    print(f"{name}: {rows[name]}", flush=True)
                    output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    solved = sum(row["outer steps to 100 %"] is not None for name, row in rows.items() if "implicit" in name)
    raise SystemExit(0 if solved >= 5 else f"only {solved} of 6 runs fit the validation split")


if __name__ == "__main__":
    main()
