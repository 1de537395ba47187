"""The derivative of dropout by its rate: exact for quadratic losses, and in the right direction for networks."""

from __future__ import annotations

import pytest
import torch
from stacked_models import Shift, Stacked, stacked_tensors
from torch import Tensor, nn

import luthier.nn
from luthier.data import digits
from luthier.stack import Noise

MEMBERS = 1500  # masks at a time


def noise(members: int, batch: int, differentiable: bool = True) -> Noise:
    return Noise(torch.arange(members) + batch * members, torch.zeros(members).long(), differentiable=differentiable)


def dropping(example: Tensor) -> Stacked:
    return Stacked(nn.Sequential(Shift(), luthier.nn.Dropout("rate")).to(example.dtype), example, {"rate": 0.5})


def shifts(members: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"0.by": torch.zeros(members, dtype=dtype)}


def rates(rate: float) -> Tensor:
    return torch.full((MEMBERS,), rate, dtype=torch.float64)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_it_is_exact_for_a_loss_that_is_quadratic_in_each_unit(rate: float) -> None:
    """E Σ (a x m / (1 - p) - b)² = Σ (a x - b)² + (a x)² p / (1 - p), whose derivative is Σ (a x)² / (1 - p)²."""
    stacked = dropping(torch.zeros(4, 50).double())
    x, b = torch.linspace(-1, 2, 50).double(), torch.linspace(1, -1, 50).double()
    leaf = rates(rate).requires_grad_()
    outputs, _ = stacked(shifts(MEMBERS, torch.float64), {}, x.expand(200, 50), {"rate": leaf}, noise(MEMBERS, 0))
    (found,) = torch.autograd.grad(((outputs - b).square().sum(2).mean(1)).sum(), leaf)
    expected = x.square().sum() / (1 - rate) ** 2
    deviation = found.std().item() / MEMBERS**0.5
    assert abs(found.mean().item() - expected.item()) < 4 * deviation and deviation < 0.01 * expected


def trained(steps: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), luthier.nn.Dropout("rate")),
        *(nn.Linear(32, 32), nn.ReLU(), luthier.nn.Dropout("rate"), nn.Linear(32, 10)),
    ).double()
    train = digits().train
    inputs, targets = train.inputs[:64].double(), train.targets[:64]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.eval()(inputs), targets).backward()
        optimizer.step()
    return model, inputs, targets


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_network_s_expected_loss_moves_that_way(rate: float) -> None:
    """Against finite differences of the mean over thousands of masks: the sign, and the size within a half."""
    model, inputs, targets = trained(30)
    params, buffers = stacked_tensors([model])
    params = {name: param.expand(MEMBERS, *param.shape[1:]).contiguous() for name, param in params.items()}
    stacked = Stacked(model, inputs, {"rate": 0.5})

    def losses(rate: Tensor, batch: int, differentiable: bool) -> Tensor:
        outputs, _ = stacked(params, buffers, inputs, {"rate": rate}, noise(MEMBERS, batch, differentiable))
        each = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.repeat(MEMBERS), reduction="none")
        return each.view(MEMBERS, -1).mean(1)

    step, difference, found = 0.02, 0.0, 0.0
    for batch in range(2):
        above, below = (losses(rates(rate + sign * step), batch, False).mean() for sign in (1, -1))
        difference += (above - below).item() / (2 * step) / 2
        leaf = rates(rate).requires_grad_()
        values = losses(leaf, batch, True)
        found += torch.autograd.grad(values.sum(), leaf)[0].mean().item() / 2
        assert torch.equal(values, losses(rates(rate), batch, False)), "the derivative changed a number"
    assert difference > 0.1 and 0.9 < found / difference < 1.2


def test_at_the_ends_it_is_finite() -> None:
    stacked = dropping(torch.zeros(4, 50))
    leaf = torch.tensor([0.0, 1e-6, 1.0], requires_grad=True)
    outputs, _ = stacked(shifts(3), {}, torch.ones(20, 50), {"rate": leaf}, noise(3, 0))
    (found,) = torch.autograd.grad(outputs.square().sum(), leaf)
    assert found.isfinite().all() and found[0] == 0, "where nothing is dropped there is nothing to differentiate"


def test_other_runs_have_no_derivative() -> None:
    stacked = dropping(torch.zeros(4, 5))
    leaf = torch.tensor([0.2], requires_grad=True)
    outputs, _ = stacked(shifts(1), {}, torch.ones(8, 5), {"rate": leaf}, noise(1, 0, differentiable=False))
    assert not outputs.requires_grad
