"""Generative flow networks over a :class:`luthier.Space`: samplers of many different good configurations.

A configuration is built one column at a time, in the order of the space, from the bins that :class:`Tree` cuts each
column into. A state is what has been set so far, and it has one parent: the states are a tree, its leaves are the
complete configurations, the backward policy is 1, and the flow through a state is the sum of the rewards below it. A
sampler draws a leaf x with probability

    P(x) = R(x)^beta / Z,    Z = sum of R(x)^beta over all leaves.

Two samplers with one interface, :class:`Sampler`. Both are made from a tree and a function ``log_reward`` of
:class:`Leaves` that returns beta log R, (n,) float64 (minus infinity where the reward is zero; see
:func:`log_rewards`)::

    exact(tree, log_reward) -> Sampler                              # by enumeration: up to a million leaves
    learn(tree, log_reward, Settings(), key=0) -> Learnt            # a trained network: any number of leaves

**beta and temperature are two things.** ``beta`` belongs to the reward: it sharpens the target, R^beta, and favours
tall peaks. ``temperature`` belongs to sampling: it divides the logits of every step, so below 1 it is greedier and
above 1 flatter, and it favours broad peaks; it is not R^(1/temperature). LaBash and Sepulveda "multiply the logits" by
0.1, which is ``temperature=10``, and makes samples almost uniform; for greedy samples use ``temperature=0.1``.

Everything but ``learn`` needs NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.lazy import lazy
from luthier.propose.flow.exact import Exact, distance, exact, terminating
from luthier.propose.flow.interface import Sampler
from luthier.propose.flow.reward import LogReward, log_rewards
from luthier.propose.flow.tree import Leaves, Tree

if TYPE_CHECKING:
    from luthier.propose.flow.training import Learnt, learn
    from luthier.propose.flow.training_settings import Settings

__all__ = [
    "Exact",
    "Learnt",
    "Leaves",
    "LogReward",
    "Sampler",
    "Settings",
    "Tree",
    "distance",
    "exact",
    "learn",
    "log_rewards",
    "terminating",
]

_FILES = {"learn": "training", "Learnt": "training", "Settings": "training_settings"}

__getattr__, __dir__ = lazy(__name__, _FILES)
