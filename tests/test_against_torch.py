"""Fifty steps of a stack against separate, ordinary torch.optim loops over the user's own modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS, SPACE, digits_task
from torch import Tensor, nn

import luthier as lt
from luthier.adapt.plain import Plain
from luthier.seeds import Seeds
from luthier.stack import Noise
from luthier.task.batches import Batches
from luthier.train.members import rows_of, stacked

STEPS, MEMBERS = 50, 3
OPTIMIZERS: dict[str, tuple[Any, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (lt.optim.sgd, lambda parameters, c: torch.optim.SGD(parameters, **c)),
    "adamw": (
        lt.optim.adamw,
        lambda parameters, c: torch.optim.AdamW(parameters, lr=c["lr"], weight_decay=c["weight_decay"]),
    ),
}
TOLERANCE = {("sgd", torch.float32): 1e-6, ("adamw", torch.float32): 1e-4}


class SameDropout(nn.Module):
    """Plain torch dropout with the masks that luthier draws: all else in the loop stays torch's own."""

    key: Tensor
    step: int

    def __init__(self, rate: float, site: int) -> None:
        super().__init__()
        self.rate, self.site = rate, site

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = Noise(self.key, torch.tensor([self.step]))
        rate = torch.tensor([self.rate], dtype=x.dtype)
        return x * noise.keep(self.site, x.shape[1:] if x.ndim == 1 else x.shape, rate)[0] / (1 - rate)


def with_same_masks(model: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Replace each dropout layer, in the order in which they run."""
    layers = [n for n, m in model.named_children() if isinstance(m, nn.Dropout | lt.nn.Dropout)]
    for site, name in enumerate(layers):
        layer = getattr(model, name)
        rate = config["dropout"] if isinstance(layer, lt.nn.Dropout) else layer.p
        setattr(model, name, SameDropout(rate, site))
    return model


def plain_loop(task: lt.TorchTask, config: dict[str, Any], key: int, batches: Batches, optimizer: Any) -> nn.Module:
    """The loop that a user would write."""
    torch.manual_seed(key)
    model = with_same_masks(task.model(config).to(task.dtype), config).train()
    descent = optimizer(model.parameters(), {name: config[name] for name in SPACE})
    for step in range(STEPS):
        for layer in model.modules():
            if isinstance(layer, SameDropout):
                layer.key, layer.step = torch.tensor([key]), step
        inputs, targets = batches.at(step)
        descent.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        descent.step()
    return model.eval()


def task_for(network: str, name: str, dtype: torch.dtype) -> lt.TorchTask:
    task = digits_task(network, optimizer=OPTIMIZERS[name][0], dtype=dtype)
    if name == "adamw":
        domains = {n: d for n, d in task.space.domains.items() if n != "momentum"}
        domains["lr"] = lt.Float(1e-4, 2e-3, log=True)
        task = digits_task(network, optimizer=task.optimizer, dtype=dtype, space=lt.Space(domains))
    return task


def pairs(network: str, name: str, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """(expected, found) outputs on the test split, a pair a member."""
    task, reference = task_for(network, name, dtype), OPTIMIZERS[name][1]
    configs = task.space.sample(np.random.default_rng(1), MEMBERS)
    program, plain = task.program(configs[0]), Plain()
    batches = Batches(program, "train", Seeds(0))
    state = stacked([plain.init(program, config, key) for key, config in enumerate(configs)])
    for step in range(STEPS):
        state, _ = plain.step(program, state, [batches.at(step)], None)
    inputs = task.tensors("test")[0]
    for key, config in enumerate(configs):
        whole = {"momentum": 0.0, **config}
        alone = plain_loop(task, whole, key, batches, reference)
        ours = with_same_masks(program.module(config, rows_of(state, [key])), whole).eval()
        if name == "adamw":  # a bias before BatchNorm has no gradient, Adam turns its rounding noise into steps of lr,
            for layer in (*alone.modules(), *ours.modules()):  # and running means lag behind: batch statistics do not
                layer.train(isinstance(layer, nn.BatchNorm1d))
        with torch.no_grad():
            yield alone(inputs), ours(inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_fifty_steps_equal_a_plain_torch_loop(network: str, name: str, dtype: torch.dtype):
    noisy = (network, name, dtype) == ("mlp with dropout and batch norm", "adamw", torch.float32)
    exact = [expected for expected, _ in pairs(network, name, torch.float64)] if noisy else []
    for member, (expected, found) in enumerate(pairs(network, name, dtype)):
        allowed = TOLERANCE.get((name, dtype), 1e-11) * max(1.0, float(expected.abs().max()))
        if noisy:
            # Adam blows up the rounding of gradients that are zero but for rounding: torch's own distance to float64
            allowed = max(allowed, 2 * float((expected - exact[member]).abs().max()))
        assert float((expected - found).abs().max()) <= allowed
