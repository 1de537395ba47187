"""Compare a hypergradient with finite differences of the re-solved problem: the truth from outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.response.optimizers import functional_optimizer
from luthier.response.problem import Losses, Problem
from luthier.response.products import Products
from luthier.response.result import Hypergradient, Tree
from luthier.response.solvers import conjugate_gradients
from luthier.response.tape import Point, plain_step
from luthier.response.trees import norm, shifted
from luthier.response.unrolled import unrolled

Solver = Callable[[Tree, Tree], Tree]


@dataclass(frozen=True)
class Check:
    """A hypergradient beside its finite differences.

    Args:
        result: Hypergradient returned by the method.
        expected: Finite differences, (coordinates,).
        found: The method's total at the same coordinates, (coordinates,).
        coordinates: Their positions in the hyperparameters laid end to end.
        relative_error: ‖found - expected‖ / ‖expected‖.
        cosine: Cosine of the angle between the two.
    """

    result: Hypergradient
    expected: Tensor
    found: Tensor
    coordinates: list[int]
    relative_error: float
    cosine: float

    def __str__(self) -> str:
        """One line that a person can read."""
        count = len(self.coordinates)
        agreement = f"relative error {self.relative_error:.3g}, cosine {self.cosine:.6f}"
        return f"{agreement} over {count} coordinates; {self.result}"


def check(
    method: Callable[..., Hypergradient],
    problem: Problem,
    *,
    solve: Solver | None = None,
    step: float | None = None,
    limit: int = 50,
    **settings: Any,
) -> Check:
    """Compare ``method`` with finite differences of the problem solved again at shifted hyperparameters.

    For `unrolled` solving is making the same steps again from ``params``; for the other methods it is minimising the
    training loss from ``params``, at which ``method`` is then called too. Use float64: in float32 two digits are left.

    Args:
        method: A method of this package, or a functools.partial of one.
        problem: One training, not a stack; its weights are the start of the minimisation or of the steps.
        solve: (params, hyper) -> params: another way to solve.
        step: Change of a hyperparameter, relative to max(1, its size); None: fifth root of the rounding unit.
        limit: Coordinates compared at most, evenly spaced over all hyperparameters.
        **settings: Settings of the method.

    Returns:
        Relative error, cosine, and both vectors.

    Raises:
        MethodError: The losses are of a stack, or the training loss could not be minimised.

    Examples:
        >>> from luthier.response import implicit
        >>> w, penalty = {"w": torch.tensor([1.0]).double()}, {"penalty": torch.tensor([1.0]).double()}
        >>> train = lambda p, h, _: ((p["w"] - 2) ** 2 + h["penalty"] * p["w"] ** 2).sum()
        >>> valid = lambda p, h, _: ((p["w"] - 3) ** 2).sum()
        >>> check(implicit, Problem(train, valid, w, penalty), damping=0.0).relative_error < 1e-9
        True
    """
    inner = method
    while isinstance(inner, functools.partial):
        settings = {**inner.keywords, **settings}
        inner = inner.func
    if solve is None:
        repeat = inner is unrolled
        solve = _repeat(problem, settings) if repeat else _minimise(problem)
    else:
        repeat = False
    hyper = problem.hyper
    at = problem.params if repeat else solve(problem.params, hyper)
    result = inner(replace(problem, params=at), **settings)
    if result.valid_loss.ndim:
        raise MethodError("the losses are of a stack", where="check", remedy="Check one member at a time.")
    sizes = [h.numel() for h in hyper.values()]
    total = sum(sizes)
    count = min(limit, total)
    coordinates = [i * total // count for i in range(count)]
    flat = torch.cat([h.detach().reshape(-1) for h in hyper.values()])

    def value(moved: Tensor) -> Tensor:
        parts = zip(hyper.items(), moved.split(sizes), strict=True)
        there = {name: part.reshape(h.shape) for (name, h), part in parts}
        with torch.no_grad():
            return problem.valid_loss(solve(at, there), there, problem.valid_batch)

    unit = torch.finfo(flat.dtype).eps ** 0.2 if step is None else step
    expected = torch.stack([_derivative(value, flat, i, unit * max(1.0, abs(flat[i].item()))) for i in coordinates])
    found = torch.cat([g.reshape(-1) for g in result.total.values()])[coordinates]
    return Check(
        result,
        expected,
        found,
        coordinates,
        ((found - expected).norm() / expected.norm()).item(),
        torch.nn.functional.cosine_similarity(found, expected, dim=0).item(),
    )


def _derivative(value: Callable[[Tensor], Tensor], at: Tensor, index: int, h: float) -> Tensor:
    """Central difference of fourth order along one coordinate."""

    def side(distance: float) -> Tensor:
        moved = at.clone()
        moved[index] += distance
        return value(moved)

    return (8 * (side(h) - side(-h)) - (side(2 * h) - side(-2 * h))) / (12 * h)


def _repeat(problem: Problem, settings: dict[str, Any]) -> Solver:
    def solve(params: Tree, hyper: Tree) -> Tree:
        losses = Losses(replace(problem, params=params, hyper=hyper))
        rule = functional_optimizer(settings["optimizer"], losses)
        state = settings.get("state")
        point = Point([p.detach() for p in losses.params], rule.init(params) if state is None else state)
        for t in range(settings.get("steps") or len(losses.train_batches)):
            point, _ = plain_step(losses, rule, point, t)
        return dict(zip(losses.param_names, point.params, strict=True))

    return solve


def _minimise(problem: Problem) -> Solver:
    """Newton's method, its direction by conjugate gradients, its step halved until loss or gradient falls."""

    def solve(params: Tree, hyper: Tree) -> Tree:
        losses = Losses(replace(problem, params=params, hyper=hyper))
        weights = losses.params
        gradient = losses.train_gradient(weights, losses.hyper, losses.train_batches)
        if losses.members is not None:
            raise MethodError("the losses are of a stack", where="check", remedy="Check one member at a time.")
        start = size = norm(gradient, None)
        for _ in range(200):
            matrix = Products(losses, weights, losses.train_batches, "auto", None)
            size = norm(matrix.gradient, None)
            # Rounding keeps the gradient from vanishing: end there, or when no step makes it smaller.
            done = bool(size <= 16 * torch.finfo(size.dtype).eps)
            moved = None if done else _newton_step(losses, matrix, weights, size)
            if moved is None:
                break
            weights = moved
        precision = torch.finfo(weights[0].dtype).eps ** 0.5
        if not bool(size <= precision * max(1.0, start.item())):
            raise MethodError(
                f"the training loss could not be minimised, its gradient is {size.item():.3g}",
                where="check",
                remedy="Give params nearer to a minimum, a smooth loss, or your own solve(params, hyper) -> params.",
            )
        return {name: w.detach() for name, w in zip(losses.param_names, weights, strict=True)}

    return solve


def _newton_step(losses: Losses, matrix: Products, weights: list[Tensor], size: Tensor) -> list[Tensor] | None:
    count = sum(w.numel() for w in weights)
    q, _ = conjugate_gradients(
        matrix.hessian, matrix.gradient, iterations=2 * count + 10, tolerance=1e-10, members=None, traced=False
    )
    loss = losses.train(weights, losses.hyper, losses.train_batches)
    for halvings in range(12):
        with torch.no_grad():
            moved = [w.requires_grad_() for w in shifted(weights, -(0.5**halvings), q)]
        after = losses.train(moved, losses.hyper, losses.train_batches)
        smaller = norm(losses.train_gradient(moved, losses.hyper, losses.train_batches), None) < 0.99 * size
        if bool(after < loss - 1e-12 * loss.abs()) or bool(smaller & (after <= loss + 1e-12 * loss.abs())):
            return moved
    return None
