"""Losses of one member, ``loss(output, target) -> scalar``, minimised, and how a loss runs for a stack of members.

May import: errors; of other packages torch alone.

The losses here, and torch's own with their default settings, have a written stacked form. Any other function runs by
vmap; one that vmap cannot run (it calls ``item()`` or NumPy) runs for one member after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from luthier.errors import TaskError
from luthier.losses import forms
from luthier.losses.forms import stacked_form
from luthier.losses.stacked import StackedLoss, stacked_loss

__all__ = [
    "Mean",
    "StackedLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "models_own",
    "stacked_form",
    "stacked_loss",
]


@stacked_form(forms.cross_entropy)
def cross_entropy(output: Tensor, target: Tensor, *, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Mean cross-entropy of logits.

    Args:
        output: Logits, (batch, classes, …).
        target: Class numbers, (batch, …), or probabilities in the output's shape.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1].

    Examples:
        >>> import functools, torch
        >>> cross_entropy(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))
        tensor(1.3863)
        >>> smooth = functools.partial(cross_entropy, label_smoothing=0.1)  # keeps the fast stacked form
    """
    return forms.cross_entropy(output[None], target[None], label_smoothing)[0]


@stacked_form(forms.mean_squared_error)
def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of ``(output - target)²`` over all elements; (batch,) fits (batch, 1)."""
    return forms.mean_squared_error(output[None], target[None])[0]


@stacked_form(forms.mean_absolute_error)
def mean_absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of ``|output - target|`` over all elements; (batch,) fits (batch, 1)."""
    return forms.mean_absolute_error(output[None], target[None])[0]


@stacked_form(forms.huber)
def huber(output: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    """Mean Huber loss: quadratic up to ``delta``, linear beyond; (batch,) fits (batch, 1).

    References:
        Huber 1964, Robust estimation of a location parameter.
    """
    return forms.huber(output[None], target[None], delta)[0]


@stacked_form(forms.binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits(output: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits against targets in [0, 1]; (batch,) fits (batch, 1)."""
    return forms.binary_cross_entropy_with_logits(output[None], target[None])[0]


@stacked_form(forms.binary_cross_entropy)
def binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities against targets in [0, 1]; (batch,) fits (batch, 1).

    Logarithms are at least -100, as in torch. Prefer :func:`binary_cross_entropy_with_logits` for a network of your
    own: it needs no such bound.
    """
    return forms.binary_cross_entropy(output[None], target[None])[0]


class Mean:
    """A loss or metric that is a mean over rows, so that it may be measured on one batch after the other.

    Any other function gets the outputs on the whole split at once, which have to fit into memory.

    Args:
        function: ``function(output, target)`` or ``function(output, target, hyper)``, a scalar.

    Examples:
        >>> from torch.nn.functional import one_hot
        >>> brier = Mean(lambda output, target: (output.softmax(1) - one_hot(target, 10)).square().sum(1).mean())
    """

    by_rows = True

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TaskError(f"{function!r} cannot be called", where="lt.losses.Mean(function)", remedy="Give one.")
        self.function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__wrapped__ = function  # whose arguments inspect.signature shows

    def __call__(self, *args: Any) -> Any:
        """The function's own value."""
        return self.function(*args)


def models_own(output: Any, target: Any) -> Any:
    """Return the loss that the model has computed itself: ``output.loss`` or ``output["loss"]``.

    Raises:
        TaskError: If there is none.
    """
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if found is None:
        raise TaskError(
            f"the model returned {type(output).__name__} without a loss",
            where="TorchTask(loss=…)",
            remedy="Give loss=function(output, target), or let the batch that the model gets hold the targets.",
        )
    return found
