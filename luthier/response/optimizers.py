"""Optimizers as pure functions that autograd can go through, and `Stock`, which makes one of any torch.optim optimizer.

Their steps equal torch.optim's. A setting is a number, or the name of a hyperparameter: ``SGD(lr="lr", momentum=0.9)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.response.result import Tree
from luthier.response.trees import expand

Setting = float | str


@runtime_checkable
class FunctionalOptimizer(Protocol):
    """A rule of training without hidden state. The state is any nest of dicts, lists and tensors."""

    def init(self, params: Tree) -> Any:
        """The state before the first step."""
        ...

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """New weights and new state; must not change its arguments."""
        ...


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum: b ← μb + g + ηw, w ← w - lr·b (nesterov: w ← w - lr·(g + ηw + μb))."""

    lr: Setting
    momentum: Setting = 0.0
    weight_decay: Setting = 0.0
    nesterov: bool = False

    def init(self, params: Tree) -> Any:
        """Momentum of zero; none where momentum is the number 0."""
        return {"momentum": _zeros(params)} if self.momentum != 0.0 else {}

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """One step."""
        new, buffers = {}, {}
        for name, w in params.items():
            d = _decayed(w, grads[name], self.weight_decay, hyper)
            if state:
                b = buffers[name] = d + _times(self.momentum, state["momentum"][name], hyper)
                d = d + _times(self.momentum, b, hyper) if self.nesterov else b
            new[name] = _less(w, self.lr, d, hyper)
        return new, {"momentum": buffers} if state else {}


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), weight decay added to the gradient; its derivative at a gradient of zero is finite."""

    lr: Setting
    beta1: Setting = 0.9
    beta2: Setting = 0.999
    eps: Setting = 1e-8
    weight_decay: Setting = 0.0

    def init(self, params: Tree) -> Any:
        """Moments of zero, and the count of steps."""
        return _moments(params)

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """One step."""
        decayed = {name: _decayed(w, grads[name], self.weight_decay, hyper) for name, w in params.items()}
        return _adam(self, params, decayed, state, hyper)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): w ← (1 - lr·η) w before Adam's step."""

    lr: Setting
    beta1: Setting = 0.9
    beta2: Setting = 0.999
    eps: Setting = 1e-8
    weight_decay: Setting = 1e-2

    def init(self, params: Tree) -> Any:
        """Moments of zero, and the count of steps."""
        return _moments(params)

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """One step."""
        shrunk = params
        if self.weight_decay != 0.0:
            shrunk = {k: w - _times(self.lr, _times(self.weight_decay, w, hyper), hyper) for k, w in params.items()}
        return _adam(self, shrunk, grads, state, hyper)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman & Hinton 2012): v ← βv + (1 - β)g², b ← μb + g/(√v + ε), w ← w - lr·b."""

    lr: Setting
    alpha: Setting = 0.99
    eps: Setting = 1e-8
    weight_decay: Setting = 0.0
    momentum: Setting = 0.0

    def init(self, params: Tree) -> Any:
        """Second moment, and momentum unless it is the number 0."""
        state = {"second": _zeros(params)}
        return state if self.momentum == 0.0 else {**state, "momentum": _zeros(params)}

    def update(self, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
        """One step."""
        new, second, buffers = {}, {}, {}
        for name, w in params.items():
            g = _decayed(w, grads[name], self.weight_decay, hyper)
            second[name] = _average(self.alpha, state["second"][name], g * g, hyper)
            d = g / (safe_sqrt(second[name]) + _value(self.eps, hyper, g))
            if "momentum" in state:
                d = buffers[name] = d + _times(self.momentum, state["momentum"][name], hyper)
            new[name] = w - _times(self.lr, d, hyper)
        return new, {"second": second, "momentum": buffers} if "momentum" in state else {"second": second}


@dataclass(frozen=True)
class Stock:
    """Any optimizer of torch.optim that has ``differentiable``, as a functional one.

    Which of their settings may be hyperparameters is torch's matter: all of SGD; lr of Adam, AdamW, NAdam and RAdam;
    AdamW's weight decay; none of RMSprop, Adagrad, Adadelta and Adamax (refused). They count steps in float32, so that
    weights differ by 1e-6 from the ordinary optimizer's, and those of Adam's kind give NaN where a gradient is exactly
    zero (raised): `Adam` and the others here have neither fault.

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
                remedy="Give it a number there, or differentiate by that setting through luthier.response.SGD, Adam, "
                "AdamW or RMSprop.",
            ) from error
        after = {name: dict(optimizer.state[w]) for name, w in copies.items() if w in optimizer.state}
        for w in copies.values():
            w.grad = None
        return copies, after


