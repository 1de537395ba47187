"""Speed of a population trained through ``lt.tune`` beside a plain sequential PyTorch loop, one thread each.

    python benchmarks/population.py [--repeats 5] [--cases "2-3-1, 32" CNN ...] [--output FILE]

Both train the same networks with the same optimizer on the same data for the same epochs, and both measure the
validation split after every epoch. The plain loop runs in a process of its own that knows nothing of luthier, and its
time is that of the fastest of torch's optimizer as it comes, with ``foreach`` and with ``fused``. It trains one network
after another; since all of them cost the same, a few are trained and the time a member is taken from them. Plain and
tuned runs alternate; a ratio is that of the CPU times a member-step of neighbouring runs, and the median over the
repeats is held against the target. Networks with dropout draw their masks from luthier's keyed noise in the one and
from torch's generator in the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, RandomSampler

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and targets of training, and of validation


@dataclass(frozen=True)
class Case:
    """One network, and the least ratio that must come out; 0 is reported only."""

    model: Callable[[Any], nn.Module]
    data: Callable[[], Tensors]
    loss: Callable[..., Tensor]
    batch: int
    members: int
    epochs: int
    plain_members: int
    target: float
    compiled: bool = False
    precision: str | None = None


def toy_network(config: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Sigmoid())


def toy_data() -> Tensors:
    """Two classes, each of two clouds of points in the plane."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (12_000, 1), generator=generator).float()
    side = torch.randint(2, (12_000, 1), generator=generator).float() * 2 - 1
    x = torch.cat((side, side * (2 * y - 1)), 1) + 0.6 * torch.randn(12_000, 2, generator=generator)
    return x[:10_000], y[:10_000], x[10_000:], y[10_000:]


def mlp(config: Any) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn(config: Any) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 10, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(10, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Linear(50, 10)),
    )


class GPT(nn.Module):
    """A causal transformer of two layers of width 32 over 32 tokens."""

    def __init__(self, tokens: int = 64, width: int = 32, length: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).transpose(1, 2)  # (batch, tokens, length), as cross_entropy wants it


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.mlp(self.second(x))


def sentences() -> Tensors:
    text = torch.randint(64, (600, 33), generator=torch.Generator().manual_seed(0))
    return text[:512, :-1], text[:512, 1:], text[512:, :-1], text[512:, 1:]


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(16, 32, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.begin, self.encoder, self.head = nn.Linear(16, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.begin(x)).mean(1))


def series() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(600, 32, 16, generator=generator), torch.randint(10, (600,), generator=generator)
    return x[:512], y[:512], x[512:], y[512:]


def images(train: int, valid: int) -> Callable[[], Tensors]:
    """Noise of the shape of Fashion-MNIST: the time is the same."""

    def load() -> Tensors:
        generator = torch.Generator().manual_seed(0)
        rows = train + valid
        x, y = torch.randn(rows, 1, 28, 28, generator=generator), torch.randint(10, (rows,), generator=generator)
        return x[:train], y[:train], x[train:], y[train:]

    return load


binary, crossed = F.binary_cross_entropy, F.cross_entropy
wide = images(9_600, 1_000)
CASES = {
    "2-3-1, 32 members": Case(toy_network, toy_data, binary, 128, 32, 40, 2, 25),
    "2-3-1, 128 members": Case(toy_network, toy_data, binary, 128, 128, 40, 2, 40),
    "2-3-1, 128 members, compiled": Case(toy_network, toy_data, binary, 128, 128, 100, 1, 80, compiled=True),
    "784-128-10, 64 members": Case(mlp, wide, crossed, 64, 64, 2, 6, 1.9),
    "784-128-10, 64 members, bf16": Case(mlp, wide, crossed, 64, 64, 2, 6, 0, precision="bf16"),
    "CNN, 4 members": Case(cnn, images(3_200, 500), crossed, 64, 4, 1, 2, 1.2),
    "GPT, 8 members": Case(lambda config: GPT(), sentences, crossed, 16, 8, 8, 2, 1.0),
    "TransformerEncoder with dropout, 8 members": Case(lambda config: Encoder(), series, crossed, 16, 8, 8, 2, 1.0),
    "LSTM with keyed dropout, 8 members": Case(lambda config: LSTM(), series, crossed, 32, 8, 8, 2, 0),
}
CONFIGS = [
    {"lr": 1e-3 * 30 ** (i / 7), "momentum": 0.9 * (3 * i % 8) / 8, "weight_decay": 1e-6 * 1000 ** (5 * i % 8 / 8)}
    for i in range(8)
]


