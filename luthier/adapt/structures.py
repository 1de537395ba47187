"""Hypernetworks: the weights of a network as a function of its hyperparameters, over stacks, as free functions.

Every structure is two functions of one signature, in a :class:`Structure`::

    init(params, count, noise, rank, hidden) -> response
    weights(params, response, x) -> params of every sample

``params`` are the network's own weights, (members, …) by name, and the output at x = 0: a fresh response is flat, so
training starts from the network as its author initialised it. ``x``, (members, samples, count), is where to look, as
the difference of the hyperparameters from a centre, on a scale without bounds.

============ ========================================= ==================== ================================
structure    w(x) is, for weights w₀ and count n       numbers beside w₀    for
============ ========================================= ==================== ================================
`linear`     w₀ + J x                                  n |w|                a few hyperparameters
`low_rank`   w₀ + U (V x / √n), of ``rank`` columns    rank (|w| + n)       thousands: cheap, and hardly right
`gated`      w₀ + (Q x) ⊙ w₁, one gate an output       |w| + n outputs      a few, of large networks
`mlp`        w₀ + U (relu(V x / √n + b) - relu(b)) /√h h (|w| + n + 1)      a few, over their whole range
============ ========================================= ==================== ================================

References:
    Lorraine and Duvenaud 2018, Stochastic hyperparameter optimization through hypernetworks (linear, low_rank, mlp);
    MacKay et al. 2019, Self-tuning networks, eq. 9 and 10 (gated).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.optim.common import Tensors
from luthier.stack import Noise
from luthier.stack.layout import product

MOST_LINEAR = 2_000_000  # numbers of a linear response under "auto": some megabytes, and milliseconds a step
MOST_GATED = 50  # hyperparameters under "auto": beyond it two samples a step no longer tell how weights respond
REACH = 2.0  # the units of an mlp bend within this distance of the centre: no point of a domain lies farther


class Structure(NamedTuple):
    """One form of the response.

    Args:
        init: (params (1, …), count, noise, rank, hidden) -> a flat response.
        weights: (params (members, …), response (members, …), x (members, samples, count)) -> by name, the weights of
            every sample, (members · samples, …).
        moved: (response, step (members, count)) -> the response of the same function about a centre that lies
            ``step`` further; the params there are ``weights`` at ``step``.
    """

    init: Callable[[Tensors, int, Noise, int, int], Tensors]
    weights: Callable[[Tensors, Tensors, Tensor], Tensors]
    moved: Callable[[Tensors, Tensor], Tensors]


def linear_init(params: Tensors, count: int, noise: Noise, rank: int, hidden: int) -> Tensors:
    """J = 0."""
    return _columns(params, count)


def linear_weights(params: Tensors, response: Tensors, x: Tensor) -> Tensors:
    """w₀ + J x."""
    return _affine(params, response, x)


def low_rank_init(params: Tensors, count: int, noise: Noise, rank: int, hidden: int) -> Tensors:
    """U = 0 and V standard normal."""
    return {**_columns(params, rank), "codes": noise.normal(0, (rank, count), dtype=_dtype(params))}


def low_rank_weights(params: Tensors, response: Tensors, x: Tensor) -> Tensors:
    """w₀ + U V x / √n."""
    return _affine(params, response, _codes(response["codes"], x))


def gated_init(params: Tensors, count: int, noise: Noise, rank: int, hidden: int) -> Tensors:
    """Q = 0 and w₁ normal, as large as weights are; of vectors (biases, scales) the gate is the response itself."""
    vectors = {name: param for name, param in params.items() if param.ndim <= 2}
    response = _columns(vectors, count) if vectors else {}
    for site, (name, param) in enumerate(params.items()):
        if name not in vectors:
            shape = tuple(param.shape[1:])
            response[f"gate {name}"] = param.new_zeros((1, count, shape[0]))
            response[f"direction {name}"] = noise.normal(site, shape, dtype=param.dtype) / math.sqrt(
                math.prod(shape[1:])
            )
    return response


def gated_weights(params: Tensors, response: Tensors, x: Tensor) -> Tensors:
    """w₀ + (Q x) ⊙ w₁: the rows of a weight, one an output or channel, are scaled as wholes."""
    vectors = {name: param for name, param in params.items() if f"gate {name}" not in response}
    found = _affine(vectors, response, x) if vectors else {}
    for name, param in params.items():
        if name in vectors:
            continue
        gate = product(x, response[f"gate {name}"], None)  # (members, samples, outputs)
        gate = gate.reshape(*gate.shape, *(1,) * (param.ndim - 2))
        weight = torch.addcmul(param.unsqueeze(1), gate, response[f"direction {name}"].unsqueeze(1))
        found[name] = weight.flatten(0, 1)
    return {name: found[name] for name in params}


def mlp_init(params: Tensors, count: int, noise: Noise, rank: int, hidden: int) -> Tensors:
    """U = 0, V standard normal, and b such that the units bend everywhere within reach."""
    codes = noise.normal(0, (hidden, count), dtype=_dtype(params))
    bends = (2 * noise.uniform(1, (hidden,), dtype=codes.dtype) - 1) * REACH
    return {**_columns(params, hidden), "codes": codes, "bends": bends * codes.square().mean(2).sqrt()}


def mlp_weights(params: Tensors, response: Tensors, x: Tensor) -> Tensors:
    """w₀ + U (relu(V x / √n + b) - relu(b)) / √h."""
    bends = response["bends"].unsqueeze(1)
    units = (_codes(response["codes"], x) + bends).relu() - bends.relu()
    return _affine(params, response, units * (1 / math.sqrt(bends.shape[2])))


def mlp_moved(response: Tensors, step: Tensor) -> Tensors:
    """The bends, seen from the new centre."""
    return {**response, "bends": response["bends"] + _codes(response["codes"], step.unsqueeze(1)).squeeze(1)}


def unmoved(response: Tensors, step: Tensor) -> Tensors:
    """A response that is linear in x looks the same from everywhere."""
    return response


STRUCTURES = {
    "linear": Structure(linear_init, linear_weights, unmoved),
    "low_rank": Structure(low_rank_init, low_rank_weights, unmoved),
    "gated": Structure(gated_init, gated_weights, unmoved),
    "mlp": Structure(mlp_init, mlp_weights, mlp_moved),
}


def choose(params: Tensors, count: int, *, everywhere: bool) -> str:
    """The structure that ``"auto"`` stands for.

    Args:
        params: The network's weights.
        count: Hyperparameters, each element of a vector one.
        everywhere: True if the response is learnt over the whole range, where it is not linear.

    Raises:
        MethodError: If none can learn so many.
    """
    numbers = size(params)
    if everywhere and count <= MOST_GATED:
        return "mlp"
    if count * numbers <= MOST_LINEAR and count <= MOST_GATED:
        return "linear"
    if count <= MOST_GATED:
        return "gated"
    raise MethodError(
        f"{count} hyperparameters and {numbers} weights: a hypernetwork would not learn how the weights respond",
        where="Hypernet(structure='auto')",
        remedy="Use lt.adapt.Bilevel(), which is for thousands; or ask for structure='low_rank' in spite of it.",
    )


def size(params: Tensors) -> int:
    """Numbers of one member."""
    return sum(param[0].numel() for param in params.values())


def _dtype(params: Tensors) -> torch.dtype:
    return next(iter(params.values())).dtype


def _columns(params: Tensors, count: int) -> Tensors:
    """Zeros, (1, count, numbers): all weights side by side, so that a response is one product and one update."""
    like = next(iter(params.values()))
    return {"columns": like.new_zeros((1, count, size(params)))}


def _codes(codes: Tensor, x: Tensor) -> Tensor:
    """V x / √n, (members, samples, rank)."""
    return _Rows.apply(x, codes, True) * (1 / math.sqrt(codes.shape[2]))


def _affine(params: Tensors, response: Tensors, z: Tensor) -> Tensors:
    """w₀ + U z of every sample, z (members, samples, columns)."""
    moved = _Rows.apply(z, response["columns"], False)  # (members, samples, numbers)
    parts = moved.split([param[0].numel() for param in params.values()], dim=2)
    return {
        name: (param.reshape(len(param), 1, -1) + part).reshape(-1, *param.shape[1:])
        for (name, param), part in zip(params.items(), parts, strict=True)
    }


class _Rows(torch.autograd.Function):
    """``rows @ matrix``, or ``rows @ matrixᵀ``, for each member, with derivatives made for few rows.

    Recorded from :func:`product` itself, the gradient of one row by a large matrix would be computed twice and summed.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(rows, matrix)
        ctx.transposed = transposed
        return product(rows, matrix.mT if transposed else matrix, None)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (gradient,) = grad_outputs
        rows, matrix = ctx.saved_tensors
        of_rows = of_matrix = None
        if ctx.needs_input_grad[0]:
            of_rows = product(gradient, matrix if ctx.transposed else matrix.mT, None)
        if ctx.needs_input_grad[1]:
            left, right = (gradient, rows) if ctx.transposed else (rows, gradient)
            of_matrix = left.mT * right if rows.shape[1] == 1 else product(left.mT, right, None)
        return of_rows, of_matrix, None
