"""The leaves that have been evaluated: each is evaluated once, and takes part in training again and again."""

from __future__ import annotations

import math

import numpy as np

from luthier.propose.flow.reward import LogReward, ask
from luthier.propose.flow.tree import Tree

FLOOR = 1e-3  # of the flow: all leaves together would have it, were their rewards as low as the floor


class Evaluated:
    """Distinct leaves and their log rewards, in the order in which they were found.

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