def plain(case: Case) -> float:
    """CPU seconds a member-step of an ordinary PyTorch loop: its fastest kind of optimizer."""
    x, y, valid_x, valid_y = case.data()
    fastest = float("inf")
    for kind in ({}, {"foreach": True}, {"fused": True}):
        steps, clock = 0, time.process_time()
        for config in CONFIGS[: case.plain_members]:
            model = case.model(config)
            optimizer = torch.optim.SGD(model.parameters(), **config, **kind)
            for _ in range(case.epochs):
                model.train()
                for index in BatchSampler(RandomSampler(range(len(x))), case.batch, drop_last=True):
                    optimizer.zero_grad()
                    case.loss(model(x[index]), y[index]).backward()
                    optimizer.step()
                    steps += 1
                model.eval()
                with torch.no_grad():
                    case.loss(model(valid_x), valid_y).item()
        fastest = min(fastest, (time.process_time() - clock) / steps)
    return fastest


def elsewhere(name: str) -> float:
    """:func:`plain` in a process of its own."""
    command = [sys.executable, __file__, "--plain", name]
    return float(subprocess.run(command, env=dict(os.environ), check=True, capture_output=True, text=True).stdout)


def tuned(case: Case, task: Any) -> float:
    """CPU seconds a member-step of a study, with all that belongs to it."""
    import luthier as lt

    clock = time.process_time()
    study = lt.tune(task, method="random", trials=case.members, epochs=case.epochs, seed=0, progress=False)
    steps = int(study.history.steps.sum())
    assert (study.history.status == 1).all(), "a member did not end well"
    return (time.process_time() - clock) / steps


def accuracy(precision: str | None) -> float:
    """The best accuracy on scikit-learn's digits of eight networks with 128 hidden units."""
    import luthier as lt

    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(0.03, 0.3, log=True)),
        model=lambda config: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        data=lt.data.digits(flat=True),
        loss=F.cross_entropy,
        batch_size=64,
        metrics={"accuracy": lt.metrics.accuracy},
        precision=precision,
    )
    found = lt.tune(task, "random", trials=8, epochs=20, seed=0, progress=False, metric="accuracy", mode="max")
    return found.best.value


def run(name: str, repeats: int) -> dict[str, Any]:
    import luthier as lt

    case = CASES[name]
    x, y, valid_x, valid_y = case.data()
    task = lt.TorchTask(
        space=lt.Space(
            lr=lt.Float(1e-3, 3e-2, log=True), momentum=lt.Float(0.0, 0.9), weight_decay=lt.Float(1e-6, 1e-3, log=True)
        ),
        model=case.model,
        data=lt.data.Splits(train=lt.data.Split(x, y), valid=lt.data.Split(valid_x, valid_y)),
        loss=case.loss,
        batch_size=case.batch,
        compile=case.compiled,
        precision=case.precision,
    )
    first = tuned(case, task)  # tracing and compiling are paid once a process
    pairs = [(elsewhere(name), tuned(case, task)) for _ in range(repeats)]
    ratios = [slow / fast for slow, fast in pairs]
    found = {
        "target": case.target,
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "first run": pairs[0][0] / first,
        "plain, member-steps a second": 1 / statistics.median(slow for slow, _ in pairs),
        "luthier, member-steps a second": 1 / statistics.median(fast for _, fast in pairs),
    }
    if case.precision is not None:
        found |= {"accuracy": accuracy(case.precision), "accuracy in float32": accuracy(None)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="parts of names")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/population.json"))
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.plain:
        print(plain(CASES[arguments.plain]))
        return
    import luthier as lt

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
