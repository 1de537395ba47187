"""Every method against finite differences of the problem solved again, and against the others, in float64."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from luthier import optim, response
from luthier.response import trees
from tests.response.problems import PROBLEMS, Bilevel, Tree, differences, error, flat, ridge, ridge_in_closed_form


@functools.cache
def problem(name: str) -> Bilevel:
    return PROBLEMS[name]()


@functools.cache
def truth(name: str) -> Tree:
    return differences(problem(name).at, problem(name).hyper)


@functools.cache
def exact(name: str) -> Tree:
    return response.exact(problem(name).problem).total


@functools.cache
def hessian_spectrum(name: str) -> Tensor:
    p = problem(name)
    sizes = [w.numel() for w in p.params.values()]

    def loss(w: Tensor) -> Tensor:
        parts = zip(p.params.items(), w.split(sizes), strict=True)
        return p.train({k: x.reshape(v.shape) for (k, v), x in parts}, p.hyper, None)

    return torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(loss))(flat(p.params)))


CONVERGED = functools.partial(response.implicit, iterations=400, damping=0.0, tolerance=1e-14)
names = pytest.mark.parametrize("name", PROBLEMS)


@names
def test_exact_equals_finite_differences(name: str) -> None:
    result = response.exact(problem(name).problem)
    assert error(result.total, truth(name)) < 1e-8
    assert result.inner_gradient_norm < 1e-12 and result.residual is not None and result.residual < 1e-12
    assert not result.negative_curvature


@names
def test_conjugate_gradients_converge(name: str) -> None:
    result = CONVERGED(problem(name).problem)
    assert error(result.total, truth(name)) < 1e-8
    assert error(result.total, exact(name)) < 1e-10
    assert result.residual is not None and result.residual <= 1e-14
    assert 0 < int(result.iterations) < 400


@names
def test_unrolling_converges(name: str) -> None:
    spectrum = hessian_spectrum(name)
    small, large = spectrum[0].sqrt().item(), spectrum[-1].sqrt().item()
    # The heavy ball's best settings (Polyak 1964): a factor of (√κ - 1)/(√κ + 1) a step.
    rule = optim.SGD(lr=4 / (large + small) ** 2, momentum=((large - small) / (large + small)) ** 2)
    steps = math.ceil(math.log(1e14) * large / small)
    result = response.unrolled(problem(name).problem, optimizer=rule, steps=steps, memory="checkpoint")
    assert error(result.total, truth(name)) < 1e-8
    assert error(result.total, exact(name)) < 1e-10


@names
def test_neumann_converges(name: str) -> None:
    spectrum = hessian_spectrum(name)
    terms = math.ceil(math.log(1e9) * (spectrum[-1] / spectrum[0]).item())
    result = response.implicit(problem(name).problem, solver="neumann", iterations=terms, damping=0.0)
    assert error(result.total, exact(name)) < 1e-8
    # The step comes from power iteration, at most 5 products away from the largest eigenvalue.
    assert 0.9 / spectrum[-1] < result.alpha < 1.9 / spectrum[-1]


def test_ridge_equals_its_closed_form() -> None:
    p = problem("ridge")
    penalty = p.hyper["penalty"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(ridge_in_closed_form({"penalty": penalty}), penalty)
    assert error(exact("ridge"), {"penalty": expected}) < 1e-12


@names
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("memory", ["graph", "checkpoint", "trajectory"])
def test_unrolling_from_the_minimum_is_the_neumann_series(name: str, steps: int, memory: str) -> None:
    lr = 0.7 / hessian_spectrum(name)[-1].item()
    arguments = problem(name).problem
    unrolled = response.unrolled(arguments, optimizer=optim.SGD(lr=lr), steps=steps, memory=memory)  # type: ignore
    series = response.implicit(arguments, solver="neumann", iterations=steps - 1, alpha=lr, damping=0.0)
    assert error(unrolled.total, series.total) < 1e-12


@names
def test_identity_is_the_first_term_of_the_series(name: str) -> None:
    arguments = problem(name).problem
    series = response.implicit(arguments, solver="neumann", iterations=0, alpha=0.3, damping=0.0)
    assert error(response.identity(arguments, alpha=0.3).total, series.total) < 1e-15
    assert error(response.finite_difference(arguments, alpha=0.3).total, series.total) < 1e-8


@names
def test_solving_by_finite_differences_alone(name: str) -> None:
    result = response.implicit(
        problem(name).problem, iterations=60, damping=0.0, tolerance=1e-8, products="finite_difference"
    )
    assert error(result.total, exact(name)) < 1e-5


@names
def test_more_iterations_are_nearer(name: str) -> None:
    errors = [
        error(response.implicit(problem(name).problem, iterations=k, damping=0.0).total, exact(name))
        for k in (1, 5, 10, 20)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.1 * errors[0]


@names
def test_default_settings_are_near(name: str) -> None:
    result = response.implicit(problem(name).problem)
    assert error(result.total, exact(name)) < 0.05
    damped = response.exact(problem(name).problem, damping=1e-3)
    converged = response.implicit(problem(name).problem, iterations=400, tolerance=1e-14)
    assert error(converged.total, damped.total) < 1e-10


@names
def test_float32(name: str) -> None:
    p = problem(name)
    single = ({k: w.float() for k, w in p.params.items()}, {k: h.float() for k, h in p.hyper.items()})
    tight = functools.partial(CONVERGED, tolerance=1e-6)
    lr = 0.7 / hessian_spectrum(name)[-1].item()
    short = functools.partial(response.unrolled, optimizer=optim.SGD(lr=lr), steps=20)
    for method, reference in ((response.exact, exact(name)), (tight, exact(name)), (short, short(p.problem).total)):
        found = method(response.Problem(p.train, p.valid, *single)).total
        assert all(x.dtype == torch.float32 for x in found.values())
        assert error(found, reference) < 1e-4
    coarse = response.finite_difference(response.Problem(p.train, p.valid, *single))
    assert error(coarse.total, response.identity(p.problem).total) < 1e-2


def test_one_weight_alone() -> None:
    def train(p: Tree, h: Tree, _: None) -> Tensor:
        return (p["w"] - 2).square() + h["penalty"] * p["w"].square()

    def valid(p: Tree, h: Tree, _: None) -> Tensor:
        return (p["w"] - 3).square()

    arguments = response.Problem(train, valid, {"w": torch.tensor(1.0)}, {"penalty": torch.tensor(1.0)})
    for method in (response.exact, functools.partial(response.implicit, damping=0.0)):
        assert method(arguments).total["penalty"].item() == pytest.approx(2.0, abs=1e-6)


def test_a_number_in_a_row_multiplies_a_number_by_itself() -> None:
    assert trees.expand(torch.tensor([2.0]), torch.tensor(3.0)).shape == ()
    assert trees.expand(torch.tensor([2.0, 4.0]), torch.ones(2, 3)).tolist() == [[2.0], [4.0]]


def test_direct_and_response_terms() -> None:
    p = ridge()
    hyper = {**p.hyper, "temperature": torch.tensor(0.7).double()}

    def valid(params: Tree, h: Tree, _: None) -> Tensor:
        return p.valid(params, h, None) * h["temperature"] + 0.1 * h["penalty"].square().sum()

    mixed = Bilevel(p.train, valid, p.params, hyper)
    result = CONVERGED(mixed.problem)
    assert error(result.total, differences(mixed.at, hyper)) < 1e-8
    assert torch.equal(result.total["penalty"], result.direct["penalty"] + result.response["penalty"])
    assert torch.allclose(result.direct["penalty"], 0.2 * hyper["penalty"])
    assert result.response["temperature"] == 0 and result.direct["temperature"] == p.valid(p.params, hyper, None)


def test_several_minibatches_count_as_their_mean() -> None:
    random = torch.Generator().manual_seed(7)
    x = torch.randn(3, 10, 4, generator=random).double()

    def train(p: Tree, h: Tree, batch: Tensor) -> Tensor:
        return (batch @ p["w"] - 1).square().mean() + (h["penalty"].exp() * p["w"].square()).sum()

    def valid(p: Tree, h: Tree, batch: Tensor) -> Tensor:
        return (batch @ p["w"]).square().mean()

    params, hyper = {"w": torch.ones(4).double()}, {"penalty": torch.zeros(4).double()}
    apart = response.exact(response.Problem(train, valid, params, hyper, list(x), x[0]))
    together = response.exact(response.Problem(train, valid, params, hyper, [x.reshape(30, 4)], x[0]))
    assert error(apart.total, together.total) < 1e-12
