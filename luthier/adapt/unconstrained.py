"""Hyperparameters as unconstrained numbers, in which gradient steps are made, and which of a task's can be so moved.

A Float on a log scale becomes its natural logarithm, held between those of its bounds; any other Float the argument of
a sigmoid that is stretched a little beyond the bounds, so that it reaches them at a finite argument.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from luthier.adapt.differentiable import coupled_decay
from luthier.errors import MethodError
from luthier.space import Choice, Float, Int
from luthier.stack import Noise
from luthier.stack.layout import aligned
from luthier.task.program import Batch, Program, State

STRETCH = 1e-3  # how far the sigmoid reaches beyond each bound, in widths of the domain
LOOP = ("batch_size",)  # read by the training loop itself

_BETWEEN = "lt.propose.Random(), lt.propose.GaussianProcess() or lt.propose.PBT()"


def free(domain: Float, value: Tensor) -> Tensor:
    """The unconstrained numbers that stand for ``value``; a value at a bound, or beyond it, gives a finite number.

    Args:
        domain: The hyperparameter's domain.
        value: Values in it, (members, …).

    Examples:
        >>> free(Float(0.0, 1.0), torch.tensor([0.0, 0.5]))
        tensor([-6.9088,  0.0000])
    """
    low, high = limits(domain)
    if domain.log:
        return aligned(torch.log, value.clamp(min=domain.low)).clamp(low, high)
    fraction = ((value - domain.low) / (domain.high - domain.low)).clamp(0.0, 1.0)
    return aligned(torch.logit, (fraction + STRETCH) / (1 + 2 * STRETCH)).clamp(low, high)


def value(domain: Float, free: Tensor) -> Tensor:
    """The hyperparameter at unconstrained numbers, inside the domain also after rounding; can be differentiated.

    Args:
        domain: The hyperparameter's domain.
        free: Numbers, (members, …).

    Examples:
        >>> value(Float(0.01, 1.0, log=True), torch.tensor([-9.0, 0.0]))
        tensor([0.0100, 1.0000])
    """
    free = free.clamp(*limits(domain))
    if domain.log:
        found = aligned(torch.exp, free)
    else:
        fraction = (1 + 2 * STRETCH) * aligned(torch.sigmoid, free) - STRETCH
        found = domain.low + (domain.high - domain.low) * fraction
    low, high = representable(domain, found.dtype)
    if not found.requires_grad:
        return found.clamp(low, high)
    # Rounding at a bound must not cut the gradient there: only the number is moved back inside.
    return torch.where((found < low) | (found > high), found - found.detach() + found.detach().clamp(low, high), found)


def slope(domain: Float, free: Tensor) -> Tensor:
    """The derivative of :func:`value` by its argument, in the same shape; at a bound, the one from inside."""
    free = free.clamp(*limits(domain))
    if domain.log:
        return aligned(torch.exp, free)
    sigmoid = aligned(torch.sigmoid, free)
    return (domain.high - domain.low) * (1 + 2 * STRETCH) * sigmoid * (1 - sigmoid)


def limits(domain: Float) -> tuple[float, float]:
    """The unconstrained numbers at the bounds: nothing changes beyond them."""
    if domain.log:
        return math.log(domain.low), math.log(domain.high)
    end = math.log1p(STRETCH) - math.log(STRETCH)  # of logit(STRETCH / (1 + 2 STRETCH))
    return -end, end


def representable(domain: Float, dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest number of ``dtype`` within the domain."""
    low, high = torch.tensor(domain.low, dtype=dtype), torch.tensor(domain.high, dtype=dtype)
    if low.item() < domain.low:
        low = torch.nextafter(low, torch.full_like(low, math.inf))
    if high.item() > domain.high:
        high = torch.nextafter(high, torch.full_like(high, -math.inf))
    return low.item(), high.item()


