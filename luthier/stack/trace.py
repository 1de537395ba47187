"""A pure step, traced once to a flat graph: invariants hoisted out of the loop, leaves written in place.

The eager step stays the reference: :class:`Eager` and :class:`Traced` have one interface, and a trace is compared with
the eager form on its first batches before it is trusted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from luthier.stack import passes

Step = Callable[[Any, Sequence[Any], Any], tuple[Any, dict[str, Tensor]]]  # state, batches, valid -> state, metrics


class Eager:
    """Runs a step as it is written.

    Args:
        step: The pure step.
        state: The first state.
    """

    traced = False

    def __init__(self, step: Step, state: Any) -> None:
        self._step = step
        self.state = state

    def __call__(self, batches: Sequence[Any], valid: Any) -> dict[str, Tensor]:
        """Advance the state by one step; returns its metrics."""
        self.state, metrics = self._step(self.state, batches, valid)
        return metrics


def leaves_of(tree: Any) -> list[Any]:
    """The leaves of a nest, as pytree has them, which takes longer than a small step."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, list) or type(tree) is tuple:
        return [leaf for part in tree for leaf in leaves_of(part)]
    return pytree.tree_leaves(tree) if tree is not None else []


@dataclass(frozen=True)
class Graph:
    """A traced step, without any state: shared by all stacks of equal shapes."""

    hoist: Callable[..., tuple[Tensor, ...]]  # invariant leaves -> values that no step changes
    main: Callable[..., tuple[Tensor, ...]]  # leaves, data, hoisted values -> changed leaves, metrics
    changed: tuple[int, ...]  # leaves that a step replaces or overwrites
    invariant: tuple[int, ...]  # leaves that hoist reads
    metrics: tuple[str, ...]  # names


class Traced:
    """Runs a traced step on a state of its own.

    Args:
        graph: A graph from :func:`trace`.
        state: The first state; copied, since the graph writes in place.
    """

    def __init__(self, graph: Graph, state: Any) -> None:
        self._graph, self._main = graph, getattr(graph.main, "forward", graph.main)
        leaves, self._spec = pytree.tree_flatten(state)
        changed = set(graph.changed)
        self._leaves = [leaf.clone() if i in changed else leaf for i, leaf in enumerate(leaves)]
        with torch.inference_mode():
            self._hoisted = graph.hoist(*[self._leaves[i] for i in graph.invariant])

    def __call__(self, batches: Sequence[Any], valid: Any) -> dict[str, Tensor]:
        """Advance the state by one step; returns its metrics."""
        graph, leaves = self._graph, self._leaves
        with torch.inference_mode():
            outputs = self._main(*leaves, *leaves_of((batches, valid)), *self._hoisted)
        for position, leaf in enumerate(graph.changed):
            leaves[leaf] = outputs[position]
        return dict(zip(graph.metrics, outputs[len(graph.changed) :], strict=True))

    @property
    def state(self) -> Any:
        """The current state; the next step writes over it, so copy what must last."""
        return pytree.tree_unflatten(self._leaves, self._spec)


def trace(
    step: Step, state: Any, batches: Sequence[Any], valid: Any, *, compiled: bool = False, others: Sequence[Any] = ()
) -> Graph | None:
    """The graph of ``step`` for these shapes, or None, with a warning, where it differs from the eager step.

    Tracing bakes in Python values and branches, so the graph is run beside the eager form on two steps from
    ``state``; results must agree bit for bit (compiled code: to rounding).

    Args:
        step: The pure step.
        state: A state of the shapes to come; not changed.
        batches: The minibatches of one step.
        valid: A validation batch, or None.
        compiled: Compile the graph with ``torch.compile``.
    """
    try:
        graph = _build(step, state, batches, valid, compiled)
        steps = [(batches, valid), *(others or [(batches, valid)])]
        reason = _difference(step, graph, state, steps, exact=not compiled)
    except Exception as error:  # what make_fx raises for code it cannot follow
        graph, reason = None, f"{type(error).__name__}: {error}"
    if reason:
        warnings.warn(f"the training step runs eagerly, since its trace differs: {reason}", stacklevel=2)
        return None
    return graph


