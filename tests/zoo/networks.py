"""Networks that others write, in plain torch: how each is made, what it reads, and its loss.

``make(p)`` gives the network with dropout rate p. Inputs are scikit-learn's digits, 64 numbers a row, unless the entry
says otherwise; everything else is done in forward, as a user would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Entry(NamedTuple):
    """A network of the zoo.

    Args:
        kind: Its chapter.
        make: From a dropout rate.
        loss: Of the outputs and the digit.
        reads: What inputs are: ``"flat"``, ``"tokens"``, ``"pair"`` or ``"dict"``.
        tolerance: Relative, of the validation loss against a plain loop.
        draws: It draws also at rate 0, so that it has no plain loop to be compared with.
    """

    kind: str
    make: Callable[[float], nn.Module]
    loss: Callable[..., Tensor] = F.cross_entropy
    reads: str = "flat"
    tolerance: float = 1e-4
    draws: bool = False


ZOO: dict[str, Entry] = {}


def entry(kind: str, name: str, **settings: Any) -> Callable[[Any], Any]:
    def add(make: Any) -> Any:
        ZOO[name] = Entry(kind, make, **settings)
        return make

    return add


class Of(nn.Module):
    """A network from its parts and a function of (parts, inputs)."""

    def __init__(self, function: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self._function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._function(self, *inputs, **named)


def seq(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def image() -> nn.Module:
    return nn.Unflatten(1, (1, 8, 8))


def head(width: int = 16) -> nn.Module:
    return seq(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def error(output: Tensor, _: Tensor) -> Tensor:
    return output.square().mean()


# -- dense -----------------------------------------------------------------------------------------
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
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-1.5, 1.5, 6))
        self.w, self.base = nn.Parameter(torch.randn(64, 6, 10) * 0.1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        basis = torch.relu(1 - (x.unsqueeze(-1) - self.grid).abs() / 0.6)
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
entry(D, "KAN with splines")(lambda p: KAN())
entry(D, "LoRA on a frozen base")(lambda p: LoRA())
entry(D, "fake-quantised linear")(lambda p: Quantised())

# -- convolutional ---------------------------------------------------------------------------------
C = "convolutional"
entry(C, "LeNet")(
    lambda p: seq(
        image(),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.body = seq(nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.relu, self.head = nn.ReLU(inplace=True), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.view(-1, 1, 8, 8))
        return self.head(self.relu(x + self.body(x)))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1 + 5 * i, 5, 3, padding=1) for i in range(3))
        self.head = head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 1, 8, 8)
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], 1)
        return self.head(x)


class Mobile(nn.Module):
    def __init__(self, p: float, skip: float = 0.0) -> None:
        super().__init__()
        self.stem = seq(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.deep = seq(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.squeeze = seq(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Hardsigmoid()
        )
        self.skip, self.head, self.drop = skip, head(), nn.Dropout2d(p)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.view(-1, 1, 8, 8))
        h = self.deep(x)
        h = self.drop(h * self.squeeze(h))
        if self.training and self.skip:
            h = h * (torch.rand(len(h), 1, 1, 1) >= self.skip)
        return self.head(x + h)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = seq(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = seq(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.view(-1, 1, 8, 8))
        return self.out(torch.cat([x, self.up(self.b(x))], 1)).mean((2, 3))


class VAE(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.e, self.d, self.how = nn.Linear(64, 16), nn.Linear(8, 64), how

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, log = self.e(x).chunk(2, 1)
        std = (0.5 * log).exp()
        z = mean + std * torch.randn_like(std) if self.how == "randn_like" else Normal(mean, std).rsample()
        return self.d(z), x, mean, log


def elbo(output: tuple[Tensor, ...], _: Tensor) -> Tensor:
    found, x, mean, log = output
    return F.mse_loss(found, x) - 0.01 * (1 + log - mean.square() - log.exp()).mean()


class VectorQuantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.d = nn.Linear(64, 8), nn.Linear(8, 64)
        self.register_buffer("codes", torch.randn(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        z = self.e(x)
        nearest = torch.cdist(z, self.codes).argmin(1)
        q = self.codes[nearest]
        if self.training:
            hot = F.one_hot(nearest, 12).float()
            mean = hot.t() @ z.detach() / hot.sum(0).clamp(min=1)[:, None]
            self.codes = torch.where(hot.sum(0)[:, None] > 0, 0.9 * self.codes + 0.1 * mean, self.codes)
        return self.d(z + (q - z).detach()) - x


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 1, groups=4), head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x.view(-1, 1, 8, 8)).relu())
        return self.head(x.view(-1, 4, 4, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8).relu())


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.o = nn.Parameter(torch.randn(8, 5, dtype=torch.cfloat) * 0.3), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.fft.irfft2(torch.fft.rfft2(x.view(-1, 8, 8)) * self.w, s=(8, 8)).flatten(1).relu())


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(64 * 6, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.unsqueeze(-1) * 2.0 ** torch.arange(3) * math.pi
        return self.o(self.a(torch.cat([scaled.sin(), scaled.cos()], -1).flatten(1)).relu())


entry(C, "ResNet block, in-place ReLU")(lambda p: Residual())
entry(C, "DenseNet block")(lambda p: Dense())
entry(C, "ShuffleNet unit")(lambda p: Shuffle())
entry(C, "MobileNet block, squeeze and excitation, Dropout2d", tolerance=1e-3)(lambda p: Mobile(p))
entry(C, "MBConv with stochastic depth", tolerance=1e-3)(lambda p: Mobile(0.0, p))
entry(C, "ConvNeXt block")(
    lambda p: seq(
        image(),
        nn.Conv2d(1, 16, 2, 2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.GroupNorm(1, 16),
        nn.Conv2d(16, 32, 1),
        nn.GELU(),
        nn.Conv2d(32, 16, 1),
        head(),
    )
)
entry(C, "U-Net", tolerance=1e-3)(lambda p: UNet())
entry(C, "ConvTranspose autoencoder", loss=error)(
    lambda p: Of(
        lambda m, x: m.d(m.e(x)).flatten(1) - x,
        e=seq(image(), nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU()),
        d=nn.ConvTranspose2d(8, 1, 4, 2, 1),
    )
)
entry(C, "VAE (randn_like)", loss=elbo, draws=True)(lambda p: VAE("randn_like"))
entry(C, "VAE (rsample)", loss=elbo, draws=True)(lambda p: VAE("rsample"))
entry(C, "VQ-VAE with EMA buffers", loss=error, tolerance=1e-3)(lambda p: VectorQuantised())
entry(C, "PixelShuffle, InstanceNorm", loss=error)(
    lambda p: seq(
        image(),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )
)
entry(C, "Conv3d, BatchNorm3d")(
    lambda p: seq(
        nn.Unflatten(1, (1, 4, 4, 4)),
        nn.Conv3d(1, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
)
entry(C, "dilated 1-d (WaveNet)")(
    lambda p: Of(
        lambda m, x: m.o((torch.tanh((h := m.a(x.unsqueeze(1)))[:, :8]) * torch.sigmoid(h[:, 8:])).mean(2)),
        a=nn.Conv1d(1, 16, 3, dilation=4),
        o=nn.Linear(8, 10),
    )
)
entry(C, "weight-standardised convolution", tolerance=1e-3)(
    lambda p: seq(image(), Standardised(1, 16, 3), nn.ReLU(), head())
)
entry(C, "FiLM (two inputs)", reads="pair")(
    lambda p: Of(
        lambda m, x, y: m.h(
            (m.c(x.view(-1, 1, 8, 8)) * m.g(y)[:, :16, None, None] + m.g(y)[:, 16:, None, None]).relu()
        ),
        c=nn.Conv2d(1, 16, 3),
        g=nn.Linear(64, 32),
        h=head(),
    )
)
entry(C, "Fourier neural operator (complex)")(lambda p: Fourier())
entry(C, "NeRF MLP with positional encoding")(lambda p: Positions())

# -- recurrent -------------------------------------------------------------------------------------
R = "recurrent"


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **settings: Any) -> None:
        super().__init__()
        self.r = kind(8, 12, batch_first=True, **settings)
        self.o = nn.Linear(24 if settings.get("bidirectional") else 12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(x.view(-1, 8, 8))[0][:, -1])


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r, self.o = nn.GRU(8, 12, batch_first=True, bidirectional=True), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        lengths = torch.arange(len(x)) % 5 + 4
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.o(nn.utils.rnn.pad_packed_sequence(self.r(packed)[0], batch_first=True)[0].mean(1))


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.o = nn.LSTMCell(8, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 12)
        for step in x.view(-1, 8, 8).unbind(1):
            h, c = self.cell(step, (h, c))
        return self.o(h)


class LanguageModel(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.e, self.drop = nn.Embedding(17, 16), nn.Dropout(p)
        self.r, self.o = nn.LSTM(16, 16, 2, dropout=p, batch_first=True), nn.Linear(16, 17)
        self.o.weight = self.e.weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x[:, :20]
        return self.o(self.drop(self.r(self.e(x[:, :-1]))[0])), x[:, 1:]


def next_token(output: tuple[Tensor, Tensor], _: Tensor) -> Tensor:
    return F.cross_entropy(output[0].transpose(1, 2), output[1])


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.d, self.o = nn.GRU(8, 12, batch_first=True), nn.GRUCell(8, 12), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        memory, h = self.e(x)
        h, found = h[0], []
        for step in x.unbind(1)[:-1]:
            h = self.d(step, h)
            weights = torch.softmax((memory @ h.unsqueeze(2)).squeeze(2), 1)
            found.append(self.o(torch.cat([h, (weights.unsqueeze(1) @ memory).squeeze(1)], 1)))
        return torch.stack(found, 1) - x[:, 1:]


def ctc(output: Tensor, target: Tensor) -> Tensor:
    lengths = torch.full((len(target),), 8), torch.ones(len(target), dtype=torch.int64)
    return F.ctc_loss(output.log_softmax(2).transpose(0, 1), target[:, None] + 1, *lengths)


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d, self.o = (
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Parameter(torch.zeros(8)),
            nn.Linear(8, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 8)
        state, out = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
        for t in range(8):
            gate = torch.sigmoid(self.a(x[:, t]))
            state = state * torch.exp(-F.softplus(self.d) * gate) + self.b(x[:, t]) * gate
            out[:, t] = state
        return self.o(out.mean(1))


entry(R, "RNN")(lambda p: Recurrent(nn.RNN))
entry(R, "LSTM, two layers, dropout", tolerance=1e-3)(lambda p: Recurrent(nn.LSTM, num_layers=2, dropout=p))
entry(R, "bidirectional GRU, packed sequences")(lambda p: Packed())
entry(R, "LSTMCell in a loop")(lambda p: Cells())
entry(R, "LSTM language model, tied weights", loss=next_token, reads="tokens")(LanguageModel)
entry(R, "seq2seq with attention", loss=error)(lambda p: Seq2Seq())
entry(R, "CTC net", loss=ctc, tolerance=1e-3)(
    lambda p: Of(lambda m, x: m.o(m.r(x.view(-1, 8, 8))[0]), r=nn.GRU(8, 12, batch_first=True), o=nn.Linear(12, 11))
)
entry(R, "neural ODE by Euler steps")(
    lambda p: Of(
        lambda m, x: m.o([h := m.i(x), *[h := h + 0.2 * torch.tanh(m.f(h)) for _ in range(5)]][-1]),
        i=nn.Linear(64, 16),
        f=nn.Linear(16, 16),
        o=nn.Linear(16, 10),
    )
)
entry(R, "selective scan in a loop")(lambda p: Scan())

# -- attention -------------------------------------------------------------------------------------
A = "attention"


def encoder(p: float, **settings: Any) -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, p, batch_first=True, **settings), 2, enable_nested_tensor=False
    )


def over_rows(part: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return Of(lambda m, x: m.o(call(m, m.e(x.view(-1, 8, 8))).mean(1)), e=nn.Linear(8, 16), t=part, o=nn.Linear(16, 10))


class GPT(nn.Module):
    def __init__(self, p: float, rotary: bool) -> None:
        super().__init__()
        self.p, self.rotary, self.cached = p, rotary, None
        self.e, self.place, self.drop = nn.Embedding(17, 16), nn.Embedding(20, 16), nn.Dropout(p)
        self.n, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = seq(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.Dropout(p))
        self.o = nn.Linear(16, 17, bias=False)
        self.o.weight = self.e.weight

    def turned(self, x: Tensor) -> Tensor:
        if self.cached is None or len(self.cached[0]) < x.shape[2]:
            angle = torch.outer(torch.arange(x.shape[2]).float(), 100.0 ** -torch.arange(0, 1, 0.5))
            self.cached = angle.cos(), angle.sin()
        (cos, sin), (a, b) = self.cached, x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x[:, :16]
        h = self.e(x[:, :-1])
        h = self.drop(h if self.rotary else h + self.place(torch.arange(h.shape[1])))
        q, k, v = (part.unflatten(2, (4, 4)).transpose(1, 2) for part in self.qkv(self.n(h)).chunk(3, 2))
        if self.rotary:
            q, k = self.turned(q), self.turned(k)
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0, is_causal=True)
        h = h + self.out(a.transpose(1, 2).flatten(2))
        return self.o(h + self.mlp(h)), x[:, 1:]


class Experts(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.sparse = sparse
        self.gate, self.experts = nn.Linear(64, 4), nn.ModuleList(nn.Linear(64, 10) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(1).topk(2, 1)
        out = torch.zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            if self.sparse:
                rows, place = (chosen == i).nonzero(as_tuple=True)
                out = out.index_add(0, rows, expert(x[rows]) * weights[rows, place].unsqueeze(1))
            else:
                out = out + expert(x) * (weights * (chosen == i)).sum(1, keepdim=True)
        return out


def window(m: Any, x: Tensor) -> Tensor:
    x = x.roll(2, 1).reshape(-1, 4, 16)
    return m.t(x, x, x, need_weights=False)[0].reshape(-1, 8, 16).roll(-2, 1)


entry(A, "MultiheadAttention")(
    lambda p: over_rows(nn.MultiheadAttention(16, 4, p, batch_first=True), lambda m, h: h + m.t(h, h, h)[0])
)
entry(A, "TransformerEncoder, dropout")(lambda p: over_rows(encoder(p), lambda m, h: m.t(h)))
entry(A, "TransformerEncoder, padding mask")(
    lambda p: over_rows(encoder(p), lambda m, h: m.t(h, src_key_padding_mask=torch.arange(8).expand(len(h), 8) >= 6))
)
entry(A, "TransformerEncoder, pre-norm, GELU")(
    lambda p: over_rows(encoder(p, norm_first=True, activation="gelu"), lambda m, h: m.t(h))
)
entry(A, "decoder, causal mask")(
    lambda p: over_rows(
        nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, p, batch_first=True), 1),
        lambda m, h: m.t(h, h, tgt_mask=nn.Transformer.generate_square_subsequent_mask(8)),
    )
)
entry(A, "nn.Transformer", tolerance=1e-3)(
    lambda p: over_rows(nn.Transformer(16, 4, 1, 1, 32, p, batch_first=True), lambda m, h: m.t(h, h.flip(1)))
)
entry(A, "GPT by SDPA, tied weights", loss=next_token, reads="tokens")(lambda p: GPT(p, False))
entry(A, "GPT, rotary embeddings, cache", loss=next_token, reads="tokens")(lambda p: GPT(p, True))
entry(A, "Perceiver cross-attention")(
    lambda p: Of(
        lambda m, x: m.o(m.a(m.q.expand(len(x), 4, 16), h := m.e(x.view(-1, 8, 8)), h)[0].mean(1)),
        q=nn.Parameter(torch.randn(4, 16)),
        e=nn.Linear(8, 16),
        a=nn.MultiheadAttention(16, 2, batch_first=True),
        o=nn.Linear(16, 10),
    )
)
entry(A, "Linformer")(
    lambda p: Of(
        lambda m, x: m.o((torch.softmax(m.q(x := x.view(-1, 8, 8)) @ (k := m.s(x.mT).mT).mT, -1) @ k).mean(1)),
        q=nn.Linear(8, 8),
        s=nn.Linear(8, 3),
        o=nn.Linear(8, 10),
    )
)
entry(A, "Swin window with roll")(lambda p: over_rows(nn.MultiheadAttention(16, 4, batch_first=True), window))
entry(A, "experts, dense routing")(lambda p: Experts(False))
entry(A, "experts with nonzero")(lambda p: Experts(True))
entry(A, "memory with topk and gather")(
    lambda p: Of(
        lambda m, x: m.o(
            torch.gather(h := m.e(x.view(-1, 8, 8)), 1, m.s(h).topk(3, 1).indices.expand(-1, -1, 16)).mean(1)
        ),
        e=nn.Linear(8, 16),
        s=nn.Linear(16, 1),
        o=nn.Linear(16, 10),
    )
)

# -- graphs and sets -------------------------------------------------------------------------------
G = "graphs, sets"
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 0]])
entry(G, "dense GCN")(
    lambda p: Of(
        lambda m, x: m.o((m.n @ m.a(x.view(-1, 8, 8))).relu().mean(1)),
        n=torch.eye(8) * 0.5 + 0.1,
        a=nn.Linear(8, 16),
        o=nn.Linear(16, 10),
    )
)
entry(G, "GraphSAGE with index_add")(
    lambda p: Of(
        lambda m, x: m.o((h := m.a(x.view(-1, 8, 8))).index_add(1, m.edges[1], h[:, m.edges[0]]).relu().mean(1)),
        edges=EDGES,
        a=nn.Linear(8, 16),
        o=nn.Linear(16, 10),
    )
)
entry(G, "DeepSets")(
    lambda p: Of(lambda m, x: m.o(m.a(x.view(-1, 8, 8)).relu().sum(1)), a=nn.Linear(8, 16), o=nn.Linear(16, 10))
)
entry(G, "PointNet")(
    lambda p: Of(
        lambda m, x: m.o(m.a(x.view(-1, 8, 8)).amax(2)),
        a=seq(nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16), nn.ReLU()),
        o=nn.Linear(16, 10),
    )
)
entry(G, "Siamese, two inputs", loss=error, reads="pair")(
    lambda p: Of(
        lambda m, x, y: F.pairwise_distance(m.a(x), m.a(y)) - 1, a=seq(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    )
)

# -- text and tables -------------------------------------------------------------------------------
T = "text, tables"
entry(T, "EmbeddingBag", reads="tokens")(lambda p: seq(nn.EmbeddingBag(17, 16), nn.Linear(16, 10)))
entry(T, "TextCNN", reads="tokens")(
    lambda p: Of(
        lambda m, x: m.o(m.c(m.e(x).mT).relu().amax(2)),
        e=nn.Embedding(17, 8),
        c=nn.Conv1d(8, 16, 3),
        o=nn.Linear(16, 10),
    )
)
entry(T, "sparse Embedding", reads="tokens")(
    lambda p: Of(lambda m, x: m.o(m.e(x).mean(1)), e=nn.Embedding(17, 16, sparse=True), o=nn.Linear(16, 10))
)
entry(T, "wide and deep (dict inputs)", reads="dict")(
    lambda p: Of(
        lambda m, x, y: m.w(x) + m.d(y),
        w=nn.Linear(64, 10),
        d=seq(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(p), nn.Linear(16, 10)),
    )
)
entry(T, "factorisation machine")(
    lambda p: Of(
        lambda m, x: m.l(x) + 0.5 * (((x @ m.v).square() - x.square() @ m.v.square()).view(-1, 10, 4).sum(2)),
        l=nn.Linear(64, 10),
        v=nn.Parameter(torch.randn(64, 40) * 0.05),
    )
)
entry(T, "oblivious trees")(
    lambda p: Of(
        lambda m, x: torch.einsum("bi,io->bo", torch.stack([s := torch.sigmoid(m.s(x)), 1 - s], 2).flatten(1), m.leaf),
        s=nn.Linear(64, 6),
        leaf=nn.Parameter(torch.randn(12, 10) * 0.3),
    )
)

# -- generative and control ------------------------------------------------------------------------
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

# -- habits inside a network -----------------------------------------------------------------------
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
