"""Policies: distributions over configurations with parameters that can be learnt, and the rules that learn them.

May import: space, optim, response.

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

from luthier.policy.collapse import Collapse, collapsed
from luthier.policy.decide import Decisions, Params
from luthier.policy.factorised import Factorised
from luthier.policy.lstm import LSTM
from luthier.policy.outer import by_code, outer_gradient
from luthier.policy.policy import Policy, uniform
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
