"""Stored studies of versions with other defaults: the adapter that such a study was begun with goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from luthier.optional import optional
from luthier.study.settings import describe


def as_begun(adapter: Any, stored: Any) -> tuple[Any, Any]:
    """An adapter in the form in which a stored study was begun, and its description.

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
            if _same(describe(found), stored, earlier):
                return found, stored
    return adapter, describe(adapter)


def _same(now: Any, stored: Any, earlier: Mapping[str, Any]) -> bool:
    """True if two descriptions agree, but for settings that the version of the second had not yet."""
    if not isinstance(now, dict) or not isinstance(stored, dict) or now == stored:
        return now == stored
    new = now.keys() - stored.keys()
    return new <= earlier.keys() and {n: x for n, x in now.items() if n not in new} == stored
