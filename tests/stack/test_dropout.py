"""Dropout of a stack draws from each member's own noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from stacked_models import Shift, Stacked, stacked_tensors
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import luthier.nn
from luthier.errors import TaskError
from luthier.stack import Noise

torch.set_num_threads(1)


def noise(members: int, step: int = 0) -> Noise:
    return Noise(torch.arange(members) + 10, torch.full((members,), step))


def network() -> nn.Module:
    """One layer used twice, a rate that is a hyperparameter, and whole channels."""
    drop = nn.Dropout(0.25)
    return nn.Sequential(
        *(nn.Linear(4, 6), drop, nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 6), drop),
        *(nn.Unflatten(1, (3, 2)), nn.Dropout1d(0.5), nn.Flatten(), luthier.nn.Dropout("rate"), nn.Linear(6, 2)),
    )


def members(make: Callable[[], nn.Module], count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    modules = []
    for number in range(count):
        torch.manual_seed(number)
        modules.append(make())
    return stacked_tensors(modules)


def step(make: Callable[[], nn.Module], count: int, rate: Tensor, own: Noise, rows: int = 7) -> list[Tensor]:
    """Losses and gradients of a training step."""
    params, buffers = members(make, count)
    stacked = Stacked(make(), torch.zeros(4, 4), {"rate": 0.5})
    leaves = [param.requires_grad_() for param in params.values()]
    inputs = torch.linspace(-1, 1, rows * 4).view(rows, 4)
    losses, _ = stacked(params, buffers, inputs, {"rate": rate}, own, wanted="loss")
    return [losses, *torch.autograd.grad(losses.sum(), leaves)]


def test_dropout_scales_what_it_keeps_by_each_member_s_rate() -> None:
    rates = torch.tensor([0.0, 0.3, 0.8, 1.0])
    stacked, params = shift_then_drop()
    outputs, _ = stacked(params, {}, torch.zeros(200, 50), {"rate": rates}, noise(4))
    for output, rate in zip(outputs, rates, strict=True):
        kept = output[output != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - float(rate)) if rate < 1 else 0))
        assert abs(len(kept) / output.numel() - (1 - float(rate))) < 0.02
    assert stacked.network.hyperparameters == {"rate"}


def shift_then_drop() -> tuple[Stacked, dict[str, Tensor]]:
    model = nn.Sequential(Shift(), luthier.nn.Dropout("rate"))
    return Stacked(model, torch.ones(4, 50), {"rate": 0.5}), {"0.by": torch.ones(4)}


def test_a_fixed_rate_is_the_hyperparameter_at_that_value() -> None:
    inputs, own = torch.randn(8, 5), noise(3, step=4)
    fixed = Stacked(nn.Sequential(Shift(), nn.Dropout(0.3)), inputs)
    named = Stacked(nn.Sequential(Shift(), luthier.nn.Dropout("rate")), inputs, {"rate": 0.5})
    params = {"0.by": torch.arange(3.0)}
    rates = {"rate": torch.full((3,), 0.3, dtype=torch.float64)}
    torch.testing.assert_close(fixed(params, {}, inputs, {}, own)[0], named(params, {}, inputs, rates, own)[0])


def test_masks_are_those_of_the_noise() -> None:
    inputs, own = torch.randn(8, 5), noise(3)
    stacked = Stacked(nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.4), nn.Dropout(0.2)), inputs)
    params, buffers = members(lambda: nn.Sequential(nn.Linear(5, 6)), 3)
    outputs, _ = stacked(params, buffers, inputs, {}, own)
    expected = torch.stack([F.linear(inputs, w, b) for w, b in zip(params["0.weight"], params["0.bias"], strict=True)])
    for site, rate in enumerate((0.4, 0.2)):
        expected = expected * (own.uniform(site, (8, 6)) >= rate) / (1 - rate)
    torch.testing.assert_close(outputs, expected)


@pytest.mark.parametrize("rows", [7, 32])
def test_a_member_alone_drops_what_it_drops_in_a_stack(rows: int) -> None:
    rate = torch.tensor([0.1, 0.5, 0.9])
    together = step(network, 3, rate, noise(3, 5), rows)
    params, buffers = members(network, 3)
    stacked = Stacked(network(), torch.zeros(4, 4), {"rate": 0.5})
    inputs = torch.linspace(-1, 1, rows * 4).view(rows, 4)
    for k in range(3):
        leaves = {name: param[k : k + 1].requires_grad_() for name, param in params.items()}
        own = Noise(torch.tensor([10 + k]), torch.tensor([5]))
        state, knobs = {n: b[k : k + 1] for n, b in buffers.items()}, {"rate": rate[k : k + 1]}
        losses, _ = stacked(leaves, state, inputs, knobs, own, wanted="loss")
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        for a, b in zip(together, (losses, *gradients), strict=True):
            torch.testing.assert_close(a[k], b[0], rtol=0, atol=0)


def test_a_trace_follows_step_and_rate() -> None:
    params, buffers = members(network, 3)
    stacked = Stacked(network(), torch.zeros(4, 4), {"rate": 0.5})
    inputs = torch.linspace(-1, 1, 28).view(7, 4)

    def outputs(rate: Tensor, key: Tensor, done: Tensor) -> Tensor:
        return stacked(params, buffers, inputs, {"rate": rate}, Noise(key, done))[0]

    first = torch.full((3,), 0.5), torch.arange(3), torch.zeros(3, dtype=torch.int64)
    traced = make_fx(outputs, tracing_mode="real")(*first)
    second = torch.full((3,), 0.2), torch.arange(3) + 9, torch.full((3,), 6)
    assert torch.equal(traced(*second), outputs(*second))
    assert not torch.equal(outputs(*first), outputs(first[0], first[1], second[2]))


def test_evaluation_drops_nothing_and_needs_no_noise() -> None:
    params, buffers = members(network, 2)
    stacked = Stacked(network(), torch.zeros(4, 4), {"rate": 0.5})
    outputs, _ = stacked(params, buffers, torch.ones(3, 4), {"rate": torch.full((2,), 0.5)}, training=False)
    plain = network().eval()
    plain.load_state_dict({name: tensor[1] for name, tensor in {**params, **buffers}.items()})
    torch.testing.assert_close(outputs[1], plain(torch.ones(3, 4)))


def test_a_missing_rate_is_named() -> None:
    with pytest.raises(TaskError, match=r"Dropout\('rate'\): there is no hyperparameter 'rate'. The stack has lr"):
        Stacked(network(), torch.zeros(4, 4), {"lr": 0.1})


def test_the_layer_outside_a_stack_is_torch_s_dropout() -> None:
    layer = luthier.nn.Dropout("rate", p=0.25)
    torch.manual_seed(0)
    mine = layer(torch.ones(1000))
    torch.manual_seed(0)
    assert torch.equal(mine, nn.Dropout(0.25)(torch.ones(1000)))
    assert torch.equal(layer.eval()(torch.ones(5)), torch.ones(5)) and repr(layer) == "Dropout('rate')"
    with pytest.raises(TaskError, match=r"0.5 is not the name.*nn.Dropout\(0.5\)"):
        luthier.nn.Dropout(0.5)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"p=2 is outside"):
        luthier.nn.Dropout("rate", p=2)
