"""Unrolling through optimizers: against ordinary torch.optim trainings differenced in their hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import luthier.optim
from luthier import response
from luthier.errors import MethodError
from tests.response.problems import Tree, differences, error, flat, generator, network, normal

STEPS = 7
BATCHES = [(normal(generator(10 + i), 6, 3), normal(generator(20 + i), 6, 1)) for i in range(5)]
VALID = (normal(generator(30), 20, 3), normal(generator(31), 20, 1))
SHAPES = {"w1": (3, 4), "b1": (4,), "w2": (4, 1), "b2": (1,)}
PARAMS = {name: 0.5 * normal(generator(40 + i), *shape) for i, (name, shape) in enumerate(SHAPES.items())}


def output(p: Tree, x: Tensor) -> Tensor:
    return torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def train(p: Tree, h: Tree, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    penalty = sum((h["penalty"].exp() * w.square()).sum() for w in p.values())
    return (output(p, x) - y).square().mean() + penalty


def valid(p: Tree, h: Tree, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (output(p, x) - y).square().mean()


def ordinary(factory: Callable[..., torch.optim.Optimizer], hyper: Tree) -> Tree:
    """The same training as anybody writes it: torch.optim, floats, backward."""
    params = {name: w.clone().requires_grad_() for name, w in PARAMS.items()}
    settings = {name: h.item() for name, h in hyper.items() if name != "penalty"}
    beta = settings.pop("beta1", None)
    if beta is not None:
        settings["betas"] = (beta, 0.999)
    optimizer = factory(params.values(), **settings)
    for t in range(STEPS):
        optimizer.zero_grad()
        train(params, hyper, BATCHES[t % len(BATCHES)]).backward()
        optimizer.step()
    return {name: w.detach() for name, w in params.items()}


def knobs(**values: float) -> Tree:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in {"penalty": -3.0, **values}.items()}


def stock(cls: Callable[..., torch.optim.Optimizer], *names: str) -> Callable[[Tree, Tree], torch.optim.Optimizer]:
    return lambda params, hyper: cls(params.values(), **{name: hyper[name] for name in names})


SGD, Adam, optim = luthier.optim.SGD, luthier.optim.Adam, torch.optim
CASES: dict[str, tuple[Any, Callable[..., torch.optim.Optimizer], Tree]] = {
    "sgd": (SGD(), optim.SGD, knobs(lr=0.1, weight_decay=0.02)),
    "momentum": (
        SGD(),
        optim.SGD,
        knobs(lr=0.1, momentum=0.8, weight_decay=0.02),
    ),
    "nesterov": (
        SGD(nesterov=True),
        lambda p, **k: optim.SGD(p, nesterov=True, **k),
        knobs(lr=0.05, momentum=0.8, weight_decay=0.02),
    ),
    "adam": (
        Adam(),
        optim.Adam,
        knobs(lr=0.02, beta1=0.85, weight_decay=0.02),
    ),
    "adamw": (
        Adam(decoupled=True),
        optim.AdamW,
        knobs(lr=0.02, beta1=0.85, weight_decay=0.02),
    ),
    "stock sgd": (
        stock(optim.SGD, "lr", "momentum", "weight_decay"),
        optim.SGD,
        knobs(lr=0.1, momentum=0.8, weight_decay=0.02),
    ),
    "stock adam": (stock(optim.Adam, "lr"), optim.Adam, knobs(lr=0.02)),
    "stock adamw": (stock(optim.AdamW, "lr", "weight_decay"), optim.AdamW, knobs(lr=0.02, weight_decay=0.02)),
    "stock rmsprop": (
        lambda p, h: optim.RMSprop(p.values(), lr=0.01, momentum=0.5),
        lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5),
        knobs(),
    ),
    "stock nadam": (stock(optim.NAdam, "lr"), optim.NAdam, knobs(lr=0.02)),
    "stock radam": (stock(optim.RAdam, "lr"), optim.RAdam, knobs(lr=0.02)),
    "stock adagrad": (lambda p, h: optim.Adagrad(p.values(), 0.05), lambda p: optim.Adagrad(p, 0.05), knobs()),
    "stock adadelta": (lambda p, h: optim.Adadelta(p.values(), 0.5), lambda p: optim.Adadelta(p, 0.5), knobs()),
    "stock adamax": (lambda p, h: optim.Adamax(p.values(), 0.02), lambda p: optim.Adamax(p, 0.02), knobs()),
}


def unroll(optimizer: Any, hyper: Tree, **settings: Any) -> response.Hypergradient:
    settings = {"steps": STEPS, **settings}
    return response.unrolled(
        response.Problem(train, valid, PARAMS, hyper, BATCHES, VALID), optimizer=optimizer, **settings
    )


@pytest.mark.parametrize("memory", ["graph", "checkpoint", "trajectory"])
@pytest.mark.parametrize("case", CASES)
def test_hypergradient_through_an_optimizer(case: str, memory: str) -> None:
    optimizer, factory, hyper = CASES[case]
    result = unroll(optimizer, hyper, memory=memory)
    assert result.params is not None
    # torch.optim's differentiable Adams count steps in float32.
    counted = case in ("stock adam", "stock adamw", "stock nadam")
    assert error(result.params, ordinary(factory, hyper)) < (1e-5 if counted else 1e-12)
    if memory == "graph":

        def after(h: Tree) -> Tensor:
            return unroll(optimizer, h).valid_loss if counted else valid(ordinary(factory, h), h, VALID)

        steps = {name: 3e-4 * h.abs().item() for name, h in hyper.items()}
        expected = {
            name: differences(lambda x, n=name: after({**hyper, n: x[n]}), {name: h}, steps[name])[name]
            for name, h in hyper.items()
        }
    else:
        expected = unroll(optimizer, hyper).total
    for name in hyper:
        bound = 1e-8 if memory == "graph" else 1e-12
        assert error({"": result.total[name]}, {"": expected[name]}) < bound, name


def test_parameter_groups_of_a_stock_optimizer() -> None:
    def factory(params: Tree, hyper: Tree) -> torch.optim.Optimizer:
        biases = {"params": [w for name, w in params.items() if name.startswith("b")], "weight_decay": 0.0}
        weights = {"params": [w for name, w in params.items() if name.startswith("w")]}
        return torch.optim.SGD([weights, biases], lr=hyper["lr"], weight_decay=hyper["decay"])

    hyper = knobs(lr=0.1, decay=0.05)

    def after(h: Tree) -> Tensor:
        params = {name: w.clone().requires_grad_() for name, w in PARAMS.items()}
        optimizer = factory(params, {name: x.item() for name, x in h.items()})  # type: ignore[arg-type]
        for t in range(STEPS):
            optimizer.zero_grad()
            train(params, h, BATCHES[t % len(BATCHES)]).backward()
            optimizer.step()
        return valid(params, h, VALID)

    assert error(unroll(factory, hyper).total, differences(after, hyper)) < 1e-8


ZERO = {"adam": Adam(), "adamw": Adam(decoupled=True, weight_decay=0.01)}


def dead(p: Tree, h: Tree, _: None) -> Tensor:
    # The second weight's gradient is exactly zero at every step.
    return (p["w"] * torch.tensor([1.0, 0.0], dtype=torch.float64) - 1).square().sum() * h["scale"]


def seen(p: Tree, h: Tree, _: None) -> Tensor:
    return (p["w"] - 2).square().sum()


@pytest.mark.parametrize("name", ZERO)
def test_a_gradient_of_zero_does_not_give_nan(name: str) -> None:
    params = {"w": torch.tensor([0.2, 0.3], dtype=torch.float64)}
    hyper = {"lr": torch.tensor(0.05).double(), "scale": torch.tensor(0.7).double()}
    result = response.unrolled(response.Problem(dead, seen, params, hyper), optimizer=ZERO[name], steps=4)

    def after(h: Tree) -> Tensor:
        end = response.unrolled(response.Problem(dead, seen, params, h), optimizer=ZERO[name], steps=4).params
        assert end is not None
        return seen(end, h, None)

    # Adam does not feel the scale of the loss, so that this derivative is nearly zero: absolute errors.
    assert torch.allclose(flat(result.total), flat(differences(after, hyper, 1e-4)), rtol=1e-8, atol=1e-9)


def test_stock_adam_at_a_gradient_of_zero_raises() -> None:
    params = {"w": torch.tensor([0.2, 0.3], dtype=torch.float64)}
    hyper = {"lr": torch.tensor(0.05).double(), "scale": torch.tensor(0.7).double()}
    with pytest.raises(response.NonFiniteError, match=r"NaN.*optimizers of luthier\.optim"):
        response.unrolled(response.Problem(dead, seen, params, hyper), optimizer=stock(torch.optim.Adam, "lr"), steps=4)


@pytest.mark.parametrize("case", ["momentum", "adam", "stock adam"])
def test_truncation_and_windows(case: str) -> None:
    optimizer, _, hyper = CASES[case]
    full = unroll(optimizer, hyper)
    assert error(unroll(optimizer, hyper, truncate=STEPS + 3).total, full.total) == 0
    first = unroll(optimizer, hyper, steps=5)
    # The window's steps go on with the batches where the first five ended (there are five).
    second = response.unrolled(
        response.Problem(train, valid, first.params, hyper, BATCHES, VALID),
        optimizer=optimizer,
        steps=2,
        state=first.state,
    )
    assert second.params is not None and full.params is not None
    assert error(second.params, full.params) < 1e-14
    for memory in ("graph", "checkpoint", "trajectory"):
        cut = unroll(optimizer, hyper, truncate=2, memory=memory)
        assert cut.iterations == 2
        assert error(cut.total, second.total) < 1e-12
    assert error(cut.total, full.total) > 1e-3


def test_truncation_approaches_the_full_gradient_at_a_minimum() -> None:
    p = network()
    full = response.exact(p.problem).total
    rule = SGD(0.1)
    errors = [
        error(response.unrolled(p.problem, optimizer=rule, steps=400, truncate=k).total, full)
        for k in (10, 50, 200, 400)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("memory", ["graph", "checkpoint", "trajectory"])
def test_dropout_is_drawn_again_alike(memory: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)).double()
    losses = response.functional(
        model,
        torch.nn.functional.mse_loss,
        lambda p, h: sum((h["penalty"].exp() * w.square()).sum() for w in p.values()),
    )
    hyper = {"penalty": torch.tensor(-3.0).double()}
    settings: dict[str, Any] = {"optimizer": SGD(0.1, 0.5), "steps": 9}

    def run(hyper: Tree, **more: Any) -> response.Hypergradient:
        torch.manual_seed(1)
        return response.unrolled(
            response.Problem(losses.train_loss, losses.valid_loss, losses.params, hyper, BATCHES, VALID),
            **settings,
            **more,
        )

    result = run(hyper, memory=memory)
    after = torch.rand(1)
    assert torch.equal(after, (run(hyper), torch.rand(1))[1])  # the generators went on alike in each mode
    assert error(result.total, differences(lambda h: run(h).valid_loss, hyper)) < 1e-8
    by_differences = run(hyper, memory=memory, products="finite_difference")
    assert error(by_differences.total, result.total) < 1e-6


@pytest.mark.parametrize("case", ["momentum", "adamw", "stock adam"])
@pytest.mark.parametrize("memory", ["graph", "checkpoint", "trajectory"])
def test_without_second_derivatives(case: str, memory: str) -> None:
    optimizer, _, hyper = CASES[case]
    found = unroll(optimizer, hyper, products="finite_difference", memory=memory)
    assert error(found.total, unroll(optimizer, hyper).total) < 1e-6


def test_nothing_that_is_given_changes_and_no_grad_does_not_matter() -> None:
    optimizer, _, hyper = CASES["adam"]
    before = {**{k: w.clone() for k, w in PARAMS.items()}, **{k: h.clone() for k, h in hyper.items()}}
    expected = unroll(optimizer, hyper)
    with torch.no_grad():
        found = unroll(optimizer, hyper)
    assert error(found.total, expected.total) == 0
    assert all(torch.equal(x, {**PARAMS, **hyper}[k]) and not x.requires_grad for k, x in before.items())
    assert not any(x.requires_grad for x in [*found.total.values(), *(found.params or {}).values(), found.valid_loss])


def test_adjoint_growth_shows_an_exploding_unroll() -> None:
    p = network()
    calm = response.unrolled(p.problem, optimizer=SGD(0.1), steps=30).adjoint_growth
    wild = response.unrolled(
        response.Problem(p.train, p.valid, {k: w + 0.01 for k, w in p.params.items()}, p.hyper),
        optimizer=SGD(2.0),
        steps=30,
    ).adjoint_growth
    assert calm is not None and wild is not None and calm < 1 and wild > 100


@pytest.mark.parametrize("cls", [optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Adamax])
def test_stock_optimizers_that_take_no_tensor(cls: Callable[..., torch.optim.Optimizer]) -> None:
    with pytest.raises(MethodError, match=rf"{cls.__name__} cannot take a tensor.*luthier.optim.SGD"):
        unroll(stock(cls, "lr"), knobs(lr=0.05))


def test_a_stock_optimizer_that_cuts_its_learning_rate_off_is_refused() -> None:
    with pytest.raises(MethodError, match=r"^lr: "):
        unroll(stock(optim.ASGD, "lr"), knobs(lr=0.05))


def test_dampening_is_refused() -> None:
    with pytest.raises(MethodError, match="dampening cannot be differentiated"):
        unroll(lambda p, h: optim.SGD(p.values(), 0.1, momentum=0.5, dampening=0.1), knobs())


def test_optimizers_step_as_torch_optim_with_all_settings() -> None:
    # Settings that the cases above leave at their defaults.
    for rule, factory in (
        (Adam(0.02, 0.8, 0.95, 0.1, eps=1e-3), lambda p: optim.Adam(p, 0.02, (0.8, 0.95), 1e-3, 0.1)),
        (Adam(0.02, 0.8, 0.95, 0.1, eps=1e-3, decoupled=True), lambda p: optim.AdamW(p, 0.02, (0.8, 0.95), 1e-3, 0.1)),
        (SGD(0.02, 0.9, 0.1, nesterov=True), lambda p: optim.SGD(p, 0.02, 0.9, 0, 0.1, True)),
    ):
        expected = ordinary(lambda p, factory=factory: factory(p), knobs())
        found = unroll(rule, knobs()).params
        assert found is not None and error(found, expected) < 1e-12


@pytest.mark.parametrize("rule", [SGD(momentum=0.5, clip_norm=0.3), Adam(clip_norm=0.3), Adam()], ids=str)
def test_clipping_and_a_weight_that_is_a_single_number(rule: Any) -> None:
    params = {"a": torch.tensor(0.4).double(), "b": torch.tensor([[0.2, -0.7]]).double()}
    hyper = {"lr": torch.tensor(0.05).double(), "scale": torch.tensor(0.9).double()}

    def train(p: Tree, h: Tree, _: None) -> Tensor:
        return (p["a"] - h["scale"]).square() + ((p["b"] - p["a"] - 1).square() * h["scale"]).sum()

    def valid(p: Tree, h: Tree, _: None) -> Tensor:
        return p["a"].square() + p["b"].sum()

    def by_torch(h: Tree) -> Tensor:
        leaves = {name: w.clone().requires_grad_() for name, w in params.items()}
        rate = h["lr"].item()
        kind = optim.Adam(leaves.values(), rate) if isinstance(rule, Adam) else optim.SGD(leaves.values(), rate, 0.5)
        for _ in range(5):
            kind.zero_grad()
            train(leaves, h, None).backward()
            if rule.clip_norm:
                torch.nn.utils.clip_grad_norm_(leaves.values(), rule.clip_norm)
            kind.step()
        return valid(leaves, h, None).detach()

    found = response.unrolled(response.Problem(train, valid, params, hyper), optimizer=rule, steps=5)
    assert found.params is not None and found.params["a"].shape == () and found.params["b"].shape == (1, 2)
    assert torch.allclose(found.valid_loss, by_torch(hyper), rtol=1e-12)
    assert error(found.total, differences(by_torch, hyper, 1e-5)) < 1e-6
