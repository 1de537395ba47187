"""A pure step, traced once to a flat graph: invariants hoisted out of the loop, leaves written in place.

The eager step stays the reference: :class:`Eager` and :class:`Traced` have one interface, and a trace is compared with
the eager form on its first batches before it is trusted.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

aten = torch.ops.aten

Step = Callable[[Any, Sequence[Any], Any], tuple[Any, dict[str, Tensor]]]  # state, batches, valid -> state, metrics

# Elementwise operators that may write into a tensor which they read: each element is read before it is written.
ELEMENTWISE = {
    aten.addcmul.default: aten.addcmul.out,
    aten.addcdiv.default: aten.addcdiv.out,
    aten.add.Tensor: aten.add.out,
    aten.sub.Tensor: aten.sub.out,
    aten.mul.Tensor: aten.mul.out,
    aten.div.Tensor: aten.div.out,
    aten.lerp.Tensor: aten.lerp.Tensor_out,
    aten.lerp.Scalar: aten.lerp.Scalar_out,
    aten.copy.default: aten.copy.out,
}
TRANSPARENT = {aten.detach.default, aten.alias.default}  # no-ops once no gradient is recorded
FILLED = {
    aten.ones_like.default: 1,
    aten.zeros_like.default: 0,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
}


class Eager:
    """Runs a step as it is written.

    Args:
        step: The pure step.
        state: The first state.
    """

    def __init__(self, step: Step, state: Any) -> None:
        self._step = step
        self.state = state

    def __call__(self, batches: Sequence[Any], valid: Any) -> dict[str, Tensor]:
        """Advance the state by one step; returns its metrics."""
        self.state, metrics = self._step(self.state, batches, valid)
        return metrics


@dataclass(frozen=True)
class Graph:
    """A traced step, without any state: shared by all stacks of equal shapes."""

    hoist: Callable[..., tuple[Tensor, ...]]  # invariant leaves -> values that no step changes
    main: Callable[..., tuple[Tensor, ...]]  # leaves, data, hoisted values -> changed leaves, metrics
    changed: tuple[int, ...]  # leaves that a step replaces or overwrites
    invariant: tuple[int, ...]  # leaves that hoist reads
    metrics: pytree.TreeSpec


class Traced:
    """Runs a traced step on a state of its own.

    Args:
        graph: From :func:`trace`.
        state: The first state; copied, since the graph writes in place.
    """

    def __init__(self, graph: Graph, state: Any) -> None:
        self._graph = graph
        leaves, self._spec = pytree.tree_flatten(state)
        changed = set(graph.changed)
        self._leaves = [leaf.clone() if i in changed else leaf for i, leaf in enumerate(leaves)]
        with torch.inference_mode():
            self._hoisted = graph.hoist(*[self._leaves[i] for i in graph.invariant])

    @torch.inference_mode()
    def __call__(self, batches: Sequence[Any], valid: Any) -> dict[str, Tensor]:
        """Advance the state by one step; returns its metrics."""
        graph, leaves = self._graph, self._leaves
        data = [tensor for batch in batches for tensor in batch]
        if valid is not None:
            data.extend(valid)
        outputs = graph.main(*leaves, *data, *self._hoisted)
        for position, leaf in enumerate(graph.changed):
            leaves[leaf] = outputs[position]
        return pytree.tree_unflatten(outputs[len(graph.changed) :], graph.metrics)

    @property
    def state(self) -> Any:
        """The current state; the next step writes over it, so copy what must last."""
        return pytree.tree_unflatten(self._leaves, self._spec)


def trace(step: Step, state: Any, batches: Sequence[Any], valid: Any, *, compiled: bool = False) -> Graph | None:
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
        reason = _difference(step, graph, state, batches, valid, exact=not compiled)
    except (RuntimeError, TypeError, NotImplementedError) as error:  # what make_fx raises for code it cannot follow
        graph, reason = None, f"{type(error).__name__}: {error}"
    if reason:
        warnings.warn(f"the training step runs eagerly, since its trace differs: {reason}", stacklevel=2)
        return None
    return graph


def _build(step: Step, state: Any, batches: Sequence[Any], valid: Any, compiled: bool) -> Graph:
    leaves, spec = pytree.tree_flatten(state)
    data, data_spec = pytree.tree_flatten((list(batches), [valid] if valid is not None else []))
    metric_spec: list[pytree.TreeSpec] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        inner, inner_valid = pytree.tree_unflatten(tensors[len(leaves) :], data_spec)
        old_state = pytree.tree_unflatten(tensors[: len(leaves)], spec)
        new_state, metrics = step(old_state, inner, inner_valid[0] if inner_valid else None)
        new_leaves, new_spec = pytree.tree_flatten(new_state)
        if new_spec != spec:
            raise TypeError("the step changed the structure of its state")
        metric_leaves, metrics_spec = pytree.tree_flatten(dict(metrics))
        metric_spec.append(metrics_spec)
        return (*new_leaves, *metric_leaves)

    # the tracer must not see tensors that require gradients: the step asks for them itself
    inputs = [tensor.detach().clone() for tensor in leaves] + [tensor.detach() for tensor in data]
    graph = make_fx(flat)(*inputs).graph
    _remove_transparent(graph)
    _free_constants(graph)
    graph.eliminate_dead_code()

    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in graph.nodes if node.op == "output"]
    outputs = list(output.args[0])
    changed = tuple(i for i in range(len(leaves)) if outputs[i] is not placeholders[i])
    invariant = [placeholders[i] for i in range(len(leaves)) if i not in set(changed)]
    hoisted = _hoistable(graph, invariant)
    inside = {*hoisted, *placeholders, output}
    body = [node for node in graph.nodes if node not in inside]
    needed = [node for node in hoisted if any(user is output or user not in inside for user in node.users)]
    constants = graph.owning_module
    hoist = _subgraph(constants, invariant, hoisted, needed)
    results = [outputs[i] for i in changed] + outputs[len(leaves) :]
    targets = {} if compiled else _donations(graph, placeholders, outputs, changed)
    main = _subgraph(constants, placeholders + needed, body, results, targets)
    if compiled:
        main = torch.compile(main, fullgraph=True, dynamic=False)
    return Graph(hoist, main, changed, tuple(placeholders.index(node) for node in invariant), metric_spec[-1])


def _remove_transparent(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in TRANSPARENT:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _free_constants(graph: fx.Graph) -> None:
    """Tensors filled with one value take nothing but their shape from others: say so, and they can be hoisted."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in FILLED:
            value = node.meta["val"]
            with graph.inserting_before(node):
                filled = graph.call_function(
                    aten.full.default,
                    (list(value.shape), FILLED[node.target]),
                    {"dtype": value.dtype, "device": value.device},
                )
            filled.meta = node.meta
            node.replace_all_uses_with(filled)
            graph.erase_node(node)


