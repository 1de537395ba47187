"""The two forms of a convolution, and pooling and normalisation of what each leaves in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.stack.layout import Call, Value, plain
from luthier.stack.rules import module_rule
from luthier.stack.spatial import grouped, in_turn

torch.set_num_threads(1)
MEMBERS = 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run_of(buffers: dict[str, Tensor] | None = None) -> Call:
    return Call({}, buffers or {}, {}, None, MEMBERS)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("own", [False, True], ids=["shared batch", "own batches"])
@pytest.mark.parametrize(("function", "axes"), [(F.conv1d, 1), (F.conv2d, 2), (F.conv3d, 3)])
def test_grouped_equals_one_after_the_other(
    function: Callable[..., Tensor], axes: int, own: bool, groups: int, bias: bool
) -> None:
    weight = randn(MEMBERS, 6, 4 // groups, *[3] * axes).requires_grad_()
    offset = randn(MEMBERS, 6).requires_grad_() if bias else None
    x = randn(*([MEMBERS] if own else []), 2, 4, *[7] * axes, seed=1).requires_grad_()
    settings: tuple[Any, ...] = (2, 1, 1, groups)
    leaves = [leaf for leaf in (weight, offset, x) if leaf is not None]
    results = []
    for form in (in_turn, grouped):
        result = form(function, run_of(), Value(x, "plain" if own else "shared"), weight, offset, settings)
        tensor = plain(result, MEMBERS)
        slope = torch.arange(tensor.numel()).view(tensor.shape).cos()
        results.append([tensor, *torch.autograd.grad((tensor * slope).sum(), leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("folded", [False, True], ids=["members first", "batch first"])
@pytest.mark.parametrize(
    "make",
    [lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(3, 1), lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.BatchNorm2d(4)],
)
def test_what_follows_a_convolution_takes_both_orders_in_memory(make: Callable[[], nn.Module], folded: bool) -> None:
    module = make().double()
    x = randn(MEMBERS, 5, 4, 6, 6)
    if folded:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    names = {name: name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    call = run_of({n: torch.stack([b] * MEMBERS) for n, b in module.named_buffers()})
    call.params = {n: torch.stack([p] * MEMBERS) for n, p in module.named_parameters()}
    rule = module_rule(module, names)
    assert rule is not None
    found = plain(rule(call, Value(x, "plain")), MEMBERS)
    for k in range(MEMBERS):
        alone = make().double()
        torch.testing.assert_close(found[k], alone(x[k]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close({n: b[k] for n, b in call.buffers.items()}, dict(alone.named_buffers()))
