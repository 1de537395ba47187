"""A controller learnt by REINFORCE proposes the configurations (Zoph and Le 2017)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, ClassVar, Literal

import torch

from luthier.errors import MethodError
from luthier.jobs import OK, PRUNED, Budget, Event, History, Job, Result
from luthier.policy import LSTM, Collapse, Factorised, Policy, collapsed, uniform
from luthier.policy.reinforce import Reinforce as Learner
from luthier.policy.reinforce import State
from luthier.propose.lineages import check_number, usable
from luthier.propose.threads import one_torch_thread
from luthier.seeds import Seeds
from luthier.space import Space

LARGEST_RATIO = 2.0  # of the probabilities of a decision now and when it was drawn
DRAWS = 20  # at most, until a configuration is new
RATES = {"factorised": 0.1, "lstm": 1e-2}


@dataclass
class _Memory:
    """The controller after all results so far."""

    policy: Policy
    state: State
    waiting: list[tuple[list[float], float, float]] = field(default_factory=list)  # actions, log_prob then, value
    recent: deque[float] = field(default_factory=deque)  # values of the last results, as they came
    ranked: list[float] = field(default_factory=list)  # the same, sorted
    seen: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Reinforce:
    """A controller that learns to propose: REINFORCE over whole configurations.

    A policy draws each configuration; after every ``batch`` results its parameters move along the policy gradient of
    their rewards. Nothing waits: what is still running when the policy moves counts later, weighted by how much more
    probable it has become (at most twice), and so unbiased but for that limit. Failed and diverged trainings count as
    the worst result.

    The reward of a result is by default its rank among the last ``window`` ones, from 0 to 1: no scale of losses
    matters then, and a loss that has exploded is merely last. The policy is learnt, so it needs hundreds of results;
    where there are fewer, the other methods are better.

    Args:
        policy: ``"factorised"`` decides each hyperparameter by itself, ``"lstm"`` in turn, each knowing those before.
        batch: Results that one update takes.
        lr: Learning rate of the controller; by default 0.1 factorised, 0.01 LSTM.
        entropy: Weight of the entropy bonus.
        reward: ``"rank"``, or ``"value"``: minus the objective itself, normalised.
        window: Results that a rank is among.
        continuous: How real numbers are decided: ``"gaussian"`` or ``"bins"``.
        distinct: Draw up to 20 times until a configuration is new: a training without randomness has nothing
            new to say of one that was proposed before.
        budget: Set by :meth:`bind`.

    Example:
        >>> from luthier.space import Choice
        >>> from luthier.testing import simulate
        >>> space = Space(a=Choice(range(20)), b=Choice(range(20)))
        >>> history = simulate(Reinforce(), lambda c: abs(c["a"] - 3) + abs(c["b"] - 8), space, Budget(trials=200))
        >>> history.values.min().item()
        0.0

    References:
        Williams 1992; Zoph and Le, "Neural architecture search with reinforcement learning", ICLR 2017; Pham et al.
        2018; Ionides, "Truncated importance sampling", 2008.
    """

    policy: Literal["factorised", "lstm"] = "factorised"
    batch: int = 10
    lr: float | None = None
    entropy: float = 0.02
    reward: Literal["rank", "value"] = "rank"
    window: int = 100
    continuous: Literal["gaussian", "bins"] = "gaussian"
    distinct: bool = True
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Reinforce:
        """The same search, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If a setting is out of range.
        """
        where = "method reinforce"
        check_number("batch", self.batch, 1, inf, where, whole=True)
        check_number("window", self.window, 2, inf, where, whole=True)
        check_number("entropy", self.entropy, 0.0, inf, where)
        if self.lr is not None:
            check_number("lr", self.lr, 0.0, inf, where)
        known = {"policy": ("factorised", "lstm"), "reward": ("rank", "value"), "continuous": ("gaussian", "bins")}
        for name, options in known.items():
            if (value := getattr(self, name)) not in options:
                remedy = f"Use {' or '.join(map(repr, options))}."
                raise MethodError(f"{name}={value!r} is unknown", where=where, remedy=remedy)
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` configurations drawn from the controller as it is now.

        Raises:
            MethodError: If the space cannot be decided by a policy.
        """
        budget, first = self.budget or Budget(), len(history)
        stop = first + count if budget.trials is None else min(first + count, budget.trials)
        if stop <= first:
            return []
        with one_torch_thread():
            memory, fresh = self._memory(history, seeds), set()
            return [self._draw(memory, history.space, number, seeds, fresh, budget) for number in range(first, stop)]

    def describe(self, history: History, seeds: Seeds, samples: int = 200) -> dict[str, Any]:
        """What the controller has come to, for a report.

        Returns:
            ``"probabilities"`` by name, as :meth:`luthier.policy.Policy.probabilities` gives them, and ``"collapse"``.
        """
        with one_torch_thread():
            memory = self._memory(history, seeds)
            noise = uniform(seeds.rng(0, "describe"), samples, memory.policy)
            params = memory.state["params"]
            collapse: Collapse = collapsed(memory.policy, params)
            return {"probabilities": memory.policy.probabilities(params, noise), "collapse": collapse}

    def _draw(self, memory: _Memory, space: Space, number: int, seeds: Seeds, fresh: set[str], budget: Budget) -> Job:
        """One job; what the controller knew of it goes into its tag, since the controller will have moved on."""
        rng, policy = seeds.rng(number, "propose"), memory.policy
        params = memory.state["params"]
        drawn = policy.sample(params, uniform(rng, 1, policy))
        [config] = policy.configs(drawn)
        for _ in range(DRAWS - 1 if self.distinct else 0):
            if repr(config) not in memory.seen and repr(config) not in fresh:
                break
            drawn = policy.sample(params, uniform(rng, 1, policy))
            [config] = policy.configs(drawn)
        fresh.add(repr(config))
        tag = {
            "actions": drawn.actions[0].tolist(),
            "log_prob": float(drawn.log_prob[0]),
            "entropy": float(drawn.entropy[0]),
            "update": int(memory.state["updates"]),
        }
        return Job(number, config, budget.steps_for(config), tag=tag)

    def _memory(self, history: History, seeds: Seeds) -> _Memory:
        def update(memory: _Memory, event: Event) -> _Memory:
            if isinstance(event, Job):
                memory.seen.add(repr(event.config))
            elif isinstance(event, Result):
                tag, value = history.jobs[event.number].tag, self._value(history, event.number)
                if "actions" in tag and "log_prob" in tag:  # another method's jobs teach nothing: see their tags
                    memory.waiting.append((tag["actions"], tag["log_prob"], value))
                    self._enter(memory, value)
                if len(memory.waiting) == self.batch:
                    self._learn(memory)
            return memory

        settings = (self.policy, self.batch, self.lr, self.entropy, self.reward, self.window, self.continuous)
        return history.fold(("reinforce", *settings, seeds.study), lambda: self._start(history.space, seeds), update)

    def _start(self, space: Space, seeds: Seeds) -> _Memory:
        kind = Factorised if self.policy == "factorised" else LSTM
        policy = kind(space, continuous=self.continuous)
        return _Memory(policy, self._learner().init(policy.init(seeds.key(0, "policy"))))

    def _learner(self) -> Learner:
        return Learner(lr=RATES[self.policy] if self.lr is None else self.lr, entropy_weight=self.entropy)

    def _value(self, history: History, number: int) -> float:
        """The objective, minimised; infinite where the training did not end well."""
        ended = history.status[number] in (OK, PRUNED)
        return float(history.values[number, 0]) if ended and usable(history, number) else inf

    def _enter(self, memory: _Memory, value: float) -> None:
        """Put a result into the window."""
        if len(memory.recent) == self.window:
            del memory.ranked[bisect_left(memory.ranked, memory.recent.popleft())]
        memory.recent.append(value)
        insort(memory.ranked, value)

    def _reward(self, memory: _Memory, value: float) -> float:
        """The reward of a result of the window."""
        if self.reward == "value":
            worst = max((v for v in memory.ranked if v < inf), default=0.0)
            return -min(value, worst)
        worse = len(memory.ranked) - bisect_right(memory.ranked, value)
        equal = bisect_right(memory.ranked, value) - bisect_left(memory.ranked, value)
        return (worse + 0.5 * equal) / len(memory.ranked)

    def _learn(self, memory: _Memory) -> None:
        """One update with the results that wait."""
        actions, log_probs, values = zip(*memory.waiting, strict=True)
        rewards = [self._reward(memory, value) for value in values]
        dtype = memory.policy.dtype
        table = torch.tensor(actions, dtype=dtype)
        with torch.no_grad():
            now = memory.policy.evaluate(memory.state["params"], table).log_prob
        ratio = (now - torch.tensor(log_probs, dtype=dtype)).exp().clamp(max=LARGEST_RATIO)
        learner, reward = self._learner(), torch.tensor(rewards, dtype=dtype)
        memory.state, _ = learner.update(memory.policy, memory.state, table, reward, weights=ratio)
        memory.waiting = []
