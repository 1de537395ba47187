"""Rules that run each known module and function for all members at once, in the layout that suits it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.stack.choices import Mask, narrow
from luthier.stack.dropout import Site, drop
from luthier.stack.layout import Call, Names, Rule, Unknown, Value, fills_registers, plain, pointwise, product
from luthier.stack.spatial import (
    BATCH_NORMS,
    CONVOLUTION_MODULES,
    CONVOLUTIONS,
    POOL_MODULES,
    POOLS,
    batch_norm,
    convolution,
    pooled,
)

# Elementwise functions that give an element the same bits wherever it lies: arithmetic, and those that torch computes
# with one vector library from end to end (tests/stack/test_rewrite.py measures it).
EXACT = (
    *("relu relu6 leaky_relu threshold hardtanh hardsigmoid hardswish tanh tanhshrink softsign logsigmoid").split(),
    *("neg abs sign square sqrt rsqrt reciprocal exp log log1p expm1 sin cos erf clamp clip where maximum").split(),
    *("minimum add sub subtract mul multiply div divide true_divide eq ne lt le gt ge").split(),
    *("logical_and logical_or logical_not isnan nan_to_num").split(),
)
APPROXIMATE = "gelu silu mish elu selu celu softplus exp2 pow log2 tan atan sinh cosh erfc erfinv softshrink".split()
OPERATORS = {
    **{
        getattr(operator, name): getattr(operator, name)
        for name in "add sub mul truediv neg abs lt le gt ge eq ne".split()
    },
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
EXACT_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Threshold, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Tanh),
    *(nn.Tanhshrink, nn.Softsign, nn.LogSigmoid),
)
APPROXIMATE_MODULES = (
    *(nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Softshrink, nn.Hardshrink),
)


def elementwise(function: Callable[..., Tensor], exact: bool) -> Rule:
    """The rule of an elementwise function; never in place, since other readers may hold the value."""

    def rule(call: Call, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("inplace", None)
        if not any(isinstance(argument, Value) for argument in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        return pointwise(function, call, *args, exact=exact, **kwargs)

    return rule


def sigmoid(call: Call, x: Value) -> Value:
    """``torch.sigmoid``, or where a member does not fill vector registers a form of functions that do not care."""
    if x.layout == "shared" or fills_registers(x.tensor):
        return Value(torch.sigmoid(x.tensor), x.layout)
    return Value(F.logsigmoid(x.tensor).exp(), x.layout)


def linear(call: Call, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """``F.linear``: one batched product with the batch last; shared inputs are read by all members in place."""
    if weight.layout == "shared":
        raise Unknown
    matrix = plain(weight, call.members)
    offset = None if bias is None else plain(bias, call.members)
    return product_of(call, x, matrix, offset)


def product_of(call: Call, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """``x @ weight.T + bias`` for stacked tensors."""
    if x.layout == "last":
        return Value(product(weight, x.tensor, bias), "last")
    if x.rank < 2:
        raise Unknown
    tensor = plain(x, call.members)  # (members, batch, …, in)
    inner = tensor.shape[1:-1]
    flat = tensor if len(inner) == 1 else tensor.flatten(1, -2)
    result = product(weight, flat.transpose(1, 2), bias)
    if len(inner) == 1:
        return Value(result, "last")
    return Value(result.transpose(1, 2).unflatten(1, inner), "plain")


def layer_norm(
    call: Call, x: Value, shape: Any, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5
) -> Value:
    """``F.layer_norm``; scale and shift apart, since they differ by member."""
    tensor = plain(x, call.members)
    result = F.layer_norm(tensor, list(shape), eps=eps)
    for function, given in ((torch.mul, weight), (torch.add, bias)):
        if given is not None:
            own = plain(given, call.members)
            ones = (1,) * (tensor.ndim - own.ndim)
            result = function(result, own.reshape(len(own), *ones, *own.shape[1:]))
    return Value(result, "plain")


def embedding(
    call: Call,
    x: Value,
    weight: Value,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    """``F.embedding``: one table of all members' rows."""
    if weight.layout == "shared" or max_norm is not None or scale_grad_by_freq or sparse:
        raise Unknown
    table = plain(weight, call.members)  # (members, rows, width)
    index = plain(x, call.members)
    offset = torch.arange(call.members, device=index.device) * table.shape[1]
    rows = F.embedding(index + offset.view(-1, *(1,) * (index.ndim - 1)), table.flatten(0, 1))
    if padding_idx is not None:  # read, but not trained
        rows = torch.where((index == padding_idx % table.shape[1]).unsqueeze(-1), rows.detach(), rows)
    return Value(rows, "plain")


