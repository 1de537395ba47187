"""Networks of many kinds to stack: how each is made, the shape of its inputs, and the form that it should take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from luthier.stack import Noise
from luthier.task.member import OUTPUT, Member
from luthier.task.network import Network

TASK = SimpleNamespace(forward=None, precision=None, device=None)
Tensors = dict[str, Tensor]


class Model(NamedTuple):
    """A network, the axes of one row of its inputs, and what is expected of its stacked form."""

    make: Callable[[], nn.Module]
    features: tuple[int, ...]
    form: str = "vmap"
    indices: int = 0  # inputs are integers below this


class Shift(nn.Module):
    """A parameter to hold a stack's members apart where nothing else does."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 12), nn.ReLU(inplace=True)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for block in self.blocks:
            x = x + 0.5 * block(x)
        return self.last(x)


class Functions(nn.Module):
    """Torch functions, parameters of its own, and axes of several kinds in forward."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.out = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(24, 2)
        self.gate = nn.Parameter(torch.linspace(-1, 1, 8))
        self.register_buffer("scale", torch.full((8,), 1.5))
        self.table = torch.linspace(0, 1, 4)[:, None]  # a constant, no buffer

    def forward(self, x: Tensor) -> Tensor:  # (batch, 4, 8)
        batch = x.size(0)
        x = self.norm(x - x.mean(-1, keepdim=True)) + self.table
        h = F.gelu(self.mix(x)) * torch.sigmoid(self.gate) * self.scale
        first, second = h.chunk(2, dim=1)
        pooled = torch.cat([first.mean(1), second[:, -1], F.softmax(x[:, 0], dim=-1)], dim=1)
        return self.out(pooled.view(batch, -1)).squeeze(-1)


class BranchesOnShape(nn.Module):
    """Shapes are the same for all members."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop, self.norm = nn.Linear(5, 5), nn.Dropout(0.0), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2 if x.shape[0] > 1 else 3):
            x = self.norm(torch.tanh(self.drop(self.layer(x))))
        return x


class BranchesOnValues(nn.Module):
    """What vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x.relu() if x.mean() > 0 else x.tanh()


class Counts(nn.Module):
    """Writes into a buffer of its own."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.training:
            self.total += x.detach().mean(0)
        return x + self.total


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 6), nn.Linear(6, 6)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        x = self.decoder(F.elu(self.encoder(x))) * scale
        return x if mask is None else x * mask


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        steps, last = self.cells(x)
        return self.out(steps[:, -1]), {"last": last.transpose(0, 1)}


def cnn(*, norm: bool) -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 6, 3, padding="same", bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(54, 5))


def unusual_norms() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=None), nn.SiLU()),
        *(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Tanh()),
        *(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False), nn.LeakyReLU(), nn.LogSoftmax(1)),
    )


def conv_1d() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv1d(3, 4, 3, stride=2, groups=1), nn.BatchNorm1d(4), nn.ELU()]
    layers += [nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), nn.GroupNorm(2, 4), nn.Softplus()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 2))


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 6), nn.GELU(), nn.Flatten(), nn.Linear(18, 2))


def padded_embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2))


def transformer() -> nn.Module:
    layer: dict[str, Any] = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.0, "batch_first": True}
    return nn.Sequential(nn.TransformerEncoderLayer(**layer), nn.Flatten(), nn.Linear(24, 2))


