"""A task's training as the plain loss functions and the functional optimizer that ``luthier.response`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from luthier.optim import SGD, Adam
from luthier.optim.common import Scale, Tensors, read, total
from luthier.optim.stock import TorchOptimizer
from luthier.stack import Noise
from luthier.task.program import Program, State


class InnerTraining:
    """Training and validation loss of a stack as functions of weights and of the hyperparameters that are moved.

    Args:
        task: The step that is trained.
        state: Source of everything but the weights and the hyperparameters that are differentiated.
        objective: Name of the validation loss.
        decay: Add the penalty whose gradient the optimizer adds, so that its minimum is that of the loss.

    Attributes:
        buffers: The model's buffers before the step of each number, counted from the state.
        losses: The training loss of each step, (members,).
    """

    def __init__(self, task: Program, state: State, objective: str, decay: bool = True) -> None:
        self._task, self._state, self._objective = task, state, objective
        self._decay = decay
        self.buffers: dict[int, Tensors] = {0: state["buffers"]}
        self.losses: dict[int, Tensor] = {}

    def train_loss(self, params: Tensors, moved: Tensors, numbered: Any) -> Tensor:
        """Losses with penalty, augmentation and the noise of that step, (members,)."""
        number, batch = numbered
        state, hyper = self._state, {**self._state["hyper"], **moved}
        noise = Noise(state["key"], state["t"] + number, differentiable=True)
        before = self.buffers[max(number, 0)]
        losses, buffers = self._task.losses(params, before, hyper, batch, noise)
        if number >= 0:  # not one of the steps that led to the state
            self.buffers[number + 1] = {name: buffer.detach() for name, buffer in buffers.items()}
            self.losses[number] = losses.detach()
        decay = coupled_decay(self._task.optimizer, params, hyper) if self._decay else None
        return losses if decay is None else losses + half_square(params, decay)

    def valid_loss(self, params: Tensors, moved: Tensors, batch: Any) -> Tensor:
        """The objective in evaluation mode, (members,), with the buffers after the last training step."""
        buffers = self.buffers[max(self.buffers)]
        return self._task.objective(params, buffers, {**self._state["hyper"], **moved}, batch, self._objective)


@dataclass(frozen=True)
class Update:
    """The task's own optimizer and schedule as a `luthier.response.FunctionalOptimizer`."""

    task: Program
    state: State

    def init(self, params: Tensors) -> dict[str, Any]:
        """The optimizer's slots and count of steps, as they are."""
        return {"opt": self.state["opt"], "t": self.state["t"]}

    def update(
        self, params: Tensors, grads: Tensors, state: dict[str, Any], hyper: Tensors
    ) -> tuple[Tensors, dict[str, Any]]:
        """One step at the present hyperparameters, those in ``hyper`` in their place."""
        before = {**self.state, **state, "params": params}
        after = self.task.apply(before, {**self.state["hyper"], **hyper}, grads, self.state["buffers"])
        return after["params"], {"opt": after["opt"], "t": after["t"]}


def coupled_decay(optimizer: Any, params: Tensors, hyper: Mapping[str, Tensor]) -> dict[str, Scale] | None:
    """The factor of the penalty ½‖w‖² whose gradient the optimizer adds to that of the loss, by parameter.

    None where it adds none, or none that is known: then its weight decay is no part of the objective.
    """
    if isinstance(optimizer, TorchOptimizer):
        return optimizer.decay(list(params), hyper)
    if not isinstance(optimizer, SGD | Adam) or getattr(optimizer, "decoupled", False):
        return None
    if "weight_decay" not in hyper and optimizer.weight_decay == 0:
        return None
    return dict.fromkeys(params, read("weight_decay", optimizer.weight_decay, hyper))


def half_square(params: Tensors, decay: Mapping[str, Scale]) -> Tensor:
    """½ Σ decay ‖w‖² of each member, (members,), in one order of summation."""
    first = next(iter(decay.values()))
    if len(decay) == len(params) and all(each is first for each in decay.values()):
        return first * (0.5 * total([_square(param) for param in params.values()]))
    return total([factor * (0.5 * _square(params[name])) for name, factor in decay.items()])


def _square(param: Tensor) -> Tensor:
    return param.reshape(len(param), -1).square().sum(1)
