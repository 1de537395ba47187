"""Stacks: losses of (members,), every tensor with the members axis first, each member as it would be alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from luthier import optim, response
from luthier.errors import MethodError
from tests.response.problems import Tree, flat, generator, normal

MEMBERS, WIDTH = 3, 3
X, Y = normal(generator(0), 20, 4), normal(generator(1), 20, 1)
XV, YV = normal(generator(2), 15, 4), normal(generator(3), 15, 1)
PARAMS = {
    "w1": normal(generator(4), MEMBERS, 4, WIDTH),
    "b1": normal(generator(5), MEMBERS, 1, WIDTH),
    "w2": normal(generator(6), MEMBERS, WIDTH, 1) * torch.tensor([1.0, 0.1, 3.0])[:, None, None],
}
HYPER = {
    "w1": normal(generator(7), MEMBERS, 4, WIDTH) - 1,
    "w2": normal(generator(8), MEMBERS, WIDTH, 1) - 1,
    "lr": torch.tensor([0.1, 0.02, 0.003]).double(),
    "momentum": torch.tensor([0.5, 0.9, 0.1]).double(),
}
PENALTIES = {name: HYPER[name] for name in ("w1", "w2")}


def output(p: Tree, x: Tensor) -> Tensor:
    return torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"]  # (members, batch, 1)


def train(p: Tree, h: Tree, _: Any) -> Tensor:
    fit = (output(p, X) - Y).square().flatten(1).mean(1)
    return fit + sum((h[name].exp() * p[name].square()).flatten(1).sum(1) for name in ("w1", "w2"))


def valid(p: Tree, h: Tree, _: Any) -> Tensor:
    return (output(p, XV) - YV).square().flatten(1).mean(1)


def alone(tree: Tree, member: int) -> Tree:
    return {name: x[member : member + 1] for name, x in tree.items()}


SGD = optim.SGD()
METHODS: dict[str, tuple[Any, Tree]] = {
    "exact": (response.exact, PENALTIES),
    "cg": (response.implicit, PENALTIES),
    "cg, long": (functools.partial(response.implicit, iterations=40, damping=1.0, tolerance=1e-3), PENALTIES),
    "neumann": (functools.partial(response.implicit, solver="neumann", damping=50.0), PENALTIES),
    "identity": (functools.partial(response.identity, alpha=torch.tensor([0.1, 0.2, 0.3]).double()), PENALTIES),
    "finite_difference": (response.finite_difference, PENALTIES),
    "unrolled": (functools.partial(response.unrolled, optimizer=SGD, steps=5), HYPER),
    "trajectory": (functools.partial(response.unrolled, optimizer=SGD, steps=5, memory="trajectory"), HYPER),
    "adam": (
        functools.partial(response.unrolled, optimizer=optim.Adam(), steps=5),
        {**PENALTIES, "lr": HYPER["lr"], "beta1": HYPER["momentum"]},
    ),
    "differences": (
        functools.partial(response.unrolled, optimizer=SGD, steps=5, products="finite_difference"),
        HYPER,
    ),
}
methods = pytest.mark.parametrize("name", METHODS)


@methods
def test_each_member_is_as_alone(name: str) -> None:
    method, hyper = METHODS[name]
    stack = method(response.Problem(train, valid, PARAMS, hyper))
    assert stack.valid_loss.shape == stack.inner_gradient_norm.shape == stack.finite.shape == (MEMBERS,)
    for member in range(MEMBERS):
        settings = dict(getattr(method, "keywords", {}))
        if isinstance(settings.get("alpha"), Tensor):
            settings["alpha"] = settings["alpha"][member : member + 1]
        function = getattr(method, "func", method)
        single = function(response.Problem(train, valid, alone(PARAMS, member), alone(hyper, member)), **settings)
        assert torch.allclose(flat(alone(stack.total, member)), flat(single.total), rtol=1e-11, atol=1e-13)
        for field in ("iterations", "residual", "negative_curvature", "adjoint_growth", "valid_loss"):
            a, b = getattr(stack, field), getattr(single, field)
            if isinstance(a, Tensor):
                assert torch.allclose(a[member].double(), b[0].double(), rtol=1e-9, atol=1e-12), field


@pytest.mark.parametrize("solver", ["cg", "neumann"])
@pytest.mark.parametrize("members", [2, 3, 5])
def test_many_tensors_and_many_batches_are_summed_in_one_order(solver: Any, members: int) -> None:
    """torch.sum over an axis before the members' takes another order for one member than for several."""
    tensors, width = range(12), 37
    params = {f"w{k}": normal(generator(k), members, width).float() for k in tensors}
    hyper = {"penalty": normal(generator(12), members, 1).float()}
    batches = [normal(generator(13 + b), len(tensors), width).float() for b in range(9)]

    def train(p: Tree, h: Tree, batch: Any) -> Tensor:
        parts = [((p[f"w{k}"].tanh() - batch[k]).square() + h["penalty"].exp() * p[f"w{k}"] ** 2) for k in tensors]
        return sum(part.sum(1) for part in parts)  # type: ignore[return-value]

    def valid(p: Tree, h: Tree, batch: Any) -> Tensor:
        return sum((p[f"w{k}"] - batch[k]).square().sum(1) for k in tensors)  # type: ignore[return-value]

    def estimate(p: Tree, h: Tree) -> response.Hypergradient:
        return response.implicit(
            response.Problem(train, valid, p, h, batches, batches[0]), solver=solver, iterations=4, damping=20.0
        )

    stack = estimate(params, hyper)
    for member in range(members):
        single = estimate(alone(params, member), alone(hyper, member))
        assert torch.equal(single.total["penalty"][0], stack.total["penalty"][member])
        assert single.residual is not None and stack.residual is not None
        assert torch.equal(single.residual[0], stack.residual[member])


