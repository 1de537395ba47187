"""Memory layout of the values inside a stacked model, and arithmetic that is the same for one member and for many.

Members axis first everywhere. A value is *shared* (no member differs yet: the inputs), *plain* (members, batch, …), or
*last* (members, features, batch): batch last is what batched products and elementwise kernels like best.

Equal bits alone and in a stack: torch's vectorised kernels treat the last few elements of a tensor with other code than
the rest, and MKL takes another path for a batch of one vector product. :func:`aligned` and :func:`product` avoid both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from luthier.stack.noise import Noise

Layout = Literal["shared", "plain", "last"]
Rule = Callable[..., Any]  # rule(call, *args, **kwargs), with a Value for each tensor
Names = Mapping[str, str]  # a module's own parameters and buffers: name inside the module -> name in the model
LANES = 32  # two AVX-512 registers of float32: the unit of torch's vectorised loops, and a multiple of all smaller ones

SMALL = 400  # multiplications of a product that torch computes without MKL


class Unknown(Exception):  # noqa: N818
    """A rule met a use of its function that it does not cover: the node then runs by vmap."""


class Value:
    """A tensor of the model with its layout.

    Args:
        tensor: (batch, …) where shared, (members, batch, …) where plain, (members, features, batch) where last.
        layout: Name of the layout, one of these three.
    """

    __slots__ = ("layout", "tensor")

    def __init__(self, tensor: Tensor, layout: Layout) -> None:
        self.tensor = tensor
        self.layout: Layout = layout

    @property
    def rank(self) -> int:
        """Axes of one member's tensor."""
        return self.tensor.ndim - (self.layout != "shared")

    def member(self) -> Tensor:
        """One member's tensor, for questions of shape and type."""
        if self.layout == "shared":
            return self.tensor
        return self.tensor[0] if self.layout == "plain" else self.tensor[0].t()


@dataclass(slots=True)
class Call:
    """One run of a stacked model: what its rules read, and the buffers that they replace.

    Args:
        params: By name, members first.
        buffers: By name, members first: a dict of this call's own.
        hyper: Hyperparameters by name, members first.
        noise: Noise for random layers; None if there are none.
        members: Number of members.
        silent: Random layers pass their input on, as in evaluation.
        draws: Random layers run so far: the site of the next.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    hyper: dict[str, Tensor]
    noise: Noise | None
    members: int
    silent: bool = False
    draws: int = field(default=0)

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer, members first."""
        return self.params[name] if name in self.params else self.buffers[name]


def plain(value: Value, members: int) -> Tensor:
    """The tensor as (members, batch, …): a view in every case."""
    if value.layout == "plain":
        return value.tensor
    if value.layout == "last":
        return value.tensor.transpose(1, 2)
    return value.tensor.expand(members, *value.tensor.shape)


def aligned(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function``, elementwise, such that a member's result does not depend on where it lies in the stack.

    On a CPU each member is padded to whole vector registers; nothing is done where it fills them, as with any batch
    size that is a multiple of 32.

    Args:
        function: Elementwise.
        x: (members, …).
    """
    if fills_registers(x):
        return function(x)
    count = x.numel() // len(x)
    padded = nn.functional.pad(x.reshape(len(x), count), (0, -count % LANES))
    return function(padded)[:, :count].view(x.shape)


def fills_registers(x: Tensor) -> bool:
    """Return True if each member, (members, …), fills whole vector registers, or the device has none."""
    return x.numel() % (LANES * x.shape[0]) == 0 or x.device.type != "cpu"


def product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """``weight @ x + bias`` for each member, (members, out, batch).

    Args:
        weight: (members, out, in).
        x: (members, in, batch).
        bias: (members, out) or None.
    """
    (members, out, inner), batch = weight.shape, x.shape[2]
    vectors = 1 in (out, inner, batch) and out * inner * batch >= SMALL and x.device.type == "cpu"
    if vectors and members == 1:  # MKL computes one vector product otherwise than one of several
        weight, x = weight.expand(2, -1, -1), x.expand(2, -1, -1)
        bias = None if bias is None else bias.expand(2, -1)
    result = torch.bmm(weight, x) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, x)
    # and by the strides of axes of length one: the gradient of a slice has those of a new tensor
    return result[:members] if vectors else result


def pointwise(function: Callable[..., Tensor], call: Call, *args: Any, exact: bool = True, **kwargs: Any) -> Any:
    """An elementwise function of values and constants, in their own layout where they share one.

    Args:
        function: Elementwise, with broadcasting.
        call: The run.
        args: Positional arguments of ``function``.
        exact: True if an element's result does not depend on its place (true of arithmetic, not of approximations).
        kwargs: Keyword arguments of ``function``.
    """
    values = [argument for argument in args if isinstance(argument, Value)]
    if any(isinstance(argument, Value) for argument in kwargs.values()):
        values += [argument for argument in kwargs.values() if isinstance(argument, Value)]
    if len(values) == 1:
        layout, tensors = values[0].layout, [values[0].tensor]
    else:
        layout, tensors = _common(values, call.members)
    waiting = iter(tensors)
    args = tuple(next(waiting) if isinstance(argument, Value) else argument for argument in args)
    kwargs = {name: next(waiting) if isinstance(given, Value) else given for name, given in kwargs.items()}
    if exact or layout == "shared" or len(values) != 1 or not args or args[0] is not tensors[0]:
        return Value(function(*args, **kwargs), layout)
    return Value(aligned(lambda x: function(x, *args[1:], **kwargs), args[0]), layout)


def _common(values: list[Value], members: int) -> tuple[Layout, list[Tensor]]:
    """The values' tensors in one layout, shaped to broadcast as one member's would."""
    layouts = {value.layout for value in values}
    if layouts <= {"shared"}:
        return "shared", [value.tensor for value in values]
    if "last" in layouts and all(value.layout == "last" or value.rank <= 1 or _is_flat(value) for value in values):
        return "last", [_to_last(value) for value in values]
    rank = max(value.rank for value in values)
    tensors = []
    for value in values:
        tensor = value.tensor if value.layout == "shared" else plain(value, members)
        if value.layout != "shared" and value.rank < rank:
            tensor = tensor.reshape(len(tensor), *(1,) * (rank - value.rank), *tensor.shape[1:])
        tensors.append(tensor)
    return "plain", tensors


def _is_flat(value: Value) -> bool:
    return value.rank == 2 and value.layout == "shared"


def _to_last(value: Value) -> Tensor:
    """A value of rank 2 or less, shaped to broadcast with (members, features, batch)."""
    tensor = value.tensor
    if value.layout == "last":
        return tensor
    if value.layout == "shared":
        return tensor.t() if tensor.ndim == 2 else tensor.unsqueeze(-1) if tensor.ndim == 1 else tensor
    return tensor.unsqueeze(-1) if tensor.ndim == 2 else tensor.view(-1, 1, 1)
