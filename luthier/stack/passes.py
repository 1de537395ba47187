"""Passes over the graph of a traced step: equal values computed once, invariants hoisted, memory reused.

None of it changes a number: operators are the same, on the same operands; a result is only written elsewhere.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from luthier.stack.settle import ARITHMETIC

aten = torch.ops.aten

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
    aten.sqrt.default: aten.sqrt.out,
    aten.pow.Tensor_Scalar: aten.pow.Tensor_Scalar_out,
    aten.copy.default: aten.copy.out,
}
# Operators by whose function in torch's own module they are called in half of the time, with the same arguments.
QUICK = frozenset(
    (
        *(
            "add sub rsub mul div addcmul addcdiv lerp sqrt pow neg exp log relu sigmoid tanh clamp clamp_min where"
        ).split(),
        *("eq ne lt le gt ge sum mean amax bmm baddbmm mm addmm stack cat _softmax _log_softmax gather").split(),
        *("transpose permute unsqueeze squeeze select").split(),
    )
)
METHODS = {aten.view.default: Tensor.view, aten.expand.default: Tensor.expand}
TRANSPARENT = {aten.detach.default, aten.alias.default}  # no-ops once no gradient is recorded
FILLED = {
    aten.ones_like.default: 1,
    aten.zeros_like.default: 0,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
}
SHARES = {aten.reshape.default, aten._unsafe_view.default, aten.contiguous.default}  # perhaps, which no schema says


def simplify(graph: fx.Graph, outputs: list[Any]) -> None:
    """Without operators that give what they are given, such as those that only recording needs, and views of views."""
    owner = owners(graph)
    written = _written(graph, owner)
    kept = {node for node in owner if node in outputs or any(owner[old] in written for old in node.all_input_nodes)}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        same = _same(node, node in kept)
        if same is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
        elif node.target is aten.view.default and node.args[0].target is aten.view.default:
            base = node.args[0].args[0]
            if base.meta["val"].is_contiguous():
                node.args = (base, node.args[1])


def _same(node: fx.Node, kept: bool) -> Any:
    """The operand that ``node`` equals, or None; a copy that is to be ``kept`` is not one."""
    old, rest = (node.args[0], node.args[1:]) if node.args else (None, ())
    if not isinstance(old, fx.Node):
        return None
    if node.target in TRANSPARENT:
        return old
    if node.target is aten.transpose.int and old.target is aten.transpose.int and old.args[1:] == rest:
        return old.args[0]
    if node.target is aten.permute.default and rest == ([*range(old.meta["val"].ndim)],):  # by vmap
        return old
    alike = _alike(node, old)
    if node.target in (aten.view.default, aten.expand.default) and alike:
        return old
    one = node.target in (aten.pow.Tensor_Scalar, aten.div.Tensor) and rest == (1,)
    return old if one and alike and not kept else None


def sink_transposes(graph: fx.Graph) -> None:
    """Run plain arithmetic before the transposes that all its operands have: pairs of these fall away.

    It then goes over memory in its order, as code made by torch.compile would not. Other elementwise operators have
    other last bits at the ends of loops, and the order of loops may follow that of axes.
    """
    for node in list(graph.nodes):
        olds = node.all_input_nodes
        if _name(node.target).rstrip("_") not in ARITHMETIC or _mutates(node) or node.target is aten.copy.default:
            continue
        if not olds or any(old.target is not aten.transpose.int for old in olds):
            continue
        axes, bases = {old.args[1:] for old in olds}, [old.args[0] for old in olds]
        values = [base.meta["val"] for base in bases]  # type: ignore[union-attr]
        if len(axes) > 1 or len({value.shape for value in values}) > 1 or node.kwargs.keys() & {"memory_format"}:
            continue
        with graph.inserting_before(node):
            new = graph.node_copy(node, lambda old: old.args[0])  # type: ignore[arg-type,return-value]
            back = graph.call_function(aten.transpose.int, (new, *next(iter(axes))))
        new.meta, back.meta = {"val": node.meta["val"].transpose(*back.args[1:])}, node.meta
        node.replace_all_uses_with(back)
        graph.erase_node(node)


def free_constants(graph: fx.Graph) -> None:
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


def merge_equal(graph: fx.Graph, outputs: list[Any]) -> None:
    """Compute once what is computed twice from the same operands, as in every step of a window.

    What is returned stays as it is, so that two leaves of the state never become one tensor, and so does what is
    written into or reads such memory.
    """
    owner = owners(graph)
    written = _written(graph, owner)
    returned = {owner[output] for output in outputs if isinstance(output, fx.Node)}
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        moving = any(owner[x] in written for x in (node, *node.all_input_nodes))
        if node.op != "call_function" or moving or owner[node] in returned:
            continue
        first = seen.setdefault((node.target, _key(node.args), _key(node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _key(argument: Any) -> Any:
    """Equal for equal arguments alone: 1, 1.0 and True are three."""
    if isinstance(argument, fx.Node):
        return argument
    if isinstance(argument, list | tuple):
        return tuple(_key(each) for each in argument)
    if isinstance(argument, dict):
        return tuple((name, _key(each)) for name, each in argument.items())
    return type(argument), repr(argument)


def hoistable(graph: fx.Graph, invariant: list[fx.Node]) -> list[fx.Node]:
    """Nodes, in order, that depend on invariant leaves and constants alone.

    Not those into which a step writes, as into an accumulator that starts at zero: it must start there anew.
    """
    owner = owners(graph)
    written = _written(graph, owner)
    fixed = set(invariant)
    found = []
    for node in graph.nodes:
        pure = node.op == "get_attr" or (node.op == "call_function" and not _mutates(node))
        if pure and all(argument in fixed for argument in node.all_input_nodes) and owner[node] not in written:
            fixed.add(node)
            found.append(node)
    return found


def reused(graph: fx.Graph, leaves: list[fx.Node], outputs: list[Any], body: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """The node of the tensor that each node may write its result over, being the last to read it.

    Such are elementwise operators, where the tensor is as the result in shape, type and strides, and is either an
    intermediate one or a leaf that a step replaces, whose memory nobody else has. Fresh tensors of some megabytes at
    each step cost more than the arithmetic.

    Args:
        graph: The step.
        leaves: The placeholders of the state.
        outputs: The returned values, the new leaves first.
        body: The nodes that are run at every step.
    """
    owner = owners(graph)
    written = _written(graph, owner)
    order = {node: i for i, node in enumerate(graph.nodes)}
    last: dict[fx.Node, int] = {}  # of the nodes that read each memory
    for node in graph.nodes:
        if node.op != "output":
            for argument in node.all_input_nodes:
                last[owner[argument]] = order[node]
    ends = [owner[output] for output in outputs if isinstance(output, fx.Node)]
    inside = set(body)
    mine = {
        leaf
        for leaf, new in zip(leaves, outputs, strict=False)
        if isinstance(new, fx.Node) and owner[new] in inside and ends.count(owner[new]) == 1
    }
    targets = {}
    for node in body:
        for old in node.all_input_nodes if node.target in ELEMENTWISE else ():
            free = owner[old] is old and (old in inside or old in mine) and old not in ends and old not in written
            alone = all(argument is old or owner[argument] is not old for argument in node.all_input_nodes)
            if free and alone and last[old] == order[node] and _alike(node, old):
                targets[node] = old
                break
    return targets


def _alike(left: fx.Node, right: fx.Node) -> bool:
    x, y = left.meta.get("val"), right.meta.get("val")
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())
    )


def owners(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """The first of the nodes that may share each node's memory, which is itself where the tensor is a new one."""
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        shared = [found[argument] for argument in node.all_input_nodes] if _shares(node) else []
        found[node] = shared[0] if shared else node
        for other in shared[1:]:  # of several operands, all count as one memory
            found.update({key: shared[0] for key, value in found.items() if value is other})
    return found


