"""The checker itself: right methods pass, approximate ones show their error."""

from __future__ import annotations

import doctest
import functools
import importlib

import pytest
import torch
from torch import Tensor

from luthier import optim, response
from luthier.errors import MethodError
from tests.response.problems import PROBLEMS, Tree, ridge, ridge_in_closed_form, solve


@pytest.mark.parametrize("name", PROBLEMS)
def test_right_methods_pass(name: str) -> None:
    p = PROBLEMS[name]()
    away = {key: w + 0.01 for key, w in p.params.items()}  # the checker finds the minimum itself
    found = response.check(response.exact, response.Problem(p.train, p.valid, away, p.hyper), limit=6)
    assert found.relative_error < 1e-8 and found.cosine > 1 - 1e-12 and len(found.coordinates) == 6
    assert found.result.inner_gradient_norm < 1e-10


def test_against_the_closed_form() -> None:
    p = ridge()
    penalty = p.hyper["penalty"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(ridge_in_closed_form({"penalty": penalty}), penalty)
    found = response.check(response.exact, p.problem)
    assert found.coordinates == list(range(12))
    assert torch.allclose(found.expected, expected, rtol=1e-8, atol=1e-12)


def test_approximate_methods_show_their_error() -> None:
    p = ridge()
    one = response.check(response.identity, p.problem, limit=4)
    assert one.relative_error > 0.1 and "relative error" in str(one)
    better = response.check(functools.partial(response.implicit, iterations=5), p.problem, limit=4)
    assert better.relative_error < 0.5 * one.relative_error


def test_settings_of_partials_and_of_the_call_go_together() -> None:
    p = ridge()
    method = functools.partial(response.implicit, iterations=100)
    found = response.check(method, p.problem, limit=3, damping=0.0, tolerance=1e-14)
    assert found.relative_error < 1e-8


@pytest.mark.parametrize("memory", ["graph", "trajectory"])
def test_unrolled_is_compared_with_its_own_steps(memory: str) -> None:
    p = ridge()
    away = {key: w + 1 for key, w in p.params.items()}
    hyper = {**p.hyper, "lr": torch.tensor(0.05).double()}
    method = functools.partial(response.unrolled, optimizer=optim.Adam(), steps=6, memory=memory)
    assert response.check(method, response.Problem(p.train, p.valid, away, hyper)).relative_error < 1e-8
    # Truncated, it is not the derivative of those steps.
    assert response.check(method, response.Problem(p.train, p.valid, away, hyper), truncate=1).relative_error > 0.1


def test_a_solver_of_ones_own() -> None:
    p = ridge()
    calls = []

    def own(params: Tree, hyper: Tree) -> Tree:
        calls.append(1)
        return solve(p.train, params, hyper)

    assert response.check(response.exact, p.problem, solve=own, limit=2).relative_error < 1e-8
    assert len(calls) == 1 + 2 * 4


def test_what_cannot_be_checked() -> None:
    def unbounded(p: Tree, h: Tree, _: None) -> Tensor:
        return (p["w"] * h["c"]).sum() + p["w"].sin().sum() * 1e-3

    w, c = {"w": torch.ones(2).double()}, {"c": torch.ones(2).double()}
    with pytest.raises(MethodError, match=r"could not be minimised.*solve"):
        response.check(response.exact, response.Problem(unbounded, lambda p, h, _: p["w"].square().sum(), w, c))

    def stack(p: Tree, h: Tree, _: None) -> Tensor:
        return ((p["w"] - 1).square() + h["c"] * p["w"].square()).sum(1)

    wide = {"w": torch.ones(2, 3).double()}, {"c": torch.ones(2, 3).double()}
    with pytest.raises(MethodError, match="one member at a time"):
        response.check(response.exact, response.Problem(stack, stack, *wide))


@pytest.mark.parametrize("module", ["implicit", "check", "functional"])
def test_examples_in_the_documentation(module: str) -> None:
    found = importlib.import_module(f"luthier.response.{module}")
    failed, tried = doctest.testmod(found, extraglobs={"torch": torch, **vars(response)})
    assert failed == 0 and tried > 0
