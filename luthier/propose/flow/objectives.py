"""The objectives that make a policy a flow: one signature, and on a tree one optimum, P_F(s'|s) = F(s') / F(s).

A policy's logits are log edge flows, log F(s -> s'), so the flow through a state is their log-sum-exp. The graph is a
tree: each state has one parent, and the backward policy is 1 and drops out.

==================== ======================================= ===============================================
name                 matches                                 from
==================== ======================================= ===============================================
trajectory_balance   whole ways, with a learnt log Z         Malkin, Jain, Bengio, Sun and Bengio, 2022
flow_matching        in- and outflow of states, logarithms   Bengio, Jain, Korablyov, Precup and Bengio, 2021
plain_flow_matching  in- and outflow of states               LaBash and Sepulveda, eq. 2
==================== ======================================= ===============================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Flows:
    """The log flows along the ways to n leaves, of at most T steps; shorter ways are followed by anything.

    Args:
        edges: (n, T) log F(s_t -> s_t+1).
        states: (n, T) log F(s_t), the log-sum-exp of all edges out of s_t.
        active: (n, T) bool, which steps there are: the first ones.
        log_reward: (n,) beta log R of the leaf.
        log_z: () the learnt log Z, of those objectives that have one.
        weight: (n,) of each way in the mean; they sum to 1.
    """

    edges: Tensor
    states: Tensor
    active: Tensor
    log_reward: Tensor
    log_z: Tensor
    weight: Tensor

    @property
    def log_forward(self) -> Tensor:
        """(n, T) log P_F of each step; 0 beyond the end."""
        return torch.where(self.active, self.edges - self.states, 0.0)

    def reached(self) -> Tensor:
        """(n, T) log F(s_t+1) as the state itself has it: the sum of its outflow, of a leaf its reward."""
        following = torch.cat([self.states[:, 1:], self.log_reward[:, None]], dim=1)
        ends = self.active & ~torch.nn.functional.pad(self.active[:, 1:], (0, 1))
        return torch.where(ends, self.log_reward[:, None], following)


Objective = Callable[[Flows], Tensor]


def trajectory_balance(flows: Flows) -> Tensor:
    """(log Z + sum of log P_F - log R)^2, meaned over the ways."""
    return flows.weight @ (flows.log_z + flows.log_forward.sum(dim=1) - flows.log_reward) ** 2


def flow_matching(flows: Flows) -> Tensor:
    """(log inflow - log(R + outflow))^2 over the states after the root: with one parent, the inflow is one edge."""
    return _mean(flows, (flows.edges - flows.reached()) ** 2)


def plain_flow_matching(flows: Flows) -> Tensor:
    """(inflow - R - outflow)^2 over the states after the root.

    # eq. 2, which is printed as (inflow - R + outflow)^2: that is zero only where no flow passes a state.
    """
    return _mean(flows, (flows.edges.exp() - flows.reached().exp()) ** 2)


def _mean(flows: Flows, squares: Tensor) -> Tensor:
    steps = flows.active.sum(dim=1).clamp(min=1)
    return flows.weight @ (torch.where(flows.active, squares, 0.0).sum(dim=1) / steps)


OBJECTIVES: dict[str, Objective] = {
    one.__name__: one for one in (trajectory_balance, flow_matching, plain_flow_matching)
}