def test_a_stack_of_one_is_the_plain_problem() -> None:
    first = {name: x[0] for name, x in PARAMS.items()}
    hyper = {name: x[0] for name, x in PENALTIES.items()}
    plain = response.implicit(
        response.Problem(
            lambda p, h, b: train({k: x[None] for k, x in p.items()}, {k: x[None] for k, x in h.items()}, b)[0],
            lambda p, h, b: valid({k: x[None] for k, x in p.items()}, {k: x[None] for k, x in h.items()}, b)[0],
            first,
            hyper,
        ),
    )
    one = response.implicit(response.Problem(train, valid, alone(PARAMS, 0), alone(PENALTIES, 0)))
    assert torch.allclose(flat(plain.total), flat(one.total), rtol=1e-12, atol=0)
    assert plain.valid_loss.shape == () and one.valid_loss.shape == (1,)


def test_conjugate_gradients_end_member_by_member() -> None:
    method, hyper = METHODS["cg, long"]
    result = method(response.Problem(train, valid, PARAMS, hyper))
    assert len({int(n) for n in result.iterations}) > 1  # they need different numbers of iterations
    assert "iterations" in str(result)


@methods
def test_a_diverged_member_does_not_touch_the_others(name: str) -> None:
    method, hyper = METHODS[name]
    whole = method(response.Problem(train, valid, PARAMS, hyper))
    broken = {**PARAMS, "w1": PARAMS["w1"].clone()}
    broken["w1"][1] = float("nan")
    result = method(response.Problem(train, valid, broken, hyper))
    assert result.finite.tolist() == [True, False, True]
    for key, x in result.total.items():
        assert torch.equal(x[0], whole.total[key][0]) and torch.equal(x[2], whole.total[key][2])
        assert x[1].isnan().all()


@methods
def test_all_members_diverged_raises(name: str) -> None:
    method, hyper = METHODS[name]
    broken = {**PARAMS, "w1": torch.full_like(PARAMS["w1"], float("nan"))}
    with pytest.raises(response.NonFiniteError):
        method(response.Problem(train, valid, broken, hyper))


SLOW_TO_RECORD = ("exact", "cg, long", "trajectory", "differences")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_TO_RECORD else ()) for name in METHODS]
)
def test_recorded_as_a_flat_graph(name: str) -> None:
    method, hyper = METHODS[name]
    if name in ("cg", "cg, long", "neumann"):
        method = functools.partial(method, iterations=4)  # recording takes long
    elif "steps" in getattr(method, "keywords", {}):
        method = functools.partial(method, steps=3)

    def call(params: Tree, knobs: Tree) -> Tree:
        return method(response.Problem(train, valid, params, knobs, traced=True)).total

    graph = make_fx(call)(PARAMS, hyper)
    eager = method(response.Problem(train, valid, PARAMS, hyper)).total
    assert torch.allclose(flat(graph(PARAMS, hyper)), flat(eager), rtol=1e-10, atol=1e-12)
    # Other numbers through the same graph: no value was baked in.
    moved = {key: 0.9 * x for key, x in PARAMS.items()}
    assert torch.allclose(
        flat(graph(moved, hyper)),
        flat(method(response.Problem(train, valid, moved, hyper)).total),
        rtol=1e-9,
        atol=1e-12,
    )


def test_tensors_without_the_members_axis_are_refused() -> None:
    with pytest.raises(MethodError, match=r"shared: shape \(\) beside 3 losses"):
        response.implicit(response.Problem(train, valid, PARAMS, {**PENALTIES, "shared": torch.tensor(1.0)}))
    with pytest.raises(MethodError, match="returned shape"):
        response.implicit(response.Problem(lambda p, h, b: train(p, h, b).sum(), valid, PARAMS, PENALTIES))
