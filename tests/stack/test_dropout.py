"""Dropout of a stack draws from each member's own noise; what would draw from torch's generator is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import luthier.nn
from luthier.errors import TaskError
from luthier.stack import Noise, stack_module, stack_parameters

torch.set_num_threads(1)


def noise(members: int, step: int = 0) -> Noise:
    return Noise(torch.arange(members) + 10, torch.full((members,), step))


class Shaped(nn.Module):
    """Torch.fx cannot follow it, so the network within runs by vmap."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if x.shape[0] > 0 else x


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
    return stack_parameters(modules)


def step(make: Callable[[], nn.Module], count: int, rate: Tensor, own: Noise, rows: int = 7) -> list[Tensor]:
    """Outputs and gradients of a training step."""
    params, buffers = members(make, count)
    stacked = stack_module(make(), torch.zeros(4, 4), training=True)
    leaves = [param.requires_grad_() for param in params.values()]
    inputs = torch.linspace(-1, 1, rows * 4).view(rows, 4)
    outputs, _ = stacked(params, buffers, inputs, {"rate": rate}, own)
    return [outputs, *torch.autograd.grad(outputs.square().sum(), leaves)]


def test_dropout_scales_what_it_keeps_by_each_member_s_rate() -> None:
    rates = torch.tensor([0.0, 0.3, 0.8, 1.0])
    stacked = stack_module(luthier_only(), torch.ones(4, 50), training=True)
    outputs, _ = stacked({}, {}, torch.ones(200, 50), {"rate": rates}, noise(4))
    for output, rate in zip(outputs, rates, strict=True):
        kept = output[output != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - float(rate)) if rate < 1 else 0))
        assert abs(len(kept) / output.numel() - (1 - float(rate))) < 0.02
    assert stacked.hyperparameters == {"rate"}


def luthier_only() -> nn.Module:
    return nn.Sequential(luthier.nn.Dropout("rate"))


def test_a_fixed_rate_is_the_hyperparameter_at_that_value() -> None:
    inputs = torch.randn(8, 5)
    fixed = stack_module(nn.Sequential(nn.Dropout(0.3)), inputs, training=True)
    named = stack_module(luthier_only(), inputs, training=True)
    own = noise(3, step=4)
    assert torch.equal(
        fixed({}, {}, inputs, {}, own)[0],
        named({}, {}, inputs, {"rate": torch.full((3,), 0.3, dtype=torch.float64)}, own)[0],
    )


def test_masks_are_those_of_the_noise() -> None:
    inputs, own = torch.randn(8, 5), noise(3)
    stacked = stack_module(nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.4), nn.Dropout(0.2)), inputs, training=True)
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
    stacked = stack_module(network(), torch.zeros(4, 4), training=True)
    inputs = torch.linspace(-1, 1, rows * 4).view(rows, 4)
    for k in range(3):
        leaves = {name: param[k : k + 1].requires_grad_() for name, param in params.items()}
        own = Noise(torch.tensor([10 + k]), torch.tensor([5]))
        outputs, _ = stacked(
            leaves, {n: b[k : k + 1] for n, b in buffers.items()}, inputs, {"rate": rate[k : k + 1]}, own
        )
        gradients = torch.autograd.grad(outputs.square().sum(), list(leaves.values()))
        for a, b in zip(together, (outputs, *gradients), strict=True):
            torch.testing.assert_close(a[k], b[0], rtol=0, atol=0)


def test_vmap_drops_the_same_as_the_rewritten_form() -> None:
    rate = torch.tensor([0.1, 0.5, 0.9])
    assert stack_module(Shaped(network()), torch.zeros(4, 4), training=True).form == "vmap"
    rewritten, mapped = step(network, 3, rate, noise(3)), step(lambda: Shaped(network()), 3, rate, noise(3))
    for a, b in zip(rewritten, mapped, strict=True):
        torch.testing.assert_close(a, b)


