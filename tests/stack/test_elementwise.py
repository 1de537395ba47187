"""Every elementwise function gives a member the same bits alone and in a stack, wherever it lies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.stack.layout import Call, Layout, Value
from luthier.stack.rules import APPROXIMATE, EXACT, FUNCTIONS

torch.set_num_threads(1)
CALL = Call({}, {}, {}, None, 5)
TWO = {
    "where",
    "maximum",
    "minimum",
    "add",
    "sub",
    "subtract",
    "mul",
    "multiply",
    "div",
    "divide",
    "true_divide",
    "pow",
}
ARGUMENTS = {"leaky_relu": (0.1,), "threshold": (0.1, 0.2), "clamp": (-0.5, 0.5), "clip": (-0.5, 0.5)}
COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "isnan"}
UNARY = [name for name in (*EXACT, *APPROXIMATE, "sigmoid") if name not in TWO | COMPARISONS]
POSITIVE = {"sqrt", "rsqrt", "log", "log2", "log1p"}


def rule_of(name: str) -> tuple[object, object]:
    function = getattr(F, name, None) or getattr(torch, name)
    return function, FUNCTIONS[function]


@pytest.mark.parametrize("layout", ["plain", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", UNARY)
def test_a_member_has_the_same_bits_alone_and_stacked(name: str, dtype: torch.dtype, layout: Layout) -> None:
    function, rule = rule_of(name)
    assert callable(function) and callable(rule)
    generator = torch.Generator().manual_seed(0)

    def run(x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        result = rule(CALL, Value(x, layout), *ARGUMENTS.get(name, ())).tensor
        return result, torch.autograd.grad(result, x, slope)[0] if result.requires_grad else result

    for axes in ((1, 1), (3, 7), (10, 13), (4, 64)):
        x = torch.randn(5, *axes, generator=generator, dtype=dtype) * 0.6
        x = x.abs() + 0.1 if name in POSITIVE else x.clamp(-0.9, 0.9) if name == "erfinv" else x
        slope = torch.randn(5, *axes, generator=generator, dtype=dtype)
        together = run(x, slope)
        tolerance = 1e-6 if dtype is torch.float32 else 1e-13
        torch.testing.assert_close(together[0], function(x, *ARGUMENTS.get(name, ())), rtol=tolerance, atol=tolerance)
        for k in range(5):
            for a, b in zip(together, run(x[k : k + 1].clone(), slope[k : k + 1].clone()), strict=True):
                assert torch.equal(a[k], b[0]), f"member {k} of {axes}"


def shaped(rank: int, layout: Layout) -> tuple[Value, Tensor]:
    """A value whose one member has the axes (6, 3), (3,) or (), and the members' own tensors."""
    generator = torch.Generator().manual_seed(rank)
    shape = (6, 3)[2 - rank :]
    if layout == "shared":
        tensor = torch.randn(shape, generator=generator)
        return Value(tensor, "shared"), tensor.expand(5, *shape)
    tensor = torch.randn(5, *shape, generator=generator)
    if layout == "last":
        return Value(tensor.transpose(1, 2).contiguous(), "last"), tensor
    return Value(tensor, "plain"), tensor


LAYOUTS: list[tuple[int, Layout]] = [
    *((rank, "shared") for rank in (0, 1, 2)),
    *((rank, "plain") for rank in (0, 1, 2)),
    (2, "last"),
]


@pytest.mark.parametrize("right", LAYOUTS, ids=str)
@pytest.mark.parametrize("left", LAYOUTS, ids=str)
def test_broadcasting_is_that_of_one_member(left: tuple[int, Layout], right: tuple[int, Layout]) -> None:
    (a, own_a), (b, own_b) = shaped(*left), shaped(*right)
    found = FUNCTIONS[torch.sub](CALL, a, b)
    tensor = found.tensor.transpose(1, 2) if found.layout == "last" else found.tensor
    expected = torch.stack([x - y for x, y in zip(own_a, own_b, strict=True)])
    assert torch.equal(tensor.expand_as(expected), expected)
    if found.layout == "shared":
        assert a.layout == b.layout == "shared"
