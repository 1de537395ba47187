"""Problems whose objective is known for every decision, and exact expectations over them."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from luthier.policy import Params, Policy
from luthier.space import Choice, Config, Int, Space

torch.set_num_threads(1)

NETWORK = Space(
    layers=Int(1, 3),
    norm=Choice(["batch", "layer"], when={"layers": [2, 3]}),
    activation=Choice(["relu", "tanh", "gelu"]),
    optimizer=Choice(["sgd", "adam"]),
    momentum=Choice([0.0, 0.5, 0.9], ordered=True, when={"optimizer": "sgd"}),
)


def every(space: Space) -> list[Config]:
    """All configurations of a finite space."""
    options = [
        range(domain.low, domain.high + 1) if isinstance(domain, Int) else domain.options  # type: ignore[union-attr]
        for domain in space.domains.values()
    ]
    found: dict[str, Config] = {}
    for values in product(*options):
        whole = dict(zip(space.names, values, strict=True))
        config = {name: value for name, value in whole.items() if name in space.active(whole)}
        if space.active(config) == set(config):
            found[repr(config)] = config
    return list(found.values())


def table(space: Space, seed: int = 0) -> Tensor:
    """A reward for each configuration of `every`, from 0 to 1: effects of options, of pairs of them, and noise."""
    rng, configs = np.random.default_rng(seed), every(space)
    effects: dict[str, float] = {}
    rewards = []
    for config in configs:
        options = [f"{name}={value}" for name, value in config.items()]
        pairs = [f"{a} {b}" for i, a in enumerate(options) for b in options[:i]]
        single = sum(effects.setdefault(option, rng.normal()) for option in options)
        double = sum(effects.setdefault(pair, 0.3 * rng.normal()) for pair in pairs)
        rewards.append(single + double + 0.3 * rng.normal())
    values = np.array(rewards)
    return torch.as_tensor((values - values.min()) / (values.max() - values.min()))


class Exact:
    """Expectations under a policy over a finite space, by enumeration."""

    def __init__(self, policy: Policy, rewards: Tensor) -> None:
        self.policy, self.rewards = policy, rewards
        self.configs = every(policy.space)
        self.actions = policy.actions(self.configs)
        assert len(self.configs) == policy.space.size == len(rewards)
        self.index = {repr(config): i for i, config in enumerate(self.configs)}

    def log_probs(self, params: Params) -> Tensor:
        return self.policy.evaluate(params, self.actions).log_prob

    def reward(self, params: Params) -> Tensor:
        return (self.log_probs(params).exp() * self.rewards).sum()

    def entropy(self, params: Params) -> Tensor:
        log_probs = self.log_probs(params)
        return -(log_probs.exp() * log_probs).sum()

    def gradient(self, params: Params, entropy_weight: float = 0.0) -> Params:
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        value = self.reward(leaves) + entropy_weight * self.entropy(leaves)
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(leaves.items(), found, strict=True)
        }

    def rewards_of(self, configs: list[Config]) -> Tensor:
        return self.rewards[[self.index[repr(config)] for config in configs]]


def scattered(params: Params, seed: int = 1, scale: float = 0.7) -> Params:
    """Parameters at some distance from the start, where nothing is uniform."""
    rng = np.random.default_rng(seed)
    return {name: p + scale * torch.as_tensor(rng.normal(size=p.shape), dtype=p.dtype) for name, p in params.items()}


def repeated(params: Params, times: int) -> Params:
    """A stack of equal members."""
    return {name: p.expand(times, *p.shape).clone() for name, p in params.items()}
