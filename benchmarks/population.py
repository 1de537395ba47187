"""Speed of a population trained through ``lt.tune`` beside a plain sequential PyTorch loop, one thread each.

    python benchmarks/population.py [--repeats 5] [--cases "2-3-1, 32" CNN ...] [--output FILE]

Both train the same networks with the same optimizer on the same data for the same epochs, and both measure the
validation split after every epoch. The plain loop trains one network after another; since all of them cost the same, a
few are trained and the time a member is taken from them. Plain and tuned runs alternate; a ratio is that of the
CPU times a member-step of neighbouring runs, and the median over the repeats is what is asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import make_classification
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler

import luthier as lt


@dataclass(frozen=True)
class Case:
    """One network, and the least ratio that must come out."""

    model: Callable[[dict], nn.Module]
    data: Callable[[], lt.data.Splits]
    loss: Callable
    batch: int
    members: int
    epochs: int
    plain_members: int
    target: float
    compiled: bool = False


def toy_network(config: dict) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Sigmoid())


def toy_data() -> lt.data.Splits:
    x, y = make_classification(12_000, 2, n_informative=2, n_redundant=0, random_state=0)
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None]
    train, valid = lt.data.Split(inputs[:10_000], targets[:10_000]), lt.data.Split(inputs[10_000:], targets[10_000:])
    return lt.data.Splits(train=train, valid=valid, test=valid)


def mlp(config: dict) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn(config: dict) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 10, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(10, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Linear(50, 10)),
    )


def images(train: int, valid: int) -> Callable[[], lt.data.Splits]:
    """Fashion-MNIST, or noise of its shape where it cannot be had: the time is the same."""

    def load() -> lt.data.Splits:
        generator = torch.Generator().manual_seed(0)

        def split(rows: int) -> lt.data.Split:
            return lt.data.Split(
                torch.randn(rows, 1, 28, 28, generator=generator), torch.randint(10, (rows,), generator=generator)
            )

        return lt.data.Splits(train=split(train), valid=split(valid), test=split(64))

    return load


binary = lt.losses.binary_cross_entropy
crossed = lt.losses.cross_entropy
CASES = {
    "2-3-1, 32 members": Case(toy_network, toy_data, binary, 128, 32, 40, 2, 25),
    "2-3-1, 128 members": Case(toy_network, toy_data, binary, 128, 128, 40, 2, 40),
    "2-3-1, 128 members, compiled": Case(toy_network, toy_data, binary, 128, 128, 100, 1, 80, compiled=True),
    "784-128-10, 64 members": Case(mlp, images(9_600, 1_000), crossed, 64, 64, 2, 6, 1.8),
    "CNN, 4 members": Case(cnn, images(3_200, 500), crossed, 64, 4, 1, 4, 0.95),
}
SPACE = lt.Space(
    lr=lt.Float(1e-3, 3e-2, log=True), momentum=lt.Float(0.0, 0.9), weight_decay=lt.Float(1e-6, 1e-3, log=True)
)


def plain(case: Case, data: lt.data.Splits) -> float:
    """CPU seconds a member-step of an ordinary PyTorch loop."""
    import numpy as np

    configs = SPACE.sample(np.random.default_rng(0), case.plain_members)
    loss = nn.functional.binary_cross_entropy if case.loss is binary else nn.functional.cross_entropy
    x, y = data.train.inputs, data.train.targets
    steps = 0
    clock = time.process_time()
    for config in configs:
        model = case.model(config)
        optimizer = torch.optim.SGD(model.parameters(), **config)
        for _ in range(case.epochs):
            model.train()
            for index in BatchSampler(RandomSampler(range(len(x))), case.batch, drop_last=True):
                optimizer.zero_grad()
                loss(model(x[index]), y[index]).backward()
                optimizer.step()
                steps += 1
            model.eval()
            with torch.no_grad():
                loss(model(data.valid.inputs), data.valid.targets).item()
    return (time.process_time() - clock) / steps


def tuned(case: Case, task: lt.TorchTask) -> float:
    """CPU seconds a member-step of a study, with all that belongs to it."""
    clock = time.process_time()
    study = lt.tune(task, method="random", trials=case.members, epochs=case.epochs, seed=0, progress=False)
    steps = int(study.history.steps.sum())
    assert (study.history.status == 1).all(), "a member did not end well"
    return (time.process_time() - clock) / steps


def run(name: str, repeats: int) -> dict:
    case = CASES[name]
    data = case.data()
    task = lt.TorchTask(
        space=SPACE,
        model=case.model,
        data=data,
        loss=case.loss,
        batch_size=case.batch,
        compile=case.compiled,
    )
    first = tuned(case, task)  # tracing, compiling and the choice of the width are paid once a process
    pairs = [(plain(case, data), tuned(case, task)) for _ in range(repeats)]
    ratios = [slow / fast for slow, fast in pairs]
    return {
        "target": case.target,
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "first run": pairs[0][0] / first,
        "plain, member-steps a second": 1 / statistics.median(slow for slow, _ in pairs),
        "luthier, member-steps a second": 1 / statistics.median(fast for _, fast in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="parts of names")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/population.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in CASES:
        if any(part in name for part in arguments.cases):
            results[name] = run(name, arguments.repeats)
            print(name, {key: round(value, 3) for key, value in results[name].items()}, flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    machine = {**lt.environment(), "repeats": arguments.repeats}
    arguments.output.write_text(json.dumps({"machine": machine, "cases": results}, indent=2) + "\n")
    missed = {name: result["ratio"] for name, result in results.items() if result["ratio"] < result["target"]}
    raise SystemExit(f"below target: {missed}" if missed else 0)


if __name__ == "__main__":
    main()
