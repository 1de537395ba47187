"""Arithmetic on lists of tensors, for one training or for a stack of them (members axis first, never mixed)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from luthier.optim.common import total

Tensors = Sequence[Tensor]
Scalar = float | Tensor  # a float, or one number a member: () alone, (members,) in a stack


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Give ``value`` trailing axes, so that a number a member, (members,), multiplies ``like``, (members, ...)."""
    if 0 < value.ndim < like.ndim:
        return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))
    if value.ndim > like.ndim and value.numel() == 1:
        return value.reshape(like.shape)
    return value


def dot(left: Tensors, right: Tensors, members: int | None) -> Tensor:
    """Inner product over all tensors: () for one training, (members,) for a stack."""
    if members is None:
        return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(left, right, strict=True)]).sum()
    return total([(x * y).reshape(members, -1).sum(1) for x, y in zip(left, right, strict=True)])


def norm(tensors: Tensors, members: int | None) -> Tensor:
    """Euclidean norm over all tensors: () for one training, (members,) for a stack."""
    return dot(tensors, tensors, members).sqrt()


def add_scaled_(target: list[Tensor], factor: Scalar, direction: Tensors) -> None:
    """``target += factor * direction`` in place; ``target`` must be our own memory."""
    for x, y in zip(target, direction, strict=True):
        if isinstance(factor, Tensor):
            x.add_(expand(factor, y) * y)
        else:
            x.add_(y, alpha=factor)


def scaled(factor: Scalar, tensors: Tensors) -> list[Tensor]:
    """``factor * tensors`` as new tensors."""
    return [expand(factor, x) * x if isinstance(factor, Tensor) else factor * x for x in tensors]


def shifted(tensors: Tensors, factor: Scalar, direction: Tensors) -> list[Tensor]:
    """``tensors + factor * direction`` as new tensors."""
    if isinstance(factor, Tensor):
        return [x + expand(factor, y) * y for x, y in zip(tensors, direction, strict=True)]
    return [torch.add(x, y, alpha=factor) for x, y in zip(tensors, direction, strict=True)]


def select(condition: Tensor, yes: Tensors, no: Tensors) -> list[Tensor]:
    """Member by member, ``yes`` where the condition, () or (members,), holds and ``no`` elsewhere."""
    return [torch.where(expand(condition, x), x, y) for x, y in zip(yes, no, strict=True)]


def flatten(tensors: Tensors, members: int | None) -> Tensor:
    """All tensors as one matrix, (members, numbers in a member); one training is one row."""
    return torch.cat([x.reshape(members or 1, -1) for x in tensors], dim=1)


def unflatten(matrix: Tensor, like: Tensors) -> list[Tensor]:
    """The inverse of ``flatten``: rows of (members, numbers) as tensors shaped as ``like``."""
    sizes = [x.numel() // matrix.shape[0] for x in like]
    return [part.reshape(x.shape) for part, x in zip(matrix.split(sizes, dim=1), like, strict=True)]
