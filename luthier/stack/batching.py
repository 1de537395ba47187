"""Batching rules for operators of torch that have none.

Most of these are composite: torch has their C++ decomposition, and vmap needs only to be told to run it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

aten = torch.ops.aten
KEY = "FuncTorchBatched"
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@functools.cache
def install() -> torch.library.Library:
    """Register the rules, once a process: of operators that have no rule, so that nothing else changes."""
    vmap(torch.neg)(torch.zeros(1))  # loads rules that torch has in Python
    library = torch.library.Library("aten", "IMPL")
    for name, rule in RULES.items():
        library.impl(name, rule, KEY)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in torch._C._dispatch_get_all_op_names():
        base, _, overload = name.removeprefix("aten::").partition(".")
        if not name.startswith("aten::") or name.removeprefix("aten::") in RULES:
            continue
        known = has(name, KEY) or has(name, "FuncTorchBatchedDecomposition")
        operator = getattr(getattr(aten, base, None), overload or "default", None)
        if operator is None or known or not has(name, "CompositeImplicitAutograd"):
            continue
        if not any(argument.is_out for argument in operator._schema.arguments):
            # not operator.decompose: torch's Python decompositions of LSTM and GRU leave their dropout out
            library.impl(name.removeprefix("aten::"), functools.partial(operator._op_dk, COMPOSITE), KEY)
    return library


def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    if scale_grad_by_freq or include_last_offset:
        raise NotImplementedError("embedding_bag with these settings")
    bags = offsets.shape[0]
    bag = (
        torch.searchsorted(offsets.contiguous(), torch.arange(indices.shape[0], device=indices.device), right=True) - 1
    )
    rows = torch.nn.functional.embedding(indices, weight)
    padded = None if padding_idx is None or padding_idx < 0 else padding_idx
    keep = torch.ones_like(indices, dtype=weight.dtype) if padded is None else (indices != padded).to(weight.dtype)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    if mode == 2:
        low = weight.new_full((bags, weight.shape[1]), -torch.inf)
        rows = torch.where(keep[:, None] > 0, rows, -torch.inf)
        result = low.scatter_reduce(0, bag[:, None].expand_as(rows), rows, "amax")
        result = torch.where(result.isinf(), 0.0, result)
    else:
        result = weight.new_zeros(bags, weight.shape[1]).index_add(0, bag, rows * keep[:, None])
        if mode == 1:
            result = result / weight.new_zeros(bags).index_add(0, bag, keep).clamp(min=1)[:, None]
    nothing = torch.empty(0)
    return result, bag, nothing, nothing


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    result = torch.einsum("...i,oij,...j->...o", x, weight, y)
    return result if bias is None else result + bias


RULES = {
    "_weight_norm": lambda v, g, dim=0: v * (g / torch.norm_except_dim(v, 2, dim)),
    "bilinear": _bilinear,
    "embedding_bag.padding_idx": _embedding_bag,
    "embedding_bag": lambda w, i, o, f=False, m=0, s=False, p=None, last=False: _embedding_bag(
        w, i, o, f, m, s, p, last
    ),
    "div.out": lambda x, y, *, out: out.copy_(torch.div(x, y)),  # F.normalize(out=…), of spectral_norm
}
