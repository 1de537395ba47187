"""Many small networks trained at once, as one stack with the networks first, each beside a fixed random one."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from luthier.propose.threads import one_torch_thread

ROWS, WHOLE = 96, 256  # of a minibatch, where there are more than so many
PLENTY = 400  # values from which on the decay falls in proportion to 1 / values, as that of a fixed prior does
PRIOR = 0.5  # size of the fixed random part of every network, in deviations of the values

Networks = list[tuple[Tensor, Tensor]]
"""A layer: weight (networks, in, out) and bias (networks, 1, out)."""


@one_torch_thread()
def train(
    x: np.ndarray,
    y: np.ndarray,
    known: np.ndarray,
    rng: np.random.Generator,
    *,
    width: int,
    steps: int,
    lr: float,
    decay: float,
) -> tuple[Networks, Networks]:
    """Train all networks at once, by AdamW with a rate that falls to zero along a cosine.

    Args:
        x: (n, features).
        y: (n,) standardised values.
        known: (networks, n) bool, which values each network sees.
        rng: Source of all randomness.
        width: Units of each of the two hidden layers.
        steps: Steps of AdamW.
        lr: Its first learning rate.
        decay: Its weight decay where there are few values.

    Returns:
        The trained networks, and the fixed ones that are added to them.
    """
    sizes = (x.shape[1], width, width, 1)
    layers, prior = made(len(known), sizes, rng), made(len(known), sizes, rng)
    prior = [*prior[:-1], (PRIOR * prior[-1][0], prior[-1][1])]
    rows = torch.as_tensor(x, dtype=torch.float32)
    weight = torch.as_tensor(known / known.sum(axis=1, keepdims=True).clip(1), dtype=torch.float32)
    target = torch.as_tensor(y, dtype=torch.float32) - forward(prior, rows)  # (networks, n)
    flat = torch.cat([tensor.reshape(-1) for layer in layers for tensor in layer])
    flat.grad = torch.zeros_like(flat)
    layers, gradients = _views(flat, layers), _views(flat.grad, layers)
    adam = torch.optim.AdamW([flat], lr, weight_decay=decay * min(1.0, PLENTY / len(y)), fused=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    rate = 2.0 * weight
    picked = shuffled = rows, target, rate
    place = len(y)
    for _ in range(steps):
        if len(y) > WHOLE:
            if place + ROWS > len(y):
                order, place = torch.from_numpy(rng.permutation(len(y))), 0
                shuffled = rows[order], target[:, order], rate[:, order] * (len(y) / ROWS)
            part = slice(place, place + ROWS)
            picked = shuffled[0][part], shuffled[1][:, part], shuffled[2][:, part]
            place += ROWS
        slopes(layers, *picked, out=gradients)
        adam.step()
        cosine.step()
    return layers, prior


def slopes(layers: Networks, x: Tensor, target: Tensor, rate: Tensor, out: Networks) -> None:
    """The gradient of sum(rate / 2 (output - target)²), written out: with autograd a fit takes up to 1.4 times as long.

    Args:
        layers: The networks.
        x: (n, features).
        target: (networks, n).
        rate: (networks, n).
        out: Buffers that receive the gradient with respect to each weight and bias.
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
    """Return the output of every network for every row, (networks, n)."""
    hidden = x.expand(len(layers[0][0]), *x.shape)
    for weight, bias in layers[:-1]:
        hidden = torch.nn.functional.silu(torch.baddbmm(bias, hidden, weight))
    weight, bias = layers[-1]
    return torch.baddbmm(bias, hidden, weight)[:, :, 0]


@one_torch_thread()
@torch.no_grad()
def outputs(layers: Networks, prior: Networks, x: np.ndarray) -> np.ndarray:
    """Return the output of every network plus that of its fixed one, (networks, n) float64."""
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
