"""A factorised policy: every hyperparameter from a distribution of its own (Williams 1992)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from luthier.policy import Decisions, Params
from luthier.policy.decide import best, judging, plan_of, run, sampling, shares, spread
from luthier.policy.heads import Head
from luthier.space import Config, Space


class Factorised:
    """Independent options and Gaussians: logits for each option, mean and deviation for each real number.

    The quickest policy to learn, where hyperparameters do not interact; a conditional name is decided whenever it is
    active, always from the same distribution.

    Args:
        space: The space.
        names: The names to decide; by default all.
        continuous: How real numbers are decided: ``"gaussian"``, in the unconstrained space of the domain, or
            ``"bins"`` of equal width on its scale, uniform within each.
        bins: Their number, for real numbers and for whole numbers of more values than that.
        dtype: Of parameters and decisions.

    Raises:
        MethodError: If a name or a setting cannot be.

    Example:
        >>> from luthier.space import Choice
        >>> policy = Factorised(Space(depth=Choice([1, 2, 3])))
        >>> policy.evaluate(policy.init(0), policy.actions([{"depth": 2}])).log_prob.exp().item()
        0.3333333333333333

    References:
        Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992.
    """

    def __init__(
        self,
        space: Space,
        names: Sequence[str] | None = None,
        *,
        continuous: Literal["gaussian", "bins"] = "gaussian",
        bins: int = 32,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.plan = plan_of(space, names, continuous, bins)
        self.dtype = dtype

    @property
    def space(self) -> Space:
        """The space of the names that are decided."""
        return self.plan.space

    @property
    def columns(self) -> int:
        """Numbers of a decision."""
        return self.plan.columns

    def init(self, key: int) -> Params:
        """Uniform options, and Gaussians that are nearly so; there is nothing random in it."""
        return {head.label: torch.tensor(head.start, dtype=self.dtype) for head in self.plan.heads}

    def sample(self, params: Params, noise: Tensor) -> Decisions:
        """One decision a row of ``noise``, (count, columns) in (0, 1)."""
        return run(self.plan, _Independent(params, noise), sampling(noise, False))

    def rsample(self, params: Params, noise: Tensor) -> Decisions:
        """The same decisions, with the pathwise gradient of the real numbers."""
        return run(self.plan, _Independent(params, noise), sampling(noise, True))

    def evaluate(self, params: Params, actions: Tensor, *, pathwise: bool = False) -> Decisions:
        """The decisions with the given actions; with ``pathwise``, what :meth:`rsample` would say of them."""
        return run(self.plan, _Independent(params, actions), judging(actions, pathwise))

    def mode(self, params: Params) -> Decisions:
        """The most probable decision of each name in turn, one row."""
        return best(self.plan, _Independent(params, next(iter(params.values()))[..., None, :1]))

    def spread(self, params: Params, actions: Tensor) -> Tensor:
        """The deviation of each real number as a part of its domain's range, (count, columns); 0 of all else."""
        return spread(self.plan, _Independent(params, actions), actions)

    def actions(self, configs: Sequence[Config]) -> Tensor:
        """The actions that stand for configurations, (count, columns)."""
        return self.plan.actions(configs, self.dtype)

    def configs(self, decisions: Decisions) -> list[Config]:
        """The configuration of each row."""
        return self.plan.configs(decisions)

    def values(self, decisions: Decisions) -> dict[str, Tensor]:
        """The Floats of each row in their own units."""
        return self.plan.values(decisions)

    def probabilities(self, params: Params, noise: Tensor) -> dict[str, Mapping[str, object]]:
        """What each name is decided by, averaged over samples."""
        return shares(self.plan, _Independent(params, noise), noise)


class _Independent:
    """Outputs that are the parameters themselves."""

    def __init__(self, params: Params, rows: Tensor) -> None:
        self.params, self.shape = params, rows.shape[:-1]

    def start(self) -> Any:
        return None

    def outputs(self, head: Head, memory: Any) -> tuple[Tensor, Any]:
        return self.params[head.label].unsqueeze(-2).expand(*self.shape, head.outputs), None

    def remember(self, head: Head, memory: Any, action: Tensor, code: Tensor) -> Any:
        return None

    def keep(self, active: Tensor, new: Any, old: Any) -> Any:
        return None
