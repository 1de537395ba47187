"""A setting of an optimizer that has one value a member: a float where one is asked for, a tensor in a kernel."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PerMember(float):
    """A number for each member.

    It passes the checks that expect a float, as ``nominal``, and arithmetic keeps all members' values.

    Args:
        values: (members,).
        nominal: The number that comparisons see. It is not read from the tensor, which may belong to a trace.
    """

    values: Tensor

    def __new__(cls, values: Tensor, nominal: float) -> PerMember:
        self = float.__new__(cls, nominal)
        self.values = values
        return self

    def at(self, like: Tensor) -> Tensor:
        """(members, 1, …) to multiply ``like``, (members, …)."""
        values = self.values.to(like.dtype) if like.is_floating_point() or like.is_complex() else self.values
        return values.view(-1, *[1] * (like.ndim - 1))

    def __neg__(self) -> PerMember:
        return PerMember(-self.values, -float(self))

    def __deepcopy__(self, memo: Any) -> PerMember:
        return self


def _arithmetic(name: str, swap: bool) -> Callable[[PerMember, Any], Any]:
    function = getattr(operator, name)

    def method(self: PerMember, other: Any) -> Any:
        if isinstance(other, Tensor) and other.ndim:
            return function(other, self.at(other)) if swap else function(self.at(other), other)
        number = other.values if isinstance(other, PerMember) else other
        if not isinstance(number, int | float | Tensor):
            return NotImplemented
        nominal = 1.0 if isinstance(other, Tensor) else float(other)
        pair = (nominal, float(self)) if swap else (float(self), nominal)
        return PerMember(function(number, self.values) if swap else function(self.values, number), function(*pair))

    return method


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(PerMember, f"__{_name}__", _arithmetic(_name, False))
    setattr(PerMember, f"__r{_name}__", _arithmetic(_name, True))


class PerMemberKernels(TorchFunctionMode):
    """Gives a kernel the tensor of a :class:`PerMember` number (alpha=, value=, a weight, a factor)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(value, PerMember) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        scale = kwargs.get("alpha", kwargs.get("value"))
        if isinstance(scale, PerMember):
            x, first, *rest = args
            step = first if "alpha" in kwargs else first / rest[0] if "cdiv" in name else first * rest[0]
            scale = scale.at(x) if "sub" not in name else -scale.at(x)
            new = torch.addcmul(x, step, scale)
            return x.copy_(new) if name.endswith("_") else new
        like = next(value for value in args if isinstance(value, Tensor))
        placed = [value.at(like) if isinstance(value, PerMember) else value for value in args]
        return func(*placed, **{k: v.at(like) if isinstance(v, PerMember) else v for k, v in kwargs.items()})
