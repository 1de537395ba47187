"""Hypergradient descent on the learning rate of every member of a stack (Baydin et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from luthier.adapt.differentiable import coupled_decay
from luthier.adapt.plain import trained
from luthier.adapt.unconstrained import in_training_loss
from luthier.errors import MethodError
from luthier.optim.common import Tensors, add_scaled, clip_by_norm, norm, read, total
from luthier.optim.rate_rules import Rule, adapted, check_memory, checked_bounds, checked_hyper_lr, memory, share
from luthier.optim.stock import TorchOptimizer
from luthier.space import Config, Float
from luthier.task.program import Batch, Program, State


@dataclass(frozen=True)
class Hypergradient:
    """Moves the learning rate of each member against its hypergradient, at every training step.

    With g the gradient now and u the last update of the weights at rate α, the derivative of the training loss by that
    rate is h = g · ∂u/∂α; the rate moves against it before the weights do, by the rules of
    :class:`luthier.optim.HypergradientDescent`. The loss is that of the next minibatch, one step ahead, with the
    penalty of a coupled weight decay.
    It tunes ``lr`` alone: where the training starts decides the rest, so any proposer may choose it.

    The hypergradient is reported as the metric ``"hypergradient"``, of the last step before each measurement. A
    learning-rate schedule of the task multiplies the rate that is tuned.

    Args:
        hyper_lr: β. By default 0.05 under the multiplicative rule, where it must be below 1, and 1 under the adaptive
            one; the additive rule has no default, since its right size goes with 1/‖g‖².
        rule: ``"multiplicative"``, ``"adaptive"`` or ``"additive"``; the first two do not depend on the scale of loss
            or weights.
        bounds: Smallest and largest rate, above zero; by default those of ``lr`` in the space.

    Raises:
        MethodError: If a setting makes no sense.

    Examples:
        >>> Hypergradient(rule="adaptive")
        Hypergradient(hyper_lr=1.0, rule='adaptive', bounds=None)

    References:
        Baydin, Cornish, Martínez Rubio, Schmidt and Wood (2018), Online learning rate adaptation with hypergradient
        descent, algorithms 4 to 6 and the multiplicative rule.
    """

    hyper_lr: float | None = None
    rule: Rule = "multiplicative"
    bounds: tuple[float, float] | None = None

    window: ClassVar[int] = 1
    needs_valid: ClassVar[bool] = False
    must_move: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "hyper_lr", checked_hyper_lr(self.hyper_lr, self.rule, "Hypergradient"))
        if self.bounds is not None:
            object.__setattr__(self, "bounds", checked_bounds(self.bounds, "Hypergradient"))

    def init(
        self, task: Program, config: Config, key: int, parent: State | None = None, overwrite: Config | None = None
    ) -> State:
        """A fresh training, or the continuation of ``parent``, which any adapter may have trained.

        Raises:
            MethodError: If the task's learning rate cannot be moved, or another adaptive rule has begun the training.
        """
        self._limits(task, task.task.dtype)
        state = task.init(config, key, parent, overwrite)
        if "lr" not in state["hyper"]:
            return state
        movable_rate(task, state=state)
        if "direction" not in state["own"]:
            zeros = {name: torch.zeros_like(param) for name, param in state["params"].items()}
            state = {**state, "own": {**state["own"], "direction": zeros}}
        if self.rule == "adaptive":
            known = state["own"].get("rate_memory", memory(state["hyper"]["lr"]))
            check_memory(known, "Hypergradient")
            state = {**state, "own": {**state["own"], "rate_memory": known}}
        return state

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """One step; the metrics are the training loss and the hypergradient, each (members,)."""
        if "lr" not in state["hyper"]:
            return trained(task, state, batches)
        (batch,) = batches
        losses, gradients, buffers = task.gradient(state, state["hyper"], batch)
        objective = objective_gradient(task.optimizer, state["params"], gradients, state["hyper"])
        h, lr, own = self._moved(task, state, objective)
        hyper = {**state["hyper"], "lr": lr}

        # A step is proportional to its rate. Done at a rate of one it gives the direction, with the digits that a small
        # rate's step loses when it is added to the weights; then the weights take the step of their own rate.
        after = task.apply(state, {**hyper, "lr": torch.ones_like(lr)}, gradients, buffers)
        direction = {name: param - after["params"][name] for name, param in state["params"].items()}
        params = {name: add_scaled(param, direction[name], lr, -1.0) for name, param in state["params"].items()}
        if self.rule == "adaptive":
            part = share(state["hyper"]["lr"], lr)
            direction = {name: add_scaled(way, own["direction"][name], part) for name, way in direction.items()}
        own = {**own, "direction": direction}
        after = task.updater.averaged(state, {**after, "params": params, "hyper": hyper, "own": own})
        return after, {"train_loss": losses, "hypergradient": h}

    def hyperparameters(self, state: State) -> dict[str, Any]:
        """The learning rates, (members,); none where a condition of the space leaves ``lr`` out."""
        return {"lr": state["hyper"]["lr"]} if "lr" in state["hyper"] else {}

    def _moved(self, task: Program, state: State, gradients: Tensors) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(h, the next learning rates), each (members,), and what the state has of its own, the memory moved on."""
        beta, lr, own = self.hyper_lr, state["hyper"]["lr"], state["own"]
        assert beta is not None, "__post_init__ has put the default there"
        descent = dot(gradients, own["direction"])  # -h
        sizes = norm(gradients), norm(own["direction"])
        scale = sizes[0] * sizes[1]
        if self.rule == "adaptive":
            new, known = adapted(lr, -descent, sizes, own["rate_memory"], beta)
            own = {**own, "rate_memory": known}
        elif self.rule == "additive":
            new = lr + beta * descent
        else:
            nonzero = scale > 0
            new = lr * (1 + beta * torch.where(nonzero, descent / torch.where(nonzero, scale, 1.0), 0.0))
        low, high = self._limits(task, lr.dtype)
        return -descent, torch.where(new.isfinite(), new, lr).clamp(low, high), own

    def _limits(self, task: Program, dtype: torch.dtype) -> tuple[float, float]:
        """The bounds of the learning rate, moved inward by what rounding to ``dtype`` might move them outward.

        Raises:
            MethodError: If the task has no learning rate that can be moved within them.
        """
        domain = movable_rate(task)
        low, high = self.bounds or (domain.low, domain.high)
        if not domain.low <= low < high <= domain.high:
            raise MethodError(
                f"bounds={self.bounds} reach beyond lr={domain!r} of the space",
                where="Hypergradient",
                remedy="Bounds lie within the domain; widen the domain, or leave them out.",
            )
        margin = torch.finfo(dtype).eps
        return low * (1 + margin), high * (1 - margin)


