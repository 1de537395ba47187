"""Training steps recorded forth and gone through backwards, under three ways of keeping memory small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.response.optimizers import FunctionalOptimizer
from luthier.response.problem import Losses, filled, gradients
from luthier.response.products import (
    CUT_OFF,
    Mode,
    Products,
    Randomness,
    cut_off,
    lacks_second_derivative,
    warn_fall_back,
)
from luthier.response.trees import norm, shifted

Memory = Literal["graph", "checkpoint", "trajectory"]


@dataclass
class Point:
    """A point of training: weights, the optimizer's state (both constants), and torch's generators before the step."""

    params: list[Tensor]
    state: Any
    random: Randomness | None = None


@dataclass
class SegmentGraph:
    """The graph of a segment's steps, from (weights, state, hyperparameters) to (weights, state)."""

    params: list[Tensor]
    state: list[Tensor]
    first: list[Tensor]  # weights after the segment's first step
    new_params: list[Tensor]
    new_state: list[Tensor]


@dataclass
class Adjoint:
    """State of the way back: gradients by the weights and the state there, and by the hyperparameters so far."""

    params: list[Tensor]
    state: list[Tensor | None]
    hyper: list[Tensor | None]
    first: list[Tensor]  # by the weights after the earliest step that was gone through


class Tape:
    """The steps first..last-1 on the way forth and back, under one of the three memory modes.

    The steps are cut into segments: all steps, √steps, or 1 of them. A segment is one graph and gone through by one
    backward pass. The mode "graph" keeps its only segment's graph; the others keep the points at which segments start
    and build one graph at a time. Where a module has no second derivative no graph is built: a step is gone back
    through by the graph of its update alone and finite differences of its gradient.
    """

    def __init__(
        self,
        losses: Losses,
        rule: FunctionalOptimizer,
        first: int,
        last: int,
        memory: Memory,
        products: Mode,
        radius: float | None,
    ) -> None:
        self.losses, self.rule, self.first, self.last = losses, rule, first, last
        self.mode, self.radius = products, radius
        count = last - first
        if products == "finite_difference" and memory == "graph":
            memory = "trajectory"  # there are no graphs to keep
        self.length = {"graph": count, "checkpoint": math.ceil(math.sqrt(count)), "trajectory": 1}[memory]
        self.kept = memory == "graph"
        self.graph: SegmentGraph | None = None
        self.cut = False  # whether a function that can be differentiated but once is in the steps
        self.starts: list[Point] = []

    def forward(self, point: Point) -> tuple[Point, Tensor]:
        """Make all steps; returns where they end and the norm of the last training gradient."""
        if self.kept:
            self.starts.append(replace(point, random=self._randomness()))
            self.graph, point, length = self._build(point, self.first)
            return point, length
        inner: list[Tensor] = []
        for t in range(self.first, self.last):
            if (t - self.first) % self.length == 0:
                self.starts.append(replace(point, random=self._randomness()))
            point, inner = plain_step(self.losses, self.rule, point, t)
        return point, norm(inner, self.losses.members)

    def backward(self, v: list[Tensor]) -> tuple[list[Tensor | None], list[Tensor]]:
        """Go back from ∂L_V/∂w at the end: the response, and the gradient by the weights after the first step."""
        after = self._randomness()
        adjoint = Adjoint(v, [], [None] * len(self.losses.hyper), v)
        for number in range(len(self.starts) - 1, -1, -1):
            begin, start = self.first + number * self.length, self.starts.pop()
            if self.mode != "finite_difference":
                adjoint = self._back_by_graph(start, begin, adjoint)
            else:
                adjoint = self._back_by_differences(start, begin, adjoint)
        after.restore()
        return adjoint.hyper, adjoint.first

    def _back_by_graph(self, start: Point, begin: int, adjoint: Adjoint) -> Adjoint:
        graph, self.graph = self.graph, None
        if graph is None:
            _restore(start)
            graph = self._build(start, begin)[0]
        # The weights before the first step are given: nothing needs their gradient, so that product is left out.
        kept = [] if begin == self.first else [*graph.params, *graph.state]
        inputs = [*self.losses.hyper, *graph.first, *kept]
        outputs = [*graph.new_params, *graph.new_state]
        cotangents = [*adjoint.params, *(adjoint.state or [None] * len(graph.new_state))]
        try:
            if self.cut:
                raise RuntimeError(CUT_OFF)
            found = pull(outputs, inputs, cotangents)
        except RuntimeError as error:
            if self.mode != "auto" or not lacks_second_derivative(error):
                raise
            warn_fall_back(error)
            self.mode = "finite_difference"
            return self._back_by_differences(start, begin, adjoint)
        count, size = len(self.losses.hyper), len(graph.params)
        none: list[Tensor | None] = [None] * (size + len(graph.state))
        rest = found[count + size :] if kept else none
        return Adjoint(
            params=filled(graph.params, rest[:size]),
            state=rest[size:],
            hyper=sums(adjoint.hyper, found[:count]),
            first=filled(graph.first, found[count : count + size]),
        )

    def _back_by_differences(self, start: Point, begin: int, adjoint: Adjoint) -> Adjoint:
        points, point = [], start
        _restore(start)
        for t in range(begin, min(begin + self.length, self.last)):
            points.append(replace(point, random=self._randomness()))
            if t + 1 < min(begin + self.length, self.last):
                point, _ = plain_step(self.losses, self.rule, point, t)
        while points:
            adjoint = self._back_one_step(points.pop(), begin + len(points), adjoint)
        return adjoint

    def _back_one_step(self, point: Point, t: int, adjoint: Adjoint) -> Adjoint:
        losses = self.losses
        params, state, leaves = _leaves(point)
        _restore(point)
        matrix = Products(losses, params, [batch_of(losses, t)], "finite_difference", self.radius, point.random)
        grads = [g.requires_grad_() for g in matrix.gradient]
        with torch.enable_grad():
            new_params, new_state = _update(losses, self.rule, params, grads, leaves)
        outputs = [*new_params, *_reals(new_state)]
        cotangents = [*adjoint.params, *(adjoint.state or [None] * (len(outputs) - len(new_params)))]
        found = pull(outputs, [*params, *grads, *state, *losses.hyper], cotangents)
        size, count = len(params), 2 * len(params) + len(state)
        curved, mixed = matrix.differences(filled(grads, found[size : 2 * size]))
        return Adjoint(
            params=shifted(filled(params, found[:size]), 1.0, curved),
            state=found[2 * size : count],
            hyper=sums(adjoint.hyper, sums(found[count:], mixed)),
            first=adjoint.params,
        )

    def _build(self, start: Point, begin: int) -> tuple[SegmentGraph, Point, Tensor]:
        """Record a segment; returns its graph, where it ends, and the norm of the last training gradient."""
        losses = self.losses
        leaves, state_leaves, state = _leaves(start)
        params, first, grads = leaves, leaves, leaves
        for t in range(begin, min(begin + self.length, self.last)):
            with torch.enable_grad():
                loss = losses.train(params, losses.hyper, [batch_of(losses, t)])
                grads = filled(params, gradients(loss, params, create_graph=True))
                self.cut = self.cut or (t == begin and not losses.traced and cut_off(grads))
                params, state = _update(losses, self.rule, params, grads, state)
            first = params if t == begin else first
        graph = SegmentGraph(leaves, state_leaves, first, params, _reals(state))
        length = norm([g.detach() for g in grads], losses.members)
        return graph, Point([p.detach() for p in params], detached(state)), length

    def _randomness(self) -> Randomness:
        return Randomness(self.losses.params[0].device, self.losses.traced)


