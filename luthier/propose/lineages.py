"""Common parts of proposers that continue training: the progress of each job, and the names that may change."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from math import inf
from typing import Any

import numpy as np

from luthier import checks
from luthier.checks import checked
from luthier.errors import MethodError
from luthier.jobs import OK, PRUNED, Budget, Event, History, Job, Report
from luthier.space import Config, Float, Space


def progress(history: History, budget: Budget) -> list[float]:
    """The fraction of a whole training that lies behind each job at its end (of a pending one: at its start).

    It is counted in fractions, because the steps of an epoch change with the batch size.
    """

    def update(done: list[float], event: Event) -> list[float]:
        if isinstance(event, Job):
            done.append(0.0 if event.parent is None else done[event.parent])
        elif not isinstance(event, Report):
            done[event.number] += event.steps / budget.steps_for(history.jobs[event.number].config)
        return done

    return history.fold(("progress", budget.steps, budget.epochs), list, update)


def steps_to(target: float, done: float, config: Config, budget: Budget) -> int:
    """Steps from the fraction ``done`` of a whole training to the fraction ``target``, at least 1 window."""
    whole = budget.steps_for(config)
    if whole < budget.window:
        return whole
    windows = whole // budget.window
    return budget.window * max(1, round(target * windows) - round(done * windows))


def end_of(history: History, number: int) -> Config:
    """Hyperparameters at the end of a job, inside the space (an adapter may have moved them out of it).

    Where the constraint refuses those, the ones that it began with.
    """
    final, config = history.final(number), history.jobs[number].config
    end = history.space.clip({name: final[name] for name in config})
    return end if history.space.feasible(end) else dict(config)


def usable(history: History, number: int) -> bool:
    """True if an ended job has a finite value and has left a state."""
    return history.status[number] in (OK, PRUNED) and bool(np.isfinite(history.values[number, 0]))


def movable(space: Space, mutate: Sequence[str] | None, where: str) -> list[str]:
    """The names that may change while training continues: those given, or all Floats.

    A proposer does not see the network. An Int or a Choice may be a width or a number of layers, under another value
    of which the weights do not fit; a Float hardly ever is.

    Raises:
        MethodError: If a given name is not in the space, or there is none.
    """
    for name in mutate or ():
        if name not in space:
            near = get_close_matches(name, space, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"The names are {', '.join(space)}."
            raise MethodError(f"mutate={name!r} is not a hyperparameter of the space", where=where, remedy=remedy)
    floats = [name for name, domain in space.domains.items() if isinstance(domain, Float)]
    names = floats if mutate is None else [name for name in space if name in mutate]
    if not names:
        raise MethodError(
            "no hyperparameter may change during a training: there is no Float",
            where=where,
            remedy="Name those under which the weights can go on: mutate=['batch_size'].",
        )
    return names


def check_number(name: str, value: object, least: float, most: float, where: str, whole: bool = False) -> None:
    """Refuse a setting that is not a number in its range.

    Raises:
        MethodError: Naming the setting.
    """
    bounds: Any = (least, None if most == inf else most)
    checked(name, value, checks.whole(*bounds) if whole else checks.real(*bounds), where=where)


def check_mutate(mutate: object, where: str) -> None:
    """Refuse a single name where names belong.

    Raises:
        MethodError: If ``mutate`` is a string.
    """
    if isinstance(mutate, str):
        raise MethodError(f"mutate={mutate!r} is one string", where=where, remedy=f"Give a list: mutate=[{mutate!r}].")


def check_parts(budget: Budget, parts: int, where: str) -> None:
    """Refuse a budget that does not say how long a training is, or one too short to be cut into so many parts.

    Raises:
        MethodError: If there are neither steps nor epochs, or fewer steps than parts.
    """
    if budget.steps is None and budget.epochs is None:
        raise MethodError(
            "it trains in parts, and neither steps nor epochs was given",
            where=where,
            remedy="Say how long a whole training is: epochs=10, or steps=1000.",
        )
    if budget.windows is not None and budget.windows < parts:
        given = f"epochs={budget.epochs:g}" if budget.steps is None else f"steps={budget.steps}"  # type: ignore[str-format]
        window, room, shorter = budget.window, "", ""
        if window > 1:
            room = f" of whole windows of {window} steps, in which the adapter moves hyperparameters"
            shorter = ", or an adapter with a shorter window (inner_steps)"
        raise MethodError(
            f"{given} cannot be cut into {parts} parts{room}",
            where=where,
            remedy=f"Give at least {parts * window} steps, or a method with fewer parts{shorter}.",
        )


def check_rungs(eta: int, rungs: int, budget: Budget, where: str, brackets: int | None = None) -> int:
    """The number of rungs that a budget has room for, at most ``rungs``: the shortest training is at least one step.

    Raises:
        MethodError: If a setting cannot be, there are more brackets than rungs, or the steps are too few for two rungs.
    """
    checked("eta", eta, checks.whole(2), where=where)
    checked("rungs", rungs, checks.whole(2), where=where)
    check_parts(budget, eta, where)
    if brackets is not None:
        check_number("brackets", brackets, 1, rungs, where, whole=True)
    return next(fit for fit in range(rungs, 0, -1) if budget.windows is None or eta ** (fit - 1) <= budget.windows)