def tunable(
    task: Program,
    state: State,
    names: Collection[str] | None,
    where: str,
    optimizer: Collection[str] = (),
    entering: Collection[str] = (),
) -> dict[str, Float]:
    """The domains of the hyperparameters that a gradient can move during this training.

    There are none where a condition of the space leaves nothing active that could be moved.

    Args:
        task: The step that is trained.
        state: A stack of one of it.
        names: Those to be moved; None is every one that can be.
        where: The method, for errors.
        optimizer: Names that the optimizer reads and that the method can move all the same.
        entering: Names that enter the training loss, beside those by which it can be differentiated.

    Raises:
        MethodError: If one of ``names`` cannot be moved, or none of the space can: with what can.
    """
    domains = task.task.space.domains
    for name in names or ():
        if name not in domains:
            known = ", ".join(domains)
            raise MethodError(f"there is no hyperparameter {name!r}", where=where, remedy=f"The space has {known}.")
    reached = in_training_loss(task, state) | {*optimizer, *entering}
    read = {*task.optimizer.reads, *(name for schedule in task.schedules for name in schedule.reads)} - {*optimizer}
    inactive = {name for name in domains if _inactive(task, state, name)}
    faults = {name: None if name in inactive else _fault(task, name, reached, read) for name in domains}
    if names is None:
        found = [name for name in domains if faults[name] is None and name not in inactive]
        if not found and not inactive:
            listed = "; ".join(f"{name} {fault[0]}" for name, fault in faults.items() if fault)
            remedy = "Give the space a continuous hyperparameter of the training loss, such as weight_decay or a rate "
            raise MethodError(
                f"none of the hyperparameters can be moved by it: {listed or 'the space is empty'}",
                where=where,
                remedy=remedy + f"of lt.nn.Dropout, or choose values between trainings, by {_BETWEEN}.",
            )
    else:
        found = [name for name in domains if name in set(names) and name not in inactive]
        for name in found:
            fault = faults[name]
            if fault is not None:
                raise MethodError(f"{name} {fault[0]}", where=where, remedy=fault[1])
    return {name: domain for name in found if isinstance(domain := domains[name], Float)}


def in_training_loss(task: Program, state: State) -> set[str]:
    """Dynamic hyperparameters that the training loss depends on smoothly, found by differentiating it once.

    Args:
        task: The step that is trained.
        state: A stack of one of it.
    """
    batch: Batch = task.sources.example(rows=2)
    hyper = state["hyper"]
    leaves = {name: x.detach().clone().requires_grad_() for name, x in hyper.items() if x.is_floating_point()}
    noise = Noise(state["key"], state["t"], differentiable=True)
    losses, _ = task.losses(state["params"], state["buffers"], {**hyper, **leaves}, batch, noise)
    return dependences(losses, leaves)


def dependences(values: Tensor, leaves: dict[str, Tensor]) -> set[str]:
    """The leaves that ``values`` can be differentiated by."""
    if not values.requires_grad or not leaves:
        return set()
    found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
    return {name for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


def decayed_by(task: Program, state: State) -> set[str]:
    """Hyperparameters whose penalty ½ λ ‖w‖² is known of the optimizer, whatever the weights are."""
    hyper = state["hyper"]
    leaves = {name: x.detach().clone().requires_grad_() for name, x in hyper.items() if x.is_floating_point()}
    decay = coupled_decay(task.optimizer, state["params"], {**hyper, **leaves}) or {}
    found = set[str]()
    for factor in {id(factor): factor for factor in decay.values()}.values():
        found |= dependences(factor, leaves) if isinstance(factor, Tensor) else set()
    return found - {"lr"}  # which scales the steps too


def _inactive(task: Program, state: State, name: str) -> bool:
    """True if conditions of the space leave a number that might move out of this configuration."""
    domain = task.task.space.domains[name]
    absent = name not in state["hyper"] and name not in dict(task.static)
    return absent and isinstance(domain, Float) and domain.continuous and name not in LOOP


def _fault(task: Program, name: str, reached: Collection[str], read: Collection[str]) -> tuple[str, str] | None:
    """(why a gradient cannot move it, what to do), or None; ``read`` are those of which it lacks what a step does."""
    domain = task.task.space.domains[name]
    others = f"Choose it between trainings, by {_BETWEEN}"
    if not isinstance(domain, Float) or not domain.continuous:
        kind = {Choice: "is one of several options", Int: "is a whole number", Float: "has its values in steps"}
        return f"{kind[type(domain)]}, {domain!r}, and has no derivative", f"{others}."
    if name in LOOP:
        return "sizes the minibatches and has no derivative", f"{others}."
    if name in dict(task.static):
        remedy = "or let the loss, penalty, augment, lt.nn.Dropout(name) or a named optimizer setting read it."
        return "is read by model(config) or optimizer(config), and so fixed for a training", f"{others}, {remedy}"
    if name in reached and name in read:
        remedy = "Let loss, penalty and augment read a hyperparameter of another name, or use "
        return "is read by the optimizer too, and only what the training loss has of it has a response here", remedy + (
            f"lt.adapt.Bilevel(lt.response.unrolled), or choose it between trainings, by {_BETWEEN}."
        )
    if name not in reached:
        if name in read:
            other = "lt.adapt.Bilevel(lt.response.unrolled), or "
            first = "Give rate=True, which moves it beside the others, or use lt.adapt.Hypergradient() or "
            remedy = (first if name == "lr" else "Use ") + other
            return "enters the optimizer and not the training loss, so that it has no response here", remedy + (
                f"choose it between trainings, by {_BETWEEN}."
            )
        return "does not enter the training loss, or not in a way that can be differentiated", f"{others}."
    return None
