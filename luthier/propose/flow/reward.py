"""Rewards: what may be one, and each leaf's asked for once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luthier.errors import MethodError
from luthier.propose.flow.tree import Leaves

LogReward = Callable[[Leaves], np.ndarray]
"""beta log R of leaves, (n,) float64; minus infinity where the reward is zero."""

CHUNK = 65_536  # leaves asked for at once


def log_rewards(rewards: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """beta log R.

    Args:
        rewards: (n,), zero or above; higher is better.
        beta: Exponent of the target R^beta: 1 samples in proportion to the reward, 10 prefers the best.

    Raises:
        MethodError: If a reward is negative or not finite, or beta is not above zero.

    Examples:
        >>> log_rewards(np.array([1.0, 0.5]), beta=2.0).round(3).tolist()
        [0.0, -1.386]
    """
    if not 0 < beta < np.inf:
        raise MethodError(f"beta={beta!r} cannot be", where="reward", remedy="Give a number above zero.")
    rewards = np.asarray(rewards, dtype=np.float64)
    wrong = ~(np.isfinite(rewards) & (rewards >= 0))
    if wrong.any():
        raise MethodError(
            f"the reward {float(rewards[wrong][0])!r} cannot be",
            where="reward",
            remedy="A flow is zero or above: give exp(reward), or subtract the lowest reward from all.",
        )
    with np.errstate(divide="ignore"):
        return beta * np.log(rewards)


def ask(log_reward: LogReward, leaves: Leaves) -> np.ndarray:
    """The log rewards of leaves, checked.

    Raises:
        MethodError: If they are of the wrong shape, or one is NaN or plus infinity.
    """
    parts = [log_reward(leaves.take(slice(i, i + CHUNK))) for i in range(0, len(leaves), CHUNK)]
    values = np.concatenate([np.asarray(part, dtype=np.float64).reshape(-1) for part in parts] or [np.zeros(0)])
    if len(values) != len(leaves):
        what = f"{len(values)} log rewards were returned for {len(leaves)} leaves"
        raise MethodError(what, where="log_reward", remedy="Return one number a leaf.")
    wrong = np.isnan(values) | (values == np.inf)
    if wrong.any():
        raise MethodError(
            f"the log reward {float(values[wrong][0])!r} cannot be",
            where="log_reward",
            remedy="Rewards are finite and not negative: see log_rewards().",
        )
    return values


def expect_some(values: np.ndarray) -> None:
    """Refuse log rewards that are all minus infinity.

    Raises:
        MethodError: If no reward is above zero.
    """
    if not np.isfinite(values).any():
        what = f"all of {len(values)} rewards are zero"
        raise MethodError(what, where="log_reward", remedy="A flow needs a reward above zero: add a small constant.")
