"""What is refused, warned of, or reported: never a silently wrong, zero or NaN gradient."""

from __future__ import annotations

import functools
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier import optim, response
from luthier.errors import LuthierError, MethodError
from tests.response.problems import Tree, error, network, ridge

PARAMS = {"w": torch.tensor([1.0, -2.0]).double()}
HYPER = {"penalty": torch.tensor([0.5, 0.5]).double()}


def train(p: Tree, h: Tree, batch: Any) -> Tensor:
    return (p["w"] - 1).square().sum() + (h["penalty"] * p["w"].square()).sum()


def valid(p: Tree, h: Tree, batch: Any) -> Tensor:
    return (p["w"] - 2).square().sum()


METHODS = {
    "exact": response.exact,
    "cg": response.implicit,
    "neumann": functools.partial(response.implicit, solver="neumann"),
    "identity": response.identity,
    "finite_difference": response.finite_difference,
    "unrolled": functools.partial(response.unrolled, optimizer=optim.SGD(0.1), steps=3),
}
methods = pytest.mark.parametrize("name", METHODS)
implicit_methods = pytest.mark.parametrize("name", [name for name in METHODS if name != "unrolled"])


@implicit_methods
def test_a_learning_rate_has_no_implicit_response(name: str) -> None:
    hyper = {**HYPER, "lr": torch.tensor(0.1).double()}
    with pytest.raises(MethodError, match=r"^lr: .*unrolled.*hypergradient descent"):
        METHODS[name](response.Problem(train, valid, PARAMS, hyper))


def test_unrolling_refuses_what_enters_nothing() -> None:
    unread = response.Problem(train, valid, PARAMS, {**HYPER, "rate": torch.tensor(0.1).double()})
    with pytest.raises(MethodError, match=r"^rate: "):
        METHODS["unrolled"](unread)
    read = response.Problem(train, valid, PARAMS, {**HYPER, "lr": torch.tensor(0.1).double()})
    assert METHODS["unrolled"](read).total["lr"] != 0  # in the place of the optimizer's own
    wide = response.Problem(train, valid, PARAMS, {**HYPER, "lr": torch.tensor([0.1, 0.1]).double()})
    with pytest.raises(MethodError, match=r"^lr: it must be one number, got shape \(2,\)"):
        METHODS["unrolled"](wide)


def test_a_hyperparameter_that_shifts_the_loss_has_no_response() -> None:
    with pytest.raises(MethodError, match=r"^shift: "):
        response.implicit(
            response.Problem(
                lambda p, h, b: train(p, h, b) + h["shift"], valid, PARAMS, {**HYPER, "shift": torch.tensor(1.0)}
            )
        )


