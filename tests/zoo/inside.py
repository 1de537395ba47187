"""Habits inside a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from zoo.entry import Of, entry, seq

H = "habits"


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Slices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(64, 16), nn.Linear(16, 10)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.training:
            self.seen += 1
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        h = h - self.mean
        for i in range(0, h.shape[1], 4):
            h[:, i] = h[:, i] * 2
        return self.o(h)


def hooked(p: float) -> nn.Module:
    net = seq(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    net[0].register_forward_hook(lambda module, inputs, output: output * 0.5)
    net[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.1,))
    return net


entry(H, "custom autograd.Function")(
    lambda p: Of(lambda m, x: m.o(Square.apply(m.a(x))), a=nn.Linear(64, 16), o=nn.Linear(16, 10))
)
entry(H, "checkpointing, with dropout")(
    lambda p: Of(
        lambda m, x: m.o(checkpoint(m.a, x, use_reentrant=False)),
        a=seq(nn.Linear(64, 32), nn.Tanh(), nn.Dropout(p)),
        o=nn.Linear(32, 10),
    )
)
entry(H, "torch.compile'd module")(lambda p: torch.compile(seq(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))))
entry(H, "jit-scripted module")(lambda p: torch.jit.script(seq(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))))
entry(H, "branch on values")(
    lambda p: Of(
        lambda m, x: m.o(h.relu() if (h := m.a(x)).mean() > 0 else h.tanh()), a=nn.Linear(64, 16), o=nn.Linear(16, 10)
    )
)
entry(H, "in-place slices, buffers updated and replaced", tolerance=1e-3)(lambda p: Slices())
entry(H, "lazy modules")(lambda p: seq(nn.LazyLinear(32), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(10)))
entry(H, "hooks that change the output")(hooked)
