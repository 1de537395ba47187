"""A stack computes what each member's own module computes, alone, stacked and traced."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import pytest
import torch
from stacked_models import MODELS, Model, Stacked, batch, made, stacked_tensors, total
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.stack.layout import product
from luthier.task.made import unstack_into

torch.set_num_threads(1)
NAMES = list(MODELS)


def tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def run(
    stacked: Stacked, params: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, training: bool = True
) -> tuple[Any, list[Tensor], dict[str, Tensor]]:
    """Outputs, gradients and new buffers of a stack."""
    leaves = {name: param.detach().requires_grad_() for name, param in params.items()}
    outputs, buffers = stacked(leaves, buffers, inputs, training=training)
    losses = [total([leaf[k] for leaf in tensors(outputs)]) for k in range(len(next(iter(params.values()))))]
    gradients = torch.autograd.grad(
        torch.stack(losses).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return outputs, list(gradients), buffers


def alone(module: nn.Module, inputs: Tensor, training: bool) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """The same of one member's own module."""
    module = copy.deepcopy(module).train(training)
    outputs = module(inputs)
    gradients = torch.autograd.grad(
        total(outputs), list(module.parameters()), allow_unused=True, materialize_grads=True
    )
    return [leaf.detach() for leaf in tensors(outputs)], list(gradients), dict(module.named_buffers())


@functools.cache
def stacked_of(name: str, dtype: torch.dtype = torch.float32) -> Stacked:
    model = MODELS[name]
    return Stacked(model.make().to(dtype), example(model, dtype))


def example(model: Model, dtype: torch.dtype = torch.float32) -> Tensor:
    return batch(model, 4, dtype=dtype, seed=9)


