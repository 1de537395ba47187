"""Small search problems whose answers are known, to test proposers on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from luthier.space import Choice, Config, Float, Int, Space


@dataclass(frozen=True)
class Problem:
    """A function to minimise over a space.

    Args:
        space: The space.
        objective: ``f(config) -> value``, or with ``stateful`` ``f(config, steps, state) -> (value, state)``.
        optimum: The lowest value.
        stateful: The objective is a training that can be continued.
    """

    space: Space
    objective: Callable[..., Any]
    optimum: float
    stateful: bool = False


def branin(config: Config) -> float:
    """Branin's function: three minima of 0.397887 (Dixon and Szegö, 1978)."""
    x, y = config["x"], config["y"]
    a, b, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 1 / (8 * math.pi)
    return (y - a * x**2 + b * x - 6) ** 2 + 10 * (1 - t) * math.cos(x) + 10


def bowl(config: Config) -> float:
    """A valley in four settings of a training, three of them on a log scale: 0 at 0.01, 1e-4, 0.9, 64."""
    return (
        (math.log10(config["lr"]) + 2) ** 2
        + 0.5 * (math.log10(config["weight_decay"]) + 4) ** 2
        + 4 * (config["momentum"] - 0.9) ** 2
        + 0.3 * math.log2(config["batch_size"] / 64) ** 2
    )


def tree(config: Config) -> float:
    """Two optimizers, each with a setting of its own: 0 for "adam", 3 layers, lr 0.001 and beta 0.99."""
    value = (math.log10(config["lr"]) + 3) ** 2 + 0.5 * abs(config["layers"] - 3)
    if config["optimizer"] == "sgd":
        return value + 1 + abs(config["momentum"] - 0.5)
    return value + 20 * abs(config["beta"] - 0.99)


def decay(config: Config, steps: int, state: float | None) -> tuple[float, float]:
    """A training whose loss is 1 at first and falls by a factor at each step, fastest for a learning rate of 0.1.

    The factor is ``1 - 0.1 exp(-4 (log10(lr) + 1)²)``; a continued job goes on from its parent's loss.
    """
    rate = 0.1 * math.exp(-4 * (math.log10(config["lr"]) + 1) ** 2)
    loss = (1.0 if state is None else state) * (1 - rate) ** steps
    return loss, loss


_TREE = Space(
    lr=Float(1e-5, 1.0, log=True),
    layers=Int(1, 6),
    optimizer=Choice(["sgd", "adam"]),
    momentum=Float(0.0, 0.99, when={"optimizer": "sgd"}),
    beta=Float(0.8, 0.999, when={"optimizer": "adam"}),
)

PROBLEMS: Mapping[str, Problem] = MappingProxyType(
    {
        "branin": Problem(Space(x=Float(-5.0, 10.0), y=Float(0.0, 15.0)), branin, 0.397887),
        "bowl": Problem(
            Space(
                lr=Float(1e-5, 1.0, log=True),
                weight_decay=Float(1e-7, 1e-1, log=True),
                momentum=Float(0.0, 0.99),
                batch_size=Int(8, 512, log=True),
            ),
            bowl,
            0.0,
        ),
        "tree": Problem(_TREE, tree, 0.0),
    }
)
"""Functions that a learning proposer should minimise better than random search does."""

SPACES: Mapping[str, Space] = MappingProxyType(
    {
        "floats": Space(
            lr=Float(1e-5, 1.0, log=True), momentum=Float(0.0, 0.99), weight_decay=Float(1e-7, 1e-1, log=True)
        ),
        "mixed": Space(
            lr=Float(1e-5, 1.0, log=True),
            width=Int(8, 512, log=True),
            depth=Int(0, 3),
            batch_size=Choice([16, 32, 64, 128], ordered=True),
            activation=Choice(["relu", "tanh", None]),
            nesterov=Choice([True, False]),
        ),
        "conditional": Space(
            optimizer=Choice(["sgd", "adam"]),
            momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
            layers=Int(1, 3),
            dropout=Float(0.0, 0.8, shape=(2,), when={"layers": [2, 3]}),
            schedule=Choice(["cosine", "step"], when={"optimizer": "sgd", "layers": 3}),
            factor=Float(0.1, 0.9, when={"schedule": "step"}),
        ),
        "constant": Space(seeds=Int(3, 3), model=Choice(["only"]), lr=Float(0.1, 0.2)),
    }
)
"""Spaces of every kind, for the contract tests."""
