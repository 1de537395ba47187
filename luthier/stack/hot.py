"""Operators for which vmap's own form is measured slow: what all members run together in place of them.

A rule stands for an operator of ``torch.nn.functional``, whatever module calls it, while members run. It takes the
members' tensors out of vmap, and gives to vmap what it returns; any use that it does not cover is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.stack.layout import product

functorch: Any = torch._C._functorch  # type: ignore[attr-defined]
LINEAR = F.linear
BATCH_NORM: Callable[..., Tensor] = F.batch_norm
EMBEDDING = F.embedding
NARROW = 8
CONVOLUTIONS = {name: getattr(F, name) for name in ("conv1d", "conv2d", "conv3d")}


@contextmanager
def rules() -> Iterator[None]:
    """Put the rules in place of the operators of ``torch.nn.functional``."""
    for name, rule in RULES.items():
        setattr(F, name, rule)
    try:
        yield
    finally:
        for name, function in TORCH.items():
            setattr(F, name, function)


@contextmanager
def channels_last() -> Iterator[None]:
    """Have convolutions of images, for a member by itself, put the channels last in memory: pooling is fast there."""
    F.conv2d = _channels_last
    try:
        yield
    finally:
        F.conv2d = CONVOLUTIONS["conv2d"]


def _channels_last(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if input.ndim == 4 and weight.ndim == 4 and input.is_floating_point():
        weight = weight.contiguous(memory_format=torch.channels_last)
        if weight.shape[1] == 1 and weight.is_contiguous():  # of one channel, where it lies has to be said
            weight = weight.as_strided(weight.shape, (weight.stride(0), 1, *weight.stride()[2:]))
    return CONVOLUTIONS["conv2d"](input, weight, *args, **kwargs)


def _level() -> int:
    top = functorch.peek_interpreter_stack()
    return -1 if top is None else top.level()


def _stacked(tensor: Tensor | None, level: int) -> Tensor | None:
    """The members' tensors, (members, …), or None where it is one for all of them."""
    if tensor is None or not functorch.is_batchedtensor(tensor) or functorch.maybe_get_level(tensor) != level:
        return None
    axis, whole = functorch.maybe_get_bdim(tensor), functorch.get_unwrapped(tensor)
    return whole.movedim(axis, 0) if axis else whole


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` as one batched product with the bias in it; of rows of features with the rows last in memory.

    Elementwise operators, the product's own gradients, and the sum for the bias all read rows last in one pass.
    """
    level = _level()
    matrix, offset = _stacked(weight, level), _stacked(bias, level)
    if matrix is None or (offset is None) != (bias is None) or input.ndim < 2:
        return LINEAR(input, weight, bias)
    x = _stacked(input, level)
    if x is None:
        if input.ndim == 2 and input.shape[1] <= NARROW:  # MKL copies such rows for each member
            input = input.t().contiguous().t()
        x = input.expand(len(matrix), *input.shape)
    if x.ndim == 3:
        result = product(matrix, x.transpose(1, 2), offset).transpose(1, 2)
    else:  # tokens: what follows reads their features, as normalisation and attention do
        rows, columns = x.flatten(1, -2), matrix.transpose(1, 2)
        result = torch.bmm(rows, columns) if offset is None else torch.baddbmm(offset.unsqueeze(1), rows, columns)
        result = result.unflatten(1, x.shape[1:-1])
    return functorch._add_batch_dim(result, 0, level)


def _convolution(function: Callable[..., Tensor], axes: int) -> Callable[..., Tensor]:
    """A convolution on a CPU, one member after the other.

    oneDNN's kernels for many groups of few channels are no faster, and give a member other bits than it has alone.
    """

    def rule(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        level = _level()
        kernels, offsets = _stacked(weight, level), _stacked(bias, level)
        covered = (offsets is None) == (bias is None) and input.ndim == axes + 2 and weight.device.type == "cpu"
        if kernels is None or not covered:
            return function(input, weight, bias, *args, **kwargs)
        x = _stacked(input, level)
        rows = [input] * len(kernels) if x is None else x.unbind(0)
        biases = [None] * len(kernels) if offsets is None else offsets.unbind(0)
        members = zip(rows, kernels.unbind(0), biases, strict=True)
        return _joined([function(row, kernel, own, *args, **kwargs) for row, kernel, own in members], level)

    return rule


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm``; vmap's own gives a member other bits alone, by loops over the channels of all members.

    Of rows of features members are channels of one call; images are normalised one member after the other.
    """
    level, given = _level(), [running_mean, running_var, weight, bias]
    x, own = _stacked(input, level), [_stacked(tensor, level) for tensor in given]
    if x is None or any((a is None) != (b is None) for a, b in zip(given, own, strict=True)):
        return BATCH_NORM(input, *given, training, momentum, eps)
    if x.ndim == 3:
        rows = x.transpose(1, 2)
        flat = [None if tensor is None else tensor.reshape(-1) for tensor in own]
        found = BATCH_NORM(rows.reshape(1, -1, rows.shape[2]), *flat, training, momentum, eps)
        for tensor, new in zip(own[:2], flat[:2], strict=True):
            if training and tensor is not None and new is not None and not tensor.is_contiguous():
                tensor.copy_(new.view(tensor.shape))  # it was written into a copy
        return functorch._add_batch_dim(found.view(rows.shape).transpose(1, 2), 0, level)
    members = [[None if tensor is None else tensor[i] for tensor in own] for i in range(len(x))]
    found = [BATCH_NORM(row, *one, training, momentum, eps) for row, one in zip(x.unbind(0), members, strict=True)]
    return _joined(found, level)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``F.embedding`` by one table of all members' rows; vmap's own trains the padding of all members but the first."""
    level = _level()
    tables = _stacked(weight, level)
    if tables is None or max_norm is not None or scale_grad_by_freq or sparse:
        return EMBEDDING(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    members, rows = tables.shape[:2]
    index = _stacked(input, level)
    index = input.expand(members, *input.shape) if index is None else index
    offset = torch.arange(members, device=index.device) * rows
    found = EMBEDDING(index + offset.view(-1, *(1,) * (index.ndim - 1)), tables.flatten(0, 1))
    if padding_idx is not None:  # read, but not trained
        found = torch.where((index == padding_idx % rows).unsqueeze(-1), found.detach(), found)
    return functorch._add_batch_dim(found, 0, level)


def _joined(members: list[Tensor], level: int) -> Tensor:
    """Members as vmap has them, in the order in memory that each of them has: torch.stack would make a new one."""
    order = sorted(range(members[0].ndim), key=lambda axis: -members[0].stride(axis))
    back = [order.index(axis) + 1 for axis in range(len(order))]
    return functorch._add_batch_dim(torch.stack([one.permute(order) for one in members]).permute(0, *back), 0, level)


RULES = {
    "linear": _linear,
    "batch_norm": _batch_norm,
    "embedding": _embedding,
    **{name: _convolution(function, int(name[4])) for name, function in CONVOLUTIONS.items()},
}
TORCH = {"linear": LINEAR, "batch_norm": BATCH_NORM, "embedding": EMBEDDING, **CONVOLUTIONS}
