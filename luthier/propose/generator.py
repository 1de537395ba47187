"""Result of a GFlowNet's fit: a sampler over the configurations of a space, and the surrogate behind its rewards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from luthier.checks import checked, real, whole
from luthier.errors import MethodError
from luthier.propose.flow import Learnt, LogReward, Sampler, Settings, Tree, exact, learn
from luthier.propose.surrogate import Ensemble
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.space.distance import first_apart
from luthier.text import Tolerant

CHEAP = 2**17  # leaves that are enumerated within a second
CHEAP_BINS = (64, 48, 32, 24, 16, 12, 10, 8, 7, 6, 5, 4, 3, 2)
BINS = 16  # where no number of them is cheap
SHARPEST = 1e4  # the largest beta that is tried
DRAWS = 2_000  # from which the entropy of a learnt sampler is estimated
STAGES = 8  # of a first training, in which beta doubles
BRIEF = 4  # so many times fewer evaluations has each of them than the training that follows
VAIN = 100  # draws in a row that the constraint refuses whole, after which there is an end
POOL = 4_096  # samples among which top() chooses
EVERY = 5.0  # seconds after which a training says again how far it is


@dataclass(frozen=True, eq=False)
class Generator:
    """A distribution over configurations, P(x) = R(x)^beta / Z. Made by :meth:`luthier.propose.GFlowNet.fit`.

    Args:
        sampler: Exact where the space is small, else learnt; see :mod:`luthier.propose.flow`.
        surrogate: Source of the rewards; it reports its held-out error, ``surrogate.rmse``.
        log_reward: log R of leaves.
        beta: The exponent.
        sign: -1 where the objective is maximised, else 1.
    """

    sampler: Sampler
    surrogate: Ensemble
    log_reward: LogReward
    beta: float
    sign: float = 1.0

    def sample(self, count: int, temperature: float = 1.0, seed: int = 0) -> list[Config]:
        """Draw configurations independently; some may occur twice.

        Args:
            count: Number of configurations.
            temperature: Divides the logits of each step: 0.1 is greedy, 10 nearly uniform. Unlike ``beta``, which
                favours tall peaks, it favours broad ones.
            seed: Seed of the draws.

        Raises:
            MethodError: If the count is not a whole number of at least 0 or the temperature is not above zero.
        """
        count = checked("count", count, whole(0), where="GFlowNet")
        rng = Seeds(seed).rng(0, "gflownet sample")
        tree, found, vain = self.sampler.tree, list[Config](), 0
        while len(found) < count:
            drawn = tree.configs(self.sampler.sample(count, rng=rng, temperature=temperature))
            allowed = [config for config in drawn if tree.space.feasible(config)]
            vain = 0 if allowed else vain + 1
            if vain > VAIN:
                what = f"the constraint refuses all of {VAIN * count:,} samples"
                raise MethodError(what, where="Generator.sample", remedy="Fit it to a study under this constraint.")
            found += allowed
        return found[:count]

    def log_prob(self, configs: Sequence[Config], temperature: float = 1.0) -> np.ndarray:
        """Log density of configurations, (n,): a density in the codes of Floats, a probability in all other values.

        Raises:
            ConfigError: If a configuration does not belong to the space.
        """
        return self.sampler.log_prob(self.sampler.tree.leaves(self._checked(configs)), temperature)

    def predict(self, configs: Sequence[Config]) -> tuple[np.ndarray, np.ndarray]:
        """The surrogate's mean and standard deviation of the metric, (n,) each, in the user's units and direction.

        Raises:
            ConfigError: If a configuration does not belong to the space.
        """
        mean, deviation = self.surrogate.predict(*self.sampler.tree.space.encode(self._checked(configs)))
        return self.sign * mean, deviation

    def top(self, count: int, apart: float = 0.1, seed: int = 0) -> list[Config]:
        """Return distinct good configurations, the best by the surrogate's mean first.

        Args:
            count: Number of configurations; fewer are returned where not that many differ.
            apart: Distance that any two exceed (see :mod:`luthier.space.distance`): 0.1 is a tenth of the box.
            seed: Seed of the samples from which they are chosen.

        Raises:
            MethodError: If the count is not a whole number above zero, or the distance is not a number of at least 0.
        """
        count = checked("count", count, whole(1), where="GFlowNet")
        apart = checked("apart", apart, real(0), where="GFlowNet", remedy="Give a distance such as 0.1.")
        tree = self.sampler.tree
        leaves = self.sampler.sample(POOL, rng=Seeds(seed).rng(0, "gflownet top"))
        mean, _ = self.surrogate.predict(leaves.codes, leaves.mask)
        best = leaves.take(np.argsort(mean, kind="stable"))
        if tree.space.constraint is not None:
            best = best.take(np.array([tree.space.feasible(config) for config in tree.configs(best)], dtype=bool))
        return tree.configs(best.take(np.array(first_apart(tree.space, best.codes, best.mask, apart, count))))

    def _checked(self, configs: Sequence[Config]) -> list[Config]:
        if isinstance(configs, Mapping) or not isinstance(configs, Sequence):
            remedy = "Give a list of configurations; [config] if there is one."
            raise MethodError(f"{configs!r} is not a list of configurations", where="GFlowNet", remedy=remedy)
        return [self.sampler.tree.space.check(config) for config in configs]


def tree_of(space: Space, bins: int | None, leaves: int = CHEAP, fewest: int = 5) -> Tree:
    """The tree of a space: with given bins, or as many as are cheap to enumerate; 16 for a large space.

    Args:
        space: The search space.
        bins: Number of bins of a Float, an Int and an ordered Choice; None chooses.
        leaves: Number of leaves that is still cheap.
        fewest: Number of bins that is enough.
    """
    if bins is not None:
        return Tree(space, bins)
    for number in CHEAP_BINS:
        if number >= fewest:
            tree = Tree(space, number)
            if tree.size <= leaves:
                return tree
    return Tree(space, BINS)


def sharpness(log_rewards: np.ndarray, effective: float) -> float:
    """The beta under which exp(entropy) of R^beta / Z over these leaves is ``effective``.

    Where rewards are equal it makes no difference, and where too few leaves share the highest reward it is the largest
    that is tried.

    Args:
        log_rewards: (leaves,) log R.
        effective: Leaves among which the probability is spread, as exp(entropy) counts them.

    Examples:
        >>> rewards = np.log(np.arange(1.0, 101.0))
        >>> beta = sharpness(rewards, 10.0)
        >>> p = rewards**0 * np.exp(beta * rewards); p /= p.sum()
        >>> round(float(np.exp(-(p * np.log(p)).sum())), 1)
        10.0
    """
    finite = log_rewards[np.isfinite(log_rewards)]
    shifted = finite - finite.max()
    spread = -shifted.mean()
    if spread < 1e-12:
        return 1.0
    low, high = np.log(1e-3 / spread), np.log(SHARPEST / spread)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(np.exp(middle) * shifted) > np.log(effective) else (low, middle)
    return float(np.exp((low + high) / 2))


def entropy(log_weights: np.ndarray) -> float:
    """Entropy in nats of the distribution in proportion to exp(log weights)."""
    weights = np.exp(log_weights - log_weights.max())
    total = weights.sum()
    return float(np.log(total) - (weights * (log_weights - log_weights.max())).sum() / total)


def build(
    tree: Tree,
    log_reward: LogReward,
    beta: float | None,
    effective: float,
    settings: Settings,
    key: int,
    start: tuple[Sampler, float] | None = None,
    method: str | None = None,
    progress: Callable[[Learnt], None] | None = None,
) -> tuple[Sampler, float]:
    """A sampler of R^beta / Z and its beta.

    Args:
        tree: The tree.
        log_reward: log R of leaves.
        beta: The exponent, or None: such that exp(entropy) is ``effective``.
        effective: See ``beta``; never more than a quarter of the leaves.
        settings: Settings that a learnt sampler is trained with.
        key: Key of all randomness.
        start: A learnt sampler to begin with, and its beta.
        method: ``"exact"`` or ``"learnt"``; None is exact wherever the leaves can be enumerated.
        progress: Called after every round of a training.
    """
    effective = max(1.0, min(effective, tree.size / 4))
    if method == "exact" or (method is None and tree.enumerable):
        values = log_reward(tree.all)
        beta = sharpness(values, effective) if beta is None else beta
        return exact(tree, lambda leaves: beta * log_reward(leaves)), beta
    if beta is not None:
        rewards = _times(log_reward, beta)
        return learn(tree, rewards, settings, key=key, start=_network(start), progress=progress), beta
    return _sharpen(tree, log_reward, effective, settings, key, start, progress)


def teller(beta: float | None) -> Callable[[Learnt], None]:
    """Says on stderr every few seconds how far the trainings of :func:`build` are; several look for a beta of None."""
    most = STAGES + 1 if beta is None else 1
    due, training, before = time.monotonic() + EVERY, 1, 0

    def tell(sampler: Learnt) -> None:
        nonlocal due, training, before
        training, before = training + (sampler.evaluations <= before), sampler.evaluations
        if time.monotonic() >= due:
            due = time.monotonic() + EVERY
            share = before / sampler.settings.evaluations
            print(f"gflownet: training {training} of at most {most}, {share:.0%} done", file=Tolerant(sys.stderr))

    return tell


def _sharpen(
    tree: Tree,
    log_reward: LogReward,
    effective: float,
    settings: Settings,
    key: int,
    start: tuple[Sampler, float] | None,
    progress: Callable[[Learnt], None] | None,
) -> tuple[Sampler, float]:
    """A learnt sampler whose beta doubles until its entropy is low; each training begins where the last ended.

    Without one to begin with the trainings that look for beta are brief, and a whole one follows.
    """
    rng = Seeds(key).rng(0, "entropy")
    sampler, beta = (None, 1.0) if start is None else (start[0], start[1] / 2)
    brief = replace(settings, evaluations=max(settings.batch, settings.evaluations // BRIEF))
    for stage in range(STAGES):
        each = settings if start is not None else brief
        network = _network((sampler, beta))
        sampler = learn(tree, _times(log_reward, beta), each, key=key + stage, start=network, progress=progress)
        drawn = sampler.sample(DRAWS, rng=rng)
        if stage == STAGES - 1 or -sampler.log_mass(drawn).mean() <= np.log(effective):
            break
        beta *= 2
    if start is None:
        rewards, network = _times(log_reward, beta), _network((sampler, beta))
        sampler = learn(tree, rewards, settings, key=key + STAGES, start=network, progress=progress)
    assert sampler is not None
    return sampler, beta


def _times(log_reward: LogReward, beta: float) -> LogReward:
    return lambda leaves: beta * log_reward(leaves)


def _network(start: tuple[Any, float] | None) -> Any:
    """The learnt sampler to begin with, if there is one."""
    return None if start is None or not hasattr(start[0], "policy") else start[0]