MODELS: dict[str, Model] = {
    "784-128-10": Model(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), (1, 28, 28)
    ),
    "2-3-1": Model(lambda: nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()), (2,)),
    "batch norm": Model(lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), (6,)),
    "cnn": Model(lambda: cnn(norm=False), (1, 14, 14)),
    "cnn, batch norm": Model(lambda: cnn(norm=True), (1, 14, 14)),
    "residual": Model(Residual, (6,)),
    "functions": Model(Functions, (4, 8)),
    "transformer": Model(transformer, (3, 8)),
    "branches on shape": Model(BranchesOnShape, (5,)),
    "untraceable part": Model(lambda: nn.Sequential(nn.Linear(4, 5), BranchesOnShape(), nn.ReLU()), (4,)),
    "branches on values": Model(BranchesOnValues, (5,), "loop"),
    "own buffer": Model(Counts, (5,)),
    "tied": Model(Tied, (6,)),
    "recurrent": Model(Recurrent, (5, 4)),
    "unusual norms": Model(unusual_norms, (6,), "loop"),  # a mean over all steps has a number outside of torch
    "conv 1d": Model(conv_1d, (3, 12)),
    "embedding": Model(embedding, (3,), indices=11),
    "padded embedding": Model(padded_embedding, (3,), indices=11),
    "sigmoid family": Model(
        lambda: nn.Sequential(
            *(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 5), nn.ELU(), nn.Linear(5, 7)),
            *(nn.Softplus(), nn.Linear(7, 5), nn.Mish(), nn.Linear(5, 5), nn.SELU(), nn.Linear(5, 1)),
        ),
        (4,),
    ),
}


def made(model: Model, count: int, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    """``count`` members of one architecture with weights of their own."""
    members = []
    for number in range(count):
        torch.manual_seed(number)
        members.append(model.make().to(dtype))
    return members


def batch(model: Model, *axes: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Inputs (\\*axes, …)."""
    generator = torch.Generator().manual_seed(seed)
    if model.indices:
        return torch.randint(model.indices, (*axes, *model.features), generator=generator)
    return torch.randn(*axes, *model.features, generator=generator, dtype=dtype)


def total(outputs: Any) -> Tensor:
    """A scalar to which every output counts with another weight, the same for each member."""
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    weighted = [(leaf * torch.arange(leaf.numel()).view(leaf.shape).to(leaf.dtype).cos()).sum() for leaf in leaves]
    return torch.stack(weighted).sum()


class Stacked:
    """A module for all members of a stack, in the form that is found for it."""

    def __init__(self, module: nn.Module, example: Tensor, hyper: Mapping[str, float] | None = None) -> None:
        member = Member(TASK, module, {"loss": (lambda output, _: total(output), False)})
        trained = tuple(name for name, _ in module.named_parameters())
        knobs = {name: torch.tensor([value]) for name, value in (hyper or {}).items()}
        batch = example, example[:, :1]
        self.network = Network(member, trained, batch, knobs, stack=False, rule=1)  # which stacks more of them
        self._rank = example.ndim

    @property
    def form(self) -> str:
        return self.network.execution.form

    def __call__(
        self,
        params: Tensors,
        buffers: Tensors,
        inputs: Tensor,
        hyper: Tensors | None = None,
        noise: Noise | None = None,
        *,
        training: bool = True,
        wanted: str = OUTPUT,
    ) -> tuple[Any, Tensors]:
        """Outputs (members, batch, …), or losses, and the new buffers."""
        members = len(next(iter(params.values())))
        if noise is None:
            noise = Noise(torch.arange(members), torch.zeros(members, dtype=torch.int64))
        axis = inputs.ndim - self._rank + 1  # that of the first features
        batch = inputs, inputs.select(axis, 0).unsqueeze(axis)
        if wanted == "loss":
            return self.network.losses(params, buffers, hyper or {}, batch, noise)
        outputs, changed = self.network._run(params, buffers, hyper or {}, batch, noise, OUTPUT, training=training)
        return outputs, {name.removeprefix("model."): tensor for name, tensor in changed.items()}


def stacked_tensors(modules: list[nn.Module]) -> tuple[Tensors, Tensors]:
    """Parameters and buffers of the members by name, (members, …)."""
    kinds = [[dict(m.named_parameters()) for m in modules], [dict(m.named_buffers()) for m in modules]]
    params, buffers = ({n: torch.stack([own[n].detach() for own in kind]) for n in kind[0]} for kind in kinds)
    return params, buffers
