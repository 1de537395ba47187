"""Trees small enough to enumerate, with rewards of several modes, for the tests of the flow samplers."""

from __future__ import annotations

import numpy as np

from luthier.propose.flow import Exact, Leaves, LogReward, Tree
from luthier.propose.flow.exact import _step
from luthier.space import Choice, Float, Int, Space

TREES = {
    "eight modes": Tree(Space({name: Float(0.0, 1.0) for name in "abc"}), bins=16),
    "plain": Tree(Space({name: Float(0.0, 1.0) for name in "abcd"}), bins=6),
    "mixed": Tree(
        Space(
            lr=Float(1e-4, 1.0, log=True),
            units=Int(1, 1000, log=True),
            optimizer=Choice(["sgd", "adam", "lion"]),
            dropout=Choice([0.0, 0.1, 0.2, 0.5], ordered=True),
            layers=Int(1, 5),
        ),
        bins=6,
    ),
    "conditional": Tree(
        Space(
            lr=Float(1e-4, 1.0, log=True),
            optimizer=Choice(["sgd", "adam", "lion"]),
            momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
            betas=Float(0.8, 0.99, shape=(2,), when={"optimizer": ["adam", "lion"]}),
            layers=Int(1, 4),
            width=Int(1, 500, log=True, when={"layers": [3, 4]}),
        ),
        bins=5,
    ),
}


def modes(tree: Tree, seed: int, count: int = 8, width: float = 0.1) -> LogReward:
    """log of 0.001 plus Gaussian bumps of different heights around random leaves."""
    rng = np.random.default_rng(seed)
    centres = tree.all.codes[rng.integers(tree.size, size=count)]
    heights = rng.uniform(0.3, 0.8, count)

    def log_reward(leaves: Leaves) -> np.ndarray:
        squares = ((leaves.codes[:, None] - centres) ** 2).sum(axis=2)
        return np.log(1e-3 + np.exp(-squares / (2 * width**2)) @ heights)

    return log_reward


def conditionals(sampler: Exact) -> list[np.ndarray]:
    """log P_F of the step into each state, a list by level of (states after that level,)."""
    return [_step(below, above, parent) for below, above, parent in sampler._edges()]
