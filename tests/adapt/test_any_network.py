"""Hypergradients over LSTMs, attention and torch's optimizers against differences of the training run again."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import luthier as lt
from luthier.adapt import unconstrained
from luthier.adapt.plain import Plain
from luthier.seeds import Seeds
from luthier.stack import Noise
from luthier.task.batches import Batches

DIGITS = lt.data.digits(flat=True, train=96, valid=48)
RATE, DECAY = lt.Float(1e-4, 1.0, log=True), lt.Float(1e-4, 1.0, log=True)
CONFIGS = [{"lr": 0.02, "weight_decay": 0.01}, {"lr": 0.05, "weight_decay": 0.03}]


class Recurrent(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.r, self.o = nn.LSTM(8, 5, 2, dropout=rate, batch_first=True), nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(x.view(-1, 8, 8))[0][:, -1])


class Attending(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.t, self.o = nn.MultiheadAttention(8, 2, rate, batch_first=True), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        return self.o((x + self.t(x, x, x)[0]).mean(1))


NETWORKS = {"LSTM": Recurrent, "attention": Attending}


def task(network: Any, optimizer: Any, rate: float = 0.2, **settings: Any) -> lt.TorchTask:
    given: dict[str, Any] = {
        "space": lt.Space(lr=RATE, weight_decay=DECAY),
        "model": lambda config: network(rate),
        "data": DIGITS,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
        "batch_size": 24,
        "dtype": torch.float64,
    }
    return lt.TorchTask(**{**given, **settings})


def begun(one: lt.TorchTask, adapter: Any, configs: Any) -> tuple[Any, Any, Batches, Any]:
    """Program, a stack of fresh members, the training minibatches, and one of the validation split."""
    program = one.program(configs[0])
    states = [adapter.init(program, config, 7 + n) for n, config in enumerate(configs)]
    state = pytree.tree_map(lambda *leaves: torch.cat(leaves), *states)
    return program, state, Batches(program, "train", Seeds(0)), Batches(program, "valid", Seeds(0)).at(0)


def again(program: Any, state: Any, batches: list[Any], valid: Any, **moved: Tensor) -> Tensor:
    """The validation losses after the training run again under other hyperparameters, (members,)."""
    state = {**state, "hyper": {**state["hyper"], **moved}}
    for batch in batches:
        state, _ = Plain().step(program, state, [batch], None)
    return program.objective(state["params"], state["buffers"], state["hyper"], valid).detach()


@pytest.mark.parametrize("optimizer", [lt.optim.SGD(momentum=0.9), lt.optim.Adam()], ids=["SGD", "Adam"])
@pytest.mark.parametrize("network", NETWORKS)
def test_unrolled_it_is_the_difference_of_the_training_run_again(network: str, optimizer: Any) -> None:
    adapter = lt.adapt.Bilevel("unrolled", inner_steps=4)
    program, state, train, valid = begun(task(NETWORKS[network], optimizer), adapter, CONFIGS)
    batches = [train.at(t) for t in range(4)]
    after, _ = adapter.step(program, state, batches, valid)
    for name, free in after["own"]["bilevel"]["hypergradient"].items():
        domain: Any = program.task.space.domains[name]
        value = state["hyper"][name]
        found = free / unconstrained.slope(domain, unconstrained.free(domain, value))
        h = 1e-5 * value
        above, below = (again(program, state, batches, valid, **{name: value + sign * h}) for sign in (1, -1))
        torch.testing.assert_close(found, (above - below) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", [functools.partial(optim.SGD, momentum=0.9), optim.Adam, optim.AdamW, optim.RMSprop])
@pytest.mark.parametrize("network", NETWORKS)
def test_one_step_ahead_it_is_the_difference_over_torchs_optimizers(network: str, kind: Any) -> None:
    """Of the next minibatch's loss by the rate of the step before it, for each of two members."""
    one = task(NETWORKS[network], kind, space=lt.Space(lr=RATE))
    adapter = lt.adapt.Hypergradient(1e-12)
    program, state, train, _ = begun(one, adapter, [{"lr": config["lr"]} for config in CONFIGS])
    for step in range(3):
        before, (state, _) = state, adapter.step(program, state, [train.at(step)], None)
    _, found = adapter.step(program, state, [train.at(3)], None)

    def objective(rate: Tensor) -> Tensor:
        hyper = {"lr": rate}
        _, gradients, buffers = program.gradient(before, hyper, train.at(2))
        after = program.apply(before, hyper, gradients, buffers)
        noise = Noise(state["key"], state["t"])
        return program.losses(after["params"], after["buffers"], hyper, train.at(3), noise)[0].detach()

    rate, h = before["hyper"]["lr"], 1e-6
    difference = (objective(rate + h) - objective(rate - h)) / (2 * h)
    torch.testing.assert_close(found["hypergradient"], difference, rtol=1e-4, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "steps"), [(Recurrent, 1500), (Attending, 800)])
def test_at_a_minimum_the_implicit_one_is_the_difference_of_the_training_run_again(network: Any, steps: int) -> None:
    """By the weight decay of torch's optimizer, in full batches, without dropout."""
    one = task(network, functools.partial(optim.SGD, momentum=0.9), rate=0.0, batch_size=96)
    response = functools.partial(lt.response.implicit, iterations=300, damping=0.0, tolerance=1e-13)
    adapter = lt.adapt.Bilevel(response, inner_steps=steps, names=["weight_decay"])
    program, state, train, valid = begun(one, adapter, [{"lr": 0.1, "weight_decay": 0.1}])
    batches = [train.at(t) for t in range(steps)]
    after, _ = adapter.step(program, state, batches, valid)
    domain: Any = DECAY
    value, there = state["hyper"]["weight_decay"], {**state, "params": after["params"]}
    free = after["own"]["bilevel"]["hypergradient"]["weight_decay"]
    found = free / unconstrained.slope(domain, unconstrained.free(domain, value))
    above, below = (again(program, there, batches, valid, weight_decay=value + sign * 1e-4) for sign in (1, -1))
    torch.testing.assert_close(found, (above - below) / 2e-4, rtol=1e-3, atol=1e-8)
