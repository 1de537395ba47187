"""The surface that all policies share: a distribution over configurations, whatever network gives its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from luthier.policy.decide import (
    ColumnNetwork,
    Decisions,
    Params,
    best,
    judging,
    plan_of,
    run,
    sampling,
    shares,
    spread,
)
from luthier.space import Config, Space


class Policy(ABC):
    """A distribution over the configurations of a space, or over some names of it.

    Args:
        space: The space.
        names: The names to decide; by default all.
        dtype: Floating-point type of parameters and decisions.

    Attributes:
        plan: The names that are decided, and how.
    """

    def __init__(self, space: Space, names: Sequence[str] | None, dtype: torch.dtype) -> None:
        self.plan = plan_of(space, names)
        self.dtype = dtype

    @abstractmethod
    def init(self, key: int) -> Params:
        """Return parameters before learning, near the uniform distribution; equal keys give equal parameters."""

    @abstractmethod
    def network(self, params: Params, rows: Tensor) -> ColumnNetwork:
        """Return what gives the outputs under ``params``, for decisions shaped as ``rows``, (…, count, columns)."""

    @property
    def space(self) -> Space:
        """The space of the names that are decided."""
        return self.plan.space

    @property
    def columns(self) -> int:
        """Numbers of a decision: the width of the space."""
        return self.plan.columns

    def sample(self, params: Params, noise: Tensor) -> Decisions:
        """Draw one decision a row of ``noise``, (count, columns) in (0, 1); they carry no gradient."""
        return run(self.plan, self.network(params, noise), sampling(noise, False))

    def rsample(self, params: Params, noise: Tensor) -> Decisions:
        """Draw the same decisions bit for bit, with the pathwise gradient of the real numbers in ``codes``."""
        return run(self.plan, self.network(params, noise), sampling(noise, True))

    def evaluate(self, params: Params, actions: Tensor, *, pathwise: bool = False) -> Decisions:
        """Return the decisions with the given actions, (count, columns), and their log-probability under ``params``.

        With ``pathwise`` it is what :meth:`rsample` would say of them: ``codes`` with the gradient of the real numbers,
        ``log_prob`` of the other decisions alone.
        """
        return run(self.plan, self.network(params, actions), judging(actions, pathwise))

    def mode(self, params: Params) -> Decisions:
        """Return the most probable option (of a number: the middle) of each decision in turn, as one row."""
        vector = min(params.values(), key=torch.Tensor.dim)  # of fewest axes: the members' and one more
        return best(self.plan, self.network(params, vector[..., None, :1]))

    def spread(self, params: Params, actions: Tensor) -> Tensor:
        """Return the deviation of each number as a part of its domain's range, given the decisions before it.

        (count, columns); 0 for options and where inactive.
        """
        return spread(self.plan, self.network(params, actions), actions)

    def actions(self, configs: Sequence[Config]) -> Tensor:
        """Return the actions that stand for configurations, (count, columns)."""
        return self.plan.actions(configs, self.dtype)

    def configs(self, decisions: Decisions) -> list[Config]:
        """Return the configuration of each row, plain Python, inactive names absent."""
        return self.plan.configs(decisions)

    def values(self, decisions: Decisions) -> dict[str, Tensor]:
        """Return the Floats of each row in their own units, (count,) or (count, d), with the gradient of ``codes``."""
        return self.plan.values(decisions)

    def probabilities(self, params: Params, noise: Tensor) -> dict[str, Mapping[str, object]]:
        """Return the distribution of each name, averaged over the samples that ``noise``, (count, columns), gives.

        Returns:
            For each name ``{"options": [...], "probabilities": [...], "active": share}``, or for a number
            ``{"mean": ..., "low": ..., "high": ..., "active": share}``: the mean of its code's distribution and one
            standard deviation below and above, in its own units (lists of these for a vector).
        """
        return shares(self.plan, self.network(params, noise), noise)


def uniform(rng: np.random.Generator, count: int, policy: Policy) -> Tensor:
    """Draw the noise of ``count`` samples, (count, columns), from a keyed generator (``Seeds.rng``)."""
    return torch.as_tensor(rng.random((count, policy.columns)), dtype=policy.dtype)
