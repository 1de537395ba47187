"""Children of a network that shares weights: one trains for a few steps, and is judged by what that leads to."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier import response
from luthier.adapt.differentiable import InnerTraining, Update, coupled_decay
from luthier.optim import SGD, Adam
from luthier.optim.common import Tensors
from luthier.optim.switch import Switch
from luthier.policy.outer import outer_gradient
from luthier.stack import Noise
from luthier.task.program import Batch, Program, State

Response = Literal["none", "identity", "unrolled", "implicit"]
MINIMUM = "way to the minimum"  # beside the hyperparameters: how far the weights are from the child's own minimum


class Verdict(NamedTuple):
    """Assessment of a child: its reward is ``direct + response``.

    Args:
        direct: Minus the validation loss at the shared weights as they were, ().
        response: Estimated contribution of the child's own training, ().
        slopes: The derivative of the reward by the real numbers that were decided, (1,) or (1, d) each.
        losses: The training loss of each of its steps, (steps,).
    """

    direct: Tensor
    response: Tensor
    slopes: Tensors
    losses: Tensor


class ChildTraining(NamedTuple):
    """A child about to train.

    Args:
        task: The step.
        state: The child's own part of the shared state, a stack of one; ``hyper`` holds its active names alone.
        floats: The real numbers that were decided and are to have slopes.
        batches: One minibatch per step.
        valid: Validation minibatch that it is judged on.
    """

    task: Program
    state: State
    floats: Tensors
    batches: Sequence[Batch]
    valid: Batch


def part_of(task: Program, state: State, hyper: Tensors) -> State:
    """The child's part of a shared state: the weights of its network, with their slots, and its hyperparameters."""
    names = members_of(task, hyper)
    params = {name: state["params"][name] for name in state["params"] if name in names}
    opt = {
        family: {slot: {name: tensors[name] for name in params} for slot, tensors in slots.items()}
        for family, slots in state["opt"].items()
    }
    return {**state, "params": params, "opt": opt, "hyper": hyper}


def put_back(state: State, part: State) -> State:
    """The shared state after its part has trained: all other weights and slots are as they were."""
    opt = {
        family: {slot: {**tensors, **part["opt"][family][slot]} for slot, tensors in slots.items()}
        for family, slots in state["opt"].items()
    }
    params = {**state["params"], **part["params"]}
    return {**state, "params": params, "opt": opt, "buffers": {**state["buffers"], **part["buffers"]}, "t": part["t"]}


def members_of(task: Program, hyper: Mapping[str, Tensor]) -> set[str]:
    """Parameters and buffers that are in the network of these decisions."""
    chosen = {name: int(hyper[name][0]) for name in task.choices if name in hyper}
    return {
        path
        for path, ways in task.owners.items()
        if any(all(chosen.get(name) == place for name, place in way.items()) for way in ways)
    }


def judge(
    problem: ChildTraining, response: Response, settings: Mapping[str, Any], trains: bool = True
) -> tuple[State, Verdict]:
    """Train a child, and judge it.

    Args:
        problem: The child.
        response: The effect of its training on the reward. With w the shared weights, w' the same after the child's
            own steps, and L its validation loss, the reward is: under ``"none"``, -L(w), no effect at all; under
            ``"unrolled"``, -L(w'), with slopes back through the steps; under ``"identity"``, -L(w') too, the gradients
            of the steps taken as constants for the slopes, so that no second derivative is needed; under
            ``"implicit"``, -L(w) - ∇L(w)·(w* - w), where w* is the result of a Newton step from w, by conjugate
            gradients.
        settings: Settings of ``luthier.response.implicit``.
        trains: False where its steps are wanted for the verdict alone: then those that would not count are left out.

    Returns:
        The part after its steps, and the verdict.
    """
    if response == "unrolled":
        return _unrolled(problem)
    loss, _ = _validation(problem, gradient=False)
    slopes: Tensors = {}
    change = torch.zeros_like(loss)
    if response == "implicit":
        slopes, change = _implicit(problem, settings)
        change = torch.maximum(change, -loss)  # no loss is below zero, wherever the straight line leads
    names = [name for name in problem.floats if name not in slopes] if response != "none" else []
    if response == "none" and not trains:
        return problem.state, Verdict(-loss, -change, slopes, loss.new_zeros(0))
    after, losses, leaves = _train(problem, names)
    detached = pytree.tree_map(lambda tensor: tensor.detach(), after)
    if response == "identity" or leaves:
        end, v = _validation(problem._replace(state=detached), gradient=bool(leaves))
        change = end - loss if response == "identity" else change
        if leaves:
            moved = torch.stack([(v[name] * after["params"][name]).sum() for name in v]).sum()
            found = torch.autograd.grad(-moved, list(leaves.values()), allow_unused=True, materialize_grads=True)
            slopes |= dict(zip(leaves, found, strict=True))
    slopes |= _inner_slopes(problem, [name for name in names if name not in leaves])
    return detached, Verdict(-loss, -change, slopes, losses)


def family_of(problem: ChildTraining) -> SGD | Adam:
    """The optimizer that this child has decided for."""
    switch = problem.task.optimizer
    assert isinstance(switch, Switch), "where weights are shared, all families have slots"
    families = list(switch.families.values())
    return families[int(problem.state["hyper"][switch.name][0])] if len(families) > 1 else families[0]


def _train(problem: ChildTraining, names: Sequence[str]) -> tuple[State, Tensor, Tensors]:
    """The steps of the child, gradients taken as constants; and leaves by which the weights can be differentiated."""
    reads = family_of(problem).reads
    leaves = {name: problem.floats[name].detach().clone().requires_grad_() for name in names if name in reads}
    state, hyper = problem.state, {**problem.state["hyper"], **leaves}
    losses = []
    for batch in problem.batches:
        loss, gradients, buffers = problem.task.gradient(state, state["hyper"], batch)
        state = problem.task.apply(state, hyper, gradients, buffers)
        losses.append(loss[0])
    return state, torch.stack(losses), leaves


