"""Children that the controller of an ended search draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.adapt.children import part_of, put_back
from luthier.adapt.controller import SITE, decided, policy_of, row, sample
from luthier.space import Config
from luthier.stack import Noise
from luthier.task.program import Batch, Program, State


@dataclass(frozen=True)
class Draw:
    """One child that the controller of an ended search draws, judged as its reward was.

    Where children did not train, it has the shared weights as they are: the minibatches of the job only give its
    normalisation the statistics of this child alone, where it has any. Otherwise it trains its part of them for these
    minibatches under its own optimizer, so that what it has decided about that is judged too.

    Args:
        policy: The controller of the search: ``"lstm"`` or ``"factorised"``.
        decide: The names that it decides; None is all that can be.
        trains: True if children of the search trained.
    """

    policy: str
    decide: Sequence[str] | None
    trains: bool

    window: ClassVar[int] = 1
    needs_valid: ClassVar[bool] = False
    traceable: ClassVar[bool] = False
    shares_weights: ClassVar[bool] = True

    def init(
        self, task: Program, config: Config, key: int, parent: State | None = None, overwrite: Config | None = None
    ) -> State:
        """The shared weights with the decisions of a child, drawn by the job's own key."""
        assert parent is not None, "a child is drawn from a search"
        state = {**parent, "key": torch.tensor([key], device=task.device)}
        policy = policy_of(self.policy, self.decide, task)
        params = {name: tensor[0] for name, tensor in state["own"]["enas"]["params"].items()}
        noise = Noise(state["key"], torch.zeros_like(state["t"]), SITE)
        (child,) = policy.configs(sample(policy, params, noise, 1))
        return {**state, "hyper": {**state["hyper"], **task.hyper(child)}}

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """Training, or statistics of normalisation alone; the metric is the training loss, (members,)."""
        results = []
        for i in range(len(state["t"])):
            member = pytree.tree_map(lambda tensor, i=i: tensor[i : i + 1], state)
            results.append(self._one(task, member, row(task, batches[0], i)))
        state, losses = pytree.tree_map(lambda *tensors: torch.cat(tensors), *results)
        return state, {"train_loss": losses}

    def _one(self, task: Program, state: State, batch: Batch) -> tuple[State, Tensor]:
        policy = policy_of(self.policy, self.decide, task)
        active = policy.space.active({n: task.values(n, state["hyper"][n])[0] for n in policy.space})
        hyper = {name: value for name, value in state["hyper"].items() if name not in policy.space or name in active}
        part = part_of(task, state, hyper)
        if self.trains:
            losses, gradients, buffers = task.gradient(part, hyper, batch)
            return put_back(state, task.apply(part, hyper, gradients, buffers)), losses
        with torch.no_grad():
            noise = Noise(part["key"], part["t"])
            losses, buffers = task.losses(part["params"], part["buffers"], hyper, batch, noise)
        return put_back(state, {**part, "buffers": buffers, "t": part["t"] + 1}), losses

    def hyperparameters(self, state: State) -> dict[str, Any]:
        """Return the hyperparameters that were drawn, (members,) each."""
        return decided(state)
