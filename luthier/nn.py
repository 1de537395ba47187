"""Layers that hyperparameters of the space decide on: a dropout rate, one of several modules, a width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import TaskError

SMALLEST_RATE = 1e-3  # in a derivative, which has the rate in its denominator


@dataclass(frozen=True)
class Values:
    """Values that the layers of this module read while a member runs.

    Args:
        hyper: Its hyperparameters, a scalar tensor each.
        differentiable: Random layers give their output a derivative by their rate.
    """

    hyper: Mapping[str, Tensor]
    differentiable: bool = False

    def of(self, name: str, kind: str) -> Tensor:
        """The hyperparameter ``name``.

        Raises:
            TaskError: If there is none, naming the kind of layer that reads it.
        """
        if name not in self.hyper:
            raise TaskError(
                f"there is no hyperparameter {name!r}",
                where=f"lt.nn.{kind}({name!r})",
                remedy=f"The stack has {', '.join(self.hyper) or 'none'}: put {name!r} into the space.",
            )
        return self.hyper[name]


_VALUES: ContextVar[Values | None] = ContextVar("values", default=None)


@contextmanager
def reading(values: Values) -> Iterator[None]:
    """Let the layers of this module read ``values``: luthier runs a member inside of it."""
    token = _VALUES.set(values)
    try:
        yield
    finally:
        _VALUES.reset(token)


class Dropout(nn.Module):
    """Dropout whose rate is the hyperparameter ``name``, so that members of one stack may have different rates.

    ``nn.Dropout(config["dropout"])`` would fix the rate when the model is built, and only configurations of equal rate
    could train together. Inside luthier the mask is drawn from the member's own noise. A module taken out of luthier
    (an exported model, a quick check) is ``nn.Dropout(p)`` with torch's generator.

    Args:
        name: The hyperparameter that is the rate, in [0, 1].
        p: The rate outside luthier.

    Raises:
        TaskError: If ``name`` is not a name or ``p`` is not a rate.

    Examples:
        >>> import torch
        >>> Dropout("dropout").eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, name: str, p: float = 0.5) -> None:
        super().__init__()
        _check_hyperparameter(
            name, "lt.nn.Dropout(name)", 'lt.nn.Dropout("dropout"); for a fixed rate, nn.Dropout(0.5)'
        )
        if not 0 <= p <= 1:
            raise TaskError(f"p={p} is outside [0, 1]", where=f"lt.nn.Dropout({name!r})", remedy="Give a rate.")
        self.dropout_hyperparameter, self._outside = name, p  # luthier.stack knows the layer by this attribute

    @property
    def p(self) -> Any:
        """The rate: of the member that runs, a scalar tensor; outside luthier the number that was given."""
        values = _VALUES.get()
        return self._outside if values is None else values.of(self.dropout_hyperparameter, "Dropout").detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Dropout at the member's rate; outside luthier at ``p``, from torch's generator."""
        values = _VALUES.get()
        if values is None:
            return nn.functional.dropout(inputs, self._outside, self.training)
        rate = values.of(self.dropout_hyperparameter, "Dropout")
        if not self.training:
            return inputs
        keep = torch.rand(inputs.shape, device=inputs.device) >= rate.detach()
        factor = keep.to(inputs.dtype) * torch.where(rate < 1, 1 / (1 - rate), 0.0).detach().to(inputs.dtype)
        return inputs * (with_slope(factor, keep, rate) if values.differentiable else factor)

    def extra_repr(self) -> str:
        """The hyperparameter's name, for ``print(model)``."""
        return repr(self.dropout_hyperparameter)


def with_slope(factor: Tensor, keep: Tensor, rate: Tensor) -> Tensor:
    """The factors of a dropout layer, bit for bit, with a derivative by the rate p.

    A factor m / (1 - p), m = 1 with probability 1 - p, has mean 1 and standard deviation s = √(p / (1 - p)), so it is
    1 + s ε with ε = (m - 1 + p) / √(p (1 - p)) of mean 0 and deviation 1. Differentiated at fixed ε, as if ε did not
    depend on p, it gives (m - 1 + p) / (2 p (1 - p)²). The mean of this derivative is that of the expected loss where
    the loss is quadratic in each unit, and its trapezoidal rule elsewhere. The mask itself is a step function of p, so
    differentiating the scale 1 / (1 - p) alone would not see that units are dropped. Where p is 0 nothing is dropped,
    and the derivative is 0.

    Args:
        factor: (members, …), any number of axes; of one member where ``rate`` is a scalar.
        keep: The mask m, likewise.
        rate: p, (members,) or a scalar.

    References:
        Srivastava et al. 2014, Dropout, section 10: Gaussian noise of the same mean and deviation. Kingma, Salimans and
        Welling 2015, Variational dropout and the local reparameterization trick: its derivative by the rate.
    """
    rows = rate.view(-1, *(1,) * (factor.ndim - 1)) if rate.ndim else rate
    p = rows.detach().clamp(SMALLEST_RATE, 1 - SMALLEST_RATE)
    slope = torch.where(keep, 0.5 / (1 - p).square(), -0.5 / (p * (1 - p)))
    slope = torch.where(rows.detach() > 0, slope, 0.0).to(factor.dtype)
    return factor + slope * (rows - rows.detach()).to(factor.dtype)