@methods
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyper": {"layers": torch.tensor(3)}}, r"hyper\['layers'\]: is a torch.int64 tensor.*genetic"),
        ({"hyper": {"penalty": 0.5}}, r"hyper\['penalty'\]: is 0.5"),
        ({"hyper": {"activation": "relu"}}, r"hyper\['activation'\]: is 'relu'"),
        ({"hyper": {}}, "hyper: is empty"),
        ({"params": {}}, "params: is empty"),
        ({"params": {"w": torch.tensor([1, 2])}}, r"params\['w'\]: is a torch.int64"),
        ({"train_batches": (1, 2)}, r"train_batches: is a tuple.*\[batch\]"),
        ({"train_batches": []}, "train_batches: is an empty list"),
        ({"train_loss": lambda p, h, b: p["w"].reshape(1, 2)}, r"train_loss: returned shape \(1, 2\)"),
        ({"valid_loss": lambda p, h, b: 0.3}, "valid_loss: returned 0.3"),
        ({"valid_loss": lambda p, h, b: torch.tensor(1.0)}, "valid_loss: does not depend on the weights"),
        ({"train_loss": lambda p, h, b: torch.tensor(1.0)}, "train_loss: does not depend on the weights"),
        ({"valid_loss": lambda p, h, b: p["w"]}, "loss: returned shape"),
    ],
)
def test_wrong_arguments(name: str, changes: dict[str, Any], message: str) -> None:
    arguments = {"train_loss": train, "valid_loss": valid, "params": PARAMS, "hyper": HYPER, **changes}
    with pytest.raises(MethodError, match=message):
        METHODS[name](response.Problem(**arguments))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (response.implicit, {"solver": "gmres"}, "solver must be 'cg' or 'neumann', got 'gmres'"),
        (response.implicit, {"iterations": -1}, "implicit: iterations must be an integer ≥ 0, got -1"),
        (response.implicit, {"damping": -0.1}, "damping must be a finite number ≥ 0, got -0.1"),
        (response.implicit, {"damping": float("nan")}, "damping must be .* got nan"),
        (response.implicit, {"tolerance": -1.0}, "tolerance must be .* got -1.0"),
        (response.implicit, {"alpha": 0.0}, "alpha must be a finite number > 0, got 0.0"),
        (response.implicit, {"alpha": "best"}, "alpha must be .* got 'best'"),
        (response.implicit, {"power_iterations": 0}, "power_iterations must be .* got 0"),
        (response.implicit, {"products": "forward"}, "products must be .* got 'forward'"),
        (response.implicit, {"radius": 0.0}, "radius must be a finite number > 0 or None, got 0.0"),
        (response.identity, {"alpha": -1.0}, "identity: alpha must be .* got -1.0"),
        (METHODS["unrolled"], {"memory": "disk"}, "memory must be .* got 'disk'"),
        (METHODS["unrolled"], {"steps": 0}, "unrolled: steps must be an integer ≥ 1, got 0"),
        (METHODS["unrolled"], {"truncate": 0}, "truncate must be .* got 0"),
        (METHODS["unrolled"], {"products": "forward"}, "products must be"),
        (METHODS["unrolled"], {"optimizer": torch.optim.SGD}, "optimizer: is <class"),
        (METHODS["unrolled"], {"optimizer": optim.SGD}, "optimizer: is <class"),
        (METHODS["unrolled"], {"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)}, "optimizer: is SGD"),
        (METHODS["unrolled"], {"optimizer": optim.SGD()}, r"lr: the optimizer reads it.*\['penalty'\]"),
        (
            METHODS["unrolled"],
            {"optimizer": lambda params, hyper: torch.optim.LBFGS(params.values())},
            "optimizer: LBFGS cannot be differentiated",
        ),
    ],
)
def test_wrong_settings(method: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        method(response.Problem(train, valid, PARAMS, HYPER), **settings)


@methods
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_raises(name: str, value: float) -> None:
    with pytest.raises(response.NonFiniteError, match="NaN or infinite"):
        METHODS[name](response.Problem(train, lambda p, h, b: valid(p, h, b) * value, PARAMS, HYPER))
    with pytest.raises(response.NonFiniteError, match="NaN or infinite"):
        METHODS[name](response.Problem(lambda p, h, b: train(p, h, b) * value, valid, PARAMS, HYPER))


def test_a_second_derivative_that_is_not_finite_raises() -> None:
    def kink(p: Tree, h: Tree, _: None) -> Tensor:  # |w|^1.5: first derivative 0 at 0, second infinite
        return (p["w"].abs() ** 1.5 * h["penalty"]).sum() + train(p, h, None)

    zero = {"w": torch.zeros(2).double()}
    for name in ("exact", "cg", "neumann"):
        with pytest.raises((response.NonFiniteError, MethodError)):
            METHODS[name](response.Problem(kink, valid, zero, HYPER))


def test_exact_refuses_what_is_large_or_singular() -> None:
    many = {"w": torch.zeros(6_000)}
    with pytest.raises(MethodError, match=r"6000 weights.*implicit"):
        response.exact(response.Problem(train, valid, many, {"penalty": torch.ones(6_000)}))
    spare = {**PARAMS, "unused": torch.zeros(1).double()}
    with pytest.raises(MethodError, match=r"singular.*damping"):
        response.exact(response.Problem(train, valid, spare, HYPER))
    assert torch.isfinite(
        response.exact(response.Problem(train, valid, spare, HYPER), damping=1e-3).total["penalty"]
    ).all()
    assert torch.isfinite(response.implicit(response.Problem(train, valid, spare, HYPER)).total["penalty"]).all()


def test_a_diverging_series_warns() -> None:
    p = ridge()
    with pytest.warns(response.ResponseWarning, match=r"diverges: residual .*solver='cg'"):
        response.implicit(p.problem, solver="neumann", alpha=5.0, iterations=10)


def saddle(p: Tree, h: Tree, _: None) -> Tensor:
    return (p["w"].square() * torch.tensor([1.0, -1.0]).double() * h["penalty"]).sum()


def test_negative_curvature_is_reported() -> None:
    result = response.implicit(
        response.Problem(saddle, lambda p, h, b: (p["w"] * torch.tensor([2.0, 1.0])).sum(), PARAMS, HYPER)
    )
    assert result.negative_curvature and int(result.iterations) == 1 and "negative curvature met" in str(result)
    # Nothing but negative curvature in sight: the identity, scaled by the Hessian (diagonal -1, plus the damping).
    first = response.implicit(response.Problem(saddle, lambda p, h, b: p["w"][1], PARAMS, HYPER), damping=0.0)
    assert first.negative_curvature and int(first.iterations) == 0
    expected = response.identity(response.Problem(saddle, lambda p, h, b: p["w"][1], PARAMS, HYPER), alpha=1.0)
    assert error(first.total, expected.total) < 1e-12
    assert response.exact(response.Problem(saddle, valid, PARAMS, HYPER)).negative_curvature
    with pytest.warns(response.ResponseWarning, match="diverges"):
        series = response.implicit(response.Problem(saddle, valid, PARAMS, HYPER), solver="neumann", alpha=0.5)
    assert series.negative_curvature


def test_a_validation_gradient_of_zero_is_a_response_of_zero() -> None:
    for name, method in METHODS.items():
        if name != "unrolled":
            result = method(
                response.Problem(train, lambda p, h, b: (p["w"] - PARAMS["w"]).square().sum(), PARAMS, HYPER)
            )
            assert torch.equal(result.total["penalty"], torch.zeros(2).double())


class Bag(torch.nn.Module):
    """An embedding bag: no second derivative in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = torch.nn.EmbeddingBag(7, 3), torch.nn.Linear(3, 1)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bag(words)))


def bag() -> response.Problem:
    torch.manual_seed(0)
    losses = response.functional(
        Bag().double(),
        torch.nn.functional.mse_loss,
        lambda p, h: sum((h["penalty"].exp() * w.square()).sum() for w in p.values()),
    )
    words, target = torch.randint(7, (12, 4)), torch.randn(12, 1).double()
    hyper = {"penalty": torch.tensor(-3.0).double()}
    return response.Problem(
        losses.train_loss, losses.valid_loss, losses.params, hyper, [(words, target)], (words, -target)
    )


@pytest.mark.parametrize("name", ["exact", "cg", "series", "unrolled"])
def test_a_module_without_second_derivative_falls_back(name: str) -> None:
    method = {**METHODS, "series": functools.partial(METHODS["neumann"], damping=1.0)}[name]
    with pytest.warns(response.ResponseWarning, match=r"_embedding_bag_backward.*finite_difference") as caught:
        found = method(bag())
    assert len(caught) == 1
    quiet = method(bag(), products="finite_difference")
    assert error(found.total, quiet.total) < 1e-12
    with pytest.raises(NotImplementedError):
        method(bag(), products="double_backward")


def test_identity_needs_no_second_derivative_where_the_hyperparameter_does_not_meet_the_module() -> None:
    assert error(response.identity(bag()).total, response.finite_difference(bag()).total) < 1e-8


def test_the_fallback_is_right() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", response.ResponseWarning)
        result = response.check(METHODS["unrolled"], bag())
    assert result.relative_error < 1e-6


def test_an_error_of_the_user_is_not_taken_for_a_missing_derivative() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        response.implicit(
            response.Problem(lambda p, h, b: train({"w": Broken.apply(p["w"])}, h, b), valid, PARAMS, HYPER)
        )


def test_once_differentiable_functions_fall_back() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * grad

    def once(p: Tree, h: Tree, _: None) -> Tensor:
        return (Square.apply(p["w"] - 1)).square().sum() + (h["penalty"] * p["w"].square()).sum()

    def twice(p: Tree, h: Tree, _: None) -> Tensor:
        return (p["w"] - 1).square().square().sum() + (h["penalty"] * p["w"].square()).sum()

    for name in ("cg", "exact", "unrolled"):
        with pytest.warns(response.ResponseWarning, match="once_differentiable"):
            found = METHODS[name](response.Problem(once, valid, PARAMS, HYPER))
        assert error(found.total, METHODS[name](response.Problem(twice, valid, PARAMS, HYPER)).total) < 1e-6
        with pytest.raises(RuntimeError, match="once_differentiable"):
            METHODS[name](response.Problem(once, valid, PARAMS, HYPER), products="double_backward")


def test_the_summary_is_one_line() -> None:
    p = network()
    text = str(response.implicit(p.problem))
    for word in ("hypergradient", "direct 0", "valid loss", "inner gradient", "iterations", "residual"):
        assert word in text
    assert "\n" not in text
    assert "alpha" in str(response.implicit(p.problem, solver="neumann"))
    assert "adjoint growth" in str(response.unrolled(p.problem, optimizer=optim.SGD(0.1), steps=2))


def test_errors_travel_between_processes() -> None:
    try:
        response.implicit(response.Problem(train, lambda p, h, b: valid(p, h, b) * float("nan"), PARAMS, HYPER))
    except LuthierError as raised:
        copy = pickle.loads(pickle.dumps(raised))
        assert type(copy) is response.NonFiniteError and str(copy) == str(raised)