def functional_optimizer(optimizer: Any) -> FunctionalOptimizer:
    """A functional optimizer as it is; a function (params, hyper) -> torch.optim optimizer in `Stock`."""
    if isinstance(optimizer, FunctionalOptimizer) and not isinstance(optimizer, type):
        return optimizer
    if callable(optimizer) and not isinstance(optimizer, type | torch.optim.Optimizer):
        factory: Callable[..., Any] = optimizer
        return Stock(factory)
    raise MethodError(
        f"is {optimizer!r}",
        where="optimizer",
        remedy="Give luthier.response.SGD, Adam, AdamW or RMSprop with its settings, or a function of (params, hyper) "
        'that builds a torch.optim optimizer: lambda params, hyper: torch.optim.SGD(params.values(), lr=hyper["lr"]).',
    )


def safe_sqrt(x: Tensor) -> Tensor:
    """√x with derivative 0 at 0. There √ of a mean of squares has slope 0·∞; a floor under x would change the step."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))


def _make_differentiable(optimizer: torch.optim.Optimizer) -> None:
    if "differentiable" not in optimizer.defaults:
        raise MethodError(
            f"{type(optimizer).__name__} cannot be differentiated: it has no `differentiable` setting",
            where="optimizer",
            remedy="Use an optimizer of torch.optim that has one, or of luthier.response.",
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


def _moments(params: Tree) -> Any:
    device = next(iter(params.values())).device
    count = torch.zeros((), dtype=torch.int64, device=device)
    return {"first": _zeros(params), "second": _zeros(params), "count": count}


def _adam(rule: Adam | AdamW, params: Tree, grads: Tree, state: Any, hyper: Tree) -> tuple[Tree, Any]:
    count = state["count"] + 1
    new, first, second = {}, {}, {}
    for name, g in grads.items():
        m = first[name] = _average(rule.beta1, state["first"][name], g, hyper)
        v = second[name] = _average(rule.beta2, state["second"][name], g * g, hyper)
        power = count.to(g.dtype)
        m_hat = m / (1 - _value(rule.beta1, hyper, g) ** power)
        v_hat = v / (1 - _value(rule.beta2, hyper, g) ** power)
        step = m_hat / (safe_sqrt(v_hat) + _value(rule.eps, hyper, g))
        new[name] = params[name] - _times(rule.lr, step, hyper)
    return new, {"first": first, "second": second, "count": count}


def _zeros(params: Tree) -> Tree:
    return {name: torch.zeros_like(w) for name, w in params.items()}


def _value(setting: Setting, hyper: Tree, like: Tensor) -> float | Tensor:
    """The number, or the hyperparameter of that name shaped to multiply ``like``."""
    if not isinstance(setting, str):
        return setting
    if setting not in hyper:
        raise MethodError(
            f"the optimizer reads it, but the hyperparameters are {sorted(hyper)}",
            where=setting,
            remedy="Add it to `hyper`, or give the optimizer a number.",
        )
    return expand(hyper[setting], like)


def _times(setting: Setting, x: Tensor, hyper: Tree) -> Tensor:
    return _value(setting, hyper, x) * x


def _less(w: Tensor, setting: Setting, d: Tensor, hyper: Tree) -> Tensor:
    """w - setting·d, in one pass over memory where the setting is a number."""
    value = _value(setting, hyper, d)
    return w - value * d if isinstance(value, Tensor) else torch.sub(w, d, alpha=value)


def _average(setting: Setting, old: Tensor, new: Tensor, hyper: Tree) -> Tensor:
    decay = _value(setting, hyper, new)
    return decay * old + (1 - decay) * new


def _decayed(w: Tensor, g: Tensor, setting: Setting, hyper: Tree) -> Tensor:
    return g if setting == 0.0 else g + _times(setting, w, hyper)
