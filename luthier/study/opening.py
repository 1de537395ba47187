"""A study created in its store, or gone on with: under settings that fit, by the method that began it or another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.errors import MethodError, StudyError
from luthier.jobs import Budget, History
from luthier.optional import optional
from luthier.seeds import Seeds
from luthier.store import Store, open_store
from luthier.study import settings as study_settings
from luthier.study.ledger import MEMORY, Ledger
from luthier.study.resolve import Resolved
from luthier.study.spending import check_room
from luthier.text import public_url


def open_ledger(
    name: str,
    history: History,
    method: Resolved,
    budget: Budget,
    seed: int,
    store: str | Path | Store | None,
    task: str = "",
    fresh: bool = False,
    on_change: str = "warn",
) -> Ledger:
    """Create a study or go on with the one that is there, by the method that began it or by another.

    Args:
        name: The study.
        history: An empty history of its space, objectives and limits; it is filled.
        method: Its method, not bound yet.
        budget: Budget of the study.
        seed: Its seed.
        store: A store, or what :func:`luthier.store.open_store` takes.
        task: Short name of the task.
        fresh: Begin anew; the study that has the name is kept under another, the ledger's ``kept_as``.
        on_change: ``"error"`` refuses to go on by another method.

    Raises:
        MethodError: If the method and the budget do not fit.
        StudyError: If the stored study has other settings.
    """
    misfit = _misfit(method, budget)
    if misfit is not None and (budget.window == 1 or store is None):
        raise misfit
    own = not hasattr(store, "attach")
    opened: Any = open_store(store) if own else store  # type: ignore[arg-type]
    try:
        earlier = budget.window > 1 and not fresh and _begun_earlier(opened, name, method)
        if misfit is not None and not earlier:
            raise misfit
        budget = replace(budget, window=1) if earlier else budget
        bound = check_room(method, budget)
        given = study_settings.build(history, seed, method.proposer, method.adapter, budget, task)
        kept_as = _lay_aside(opened, name) if fresh else ""
        stored = opened.create(name, given)
        adapter, told = as_begun(method.adapter, stored["method"]["adapter"])
        given["method"] = {**given["method"], "adapter": told}
        lines = study_settings.differences(stored, given, optional(bound, "extendable"))
        study_settings.refuse(name, public_url(opened.url), lines)
        ledger = Ledger(opened, name, stored, history, method.proposer, Seeds(seed), budget)
        ledger.kept_as, ledger.adapter, ledger.begun_earlier = kept_as, adapter, earlier
        ledger.go_on(given, on_change)
        return ledger
    except BaseException:
        if own:
            opened.close()
        raise


def _misfit(method: Resolved, budget: Budget) -> MethodError | None:
    """The error of a method that does not fit the budget."""
    try:
        check_room(method, budget)
    except MethodError as error:
        return error
    return None


def _begun_earlier(store: Any, name: str, method: Resolved) -> bool:
    """True if the study was begun by a version that knew no windows, which may have trained more than was asked."""
    if all(one.name != name for one in store.studies()):
        return False
    stored = store.settings(name)
    told = stored["method"]["adapter"]
    same = as_begun(method.adapter, told)[1] == told
    return same and "window" not in stored["budget"]


def _lay_aside(store: Any, name: str) -> str:
    """Give the study of this name another one, and return that; nothing where there is no such study."""
    taken = {one.name for one in store.studies()}
    if name not in taken:
        return ""
    if store.url == MEMORY:
        remedy = "Take another name=, or a new store."
        raise StudyError("fresh=True renames the study in its database", where=f"study {name!r}", remedy=remedy)
    from luthier.store.copying import rename_study

    other = next(f"{name}-{number}" for number in itertools.count(1) if f"{name}-{number}" not in taken)
    rename_study(store, name, other)
    return other


def as_begun(adapter: Any, stored: Any) -> tuple[Any, Any]:
    """An adapter in the form in which a stored study was begun, perhaps by an earlier version, and its description.

    A setting that a call leaves at its default has, for a study that is there, the value of the version that began it.

    Args:
        adapter: Adapter of this call.
        stored: Description in the study's settings.

    Returns:
        The adapter of this call and its own description where they differ by more than defaults.
    """
    for earlier in ({}, *optional(adapter, "earlier")):
        if all(getattr(adapter, name) == getattr(type(adapter)(), name) for name in earlier):
            found = replace(adapter, **earlier) if earlier else adapter
            if _same(study_settings.describe(found), stored, earlier):
                return found, stored
    return adapter, study_settings.describe(adapter)


def _same(now: Any, stored: Any, earlier: Mapping[str, Any]) -> bool:
    """True if two descriptions agree, but for settings that the version of the second had not yet, or left unused."""
    if not isinstance(now, dict) or not isinstance(stored, dict) or now == stored:
        return now == stored
    new = now.keys() - stored.keys()
    used = {n: x for n, x in stored.items() if n in now or x is not None}
    return new <= earlier.keys() and {n: x for n, x in now.items() if n not in new} == used