def _hoistable(graph: fx.Graph, invariant: list[fx.Node]) -> list[fx.Node]:
    """Nodes, in order, that depend on invariant leaves and constants alone."""
    fixed = set(invariant)
    found = []
    for node in graph.nodes:
        pure = node.op == "get_attr" or (node.op == "call_function" and not _mutates(node))
        if pure and all(argument in fixed for argument in node.all_input_nodes) and not _overwritten(node):
            fixed.add(node)
            found.append(node)
    return found


def _overwritten(node: fx.Node) -> bool:
    """Whether a step writes into its memory, as into an accumulator that starts at zero: it must start there anew."""
    return any(_mutates(user) for view in _views(node) for user in view.users)


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _donations(
    graph: fx.Graph, placeholders: list[fx.Node], outputs: list[Any], changed: tuple[int, ...]
) -> dict[fx.Node, fx.Node]:
    """For each node that may write its result over an old leaf: that leaf's placeholder.

    Allowed where the node is elementwise, has the leaf's shape and type, and nothing reads the leaf, or a view of it,
    later (fresh tensors of some megabytes at each step cost more than the arithmetic).
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    targets = {}
    for i in changed:
        leaf, new = placeholders[i], outputs[i]
        if not isinstance(new, fx.Node) or new.target not in ELEMENTWISE or outputs.count(new) > 1:
            continue
        same = new.meta["val"].shape == leaf.meta["val"].shape and new.meta["val"].dtype == leaf.meta["val"].dtype
        views = _views(leaf)
        later = any(order[user] > order[new] for view in views for user in view.users if user.op != "output")
        returned = any(view in outputs for view in views)
        overlapping = any(argument in views and argument is not leaf for argument in new.all_input_nodes)
        if same and not (later or returned or overlapping):
            targets[new] = leaf
    return targets


def _views(node: fx.Node) -> set[fx.Node]:
    """``node`` and all that may share its memory."""
    found, open_nodes = {node}, [node]
    while open_nodes:
        for user in open_nodes.pop().users:
            schema = getattr(user.target, "_schema", None)
            if user in found or user.op != "call_function":
                continue
            aliases = user.target is operator.getitem or schema is None or any(r.alias_info for r in schema.returns)
            if aliases or user.target in (aten.reshape.default, aten._unsafe_view.default, aten.contiguous.default):
                found.add(user)
                open_nodes.append(user)
    return found


def _subgraph(
    root: Any,
    inputs: list[fx.Node],
    body: list[fx.Node],
    results: list[Any],
    targets: dict[fx.Node, fx.Node] | None = None,
) -> fx.GraphModule:
    """The nodes of ``body`` as a function of ``inputs``; nodes in ``targets`` write over the input named there."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(f"input_{i}") for i, node in enumerate(inputs)}
    for node in body:
        copy = graph.node_copy(node, lambda old: copies[old])
        if targets and node in targets:
            copy.target = ELEMENTWISE[node.target]  # type: ignore[index]
            copy.kwargs = {**copy.kwargs, "out": copies[targets[node]]}
        copies[node] = copy
    graph.output(tuple(copies[node] for node in results))
    return fx.GraphModule(root, graph)


def _difference(step: Step, graph: Graph, state: Any, batches: Sequence[Any], valid: Any, *, exact: bool) -> str:
    """What differs after two steps, or "" where all is equal."""
    eager, traced = Eager(step, state), Traced(graph, state)
    for count in (1, 2):
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
