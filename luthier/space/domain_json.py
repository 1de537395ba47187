"""Domains as JSON and back: what a store keeps of a space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.space.domain_checks import UNSET
from luthier.space.domains import Choice, Domain, Float, Int
from luthier.space.values import from_json, to_json

_TYPES: dict[str, type[Domain]] = {"float": Float, "int": Int, "choice": Choice}


def to_record(domain: Domain) -> dict[str, Any]:
    """The domain as JSON, without conditions and without settings at their defaults: older studies stay the same."""
    more = {} if domain.default is UNSET else {"default": to_json(domain.default)}
    if isinstance(domain, Choice):
        return {
            "type": "choice",
            "options": [*map(to_json, domain.options)],
            "ordered": domain.ordered,
            **more,
        }
    more = more if domain.step is None else {"step": domain.step, **more}
    kind = "float" if isinstance(domain, Float) else "int"
    record: dict[str, Any] = {"type": kind, "low": domain.low, "high": domain.high, "log": domain.log, **more}
    return record | {"shape": list(domain.shape)} if isinstance(domain, Float) else record


def from_record(record: Mapping[str, Any]) -> Domain:
    """The domain that :func:`to_record` wrote, and its conditions under ``"when"``."""
    settings = {name: value for name, value in record.items() if name not in ("name", "type")}
    if "default" in settings:
        settings["default"] = from_json(settings["default"])
    if "options" in settings:
        settings["options"] = [*map(from_json, settings["options"])]
    return _TYPES[record["type"]](**settings)
