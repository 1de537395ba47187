"""The distinct states on the way to many leaves: a network is asked about each of them once.

Leaves that begin alike share their first states. All 4,096 leaves of a tree of three levels with 16 actions have
12,288 states on their ways, and 273 distinct ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from luthier.propose.flow.tree import Tree


@dataclass(frozen=True, eq=False)
class Level:
    """The distinct states at which one level is decided or skipped.

    Args:
        parent: (states,) the state of the level before that each grew from.
        action: (states,) the action of the level before, -1 where it was skipped. At the root both are (1,) zeros.
        deciding: (choosing,) the states at which this level is active.
        prior: (choosing, actions) log number of leaves below each action.
        edge: (leaves,) the place of each leaf's action in the flattened (choosing, actions) table; 0 where skipped.
        state: (leaves,) the row of each leaf in that table; 0 where skipped.
    """

    parent: Tensor
    action: Tensor
    deciding: Tensor
    prior: Tensor
    edge: Tensor
    state: Tensor


@dataclass(frozen=True, eq=False)
class Paths:
    """The ways from the root to leaves.

    Args:
        levels: One entry a level.
        order: (leaves, levels) where the levels that are active stand, these first; None where all are.
        active: (leaves, longest) bool: whether a way has that many steps.
    """

    levels: list[Level]
    order: Tensor | None
    active: Tensor


def paths(tree: Tree, actions: np.ndarray) -> Paths:
    """The ways to leaves, (leaves, levels) actions; the distinct states of a level are in no particular order."""
    levels = []
    place = np.zeros(len(actions), dtype=np.int64)  # each leaf's state
    parent, action, walk = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), tree.start(1)
    for level, width in enumerate(tree.widths):
        on = tree.active(level, walk)
        deciding = np.flatnonzero(on)
        row = (np.cumsum(on) - 1)[place]  # each leaf's row among the deciding states
        chosen = actions[:, level].astype(np.int64)
        here = on[place]
        levels.append(
            Level(
                torch.from_numpy(parent),
                torch.from_numpy(action),
                torch.from_numpy(deciding),
                torch.from_numpy(tree.log_below(level, walk[deciding]).astype(np.float32)),
                torch.from_numpy(np.where(here, row * width + chosen, 0)),
                torch.from_numpy(np.where(here, row, 0)),
            )
        )
        keys, place = np.unique(place * (width + 1) + chosen + 1, return_inverse=True)
        parent, action = keys // (width + 1), keys % (width + 1) - 1
        walk = tree.step(level, walk[parent], action)
    mask = actions >= 0
    if mask.all():
        return Paths(levels, None, torch.from_numpy(mask))
    lengths = mask.sum(axis=1)
    active = np.arange(lengths.max(initial=0)) < lengths[:, None]
    order = np.argsort(~mask, axis=1, kind="stable")[:, : active.shape[1]]
    return Paths(levels, torch.from_numpy(order), torch.from_numpy(active))
