"""Proposals of a GFlowNet between two batches of results: a better configuration, or a different good one.

A better one is where the expected improvement on the best result is highest. A different one is where the probability
of being nearly as good as the best result is highest, apart from all that are known to be good: how likely one more
good configuration is found there. The flow network samples in proportion to that probability, and the search begins at
its samples, so that it finds good regions that are far from the best result.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from luthier.propose.flow import Leaves, Sampler, Settings, Tree
from luthier.propose.gaussian_process.acquisition import log_expected_improvement
from luthier.propose.gaussian_process.search import maximise
from luthier.propose.generator import build, sharpness
from luthier.propose.process_surrogate import FittedProcess, Reward, Where
from luthier.propose.surrogate import Ensemble
from luthier.space import Space
from luthier.space.distance import distances
from luthier.space.encoder import Points, encoding_of, join

PLACES = 8_192  # samples of a learnt sampler, among which each job draws again
BEGUN = 20  # samples at which a search begins
LEADING = 5  # best results at which it begins too
WORTH = 0.25  # of the distance from the best to what is nearly as good: so large an improvement is worth a job
LEAST = 1e-3  # probability of a different good one below which a job is for a better one

Found = tuple[np.ndarray | None, float]
"""A code, (columns,), or None where all were seen, and its reward R."""


class Making(NamedTuple):
    """Settings with which the samples of a round are made.

    Args:
        tree: Tree of the space.
        beta: The exponent, or None: such that exp(entropy) is ``effective``.
        effective: The exponential of the target's entropy, in leaves.
        settings: Settings that a learnt sampler is trained with.
        method: ``"exact"``, ``"learnt"``, or None: exact where the leaves can be enumerated.
        apart: The distance between configurations that count as different.
        key: Key of a learnt sampler's randomness.
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
        """True if all leaves are weighed, and no sampler is learnt."""
        return self.method == "exact" or (self.method is None and self.tree.enumerable)


class Known(NamedTuple):
    """The results that a round knows.

    Args:
        points: (n) configurations.
        y: (n,) transformed results.
        limit: Largest transformed result that is nearly as good as the best.
    """

    points: Points
    y: np.ndarray
    limit: float

    @property
    def best(self) -> float:
        """The best result."""
        return float(self.y.min())

    @property
    def leading(self) -> Points:
        """The configurations of the best results, best first."""
        return self.points.take(np.argsort(self.y, kind="stable")[:LEADING])

    @property
    def good(self) -> Points:
        """The configurations that are nearly as good as the best."""
        return self.points.take(np.flatnonzero(self.y <= self.limit))


class Places(NamedTuple):
    """Leaves among which different good configurations are looked for.

    Args:
        leaves: All leaves of the tree, or samples of a learnt sampler.
        heights: (leaves,) log R, R the probability of being nearly as good as the best, 0 near what is good.
        drawn: (leaves,) the logarithm of the density at which each is among them, up to a constant.
        learnt: The learnt sampler and its beta, or None.
    """

    leaves: Leaves
    heights: np.ndarray
    drawn: np.ndarray
    learnt: tuple[Sampler, float] | None


