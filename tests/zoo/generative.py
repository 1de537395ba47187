"""Generative networks, and heads for control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.entry import Of, entry, error, seq

V = "generative, control"


@dataclass
class Mixture:
    weights: Tensor
    means: Tensor


def mixture_loss(output: Mixture, target: Tensor) -> Tensor:
    fit = -0.5 * (output.means - target.to(output.means.dtype).unsqueeze(1) / 10).square() / 0.1
    return -torch.logsumexp(output.weights.log_softmax(1) + fit, 1).mean()


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(seq(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 64)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b, logs = *x.chunk(2, 1), 0.0
        for net in self.nets:
            s, t = net(a).chunk(2, 1)
            s = torch.tanh(s)
            a, b, logs = b * s.exp() + t, a, logs + s.sum(1)
        return torch.cat([a, b], 1), logs


class Energy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = seq(nn.Linear(64, 16), nn.Softplus(), nn.Linear(16, 1)), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (force,) = torch.autograd.grad(self.e(x).sum(), x, create_graph=True)
        return self.o(x.detach() - force)


def denoising(m: Any, x: Tensor) -> Tensor:
    t = torch.randint(1, 10, (len(x), 1)) / 10
    noise = torch.randn_like(x)
    return m.f(torch.cat([(1 - t).sqrt() * x + t.sqrt() * noise, t], 1)) - noise


entry(V, "mixture density network (dataclass)", loss=mixture_loss)(
    lambda p: Of(lambda m, x: Mixture(m.w(x), m.m(x)), w=nn.Linear(64, 3), m=nn.Linear(64, 3))
)
entry(V, "RealNVP flow", loss=lambda o, _: (0.5 * o[0].square().sum(1) - o[1]).mean(), tolerance=1e-3)(lambda p: Flow())
entry(V, "diffusion denoiser", loss=error, draws=True)(
    lambda p: Of(denoising, f=seq(nn.Linear(65, 32), nn.SiLU(), nn.Linear(32, 64)))
)
entry(V, "Gumbel-softmax autoencoder", loss=error, draws=True)(
    lambda p: Of(
        lambda m, x: m.d(F.gumbel_softmax(m.e(x).view(-1, 4, 6), hard=True).flatten(1)) - x,
        e=nn.Linear(64, 24),
        d=nn.Linear(24, 64),
    )
)
entry(V, "dueling head (dict output)", loss=lambda o, t: F.cross_entropy(o["q"], t))(
    lambda p: Of(
        lambda m, x: {"q": m.v(x) + (a := m.a(x)) - a.mean(1, keepdim=True)}, v=nn.Linear(64, 1), a=nn.Linear(64, 10)
    )
)
entry(V, "energy model, gradient in forward", tolerance=1e-3)(lambda p: Energy())
entry(V, "RReLU, AlphaDropout, feature dropout", draws=True)(
    lambda p: seq(nn.Linear(64, 32), nn.RReLU(), nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.1), nn.Linear(32, 10))
)
entry(V, "Beta, Gamma, Poisson, Categorical draws", draws=True)(
    lambda p: Of(
        lambda m, x: (
            m.o(x)
            + torch.distributions.Beta(2.0, 3.0).sample((len(x), 1))
            + torch.distributions.Gamma(torch.full((len(x), 1), 2.0), 1.0).rsample()
            + torch.poisson(torch.full((len(x), 1), 3.0))
            + torch.distributions.Categorical(logits=torch.zeros(4)).sample((len(x), 1))
        ),
        o=nn.Linear(64, 10),
    )
)
