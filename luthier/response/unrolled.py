"""Hypergradients by differentiating through the training steps themselves, in reverse mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from luthier.checks import checked, one_of, whole
from luthier.optim import SGD, Adam
from luthier.response.optimizers import FunctionalOptimizer, functional_optimizer
from luthier.response.problem import Losses, Problem
from luthier.response.products import Mode, check_mode
from luthier.response.result import Hypergradient, Tree
from luthier.response.tape import Memory, Point, Tape, detached, plain_step
from luthier.response.trees import norm


def unrolled(
    problem: Problem,
    *,
    optimizer: SGD | Adam | FunctionalOptimizer | Callable[[Tree, Tree], torch.optim.Optimizer],
    state: Any = None,
    steps: int | None = None,
    truncate: int | None = None,
    memory: Memory = "graph",
    products: Mode = "auto",
    radius: float | None = None,
) -> Hypergradient:
    """Train ``steps`` steps from ``params``, then differentiate the validation loss at their end through all of them.

    With w_{t+1} = Φ_t(w_t, λ) and a_K = ∂L_V/∂w: for t = K-1, …, 0: dλ += a_{t+1}·∂Φ_t/∂λ, a_t = a_{t+1}·∂Φ_t/∂w, the
    optimizer's state going along with w. Hyperparameters of the optimizer (learning rate, momentum, weight decay) can
    be differentiated too, which no implicit method can. From a minimum, K steps of gradient descent equal the Neumann
    series with K - 1 terms after the first and a step of lr.

    Args:
        problem: The losses, and the weights before the first step; one minibatch a step, in order, again from the first
            when they are used up. With random losses that are traced, choose memory="graph".
        optimizer: `luthier.optim.SGD` or `luthier.optim.Adam`, whose settings may be hyperparameters by their names
            (``hyper={"lr": …}``); any `FunctionalOptimizer`; or (params, hyper) -> torch.optim optimizer.
        state: The optimizer's state before the first step (the last result's `state`); None: fresh.
        steps: Steps K; None: as many as there are minibatches.
        truncate: Number of last steps to differentiate through; None is all.
        memory: Data kept for the backward pass: "graph" all graphs; "trajectory" the weights of every step, one graph
            rebuilt at a time; "checkpoint" the weights of every √K-th step, √K graphs rebuilt at a time.
        products: See `implicit`.
        radius: See `implicit`.

    Returns:
        The hypergradient, with `params` and `state` at the end of the steps.

    Raises:
        MethodError: A hyperparameter enters neither losses nor optimizer, or an argument is wrong.
        NonFiniteError: The result is NaN or infinite.

    References:
        Maclaurin, Duvenaud & Adams, Gradient-based hyperparameter optimization through reversible learning, ICML 2015;
        Shaban, Cheng, Hatch & Boots, Truncated back-propagation for bilevel optimization, AISTATS 2019.
    """
    where = "unrolled"
    checked("memory", memory, one_of("graph", "checkpoint", "trajectory"), where=where)
    check_mode(products, radius, where)
    losses = Losses(problem)
    rule = functional_optimizer(optimizer, losses)
    total = len(losses.train_batches) if steps is None else checked("steps", steps, whole(1), where=where)
    kept = min(total, total if truncate is None else checked("truncate", truncate, whole(1), where=where))
    start = rule.init(problem.params) if state is None else detached(state)
    point = Point([p.detach() for p in losses.params], start)
    for t in range(total - kept):
        point, _ = plain_step(losses, rule, point, t)
    tape = Tape(losses, rule, total - kept, total, memory, products, radius)
    point, inner = tape.forward(point)
    losses.params = [p.requires_grad_() for p in point.params]
    valid, v, direct = losses.validation()
    response, first = tape.backward(v)
    end = norm(v, losses.members)
    growth = torch.where(end > 0, norm(first, losses.members) / end, torch.zeros_like(end))
    return losses.finish(
        valid,
        direct,
        response,
        gradient_norm=end,
        inner_gradient_norm=inner,
        iterations=kept,
        adjoint_growth=growth,
        params=dict(zip(losses.param_names, (p.detach() for p in point.params), strict=True)),
        state=point.state,
    )