def _shares(node: fx.Node) -> bool:
    """Return True if the node's result may share memory with an operand."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    if node.target is operator.getitem or node.target in SHARES or schema is None:
        return True
    return any(result.alias_info for result in schema.returns)


def _written(graph: fx.Graph, owner: dict[fx.Node, fx.Node]) -> set[fx.Node]:
    """The owners of memory that some node writes into."""
    return {owner[argument] for node in graph.nodes if _mutates(node) for argument in node.all_input_nodes}


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def subgraph(
    root: Any,
    inputs: list[fx.Node],
    body: list[fx.Node],
    results: list[Any],
    targets: dict[fx.Node, fx.Node] | None = None,
) -> fx.GraphModule:
    """The nodes of ``body`` as a function of ``inputs``; nodes in ``targets`` write over the tensor named there.

    Without ``targets`` the operators stay those of aten, as compilers want them.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(f"input_{i}") for i, node in enumerate(inputs)}
    for node in body:
        copy = graph.node_copy(node, lambda old: copies[old])
        if targets and node in targets:
            copy.target = ELEMENTWISE[node.target]  # type: ignore[index]
            copy.kwargs = {**copy.kwargs, "out": copies[targets[node]]}
        if targets is not None and copy.op == "call_function":
            copy.target = METHODS.get(copy.target) or _quick(copy.target)  # type: ignore[arg-type]
        copies[node] = copy
    graph.output(tuple(copies[node] for node in results))
    return fx.GraphModule(root, graph)


def _quick(target: Any) -> Any:
    return getattr(torch, _name(target)) if _name(target) in QUICK else target


def _name(target: Any) -> str:
    """The name of an operator of aten, or nothing."""
    return target.overloadpacket.__name__ if getattr(target, "namespace", "") == "aten" else ""
