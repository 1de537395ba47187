"""Detects a policy that is left with one decision."""

from __future__ import annotations

from typing import NamedTuple

import torch

from luthier.policy.decide import Params
from luthier.policy.policy import Policy
from luthier.space import Config


class Collapse(NamedTuple):
    """Distance of a policy from a single decision.

    Args:
        collapsed: True if it has got there: it will hardly propose anything else, and no longer learns.
        probability: Probability of drawing the most probable options, all of them together.
        widest: Largest standard deviation of a real number among the rest, as a fraction of its domain's range; 0 if
            there is none.
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
    """Measure whether one decision is all that is left of a policy.

    Args:
        policy: The policy.
        params: Parameters of one policy, not of a stack.
        probability: Least probability with which the most probable options must be drawn.
        width: Largest standard deviation allowed for each real number, as a fraction of its domain's range.

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