class Round(NamedTuple):
    """Basis of the proposals; made by :func:`round_of`."""

    making: Making
    model: Ensemble | FittedProcess
    known: Known
    places: Places

    def draw(self, improving: bool, seen: set[bytes], near: Points, rng: np.random.Generator) -> np.ndarray | None:
        """Return the code of one configuration not seen before, (columns,), or None where all were.

        Args:
            improving: If true, a better one goes first, where its expected improvement is worth it.
            seen: Names of the configurations proposed so far.
            near: Configurations that the round does not know: they are running, or ended after it. The expected
                improvement is taken given them; what is different is apart from them too.
            rng: Source of the choice.
        """
        better, gain = self._better(seen, near, rng) if improving else (None, 0.0)
        if gain > WORTH * (self.known.limit - self.known.best):
            return better
        different, chance = self._different(seen, near, rng)
        if chance >= LEAST:
            return different
        return better if improving else self._better(seen, near, rng)[0]

    def _better(self, seen: set[bytes], near: Points, rng: np.random.Generator) -> Found:
        """The highest expected improvement; an ensemble imagines no results, and keeps away from running jobs."""
        if isinstance(self.model, FittedProcess):
            reward = self.model.improvement(near, rng)
        else:
            reward = apart_from(self._space, near, self.making.apart, improvement(self.model, self.known.best))
        return self._highest(reward, self.known.leading, seen, near.codes, rng)

    def _different(self, seen: set[bytes], near: Points, rng: np.random.Generator) -> Found:
        """The highest probability of one more good configuration that is different."""
        known, apart = self.known, self.making.apart
        reward = apart_from(self._space, join(known.good, near), apart, nearly_best(self.model, known.limit))
        begin = join(self._samples(near, rng), known.leading)
        return self._highest(reward, begin, seen, near.codes[:0], rng)

    def _samples(self, near: Points, rng: np.random.Generator) -> Points:
        """Samples in proportion to R^beta, without those near what is running; none where R is 0 everywhere."""
        leaves, heights, drawn, _ = self.places
        gaps = distances(self._space, leaves.codes, leaves.mask, *near).min(axis=1, initial=np.inf)
        rows = np.flatnonzero((gaps > self.making.apart) & np.isfinite(heights))
        if not len(rows):
            return near.take([])
        beta = self.making.beta
        if beta is None:
            beta = sharpness(heights[rows], min(self.making.effective, len(rows) / 4))
        # the largest of the logarithmic weights, each with Gumbel noise, are draws without repetition
        weights = beta * heights[rows] - drawn[rows] + rng.gumbel(size=len(rows))
        chosen = leaves.take(rows[np.argsort(-weights, kind="stable")[:BEGUN]])
        if self.making.exact:
            chosen = self.making.tree.place(chosen.actions, rng.random(chosen.codes.shape))
        codes = encoding_of(self._space).snap(chosen.codes)
        return Points(np.where(chosen.mask, codes, 0.5), chosen.mask)

    def _highest(
        self, reward: Reward, begin: Points, seen: set[bytes], running: np.ndarray, rng: np.random.Generator
    ) -> Found:
        encoding = encoding_of(self._space)
        code = maximise(reward, encoding, begin, seen, running, rng)
        return code, 0.0 if code is None else float(np.exp(reward(encoding.complete(code[None].copy()))[0]))

    @property
    def _space(self) -> Space:
        return self.making.tree.space


def round_of(making: Making, model: Ensemble | FittedProcess, known: Known, rng: np.random.Generator) -> Round:
    """The round after given results.

    Args:
        making: Settings with which its samples are made.
        model: Model of the results.
        known: The results.
        rng: Source of the samples.
    """
    tree, reward = making.tree, nearly_best(model, known.limit)
    if making.exact:
        leaves, drawn, learnt = tree.all, -tree.log_volume(tree.all), None
    else:
        m = making
        learnt = build(tree, reward, m.beta, m.effective, m.settings, m.key, m.before, m.method)
        leaves = learnt[0].sample(PLACES, rng=rng)
        drawn = learnt[0].log_mass(leaves) - tree.log_volume(leaves)
    heights = apart_from(tree.space, known.good, making.apart, reward)(leaves)
    return Round(making, model, known, Places(leaves, heights, drawn, learnt))


def improvement(model: Ensemble, best: float) -> Reward:
    """log R, R the expected improvement on ``best``."""

    def log_reward(where: Where) -> np.ndarray:
        mean, deviation = model.predict(where.codes, where.mask)
        return log_expected_improvement(mean[:, None], np.maximum(deviation, 1e-9), np.array([best]))

    return log_reward


def nearly_best(model: Ensemble | FittedProcess, limit: float) -> Reward:
    """log R, R the probability that a result is at most ``limit``."""
    noise = model.noise if isinstance(model, FittedProcess) else 0.0

    def log_reward(where: Where) -> np.ndarray:
        mean, deviation = model.predict(where.codes, where.mask)
        return log_ndtr((limit - mean) / np.maximum(np.sqrt(deviation**2 + noise), 1e-9))

    return log_reward


def apart_from(space: Space, good: Points, apart: float, log_reward: Reward) -> Reward:
    """log R, with R = 0 at and near configurations that are known to be good."""

    def elsewhere(where: Where) -> np.ndarray:
        gaps = distances(space, where.codes, where.mask, *good).min(axis=1, initial=np.inf)
        return np.where(gaps > apart, log_reward(where), -np.inf)

    return elsewhere
