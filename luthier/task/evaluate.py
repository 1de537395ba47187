"""Loss and metrics of a stack on a whole split, on gathered outputs unless they are means over rows."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.hidden import alike
from luthier.optim.common import Tensors
from luthier.stack.settle import close
from luthier.task.keyed import drawing
from luthier.task.member import LOSS, parts
from luthier.task.reading import EVALUATED, InMemory, Listed

if TYPE_CHECKING:
    from luthier.task.network import Network
    from luthier.task.program import Program

GATHERED = 1 << 30  # bytes of the outputs of a stack that are held at once


def evaluate(program: Program, params: Tensors, buffers: Tensors, hyper: Tensors, split: str) -> Tensors:
    """Loss and metrics by name, (members,) float64.

    Args:
        program: Gives network, measures and data.
        params: (members, …) by name.
        buffers: (members, …) by name.
        hyper: (members, …) by name.
        split: Name of the data split.

    Raises:
        TaskError: If outputs cannot be joined, or not be held.
    """
    try:
        return _evaluated(program, params, buffers, hyper, split)
    except _GraphError:  # known from now on
        return evaluate(program, params, buffers, hyper, split)


class _GraphError(RuntimeError):
    """A measure takes gradients of the outputs."""


def _evaluated(program: Program, params: Tensors, buffers: Tensors, hyper: Tensors, split: str) -> Tensors:
    measures, graphs = program.measures, program.differentiating
    by_rows = {name: measure for name, measure in measures.items() if measure.by_rows and name not in graphs}
    gathered = measures.keys() - by_rows.keys() - graphs
    sums: dict[str, Any] = dict.fromkeys(by_rows.keys() | graphs, 0.0)
    weights = dict.fromkeys(sums, 0.0)
    outputs: list[Any] = []
    targets: list[Any] = []
    counts: list[int] = []
    held = 0
    source = program.sources[split]
    batches = source.in_order(program.batch_size)
    if isinstance(source, InMemory) and len(source) > EVALUATED and (graphs or program.mixes_rows):
        batches = iter([source.batch])
    for batch in batches:
        target = parts(batch)[1]
        output = program.network.outputs(params, buffers, hyper, batch)
        rows = next(len(leaf) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
        for name, measure in by_rows.items():
            weight = measure.weight(target, rows)
            if weight:
                sums[name] = sums[name] + measured(program, name, output, target, {}, hyper) * weight
                weights[name] += weight
        for name in graphs:
            value = program.network.value(name, params, buffers, hyper, batch).double()
            sums[name], weights[name] = sums[name] + value * rows, weights[name] + rows
        if not gathered:
            continue
        outputs.append(output)
        targets.append(target)
        counts.append(rows)
        held += sum(leaf.nbytes for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
        if held > GATHERED:
            raise TaskError(
                f"the outputs on the split {split!r} are larger than {GATHERED >> 20} MiB",
                where=f"TorchTask(loss=…, metrics=…), {', '.join(sorted(gathered))}",
                remedy="Wrap what is a mean over rows as lt.losses.Mean(function): it needs a batch at a time.",
            )
    found = {name: total / max(weights[name], 1.0) for name, total in sums.items()}
    if outputs:
        output, target = joined(outputs, counts, 1), joined(targets, counts, 0)
        for name in gathered:
            found[name] = measured(program, name, output, target, {**params, **buffers}, hyper)
    return {name: found[name] for name in measures}


def mixes_rows(network: Network, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> bool:
    """Return True if the outputs for a minibatch are others than those for its two halves."""
    rows = next(len(leaf) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
    counts = [rows // 2, rows - rows // 2]
    halves = [
        pytree.tree_map_only(Tensor, lambda t, s=s: t[s], batch) for s in (slice(counts[0]), slice(counts[0], None))
    ]
    with torch.no_grad():
        whole = network.outputs(params, buffers, hyper, batch)
        parted = [network.outputs(params, buffers, hyper, half) for half in halves]
    if network.draws:  # by place, so that fewer rows draw other numbers
        return False
    try:
        found = joined(parted, counts, 1)
    except TaskError:  # which the measurement raises too
        return False
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(whole), strict=True)
    return not all(close([a], [b]) for a, b in pairs if isinstance(b, Tensor))


def measured(program: Program, name: str, output: Any, target: Any, tensors: Tensors, hyper: Tensors) -> Tensor:
    """The loss or a metric of outputs, (members,) float64, which draws the same for all members and times."""
    own = {n.removeprefix(LOSS): tensor for n, tensor in tensors.items() if n.startswith(LOSS)}
    around = functools.partial(drawing, 0)
    try:
        return program.measures[name].rows(output, target, hyper, own if name == "loss" else None, around).double()
    except RuntimeError as error:
        if "does not require grad" not in str(error) or name in program.differentiating:
            raise
        program.differentiating.add(name)
        raise _GraphError(str(error)) from error


def joined(nests: list[Any], counts: list[int], first: int) -> Any:
    """Nests of several batches as one: tensors joined along their rows, numbers averaged over them.

    Args:
        nests: One a batch, all of one structure.
        counts: Rows of each batch.
        first: The first axis that may be that of the rows.

    Raises:
        TaskError: If a tensor has neither rows nor the same values in all batches.
    """
    if len(nests) == 1:
        return nests[0]

    def join(*leaves: Any) -> Any:
        one = leaves[0]
        if not isinstance(one, Tensor):
            return Listed(each for leaf in leaves for each in leaf) if isinstance(one, Listed) else one
        for axis in range(first, one.ndim):
            if all(leaf.shape[axis] == count for leaf, count in zip(leaves, counts, strict=True)):
                return torch.cat(leaves, axis)
        if one.ndim == first and one.is_floating_point():
            return sum(leaf * count for leaf, count in zip(leaves, counts, strict=True)) / sum(counts)
        if all(alike(one, leaf) for leaf in leaves):
            return one
        raise TaskError(
            f"a tensor of shape {tuple(one.shape[first:])} has no axis of the {counts[0]} rows of its batch",
            where="model, forward",
            remedy="Return tensors with the rows on an axis, or let loss and metrics be means over rows: "
            "lt.losses.Mean(function).",
        )

    return pytree.tree_map(join, *nests)
