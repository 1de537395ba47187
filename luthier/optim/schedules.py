"""Learning-rate schedules: factors on the learning rate as functions of the step, with hyperparameters of their own.

A number in a schedule may be the name of a hyperparameter instead: ``StepDecay("gamma")`` tunes the factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """A factor on the learning rate."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The hyperparameters that the schedule reads."""
        ...

    def factor(self, epoch: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
        """The factor of each member, (members,), at ``epoch``, (members,), passes over the data (a fraction too)."""
        ...


@dataclass(frozen=True)
class StepDecay:
    """``gamma`` once every ``every`` epochs: the learning rate is lr · gamma^⌊epoch / every⌋."""

    gamma: float | str = 0.7
    every: float = 1.0

    @property
    def reads(self) -> tuple[str, ...]:
        return _names(self.gamma)

    def factor(self, epoch: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
        """gamma^⌊epoch / every⌋."""
        return torch.as_tensor(_value(self.gamma, hyper), dtype=epoch.dtype) ** torch.floor(epoch / self.every)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to ``floor`` over ``epochs``, then ``floor`` (Loshchilov and Hutter 2017, eq. 5)."""

    epochs: float | str
    floor: float | str = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        return _names(self.epochs, self.floor)

    def factor(self, epoch: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
        """floor + (1 - floor)(1 + cos(π epoch / epochs)) / 2."""
        done = (epoch / _value(self.epochs, hyper)).clamp(max=1.0)
        floor = _value(self.floor, hyper)
        return floor + (1 - floor) * 0.5 * (1 + torch.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup:
    """A straight line from ``start`` to 1 over the first ``epochs``."""

    epochs: float | str
    start: float = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        return _names(self.epochs)

    def factor(self, epoch: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
        """start + (1 - start) min(1, epoch / epochs)."""
        return self.start + (1 - self.start) * (epoch / _value(self.epochs, hyper)).clamp(max=1.0)


def _names(*values: float | str) -> tuple[str, ...]:
    return tuple(value for value in values if isinstance(value, str))


def _value(value: float | str, hyper: Mapping[str, Tensor]) -> Tensor | float:
    return hyper[value] if isinstance(value, str) else value
