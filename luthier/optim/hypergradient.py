"""Hypergradient descent (Baydin et al. 2018): a torch.optim optimizer whose learning rate follows its own gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from luthier.checks import checked, one_of
from luthier.errors import MethodError
from luthier.optim.rate_rules import (
    SHARE,
    Rule,
    adapted,
    check_memory,
    checked_bounds,
    checked_hyper_lr,
    memory,
    moved,
)
from luthier.optim.stock import PENALISED, UNEVEN

Per = Literal["all", "group"]

DIRECTION = "hypergradient_direction"  # in the state of a parameter: minus the derivative of its last step by the rate
TUNED, REFERENCE, MEMORY = "tuned_lr", "reference_lr", "tuned_memory"  # in a parameter group


class HypergradientDescent(torch.optim.Optimizer):
    """Any ``torch.optim`` optimizer, with a learning rate that descends its own gradient at every step.

    With g the gradient of the objective now and u the last update of the weights at rate α, the derivative of the
    objective by that rate is h = g · ∂u/∂α. Before each step, the rate moves against it:

    * multiplicative: α ← α (1 - β h / (‖g‖ ‖∂u/∂α‖)), which does not depend on the scale of loss or weights;
    * adaptive, likewise: α ← α exp(-β h / (‖g‖ ‖∂u/∂α‖ (1 + n))), where n counts the steps that turned, h > 0, and u
      has half of the update before it, a quarter of the one before that, and so on;
    * additive: α ← α - β h, as first published.

    ∂u/∂α is the difference that the optimizer made to the weights, divided by the rate; for ``torch.optim.SGD`` it is
    taken from the gradient and the momentum, so that it stays exact where a small rate times it would round away.

    ``group["lr"]`` is not changed: it stays what you, or a learning-rate scheduler, set. Its ratio to its first value
    multiplies the tuned rate, which is in ``group["tuned_lr"]``; the product is what a step uses. Clip gradients, and
    unscale those of mixed precision, before ``step``, as always: a step that a GradScaler skips changes nothing here.

    Args:
        optimizer: The optimizer. Its parameter groups and its state are shared, and hold all that is kept, so that
            ``state_dict`` has the usual form and a resumed training goes on identically.
        hyper_lr: β. By default 0.05 under the multiplicative rule, where it must be below 1, and 1 under the adaptive
            one; the additive rule has no default, since its right size goes with 1/‖g‖².
        rule: ``"multiplicative"``, ``"adaptive"`` or ``"additive"``.
        per: ``"all"`` takes one hypergradient over all parameter groups and changes their rates alike, ``"group"``
            one for each group.
        bounds: Smallest and largest tuned rate, above zero.

    Raises:
        MethodError: If a setting makes no sense, a rate starts outside the bounds, or the optimizer's step is not
            proportional to its learning rate (LBFGS, Rprop, ASGD, Adafactor).

    Examples:
        >>> w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        >>> optimizer = HypergradientDescent(torch.optim.SGD([w], lr=1e-4), rule="adaptive")
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     (w**2).sum().backward()
        ...     _ = optimizer.step()
        >>> bool(w.norm() < 1e-6), optimizer.rates()[0] > 0.01
        (True, True)

    References:
        Baydin, Cornish, Martínez Rubio, Schmidt and Wood (2018), Online learning rate adaptation with hypergradient
        descent, algorithms 4 to 6 and the multiplicative rule.
        Kesten (1958), Accelerated stochastic approximation: gains that fall with the changes of sign.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        hyper_lr: float | None = None,
        *,
        rule: Rule = "multiplicative",
        per: Per = "all",
        bounds: tuple[float, float] = (1e-8, 100.0),
    ) -> None:
        _check_optimizer(optimizer)
        self.hyper_lr = checked_hyper_lr(hyper_lr, rule, "HypergradientDescent")
        self.bounds = checked_bounds(bounds, "HypergradientDescent")
        checked("per", per, one_of("all", "group"), where="HypergradientDescent")
        super().__setstate__({"defaults": optimizer.defaults})  # hooks alone: the groups are the optimizer's
        self.optimizer, self.per = optimizer, per
        self.rule: Rule = rule
        self.hypergradients = [0.0] * len(self.param_groups)  # h of each group at the last step
        for group in self.param_groups:
            self._adopt(group)

    def __getattr__(self, name: str) -> Any:
        if name in ("param_groups", "state") and "optimizer" in self.__dict__:
            return getattr(self.optimizer, name)  # loading a state replaces them there
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> Any:
        settings = {"rule": self.rule, "per": self.per, "bounds": self.bounds}
        return _rebuild, (self.optimizer, self.hyper_lr, settings)

    def __repr__(self) -> str:
        return f"HypergradientDescent({self.optimizer!r}, hyper_lr={self.hyper_lr}, rule={self.rule!r})"

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move the learning rates, then let the optimizer do its step with them.

        Args:
            closure: Evaluates the model and returns the loss, for a loop that works so; called once.

        Returns:
            The loss that ``closure`` gave.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._adopt(group)
        gradients = [
            {p: _objective_gradient(self.optimizer, group, p) for p in group["params"] if p.grad is not None}
            for group in self.param_groups
        ]
        before = [group[TUNED] for group in self.param_groups]
        self._move(gradients)
        analytic = type(self.optimizer) is torch.optim.SGD
        # nothing is written to a state before the optimizer has made its own; buffers that are done with are used again
        kept = [{p: self._buffer(p).copy_(g if analytic else p) for p, g in each.items()} for each in gradients]
        scheduled = [group["lr"] for group in self.param_groups]
        for group, lr, rate in zip(self.param_groups, scheduled, self.rates(), strict=True):
            group["lr"] = torch.full_like(lr, rate) if isinstance(lr, Tensor) else rate
        try:
            self.optimizer.step()
        finally:
            for group, lr in zip(self.param_groups, scheduled, strict=True):
                group["lr"] = lr
        for group, directions, old in zip(self.param_groups, kept, before, strict=True):
            for p, buffer in directions.items():
                direction = _sgd_direction(group, self.state, p, buffer) if analytic else _measured(group, p, buffer)
                if self._seen(p):  # under the adaptive rule alone: the steps before, at their own rates
                    direction.add_(self.state[p][DIRECTION], alpha=SHARE * min(old / group[TUNED], 1.0))
                self.state[p][DIRECTION] = direction
        return loss

    def rates(self) -> list[float]:
        """The learning rate of each group at the next step, were there no further change: tuned, and scheduled."""
        return [group[TUNED] * _schedule(group) for group in self.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, with the last direction of each parameter and the tuned rate of each group in it."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, or from that of the optimizer alone, whose rate is then the first.

        Raises:
            MethodError: If the state is of an earlier form of the adaptive rule.
        """
        self.optimizer.load_state_dict(state_dict)
        for group in self.param_groups:
            self._adopt(group)
            if MEMORY in group:
                check_memory(group[MEMORY], "HypergradientDescent")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with a tuned rate of their own."""
        self.optimizer.add_param_group(param_group)
        self._adopt(self.param_groups[-1])

    def _adopt(self, group: dict[str, Any]) -> None:
        """Note, once, the rate that a group starts with, and what a schedule's factor is relative to."""
        if TUNED in group:
            return
        rate = float(group.get("initial_lr", group["lr"]))  # a scheduler made earlier may have changed lr already
        low, high = self.bounds
        if not low <= rate <= high:
            raise MethodError(
                f"lr={rate} is outside [{low}, {high}]",
                where="HypergradientDescent",
                remedy="Give another lr, or bounds=(low, high) around it.",
            )
        group[REFERENCE] = group[TUNED] = rate

    def _move(self, gradients: Sequence[dict[Tensor, Tensor]]) -> None:
        every = range(len(gradients))
        self.hypergradients = [0.0 for _ in every]
        for members in [list(every)] if self.per == "all" else [[i] for i in every]:
            pairs = [(g, self.state[p][DIRECTION]) for i in members for p, g in gradients[i].items() if self._seen(p)]
            if not pairs:
                continue
            h, sizes = _hypergradient(pairs)
            for i in members:
                self.hypergradients[i] = h
                group = self.param_groups[i]
                if self.rule == "adaptive":
                    self._adapt(group, h, sizes)
                else:
                    group[TUNED] = moved(group[TUNED], h, sizes[0] * sizes[1], self.hyper_lr, self.rule, self.bounds)

    def _adapt(self, group: dict[str, Any], h: float, sizes: tuple[float, float]) -> None:
        """Move the rate of a group by the adaptive rule, whose memory is kept as plain numbers in the group."""
        rate, h_, *sizes_ = (torch.tensor([x], dtype=torch.float64) for x in (group[TUNED], h, *sizes))
        known = {name: torch.tensor([x], dtype=torch.float64) for name, x in group.get(MEMORY, {}).items()}
        new, known = adapted(rate, h_, (sizes_[0], sizes_[1]), known or memory(rate), self.hyper_lr)
        group[TUNED] = min(max(new.item(), self.bounds[0]), self.bounds[1])
        group[MEMORY] = {name: x.item() for name, x in known.items()}

    def _seen(self, p: Tensor) -> bool:
        return DIRECTION in self.state.get(p, ())

    def _buffer(self, p: Tensor) -> Tensor:
        if self._seen(p) and self.rule != "adaptive":
            return self.state[p].pop(DIRECTION)
        return torch.empty_like(p, requires_grad=False)


def SGDHD(
    params: Iterable[Any],
    lr: float,
    *,
    hyper_lr: float = 1e-6,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    rule: Rule = "additive",
    per: Per = "all",
    bounds: tuple[float, float] = (1e-8, 100.0),
) -> HypergradientDescent:
    """Gradient descent with hypergradient descent as published (SGD-HD; with ``nesterov``, SGDN-HD).

    The published code's defaults. ``hyper_lr`` must be tried: what is right goes with 1/‖g‖². Parameter groups, and
    bounds on the rate, which stays positive, are additions.

    Args:
        params: Parameters, or parameter groups.
        lr: The first learning rate.
        hyper_lr: β.
        momentum, dampening, weight_decay, nesterov: See ``torch.optim.SGD``; the penalty of the weight decay is part
            of the objective whose gradient the rate follows.
        rule, per, bounds: See :class:`HypergradientDescent`.

    References:
        Baydin et al. (2018), algorithms 4 and 5.
    """
    sgd = torch.optim.SGD(params, lr, momentum, dampening, weight_decay, nesterov)
    return HypergradientDescent(sgd, hyper_lr, rule=rule, per=per, bounds=bounds)


def AdamHD(
    params: Iterable[Any],
    lr: float = 1e-3,
    *,
    hyper_lr: float = 1e-8,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    rule: Rule = "additive",
    per: Per = "all",
    bounds: tuple[float, float] = (1e-8, 100.0),
) -> HypergradientDescent:
    """Adam with hypergradient descent as published (Adam-HD).

    The published code's defaults, and the paper where the code differs from it: all parameters of a step get one
    learning rate, and ε is added to the root of the corrected second moment.

    Args:
        params: Parameters, or parameter groups.
        lr: The first learning rate.
        hyper_lr: β.
        betas, eps, weight_decay: See ``torch.optim.Adam``.
        rule, per, bounds: See :class:`HypergradientDescent`.

    References:
        Baydin et al. (2018), algorithm 6.
    """
    adam = torch.optim.Adam(params, lr, betas, eps, weight_decay)
    return HypergradientDescent(adam, hyper_lr, rule=rule, per=per, bounds=bounds)


def _check_optimizer(optimizer: Any) -> None:
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer) or isinstance(optimizer, HypergradientDescent):
        raise MethodError(
            f"the optimizer is {name}",
            where="HypergradientDescent",
            remedy="Give an optimizer such as torch.optim.SGD(model.parameters(), lr=0.01).",
        )
    if isinstance(optimizer, UNEVEN):
        raise MethodError(
            f"a step of {name} is not proportional to its learning rate, so it has no hypergradient of this form",
            where="HypergradientDescent",
            remedy="Use SGD, Adam, AdamW, RMSprop or another optimizer that multiplies a direction by lr.",
        )


