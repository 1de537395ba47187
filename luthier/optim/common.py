"""Parts shared by the stacked optimizers: hyperparameters by name, one row per member, and clipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]  # by parameter name; members first: (members, …)
Scale = Tensor | float  # one value a member, (members,), or one for all
MANY: Any = torch  # whose calls for many tensors at once have no types


def rows(value: Scale, like: Tensor) -> Scale:
    """``value`` shaped to multiply ``like``, (members, …): (members,) becomes (members, 1, …)."""
    return value.view(-1, *[1] * (like.ndim - 1)) if isinstance(value, Tensor) else value


def rows_of_each(value: Any, like: Sequence[Tensor]) -> Any:
    """:func:`rows` for each of several tensors; a number stays one for all of them."""
    if not isinstance(value, Tensor):
        return value
    axes = [tensor.ndim for tensor in like]
    shaped = {count: value.view(-1, *[1] * (count - 1)) for count in set(axes)}
    return [shaped[count] for count in axes]


def add_scaled(base: Tensor, direction: Tensor, scale: Scale, sign: float = 1.0) -> Tensor:
    """``base + sign · scale · direction`` in one kernel, ``scale`` one value a member or one for all."""
    scale = rows(scale, base)
    if isinstance(scale, Tensor):
        return torch.addcmul(base, direction, scale, value=sign)
    return torch.add(base, direction, alpha=sign * scale)


def add_scaled_each(bases: Tensors, directions: Tensors, scale: Scale, sign: float = 1.0) -> Tensors:
    """:func:`add_scaled` for each of ``directions``, in one call where nobody follows the operators."""
    tensors = [bases[name] for name in directions]
    if not isinstance(scale, Tensor) or followed([scale, *tensors, *directions.values()]):
        return {name: add_scaled(bases[name], direction, scale, sign) for name, direction in directions.items()}
    found = MANY._foreach_addcmul(tensors, [*directions.values()], rows_of_each(scale, tensors), value=sign)
    return dict(zip(directions, found, strict=True))


def followed(tensors: list[Tensor]) -> bool:
    """Return True if operators on these are traced, mapped or differentiated."""
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:  # type: ignore[attr-defined]
        return True
    return torch.is_grad_enabled() and True in [tensor.requires_grad for tensor in tensors]


def read(name: str, default: float | None, hyper: Mapping[str, Tensor]) -> Scale:
    """The hyperparameter ``name`` of each member where the space has it, else the optimizer's own setting."""
    value = hyper.get(name, default)
    assert value is not None, f"{name} is neither in the space nor set: TorchTask checks this when it is made"
    return value


def clip_by_norm(gradients: Tensors, limit: Scale) -> Tensors:
    """Each member's gradients scaled down to a global norm of at most ``limit``, as ``torch.nn.utils`` does it."""
    factor = clip_factor(gradients, limit)
    return {name: gradient * rows(factor, gradient) for name, gradient in gradients.items()}


def clip_factor(gradients: Tensors, limit: Scale) -> Tensor:
    """The factor, (members,), by which each member's gradients are scaled down to a global norm of ``limit``."""
    squares = [gradient.reshape(len(gradient), -1).square().sum(1) for gradient in gradients.values()]
    return (limit / (root(total(squares)) + 1e-6)).clamp(max=1.0)


def norm(tree: Tensors) -> Tensor:
    """The Euclidean norm of each member over all entries, (members,)."""
    return total([torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1).square() for x in tree.values()]).sqrt()


def total(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, one after the other: torch.sum may choose another order for another number of members."""
    return sum(parts[1:], start=parts[0])


def root(x: Tensor) -> Tensor:
    """√x; where it is differentiated, with slope 0 at 0: the infinite one meets a zero there, and makes a NaN."""
    if not x.requires_grad:
        return x.sqrt()
    positive = x != 0  # NaN stays NaN
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
