"""Candidates for the next configuration: near good ones, one step from them, and anywhere."""

from __future__ import annotations

import numpy as np

from luthier.space.encoder import Encoding, Points, join

FEW = 20  # integers with at most so many values are moved by whole steps and listed as neighbours
MOST_NEIGHBOURS = 50  # of one column
CLIPPED = 0.5  # of the numbers moved out of range; the others are reflected


def perturb(
    encoding: Encoding, parents: Points, count: int, scale: float, rng: np.random.Generator, spread: float = 0.0
) -> Points:
    """``count`` configurations near each parent.

    Each active column of a child is mutated with a probability drawn for the child from {1/P, 2/P, 0.4, 1} for P
    columns, and at least one is. Numbers move by Gaussian noise, ordered options and short integers by at least one
    step, other options to any other one. Names that become active are drawn uniformly.

    Args:
        parents: (points).
        count: Children of each.
        scale: Standard deviation of the noise, as a fraction of the range.
        rng: Source of the noise.
        spread: Standard deviation of the logarithm of a factor of ``scale``, drawn for each child.
    """
    codes, mask = np.repeat(parents.codes, count, axis=0), np.repeat(parents.mask, count, axis=0)
    shape = codes.shape
    chance = np.array([1.0 / shape[1], 2.0 / shape[1], 0.4, 1.0])[rng.integers(4, size=shape[0])]
    lots = np.where(mask & _movable(encoding), rng.random(shape), 2.0)
    moved = (lots < chance[:, None]) | (lots == lots.min(axis=1, keepdims=True))
    noise = rng.normal(size=shape) * (scale * np.exp(spread * rng.normal(size=(shape[0], 1))))
    target = codes + noise
    inside = np.clip(target, 0.0, 1.0)
    reflected = np.clip(np.where(target < 0.0, -target, np.where(target > 1.0, 2.0 - target, target)), 0.0, 1.0)
    target = np.where(rng.random(shape) < CLIPPED, inside, reflected)
    lots = rng.random(shape)
    for i, (kind, levels) in enumerate(zip(encoding.kinds, encoding.levels, strict=True)):
        if levels is None or levels.count == 1:
            continue
        old = levels.at(codes[:, i])
        if kind == "categorical":
            new = np.floor(lots[:, i] * (levels.count - 1)).astype(np.int64)
            new += new >= old
        elif kind == "ordinal" or levels.count <= FEW:
            steps = np.maximum(1, np.rint(np.abs(noise[:, i]) * levels.count)).astype(np.int64)
            new = np.clip(old + np.where(noise[:, i] < 0, -steps, steps), 0, levels.count - 1)
        else:
            new = levels.at(target[:, i])
        target[:, i] = levels.code(new)
    return encoding.complete(np.where(moved, target, codes), mask, rng.random(shape))


def neighbours(encoding: Encoding, points: Points, rng: np.random.Generator) -> Points:
    """All configurations that differ from one of the points in one option or in one integer of few values.

    Of a column with very many options, some, drawn at random.
    """
    codes, masks = [points.codes[:0]], [points.mask[:0]]
    for i, (kind, levels) in enumerate(zip(encoding.kinds, encoding.levels, strict=True)):
        if levels is None or (kind == "int" and levels.count > FEW):
            continue
        options = np.arange(levels.count)
        if levels.count > MOST_NEIGHBOURS:
            options = rng.choice(levels.count, MOST_NEIGHBOURS, replace=False)
        rows = np.flatnonzero(points.mask[:, i])
        near = np.repeat(points.codes[rows], len(options), axis=0)
        near[:, i] = levels.code(np.tile(options, len(rows)))
        changed = near[:, i] != np.repeat(points.codes[rows, i], len(options))
        codes.append(near[changed])
        masks.append(np.repeat(points.mask[rows], len(options), axis=0)[changed])
    near = np.concatenate(codes)
    return encoding.complete(near, np.concatenate(masks), rng.random(near.shape))


def around(encoding: Encoding, best: Points, uniform: int, near: int, rng: np.random.Generator) -> Points:
    """The first look: ``uniform`` configurations from anywhere, ``near`` near the best, neighbours of the best two.

    Args:
        best: The best configurations so far, best first.
    """
    return join(
        encoding.sample(rng, uniform),
        perturb(encoding, best, max(1, near // len(best.codes)), 0.1, rng),
        neighbours(encoding, best.take(slice(0, 2)), rng),
    )


def _movable(encoding: Encoding) -> np.ndarray:
    return np.array([levels is None or levels.count > 1 for levels in encoding.levels])
