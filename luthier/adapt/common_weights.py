"""The shared weights of a search, trained under an optimizer that is safe for all children."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch.utils import _pytree as pytree

from luthier.adapt.children import ChildTraining, Verdict, part_of, put_back
from luthier.optim import SGD, Adam
from luthier.optim.switch import alone
from luthier.task.program import Program, State

SLOTS = "shared"  # of that optimizer, in what a state has of its own


class CommonWeights(NamedTuple):
    """The training of the shared weights, whatever optimizers the children decide for.

    Args:
        task: The task with the optimizer of the shared weights in place of the children's.
        theirs: Names that the children's optimizers read, and this one does not.
    """

    task: Program
    theirs: frozenset[str]

    @classmethod
    def of(cls, task: Program, optimizer: SGD | Adam) -> CommonWeights:
        """The same task, but for the optimizer; schedules, clipping and averages of the task hold for it too."""
        mine, updater = copy.copy(task), copy.copy(task.updater)
        mine.updater, mine.optimizer, updater.optimizer = updater, alone(optimizer), alone(optimizer)
        return cls(mine, frozenset(task.optimizer.reads))

    def begun(self, state: State) -> State:
        """A state with slots for this optimizer."""
        if SLOTS in state["own"]:
            return state
        slots = self.task.optimizer.init(state["params"], {})
        return {**state, "own": {**state["own"], SLOTS: slots}}

    def train(self, state: State, problem: ChildTraining, verdict: Verdict) -> tuple[ChildTraining, State, Verdict]:
        """Train the child's part of the shared weights on the minibatches on which the child was judged.

        Returns:
            The child before these steps, its part after them, and the verdict with the losses on the way.
        """
        hyper = problem.state["hyper"]
        part = part_of(self.task, {**state, "opt": state["own"][SLOTS]}, hyper)
        problem = problem._replace(task=self.task, state=part)
        read = {name: value for name, value in hyper.items() if name not in self.theirs}
        losses = []
        for batch in problem.batches:
            loss, gradients, buffers = self.task.gradient(part, hyper, batch)
            part = self.task.apply(part, read, gradients, buffers)
            losses.append(loss[0])
        part = pytree.tree_map(lambda tensor: tensor.detach(), part)
        return problem, part, verdict._replace(losses=torch.stack(losses).detach())

    def put_back(self, state: State, part: State) -> State:
        """The shared state after its part has trained."""
        after = put_back({**state, "opt": state["own"][SLOTS]}, part)
        return {**after, "opt": state["opt"], "own": {**state["own"], SLOTS: after["opt"]}}
