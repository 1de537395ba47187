"""The quantity of the validation split that an adapter moves hyperparameters by, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from luthier.adapt import unconstrained
from luthier.errors import MethodError
from luthier.space import Float
from luthier.task.program import Program, State


def check_objective(task: Program, state: State, domains: Mapping[str, Float], objective: str, where: str) -> None:
    """Refuse one that nothing measures, that has no derivative, or that a move of the hyperparameters lowers by itself.

    Args:
        task: The step that is trained.
        state: A stack of one of it.
        domains: The hyperparameters that move.
        objective: Its name.
        where: The method, for errors.

    Raises:
        MethodError: In these cases.
    """
    if objective not in ("loss", *task.task.metrics):
        known = ", ".join(("loss", *task.task.metrics))
        remedy = f"The task measures {known}; add others by TorchTask(metrics={{name: function}})."
        raise MethodError(f"objective={objective!r} is not measured", where=where, remedy=remedy)
    params = {name: param.detach().requires_grad_() for name, param in state["params"].items()}
    leaves = {name: state["hyper"][name].detach().clone().requires_grad_() for name in domains}
    hyper = {**state["hyper"], **leaves}
    values = task.objective(params, state["buffers"], hyper, task.sources.example("valid", 2), objective)
    if not values.requires_grad:
        raise MethodError(
            f"the metric {objective!r} cannot be differentiated",
            where=f"{where}(objective=…)",
            remedy='Give a smooth one, such as the default, "loss".',
        )
    direct = unconstrained.dependences(values, leaves)
    if direct:
        raise MethodError(
            f"{min(direct)} enters the validation {objective} itself, which would be made small by it alone",
            where=f"{where}(objective=…)",
            remedy="Name a metric of the task that does not read it: metrics={'cross_entropy': "
            "lt.losses.cross_entropy} and objective='cross_entropy'.",
        )
