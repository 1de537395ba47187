"""What a GFlowNet draws from between one batch of results and the next: two rewards, and samples of each.

The first reward is the expected improvement on the best result. The second is the probability of being nearly as good
as the best result, and zero near every configuration that is known to be: how likely one more *different* good
configuration is found there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from luthier.propose.flow import Exact, Leaves, LogReward, Sampler, Settings, Tree
from luthier.propose.gaussian_process.acquisition import log_expected_improvement
from luthier.propose.gaussian_process.encoding import Points
from luthier.propose.generator import build, sharpness
from luthier.propose.process import Process
from luthier.propose.surrogate import Ensemble
from luthier.propose.tempering import Samples, distinct, temper
from luthier.space import Space
from luthier.space.distance import distances

COUNT = 512  # samples of the first reward, at the first beta and at the last
PLACES = 8_192  # leaves from which the samples of the second begin
WALKERS = 64  # of these, for each job
LEAST = 0.01  # a chance of a different good one below which every other job looks for a better one instead
AMONG = 8.0  # exp(entropy) of the choice among samples
CLOSE = 0.1  # deviations of the transformed results: what is looked for is this near the best, however wide the limit

Predict = Callable[[Leaves], tuple[np.ndarray, np.ndarray]]


class Making(NamedTuple):
    """How the samplers of a round are made.

    Args:
        tree: Of the space.
        beta: The exponent at which sampling begins, or None: such that exp(entropy) is ``effective``.
        effective: In leaves.
        settings: Of a learnt sampler's training.
        method: ``"exact"``, ``"learnt"``, or None: exact where the leaves can be enumerated.
        apart: The distance between configurations that count as different.
        key: Of a learnt sampler's randomness.
        before: The learnt sampler of the round before, and its beta.
    """

    tree: Tree
    beta: float | None
    effective: float
    settings: Settings
    method: str | None
    apart: float
    key: int
    before: tuple[Sampler, float] | None = None

    @property
    def exact(self) -> bool:
        """Whether samplers are made by enumeration."""
        return self.method == "exact" or (self.method is None and self.tree.enumerable)


class Places(NamedTuple):
    """Where different good configurations are looked for: the leaves of highest reward.

    Args:
        leaves: (n) leaves.
        heights: (n,) log R of each.
        drawn: (n,) the logarithm of the density of its bin among them: a constant, or that of a learnt sampler.
        log_reward: log R of any leaf.
    """

    leaves: Leaves
    heights: np.ndarray
    drawn: np.ndarray
    log_reward: LogReward


class Round(NamedTuple):
    """What is drawn from.

    Args:
        making: How it was made.
        sampler: Of the first reward.
        beta: Its exponent.
        model: Of the results.
        better: Samples of the first reward.
        places: Of the second reward.
    """

    making: Making
    sampler: Sampler
    beta: float
    model: Ensemble | Process
    better: Samples
    places: Places

    def draw(self, different: bool, seen: set[bytes], near: Points, rng: np.random.Generator) -> np.ndarray | None:
        """The code of one sample that was not seen, (columns,), or None where all were.

        Args:
            different: Whether of the second reward; where it is next to nothing, only every other time.
            seen: Names of what was proposed.
            near: Configurations that the round does not know: they are running, or ended after it. The expected
                improvement is taken given them; what is different is apart from them too.
            rng: Source of the choice.
        """
        samples = self._different(near, rng) if different else None
        if samples is not None and samples.heights.max() < np.log(LEAST) and rng.random() < 0.5:
            samples = None
        chosen = _unseen(samples or self.better, seen)
        if samples is not None and not chosen.names:
            samples, chosen = None, _unseen(self.better, seen)
        if not chosen.names:
            return None
        heights = chosen.heights
        if samples is None:
            heights = self._improvement(chosen.points, heights, near, rng)
        weights = np.exp(sharpness(heights, AMONG) * (heights - heights.max()))
        return chosen.points.codes[int(rng.choice(len(weights), p=weights / weights.sum()))]

    def _improvement(self, points: Points, heights: np.ndarray, near: Points, rng: np.random.Generator) -> np.ndarray:
        """log R of the first reward given what is running: an ensemble of networks imagines no results."""
        if isinstance(self.model, Process):
            return self.model.log_improvement(points, near, rng)
        gaps = distances(self.making.tree.space, *points, *near).min(axis=1, initial=np.inf)
        return np.where(gaps > min(self.making.apart, gaps.max() / 2), heights, -np.inf)

    def _different(self, near: Points, rng: np.random.Generator) -> Samples | None:
        """Samples of the second reward, which is zero near what is running too; None where it is zero everywhere."""
        making, tree = self.making, self.making.tree
        space, (leaves, heights, drawn, log_reward) = tree.space, self.places
        gaps = distances(space, leaves.codes, leaves.mask, *near).min(axis=1, initial=np.inf)
        heights = np.where(gaps > making.apart, heights, -np.inf)
        if not np.isfinite(heights).any():
            return None
        beta = sharpness(heights, making.effective) if making.beta is None else making.beta
        weights = beta * heights - drawn
        weights = np.exp(weights - weights.max())
        rows = rng.choice(len(weights), WALKERS, p=weights / weights.sum())
        begun = leaves.take(rows)
        if making.exact:
            begun = tree.place(begun.actions, rng.random(begun.codes.shape))
        found = temper(tree, begun, beta * heights[rows], apart_from(space, near, making.apart, log_reward), beta, rng)
        return None if found is None else distinct(*found)


def round_of(
    making: Making, model: Ensemble | Process, points: Points, y: np.ndarray, limit: float, rng: np.random.Generator
) -> Round:
    """The round after given results.

    Args:
        making: How the samplers are made.
        model: Of the results.
        points: (n) configurations with a result.
        y: (n,) transformed results.
        limit: Up to where a transformed result is nearly as good as the best.
        rng: Source of the samples.
    """
    tree, best = making.tree, float(y.min())
    predict = _once(model, tree)
    better = improvement(predict, model.incumbent if isinstance(model, Process) else best)
    noise = model.noise if isinstance(model, Process) else 0.0
    goal = nearly_best(predict, min(limit, best + CLOSE), noise)
    different = apart_from(tree.space, points.take(np.flatnonzero(y <= limit)), making.apart, goal)
    if making.exact:
        values = better(tree.all)
        beta = sharpness(values, min(making.effective, tree.size / 4)) if making.beta is None else making.beta
        sampler: Sampler = Exact(tree, beta * values + tree.log_volume(tree.all))
        leaves, drawn = tree.all, -tree.log_volume(tree.all)
    else:
        m = making
        sampler, beta = build(tree, better, m.beta, m.effective, m.settings, m.key, m.before, m.method)
        leaves = sampler.sample(PLACES, rng=rng)
        drawn = sampler.log_mass(leaves) - tree.log_volume(leaves)
    begun = sampler.sample(COUNT, rng=rng)
    found = temper(tree, begun, sampler.log_mass(begun) - tree.log_volume(begun), better, beta, rng)
    assert found is not None  # some improvement is expected everywhere
    heights = different(leaves)
    rows = np.argsort(-heights, kind="stable")[:PLACES]
    places = Places(leaves.take(rows), heights[rows], drawn[rows], different)
    return Round(making, sampler, beta, model, distinct(*found), places)


def improvement(predict: Predict, best: float) -> LogReward:
    """log R, R the expected improvement on ``best``."""

    def log_reward(leaves: Leaves) -> np.ndarray:
        mean, deviation = predict(leaves)
        return log_expected_improvement(mean[:, None], np.maximum(deviation, 1e-9), np.array([best]))

    return log_reward


def nearly_best(predict: Predict, limit: float, noise: float = 0.0) -> LogReward:
    """log R, R the probability that a result is at most ``limit``; ``noise`` is a variance."""

    def log_reward(leaves: Leaves) -> np.ndarray:
        mean, deviation = predict(leaves)
        return log_ndtr((limit - mean) / np.maximum(np.sqrt(deviation**2 + noise), 1e-9))

    return log_reward


def apart_from(space: Space, good: Points, apart: float, log_reward: LogReward) -> LogReward:
    """log R, with R = 0 at and near configurations that are known to be good."""

    def elsewhere(leaves: Leaves) -> np.ndarray:
        gaps = distances(space, leaves.codes, leaves.mask, *good).min(axis=1, initial=np.inf)
        return np.where(gaps > apart, log_reward(leaves), -np.inf)

    return elsewhere


def _once(model: Ensemble | Process, tree: Tree) -> Predict:
    """The model's predictions; of all leaves of a tree they are computed once."""
    known: list[tuple[np.ndarray, np.ndarray]] = []

    def predict(leaves: Leaves) -> tuple[np.ndarray, np.ndarray]:
        if not tree.enumerable or leaves is not tree.all:
            return model.predict(leaves.codes, leaves.mask)
        if not known:
            known.append(model.predict(leaves.codes, leaves.mask))
        return known[0]

    return predict


def _unseen(samples: Samples, seen: set[bytes]) -> Samples:
    return samples.take([row for row, name in enumerate(samples.names) if name not in seen])
