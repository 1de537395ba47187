"""The networks: what a state's log edge flows are computed from.

A policy carries a row of numbers down the tree and reads logits off it, so that states which share their beginning
share its cost. The logits are added to the log flows that are known beforehand: with all rewards equal to their mean,
the flow through an edge is the mean times the number of leaves below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from luthier.propose.flow.tree import Tree

WAVES = 3  # Fourier features of a scaled value: sine and cosine of 1, 2 and 4 half waves


class TreePolicy(Protocol):
    """Interface of a policy, in addition to that of an nn.Module."""

    def root(self) -> Tensor:
        """Return what is carried at the root, (1, d)."""
        ...

    def extend(self, level: int, carry: Tensor, actions: Tensor) -> Tensor:
        """Return the carry after the level's actions, (n,), -1 where it was skipped, from the (n, d) before it."""
        ...

    def logits(self, first: int, carries: Sequence[Tensor]) -> list[Tensor]:
        """The logits at the states of each level, from ``first`` on: (n, d) to (n, actions)."""
        ...


class Shared(nn.Module):
    """One network for all states, with an output layer for each level.

    Its input is one-hot in every action so far, beside the scaled value and a few waves of it: the one-hot part can
    tell any two values apart, the rest lets neighbours learn from each other. As an action's part of the first layer is
    a row of numbers, these rows are added up on the way down and no input is ever formed.

    Args:
        tree: The tree.
        hidden: Units of each hidden layer.
        layers: Hidden layers.
        generator: Source of the initial weights.
    """

    def __init__(self, tree: Tree, hidden: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        one_hot = 1 / math.sqrt(max(tree.levels, 1))
        self.begin = _weights((1, hidden), 1.0, generator)
        self.rows = nn.ParameterList(_weights((w + 1, hidden), one_hot, generator) for w in tree.widths)
        self.smooth = nn.ParameterList(
            _weights((1 + 2 * WAVES, hidden), one_hot / math.sqrt(1 + 2 * WAVES), generator) for _ in tree.widths
        )
        self.trunk = nn.ModuleList(_linear(hidden, hidden, generator) for _ in range(layers - 1))
        self.heads = nn.ModuleList(_linear(hidden, w, generator, scale=0.0) for w in tree.widths)
        self._features = [_features(column.centres, column.domain.kind) for column in tree.columns]

    def root(self) -> Tensor:
        return self.begin

    def extend(self, level: int, carry: Tensor, actions: Tensor) -> Tensor:
        # the last row is that of a skipped level
        return carry + (self.rows[level] + self._features[level] @ self.smooth[level])[actions]

    def logits(self, first: int, carries: Sequence[Tensor]) -> list[Tensor]:
        hidden = torch.relu(torch.cat(list(carries)))
        for layer in self.trunk:
            hidden = torch.relu(layer(hidden))
        parts = hidden.split([len(carry) for carry in carries])
        return [self.heads[first + i](part) for i, part in enumerate(parts)]


class Experts(nn.Module):
    """One network for each number of columns already set, which takes their scaled values and which of them are set.

    # LaBash and Sepulveda, section 2.3; the network for the complete configuration has nothing to choose: left out.

    Args:
        tree: The tree.
        hidden: Units of each hidden layer.
        layers: Hidden layers.
        generator: Source of the initial weights.
    """

    def __init__(self, tree: Tree, hidden: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.networks = nn.ModuleList()
        for level, width in enumerate(tree.widths):
            parts: list[nn.Module] = []
            size = max(2 * level, 1)
            for _ in range(layers):
                parts += [_linear(size, hidden, generator), nn.ReLU()]
                size = hidden
            self.networks.append(nn.Sequential(*parts, _linear(size, width, generator)))
        values = [np.append(column.centres, 0.0) for column in tree.columns]
        self._inputs = [
            torch.tensor(np.stack([v, np.arange(len(v)) < len(v) - 1], 1), dtype=torch.float32) for v in values
        ]

    def root(self) -> Tensor:
        return torch.zeros(1, 1)

    def extend(self, level: int, carry: Tensor, actions: Tensor) -> Tensor:
        taken = self._inputs[level][actions]  # value and whether it is set; the last row is that of a skipped level
        return torch.cat([carry, taken], dim=1) if level else taken

    def logits(self, first: int, carries: Sequence[Tensor]) -> list[Tensor]:
        return [self.networks[first + i](carry) for i, carry in enumerate(carries)]


POLICIES: dict[str, Callable[[Tree, int, int, torch.Generator], Shared | Experts]] = {
    "shared": Shared,
    "experts": Experts,
}


def _features(centres: np.ndarray, kind: str) -> Tensor:
    """(actions + 1, 1 + 2 WAVES): the scaled value and its waves; zeros for unordered options and for "skipped"."""
    x = 2 * centres - 1
    waves = [f(2.0**k * np.pi / 2 * x) for k in range(WAVES) for f in (np.sin, np.cos)]
    features = np.stack([x, *waves], axis=1) * (kind != "categorical")
    return torch.tensor(np.vstack([features, np.zeros((1, features.shape[1]))]), dtype=torch.float32)


def _weights(shape: tuple[int, int], scale: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(scale * torch.randn(shape, generator=generator))


def _linear(inputs: int, outputs: int, generator: torch.Generator, scale: float = 1.0) -> nn.Linear:
    """A linear layer with weights uniform as torch has them, drawn from ``generator``, times ``scale``."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # no draw from the global generator
    bound = scale / math.sqrt(inputs)
    with torch.no_grad():
        for one in (layer.weight, layer.bias):
            one.copy_(bound * (2 * torch.rand(one.shape, generator=generator) - 1))
    return layer
