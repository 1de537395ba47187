"""Detects a policy that is left with one decision."""

from __future__ import annotations

from typing import NamedTuple

import torch

from luthier.policy.decide import Params
from luthier.policy.policy import Policy
from luthier.space import Config


class Collapse(NamedTuple):
    """How near a policy is to a single decision.

    Args:
        collapsed: Whether it has come there: it will hardly propose anything else, and learns nothing any more.
        probability: Of drawing the most probable options, all of them.
        widest: The widest standard deviation of a real number beside them, as a part of its domain's range; 0 if none.
        config: The decision.
    """

    collapsed: bool
    probability: float
    widest: float
    config: Config

    def __str__(self) -> str:
        """One line that a person can read."""
        state = "collapsed to" if self.collapsed else "most probable is"
        return f"{state} {self.config} (probability {self.probability:.3g}, widest deviation {self.widest:.3g})"


def collapsed(policy: Policy, params: Params, *, probability: float = 0.95, width: float = 0.02) -> Collapse:
    """Whether one decision is all that is left of a policy.

    Args:
        policy: The policy.
        params: Of one policy, not of a stack.
        probability: The most probable options must be drawn at least as often as this,
        width: and every real number beside them must deviate by at most this part of its domain's range.

    Examples:
        >>> from luthier.policy import Factorised
        >>> from luthier.space import Choice, Space
        >>> policy = Factorised(Space(depth=Choice([1, 2])))
        >>> print(collapsed(policy, {"depth": torch.tensor([0.0, 9.0])}))
        collapsed to {'depth': 2} (probability 1, widest deviation 0)
    """
    with torch.no_grad():
        mode = policy.mode(params)
        discrete = policy.evaluate(params, mode.actions, pathwise=True)
        widest = float(policy.spread(params, mode.actions).max())
    share, free = float(discrete.log_prob.exp()), policy.space.size != 1
    return Collapse(free and share >= probability and widest <= width, share, widest, policy.configs(mode)[0])
