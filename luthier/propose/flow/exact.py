"""The exact sampler: every leaf is evaluated, and the flow through each state is the sum of what is below it."""

from __future__ import annotations

import numpy as np

from luthier.checks import checked, real
from luthier.propose.flow.interface import Sampler
from luthier.propose.flow.reward import LogReward, ask, expect_some
from luthier.propose.flow.tree import Leaves, Tree


class Exact:
    """The distribution R^beta / Z itself.

    Args:
        tree: A tree of at most about a million leaves.
        log_rewards: (leaves,) beta log R in the order of ``tree.all``.
    """

    def __init__(self, tree: Tree, log_rewards: np.ndarray) -> None:
        self.tree, self.evaluations = tree, len(log_rewards)
        self.parents = _parents(tree.all.actions)
        self._flows = _flows(log_rewards, self.parents)
        self.log_z = float(self._flows[0][0])
        self._masses: tuple[float, np.ndarray] = (1.0, log_rewards - self.log_z)
        self._cumulative: tuple[float, np.ndarray] | None = None

    def sample(self, count: int, *, rng: np.random.Generator, temperature: float = 1.0) -> Leaves:
        """``count`` leaves; see :meth:`luthier.propose.flow.Sampler.sample`."""
        mass = self._mass(temperature)
        if self._cumulative is None or self._cumulative[0] != temperature:
            self._cumulative = temperature, np.cumsum(np.exp(mass))
        cumulative = self._cumulative[1]
        uniform = rng.random((count, 1 + self.tree.levels))
        # the first place above, which has a mass above zero; rounding may point behind the last of these
        drawn = np.searchsorted(cumulative, uniform[:, 0] * cumulative[-1], side="right")
        drawn = np.minimum(drawn, np.flatnonzero(mass > -np.inf)[-1])
        return self.tree.place(self.tree.all.actions[drawn], uniform[:, 1:])

    def log_mass(self, leaves: Leaves, temperature: float = 1.0) -> np.ndarray:
        """Log probability of each leaf; see :meth:`luthier.propose.flow.Sampler.log_mass`."""
        return self._mass(temperature)[self.tree.rank(leaves)]

    def log_prob(self, leaves: Leaves, temperature: float = 1.0) -> np.ndarray:
        """Log density at the codes of each leaf; see :meth:`luthier.propose.flow.Sampler.log_prob`."""
        return self.log_mass(leaves, temperature) + self.tree.log_density(leaves)

    def _edges(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return list(zip(self._flows[1:], self._flows[:-1], self.parents, strict=True))

    def _mass(self, temperature: float) -> np.ndarray:
        """(leaves,) log probability of every leaf."""
        check_temperature(temperature)
        if temperature != self._masses[0]:
            mass = np.zeros(1)
            for flow, _, parent in self._edges():
                cold = flow / temperature
                mass = mass[parent] + _step(cold, _log_sums(cold, parent), parent)
            self._masses = temperature, mass
        return self._masses[1]


def exact(tree: Tree, log_reward: LogReward) -> Exact:
    """The exact sampler of a tree, by enumeration.

    Args:
        tree: A tree of at most about a million leaves.
        log_reward: beta log R of leaves; asked once for each leaf, at the centres of its bins.

    Raises:
        MethodError: If the tree is larger, or the rewards cannot be.

    Examples:
        >>> from luthier.space import Choice, Space
        >>> tree = Tree(Space(a=Choice([1, 2]), b=Choice([1, 3])))
        >>> sampler = exact(tree, lambda leaves: np.log([1.0, 3.0, 2.0, 6.0]))
        >>> round(float(np.exp(sampler.log_z)), 6), np.exp(sampler.log_mass(tree.all)).round(4).tolist()
        (12.0, [0.0833, 0.25, 0.1667, 0.5])
    """
    values = ask(log_reward, tree.all)
    expect_some(values)
    return Exact(tree, values)


def terminating(sampler: Sampler, temperature: float = 1.0) -> np.ndarray:
    """The probability of every leaf under a sampler, (leaves,) in the order of ``tree.all``, by enumeration."""
    return np.exp(sampler.log_mass(sampler.tree.all, temperature))


def distance(sampler: Sampler, truth: Sampler) -> float:
    """The L1 distance of two samplers over all leaves of their tree: 0 where they are equal, at most 2."""
    return float(np.abs(terminating(sampler) - terminating(truth)).sum())


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a number above zero.

    Raises:
        MethodError: If it is not.
    """
    remedy = "Give a number above zero: below 1 is greedier, above 1 flatter."
    checked("temperature", temperature, real(above=0), where="sample", remedy=remedy)


def _parents(actions: np.ndarray) -> list[np.ndarray]:
    """The state before each level of each state after it; ``actions`` are sorted and distinct."""
    rows, levels = actions.shape
    if not levels:
        return []
    first = np.full(rows, -1)  # the first column in which a row differs from the one before it
    first[1:] = np.argmax(actions[1:] != actions[:-1], axis=1)
    parents = []
    for level in range(levels):
        after = np.flatnonzero(first <= level)  # rows at which a new prefix of level + 1 columns begins
        parents.append(np.cumsum(first[after] < level) - 1)
    return parents


def _flows(log_rewards: np.ndarray, parents: list[np.ndarray]) -> list[np.ndarray]:
    """log F of the states before each level, and of the leaves: sums from the leaves up."""
    flows = [log_rewards]
    for parent in reversed(parents):
        flows.insert(0, _log_sums(flows[0], parent))
    return flows


def _log_sums(values: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """log sum exp of the values of each parent's children, which stand together."""
    begin = np.flatnonzero(np.diff(parent, prepend=-1))
    highest = np.maximum.reduceat(values, begin)
    shift = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        return shift + np.log(np.add.reduceat(np.exp(values - shift[parent]), begin))


def _step(below: np.ndarray, above: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """log P_F = log F(child) - log F(parent); minus infinity below a state without flow."""
    total = above[parent]
    return np.where(np.isfinite(total), below - np.where(np.isfinite(total), total, 0.0), -np.inf)
