"""Unchanged modules: losses from them, their buffers, modes and kernels."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from luthier import optim, response
from tests.response.problems import Tree, differences, error


def penalty(p: Tree, h: Tree) -> Tensor:
    return torch.stack([(h["penalty"].exp() * w.square()).sum() for w in p.values()]).sum()


HYPER = {"penalty": torch.tensor(-3.0).double()}


class Last(nn.Module):
    """The last output of a recurrent network."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0][:, -1]


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(80, 2))


MODELS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), (6, 4), 2),
    "norms": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2)), (6, 4), 2),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 2)), (6, 4), 2),
    "convolution": (convolution, (5, 1, 6, 6), 2),
    "lstm": (lambda: Last(nn.LSTM(4, 3, batch_first=True)), (5, 4, 4), 3),
    "gru": (lambda: Last(nn.GRU(4, 3, batch_first=True)), (5, 4, 4), 3),
    "transformer": (transformer, (4, 5, 16), 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_modules_have_products_and_stay_as_they_are(name: str) -> None:
    build, shape, outputs = MODELS[name]
    torch.manual_seed(0)
    model = build().double()
    inputs, target = torch.randn(shape).double(), torch.randn(shape[0], outputs).double()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    losses = response.functional(model, nn.functional.mse_loss, penalty)
    arguments = response.Problem(
        losses.train_loss, losses.valid_loss, losses.params, HYPER, [(inputs, target)], (inputs, -target)
    )
    state = torch.get_rng_state()
    found = response.implicit(arguments)  # warnings are errors: no fallback
    torch.set_rng_state(state)
    by_differences = response.implicit(arguments, products="finite_difference")
    assert error(found.total, by_differences.total) < 2e-2  # conjugate gradients on an indefinite Hessian amplify
    torch.set_rng_state(state)
    one = response.identity(arguments)
    torch.set_rng_state(state)
    assert error(response.finite_difference(arguments).total, one.total) < 1e-6
    response.unrolled(arguments, optimizer=optim.SGD(0.1), steps=3, memory="checkpoint")
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_batch_normalisation_is_differentiated_through_its_batch_and_validated_by_its_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)).double()
    model(torch.randn(64, 4).double())  # moves the running statistics away from their start
    losses = response.functional(model, nn.functional.mse_loss, penalty)
    train, valid = ((torch.randn(20, 4).double(), torch.randn(20, 1).double()) for _ in range(2))
    arguments = response.Problem(losses.train_loss, losses.valid_loss, losses.params, HYPER, [train], valid)
    result = response.unrolled(arguments, optimizer=optim.SGD(0.1, 0.9), steps=6)

    def after(hyper: Tree) -> Tensor:  # an ordinary training, validated with the statistics of the given model
        network = copy.deepcopy(model)
        optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
        for _ in range(6):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(network(train[0]), train[1])
            (loss + penalty(dict(network.named_parameters()), hyper)).backward()
            optimizer.step()
        network.load_state_dict({**network.state_dict(), **{k: b for k, b in model.named_buffers()}})
        return nn.functional.mse_loss(network.eval()(valid[0]), valid[1])

    assert error(result.total, differences(after, HYPER)) < 1e-8


def test_attention_fails_without_the_math_kernel_and_works_within() -> None:
    # The premise: the fused kernel has no second derivative.
    q = torch.randn(1, 2, 8, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(
        nn.functional.scaled_dot_product_attention(q, q, q).square().sum(), q, create_graph=True
    )
    with pytest.raises((RuntimeError, NotImplementedError), match="not implemented"):
        torch.autograd.grad(grad.sum(), q)

    def train(p: Tree, h: Tree, _: None) -> Tensor:
        x = p["x"]
        return nn.functional.scaled_dot_product_attention(x, x, x).square().sum() + h["c"] * x.square().sum()

    arguments = response.Problem(train, lambda p, h, _: p["x"].sum(), {"x": q.detach()}, {"c": torch.tensor(0.1)})
    assert torch.isfinite(response.implicit(arguments).total["c"])


def test_frozen_and_tied_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    losses = response.functional(model, nn.MSELoss(), penalty)
    assert set(losses.params) == {"0.weight", "2.bias"}
    batch = (torch.randn(9, 3).double(), torch.randn(9, 3).double())
    arguments = response.Problem(losses.train_loss, losses.valid_loss, losses.params, HYPER, [batch], batch)
    found = response.check(response.unrolled, arguments, optimizer=optim.SGD(0.1), steps=4)
    assert found.relative_error < 1e-8


def test_losses_with_hyperparameters_and_validation_without() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    seen = []

    def smoothed(output: Tensor, target: Tensor, hyper: Tree) -> Tensor:
        seen.append(sorted(hyper))
        smoothing = hyper["smoothing"] if hyper else 0.0
        logits = output.log_softmax(1)
        return -((1 - smoothing) * logits.gather(1, target[:, None]).mean() + smoothing * logits.mean())

    losses = response.functional(model, smoothed)
    batch = (torch.randn(30, 3).double(), torch.randint(4, (30,)))
    hyper = {"smoothing": torch.tensor(0.1).double()}
    other = (torch.randn(30, 3).double(), torch.randint(4, (30,)))
    arguments = response.Problem(losses.train_loss, losses.valid_loss, losses.params, hyper, [batch], other)
    found = response.check(response.unrolled, arguments, optimizer=optim.SGD(0.5), steps=5)
    assert found.relative_error < 1e-8
    assert [] in seen and ["smoothing"] in seen


def test_several_inputs_and_statistics_that_move_on() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.layer = nn.BatchNorm1d(2), nn.Linear(2, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(self.scale(a) * b)

    torch.manual_seed(0)
    model = Two()
    losses = response.functional(model, nn.functional.mse_loss)
    batch = ((torch.randn(8, 2) + 5, torch.ones(8, 2)), torch.zeros(8, 1))
    before = losses.valid_loss(losses.params, {}, batch)
    model(*batch[0])
    assert not torch.equal(losses.valid_loss(losses.params, {}, batch), before)
    model.eval()
    assert torch.equal(nn.functional.mse_loss(model(*batch[0]), batch[1]), losses.valid_loss(losses.params, {}, batch))
