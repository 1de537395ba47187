"""Optimizers that autograd can go through: those of `luthier.optim`, and any of torch.optim by `Stock`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.optim import SGD, Adam
from luthier.response.problem import Losses
from luthier.response.result import Tree


@runtime_checkable
class FunctionalOptimizer(Protocol):
    """An optimizer without hidden state. The state is any nest of dicts, lists and tensors."""

    def init(self, params: Tree) -> Any:
        """The state before the first step."""
        ...

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """New weights and new state; must not change its arguments."""
        ...


@dataclass(frozen=True)
class Ours:
    """Adapter for an optimizer of `luthier.optim`; a single training runs as a stack of one.

    Args:
        rule: The optimizer.
        losses: Say how many members there are.
    """

    rule: SGD | Adam
    losses: Losses

    def init(self, params: Tree) -> Any:
        """No state; the optimizer's slots depend on the hyperparameters, and are made in the first step."""
        return {}

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """One step; gradients go through the hyperparameters that the optimizer reads by their names."""
        members = self.losses.members
        read = {name: hyper[name] for name in self.rule.reads if name in hyper}
        for name, value in read.items():
            if value.shape != (() if members is None else (members,)):
                what = f"it must be one number{'' if members is None else ' a member'}, got shape {tuple(value.shape)}"
                raise MethodError(what, where=name, remedy="The optimizer reads it for all weights alike.")
        read = {name: value.reshape(-1) for name, value in read.items()}
        # Of a lone training, numbers of shape (1,) fit tensors without a members axis, unless norms are taken or a
        # weight is a single number; then it gets the axis, which costs two views a weight and step.
        clips = self.rule.clip_norm is not None or "clip_norm" in read
        lone = members is None and (clips or not all(w.ndim for w in params.values()))
        if lone:
            params, grads = ({name: x.unsqueeze(0) for name, x in tree.items()} for tree in (params, grads))
        device = next(iter(params.values())).device
        count = state.get("count", torch.zeros(members or 1, dtype=torch.int64, device=device))
        slots = state.get("slots") or self.rule.init(params, read)
        new, slots = self.rule.update(params, grads, slots, read, count)
        if lone:
            new = {name: x.squeeze(0) for name, x in new.items()}
        return new, {"slots": slots, "count": count + 1}


@dataclass(frozen=True)
class Stock:
    """Any optimizer of torch.optim that has ``differentiable``, as a functional one.

    Which of their settings may be hyperparameters is torch's matter: all of SGD; lr of Adam, AdamW, NAdam and RAdam;
    AdamW's weight decay; none of RMSprop, Adagrad, Adadelta and Adamax (refused). They count steps in float32, so that
    weights differ by 1e-6 from the ordinary optimizer's, and those of Adam's kind give NaN where a gradient is exactly
    zero (raised): those of `luthier.optim` have neither fault.

    Args:
        factory: (params, hyper) -> optimizer over ``params.values()``, its settings floats or hyperparameters:
            ``lambda params, hyper: torch.optim.SGD(params.values(), lr=hyper["lr"], momentum=0.9)``. It is called at
            every step; parameter groups by name are possible.
    """

    factory: Callable[[Tree, Tree], torch.optim.Optimizer]

    def init(self, params: Tree) -> Any:
        """No state; the optimizer makes its own in the first step."""
        return {}

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """One step on copies of weights and state, so that nothing that autograd saved is overwritten."""
        placeholders = {name: w.detach().requires_grad_() for name, w in params.items()}
        optimizer = self.factory(placeholders, hyper)
        _make_differentiable(optimizer)
        copies = {name: w.clone() for name, w in params.items()}
        by_id = {id(placeholders[name]): copies[name] for name in params}
        for group in optimizer.param_groups:
            group["params"] = [by_id[id(p)] for p in group["params"]]
        for name, w in copies.items():
            w.grad = grads[name].clone()
            if name in state:
                optimizer.state[w] = {key: _copy(key, x) for key, x in state[name].items()}
        _fill_momentum(optimizer)
        try:
            optimizer.step()
        except TypeError as error:
            raise MethodError(
                f"{type(optimizer).__name__} cannot take a tensor for one of its settings ({error})",
                where="optimizer",
                remedy="Give it a number there, or differentiate by that setting through luthier.optim.SGD or Adam.",
            ) from error
        after = {name: dict(optimizer.state[w]) for name, w in copies.items() if w in optimizer.state}
        for w in copies.values():
            w.grad = None
        return copies, after


def functional_optimizer(optimizer: Any, losses: Losses) -> FunctionalOptimizer:
    """Return ours or a functional optimizer as one; a function (params, hyper) -> torch.optim optimizer in `Stock`."""
    if isinstance(optimizer, SGD | Adam):
        if optimizer.lr is None and "lr" not in losses.hyper_names:
            what = f"the optimizer reads it, but the hyperparameters are {sorted(losses.hyper_names)}"
            raise MethodError(what, where="lr", remedy="Add it to `hyper`, or give the optimizer a number.")
        return Ours(optimizer, losses)
    if isinstance(optimizer, FunctionalOptimizer) and not isinstance(optimizer, type):
        return optimizer
    if callable(optimizer) and not isinstance(optimizer, type | torch.optim.Optimizer):
        factory: Callable[..., Any] = optimizer
        return Stock(factory)
    raise MethodError(
        f"is {optimizer!r}",
        where="optimizer",
        remedy="Give luthier.optim.SGD or Adam with its settings, or a function of (params, hyper) that builds a "
        'torch.optim optimizer: lambda params, hyper: torch.optim.SGD(params.values(), lr=hyper["lr"]).',
    )


def _make_differentiable(optimizer: torch.optim.Optimizer) -> None:
    if "differentiable" not in optimizer.defaults:
        raise MethodError(
            f"{type(optimizer).__name__} cannot be differentiated: it has no `differentiable` setting",
            where="optimizer",
            remedy="Use an optimizer of torch.optim that has one, or of luthier.optim.",
        )
    for settings in (optimizer.defaults, *optimizer.param_groups):
        settings["differentiable"] = True
        settings["foreach"] = False
        if "fused" in settings:
            settings["fused"] = False


def _fill_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start SGD's momentum at zero: torch.optim starts it at the first gradient, cut off from the graph."""
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        if isinstance(group["momentum"], Tensor) or group["momentum"] != 0:
            if group["dampening"] != 0:
                remedy = "Use torch.optim.SGD without dampening."
                raise MethodError("dampening cannot be differentiated", where="optimizer", remedy=remedy)
            for w in group["params"]:
                optimizer.state[w].setdefault("momentum_buffer", torch.zeros_like(w, requires_grad=False))


def _copy(key: str, x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.detach().clone() if key == "step" else x.clone()  # the count of steps is a float tensor, yet no number
