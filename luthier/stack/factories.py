"""Tensors that a member's code makes, as tensors of each member's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor  # type: ignore[import-not-found]
from torch.overrides import TorchFunctionMode

MAKERS = frozenset(
    getattr(home, name)
    for home, names in (
        (torch, ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like", "eye")),
        (Tensor, ("new_empty", "new_zeros", "new_ones", "new_full")),
    )
    for name in names
)


class Factories(TorchFunctionMode):
    """Makes what ``torch.zeros`` and its like return differ by member, as far as vmap can see.

    vmap refuses to write a member's values, or its random numbers, into a tensor that all members share; code such as
    ``out = torch.zeros(n); out[0] = x`` does so.

    Args:
        member: A scalar that differs by member, inside vmap.
    """

    def __init__(self, member: Tensor) -> None:
        super().__init__()
        self._zero = member * 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func not in MAKERS or is_batchedtensor(made):
            return made
        zero = self._zero.to(made.dtype)
        return made | zero if made.dtype == torch.bool else made + zero
