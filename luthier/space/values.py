"""The values of finite domains: evenly spaced numbers that are exact, and options that are lists or tuples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from decimal import Decimal
from typing import Any, final, overload

Option = str | int | float | bool | None | tuple[Any, ...] | list[Any]


@final
class Steps(Sequence[float]):
    """``low, low + step, …`` up to ``high``, as their decimals say: 0.1, 0.2, 0.3 and no 0.30000000000000004.

    Examples:
        >>> list(Steps(0.1, 0.5, 0.1)), Steps(0.0, 1.0, 0.3).index(0.6000000001)
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2)
    """

    def __init__(self, low: float, high: float, step: float) -> None:
        self._low, self._step = Decimal(repr(low)), Decimal(repr(step))
        self._count = int((Decimal(repr(high)) - self._low) / self._step) + 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        return float(self._low + place * self._step)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self[self.nearest(value)] == value

    def nearest(self, value: float) -> int:
        """The place of the number nearest to ``value``."""
        place = (value - float(self._low)) / float(self._step)
        return min(max(math.floor(place + 0.5), 0), self._count - 1)

    def index(self, value: float, start: int = 0, stop: int | None = None) -> int:
        """The place of ``value``, up to rounding.

        Raises:
            ValueError: If it is between two of the numbers, or beyond them.
        """
        place = self.nearest(value)
        if not abs(value - self[place]) <= 1e-6 * float(self._step):  # also refuses NaN
            raise ValueError(f"{value!r} is not one of the steps")
        return place


def key(option: Any) -> Any:
    """Hashable key of an option; a list and a tuple of equal values share it.

    Examples:
        >>> key([1, (2, 3)]) == key((1, [2, 3]))
        True
    """
    return ("several", *map(key, option)) if isinstance(option, list | tuple) else option


def copied(option: Any) -> Any:
    """The option itself, or a copy of one that is mutable."""
    return deepcopy(option) if isinstance(option, list | tuple) else option


def to_json(option: Any) -> Any:
    """JSON form of an option, in which tuples and lists differ."""
    if isinstance(option, tuple):
        return {"tuple": [to_json(part) for part in option]}
    return [to_json(part) for part in option] if isinstance(option, list) else option


def from_json(option: Any) -> Any:
    """The option that :func:`to_json` wrote."""
    if isinstance(option, dict):
        return tuple(from_json(part) for part in option["tuple"])
    return [from_json(part) for part in option] if isinstance(option, list) else option


def faulty(option: Any) -> str | None:
    """Return a description of what is wrong with an option, or None."""
    if isinstance(option, list | tuple):
        return next((fault for part in option if (fault := faulty(part))), None)
    if option is not None and not isinstance(option, str | int | float):
        return f"the option {option!r} is a {type(option).__name__}"
    if isinstance(option, float) and not math.isfinite(option):
        return f"the option {option!r} is not a finite number"
    return None