def test_a_trace_follows_step_and_rate() -> None:
    params, buffers = members(network, 3)
    stacked = stack_module(network(), torch.zeros(4, 4), training=True)
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
    stacked = stack_module(network(), torch.zeros(4, 4), training=False)
    outputs, _ = stacked(params, buffers, torch.ones(3, 4))
    plain = network().eval()
    plain.load_state_dict({name: tensor[1] for name, tensor in {**params, **buffers}.items()})
    torch.testing.assert_close(outputs[1], plain(torch.ones(3, 4)))


def test_missing_noise_and_rates_are_named() -> None:
    stacked = stack_module(luthier_only(), torch.ones(4, 2), training=True)
    with pytest.raises(TaskError, match=r"model, 0: dropout is active and there is no noise"):
        stacked({}, {}, torch.ones(4, 2), {"rate": torch.ones(2)})
    with pytest.raises(TaskError, match=r"Dropout\('rate'\): there is no hyperparameter 'rate'. The stack has lr"):
        stacked({}, {}, torch.ones(4, 2), {"lr": torch.ones(2)}, noise(2))


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


class Draws(nn.Module):
    """Draws from torch's generator in one of several ways."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.draw = nn.Linear(4, 4), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(self.layer(x)) if self.training else self.layer(x)


ENCODER = {"d_model": 4, "nhead": 2, "dim_feedforward": 8, "batch_first": True}


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), Draws(F.dropout)), r"model, 1 \(Draws\)"),
        (lambda: Draws(lambda x: x + torch.randn(1)), r"model, forward \(Draws\)"),
        (lambda: Draws(torch.rand_like), r"model, forward \(Draws\)"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.AlphaDropout(0.5)), r"model, 1 \(AlphaDropout\)"),
        (lambda: nn.Sequential(nn.RReLU(), nn.Linear(4, 4)), r"model, 0 \(RReLU\)"),
        (lambda: nn.TransformerEncoderLayer(**ENCODER), r"model, self_attn \(MultiheadAttention\)"),
        (lambda: nn.Sequential(nn.LSTM(4, 4, num_layers=2, dropout=0.5)), r"model, 0 \(LSTM\)"),
    ],
)
def test_draws_from_torch_s_generator_are_refused(make: Callable[[], nn.Module], where: str) -> None:
    rows = torch.randn(3, 5, 4)
    before = torch.get_rng_state()
    module = make()
    state = torch.get_rng_state()
    with pytest.raises(TaskError, match=where + r".*generator.*nn\.Dropout\(rate\) or lt\.nn\.Dropout\(name\)"):
        stack_module(module, rows, training=True)
    assert torch.equal(state, torch.get_rng_state())
    stack_module(module, rows, training=False)
    torch.set_rng_state(before)


class Remembers(nn.Module):
    def __init__(self, remember: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__()
        self.layer, self.remember = nn.Linear(4, 4), remember
        self.calls, self.seen = 0, []
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.remember(self, x)
        return self.layer(x)


@pytest.mark.parametrize(
    ("remember", "name"),
    [
        (lambda module, x: setattr(module, "calls", module.calls + 1), "calls"),
        (lambda module, x: module.seen.append(len(x)), "seen"),
        (lambda module, x: setattr(module, "last", x.detach().clone()), "last"),
    ],
)
def test_forward_that_changes_attributes_is_refused(remember: Callable[[nn.Module, Tensor], None], name: str) -> None:
    with pytest.raises(TaskError, match=rf"changes the attribute '0.{name}'.*register_buffer"):
        stack_module(nn.Sequential(Remembers(remember)), torch.randn(3, 4), training=True)


def test_a_cache_filled_once_is_allowed() -> None:
    def remember(module: nn.Module, x: Tensor) -> None:
        if module.last is None:
            module.last = torch.ones(4)

    assert stack_module(Remembers(remember), torch.randn(3, 4), training=True).form == "rewritten"


def test_a_forward_that_fails_is_named() -> None:
    with pytest.raises(TaskError, match=r"forward fails on inputs of shape \(3, 5\): RuntimeError: mat1 and mat2"):
        stack_module(nn.Linear(4, 4), torch.randn(3, 5), training=True)
