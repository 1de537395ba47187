"""The learnt sampler: a policy trained to be a flow, for trees of any size."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.propose.flow.exact import check_temperature
from luthier.propose.flow.objectives import OBJECTIVES, Flows
from luthier.propose.flow.paths import Paths, paths
from luthier.propose.flow.policies import POLICIES, Experts, Shared
from luthier.propose.flow.reward import LogReward, ask, expect_some
from luthier.propose.flow.training_settings import Settings
from luthier.propose.flow.tree import Leaves, Tree
from luthier.propose.flow.walks import along, draw, log_mass, tables
from luthier.propose.threads import one_torch_thread

FLOOR = 1e-3  # of the flow: all leaves together would have it, were their rewards as low as the floor


class Learnt:
    """A trained policy as a sampler.

    Args:
        tree: The tree.
        settings: Settings it was trained with.
        policy: The network.

    Attributes:
        log_z: The estimate of log Z that belongs to the policy.
        evaluations: Ways drawn in training, each of which asked for a reward.
        distinct: Number of different leaves among these; the reward of each was computed once.
        losses: (gradient steps,) the loss at each.
    """

    def __init__(self, tree: Tree, settings: Settings, policy: Shared | Experts) -> None:
        self.tree, self.settings, self.policy = tree, settings, policy
        self.log_z = math.nan
        self.evaluations = self.distinct = 0
        self.losses = np.zeros(0)

    def sample(self, count: int, *, rng: np.random.Generator, temperature: float = 1.0) -> Leaves:
        """``count`` leaves; see :meth:`luthier.propose.flow.Sampler.sample`."""
        check_temperature(temperature)
        uniform = rng.random((count, 2, self.tree.levels))
        actions = draw(self.policy, self.tree, uniform[:, 0], temperature, 0.0, self.settings.prior)
        return self.tree.place(actions, uniform[:, 1])

    def log_mass(self, leaves: Leaves, temperature: float = 1.0) -> np.ndarray:
        """Log probability of each leaf; see :meth:`luthier.propose.flow.Sampler.log_mass`."""
        check_temperature(temperature)
        return log_mass(self.policy, self.tree, leaves.actions, temperature, self.settings.prior)

    def log_prob(self, leaves: Leaves, temperature: float = 1.0) -> np.ndarray:
        """Log density at the codes of each leaf; see :meth:`luthier.propose.flow.Sampler.log_prob`."""
        return self.log_mass(leaves, temperature) + self.tree.log_density(leaves)


@one_torch_thread()
def learn(
    tree: Tree,
    log_reward: LogReward,
    settings: Settings | None = None,
    *,
    key: int,
    start: Learnt | None = None,
    progress: Callable[[Learnt], None] | None = None,
) -> Learnt:
    """Train a sampler of R^beta / Z.

    Args:
        tree: The tree, of any size.
        log_reward: beta log R of leaves, at the centres of their bins; asked once for each leaf that is met.
        settings: Settings to train with.
        key: Key of all randomness.
        start: Begin with this sampler's policy; it must be of an equal tree and network, and is left as it is.
        progress: Called after every round, with the sampler so far.

    Raises:
        MethodError: If the rewards are impossible, or ``start`` does not fit.

    Examples:
        >>> from luthier.propose.flow import exact
        >>> from luthier.space import Choice, Space
        >>> tree = Tree(Space(a=Choice(["x", "y", "z"]), b=Choice([1, 2], when={"a": "z"})))
        >>> reward = lambda leaves: np.log1p(leaves.actions[:, 0] + 2.0 * leaves.mask[:, 1])
        >>> sampler = learn(tree, reward, Settings(evaluations=2_000), key=0)
        >>> bool(np.abs(sampler.log_mass(tree.all) - exact(tree, reward).log_mass(tree.all)).max() < 0.01)
        True
    """
    training = _Training(tree, log_reward, settings or Settings(), key, start)
    rounds = math.ceil(training.settings.evaluations / training.settings.batch)
    for number in range(rounds):
        training.round(number, rounds)
        if progress is not None:
            progress(training.sampler)
    return training.sampler


class _Training:
    """State of a training run from one round to the next."""

    def __init__(self, tree: Tree, log_reward: LogReward, settings: Settings, key: int, start: Learnt | None) -> None:
        self.settings, self.tree = settings, tree
        generator = torch.Generator().manual_seed(key)
        self.rng = np.random.Generator(np.random.Philox(key=key))
        policy = POLICIES[settings.policy](tree, settings.hidden, settings.layers, generator)
        if start is not None:
            _expect_same(tree, settings, start)
            policy.load_state_dict(start.policy.state_dict())
        self.sampler = Learnt(tree, settings, policy)
        self.evaluated = Evaluated(tree, log_reward)
        self.objective = OBJECTIVES[settings.objective]
        self.log_z = torch.zeros((), requires_grad=True)
        self.offset = 0.0
        groups = [
            {"params": list(policy.parameters()), "lr": settings.lr},
            {"params": [self.log_z], "lr": settings.log_z_lr},
        ]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.rates = [settings.lr, settings.log_z_lr]

    def round(self, number: int, rounds: int) -> None:
        """Draw ways, evaluate their leaves, and take the gradient steps of one round."""
        s, sampler = self.settings, self.sampler
        count = min(s.batch, s.evaluations - sampler.evaluations)
        uniform = self.rng.random((count, self.tree.levels))
        latest = self.evaluated.add(draw(sampler.policy, self.tree, uniform, s.temperature, s.epsilon, s.prior))
        sampler.evaluations += count
        sampler.distinct = len(self.evaluated)
        if number == 0:
            expect_some(self.evaluated.log_rewards)
            self._begin(latest)
        if s.states:
            most = max(s.states // max(self.tree.levels, 1), 1)
            latest = self.evaluated.choose(latest, most, s.prioritised, self.rng)
        ways = paths(self.tree, self.evaluated.actions[latest])
        rewards = torch.from_numpy(self.evaluated.floored(latest)).float()
        weight = _weights(rewards, s.prioritised)
        losses = []
        for update in range(s.updates):
            done = (number + update / s.updates) / rounds
            losses.append(self._update(ways, rewards, weight, done))
        sampler.losses = np.append(sampler.losses, losses)
        sampler.log_z = self._estimate(ways, rewards, weight)

    def _begin(self, latest: np.ndarray) -> None:
        """Flows and log Z of the mean reward everywhere."""
        mean = float(np.logaddexp.reduce(self.evaluated.log_rewards[latest]) - math.log(len(latest)))
        if self.settings.prior:
            self.offset = mean
            with torch.no_grad():
                self.log_z.fill_(mean + math.log(self.tree.size))

    def _update(self, ways: Paths, rewards: Tensor, weight: Tensor, done: float) -> float:
        share = self.settings.last_lr + (1 - self.settings.last_lr) * (1 + math.cos(math.pi * done)) / 2
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad()
        loss = self.objective(self._flows(ways, rewards, weight))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _flows(self, ways: Paths, rewards: Tensor, weight: Tensor) -> Flows:
        found = tables(self.sampler.policy, ways, self.offset, self.settings.prior)
        return Flows(*along(ways, found), ways.active, rewards, self.log_z, weight)

    def _estimate(self, ways: Paths, rewards: Tensor, weight: Tensor) -> float:
        """log Z of the policy as it is: the rewards of these leaves over their probabilities, both summed."""
        with torch.no_grad():
            mass = self._flows(ways, rewards, weight).log_forward.double().sum(dim=1)
            return float(rewards.double().logsumexp(dim=0) - mass.logsumexp(dim=0))


def _weights(log_rewards: Tensor, prioritised: float) -> Tensor:
    """(n,) weights that sum to 1: a part in proportion to the rewards, the rest equal."""
    uniform = torch.full_like(log_rewards, 1 / len(log_rewards))
    return prioritised * torch.softmax(log_rewards, dim=0) + (1 - prioritised) * uniform


def _expect_same(tree: Tree, settings: Settings, start: Learnt) -> None:
    if tree.space != start.tree.space or tree.bins != start.tree.bins:
        what, remedy = "it has another tree", "Learn without it, or over the same space with as many bins."
        raise MethodError(what, where="start", remedy=remedy)
    for name in ("policy", "hidden", "layers", "prior"):
        if getattr(settings, name) != getattr(start.settings, name):
            what = f"its {name}={getattr(start.settings, name)!r} is not {getattr(settings, name)!r}"
            raise MethodError(what, where="start", remedy="Use the same network.")


class Evaluated:
    """Distinct leaves and their log rewards, in the order in which they were found: each is evaluated once, and takes
    part in training again and again.

    Args:
        tree: The tree.
        log_reward: beta log R of leaves.
    """

    def __init__(self, tree: Tree, log_reward: LogReward) -> None:
        self._tree, self._log_reward = tree, log_reward
        self._places: dict[bytes, int] = {}
        self.actions = np.zeros((0, tree.levels), dtype=np.int32)
        self.log_rewards = np.zeros(0)

    def __len__(self) -> int:
        return len(self.log_rewards)

    def add(self, actions: np.ndarray) -> np.ndarray:
        """Evaluate leaves, (n, levels) actions, that are new; the places of all of them here, (n,)."""
        known = len(self)
        places = np.array(
            [self._places.setdefault(row.tobytes(), len(self._places)) for row in actions], dtype=np.int64
        )
        new, first = np.unique(places, return_index=True)
        fresh = actions[first[new >= known]]
        self.log_rewards = np.append(self.log_rewards, ask(self._log_reward, self._tree.place(fresh)))
        self.actions = np.concatenate([self.actions, fresh])
        return places

    def floored(self, places: np.ndarray) -> np.ndarray:
        """The log rewards at some places, the lowest raised to a floor.

        Losses in logarithms would spend the network on telling a reward of e^-30 from one of e^-40, or from zero. What
        has been found is at most Z, so that the floor cannot bring more than its part to the flow.
        """
        found = np.logaddexp.reduce(self.log_rewards)
        return np.maximum(self.log_rewards[places], found + math.log(FLOOR / self._tree.size))

    def choose(self, latest: np.ndarray, count: int, prioritised: float, rng: np.random.Generator) -> np.ndarray:
        """The places of at most ``count`` distinct leaves to train on.

        Those just drawn are among them as long as there is room; of the rest, a part is drawn in proportion to the
        rewards and a part uniformly, both without replacement.
        """
        if len(self) <= count:
            return np.arange(len(self))
        latest = np.unique(latest)[:count]
        room = count - len(latest)
        noise = rng.gumbel(size=(2, len(self)))
        by_reward = np.argsort(-(self.log_rewards + noise[0]))[: round(prioritised * room)]
        found = np.union1d(latest, by_reward)
        noise[1, found] = -np.inf
        return np.sort(np.append(found, np.argsort(-noise[1])[: count - len(found)]))
