"""Convolutional networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from zoo.entry import Of, entry, error, head, image, seq

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


class Basic(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        self.na, self.nb, self.relu = nn.BatchNorm2d(after), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
        same = before == after and stride == 1
        self.short = (
            nn.Identity() if same else seq(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.na(self.a(x)))
        h = self.nb(self.b(h))
        h += self.short(x)
        return self.relu(h)


def residual() -> nn.Module:
    """Eighteen layers with weights in four stages, as in He et al. 2016, with a tenth of the channels."""
    widths = [(6, 6), (6, 12), (12, 24), (24, 48)]
    stages = [seq(Basic(a, b, 1 if i == 0 else 2), Basic(b, b, 1)) for i, (a, b) in enumerate(widths)]
    stem = seq(image(), nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
    return seq(stem, *stages, head(48))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.b = seq(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.c = seq(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 5, padding=2))
        self.d = seq(nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 4, 1))
        self.head = head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.view(-1, 1, 8, 8)).relu()
        return self.head(torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1).relu())


class Fire(nn.Module):
    def __init__(self, before: int, squeezed: int, after: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(before, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, after, 1), nn.Conv2d(squeezed, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x).relu(), self.three(x).relu()], 1)


class Temporal(nn.Module):
    """A block of a TCN (Bai et al. 2018): dilated causal convolutions with weight_norm, a residual, dropout."""

    def __init__(self, before: int, after: int, dilation: int, p: float) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.pad = 2 * dilation
        self.a = norm(nn.Conv1d(before, after, 3, padding=self.pad, dilation=dilation))
        self.b = norm(nn.Conv1d(after, after, 3, padding=self.pad, dilation=dilation))
        self.drop, self.short = nn.Dropout(p), nn.Conv1d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.a(x)[..., : -self.pad].relu())
        h = self.drop(self.b(h)[..., : -self.pad].relu())
        return (h + self.short(x)).relu()


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
    def __init__(self) -> None:
        super().__init__()
        self.e, self.d = nn.Linear(64, 16), nn.Linear(8, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, log = self.e(x).chunk(2, 1)
        std = (0.5 * log).exp()
        return self.d(mean + std * torch.randn_like(std)), x, mean, log


def elbo(output: tuple[Tensor, ...], _: Tensor) -> Tensor:
    found, x, mean, log = output
    return F.mse_loss(found, x) - 0.01 * (1 + log - mean.square() - log.exp()).mean()


class ConvVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e = seq(image(), nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16))
        self.d = seq(nn.Linear(8, 128), nn.Unflatten(1, (8, 4, 4)), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, log = self.e(x).chunk(2, 1)
        return self.d(Normal(mean, (0.5 * log).exp()).rsample()).flatten(1), x, mean, log


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


entry(C, "ResNet-18-like, in-place ReLU", tolerance=1e-3)(lambda p: residual())
entry(C, "Inception block")(lambda p: Inception())
entry(C, "SqueezeNet fire")(
    lambda p: seq(
        image(),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        Fire(8, 3, 6),
        nn.MaxPool2d(2),
        Fire(12, 4, 8),
        nn.Dropout(p),
        head(),
    )
)
entry(C, "TCN", tolerance=1e-3)(
    lambda p: Of(
        lambda m, x: m.o(m.t(x.view(-1, 8, 8))[..., -1]),
        t=seq(Temporal(8, 12, 1, p), Temporal(12, 12, 2, p)),
        o=nn.Linear(12, 10),
    )
)
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
entry(C, "VAE (randn_like)", loss=elbo, draws=True)(lambda p: VAE())
entry(C, "conv VAE (rsample)", loss=elbo, draws=True)(lambda p: ConvVAE())
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
