"""Settings in the parameter groups of a torch.optim optimizer, by place: (group, setting), ``"betas.0"`` for a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from luthier.optim.per_member import PerMember

Key = tuple[int, str]
Parts = Sequence[tuple[tuple[str, ...], dict[str, Any]]]  # of each group the names of its parameters, and its settings


def numbers(groups: Parts) -> Iterator[tuple[Key, float]]:
    """Every number among the settings."""
    for i, (_, group) in enumerate(groups):
        for setting, value in group.items():
            if isinstance(value, tuple | list):
                for j, part in enumerate(value):
                    if _is_number(part):
                        yield (i, f"{setting}.{j}"), float(part)
            elif _is_number(value):
                yield (i, setting), float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, int | float) and not isinstance(value, bool)


def raw(group: Mapping[str, Any], setting: str) -> Any:
    """The setting as it is there."""
    name, _, place = setting.partition(".")
    return group[name][int(place)] if place else group[name]


def number(group: Mapping[str, Any], setting: str) -> float:
    """The setting as a float."""
    return float(raw(group, setting))


def put(group: dict[str, Any], setting: str, value: Any) -> None:
    """Write a setting."""
    name, _, place = setting.partition(".")
    if place:
        parts = list(group[name])
        parts[int(place)] = value
        value = tuple(parts)
    group[name] = value


def nominal(group: Mapping[str, Any], setting: str) -> float:
    """A number for an optimizer's own comparisons: never zero, for some member's may differ from zero."""
    value = number(group, setting) if not isinstance(raw(group, setting), PerMember) else 0.0
    return value or 0.5


def constants(i: int, group: Mapping[str, Any], varying: set[Key]) -> dict[str, Any]:
    """The settings of group ``i`` that do not vary."""
    found: dict[str, Any] = {}
    for setting, value in group.items():
        if isinstance(value, tuple | list):
            found[setting] = [v for j, v in enumerate(value) if (i, f"{setting}.{j}") not in varying]
        elif (i, setting) not in varying:
            found[setting] = float(value) if isinstance(value, Tensor) and value.ndim == 0 else value
    return found
