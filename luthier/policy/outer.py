"""The gradient of the validation loss by continuous decisions: direct, and through the weights that they lead to."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from luthier import response
from luthier.checks import checked, one_of
from luthier.policy.decide import Decisions
from luthier.response import Hypergradient, Problem
from luthier.response.problem import Losses, filled
from luthier.response.result import Tree
from luthier.response.trees import norm

Response = Literal["none", "identity", "unrolled", "implicit"]

METHODS = {"identity": response.identity, "unrolled": response.unrolled, "implicit": response.implicit}


def outer_gradient(
    method: Response,
    problem: Problem,
    **settings: Any,
) -> Hypergradient:
    """The outer gradient, dL_V/dλ = ∂L_V/∂λ + ∂L_V/∂w* ∂w*/∂λ: direct gradient plus response gradient.

    ``"none"`` takes the response as zero, as ENAS does: what remains is how the hyperparameters change the validation
    loss of weights that stay as they are. A weight decay does not enter the validation loss at all, so ``"none"`` knows
    nothing of it; a strength that enters both losses may even be moved the wrong way.

    Args:
        method: ``"none"``, or the function of :mod:`luthier.response` that approximates the response.
        problem: The losses, of a child or of a stack of them; its hyperparameters are the continuous decisions, as
            :meth:`luthier.policy.Policy.values` gives them, constants here.
        settings: Its settings: ``optimizer=`` and ``steps=`` for ``"unrolled"``, ``damping=`` for ``"implicit"``.

    Returns:
        ``direct``, ``response`` and ``total``, keyed and shaped as ``hyper``, with diagnostics.

    Raises:
        MethodError: If the method is unknown, or a hyperparameter has no response under it: the learning rate has one
            under ``"unrolled"`` alone.

    Examples:
        >>> w, strength = {"w": torch.tensor([1.0])}, {"strength": torch.tensor([1.0])}
        >>> train = lambda p, h, _: ((p["w"] - 2) ** 2 + h["strength"] * p["w"] ** 2).sum()
        >>> valid = lambda p, h, _: ((p["w"] - 3) ** 2).sum()
        >>> problem = Problem(train, valid, w, strength)
        >>> [outer_gradient(method, problem).total["strength"].item() for method in ("none", "identity")]
        [0.0, 8.0]

    References:
        Adam and Lorraine, "More efficient stochastic hyperparameter optimization", equation 2.
    """
    if method != "none":
        checked("response", method, one_of("none", *METHODS), where="outer gradient")
        return METHODS[method](problem, **settings)
    losses, hyper = Losses(problem), problem.hyper
    loss, gradient, direct = losses.validation()
    total = dict(zip(hyper, filled(list(hyper.values()), direct), strict=True))
    size = norm(gradient, losses.members)
    return Hypergradient(
        total=total,
        direct=total,
        response={name: torch.zeros_like(x) for name, x in hyper.items()},
        valid_loss=loss,
        gradient_norm=size,
        inner_gradient_norm=torch.full_like(size, float("nan")),  # it is not looked at
        finite=torch.isfinite(size),
    )


def by_code(decisions: Decisions, values: Tree, gradient: Tree) -> Tensor:
    """A gradient by hyperparameters in their own units carried on to the codes of the decisions, (count, columns).

    Of a validation loss, minus this is the ``pathwise`` of :meth:`luthier.policy.reinforce.Reinforce.update`.

    Args:
        decisions: Decisions whose codes require a gradient: of :meth:`luthier.policy.Policy.rsample`.
        values: Result of ``policy.values(decisions)``.
        gradient: Gradient with respect to some or all of these, each shaped as its value.
    """
    names = [name for name in values if name in gradient]
    (found,) = torch.autograd.grad(
        [values[name] for name in names], decisions.codes, [gradient[name] for name in names], retain_graph=True
    )
    return found
