"""A tiny training with what people put around an optimizer, by luthier and by a plain loop of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import luthier as lt
from luthier.adapt.plain import Plain
from luthier.seeds import Seeds
from luthier.stack import run
from luthier.task.batches import Batches
from luthier.train.members import rows_of, stacked

SEED, STEPS = 4, 50
CONFIGS = ({"lr": 0.004, "weight_decay": 0.02}, {"lr": 0.02, "weight_decay": 0.001}, {"lr": 0.01, "weight_decay": 0.0})
SPACE = lt.Space(lr=lt.Float(1e-4, 1.0, log=True), weight_decay=lt.Float(0.0, 0.1))
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(48, 5, generator=GENERATOR, dtype=torch.float64)
Y = X.sin().sum(1).gt(0).long()


class Net(nn.Module):
    """A frozen layer, two trained ones, and a parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.body, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2, bias=False)
        self.unused = nn.Parameter(torch.ones(3, 2))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(torch.tanh(self.frozen(x)))))


def task(optimizer: Any, dtype: torch.dtype, **settings: Any) -> lt.TorchTask:
    return lt.TorchTask(
        **{
            "space": SPACE,
            "model": lambda config: Net(),
            "data": lt.Splits((X, Y), (X, Y)),
            "loss": F.cross_entropy,
            "optimizer": optimizer,
            "batch_size": 8,
            "dtype": dtype,
            **settings,
        }
    )


def plain(
    given: lt.TorchTask,
    config: dict[str, Any],
    number: int,
    make: Callable[[nn.Module], torch.optim.Optimizer],
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    every: str = "step",
    steps: int = STEPS,
) -> nn.Module:
    """The same training, written out."""
    torch.manual_seed(Seeds(SEED).key(number, "train"))
    model = given.model(config).to(given.dtype)
    optimizer = make(model)
    if hasattr(optimizer, "train"):  # schedule-free ones
        optimizer.train()
    schedule = None if scheduler is None else scheduler(optimizer)
    sources = given.sources(config)
    at, count = sources["train"].stream(sources.size("train"), Seeds(SEED), "shuffle train"), 48 // 8
    epoch = count // given.accumulate
    for step in range(steps):
        optimizer.zero_grad()
        for i in range(given.accumulate):
            inputs, targets = at(step // epoch * count + step % epoch * given.accumulate + i)
            (F.cross_entropy(model(inputs), targets) / given.accumulate).backward()
        if given.clip_value is not None:
            nn.utils.clip_grad_value_(model.parameters(), given.clip_value)
        if given.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), given.clip_norm)
        optimizer.step()
        if schedule is not None and (every == "step" or (step + 1) % epoch == 0):
            schedule.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return model


class Trained:
    """The networks and the losses of a stack of all configurations after some steps."""

    def __init__(self, given: lt.TorchTask, configs: Sequence[dict[str, Any]] = CONFIGS, steps: int = STEPS) -> None:
        adapter, self.configs = Plain(), [dict(config) for config in configs]
        self.program = program = given.program(self.configs[0])
        keys = [Seeds(SEED).key(number, "train") for number in range(len(configs))]
        state = stacked([adapter.init(program, config, key) for config, key in zip(self.configs, keys, strict=True)])
        data = Data(Batches(program, "train", Seeds(SEED)))
        runner = run.make_runner(program, adapter, state, data, 0, steps)
        for step in range(steps):
            runner(*data.at(step))
        self.state, self.runner = runner.state, runner
        self.loss = program.evaluate(self.state, "valid")["loss"].tolist()
        self.models = [program.module(c, rows_of(self.state, [i])) for i, c in enumerate(self.configs)]


class Data:
    """Batches as the training loop hands them out."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def at(self, step: int) -> tuple[list[Any], None]:
        return [self._batches.at(step)], None


def off(given: lt.TorchTask, make: Callable[..., Any], trained: Trained, **how: Any) -> float:
    """The largest relative distance of a weight from the plain loop's."""
    worst = 0.0
    for number, (model, config) in enumerate(zip(trained.models, trained.configs, strict=True)):
        expected = plain(given, config, number, lambda network: make(network, config), **how)  # noqa: B023
        found = dict(model.named_parameters())
        for name, p in expected.named_parameters():
            distance = (found[name].detach() - p.detach()).abs().max() / p.detach().abs().max()
            worst = max(worst, float(distance))
        assert torch.equal(found["unused"], torch.ones_like(found["unused"])), "no gradient, no move"
    return worst
