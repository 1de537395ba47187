"""Dense networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo.entry import Of, entry, seq

D = "dense"
entry(D, "LayerNorm, GELU")(
    lambda p: seq(nn.Linear(64, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(p), nn.Linear(32, 10))
)
entry(D, "GroupNorm, BatchNorm1d, SiLU, dropout")(
    lambda p: seq(
        nn.Linear(64, 32), nn.GroupNorm(4, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(p), nn.Linear(32, 10)
    )
)
entry(D, "RMSNorm, PReLU")(lambda p: seq(nn.Linear(64, 32), nn.RMSNorm(32), nn.PReLU(), nn.Linear(32, 10)))
entry(D, "spectral_norm")(
    lambda p: seq(nn.utils.parametrizations.spectral_norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10))
)
entry(D, "weight_norm (parametrization)")(
    lambda p: seq(nn.utils.parametrizations.weight_norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10))
)
entry(D, "orthogonal")(
    lambda p: seq(nn.utils.parametrizations.orthogonal(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 10))
)
entry(D, "Bilinear")(
    lambda p: Of(
        lambda m, x: m.o(m.b(m.a(x), m.a(x)).relu()), a=nn.Linear(64, 8), b=nn.Bilinear(8, 8, 16), o=nn.Linear(16, 10)
    )
)
entry(D, "SIREN", tolerance=1e-3)(
    lambda p: Of(
        lambda m, x: m.o(torch.sin(5 * m.b(torch.sin(5 * m.a(x))))),
        a=nn.Linear(64, 32),
        b=nn.Linear(32, 32),
        o=nn.Linear(32, 10),
    )
)
entry(D, "MLP-Mixer")(
    lambda p: Of(
        lambda m, x: m.o((h := (x := x.view(-1, 8, 8)) + m.t(x.mT).mT).add(m.c(h)).mean(1)),
        t=seq(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
        c=seq(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Dropout(p), nn.Linear(16, 8)),
        o=nn.Linear(8, 10),
    )
)


class GatedMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.s, self.n, self.o = nn.Linear(8, 16), nn.Conv1d(8, 8, 1), nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.a(x.view(-1, 8, 8))).chunk(2, -1)
        return self.o((u * self.s(self.n(v))).mean(1))


class KAN(nn.Module):
    """Cubic B-splines on each edge, by the recursion of Cox and de Boor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-3.0, 3.0, 12))
        self.w, self.base = nn.Parameter(torch.randn(64, 8, 10) * 0.1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        g, z = self.grid, x.unsqueeze(-1)
        basis = ((z >= g[:-1]) & (z < g[1:])).to(x.dtype)
        for k in range(1, 4):
            left = (z - g[: -k - 1]) / (g[k:-1] - g[: -k - 1]) * basis[..., :-1]
            basis = left + (g[k + 1 :] - z) / (g[k + 1 :] - g[1:-k]) * basis[..., 1:]
        return self.base(F.silu(x)) + torch.einsum("bif,ifo->bo", basis, self.w)


class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(64, 32).requires_grad_(False)
        self.down, self.up, self.o = nn.Linear(64, 4, bias=False), nn.Linear(4, 32, bias=False), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.base(x) + self.up(self.down(x))).relu())


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        w = self.a.weight
        scale = w.detach().abs().amax() / 7
        w = w + ((w / scale).round() * scale - w).detach()
        return self.o(F.linear(x, w, self.a.bias).relu())


def old_weight_norm(p: float) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return seq(nn.utils.weight_norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10))


entry(D, "old weight_norm")(old_weight_norm)
entry(D, "gMLP")(lambda p: GatedMLP())
entry(D, "KAN with B-splines")(lambda p: KAN())
entry(D, "LoRA on a frozen base")(lambda p: LoRA())
entry(D, "fake-quantised linear")(lambda p: Quantised())
