"""Convolution, pooling and batch normalisation of all members at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.stack.layout import Call, Names, Rule, Unknown, Value, plain

CONVOLUTION_MODULES = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOL_MODULES = {
    getattr(nn, f"{kind}{axes}d"): axes
    for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "LPPool", "ZeroPad", "ReflectionPad")
    for axes in (1, 2, 3)
    if hasattr(nn, f"{kind}{axes}d")
}


def convolve(
    function: Callable[..., Tensor],
    call: Call,
    x: Value,
    weight: Tensor,
    bias: Tensor | None,
    settings: tuple[Any, ...],
) -> Value:
    """A convolution of each member.

    On a CPU one after the other: oneDNN's kernels for many groups of few channels are no faster, and give a member
    other bits than it has alone. On an accelerator all at once.

    Args:
        function: ``F.conv1d`` or its like.
        call: The run.
        x: (batch, channels, …) of one member.
        weight: (members, out, channels / groups, …).
        bias: (members, out) or None.
        settings: Stride, padding, dilation, groups.
    """
    if x.rank != weight.ndim - 1:
        raise Unknown  # without a batch axis
    form = in_turn if weight.device.type == "cpu" else grouped
    return form(function, call, x, weight, bias, settings)


def in_turn(
    function: Callable[..., Tensor],
    call: Call,
    x: Value,
    weight: Tensor,
    bias: Tensor | None,
    settings: tuple[Any, ...],
) -> Value:
    """:func:`convolve`, one member after the other."""
    members = call.members
    if members == 1:  # views, where a stack of one would copy
        inputs = x.tensor if x.layout == "shared" else plain(x, 1).squeeze(0)
        result = function(inputs, weight.squeeze(0), None if bias is None else bias.squeeze(0), *settings)
        return Value(result.unsqueeze(0), "plain")
    rows = [x.tensor] * members if x.layout == "shared" else plain(x, members).unbind(0)
    biases = [None] * members if bias is None else bias.unbind(0)
    triples = zip(rows, weight.unbind(0), biases, strict=True)
    return Value(torch.stack([function(*triple, *settings) for triple in triples]), "plain")


def grouped(
    function: Callable[..., Tensor],
    call: Call,
    x: Value,
    weight: Tensor,
    bias: Tensor | None,
    settings: tuple[Any, ...],
) -> Value:
    """:func:`convolve`, all members as the groups of one convolution."""
    kernels, offsets = weight.flatten(0, 1), None if bias is None else bias.flatten()
    if x.layout == "shared" and settings[3] == 1:
        folded = function(x.tensor, kernels, offsets, *settings)
    else:
        inputs = _fold(plain(x, call.members))
        folded = function(inputs, kernels, offsets, *settings[:3], settings[3] * call.members)
    return Value(_unfold(folded, call.members), "plain")


def convolution(module: Any, names: Names) -> Rule | None:
    """The rule of a convolution module."""
    if module.padding_mode != "zeros":
        return None
    function = CONVOLUTION_MODULES[type(module)]
    settings = (module.stride, module.padding, module.dilation, module.groups)
    weight, bias = names["weight"], names.get("bias")

    def rule(call: Call, x: Value) -> Value:
        return convolve(function, call, x, call.tensor(weight), None if bias is None else call.tensor(bias), settings)

    return rule


def _convolution_function(function: Callable[..., Tensor]) -> Rule:
    def rule(
        call: Call,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Value:
        if weight.layout != "plain" or (bias is not None and bias.layout != "plain"):
            raise Unknown
        settings = (stride, padding, dilation, groups)
        return convolve(function, call, x, weight.tensor, None if bias is None else bias.tensor, settings)

    return rule


def _fold(x: Tensor) -> Tensor:
    """(members, batch, channels, …) as (batch, members · channels, …)."""
    return x.transpose(0, 1).flatten(1, 2)


def _unfold(x: Tensor, members: int) -> Tensor:
    """The inverse of :func:`_fold`; a view."""
    return x.unflatten(1, (members, -1)).transpose(0, 1)


def per_channel(function: Callable[[Tensor], Tensor], call: Call, x: Value, axes: int) -> Value:
    """A function that treats each channel of each row alone, as pooling does, with ``axes`` axes in space."""
    if x.rank != axes + 2:
        raise Unknown
    if x.layout == "shared":
        return Value(function(x.tensor), "shared")
    tensor = plain(x, call.members)
    if tensor.transpose(0, 1).is_contiguous():  # what a folded operation has left
        return Value(_unfold(function(_fold(tensor)), call.members), "plain")
    return Value(function(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2]), "plain")


def pooled(module: Any, names: Names) -> Rule | None:
    """The rule of a pooling or padding module."""
    if getattr(module, "return_indices", False):
        return None
    axes, module = POOL_MODULES[type(module)], copy.copy(module)
    return lambda call, x: per_channel(module.forward, call, x, axes)


def _pool_function(function: Callable[..., Tensor], axes: int) -> Rule:
    def rule(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
        if kwargs.get("return_indices"):
            raise Unknown
        return per_channel(lambda tensor: function(tensor, *args, **kwargs), call, x, axes)

    return rule


CONVOLUTIONS = {
    getattr(home, name): _convolution_function(getattr(F, name))
    for home in (F, torch)
    for name in ("conv1d", "conv2d", "conv3d")
}
POOLS = {
    getattr(home, f"{kind}{axes}d"): _pool_function(getattr(home, f"{kind}{axes}d"), axes)
    for home in (F, torch)
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool")
    for axes in (1, 2, 3)
    if hasattr(home, f"{kind}{axes}d")
}


def batch_norm(module: Any, names: Names) -> Rule:
    """The rule of batch normalisation: members are channels of one call, on copies of the running statistics."""
    weight, bias = names.get("weight"), names.get("bias")
    mean, variance, count = (names.get(name) for name in ("running_mean", "running_var", "num_batches_tracked"))
    of_batch = module.training or mean is None
    update = module.training and mean is not None

    def rule(call: Call, x: Value) -> Value:
        folded, unfold = _channels_of_members(call, x)
        averages = [None if name is None else call.buffers[name].flatten() for name in (mean, variance)]
        if update:
            averages = [average.clone() for average in averages if average is not None]
        scale, shift = (None if name is None else call.tensor(name).flatten() for name in (weight, bias))
        factor = 1.0 if module.momentum is None else module.momentum
        result = F.batch_norm(
            folded, averages[0], averages[1], scale, shift, of_batch, factor if update else 0.0, module.eps
        )
        if update:
            _advance(call, {mean: averages[0], variance: averages[1]}, count, cumulative=module.momentum is None)
        return unfold(result)

    return rule


def _advance(call: Call, running: dict[Any, Any], count: str | None, cumulative: bool) -> None:
    """Put the new running statistics and count into the call; a cumulative mean where the momentum is None."""
    if count is not None:
        call.buffers[count] = call.buffers[count] + 1
    for name, new in running.items():
        old = call.buffers[name]
        new = new.view(old.shape)
        if cumulative:
            assert count is not None, "torch makes the three buffers together"
            new = old + (new - old) / call.buffers[count].unsqueeze(1)
        call.buffers[name] = new


def _channels_of_members(call: Call, x: Value) -> tuple[Tensor, Callable[[Tensor], Value]]:
    """The values as (rows, members · channels, …), and the way back."""
    members = call.members
    if x.rank == 2:
        last = x.tensor if x.layout == "last" else plain(x, members).transpose(1, 2)
        return last.reshape(1, -1, last.shape[2]), lambda result: Value(result.view(last.shape), "last")
    if x.rank < 2:
        raise Unknown
    return _fold(plain(x, members)), lambda result: Value(_unfold(result, members), "plain")
