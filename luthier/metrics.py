"""Metrics of one member, ``metric(output, target) -> scalar``, with stacked forms for many members.

A stacked form takes outputs (members, batch, …) and targets (members or 1, batch, …) and returns (members,); it is the
function's attribute ``stacked``, where :func:`luthier.losses.stacked_loss` finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from luthier.losses import Mean as Mean
from luthier.losses.forms import shapes_error, stacked_form

_error = partial(shapes_error, where="metric(output, target)")


class Accumulated:
    """A metric that is an object with ``reset``, ``update`` and ``compute``, as torchmetrics has them, as a function.

    Args:
        metric: The object; it is reset before and after each use.
    """

    def __init__(self, metric: Any) -> None:
        self.metric, self.__name__ = metric, type(metric).__name__

    def __call__(self, output: Any, target: Any) -> Any:
        """Value on all outputs and targets at once."""
        self.metric.reset()
        self.metric.update(output, target)
        value = self.metric.compute()
        self.metric.reset()
        return value


def as_function(metric: Any) -> Callable[..., Any]:
    """A metric as a function of outputs and targets, whichever of the two it is."""
    is_object = all(callable(getattr(metric, name, None)) for name in ("reset", "update", "compute"))
    return Accumulated(metric) if is_object else metric


def _rows(values: Tensor) -> Tensor:
    """The mean of each member, (members,), in the default type for booleans."""
    return (values if values.is_floating_point() else values.float()).flatten(1).mean(1)


def _like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the outputs' shape: (batch,) and (batch, 1) are the same."""
    if [n for n in targets.shape[1:] if n != 1] != [n for n in outputs.shape[1:] if n != 1]:
        raise _error(outputs, targets, "Give both one shape.")
    return targets.reshape(len(targets), *outputs.shape[1:])


def _numbers(outputs: Tensor, targets: Tensor) -> Tensor:
    """Class numbers of targets that may be probabilities in the outputs' shape."""
    if targets.is_floating_point() and targets.shape[1:] == outputs.shape[1:]:
        targets = targets.argmax(2)
    if targets.shape[1:] != (outputs.shape[1], *outputs.shape[3:]):
        raise _error(outputs, targets, "Give the target as class numbers, (batch,), or as probabilities.")
    return targets


def _accuracy(outputs: Tensor, targets: Tensor, threshold: float = 0.0) -> Tensor:
    if outputs.ndim == 2 or outputs.shape[2] == 1:
        return _rows((outputs > threshold) == (_like(outputs, targets) > 0.5))
    return _rows(outputs.argmax(2) == _numbers(outputs, targets))


def _top_k_accuracy(outputs: Tensor, targets: Tensor, k: int = 5) -> Tensor:
    if outputs.ndim < 3 or not 1 <= k <= outputs.shape[2]:
        raise _error(outputs, targets, f"Top-{k} accuracy needs an output of {k} classes at least.")
    return _rows((outputs.topk(k, 2).indices == _numbers(outputs, targets).unsqueeze(2)).any(2))


def _mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return _rows((outputs - _like(outputs, targets)).square())


def _mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return _rows((outputs - _like(outputs, targets)).abs())


@stacked_form(_accuracy)
def accuracy(output: Tensor, target: Tensor, *, threshold: float = 0.0) -> Tensor:
    """Share of rows that are classified correctly; higher is better.

    Args:
        output: One score a class, (batch, classes, …), of which the largest counts; or one score a row, (batch,) or
            (batch, 1), which means class 1 where it is above ``threshold``.
        target: Class numbers, (batch, …), or probabilities in the output's shape; with one score a row, 0 or 1.
        threshold: 0 for logits; for probabilities give ``functools.partial(accuracy, threshold=0.5)``.

    Examples:
        >>> import torch
        >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(0.5000)
    """
    return _accuracy(output[None], target[None], threshold)[0]


@stacked_form(_top_k_accuracy)
def top_k_accuracy(output: Tensor, target: Tensor, *, k: int = 5) -> Tensor:
    """Share of rows whose class is among the ``k`` largest scores; higher is better.

    Args:
        output: One score a class, (batch, classes, …).
        target: Class numbers, (batch, …), or probabilities in the output's shape.
        k: Number of largest scores that count.
    """
    return _top_k_accuracy(output[None], target[None], k)[0]


@stacked_form(_mean_squared_error)
def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of ``(output - target)²`` over all elements; lower is better; (batch,) fits (batch, 1)."""
    return _mean_squared_error(output[None], target[None])[0]


@stacked_form(_mean_absolute_error)
def mean_absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of ``|output - target|`` over all elements; lower is better; (batch,) fits (batch, 1)."""
    return _mean_absolute_error(output[None], target[None])[0]


def parameters(model: nn.Module, inputs: Tensor) -> float:
    """Number of parameters that a network trains: for ``TorchTask(costs={"parameters": parameters})``; lower is better.

    Args:
        model: The network.
        inputs: Not looked at.

    Examples:
        >>> import torch
        >>> parameters(nn.Linear(3, 2), torch.zeros(1, 3))
        8.0
    """
    return float(sum(param.numel() for param in model.parameters() if param.requires_grad))
