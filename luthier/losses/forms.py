"""Stacked forms of losses, ``form(outputs, targets, **settings) -> (members,)``: of luthier's and of torch's own.

Outputs are (members, batch, …), targets (members or 1, batch, …).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.errors import TaskError

Stacked = Callable[..., Tensor]
Function = TypeVar("Function", bound=Callable[..., Any])


def stacked_form(form: Stacked) -> Callable[[Function], Function]:
    """Give a loss or metric its stacked form, which :func:`stacked_loss` then takes instead of vmap.

    Args:
        form: ``form(outputs, targets, **settings) -> (members,)`` for outputs (members, batch, …) and targets
            (members, batch, …) or, shared by all members, (1, batch, …). It must equal the function on each member.
    """

    def mark(function: Function) -> Function:
        function.stacked = form  # type: ignore[attr-defined]
        return function

    return mark


def _within(tensor: Tensor) -> tuple[int, ...]:
    """All axes but the members'."""
    return tuple(range(1, tensor.ndim))


def shapes_error(outputs: Tensor, targets: Tensor, remedy: str, where: str = "loss(output, target)") -> TaskError:
    """The error for an output and a target that do not fit."""
    what = f"an output of shape {tuple(outputs.shape[1:])} and a target of shape {tuple(targets.shape[1:])}"
    return TaskError(what, where=where, remedy=remedy)


def like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the outputs' shape and type: (batch,) and (batch, 1) are the same."""
    if targets.shape[1:] != outputs.shape[1:]:
        if [n for n in targets.shape[1:] if n != 1] != [n for n in outputs.shape[1:] if n != 1]:
            raise shapes_error(outputs, targets, "Give both one shape.")
        targets = targets.reshape(len(targets), *outputs.shape[1:])
    return targets.to(outputs.dtype)


def _classes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, int]:
    """Outputs and targets with the classes on one axis: 1 where the outputs lie batch last in memory, else 2."""
    if outputs.ndim < 3:
        raise shapes_error(outputs, targets, "Classes are the output's second axis: (batch, classes).")
    probabilities = targets.is_floating_point()
    if targets.shape[1:] != (outputs.shape[1:] if probabilities else (outputs.shape[1], *outputs.shape[3:])):
        raise shapes_error(outputs, targets, "Give the target as class numbers, (batch,), or as probabilities.")
    if outputs.ndim > 3 or not outputs.transpose(1, 2).is_contiguous():
        return outputs, targets, 2
    return outputs.transpose(1, 2), targets.transpose(1, 2) if probabilities else targets, 1


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Cross-entropy of each member, (members,), as :func:`luthier.losses.cross_entropy` describes it."""
    outputs, targets, axis = _classes(outputs, targets)
    logs = outputs.log_softmax(axis)
    if targets.is_floating_point():
        fit = (logs * targets).sum(axis)
    else:
        numbers = targets.to(torch.int64).unsqueeze(axis)
        fit = logs.gather(axis, numbers.expand(len(logs), *numbers.shape[1:])).squeeze(axis)
    if isinstance(label_smoothing, Tensor) or label_smoothing != 0:
        fit = fit * (1 - label_smoothing) + logs.mean(axis) * label_smoothing
    return fit.mean(_within(fit)).neg()


def torch_cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy as :func:`torch.nn.functional.cross_entropy` has it: rows with the target -100 are left out."""
    if targets.is_floating_point():
        return cross_entropy(outputs, targets, label_smoothing)
    outputs, targets, axis = _classes(outputs, targets)
    numbers = targets.expand(len(outputs), *targets.shape[1:])
    if axis == 1:
        rows = F.cross_entropy(outputs, numbers, reduction="none", label_smoothing=label_smoothing)
    else:
        rows = F.cross_entropy(
            outputs.flatten(0, 1), numbers.flatten(0, 1), reduction="none", label_smoothing=label_smoothing
        ).view(numbers.shape)
    return rows.sum(_within(rows)) / counted(targets)