def softmax(function: Callable[..., Tensor]) -> Rule:
    """The rule of ``softmax`` or ``log_softmax`` along one axis."""

    def rule(call: Call, x: Value, dim: int | None = None, **kwargs: Any) -> Value:
        kwargs.pop("_stacklevel", None)
        if dim is None or kwargs.get("dtype") is not None:
            raise Unknown
        if x.layout == "last" and dim in (1, -1):
            return Value(function(x.tensor, 1), "last")
        return _at(function, x, call, (dim,))

    return rule


def along(function: Callable[..., Tensor], axes: int) -> Rule:
    """The rule of a function whose first ``axes`` arguments after the tensor, or ``dim``, name axes of a member."""

    def rule(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
        if "dim" in kwargs:
            args = (kwargs.pop("dim"), *args)
        numbers = [n for given in args[:axes] for n in (given if isinstance(given, tuple | list) else (given,))]
        if len(args) < axes or not numbers or not all(isinstance(n, int) for n in numbers):
            raise Unknown
        return _at(function, x, call, args, axes, **kwargs)

    return rule


def _at(
    function: Callable[..., Tensor], x: Value, call: Call, args: tuple[Any, ...], axes: int = 1, **kwargs: Any
) -> Value:
    """``function`` with its axes counted behind the members' axis."""
    if x.layout == "shared":
        return Value(function(x.tensor, *args, **kwargs), "shared")

    def behind(axis: Any) -> Any:
        return type(axis)(map(behind, axis)) if isinstance(axis, tuple | list) else axis + (axis >= 0)

    tensor = plain(x, call.members)
    return Value(function(tensor, *map(behind, args[:axes]), *args[axes:], **kwargs), "plain")


def flatten(call: Call, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """``torch.flatten``; nothing to do for a matrix whose batch stays."""
    if start_dim == 1 and end_dim in (-1, 1) and x.rank == 2:
        return x
    return _at(torch.flatten, x, call, (start_dim, end_dim), axes=2)


def reshape(call: Call, x: Value, *shape: Any) -> Value:
    """``view`` and ``reshape``: the members' axis stays in front."""
    sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if not all(isinstance(size, int) for size in sizes):  # view(dtype)
        raise Unknown
    if x.layout == "shared":
        return Value(x.tensor.reshape(sizes), "shared")
    return Value(plain(x, call.members).reshape(call.members, *sizes), "plain")


def concatenate(call: Call, tensors: Any, dim: int = 0) -> Value:
    """``torch.cat``."""
    if not all(isinstance(tensor, Value) for tensor in tensors):
        raise Unknown
    if all(tensor.layout == "shared" for tensor in tensors):
        return Value(torch.cat([tensor.tensor for tensor in tensors], dim), "shared")
    if dim in (1, -1) and all(tensor.rank == 2 for tensor in tensors) and any(t.layout == "last" for t in tensors):
        return Value(torch.cat([plain(t, call.members).transpose(1, 2) for t in tensors], 1), "last")
    return Value(torch.cat([plain(tensor, call.members) for tensor in tensors], dim + (dim >= 0)), "plain")


def index(call: Call, x: Any, key: Any) -> Any:
    """``x[key]`` by integers and slices; also of tuples and shapes."""
    if not isinstance(x, Value):
        return operator.getitem(x, key)
    keys = key if isinstance(key, tuple) else (key,)
    if not all(k is None or k is Ellipsis or isinstance(k, int | slice) for k in keys):
        raise Unknown
    if x.layout == "shared":
        return Value(x.tensor[keys], "shared")
    return Value(plain(x, call.members)[(slice(None), *keys)], "plain")


def inactive_dropout(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
    """``F.dropout`` in evaluation: where it is active the model is refused before it comes to this."""
    return x


def question(function: Callable[..., Any]) -> Rule:
    """The rule of ``size``, ``dim``, …: asked of one member's tensor."""

    def rule(call: Call, x: Any, *args: Any, **kwargs: Any) -> Any:
        return function(x.member() if isinstance(x, Value) else x, *args, **kwargs)

    return rule


def attribute(call: Call, x: Any, name: str) -> Any:
    """``x.shape`` and its like."""
    if name not in ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "layout"):
        raise Unknown
    return getattr(x.member() if isinstance(x, Value) else x, name)


def unchanged(call: Call, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Identity, ``contiguous``: the layout is ours to choose."""
    return x


def _functions() -> dict[Any, Rule]:
    rules: dict[Any, Rule] = {function: elementwise(target, True) for function, target in OPERATORS.items()}
    for names, exact in ((EXACT, True), (APPROXIMATE, False)):
        for name in names:
            for home in (torch, F):
                if hasattr(home, name):
                    rules[getattr(home, name)] = elementwise(getattr(home, name), exact)
            if hasattr(Tensor, name):
                rules[name] = elementwise(getattr(Tensor, name), exact)
    rules[operator.pow] = elementwise(operator.pow, False)
    for name, axes in {"unsqueeze": 1, "squeeze": 1, "transpose": 2, "mean": 1, "sum": 1, "amax": 1, "amin": 1}.items():
        rules[name] = along(getattr(Tensor, name), axes)
        rules[getattr(torch, name)] = along(getattr(torch, name), axes)
    for name in ("softmax", "log_softmax"):
        rule = softmax(getattr(torch, name))
        rules |= {name: rule, getattr(torch, name): rule, getattr(F, name): rule}
    for name in ("size", "dim", "numel", "__len__"):
        rules[name] = question(getattr(Tensor, name))
    rules |= {len: question(len), torch.numel: question(torch.numel), getattr: attribute, operator.getitem: index}
    rules |= {torch.flatten: flatten, "flatten": flatten, torch.reshape: reshape, "reshape": reshape, "view": reshape}
    rules |= {F.linear: linear, F.layer_norm: layer_norm, torch.layer_norm: layer_norm, F.embedding: embedding}
    rules |= {torch.cat: concatenate, torch.concat: concatenate, "contiguous": unchanged, F.dropout: inactive_dropout}
    rules |= {torch.sigmoid: sigmoid, F.sigmoid: sigmoid, torch.special.expit: sigmoid, "sigmoid": sigmoid}
    rules |= POOLS | CONVOLUTIONS
    return rules


FUNCTIONS = _functions()


def module_rule(module: nn.Module, names: Names) -> Rule | None:
    """The rule of one module of the model, or None where there is none.

    Args:
        module: A leaf: torch's own, or luthier's dropout.
        names: Its parameters and buffers by their names in the model.
    """
    kind = type(module)
    if kind in EXACT_MODULES or kind in APPROXIMATE_MODULES:
        module = copy.copy(module)
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
        return elementwise(module.forward, kind in EXACT_MODULES)
    rule = MODULES.get(kind)
    return None if rule is None else rule(module, names)


def own(call: Call, names: Names) -> tuple[Value | None, Value | None]:
    """A module's weight and bias, None where it has none."""
    weight, bias = names.get("weight"), names.get("bias")
    return (
        None if weight is None else Value(call.tensor(weight), "plain"),
        None if bias is None else Value(call.tensor(bias), "plain"),
    )


def _linear_module(module: nn.Linear, names: Names) -> Rule:
    weight, bias = names["weight"], names.get("bias")
    if bias is None:
        return lambda call, x: product_of(call, x, call.tensor(weight), None)
    return lambda call, x: product_of(call, x, call.tensor(weight), call.tensor(bias))


def _embedding_module(module: nn.Embedding, names: Names) -> Rule:
    settings = (module.padding_idx, module.max_norm, module.norm_type, module.scale_grad_by_freq, module.sparse)
    return lambda call, x: embedding(call, x, Value(call.tensor(names["weight"]), "plain"), *settings)


MODULES: dict[type[nn.Module], Callable[[Any, Names], Rule | None]] = {
    nn.Identity: lambda module, names: unchanged,
    nn.Sigmoid: lambda module, names: sigmoid,
    nn.Linear: _linear_module,
    nn.Embedding: _embedding_module,
    nn.LayerNorm: lambda m, names: lambda call, x: layer_norm(call, x, m.normalized_shape, *own(call, names), m.eps),
    nn.Flatten: lambda m, names: lambda call, x: flatten(call, x, m.start_dim, m.end_dim),
    nn.Softmax: lambda m, names: lambda call, x: FUNCTIONS[torch.softmax](call, x, m.dim),
    nn.LogSoftmax: lambda m, names: lambda call, x: FUNCTIONS[torch.log_softmax](call, x, m.dim),
    Site: lambda module, names: lambda call, x: drop(module, call, x),
    Mask: lambda module, names: lambda call, x: narrow(module, call, x),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    **dict.fromkeys(CONVOLUTION_MODULES, convolution),
    **dict.fromkeys(POOL_MODULES, pooled),
}
