"""A factorised policy: every hyperparameter from a distribution of its own (Williams 1992)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.policy.decide import Params
from luthier.policy.heads import Head
from luthier.policy.policy import Policy
from luthier.space import Space


class Factorised(Policy):
    """Independent options and Gaussians: logits for each option, mean and deviation for each number.

    The quickest policy to learn, where hyperparameters do not interact; a conditional name is decided whenever it is
    active, always from the same distribution.

    Args:
        space: The space.
        names: The names to decide; by default all.
        dtype: Floating-point type of parameters and decisions.

    Raises:
        MethodError: If a name cannot be decided.

    Examples:
        >>> from luthier.space import Choice
        >>> policy = Factorised(Space(depth=Choice([1, 2, 3])))
        >>> policy.evaluate(policy.init(0), policy.actions([{"depth": 2}])).log_prob.exp().item()
        0.3333333333333333

    References:
        Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", 1992.
    """

    def __init__(self, space: Space, names: Sequence[str] | None = None, *, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(space, names, dtype)

    def init(self, key: int) -> Params:
        """Return uniform options, and Gaussians that are nearly so; there is nothing random in it."""
        return {head.label: torch.tensor(head.start, dtype=self.dtype) for head in self.plan.heads}

    def network(self, params: Params, rows: Tensor) -> _Independent:
        """Return the parameters as outputs."""
        return _Independent(params, rows)


class _Independent:
    """Outputs that are the parameters themselves."""

    def __init__(self, params: Params, rows: Tensor) -> None:
        self.params, self.shape = params, rows.shape[:-1]

    def start(self) -> Any:
        return None

    def outputs(self, head: Head, memory: Any) -> tuple[Tensor, Any]:
        return self.params[head.label].unsqueeze(-2).expand(*self.shape, -1), None

    def remember(self, head: Head, memory: Any, action: Tensor, code: Tensor) -> Any:
        return None

    def keep(self, active: Tensor, new: Any, old: Any) -> Any:
        return None
