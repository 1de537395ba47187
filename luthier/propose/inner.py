"""A proposer inside another one: it chooses the new configurations, the outer one decides how long each is trained."""

from __future__ import annotations

import importlib
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from luthier.errors import MethodError
from luthier.jobs import Budget, Event, History, Job, Report
from luthier.optional import optional
from luthier.propose import door
from luthier.seeds import Seeds

PLACES = {
    "random": "luthier.propose.random:Random",
    "grid": "luthier.propose.grid:Grid",
    "genetic": "luthier.propose.genetic:Genetic",
    "gp": "luthier.propose.gp:GaussianProcess",
}


def bind_inner(inner: Any, budget: Budget, where: str, continues: bool = False) -> Any:
    """The proposer meant by a name or an object, under the budget of the outer one.

    Args:
        inner: ``"random"``, ``"grid"``, ``"genetic"``, ``"gp"``, or a proposer.
        budget: Budget that it is bound to.
        where: Name of the outer method, for errors.
        continues: True if it may be one that continues training runs itself.

    Raises:
        MethodError: If it is none of these, or continues training runs and may not.
    """
    if isinstance(inner, str):
        if inner not in PLACES:
            remedy = f"Use one of {', '.join(PLACES)}, or give a proposer."
            raise MethodError(f"inner={inner!r} is no proposer", where=where, remedy=remedy)
        module, _, name = PLACES[inner].partition(":")
        inner = getattr(importlib.import_module(module), name)()
    if isinstance(inner, type) or not callable(getattr(inner, "propose", None)):
        remedy = f"Use one of {', '.join(PLACES)}, or an object such as Random()."
        raise MethodError(f"inner={inner!r} is no proposer", where=where, remedy=remedy)
    if not continues and optional(inner, "parents"):
        raise MethodError(
            f"inner={inner!r} continues trainings itself",
            where=where,
            remedy="Give one that only chooses configurations: random, grid, genetic or gp.",
        )
    return inner.bind(budget)


def first_results(history: History, key: Hashable) -> History:
    """The study as an inner proposer sees it: every configuration once, with the result of its first job.

    Args:
        history: The study.
        key: Key of the outer proposer, so that two of them do not share a cache.
    """

    def start() -> tuple[History, dict[int, int]]:
        return history.inner(), {}

    def update(state: tuple[History, dict[int, int]], event: Event) -> tuple[History, dict[int, int]]:
        seen, place = state
        if isinstance(event, Job):
            if event.parent is None:
                place[event.number] = len(seen)
                if event.number in history.before:
                    seen.before.add(len(seen))
                seen.add(Job(len(seen), event.config, event.steps, None, event.tag.get("inner", {})))
        elif not isinstance(event, Report) and event.number in place:
            seen.add(replace(event, number=place[event.number], checkpoint=None))
        return state

    return history.fold(("first results", key), start, update)[0]


def new_configurations(inner: Any, seen: History, count: int, seeds: Seeds) -> list[Job]:
    """Up to ``count`` jobs of the inner proposer, numbered as it counts; none once a finite space was visited whole."""
    return door.propose(inner, seen, count, seeds) if count > 0 else []


def learns_from_others(inner: Any) -> bool | None:
    """True if an inner proposer takes jobs that it did not choose, which the outer one compares its own with too."""
    return True if optional(inner, "learns_known") is not None and optional(inner, "size") is None else None


def inner_tag(job: Job) -> dict[str, Any]:
    """Return the inner proposer's note on its job, as a part of the outer one's tag."""
    return {"inner": dict(job.tag)} if job.tag else {}