@pytest.mark.parametrize("own", [False, True], ids=["shared batch", "own batches"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_a_stack_equals_each_module_alone(name: str, dtype: torch.dtype, training: bool, own: bool) -> None:
    model = MODELS[name]
    members = made(model, 3, dtype)
    stacked = stacked_of(name, dtype)
    assert stacked.form == model.form, stacked.network.execution.why
    inputs = batch(model, *((3, 6) if own else (6,)), dtype=dtype)
    outputs, gradients, buffers = run(stacked, *stacked_tensors(members), inputs, training)
    tolerance = 1e-12 if dtype is torch.float64 else 5e-6
    for k, module in enumerate(members):
        expected = alone(module, inputs[k] if own else inputs, training)
        found = (
            [leaf[k] for leaf in tensors(outputs)],
            [g[k] for g in gradients],
            {n: b[k] for n, b in buffers.items()},
        )
        for mine, theirs in zip(found[:2], expected[:2], strict=True):
            scale = max(1.0, *(float(tensor.abs().max()) for tensor in theirs))
            for a, b in zip(mine, theirs, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)
        torch.testing.assert_close(found[2], expected[2], rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("rows", [128, 7, 1])
@pytest.mark.parametrize("own", [False, True], ids=["shared batch", "own batches"])
@pytest.mark.parametrize("name", NAMES)
def test_a_stack_of_five_equals_five_stacks_of_one_bit_for_bit(name: str, own: bool, rows: int) -> None:
    model = MODELS[name]
    params, buffers = stacked_tensors(made(model, 5, torch.float32))
    stacked = stacked_of(name)
    if name in ("unusual norms", "batch norm", "branches on shape", "untraceable part") and rows == 1:
        rows = 2  # batch normalisation has no statistics of one row
    inputs = batch(model, *((5, rows) if own else (rows,)), dtype=torch.float32)
    for training in (False, True)[: 1 if rows == 1 else 2]:
        together = run(stacked, params, buffers, inputs, training)
        for k in range(5):
            one = [{n: t[k : k + 1].clone() for n, t in given.items()} for given in (params, buffers)]
            single = run(stacked, one[0], one[1], inputs[k : k + 1].clone() if own else inputs, training)
            for a, b in zip(tensors(together), tensors(single), strict=True):
                assert torch.equal(a[k], b[0]), f"member {k}, {tuple(a.shape)}, training={training}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("view", ["batch last", "batch first", "shared"])
def test_products_of_any_shape_are_equal_alone_and_stacked(view: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    for inner, out, rows in itertools.product((1, 2, 5, 20, 130), (1, 3, 32, 70), (1, 2, 7, 64, 300)):
        weight, bias, slope = randn(5, out, inner), randn(5, out), randn(5, rows, out)
        x = randn(5, inner, rows) if view == "batch last" else randn(5, rows, inner).transpose(1, 2)

        def results(
            members: slice, weight: Tensor = weight, bias: Tensor = bias, slope: Tensor = slope, x: Tensor = x
        ) -> list[Tensor]:
            leaves = [tensor[members].clone().requires_grad_() for tensor in (weight, bias)]
            if view == "shared":
                inputs = x[0].expand(len(leaves[0]), *x.shape[1:])
            else:
                inputs = x[members].detach().requires_grad_()
                leaves.append(inputs)
            result = product(leaves[0], inputs, leaves[1]).transpose(1, 2)
            return [result, *torch.autograd.grad((result * slope[members]).sum(), leaves)]

        together = results(slice(None))
        for k in (0, 3):
            for a, b in zip(together, results(slice(k, k + 1)), strict=True):
                assert torch.equal(a[k], b[0]), f"{out} x {inner} by {inner} x {rows}, {tuple(a.shape)}"


@pytest.mark.parametrize("name", NAMES)
def test_a_member_of_nan_leaves_the_others_bit_identical(name: str) -> None:
    model = MODELS[name]
    params, buffers = stacked_tensors(made(model, 3, torch.float32))
    inputs = batch(model, 6, dtype=torch.float32)
    stacked = stacked_of(name)
    healthy = run(stacked, params, buffers, inputs)
    spoilt = run(stacked, {n: p.index_fill(0, torch.tensor(1), torch.nan) for n, p in params.items()}, buffers, inputs)
    assert any(leaf[1].isnan().any() for leaf in tensors(spoilt[0]))
    for a, b in zip(tensors(healthy), tensors(spoilt), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])


@pytest.mark.parametrize("name", [name for name in NAMES if MODELS[name].form != "loop"])
def test_a_traced_gradient_equals_the_eager_one_bit_for_bit(name: str) -> None:
    model = MODELS[name]
    stacked = stacked_of(name)
    params, buffers = stacked_tensors(made(model, 3, torch.float32))

    def step(params: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Any:
        return run(stacked, params, buffers, inputs)

    first, second = batch(model, 6, dtype=torch.float32), batch(model, 6, dtype=torch.float32, seed=1)
    traced = make_fx(step, tracing_mode="real")(params, buffers, first)
    changed = {name: param * 0.7 for name, param in params.items()}
    for a, b in zip(tensors(traced(changed, buffers, second)), tensors(step(changed, buffers, second)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["784-128-10", "batch norm", "own buffer", "tied"])
def test_nothing_given_is_changed(name: str) -> None:
    model = MODELS[name]
    module = model.make().eval()
    before = copy.deepcopy(module)
    params, buffers = stacked_tensors(made(model, 2))
    kept = copy.deepcopy((params, buffers))
    inputs = batch(model, 6)
    stacked = Stacked(module, example(model))
    _, new = stacked(params, buffers, inputs)
    torch.testing.assert_close((params, buffers), kept, rtol=0, atol=0)
    torch.testing.assert_close(dict(module.state_dict()), dict(before.state_dict()), rtol=0, atol=0)
    assert not module.training and new.keys() == buffers.keys()
    assert torch.equal(inputs, batch(model, 6))


def test_one_member_may_be_loaded_back_into_a_module() -> None:
    model = MODELS["cnn, batch norm"]
    members = made(model, 3)
    params, buffers = stacked_tensors(members)
    loaded = unstack_into(model.make().double(), params, buffers, row=1).eval()
    inputs = batch(model, 5)
    assert torch.equal(loaded(inputs), members[1].eval()(inputs))


def test_second_derivatives_pass_through_a_stack() -> None:
    model, stacked = MODELS["batch norm"], stacked_of("batch norm", torch.float64)
    params, buffers = stacked_tensors(made(model, 2))
    leaves = [param.requires_grad_() for param in params.values()]
    inputs = batch(model, 6)

    def slope(*values: Tensor) -> Tensor:
        outputs, _ = stacked(dict(zip(params, values, strict=True)), buffers, inputs)
        gradients = torch.autograd.grad(outputs.square().sum(), values, create_graph=True)
        return torch.stack([(g * torch.ones_like(g).cumsum(0)).sum() for g in gradients]).sum()

    assert torch.autograd.gradcheck(slope, leaves, atol=1e-4)


def test_batch_sizes_other_than_the_example_s() -> None:
    model, stacked = MODELS["functions"], stacked_of("functions", torch.float64)
    members = made(model, 2)
    for rows in (1, 2, 33):
        inputs = batch(model, rows)
        outputs, _ = stacked(*stacked_tensors(members), inputs)
        torch.testing.assert_close(outputs, torch.stack([m.eval()(inputs) for m in members]), rtol=0, atol=1e-12)


def test_a_module_of_another_architecture_is_refused() -> None:
    with pytest.raises(TaskError, match="'bias' has shape none in the module"):
        unstack_into(nn.Linear(3, 2, bias=False), *stacked_tensors([nn.Linear(3, 2)]))
