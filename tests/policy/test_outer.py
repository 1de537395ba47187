"""The outer gradient by a controller's continuous decisions, on quadratic problems whose best response is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.optim import SGD
from luthier.policy import LSTM, Factorised, Reinforce, by_code, outer_gradient, uniform
from luthier.response import Problem
from luthier.seeds import Seeds
from luthier.space import Choice, Float, Space

torch.set_num_threads(1)

# The training loss is ½ (w - c)ᵀ A (w - c) + ½ s |w|² + ½ |w - t d|², the validation loss ½ |w - e|² + ½ t². The decay
# s enters the training loss alone; the strength t enters both: the penalty on t wants it small, but with t = 0 the
# weights end far from e.
A = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
C, D, E = (torch.tensor(x, dtype=torch.float64) for x in ([3.0, -1.0], [2.0, 2.0], [2.0, 1.5]))
EYE = torch.eye(2, dtype=torch.float64)
SPACE = Space(decay=Float(1e-2, 10.0, log=True), strength=Float(0.0, 2.0), kind=Choice(["a", "b"]))


def train_loss(params: dict[str, Tensor], hyper: dict[str, Tensor], batch: object) -> Tensor:
    w, s, t = params["w"], hyper["decay"], hyper["strength"].unsqueeze(-1)
    away = w - C
    near = 0.5 * (away @ A * away).sum(-1)
    return near + 0.5 * s * w.square().sum(-1) + 0.5 * (w - t * D).square().sum(-1)


def valid_loss(params: dict[str, Tensor], hyper: dict[str, Tensor], batch: object) -> Tensor:
    return 0.5 * (params["w"] - E).square().sum(-1) + 0.5 * hyper["strength"].square()


def best_response(s: Tensor, t: Tensor) -> Tensor:
    """w* of the training loss, in closed form, (members, 2)."""
    return torch.stack([torch.linalg.solve(A + (1 + x) * EYE, A @ C + y * D) for x, y in zip(s, t, strict=True)])


def outer_objective(codes: Tensor) -> Tensor:
    """The true one, L_V(λ, w*(λ)), of each row of codes."""
    s, t = 10 ** (-2 + 3 * codes[:, 0]), 2 * codes[:, 1]
    return valid_loss({"w": best_response(s, t)}, {"decay": s, "strength": t}, None)


def differences(codes: Tensor, h: float = 1e-6) -> Tensor:
    """Central finite differences of the true objective, (members, 2)."""
    shifts = torch.eye(codes.shape[1], dtype=torch.float64)[:2] * h
    return torch.stack([(outer_objective(codes + x) - outer_objective(codes - x)) / (2 * h) for x in shifts], 1)


SETTINGS = {
    "implicit": {"damping": 0.0, "tolerance": 1e-12, "iterations": 10},
    "unrolled": {"optimizer": SGD(lr=0.2), "steps": 200},
    "identity": {"alpha": 0.3},
    "none": {},
}


def decided(policy: Factorised | LSTM, count: int = 5):
    """Decisions with gradients, their values, and the weights that their training ends with."""
    params = {name: p.requires_grad_() for name, p in policy.init(0).items()}
    decisions = policy.rsample(params, uniform(Seeds(0).rng(0, "noise"), count, policy))
    values = policy.values(decisions)
    weights = {"w": best_response(values["decay"].detach(), values["strength"].detach())}
    return params, decisions, values, weights


def gradient(method: str, policy: Factorised | LSTM) -> tuple[Tensor, Tensor]:
    """(by the codes, of finite differences), (members, 2) each."""
    _, decisions, values, weights = decided(policy)
    found = outer_gradient(method, Problem(train_loss, valid_loss, weights, values, [None], None), **SETTINGS[method])  # type: ignore[arg-type]
    assert all(torch.allclose(found.total[n], found.direct[n] + found.response[n], rtol=0, atol=1e-15) for n in values)
    return by_code(decisions, values, found.total)[:, :2], differences(decisions.codes.detach())


@pytest.mark.parametrize("kind", [Factorised, LSTM])
@pytest.mark.parametrize(("method", "tolerance"), [("implicit", 1e-8), ("unrolled", 1e-8)])
def test_outer_gradient_agrees_with_finite_differences_of_the_true_objective(kind, method, tolerance):
    ours, truth = gradient(method, kind(SPACE))
    assert float((ours - truth).norm() / truth.norm()) < tolerance


def test_identity_points_the_right_way_and_none_the_wrong_way():
    policy = Factorised(SPACE)
    ours, truth = gradient("identity", policy)
    none, _ = gradient("none", policy)

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))

    assert bool((cosine(ours, truth) > 0.7).all())
    # Training and validation disagree: where the strength is small, more of it would bring the weights nearer to e,
    # which only the response knows; the direct gradient always lowers it. Of the decay `none` knows nothing at all.
    small = truth[:, 1] < 0
    assert int(small.sum()) >= 2
    assert bool((none[small, 1] > 0).all()) and bool((cosine(none, truth)[small] < 0).all())
    assert bool((none[:, 0] == 0).all()) and bool((truth[:, 0].abs() > 1e-3).all())


def learnt(method: str, updates: int = 100) -> tuple[float, float]:
    """The true outer objective at a controller's mean before and after learning by the pathwise gradient."""
    policy, learner = Factorised(SPACE), Reinforce(lr=0.05, entropy_weight=0.0)
    state = learner.init(policy.init(0))

    def objective() -> float:
        return float(outer_objective(policy.mode(state["params"]).codes)[0])

    before = objective()
    for update in range(updates):
        params = {name: p.requires_grad_() for name, p in state["params"].items()}
        decisions = policy.rsample(params, uniform(Seeds(0).rng(update, "noise"), 8, policy))
        values = policy.values(decisions)
        weights = {"w": best_response(values["decay"].detach(), values["strength"].detach())}
        found = outer_gradient(
            method, Problem(train_loss, valid_loss, weights, values, [None], None), **SETTINGS[method]
        )  # type: ignore[arg-type]
        slopes = -by_code(decisions, values, found.total)
        actions = decisions.actions.detach()
        state, _ = learner.update(policy, state, actions, -found.valid_loss, pathwise=slopes)
        state["params"] = {name: p.detach() for name, p in state["params"].items()}
    return before, objective()


