"""Another method going on with a study: the conditions for it, and the words in which that is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.errors import StudyError
from luthier.jobs import History, Succession
from luthier.optional import optional
from luthier.study.settings import label
from luthier.text import warn


def check_succession(
    name: str, history: History, before: Mapping[str, Any], now: Mapping[str, Any], trials: int | None, on_change: str
) -> None:
    """Refuse that another method goes on with a study, where it may not or cannot.

    Args:
        name: The study.
        history: Its history.
        before: Its method, as settings have it.
        now: The method of this call.
        trials: Trials of the whole study.
        on_change: ``"error"`` refuses every other method.

    Raises:
        StudyError: Naming what is in the way.
    """
    where, change = f"study {name!r}", f"its method is {label(before)}, and this call gives {label(now)}"
    if label(before) == label(now):
        change = f"its {label(now)} had other settings: {differing(before, now)}"
    if on_change == "error":
        remedy = "Give another name=, or leave on_change out: the method of this call then goes on with its results."
        raise StudyError(change, where=where, remedy=remedy)
    unended = sorted({*history.pending, *history.reopened})
    if before.get("adapter") != now.get("adapter") and unended:
        raise StudyError(
            f"{change}, and {len(unended)} jobs that were trained otherwise have not ended, {unended[0]} first",
            where=where,
            remedy="Let the method that began them end them first: the call as it was, with no more trials than begun.",
        )
    begun = sum(job.parent is None for job in history.jobs)
    if trials is not None and begun >= trials:
        raise StudyError(
            f"{change}; {begun} trials are begun, and trials={trials} leaves none",
            where=where,
            remedy=f"Give trials={begun + trials}, those of all methods, which leaves {trials} to {label(now)}; "
            "or another name=, which begins anew.",
        )


def say_succession(name: str, change: Succession, proposer: Any) -> None:
    """Say once that another method goes on, and whether it learns from what is there."""
    how = f"from {label(change.before)}"
    if label(change.before) == label(change.now):
        how = f"under other settings ({differing(change.before, change.now)})"
    learns = optional(proposer, "learns_known") is not None
    what = f"{'with the results of' if learns else 'and learns nothing from'} its {change.first} jobs"
    warn(
        f"study {name!r}: {label(change.now)} goes on {how}, {what}: another name= begins anew, on_change='error' "
        "refuses"
    )


def methods_said(history: History, settings: Mapping[str, Any]) -> str:
    """The methods of a study in a few words: ``"Random, from job 20 on GaussianProcess"``."""
    if not history.methods:
        return label(settings["method"])
    parts = [label(history.methods[0].before)]
    return ", ".join([*parts, *(f"from job {change.first} on {label(change.now)}" for change in history.methods)])


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The differences between two settings of one method, ``"batch 8 → 4"``."""
    found = []
    for part in ("proposer", "adapter"):
        old, new = before.get(part) or {}, now.get(part) or {}
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        found += [f"{name} {old.get(name)!r} → {new.get(name)!r}" for name in names]
    return ", ".join(found)
