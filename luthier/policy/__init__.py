"""Policies: distributions over configurations with parameters that can be learnt, and the rules that learn them.

Everything here is a pure function of tensors: parameters, noise and decisions come in, new tensors go out, and nothing
draws a random number of its own. Decisions of a policy are rows of numbers::

    policy = LSTM(space)                                    # or Factorised(space); names=[...] decides some names alone
    learner = Reinforce()
    state = learner.init(policy.init(key=0))                # {"params": …, "first": …, …}: tensors, to be checkpointed
    noise = uniform(rng, 10, policy)                        # (10, columns) numbers in (0, 1)
    decisions = policy.sample(state["params"], noise)       # policy.configs(decisions): ten configurations
    state, facts = learner.update(policy, state, decisions.actions, rewards)    # rewards: (10,), higher is better
    collapsed(policy, state["params"])                      # whether one decision is all that is left

==================== ==================================================================================================
`Factorised`         every hyperparameter from its own distribution, independent of the others
`LSTM`               one recurrent state decides them in turn, each knowing those before it (ENAS)
`Reinforce`          the policy gradient with moving baseline, normalised advantages, entropy bonus, clipping and Adam
`policy_gradient`    the estimate that it follows
`collapsed`          detects a policy that is left with one decision
`outer_gradient`     the gradient of a validation loss by hyperparameters: direct, response and total
`by_code`            that gradient carried on to the codes of the decisions, for ``update(..., pathwise=...)``
`uniform`            the noise of a number of samples from a NumPy generator
==================== ==================================================================================================

**Leading axes.** ``params``, ``noise`` and all that comes of them may have further axes in front, the same ones
everywhere: a stack of policies is parameters and noise with the members axis first. Members never mix.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from luthier.space import Config, Space

if TYPE_CHECKING:
    from luthier.policy.collapse import Collapse, collapsed
    from luthier.policy.factorised import Factorised
    from luthier.policy.lstm import LSTM
    from luthier.policy.outer import by_code, outer_gradient
    from luthier.policy.reinforce import Reinforce, policy_gradient

__all__ = [
    "LSTM",
    "Collapse",
    "Decisions",
    "Factorised",
    "Params",
    "Policy",
    "Reinforce",
    "by_code",
    "collapsed",
    "outer_gradient",
    "policy_gradient",
    "uniform",
]

_FILES = {
    "LSTM": "lstm",
    "Collapse": "collapse",
    "Factorised": "factorised",
    "Reinforce": "reinforce",
    "by_code": "outer",
    "collapsed": "collapse",
    "outer_gradient": "outer",
    "policy_gradient": "reinforce",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:  # imported at first use, since these files import this one
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)


Params = dict[str, Tensor]
"""The parameters of a policy by name; each may have further axes in front (members)."""


class Decisions(NamedTuple):
    """What a policy has decided, one row a configuration; further axes may stand in front.

    Args:
        actions: The decision itself, (count, columns): the index of an option or bin, or a real number before it is
            squashed to its bounds; 0 where inactive. All that :meth:`Policy.evaluate` needs.
        codes: The same in the unit cube, as :meth:`luthier.Space.decode` reads it, (count, columns); 0.5 where
            inactive. After :meth:`Policy.rsample` it carries the gradient of the real numbers.
        active: Which columns are active, (count, columns) bool.
        log_prob: Logarithm of the probability (of real numbers: of the density of the code), (count,). After
            :meth:`Policy.rsample` that of the discrete decisions alone, for the gradient of the others goes
            through ``codes``.
        entropy: Sum of the entropies of the distributions that each row's active decisions came from, (count,), in
            nats; its mean estimates the entropy of the whole policy. Of a real number it is relative to the uniform
            distribution over its domain, and so at most 0.
    """

    actions: Tensor
    codes: Tensor
    active: Tensor
    log_prob: Tensor
    entropy: Tensor


class Policy(Protocol):
    """A distribution over the configurations of a space (or over some names of it).

    Attributes:
        space: The space of the names that are decided.
        columns: Numbers of a decision: the width of the space.
        dtype: Of parameters and decisions.
    """

    @property
    def space(self) -> Space: ...

    @property
    def columns(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def init(self, key: int) -> Params:
        """Parameters before learning, near the uniform distribution; equal keys give equal parameters."""
        ...

    def sample(self, params: Params, noise: Tensor) -> Decisions:
        """One decision a row of ``noise``, (count, columns) in (0, 1); no gradient goes through the decisions."""
        ...

    def rsample(self, params: Params, noise: Tensor) -> Decisions:
        """The same decisions bit for bit, with the pathwise gradient of the real numbers in ``codes``."""
        ...

    def evaluate(self, params: Params, actions: Tensor, *, pathwise: bool = False) -> Decisions:
        """The decisions with the given actions, (count, columns), with log-probability and entropy under ``params``.

        With ``pathwise`` it is what :meth:`rsample` would say of them: ``codes`` with the gradient of the real numbers,
        ``log_prob`` of the discrete decisions alone. ``codes`` of a binned column are those of the middle of its bin.
        """
        ...

    def mode(self, params: Params) -> Decisions:
        """The most probable option (of a real number: the middle) of each decision in turn, as one row."""
        ...

    def spread(self, params: Params, actions: Tensor) -> Tensor:
        """The standard deviation of each real number as a part of its domain's range, given the decisions before it.

        (count, columns); 0 for what is discrete or inactive.
        """
        ...

    def actions(self, configs: Sequence[Config]) -> Tensor:
        """The actions, (count, columns), that stand for configurations of the space."""
        ...

    def configs(self, decisions: Decisions) -> list[Config]:
        """The configuration of each row, plain Python, inactive names absent."""
        ...

    def values(self, decisions: Decisions) -> dict[str, Tensor]:
        """The Floats of each row in their own units, (count,) or (count, d), carrying the gradient of ``codes``."""
        ...

    def probabilities(self, params: Params, noise: Tensor) -> dict[str, Mapping[str, object]]:
        """What each name is decided by, averaged over the samples that ``noise``, (count, columns), gives.

        Returns:
            For each name ``{"options": [...], "probabilities": [...], "active": share}``, or for a real number
            ``{"mean": ..., "low": ..., "high": ..., "active": share}``: the mean of its code's distribution and one
            standard deviation below and above, in its own units (lists of these for a vector).
        """
        ...


def uniform(rng: np.random.Generator, count: int, policy: Policy) -> Tensor:
    """The noise of ``count`` samples, (count, columns), from a keyed generator (``Seeds.rng``)."""
    return torch.as_tensor(rng.random((count, policy.columns)), dtype=policy.dtype)
