"""Samples of R^beta / Z over configurations themselves, at any beta, begun with those of a sampler over bins.

A sampler is right at the centres of its bins, and a learnt one nearly so. Its samples are drawn again by their
importance weights and moved by a random walk that keeps the target (Metropolis et al., "Equation of state calculations
by fast computing machines", 1953). Then beta rises in stages, and each does the same again: a sequential Monte Carlo
sampler (Del Moral, Doucet and Jasra, "Sequential Monte Carlo samplers", 2006).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from luthier.propose.flow import Leaves, LogReward, Tree
from luthier.propose.gaussian_process.encoding import Points, encoding_of, join, keys
from luthier.propose.generator import sharpness

WALK = (0.2, 0.1)  # deviations of the random walk at the first beta, as parts of the range
STAGES = (0.1, 0.05, 0.05, 0.03, 0.02, 0.01)  # and in each stage after it
KEPT = 0.5  # of the samples, as exp(entropy) counts them, in each stage: this settles its beta


class Samples(NamedTuple):
    """Configurations and their rewards.

    Args:
        points: (n) configurations.
        names: Something hashable for each, equal for equal ones.
        heights: (n,) log R.
        beta: The exponent they were drawn at.
    """

    points: Points
    names: list[bytes]
    heights: np.ndarray
    beta: float

    def take(self, rows: list[int]) -> Samples:
        """Some of them."""
        return Samples(self.points.take(rows), [self.names[row] for row in rows], self.heights[rows], self.beta)


def temper(
    tree: Tree, leaves: Leaves, drawn: np.ndarray, log_reward: LogReward, beta: float, rng: np.random.Generator
) -> tuple[Samples, Samples] | None:
    """As many samples as there are leaves at the first beta, and as many at the last; some may be equal.

    Args:
        tree: Of the space.
        leaves: Samples of something near R^beta, such as R^beta itself over bins.
        drawn: (n,) the logarithm of the density at which each was drawn, up to a constant.
        log_reward: log R of leaves.
        beta: The first exponent.
        rng: Source of all randomness.

    Returns:
        None where no leaf has a reward above zero.
    """
    walk = _Walk(tree, log_reward, leaves.codes, leaves.actions, log_reward(leaves))
    if not np.isfinite(walk.heights).any():
        return None
    walk = walk.chosen(beta * walk.heights - drawn, rng)
    for scale in WALK:
        walk = walk.moved(beta, scale, rng)
    first = walk.samples(beta)
    for scale in STAGES:
        more = sharpness(walk.heights, KEPT * len(leaves))
        beta += more
        walk = walk.chosen(more * walk.heights, rng).moved(beta, scale, rng)
    return first, walk.samples(beta)


def distinct(one: Samples, two: Samples) -> Samples:
    """The samples of both, each configuration once."""
    names, heights = one.names + two.names, np.concatenate([one.heights, two.heights])
    rows = {name: len(names) - 1 - row for row, name in enumerate(reversed(names))}
    return Samples(join(one.points, two.points), names, heights, two.beta).take(sorted(rows.values()))


class _Walk(NamedTuple):
    """Walkers. A code between the values of an Int or an ordered Choice counts as the nearest value.

    Args:
        tree: Of the space.
        log_reward: log R of leaves.
        codes: (n, columns).
        actions: (n, columns), which tell what is active.
        heights: (n,) log R.
    """

    tree: Tree
    log_reward: LogReward
    codes: np.ndarray
    actions: np.ndarray
    heights: np.ndarray

    def chosen(self, log_weights: np.ndarray, rng: np.random.Generator) -> _Walk:
        """As many, drawn in proportion to their weights."""
        weights = np.exp(log_weights - log_weights.max())
        rows = rng.choice(len(weights), len(weights), p=weights / weights.sum())
        return self._replace(codes=self.codes[rows], actions=self.actions[rows], heights=self.heights[rows])

    def moved(self, beta: float, scale: float, rng: np.random.Generator) -> _Walk:
        """After one step that keeps R^beta; about half of the columns are moved."""
        space = self.tree.space
        asked = {other for conditions in space.conditions.values() for other in conditions}
        free = np.array([column.kind != "categorical" and column.name not in asked for column in space.columns])
        moves = free & (self.actions >= 0) & (rng.random(self.codes.shape) < 0.5)
        codes = np.abs(self.codes + scale * rng.normal(size=moves.shape) * moves)
        codes = np.clip(1.0 - np.abs(1.0 - codes), 0.0, 1.0)  # reflected at both ends, as likely forth as back
        lots = np.log(rng.random(len(codes)))
        if not moves.any():
            return self
        heights = self.log_reward(Leaves(self._snapped(codes), self.actions))
        accepted = lots < beta * (heights - self.heights)
        codes, heights = np.where(accepted[:, None], codes, self.codes), np.where(accepted, heights, self.heights)
        return self._replace(codes=codes, heights=heights)

    def samples(self, beta: float) -> Samples:
        """The configurations at which the walkers are."""
        codes = self._snapped(self.codes)
        return Samples(Points(codes, self.actions >= 0), keys(codes), self.heights, beta)

    def _snapped(self, codes: np.ndarray) -> np.ndarray:
        return np.where(self.actions >= 0, encoding_of(self.tree.space).snap(codes), 0.5)
