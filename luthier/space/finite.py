"""All configurations of a space, where they can be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from luthier.space.codec import Conditions, Config
from luthier.space.combinations import Combinations
from luthier.space.domains import Domain
from luthier.space.values import copied


@final
class Finite:
    """The configurations that some values a name make, numbered from 0; of a vector, some values an element.

    Args:
        axes: The values of each name (of one element of a vector), distinct, in order.
        domains: The domain of each name.
        conditions: The conditions, in the form of :attr:`luthier.Space.conditions`.
    """

    def __init__(
        self, axes: Mapping[str, Sequence[Any]], domains: Mapping[str, Domain], conditions: Mapping[str, Conditions]
    ) -> None:
        self._name_of: dict[str, tuple[str, bool]] = {}  # axis: (its name, whether that is a vector)
        for name, domain in domains.items():
            vector = bool(getattr(domain, "shape", ()))
            places = [f"{name}[{i}]" for i in range(domain.width)] if vector else [name]
            self._name_of |= {place: (name, vector) for place in places}
        each = {place: axes[name] for place, (name, _) in self._name_of.items()}
        tied = {place: conditions[name] for place, (name, _) in self._name_of.items() if name in conditions}
        self._combinations = Combinations(each, tied)
        self.count = self._combinations.count

    def __getitem__(self, number: int) -> Config:
        config: Config = {}
        for place, value in self._combinations[number].items():
            name, vector = self._name_of[place]
            if vector:
                config.setdefault(name, []).append(value)
            else:
                config[name] = copied(value)
        return config


def finite(domains: Mapping[str, Domain], conditions: Mapping[str, Conditions]) -> Finite | None:
    """All configurations of a space; None where a domain has uncountably many values."""
    axes = {name: domain.axis for name, domain in domains.items()}
    if any(axis is None for axis in axes.values()):
        return None
    return Finite({name: axis for name, axis in axes.items() if axis is not None}, domains, conditions)
