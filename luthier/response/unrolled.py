"""Hypergradients by differentiating through the training steps themselves, in reverse mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from luthier.errors import MethodError
from luthier.response.implicit import check_number
from luthier.response.optimizers import FunctionalOptimizer, functional_optimizer
from luthier.response.problem import build
from luthier.response.products import Mode, check_mode
from luthier.response.result import Hypergradient, Loss, Tree
from luthier.response.tape import Memory, Point, Tape, detached, plain_step
from luthier.response.trees import norm


def unrolled(
    train_loss: Loss,
    valid_loss: Loss,
    params: Tree,
    hyper: Tree,
    train_batches: list[Any] | None = None,
    valid_batch: Any = None,
    *,
    optimizer: FunctionalOptimizer | Callable[[Tree, Tree], torch.optim.Optimizer],
    state: Any = None,
    steps: int | None = None,
    truncate: int | None = None,
    memory: Memory = "graph",
    products: Mode = "auto",
    radius: float | None = None,
    traced: bool = False,
) -> Hypergradient:
    """Train ``steps`` steps from ``params``, then differentiate the validation loss at their end through all of them.

    With w_{t+1} = Φ_t(w_t, λ) and a_K = ∂L_V/∂w: for t = K-1, …, 0: dλ += a_{t+1}·∂Φ_t/∂λ, a_t = a_{t+1}·∂Φ_t/∂w, the
    optimizer's state going along with w. Hyperparameters of the optimizer (learning rate, momentum, weight decay) can
    be differentiated too, which no implicit method can. From a minimum, K steps of gradient descent equal the Neumann
    series with K - 1 terms after the first and a step of lr.

    Args:
        train_loss: (params, hyper, batch) -> () or (members,).
        valid_loss: The same of the validation loss; evaluated at the weights after the last step.
        params: Weights by name before the first step; they are not changed.
        hyper: Hyperparameters by name, real numbers that enter the losses or the optimizer.
        train_batches: One minibatch a step, in order, again from the first when they are used up.
        valid_batch: The validation batch.
        optimizer: `SGD`, `Adam`, `AdamW`, `RMSprop` or any `FunctionalOptimizer`; or (params, hyper) -> torch.optim
            optimizer.
        state: The optimizer's state before the first step (the last result's `state`); None: fresh.
        steps: Steps K; None: as many as there are minibatches.
        truncate: Differentiate through the last so many steps only.
        memory: What is kept for the way back: "graph" all graphs; "trajectory" the weights of every step, one graph
            rebuilt at a time; "checkpoint" the weights of every √K-th step, √K graphs rebuilt at a time.
        products: As in `implicit`.
        radius: As in `implicit`.
        traced: As in `implicit`; with random losses choose memory="graph".

    Returns:
        The hypergradient, with `params` and `state` at the end of the steps.

    Raises:
        MethodError: A hyperparameter enters neither losses nor optimizer, or an argument is wrong.
        NonFiniteError: The result is NaN or infinite.

    References:
        Maclaurin, Duvenaud & Adams, Gradient-based hyperparameter optimization through reversible learning, ICML 2015;
        Shaban, Cheng, Hatch & Boots, Truncated back-propagation for bilevel optimization, AISTATS 2019.
    """
    rule = functional_optimizer(optimizer)
    check_mode(products, radius)
    if memory not in ("graph", "checkpoint", "trajectory"):
        remedy = 'Give "graph", "checkpoint" or "trajectory".'
        raise MethodError(f"memory={memory!r} is unknown", where="memory", remedy=remedy)
    problem = build(train_loss, valid_loss, params, hyper, train_batches, valid_batch, traced)
    total = len(problem.train_batches) if steps is None else steps
    check_number("steps", total, 1)
    kept = total if truncate is None else min(truncate, total)
    check_number("truncate", kept, 1)
    point = Point([p.detach() for p in problem.params], rule.init(params) if state is None else detached(state))
    for t in range(total - kept):
        point, _ = plain_step(problem, rule, point, t)
    tape = Tape(problem, rule, total - kept, total, memory, products, radius)
    point, inner = tape.forward(point)
    problem.params = [p.requires_grad_() for p in point.params]
    valid, v, direct = problem.validation()
    response, first = tape.backward(v)
    end = norm(v, problem.members)
    growth = torch.where(end > 0, norm(first, problem.members) / end, torch.zeros_like(end))
    return problem.finish(
        valid,
        direct,
        response,
        gradient_norm=end,
        inner_gradient_norm=inner,
        iterations=kept,
        adjoint_growth=growth,
        params=dict(zip(problem.param_names, (p.detach() for p in point.params), strict=True)),
        state=point.state,
    )
