"""The plain adapter: trains, and moves no hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from luthier.optim.common import total
from luthier.space import Config
from luthier.task.program import Batch, Program, State


@dataclass(frozen=True)
class Plain:
    """Training as it always was: one minibatch, one gradient, one step of the optimizer."""

    window: ClassVar[int] = 1
    needs_valid: ClassVar[bool] = False

    def init(
        self, task: Program, config: Config, key: int, parent: State | None = None, overwrite: Config | None = None
    ) -> State:
        """A fresh training, or the continuation of ``parent``."""
        return task.init(config, key, parent, overwrite)

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """One step; the metric is the training loss, (members,)."""
        (batch,) = batches
        losses, gradients, buffers = task.gradient(state, state["hyper"], batch)
        return task.apply(state, state["hyper"], gradients, buffers), {"train_loss": losses}

    def hyperparameters(self, state: State) -> dict[str, Any]:
        """Nothing moves."""
        return {}


def trained(task: Program, state: State, batches: Sequence[Batch]) -> tuple[State, dict[str, Tensor]]:
    """The state after plain steps on the minibatches of a window, where an adapter has nothing to move."""
    losses = []
    for batch in batches:
        state, found = Plain().step(task, state, [batch], None)
        losses.append(found["train_loss"])
    return state, {"train_loss": total(losses) / len(losses)}
