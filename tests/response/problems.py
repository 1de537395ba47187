"""Small bilevel problems in float64, with solvers and derivatives that use nothing of luthier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier import response

torch.set_num_threads(1)

Tree = dict[str, Tensor]


@dataclass(frozen=True)
class Bilevel:
    """Two losses, the weights that minimise the first at these hyperparameters, and the hyperparameters."""

    train: Callable[[Tree, Tree, Any], Tensor]
    valid: Callable[[Tree, Tree, Any], Tensor]
    params: Tree
    hyper: Tree

    @property
    def problem(self) -> response.Problem:
        """The first argument of every method."""
        return response.Problem(self.train, self.valid, self.params, self.hyper)

    def at(self, hyper: Tree) -> Tensor:
        """Validation loss of the problem solved again."""
        return self.valid(newton(self.train, self.params, hyper), hyper, None)


def generator(seed: int) -> torch.Generator:
    """A generator of our own, so that tests do not depend on each other."""
    return torch.Generator().manual_seed(seed)


def normal(random: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=random, dtype=torch.float64)


def ridge() -> Bilevel:
    """Linear regression of 12 weights, one log-penalty each."""
    random = generator(0)
    x, y, xv, yv = normal(random, 40, 12), normal(random, 40), normal(random, 30, 12), normal(random, 30)

    def train(p: Tree, h: Tree, _: Any) -> Tensor:
        return (x.to(p["w"]) @ p["w"] - y.to(p["w"])).square().mean() + (h["penalty"].exp() * p["w"].square()).sum()

    def valid(p: Tree, h: Tree, _: Any) -> Tensor:
        return (xv.to(p["w"]) @ p["w"] - yv.to(p["w"])).square().mean()

    return solved(train, valid, {"w": normal(random, 12)}, {"penalty": normal(random, 12) - 1})


def ridge_in_closed_form(hyper: Tree) -> Tensor:
    """Validation loss of `ridge` at the exact minimum, differentiable by autograd through a linear solve."""
    random = generator(0)
    x, y, xv, yv = normal(random, 40, 12), normal(random, 40), normal(random, 30, 12), normal(random, 30)
    w = torch.linalg.solve(x.mT @ x / 40 + torch.diag(hyper["penalty"].exp()), x.mT @ y / 40)
    return (xv @ w - yv).square().mean()


def logistic() -> Bilevel:
    """Logistic regression of 10 weights and a bias, one log-penalty each."""
    random = generator(1)
    x, xv = normal(random, 50, 10), normal(random, 40, 10)
    y, yv = (x[:, 0] + normal(random, 50) > 0).double(), (xv[:, 0] + normal(random, 40) > 0).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits

    def train(p: Tree, h: Tree, _: Any) -> Tensor:
        x_, y_ = x.to(p["w"]), y.to(p["w"])
        return loss(x_ @ p["w"] + p["b"], y_) + sum((h[name].exp() * p[name].square()).sum() for name in p)

    def valid(p: Tree, h: Tree, _: Any) -> Tensor:
        return loss(xv.to(p["w"]) @ p["w"] + p["b"], yv.to(p["w"]))

    params = {"w": normal(random, 10), "b": normal(random)}
    return solved(train, valid, params, {"w": normal(random, 10) - 2, "b": normal(random) - 2})


def network() -> Bilevel:
    """A 3-4-1 tanh network, one log-penalty for each of its 21 numbers."""
    random = generator(2)
    x, xv = normal(random, 30, 3), normal(random, 25, 3)
    y, yv = x[:, :1] * x[:, 1:2] + x[:, 2:], xv[:, :1] * xv[:, 1:2] + xv[:, 2:]

    def output(p: Tree, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs.to(p["w1"]) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    def train(p: Tree, h: Tree, _: Any) -> Tensor:
        penalty = sum((h[name].exp() * p[name].square()).sum() for name in p)
        return (output(p, x) - y.to(p["w1"])).square().mean() + penalty

    def valid(p: Tree, h: Tree, _: Any) -> Tensor:
        return (output(p, xv) - yv.to(p["w1"])).square().mean()

    params = {"w1": normal(random, 3, 4), "b1": normal(random, 4), "w2": normal(random, 4, 1), "b2": normal(random, 1)}
    hyper = {name: 0.5 * normal(random, *w.shape) - 3 for name, w in params.items()}
    return solved(train, valid, params, hyper)


PROBLEMS = {"ridge": ridge, "logistic": logistic, "network": network}


def solved(train: Any, valid: Any, params: Tree, hyper: Tree) -> Bilevel:
    """The problem at its minimum."""
    return Bilevel(train, valid, solve(train, params, hyper), hyper)


def solve(train: Callable[[Tree, Tree, Any], Tensor], params: Tree, hyper: Tree) -> Tree:
    """Minimise by L-BFGS, then Newton's method with torch.func's Hessian, to rounding."""
    leaves = {name: w.detach().clone().requires_grad_() for name, w in params.items()}
    optimizer = torch.optim.LBFGS(
        leaves.values(), max_iter=300, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = train(leaves, hyper, None)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return newton(train, leaves, hyper)


def newton(train: Callable[[Tree, Tree, Any], Tensor], leaves: Tree, hyper: Tree) -> Tree:
    """Minimise by Newton's method alone, from nearby."""
    sizes = [w.numel() for w in leaves.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(leaves.items(), flat.split(sizes), strict=True)
        return train({name: part.reshape(w.shape) for (name, w), part in parts}, hyper, None)

    flat = torch.cat([w.detach().reshape(-1) for w in leaves.values()])
    for _ in range(5):
        flat = flat - torch.linalg.solve(torch.func.jacrev(torch.func.grad(loss))(flat), torch.func.grad(loss)(flat))
    assert torch.func.grad(loss)(flat).norm() < 1e-12
    parts = zip(leaves.items(), flat.split(sizes), strict=True)
    return {name: part.reshape(w.shape).detach() for (name, w), part in parts}


def differences(value: Callable[[Tree], Tensor], hyper: Tree, step: float = 1e-3) -> Tree:
    """Fourth-order central differences of a function of the hyperparameters."""
    out = {}
    for name, h in hyper.items():
        grad = torch.zeros_like(h).reshape(-1)
        for i in range(h.numel()):

            def side(distance: float, name: str = name, h: Tensor = h, i: int = i) -> float:
                moved = h.detach().clone().reshape(-1)
                moved[i] += distance
                return float(value({**hyper, name: moved.reshape(h.shape)}).detach())

            grad[i] = (8 * (side(step) - side(-step)) - (side(2 * step) - side(-2 * step))) / (12 * step)
        out[name] = grad.reshape(h.shape)
    return out


def flat(tree: Tree) -> Tensor:
    """All numbers of a tree, in float64."""
    return torch.cat([x.reshape(-1).double() for x in tree.values()])


def error(found: Tree, expected: Tree) -> float:
    """Relative error over all numbers."""
    assert found.keys() == expected.keys()
    return float((flat(found) - flat(expected)).norm() / flat(expected).norm())
