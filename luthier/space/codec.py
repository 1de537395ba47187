"""Configurations to points of the unit cube and back, one pass a hyperparameter over all configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NoReturn

import numpy as np

from luthier.errors import ConfigError
from luthier.space.domains import Domain, Float
from luthier.space.values import Option

Config = dict[str, Any]
"""The values of one configuration: float, int, str, bool, None, a list or a tuple; inactive names are absent."""

Conditions = Mapping[str, tuple[Option, ...]]


@dataclass(frozen=True)
class Column:
    """One column of the codec: one number of one hyperparameter.

    Args:
        name: The hyperparameter.
        index: Index of its element (0 unless it is a vector).
        kind: ``"float"``, ``"int"``, ``"ordinal"`` or ``"categorical"``.
        levels: Number of distinct values; None for a float.
    """

    name: str
    index: int
    kind: str
    levels: int | None


@dataclass(frozen=True)
class Slot:
    """A hyperparameter in its space.

    Args:
        name: Its name.
        domain: Its domain.
        start: Its first column; it has ``domain.width`` of them.
        conditions: Requirements for it to be active: for each earlier name, the values of which it must have one.
    """

    name: str
    domain: Domain
    start: int
    conditions: Conditions

    @property
    def vector(self) -> bool:
        """True if its values are lists."""
        return isinstance(self.domain, Float) and bool(self.domain.shape)


def holds(conditions: Conditions, config: Mapping[str, Any]) -> bool:
    """Return True if every condition holds; an absent (itself inactive) name fulfils none."""
    return all(other in config and config[other] in values for other, values in conditions.items())


class Codec:
    """The codec of one space.

    Args:
        slots: The hyperparameters, in order.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        stretches = [slot.domain.stretch for slot in slots for _ in range(slot.domain.width)]
        self._start, self._length = np.array(stretches, dtype=np.float64).reshape(-1, 2).T.copy()  # (columns,) each
        self._names = [slot.name for slot in slots]
        self._slots = [(slot.name, slot.domain, slot.start, slot.vector, slot.conditions) for slot in slots]
        self._conditional = [(slot.name, slot.conditions) for slot in slots if slot.conditions]
        self.width = len(self._start)

    def encode(self, configs: Sequence[Config]) -> tuple[np.ndarray, np.ndarray]:
        """Codes and mask, (configs, columns) each; see :meth:`luthier.Space.encode`."""
        columns: list[Sequence[float]] = []
        mask = np.ones((len(configs), self.width), dtype=bool)
        for name, domain, start, vector, conditions in self._slots:
            if conditions:
                [absent] = domain.values([domain.stretch[0]])
                absent = [absent] * domain.width if vector else absent
                values = [config.get(name, absent) for config in configs]
                mask[:, start : start + domain.width] = np.array([name in config for config in configs])[:, None]
            else:
                values = [config[name] for config in configs]
            if not vector:
                columns.append(domain.numbers(values))
                continue
            if any(len(value) != domain.width for value in values):
                raise ValueError(f"{name}: a vector is not of length {domain.width}")
            flat = domain.numbers([v for value in values for v in value])
            columns.extend(flat[i :: domain.width] for i in range(domain.width))
        codes = np.array(columns, dtype=np.float64).reshape(self.width, len(configs)).T.copy()
        codes -= self._start
        codes /= self._length
        np.maximum(codes, 0.0, out=codes)
        np.minimum(codes, 1.0, out=codes)
        if self._conditional:
            codes[~mask] = 0.5
        return codes, mask

    def decode(self, codes: np.ndarray | Sequence[Sequence[float]]) -> list[Config]:
        """The configurations at ``codes``, (configs, columns); see :meth:`luthier.Space.decode`."""
        points = np.asarray(codes, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.width:
            self._refuse(f"have shape {points.shape}")
        points = np.minimum(np.maximum(points, 0.0), 1.0)
        if np.isnan(points).any():
            self._refuse("contain NaN")
        return self.configs(points)

    def configs(self, points: np.ndarray) -> list[Config]:
        """The configurations at ``points``, (configs, columns) float64, known to be in [0, 1]."""
        numbers = (points * self._length + self._start).T
        if not self._slots:
            return [{} for _ in points]
        columns = [self._values(slot, numbers) for slot in self._slots]
        # dict(zip(names, row)) for each row, without an interpreted loop: this is half of decoding
        configs: list[Config] = list(map(dict, map(zip, repeat(self._names), zip(*columns, strict=True))))
        for name, conditions in self._conditional:  # in order, so that an inactive name is gone when others look at it
            for config in configs:
                if not holds(conditions, config):
                    del config[name]
        return configs

    def _values(self, slot: tuple[str, Domain, int, bool, Conditions], numbers: np.ndarray) -> list[Any]:
        """The values of one hyperparameter at each column of ``numbers``, (columns, configs)."""
        _, domain, start, vector, _ = slot
        if not vector:
            return list(domain.values(numbers[start].tolist()))
        flat = domain.values(numbers[start : start + domain.width].T.ravel().tolist())
        return [flat[i : i + domain.width] for i in range(0, len(flat), domain.width)]

    def _refuse(self, what: str) -> NoReturn:
        remedy = f"Give (configurations, {self.width}) numbers in [0, 1]."
        raise ConfigError(f"the codes {what}", where="decode", remedy=remedy)