def pull(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Vector-Jacobian product; constant outputs and cotangents of None are left out, unused inputs give None."""
    pairs = [(y, a) for y, a in zip(outputs, cotangents, strict=True) if a is not None and y.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    ys, vs = zip(*pairs, strict=True)
    return list(torch.autograd.grad(ys, list(inputs), grad_outputs=vs, allow_unused=True))


def sums(left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Entry by entry, None as zero."""
    return [y if x is None else x if y is None else x + y for x, y in zip(left, right, strict=True)]


def plain_step(losses: Losses, rule: FunctionalOptimizer, point: Point, t: int) -> tuple[Point, list[Tensor]]:
    """One training step whose graph is not kept."""
    params = [p.detach().requires_grad_() for p in point.params]
    grads = losses.train_gradient(params, losses.hyper, [batch_of(losses, t)])
    with torch.no_grad():
        tree = dict(zip(losses.param_names, point.params, strict=True))
        by_name = dict(zip(losses.param_names, grads, strict=True))
        knobs = {name: h.detach() for name, h in zip(losses.hyper_names, losses.hyper, strict=True)}
        new, state = rule.update(tree, by_name, point.state, knobs)
    return Point([new[name].detach() for name in losses.param_names], detached(state)), grads


def batch_of(losses: Losses, t: int) -> Any:
    """The minibatch of step t."""
    return losses.train_batches[t % len(losses.train_batches)]


def detached(state: Any) -> Any:
    """The same nest with constants for tensors."""
    return pytree.tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, state)


def _restore(point: Point) -> None:
    if point.random is not None:
        point.random.restore()


def _leaves(point: Point) -> tuple[list[Tensor], list[Tensor], Any]:
    """Fresh leaves of a graph: the weights, the real tensors of the state, and the state with these in it."""
    values, spec = pytree.tree_flatten(point.state)
    values = [x.detach().requires_grad_() if _is_real(x) else x for x in values]
    state = [x for x in values if _is_real(x)]
    return [p.detach().requires_grad_() for p in point.params], state, pytree.tree_unflatten(values, spec)


def _update(
    losses: Losses, rule: FunctionalOptimizer, params: Sequence[Tensor], grads: Sequence[Tensor], state: Any
) -> tuple[list[Tensor], Any]:
    tree = dict(zip(losses.param_names, params, strict=True))
    by_name = dict(zip(losses.param_names, grads, strict=True))
    new, state = rule.update(tree, by_name, state, dict(zip(losses.hyper_names, losses.hyper, strict=True)))
    return [new[name] for name in losses.param_names], state


def _reals(state: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(state) if _is_real(x)]


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
