"""Numbers from a policy: the log flows along ways, the probabilities of leaves, and ways drawn from it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from luthier.propose.flow.paths import Paths, paths
from luthier.propose.flow.policies import TreePolicy
from luthier.propose.flow.tree import Tree
from luthier.propose.threads import one_torch_thread

CHUNK = 65_536  # leaves whose probabilities are computed at once


def tables(policy: TreePolicy, ways: Paths, offset: float, prior: bool) -> list[Tensor]:
    """log F of all edges out of the deciding states of each level, (choosing, actions) each.

    Args:
        policy: The network.
        ways: The ways on which the states lie.
        offset: Log of the mean reward, added to all.
        prior: If true, the log number of leaves below is added too.
    """
    carries, carry = [], policy.root()
    for level, one in enumerate(ways.levels):
        if level:
            carry = policy.extend(level - 1, carry[one.parent], one.action)
        carries.append(carry if len(one.deciding) == len(carry) else carry[one.deciding])
    found = policy.logits(0, carries)
    if not prior:
        return found
    return [logits + (one.prior + offset) for logits, one in zip(found, ways.levels, strict=True)]


def along(ways: Paths, found: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The log flows of edges and states along each way, (leaves, longest) each."""
    leaves = len(ways.active)
    edges, states = [], []
    for one, table in zip(ways.levels, found, strict=True):
        if not len(table):  # no way has this step
            edges.append(table.new_zeros(leaves))
            states.append(table.new_zeros(leaves))
            continue
        edges.append(table.flatten()[one.edge])
        states.append(table.logsumexp(dim=1)[one.state])
    if not edges:
        return torch.zeros(leaves, 0), torch.zeros(leaves, 0)
    edge, state = torch.stack(edges, dim=1), torch.stack(states, dim=1)
    if ways.order is None:
        return edge, state
    return edge.gather(1, ways.order), state.gather(1, ways.order)


@one_torch_thread()
@torch.no_grad()
def log_mass(policy: TreePolicy, tree: Tree, actions: np.ndarray, temperature: float, prior: bool) -> np.ndarray:
    """Logarithm of the probability of leaves, (n,) float64."""
    parts = [np.zeros(0)]
    for i in range(0, len(actions), CHUNK):
        ways = paths(tree, actions[i : i + CHUNK])
        found = [table.double() / temperature for table in tables(policy, ways, 0.0, prior)]
        edges, states = along(ways, found)
        parts.append(torch.where(ways.active, edges - states, 0.0).sum(dim=1).numpy())
    return np.concatenate(parts)


@one_torch_thread()
@torch.no_grad()
def draw(
    policy: TreePolicy, tree: Tree, uniform: np.ndarray, temperature: float, epsilon: float, prior: bool
) -> np.ndarray:
    """The actions of ways drawn from a policy, (n, levels) int32, -1 where a level is skipped.

    Args:
        policy: The network.
        tree: The tree.
        uniform: (n, levels) numbers in [0, 1): each settles one step, by the inverse of its distribution.
        temperature: Divides the logits.
        epsilon: Probability of a uniform action.
        prior: If true, the log number of leaves below is added to the logits.
    """
    actions = np.full((len(uniform), tree.levels), -1, dtype=np.int32)
    place = np.zeros(len(uniform), dtype=np.int64)  # each way's state; ways share them
    carry, walk = policy.root(), tree.start(1)
    for level, width in enumerate(tree.widths):
        on = tree.active(level, walk)
        if on.any():
            [logits] = policy.logits(level, [carry])
            table = logits.double().numpy() + (tree.log_below(level, walk) if prior else 0.0)
            table = np.exp((table - table.max(axis=1, keepdims=True)) / temperature)
            table = (1 - epsilon) * table / table.sum(axis=1, keepdims=True) + epsilon / width
            cumulative = np.cumsum(table, axis=1)[place]
            chosen = (cumulative <= uniform[:, level, None] * cumulative[:, -1:]).sum(axis=1)
            actions[:, level] = np.where(on[place], np.minimum(chosen, width - 1), -1)
        if level == tree.levels - 1:
            break
        keys, place = np.unique(place * (width + 1) + actions[:, level] + 1, return_inverse=True)
        parent, action = keys // (width + 1), keys % (width + 1) - 1
        carry = policy.extend(level, carry[torch.from_numpy(parent)], torch.from_numpy(action))
        walk = tree.step(level, walk[parent], action)
    return actions