def _build(step: Step, state: Any, batches: Sequence[Any], valid: Any, compiled: bool) -> Graph:
    leaves, spec = pytree.tree_flatten(state)
    data, data_spec = pytree.tree_flatten((list(batches), [valid] if valid is not None else []))
    names: list[str] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        inner, inner_valid = pytree.tree_unflatten(tensors[len(leaves) :], data_spec)
        old_state = pytree.tree_unflatten(tensors[: len(leaves)], spec)
        new_state, metrics = step(old_state, inner, inner_valid[0] if inner_valid else None)
        new_leaves, new_spec = pytree.tree_flatten(new_state)
        if new_spec != spec:
            raise TypeError("the step changed the structure of its state")
        names[:] = metrics
        return (*new_leaves, *metrics.values())

    # the tracer must not see tensors that require gradients: the step asks for them itself
    inputs = [tensor.detach().clone() for tensor in leaves] + [tensor.detach() for tensor in data]
    # on fake tensors, so that a value cannot leave torch (numpy(), tolist(), a mask's size) and be baked in
    graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs).graph
    if any(node.target is torch.ops.aten._local_scalar_dense.default for node in graph.nodes):
        raise TypeError("a number leaves torch by item()")
    (output,) = [node for node in graph.nodes if node.op == "output"]
    passes.simplify(graph, list(output.args[0]))
    passes.free_constants(graph)
    passes.sink_transposes(graph)
    passes.simplify(graph, list(output.args[0]))
    graph.eliminate_dead_code()
    passes.merge_equal(graph, list(output.args[0]))

    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    outputs = list(output.args[0])
    changed = tuple(i for i in range(len(leaves)) if outputs[i] is not placeholders[i])
    invariant = [placeholders[i] for i in range(len(leaves)) if i not in set(changed)]
    hoisted = passes.hoistable(graph, invariant)
    inside = {*hoisted, *placeholders, output}
    body = [node for node in graph.nodes if node not in inside]
    needed = [node for node in hoisted if any(user is output or user not in inside for user in node.users)]
    constants = graph.owning_module
    hoist = passes.subgraph(constants, invariant, hoisted, needed)
    results = [outputs[i] for i in changed] + outputs[len(leaves) :]
    targets = None if compiled else passes.reused(graph, placeholders[: len(leaves)], outputs, body)
    main = passes.subgraph(constants, placeholders + needed, body, results, targets)
    run: Callable[..., tuple[Tensor, ...]] = main
    if compiled:  # not by torch.compile, whose look at every argument takes as long as a small step
        from torch._inductor import compile as inductor_compile  # takes a second

        with torch.no_grad():
            examples = [*inputs, *hoist(*[inputs[placeholders.index(x)] for x in invariant])]
            run = inductor_compile(main, examples)  # type: ignore[assignment]
    numbers = tuple(placeholders.index(node) for node in invariant)
    return Graph(hoist, run, changed, numbers, tuple(names))


def _difference(step: Step, graph: Graph, state: Any, steps: Sequence[Any], *, exact: bool) -> str:
    """Describe what differs after some steps; "" if all is equal."""
    eager, traced = Eager(step, state), Traced(graph, state)
    for count, (batches, valid) in enumerate(steps):
        expected = pytree.tree_leaves((eager(batches, valid), eager.state))
        found = pytree.tree_leaves((traced(batches, valid), traced.state))
        for a, b in zip(expected, found, strict=True):
            close = (
                torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)) and torch.equal(a.isnan(), b.isnan())
                if exact
                else torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
            )
            if not close:
                return f"a tensor of shape {tuple(a.shape)} after step {count}"
    return ""