def counted(targets: Tensor) -> Tensor:
    """Targets of each member that count in torch's cross-entropy, (members or 1,)."""
    return (targets != -100).sum(_within(targets))


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each member, (members,)."""
    return (outputs - like(outputs, targets)).square().mean(_within(outputs))


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error of each member, (members,)."""
    return (outputs - like(outputs, targets)).abs().mean(_within(outputs))


def huber(outputs: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    """Mean of torch's ``huber_loss`` of each member, (members,)."""
    targets = like(outputs, targets).expand(outputs.shape)
    return F.huber_loss(outputs, targets, reduction="none", delta=delta).mean(_within(outputs))


def smooth_l1(outputs: Tensor, targets: Tensor, beta: float = 1.0) -> Tensor:
    """Mean of torch's ``smooth_l1_loss`` of each member, (members,)."""
    targets = like(outputs, targets).expand(outputs.shape)
    return F.smooth_l1_loss(outputs, targets, reduction="none", beta=beta).mean(_within(outputs))


def binary_cross_entropy_with_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits of each member, (members,)."""
    return ((1 - like(outputs, targets)) * outputs - F.logsigmoid(outputs)).mean(_within(outputs))


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities of each member, (members,)."""
    # not torch's kernel: it raises an error for all members where one of them is NaN, and is slow for many
    targets = like(outputs, targets)
    truth = torch.stack((targets, 1 - targets), 1)
    logs = torch.stack((outputs, 1 - outputs), 1).clamp(min=math.exp(-100)).log()  # -100 at least, as in torch
    return (logs * truth).sum(_within(logs)) / -outputs[0].numel()


def _of_one_shape(form: Stacked) -> Stacked:
    """The form for torch's function, which would spread (batch,) and (batch, 1) to (batch, batch)."""

    @functools.wraps(form)
    def checked(outputs: Tensor, targets: Tensor, **settings: Any) -> Tensor:
        if targets.shape[1:] != outputs.shape[1:]:
            raise shapes_error(outputs, targets, "torch would broadcast one over the other: give both one shape.")
        return form(outputs, targets, **settings)

    return checked


# torch's losses with a stacked form: its settings that the form takes; with any other the loss runs by vmap.
TORCH: dict[Any, tuple[Stacked, tuple[str, ...]]] = {
    F.cross_entropy: (torch_cross_entropy, ("label_smoothing",)),
    F.mse_loss: (_of_one_shape(mean_squared_error), ()),
    F.l1_loss: (_of_one_shape(mean_absolute_error), ()),
    F.huber_loss: (_of_one_shape(huber), ("delta",)),
    F.smooth_l1_loss: (_of_one_shape(smooth_l1), ("beta",)),
    F.binary_cross_entropy: (binary_cross_entropy, ()),
    F.binary_cross_entropy_with_logits: (binary_cross_entropy_with_logits, ()),
}
TORCH |= {
    kind: TORCH[function]
    for kind, function in {
        nn.CrossEntropyLoss: F.cross_entropy,
        nn.MSELoss: F.mse_loss,
        nn.L1Loss: F.l1_loss,
        nn.HuberLoss: F.huber_loss,
        nn.SmoothL1Loss: F.smooth_l1_loss,
        nn.BCELoss: F.binary_cross_entropy,
        nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    }.items()
}


def written(loss: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The stacked form of a loss with its settings, or None."""
    settings: dict[str, Any] = {}
    if isinstance(loss, functools.partial):
        if loss.args:
            return None
        loss, settings = loss.func, loss.keywords
    if hasattr(loss, "stacked"):
        return functools.partial(loss.stacked, **settings)
    if type(loss) in TORCH and not settings:
        form, names = TORCH[type(loss)]
        plain = type(loss)(**{name: getattr(loss, name) for name in names})
        tensors = [*loss.parameters(), *loss.buffers()]
        same = all(value == vars(loss)[name] for name, value in vars(plain).items() if not name.startswith("_"))
        settings = {name: getattr(loss, name) for name in names}
        return functools.partial(form, **settings) if same and not tensors else None
    form, names = TORCH.get(loss, (None, ())) if isinstance(loss, Hashable) else (None, ())
    return functools.partial(form, **settings) if form is not None and set(settings) <= set(names) else None
