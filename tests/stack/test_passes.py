"""The graph of a traced step: nothing that is done to it may change a number, now or at a later step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.stack.trace import Eager, Traced, trace

State = dict[str, Tensor]
Made = tuple[State, dict[str, Tensor]]


def swapped(state: State, x: Tensor) -> Made:
    return {"a": state["b"] * 1, "b": state["a"] + x, "c": state["b"]}, {"m": state["a"]}


def one_tensor_twice(state: State, x: Tensor) -> Made:
    new = state["a"] * 2 + x
    return {"a": new, "b": new, "c": state["c"] + new}, {"m": new}


def equal_twice(state: State, x: Tensor) -> Made:
    return {"a": state["a"] + x, "b": state["a"] + x, "c": (state["a"] + x).view(2, 2).view(4)}, {"m": state["a"] + x}


def a_view_kept(state: State, x: Tensor) -> Made:
    view = state["a"].view(2, 2).t()
    return {"a": state["a"] * 3 + x, "b": view.sum(0).repeat(2), "c": state["b"] / 1}, {"m": view[0].repeat(2)}


def several_updates(state: State, x: Tensor) -> Made:
    a, b, c = state["a"], state["b"], state["c"]
    for _ in range(3):
        gradient = a.square() + x
        b = torch.lerp(b, gradient, 0.1)
        c = torch.lerp(c, gradient.square(), 0.01)
        a = torch.addcdiv(a, b, c.sqrt() + 1e-3, value=-0.01)
    return {"a": a, "b": b, "c": c}, {"m": b.pow(1.0), "n": (a * a + b * b).sqrt()}


def written_into(state: State, x: Tensor) -> Made:
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    first.index_add_(0, torch.tensor([1, 1]), x[:2])
    before = first / 1
    first.add_(state["a"])
    second.add_(first)
    return {"a": first + 0, "b": second, "c": before * 2 + state["c"]}, {"m": first * 2}


STEPS = (swapped, one_tensor_twice, equal_twice, a_view_kept, several_updates, written_into)


def fresh() -> State:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(4, generator=generator) for name in "abc"}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_and_every_metric_stay_what_they_were(step: Callable[[State, Tensor], Made]):
    def stepped(state: Any, batches: Any, valid: Any) -> Any:
        return step(state, batches[0][0])

    data = [[(torch.full((4,), 0.1 * t),)] for t in range(6)]
    state, before = fresh(), fresh()
    graph = trace(stepped, state, data[0], None)
    assert graph is not None
    eager, traced = Eager(stepped, state), Traced(graph, state)
    kept = [(eager(batches, None), traced(batches, None)) for batches in data]
    for expected, found in kept:  # looked at only now, when later steps have written where they may
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(torch.equal(eager.state[name], traced.state[name]) for name in before)
    assert all(torch.equal(state[name], before[name]) for name in before), "the caller's state was written over"


def graph_of(step: Callable[[State, Tensor], Made]) -> Any:
    def stepped(state: Any, batches: Any, valid: Any) -> Any:
        return step(state, batches[0][0])

    made = trace(stepped, fresh(), [(torch.ones(4),)], None)
    assert made is not None
    return made.main.graph  # type: ignore[attr-defined]


def test_memory_that_nobody_reads_again_is_written_over():
    moved = [node for node in graph_of(several_updates).nodes if node.target is torch.lerp]
    assert ["out" in node.kwargs for node in moved] == [True] * 6


def test_what_is_equal_is_computed_once():
    def twice(state: State, x: Tensor) -> Made:
        return {**state, "a": state["a"] + (x + 1).exp() * (x + 1).exp()}, {"m": state["a"]}

    targets = [node.target for node in graph_of(twice).nodes]
    assert targets.count(torch.exp) == 1


def test_axes_that_vmap_leaves_where_they_are_cost_no_operator():
    def step(state, batches, valid):
        new = state["w"].permute(0, 1) * batches[0]
        return {"w": new}, {"loss": new.sum(1)}

    graph = trace(step, {"w": torch.ones(2, 3)}, [torch.full((2, 3), 0.5)], None)
    assert graph is not None
    assert "permute" not in {getattr(node.target, "__name__", "")[:7] for node in graph.main.graph.nodes}


def test_arithmetic_runs_in_the_order_of_memory_so_that_transposes_fall_away():
    """Operators that round more than once stay: their last bits could depend on the order of the axes."""

    def step(state, batches, valid):
        x = batches[0].transpose(1, 2)
        rows = (x * x.relu()).transpose(1, 2)
        return {"w": state["w"] + rows}, {"loss": x.sigmoid().transpose(1, 2).sum((1, 2))}

    x = torch.linspace(-2, 2, 30).reshape(2, 3, 5)
    graph = trace(step, {"w": torch.ones(2, 3, 5)}, [x], None)
    assert graph is not None
    assert [node.target for node in graph.main.graph.nodes].count(torch.transpose) == 2
    traced = Traced(graph, {"w": torch.ones(2, 3, 5)})
    traced([x], None)
    assert torch.equal(traced.state["w"], 1 + x * x.relu())


def test_a_rectified_sum_that_is_written_over_is_traced():
    """Not every function of torch's that has the name of an operator takes the memory to write to."""

    def step(state, batches, valid):
        return {"w": ((state["w"] + batches[0]).relu() * 2).clamp(max=3).abs()}, {"loss": state["w"].sum(1)}

    graph = trace(step, {"w": torch.ones(2, 3)}, [torch.full((2, 3), 0.5)], None)
    assert graph is not None, "it has warned, and would run eagerly"
