"""A response that follows the training: moved by a step like the weights' own, down the linearised training loss.

Training lowers L(w, λ); its derivative by λ along the training, J = dw/dλ, is at rest where H J + M = 0, H the Hessian
∂²L/∂w² and M = ∂²L/∂w∂λ. One step of it is J ← J - P (H J + M) under the momentum of the weights' optimizer, of which a
gradient step of the weights would be the same: linear, so that noise is as small as J is. An optimizer of its own that
normalises, such as Adam, moves J by one size whatever it is, and where a hyperparameter hardly matters that is far more
than J. P is the learning rate of SGD; of Adam it is, for each parameter, the least rate of its entries: a step that is
as safe as the weights' own and goes by the loss, where the entries' own rates would let the response run ahead in those
that the loss hardly sees.

H J + M is measured: as the difference of the training gradient between w + J x and w - J x at λ + x and λ - x, by one
number of λ at a time. Draws of all at once would mix the columns of J, a noise that this descent does not survive.

References:
    Franceschi et al. 2017, Forward and reverse gradient-based hyperparameter optimization (a training's derivative,
    forwards); Bae and Grosse 2020, Delta-STN (the response in a linearised objective of its own).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.optim import SGD, Adam
from luthier.optim.common import Scale, Tensors, clip_factor, read, rows
from luthier.optim.stock import TorchOptimizer
from luthier.stack.layout import product
from luthier.task.program import Program, State

FOLLOWING = "linear"  # the structure whose weights are linear in what it learns, and which knows no other number's part
MOMENT = {SGD: "momentum", Adam: "first"}  # the slot that a step of the response has too


def can_follow(task: Program, structure: str, samples: int | None) -> bool:
    """True if the step of the weights is known, and draws can be of numbers up and down."""
    return structure == FOLLOWING and known(task) is not None and (samples is None or samples % 2 == 0)


def known(task: Program) -> SGD | Adam | None:
    """The task's optimizer as one of luthier's, where it is one or steps like one."""
    optimizer = task.optimizer
    if isinstance(optimizer, TorchOptimizer):
        return optimizer.ours if task.task.scheduler is None else None
    return optimizer if type(optimizer) in MOMENT else None  # type: ignore[return-value]


def slots(task: Program, response: Tensors, hyper: Mapping[str, Tensor]) -> dict[str, Tensors]:
    """The optimizer's momentum of the response, zero; none where the optimizer has none."""
    optimizer = known(task)
    assert optimizer is not None, "can_follow"
    moment = MOMENT[type(optimizer)]
    return {slot: tree for slot, tree in optimizer.init(response, hyper).items() if slot == moment}


def slopes(gradients: Tensors, x: Tensor) -> tuple[Tensors, Tensor]:
    """H J + M in the form of the response, from gradients at draws of one number at a time, up and down.

    Args:
        gradients: By parameter, (members, samples, …).
        x: The draws' distances from the centre, (members, samples, numbers).

    Returns:
        The columns by name, (members, numbers, weights), and which of them were seen, (members, numbers).
    """
    first, second = x.chunk(2, dim=1)
    apart = first - second  # (members, pairs, numbers)
    weight = torch.where(apart == 0, 0.0, 1 / apart)
    sides = [gradient.flatten(2).chunk(2, dim=1) for gradient in gradients.values()]
    along = torch.cat([up - down for up, down in sides], dim=2)
    return {"columns": product(weight.mT, along, None)}, (apart != 0).any(1)


def where(seen: Tensor, new: tuple[Tensors, dict[str, Tensors]], old: tuple[Tensors, dict[str, Tensors]]) -> Any:
    """The new response and momentum of the numbers that were seen, and the old ones of the others."""
    return pytree.tree_map(lambda a, b: torch.where(seen.unsqueeze(2), a, b), new, old)


def stepped(
    task: Program,
    before: State,
    after: State,
    hyper: Mapping[str, Tensor],
    gradients: Tensors,
    response: Tensors,
    slope: Tensors,
    own: dict[str, Tensors],
) -> tuple[Tensors, dict[str, Tensors]]:
    """The response, and its momentum, after the step that led from one state to the other.

    Args:
        task: The program.
        before: The state before the step.
        after: The one after it.
        hyper: Hyperparameters of the step.
        gradients: Gradients of the weights in it.
        response: The response that the structure ``linear`` has learnt.
        slope: From :func:`slopes`.
        own: The momentum of the response, from :func:`slots`.
    """
    optimizer = known(task)
    assert optimizer is not None, "can_follow"
    settings = dict(task.updater.settings(before, hyper, optimizer.lr))
    if isinstance(task.optimizer, TorchOptimizer) and task.optimizer.decay_name in hyper:  # the loss has it
        settings["weight_decay"] = hyper[task.optimizer.decay_name]
    if "clip_norm" in settings or optimizer.clip_norm is not None:
        factor = clip_factor(gradients, read("clip_norm", optimizer.clip_norm, settings))
        slope = {name: s * rows(factor, s) for name, s in slope.items()}
        settings.pop("clip_norm", None)
    if isinstance(optimizer, SGD):  # linear as it is
        return replace(optimizer, clip_norm=None).update(response, slope, own, settings, before["t"])
    moments = {"second": after["opt"]["exp_avg_sq"]} if isinstance(task.optimizer, TorchOptimizer) else after["opt"]
    rates = optimizer.least_rates(moments, settings, before["t"])
    sizes = {name: param[0].numel() for name, param in before["params"].items()}
    rate = torch.cat([rates[name].unsqueeze(1).expand(-1, size) for name, size in sizes.items()], dim=1).unsqueeze(1)
    decay: Scale = read("weight_decay", optimizer.weight_decay, settings) if optimizer.decoupled else 0.0
    lr, beta1 = (read(name, getattr(optimizer, name), settings) for name in ("lr", "beta1"))
    column = response["columns"]  # (members, numbers, weights)
    first = torch.lerp(own["first"]["columns"], slope["columns"], 1 - rows(beta1, column))
    new = column * (1 - rows(lr * decay, column)) - rate * first
    return {"columns": new}, {"first": {"columns": first}}