def ruined(problem: ChildTraining, after: State, losses: Tensor, guard: float) -> bool:
    """True if the child's steps raised its first minibatch's loss by more than ``guard``, or to infinity or NaN."""
    state = problem.state
    noise = Noise(state["key"], state["t"])
    with torch.no_grad():
        again, _ = problem.task.losses(after["params"], state["buffers"], after["hyper"], problem.batches[0], noise)
    return not bool(losses.isfinite().all() & (again <= losses[0] + guard).all())


def _validation(problem: ChildTraining, gradient: bool) -> tuple[Tensor, Tensors]:
    """The validation loss at the weights as they are, (), and its gradient by them."""
    state = problem.state
    with torch.set_grad_enabled(gradient):
        params = {name: p.detach().requires_grad_(gradient) for name, p in state["params"].items()}
        loss = problem.task.objective(params, state["buffers"], state["hyper"], problem.valid)[0]
    if not gradient:
        return loss, {}
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(params, found, strict=True))


def _unrolled(problem: ChildTraining) -> tuple[State, Verdict]:
    """Judge by the child's training itself, gone back through where real numbers were decided."""
    loss, _ = _validation(problem, gradient=False)
    if not problem.floats:
        after, losses, _ = _train(problem, [])
        end, _ = _validation(problem._replace(state=after), gradient=False)
        return after, Verdict(-loss, loss - end, {}, losses)
    inner, rule = InnerTraining(problem.task, problem.state, "loss", decay=False), Update(problem.task, problem.state)
    found = outer_gradient(
        "unrolled",
        _inner_problem(problem, inner, problem.floats, list(enumerate(problem.batches))),
        optimizer=rule,
        state=rule.init(problem.state["params"]),
    )
    steps = len(problem.batches)
    assert found.params is not None
    after = {**problem.state, "params": found.params, **found.state, "buffers": inner.buffers[steps]}
    losses = torch.stack([inner.losses[i][0] for i in range(steps)])
    slopes = {name: -total for name, total in found.total.items()}
    return pytree.tree_map(lambda t: t.detach(), after), Verdict(-loss, loss - found.valid_loss[0], slopes, losses)


def _implicit(problem: ChildTraining, settings: Mapping[str, Any]) -> tuple[Tensors, Tensor]:
    """Slopes by what enters the training loss, and the change of the validation loss on the way to its minimum.

    The way to the minimum, -(H + δI)⁻¹ g, is the response to a hyperparameter s that adds s g·w to the training loss.
    """
    task, state = copy.copy(problem.task), problem.state
    task.optimizer = family_of(problem)
    inner = InnerTraining(task, state, "loss")
    coupled = coupled_decay(task.optimizer, state["params"], state["hyper"])
    reads = set(task.optimizer.reads) - (set() if coupled is None else {"weight_decay"})
    floats = {name: value for name, value in problem.floats.items() if name not in reads}
    batch = (0, problem.batches[0])
    params = {name: p.detach().requires_grad_() for name, p in state["params"].items()}
    losses = inner.train_loss(params, {}, batch)
    gradients = torch.autograd.grad(losses.sum(), list(params.values()), allow_unused=True, materialize_grads=True)
    constant = {name: g.detach() for name, g in zip(params, gradients, strict=True)}
    plain = _connected(inner.train_loss)

    def train_loss(weights: Tensors, hyper: Tensors, numbered: Any) -> Tensor:
        tilt = sum((constant[name] * w).reshape(len(w), -1).sum(1) for name, w in weights.items())
        return plain(weights, {n: h for n, h in hyper.items() if n != MINIMUM}, numbered) + hyper[MINIMUM] * tilt

    moved = {**floats, MINIMUM: torch.zeros_like(losses)}
    tilted = replace(_inner_problem(problem, inner, moved, [batch]), train_loss=train_loss)
    found = outer_gradient("implicit", tilted, **settings)
    return {name: -found.total[name] for name in floats}, found.response[MINIMUM][0]


def _inner_slopes(problem: ChildTraining, names: Sequence[str]) -> Tensors:
    """Slopes by what enters the training loss alone, the Hessian taken for the identity over the learning rate."""
    if not names:
        return {}
    family, hyper = family_of(problem), problem.state["hyper"]
    inner = InnerTraining(problem.task, problem.state, "loss", decay=False)
    found = outer_gradient(
        "identity",
        _inner_problem(problem, inner, {name: problem.floats[name] for name in names}, [(0, problem.batches[0])]),
        alpha=len(problem.batches) * hyper.get("lr", torch.full((1,), family.lr or 0.0)),
    )
    return {name: -total for name, total in found.total.items()}


def _inner_problem(
    problem: ChildTraining, inner: InnerTraining, floats: Tensors, batches: list[Any]
) -> response.Problem:
    """Return the child's training as ``luthier.response`` takes it."""
    train_loss, params = _connected(inner.train_loss), problem.state["params"]
    return response.Problem(train_loss, inner.valid_loss, params, floats, batches, problem.valid, traced=True)


def _connected(train_loss: Any) -> Any:
    """The same loss: a hyperparameter that this child does not read has a response of zero, which is no mistake."""

    def connected(params: Tensors, hyper: Tensors, numbered: Any) -> Tensor:
        loss = train_loss(params, hyper, numbered)
        return loss + sum((0.0 * h.reshape(len(h), -1).sum(1) for h in hyper.values()), torch.zeros_like(loss))

    return connected
