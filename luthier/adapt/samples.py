"""Several samples of each member, folded into a wider stack and back, in an order that no other member changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.optim.common import Tensors
from luthier.stack import Noise

if TYPE_CHECKING:
    from luthier.task.program import Batch, State


def repeated(tree: Tensors, samples: int) -> Tensors:
    """Each member's tensors for all its samples, (members · samples, …)."""
    return {name: tensor.repeat_interleave(samples, 0) for name, tensor in tree.items()}


def repeated_batch(batch: Batch, samples: int, own: bool) -> Batch:
    """A minibatch for all samples: the same one, if members have their ``own``, and else shared by all anyway."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.repeat_interleave(samples, 0), batch) if own else batch


def repeated_noise(state: State, samples: int) -> Noise:
    """The member's own noise for each sample: samples that differ in one thing are compared without luck."""
    return Noise(state["key"].repeat_interleave(samples), state["t"].repeat_interleave(samples))


def mean(values: Tensor) -> Tensor:
    """The mean over axis 1 of (members, samples, …), summed one after the other: torch.sum may choose another order."""
    if values.shape[1] == 1:
        return values.squeeze(1)
    parts = values.unbind(1)
    return sum(parts[1:], start=parts[0]) / len(parts)


def mean_buffers(buffers: Tensors, samples: int) -> Tensors:
    """The buffers of each member from those of its samples: the mean, of counts the first."""
    apart = {name: buffer.detach().unflatten(0, (-1, samples)) for name, buffer in buffers.items()}
    return {name: mean(each) if each.is_floating_point() else each[:, 0] for name, each in apart.items()}


def total(values: Tensor) -> Tensor:
    """The sum over all axes but the members', (members,)."""
    return values.reshape(len(values), -1).sum(1)


def joined(left: Any, right: Any) -> dict[str, Tensors]:
    """Two optimizer states of the same slots as one."""
    return {slot: {**left[slot], **right[slot]} for slot in left}


def parted(whole: Tensors, first: Tensors) -> tuple[Tensors, Tensors]:
    """Tensors by name as two parts: those that ``first`` has, and the others."""
    return {name: whole[name] for name in first}, {name: x for name, x in whole.items() if name not in first}


def chosen(condition: Tensor, new: Any, old: Any) -> Any:
    """Each member's tensors of ``new`` where ``condition``, (members,), holds, and else those of ``old``."""
    return pytree.tree_map(lambda a, b: torch.where(condition.view(-1, *(1,) * (b.ndim - 1)), a, b), new, old)