def test_a_controller_with_the_response_improves_and_without_it_gets_worse():
    grid = torch.cartesian_prod(*[torch.linspace(0.0, 1.0, 201, dtype=torch.float64)] * 2)
    best = float(outer_objective(grid).min())
    before, after = learnt("implicit")
    assert after - best < 0.1 * (before - best)
    before, after = learnt("none")
    assert after > before


def test_a_learning_rate_has_a_response_under_unrolling_alone():
    space = Space(lr=Float(1e-3, 0.3, log=True))
    policy = Factorised(space)
    decisions = policy.rsample(
        {name: p.requires_grad_() for name, p in policy.init(0).items()}, uniform(Seeds(0).rng(0, "noise"), 3, policy)
    )
    values = policy.values(decisions)
    start = {"w": torch.zeros(3, 2, dtype=torch.float64)}

    def train(params: dict[str, Tensor], hyper: dict[str, Tensor], batch: object) -> Tensor:
        return 0.5 * (params["w"] - C).square().sum(-1)

    def valid(params: dict[str, Tensor], hyper: dict[str, Tensor], batch: object) -> Tensor:
        return 0.5 * (params["w"] - E).square().sum(-1)

    found = outer_gradient("unrolled", Problem(train, valid, start, values, None, None), optimizer=SGD(), steps=7)
    lr = values["lr"].detach()
    # w_7 = (1 - (1 - lr)^7) c: the derivative by the code is (w_7 - e)·c 7 (1 - lr)^6 · lr ln(10) log10(300)
    w = (1 - (1 - lr) ** 7).unsqueeze(1) * C
    truth = ((w - E) * C).sum(1) * 7 * (1 - lr) ** 6 * lr * math.log(10) * math.log10(300)
    assert torch.allclose(by_code(decisions, values, found.total)[:, 0], truth, rtol=1e-10)
    with pytest.raises(MethodError, match="lr"):
        outer_gradient("implicit", Problem(train, valid, start, values, None, None))
    none = outer_gradient("none", Problem(train, valid, start, values, None, None))
    assert bool((none.total["lr"] == 0).all())


def test_an_unknown_response_is_refused():
    weights = {"w": torch.zeros(1)}
    with pytest.raises(MethodError, match=r"response must be 'none', .* got 'guess'"):
        outer_gradient("guess", Problem(train_loss, valid_loss, weights, weights))  # type: ignore[arg-type]