def _objective_gradient(optimizer: torch.optim.Optimizer, group: dict[str, Any], p: Tensor) -> Tensor:
    """The gradient of what the optimizer minimises: the loss, or minus it, with the penalty of its weight decay."""
    assert p.grad is not None
    gradient = p.grad.to_dense() if p.grad.is_sparse else p.grad
    if group.get("maximize", False):
        gradient = -gradient
    decay = group.get("weight_decay", 0.0)
    if isinstance(optimizer, PENALISED) and decay != 0 and not group.get("decoupled_weight_decay", False):
        gradient = gradient.add(p, alpha=decay)
    return gradient


def _hypergradient(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, tuple[float, float]]:
    """h, and ‖g‖ and ‖∂u/∂α‖, of pairs of gradient and direction; one transfer from the device."""
    dtype = torch.float64 if any(g.dtype == torch.float64 for g, _ in pairs) else torch.float32
    device = pairs[0][0].device
    sums = torch.zeros(3, dtype=dtype, device=device)
    for g, d in pairs:
        g, d = (_flat(x, dtype) for x in (g, d))
        sums += torch.stack([g.dot(d), g.dot(g), d.dot(d)]).to(device)
    product, g_squared, d_squared = sums.tolist()
    return -product, (math.sqrt(g_squared), math.sqrt(d_squared))


def _flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (torch.view_as_real(x) if x.is_complex() else x).reshape(-1).to(dtype)


def _sgd_direction(group: dict[str, Any], state: Any, p: Tensor, gradient: Tensor) -> Tensor:
    """The direction of the SGD step just done, -∂u/∂α, written over ``gradient``."""
    if group["momentum"] != 0:
        buffer = state[p]["momentum_buffer"]
        gradient = gradient.add_(buffer, alpha=group["momentum"]) if group["nesterov"] else gradient.copy_(buffer)
    return gradient.mul_(_schedule(group))


def _measured(group: dict[str, Any], p: Tensor, before: Tensor) -> Tensor:
    """The direction of the step just done, from the weights before it, which are written over."""
    return before.sub_(p).div_(group[TUNED])


def _schedule(group: dict[str, Any]) -> float:
    """The factor that a scheduler has put on the rate of a group."""
    return float(group["lr"]) / group[REFERENCE]


def _rebuild(optimizer: torch.optim.Optimizer, hyper_lr: float, settings: dict[str, Any]) -> HypergradientDescent:
    return HypergradientDescent(optimizer, hyper_lr, **settings)
