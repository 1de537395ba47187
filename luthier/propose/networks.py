"""Many small networks trained at once, as one stack with the networks first, each beside a fixed random one."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from luthier.propose.threads import one_torch_thread

if TYPE_CHECKING:
    from luthier.propose.surrogate import Surrogate

ROWS, WHOLE = 96, 256  # of a minibatch, where there are more than so many
PLENTY = 400  # values from which on the decay falls in proportion to 1 / values, as that of a fixed prior does
BETA1, BETA2 = 0.9, 0.999  # of Adam
PRIOR = 0.5  # size of the fixed random part of every network, in deviations of the values

Networks = list[tuple[Tensor, Tensor]]
"""A layer: weight (networks, in, out) and bias (networks, 1, out)."""


@one_torch_thread()
def train(
    settings: Surrogate, x: np.ndarray, y: np.ndarray, known: np.ndarray, rng: np.random.Generator
) -> tuple[Networks, Networks]:
    """Train all networks at once.

    Args:
        settings: Sizes and steps.
        x: (n, features).
        y: (n,) standardised values.
        known: (networks, n) bool, which values each network sees.
        rng: Source of all randomness.

    Returns:
        The trained networks, and the fixed ones that are added to them.
    """
    sizes = (x.shape[1], settings.width, settings.width, 1)
    layers, prior = made(len(known), sizes, rng), made(len(known), sizes, rng)
    prior = [*prior[:-1], (PRIOR * prior[-1][0], prior[-1][1])]
    rows = torch.as_tensor(x, dtype=torch.float32)
    weight = torch.as_tensor(known / known.sum(axis=1, keepdims=True).clip(1), dtype=torch.float32)
    target = torch.as_tensor(y, dtype=torch.float32) - forward(prior, rows)  # (networks, n)
    adam = _Adam(settings, layers, settings.decay * min(1.0, PLENTY / len(y)))
    rate = 2.0 * weight
    picked = shuffled = rows, target, rate
    place = len(y)
    for step in range(settings.steps):
        if len(y) > WHOLE:
            if place + ROWS > len(y):
                order, place = torch.from_numpy(rng.permutation(len(y))), 0
                shuffled = rows[order], target[:, order], rate[:, order] * (len(y) / ROWS)
            part = slice(place, place + ROWS)
            picked = shuffled[0][part], shuffled[1][:, part], shuffled[2][:, part]
            place += ROWS
        slopes(adam.layers, *picked, out=adam.gradients)
        adam.step(step)
    return adam.layers, prior


class _Adam:
    """AdamW on all weights of all networks at once, in place.

    Args:
        settings: Learning rate and number of steps.
        layers: The networks; they are copied.
        decay: Weight decay.

    Attributes:
        layers: The networks as they are, views of one vector.
        gradients: Of the same shapes, to be written before each step.
    """

    def __init__(self, settings: Surrogate, layers: Networks, decay: float) -> None:
        self.settings, self.decay = settings, decay
        self.flat = torch.cat([tensor.reshape(-1) for layer in layers for tensor in layer])
        self.gradient, self.size = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.layers, self.gradients = _views(self.flat, layers), _views(self.gradient, layers)

    def step(self, number: int) -> None:
        """One step along the gradients; the learning rate is that of step ``number``, from 0."""
        s = self.settings
        self.mean.lerp_(self.gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(self.gradient, self.gradient, value=1 - BETA2)
        lr = s.lr * 0.5 * (1.0 + math.cos(math.pi * number / s.steps))
        torch.sqrt(self.square, out=self.size).mul_((1 - BETA2 ** (number + 1)) ** -0.5).add_(1e-8)
        self.flat.mul_(1 - lr * self.decay).addcdiv_(self.mean, self.size, value=-lr / (1 - BETA1 ** (number + 1)))


def slopes(layers: Networks, x: Tensor, target: Tensor, rate: Tensor, out: Networks) -> None:
    """The gradient of sum(rate / 2 (output - target)²), written out: autograd takes a third more time.

    Args:
        layers: The networks.
        x: (n, features).
        target: (networks, n).
        rate: (networks, n).
        out: Where the gradient by each weight and bias is put.
    """
    inside, bends = [x.expand(len(target), *x.shape)], []
    for weight, bias in layers[:-1]:
        z = torch.baddbmm(bias, inside[-1], weight)
        gate = z.sigmoid()
        silu = z.mul_(gate)
        inside.append(silu)
        bends.append(torch.lerp(silu, gate.new_ones(()), gate))  # silu' = silu + gate (1 - silu)
    weight, bias = layers[-1]
    back = (torch.baddbmm(bias, inside[-1], weight) - target[:, :, None]).mul_(rate[:, :, None])
    for i in range(len(layers) - 1, -1, -1):
        torch.bmm(inside[i].transpose(1, 2), back, out=out[i][0])
        torch.sum(back, dim=1, keepdim=True, out=out[i][1])
        if i:
            back = torch.bmm(back, layers[i][0].transpose(1, 2)).mul_(bends[i - 1])


def _views(flat: Tensor, layers: Networks) -> Networks:
    """The weights of all networks, from one vector."""
    parts = flat.split([tensor.numel() for layer in layers for tensor in layer])
    shaped = [part.view(like.shape) for part, like in zip(parts, itertools.chain(*layers), strict=True)]
    return list(zip(shaped[::2], shaped[1::2], strict=True))


def forward(layers: Networks, x: Tensor) -> Tensor:
    """What every network says of every row, (networks, n)."""
    hidden = x.expand(len(layers[0][0]), *x.shape)
    for weight, bias in layers[:-1]:
        hidden = torch.nn.functional.silu(torch.baddbmm(bias, hidden, weight))
    weight, bias = layers[-1]
    return torch.baddbmm(bias, hidden, weight)[:, :, 0]


@one_torch_thread()
@torch.no_grad()
def outputs(layers: Networks, prior: Networks, x: np.ndarray) -> np.ndarray:
    """What every network says with the fixed one beside it, (networks, n) float64."""
    rows = torch.as_tensor(x, dtype=torch.float32)
    return (forward(layers, rows) + forward(prior, rows)).double().numpy()


def made(count: int, sizes: tuple[int, ...], rng: np.random.Generator) -> Networks:
    """Random networks: weights of variance 1 / fan-in, biases of the first layer spread so that its bends are."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        weight = rng.normal(size=(count, fan_in, fan_out)) / np.sqrt(fan_in)
        bias = rng.uniform(-1.0, 1.0, size=(count, 1, fan_out)) * (fan_out > 1)
        layers.append((torch.as_tensor(weight, dtype=torch.float32), torch.as_tensor(bias, dtype=torch.float32)))
    return layers