def movable_rate(task: Program, where: str = "Hypergradient", state: State | None = None) -> Float:
    """The domain of ``lr``, where steps in proportion to it let ``where``, a method, move it.

    Args:
        task: The step that is trained.
        where: The method, for errors.
        state: A stack of it, on which to see that lr acts through the steps alone.

    Raises:
        MethodError: If it cannot.
    """
    domain = task.task.space.domains.get("lr")
    if domain is None:
        fault, remedy = "there is no lr in the space", "Put lr=lt.Float(1e-5, 1.0, log=True) into the space."
    elif not isinstance(domain, Float) or not domain.continuous:
        fault = f"lr={domain!r} has no derivative"
        remedy = "Make it a Float without a step, or choose among its values by a proposer such as lt.propose.Random()."
    elif domain.shape or domain.low < 0:
        fault, remedy = f"lr={domain!r} is not one positive rate", "Use lr=lt.Float(1e-5, 1.0, log=True)."
    elif "lr" in dict(task.static):
        fault = "lr is read by model(config) or optimizer(config), and so fixed for a whole training"
        remedy = "Leave it to the optimizer, which reads lr by its name: optimizer=lt.optim.SGD(momentum=0.9)."
    elif task.task.scheduler is not None:
        fault = "a scheduler of torch.optim sets the learning rate"
        remedy = "Use schedule=lt.optim.Cosine(…) or StepDecay(…), which multiply the rate that is tuned."
    elif isinstance(task.optimizer, TorchOptimizer) and not task.optimizer.proportional:
        fault = f"a step of {task.optimizer.title} is not proportional to lr, so its derivative cannot be seen in it"
        remedy = "Use lt.optim.SGD or Adam, or torch.optim's SGD, Adam, AdamW or RMSprop, with lr from the space."
    elif state is not None and "lr" in in_training_loss(task, state):
        fault = "lr enters the training loss, so that it acts on the weights otherwise than by the length of a step"
        remedy = "Let loss, penalty and augment read a hyperparameter of another name."
    else:
        return domain
    raise MethodError(fault, where=where, remedy=remedy)


def objective_gradient(optimizer: Any, params: Tensors, gradients: Tensors, hyper: Mapping[str, Tensor]) -> Tensors:
    """The gradient of what a stacked optimizer descends: clipped, and with the penalty of a coupled weight decay."""
    if "clip_norm" in hyper or optimizer.clip_norm is not None:
        gradients = clip_by_norm(gradients, read("clip_norm", optimizer.clip_norm, hyper))
    decay = coupled_decay(optimizer, {name: params[name] for name in gradients}, hyper) or {}
    return {n: add_scaled(g, params[n], decay[n]) if n in decay else g for n, g in gradients.items()}


def dot(left: Tensors, right: Tensors) -> Tensor:
    """The inner product of each member, (members,)."""
    return total([(x * right[name]).reshape(len(x), -1).sum(1) for name, x in left.items()])
