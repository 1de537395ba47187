"""Arithmetic that is the same for one member and for many.

Torch's vectorised kernels treat the last few elements of a tensor with other code than the rest, and MKL takes another
path for a batch of one vector product. :func:`aligned` and :func:`product` avoid both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LANES = 32  # two AVX-512 registers of float32: the unit of torch's vectorised loops, and a multiple of all smaller ones
SMALL = 400  # multiplications of a product that torch computes without MKL


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
    small = out * inner * batch < SMALL and x.device.type == "cpu"
    if small and not torch.is_autocast_enabled("cpu"):  # torch's own loops take several times as long
        result = (weight.unsqueeze(3) * x.unsqueeze(1)).sum(2)
        return result if bias is None else result + bias.unsqueeze(2)
    vectors = 1 in (out, inner, batch) and x.device.type == "cpu"
    if vectors and members == 1:  # MKL computes one vector product otherwise than one of several
        weight, x = weight.expand(2, -1, -1), x.expand(2, -1, -1)
        bias = None if bias is None else bias.expand(2, -1)
    result = torch.bmm(weight, x) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, x)
    # and by the strides of axes of length one: the gradient of a slice has those of a new tensor
    return result[:members] if vectors else result
