"""REINFORCE with a moving baseline, normalised advantages, an entropy bonus, clipping and Adam, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from luthier.checks import maybe, one_of, real, require
from luthier.optim.adam import Adam
from luthier.policy.decide import Decisions, Params
from luthier.policy.policy import Policy

# "params", "first", "second": {name: Tensor}; "updates", "baseline", "variance", "weight": Tensor
State = dict[str, Any]


def policy_gradient(
    policy: Policy,
    params: Params,
    actions: Tensor,
    advantages: Tensor,
    *,
    entropy_weight: float = 0.0,
    weights: Tensor | None = None,
    pathwise: Tensor | None = None,
) -> tuple[Params, Decisions]:
    """The estimated gradient of E[reward] + entropy_weight · H by the parameters, uphill.

    mean_i w_i (A_i ∇log π(a_i) + τ ∇h_i + τ (h_i - h̄_i) ∇log π(a_i)), where h_i is the entropy of the distributions
    that decision i came from and h̄_i the mean of the others': unbiased, for H = E[h], and which distributions there
    are depends on the decisions.

    Args:
        policy: The policy.
        params: Parameters at which the gradient is taken.
        actions: Decisions, (count, columns).
        advantages: Reward minus baseline of each, (count,); the baseline must not depend on the decision.
        entropy_weight: τ.
        weights: Weight of each decision, (count,); by default 1, and 0 leaves one out.
        pathwise: The derivative of the reward by the codes, (count, columns), which real numbers are to be learnt by:
            then ``advantages`` teach the other decisions alone. Other columns of it are ignored.

    Returns:
        The gradient, and the decisions under ``params``.
    """
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        decisions = policy.evaluate(leaves, actions.detach(), pathwise=pathwise is not None)
        log_prob, h = decisions.log_prob, decisions.entropy
        w = torch.ones_like(log_prob) if weights is None else weights.detach()
        terms = advantages.detach() * log_prob
        if entropy_weight:
            others = _others_mean(h.detach(), torch.ones_like(h))
            terms = terms + entropy_weight * (h + (h.detach() - others) * log_prob)
        if pathwise is not None and decisions.codes.requires_grad:
            slopes = torch.where(decisions.active, pathwise.detach(), 0.0)
            terms = terms + (slopes * decisions.codes).sum(-1)
        # a decision left out must not bring in a NaN
        objective = torch.where(w != 0, w * terms, 0.0).mean(-1).sum()
        gradients = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
    filled = {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(leaves.items(), gradients, strict=True)
    }
    return filled, Decisions(*(x.detach() for x in decisions))


@dataclass(frozen=True)
class Reinforce:
    """REINFORCE: the learner of a policy.

    The state is parameters, Adam's moments and the moving moments of the rewards, all tensors: a checkpoint of it is a
    checkpoint of the learner. Nothing is random here.

    Args:
        lr: Learning rate of Adam.
        baseline: ``"ema"``, the moving average of earlier rewards (the first update uses the mean of the other rewards
            beside each), or ``"none"``.
        baseline_decay: Decay of that average at each update.
        normalise: Divide advantages by the standard deviation of rewards around the baseline, over all updates so far:
            their scale does not matter then, and the entropy bonus keeps its weight while a policy narrows.
        entropy_weight: τ of the entropy bonus, in units of the advantages.
        clip: Largest norm of the gradient, or None.
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.

    Raises:
        MethodError: If a setting is out of range.

    Examples:
        >>> Reinforce(entropy_weight=0.05).entropy_weight
        0.05

    References:
        Williams 1992; Zoph and Le 2017, sections 3.2 and 4.1; Pham et al. 2018, section 2.2.
    """

    lr: float = 5e-3
    baseline: Literal["ema", "none"] = "ema"
    baseline_decay: float = 0.95
    normalise: bool = True
    entropy_weight: float = 1e-2
    clip: float | None = 5.0
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        rules = {name: real(0, below=1) for name in ("baseline_decay", "beta1", "beta2")}
        rules |= {"lr": real(above=0), "entropy_weight": real(0), "clip": maybe(real(above=0))}
        require(self, "Reinforce", baseline=one_of("ema", "none"), **rules)

    def init(self, params: Params) -> State:
        """The state before the first update; parameters of a stack have the members axis first in every tensor.

        To start a stack, stack the states of its members.
        """
        zero = torch.zeros((), dtype=next(iter(params.values())).dtype)
        moments = {slot: {name: torch.zeros_like(p) for name, p in params.items()} for slot in ("first", "second")}
        return {"params": dict(params), **moments} | dict.fromkeys(
            ("updates", "baseline", "variance", "weight", "judged"), zero
        )

    def update(
        self,
        policy: Policy,
        state: State,
        actions: Tensor,
        rewards: Tensor,
        *,
        pathwise: Tensor | None = None,
    ) -> tuple[State, dict[str, Tensor]]:
        """Take one step uphill.

        Args:
            policy: The policy.
            state: The learner's state; it is not changed.
            actions: Decisions, (count, columns), of a stack (members, count, columns).
            rewards: Reward of each, (count,), higher is better; rewards that are not finite are left out.
            pathwise: See :func:`policy_gradient`; in units of the rewards, and so divided by the same scale.

        Returns:
            The next state, and facts, each one number (of a stack (members,)): ``reward`` (mean), ``baseline``,
            ``scale``, ``entropy``, ``gradient_norm`` (before clipping) and ``dropped`` (rewards left out).
        """
        finite = torch.isfinite(rewards)
        rewards = torch.where(finite, rewards, 0.0).to(state["baseline"].dtype)
        most = torch.finfo(rewards.dtype).max ** 0.25  # so that their squares can be summed
        rewards = rewards.clamp(-most, most)
        advantages, scale, moments = self.advantages(state, rewards, finite)
        if pathwise is not None:
            pathwise = torch.nan_to_num(pathwise, 0.0, 0.0, 0.0) / scale.unsqueeze(-1).unsqueeze(-1)
        gradient, decisions = policy_gradient(
            policy,
            state["params"],
            actions,
            advantages,
            entropy_weight=self.entropy_weight,
            weights=finite.to(rewards.dtype),
            pathwise=pathwise,
        )
        stacked = rewards.ndim > 1
        squares = [(g.flatten(1) if stacked else g.reshape(-1)).square().sum(-1) for g in gradient.values()]
        facts = {
            "reward": _mean(rewards, finite),
            "baseline": state["baseline"],
            "scale": scale,
            "entropy": decisions.entropy.mean(-1),
            "gradient_norm": sum(squares[1:], squares[0]).sqrt(),
            "dropped": (~finite).sum(-1),
        }
        return self._step(state, gradient, stacked) | moments, facts

    def advantages(self, state: State, rewards: Tensor, finite: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Advantages, (count,), their scale, and the moving moments after these rewards.

        (A moving scale would shrink with the policy, and drive a narrow one to collapse whatever the entropy bonus.)
        Baseline and scale are those of earlier updates, so that they do not depend on the decisions they judge.
        """
        count, known, judged = finite.to(rewards.dtype), state["weight"] > 0, state["judged"]
        mean, baseline = _mean(rewards, finite), state["baseline"]
        centre = torch.where(known, baseline, mean)
        spread = _mean((rewards - centre.unsqueeze(-1)).square(), finite)
        any_finite = finite.any(-1)
        weight = torch.where(any_finite, self.baseline_decay * state["weight"] + 1, state["weight"])
        share = torch.where(any_finite, 1 / weight.clamp(min=1.0), 0.0)
        moments = {
            "baseline": baseline + share * (mean - baseline),
            "variance": state["variance"] + torch.where(any_finite, spread - state["variance"], 0.0) / (judged + 1),
            "weight": weight,
            "judged": judged + any_finite.to(judged.dtype),
        }
        others = _others_mean(rewards, count)
        reference = torch.where(known.unsqueeze(-1), baseline.unsqueeze(-1), others)
        advantages = rewards if self.baseline == "none" else rewards - reference
        if not self.normalise:
            return advantages, torch.ones_like(mean), moments
        earlier = torch.where(known & (state["variance"] > 0), state["variance"], spread).sqrt()
        floor = 1e-8 * torch.maximum(centre.abs(), mean.abs())  # differences below it are rounding
        scale = torch.where(earlier > floor, earlier, 1.0)
        advantages = torch.where((advantages.abs() <= floor.unsqueeze(-1)), 0.0, advantages)
        return advantages / scale.unsqueeze(-1), scale, moments

    def _step(self, state: State, gradient: Params, stacked: bool) -> State:
        """Adam, uphill."""

        def rows(tree: Params) -> Params:
            return tree if stacked else {name: x.unsqueeze(0) for name, x in tree.items()}

        def back(tree: Params) -> Params:
            return tree if stacked else {name: x.squeeze(0) for name, x in tree.items()}

        adam = Adam(lr=self.lr, beta1=self.beta1, beta2=self.beta2, clip_norm=self.clip)
        moments = {slot: rows(state[slot]) for slot in ("first", "second")}
        downhill = {name: -g for name, g in gradient.items()}
        params, moments = adam.update(rows(state["params"]), rows(downhill), moments, {}, state["updates"].reshape(-1))
        return {
            "params": back(params),
            "first": back(moments["first"]),
            "second": back(moments["second"]),
            "updates": state["updates"] + 1,
        }


def _mean(values: Tensor, which: Tensor) -> Tensor:
    """The mean over the last axis of the entries that count; 0 of none."""
    count = which.to(values.dtype)
    return (values * count).sum(-1) / count.sum(-1).clamp(min=1.0)


def _others_mean(values: Tensor, count: Tensor) -> Tensor:
    """Mean of the others that count, for each entry, or its own value where there is no other."""
    rest = count.sum(-1, keepdim=True) - count
    return torch.where(
        rest > 0, ((values * count).sum(-1, keepdim=True) - values * count) / rest.clamp(min=1.0), values
    )
