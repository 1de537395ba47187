"""Networks that others write, in plain torch: how each is made, what it reads, and its loss.

``make(p)`` gives the network with dropout rate p. Inputs are scikit-learn's digits, 64 numbers a row, unless the entry
says otherwise; everything else is done in forward, as a user would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F


class Entry(NamedTuple):
    """A network of the zoo.

    Args:
        kind: Its chapter.
        make: From a dropout rate.
        loss: Loss of the outputs and the digit; None is the one that the network returns.
        reads: Form of the inputs: ``"flat"``, ``"tokens"``, ``"pair"``, ``"dict"``; with the target among them,
            ``"text"``, ``"causal"``, ``"pixels"``.
        tolerance: Relative, of the validation loss against a plain loop.
        draws: It draws also at rate 0, so that it has no plain loop to be compared with.
    """

    kind: str
    make: Callable[[float], nn.Module]
    loss: Callable[..., Tensor] | None = F.cross_entropy
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


def next_token(output: tuple[Tensor, Tensor], _: Tensor) -> Tensor:
    return F.cross_entropy(output[0].transpose(1, 2), output[1])