Option = str | int | float | bool | None  # what a luthier.Choice may hold


class Choose(nn.Module):
    """One of several modules: the option of this value of the hyperparameter ``name``, a ``luthier.Choice``.

    A training has the chosen option alone: the others are taken out of the model before anything is trained, so that
    the choice is static, and a child trained from scratch is an ordinary trial. A method that shares weights
    (:class:`luthier.adapt.Enas`) keeps all options, and decides anew at every step. Layers that read one name decide
    together. Options may hold further ``Choose`` layers, and one module may stand in several options, which then share
    its weights.

    A module taken out of luthier has its first option.

    Args:
        name: The hyperparameter; its options in the space are those given here, in any order.
        options: A module for each option; ``nn.Identity()`` for nothing.

    Raises:
        TaskError: If ``name`` is not a name, or an option is not a module.

    Examples:
        >>> import torch
        >>> Choose("activation", {"relu": nn.ReLU(), "tanh": nn.Tanh()})(torch.tensor([-1.0]))
        tensor([0.])
    """

    def __init__(self, name: str, options: Mapping[Option, nn.Module]) -> None:
        super().__init__()
        _check_hyperparameter(name, "lt.nn.Choose(name, options)", 'lt.nn.Choose("activation", {"relu": nn.ReLU(), …})')
        if not isinstance(options, Mapping) or not options:
            raise TaskError(
                f"options={options!r}",
                where=f"lt.nn.Choose({name!r})",
                remedy='Give a module for each option: {"relu": nn.ReLU(), "tanh": nn.Tanh()}.',
            )
        for option, module in options.items():
            if not isinstance(module, nn.Module):
                raise TaskError(
                    f"the option {option!r} is {module!r}, not a module",
                    where=f"lt.nn.Choose({name!r})",
                    remedy="Give an nn.Module; nn.Identity() for nothing.",
                )
        self.name, self.values = name, tuple(options)
        self.options = nn.ModuleList(options.values())

    def forward(self, inputs: Tensor) -> Tensor:
        """The member's own option; outside luthier the first."""
        values = _VALUES.get()
        return self.options[0 if values is None else int(values.of(self.name, "Choose"))](inputs)

    def extra_repr(self) -> str:
        """The hyperparameter's name, for ``print(model)``."""
        return repr(self.name)


def Skip(name: str, module: nn.Module) -> Choose:
    """A module that may be left out: under ``True`` inputs pass it by, under ``False`` they go through it.

    Args:
        name: The hyperparameter, ``luthier.Choice([False, True])``.
        module: Must keep the shape of its inputs.

    Examples:
        >>> Skip("skip", nn.ReLU()).values
        (False, True)
    """
    return Choose(name, {False: module, True: nn.Identity()})


class Width(nn.Module):
    """Keeps the first features, as many as the hyperparameter ``name`` says, and puts zeros for the others.

    The layer before it has the largest width, of which narrower ones are parts: under shared weights they share them.
    A narrow child costs what the widest costs, trainings of unequal widths run in one stack, and the layer after it
    starts from the weights of a layer of full width. For weights of their own, write a :class:`Choose` between layers.

    A module taken out of luthier keeps all features.

    Args:
        name: The hyperparameter: a ``luthier.Int``, or a ``luthier.Choice`` of whole numbers.
        axis: Axis of the features, the batch being axis 0.

    Raises:
        TaskError: If ``name`` is not a name, or ``axis`` is that of the batch.

    Examples:
        >>> import torch
        >>> nn.Sequential(nn.Linear(8, 64), Width("width"), nn.ReLU())(torch.ones(2, 8)).shape
        torch.Size([2, 64])
    """

    def __init__(self, name: str, axis: int = 1) -> None:
        super().__init__()
        _check_hyperparameter(name, "lt.nn.Width(name)", 'lt.nn.Width("width")')
        if axis < 1:
            raise TaskError(f"axis={axis}", where=f"lt.nn.Width({name!r})", remedy="Features are axis 1 or later.")
        self.name, self.axis = name, axis

    def forward(self, inputs: Tensor) -> Tensor:
        """The features of the member's width; outside luthier all of them."""
        values = _VALUES.get()
        if values is None:
            return inputs
        if self.axis >= inputs.ndim:
            raise TaskError(
                f"it gets inputs of shape {tuple(inputs.shape)}, which have no axis {self.axis}",
                where=f"lt.nn.Width({self.name!r})",
                remedy="Give axis= of the features.",
            )
        features = torch.arange(inputs.shape[self.axis], device=inputs.device)
        keep = features < values.of(self.name, "Width").detach()
        return torch.where(keep.view(-1, *(1,) * (inputs.ndim - self.axis - 1)), inputs, 0.0)

    def extra_repr(self) -> str:
        """The hyperparameter's name, for ``print(model)``."""
        return repr(self.name)


def _check_hyperparameter(name: object, where: str, example: str) -> None:
    if not isinstance(name, str) or not name:
        raise TaskError(
            f"{name!r} is not the name of a hyperparameter",
            where=where,
            remedy=f"Give the name that the space has: {example}.",
        )
