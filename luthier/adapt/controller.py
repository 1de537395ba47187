"""The controller of a search over shared weights: what it decides in a task, and what can be told of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.optim.common import Tensors
from luthier.policy import Decisions, Policy
from luthier.policy.factorised import Factorised
from luthier.policy.lstm import LSTM
from luthier.policy.reinforce import policy_gradient
from luthier.space import Config, Float, Space
from luthier.stack import Noise
from luthier.task.program import Batch, Program, State
from luthier.task.reading import rows_of_tree

SITE = 1 << 21  # of the controller's noise: far from the sites of a model's layers
SHOWN = 32  # samples from which the probabilities are estimated that are reported


def policy_of(kind: str, decide: Sequence[str] | None, task: Program) -> Policy:
    """The controller of a task.

    Raises:
        MethodError: If a name cannot be decided during a training, or there is none.
    """
    space, static = task.task.space, dict(task.static)
    names = tuple(decide) if decide is not None else tuple(n for n in space if n not in static)
    for name in names:
        if name in static:
            raise MethodError(
                f"{name!r} is read by model(config) or optimizer(config), and so fixed for a whole training",
                where="Enas(decide=…)",
                remedy="Declare it in the model, as lt.nn.Choose, lt.nn.Width or lt.optim.Switch, or leave it out.",
            )
    if not names:
        raise MethodError(
            "there is nothing that it can decide",
            where="Enas",
            remedy="Put lt.nn.Choose layers into the model, or leave lr to the optimizer, which reads it by its name.",
        )
    return _policy(kind, space, names)


@lru_cache(maxsize=32)
def _policy(kind: str, space: Space, names: tuple[str, ...]) -> Policy:
    return (LSTM if kind == "lstm" else Factorised)(space, list(names))


def decided(state: State) -> dict[str, Any]:
    """Return the decisions in force, (members,) each; of a choice of modules or optimizers its position, int64."""
    labels = {name.removeprefix("start ") for name in state["own"]["enas"]["params"]}
    names = {label.partition("[")[0] for label in labels}
    return {name: value for name, value in state["hyper"].items() if name in names}


def hyper_of(task: Program, policy: Policy, state: State, config: Config) -> Tensors:
    """Hyperparameters a child trains with: those decided for it, and those that are not the controller's to decide."""
    fixed = {name: value for name, value in state["hyper"].items() if name not in policy.space}
    return {**fixed, **task.hyper(config)}


def sample(policy: Policy, params: Tensors, noise: Noise, count: int) -> Decisions:
    """So many children, whose decisions can be differentiated by the codes."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    return finite(policy.rsample(leaves, noise.uniform(0, (count, policy.columns), dtype=policy.dtype)[0]))


def finite(decisions: Decisions) -> Decisions:
    """Decisions of a member that has diverged are in the space all the same."""
    return decisions._replace(codes=decisions.codes.nan_to_num(0.5))


def defaults(space: Space) -> Config:
    """A value for every name, active or not, so that all states have the same tensors."""
    found: Config = {}
    for name, domain in space.domains.items():
        start, length = domain.stretch
        width = domain.shape if isinstance(domain, Float) else ()
        values = list(domain.values([start + 0.5 * length] * domain.width))
        found[name] = values if width else values[0]
    return found


def row(task: Program, batch: Batch, i: int) -> Batch:
    """The minibatch of one member."""
    return rows_of_tree(batch, i) if task.task.own_batches else batch


def norm_of(policy: Policy, learner: Any, actions: Tensor, rewards: Tensor, pathwise: Tensor | None) -> Tensor:
    """The norm of what one part of the rewards contributes to the controller's gradient."""
    advantages = (rewards - rewards.mean()).nan_to_num(0.0)
    pathwise = None if pathwise is None else pathwise.nan_to_num(0.0, 0.0, 0.0)  # as the learner takes it
    gradient, _ = policy_gradient(policy, learner["params"], actions, advantages, pathwise=pathwise)
    return torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt()


def shown(policy: Policy, params: Tensors, noise: Noise) -> dict[str, float]:
    """The distribution of each name: ``policy.<name>=<option>`` and ``policy.<name>.mean``, ``.low``, ``.high``."""
    shown: dict[str, float] = {}
    facts: Any = policy.probabilities(params, noise.uniform(1, (SHOWN, policy.columns), dtype=policy.dtype)[0])
    for name, told in facts.items():
        if "options" in told:
            pairs = zip(told["options"], told["probabilities"], strict=True)
            shown |= {f"policy.{name}={option}": share for option, share in pairs}
        else:
            shown |= {f"policy.{name}.{what}": told[what] for what in ("mean", "low", "high")}
    return shown
