"""The domains of single hyperparameters: Float, Int and Choice, with their bounds and codes.

Every domain is a stretch of the number line: a Float from ``low`` to ``high``, an Int from ``low - 1/2`` to
``high + 1/2``, a Choice the positions of its options from ``-1/2`` to ``K - 1/2``, and so a Float or an Int with a step
the positions of its values; on a log scale, the logarithms of these. A *code* is the place on that stretch as a
fraction, so that equal parts of [0, 1] are equally likely.

Logarithms and powers are Python's own, one number at a time: NumPy's vector loops may round differently with the length
of an array, and a code must not depend on how many configurations were encoded together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from luthier.arguments import answering
from luthier.errors import ConfigError, SpaceError
from luthier.space import domain_checks as checks
from luthier.space import values as options_
from luthier.space.domain_checks import UNSET, plain
from luthier.space.values import Option, Steps

When = Mapping[str, Any] | None

LARGEST_FLOAT = 1e300  # beyond it, high - low and powers of ten may overflow
LARGEST_INT = 2**40  # beyond it, a 64-bit code on a log scale no longer tells neighbours apart


@answering
@dataclass(frozen=True)
class Float:
    """Real numbers from ``low`` to ``high``, both included.

    Args:
        low: Lower bound.
        high: Upper bound, above ``low``.
        log: Uniform in the logarithm (``low`` must be above zero).
        step: Only ``low``, ``low + step``, ``low + 2 step``, … up to ``high`` are values; excludes ``log``.
        shape: ``()`` for a number, ``(d,)`` for a vector of d numbers (a list of d floats in a configuration).
        default: The value with which ``tune(…, start="default")`` begins.
        when: ``{"other": value}`` or ``{"other": [values]}``: active only while every named earlier hyperparameter has
            one of its values.

    Raises:
        SpaceError: If no such domain can exist.

    Examples:
        >>> Float(1e-4, 1.0, log=True)
        Float(0.0001, 1.0, log=True)
    """

    low: float
    high: float
    _: KW_ONLY
    log: bool = False
    step: float | None = None
    shape: tuple[int, ...] = ()
    default: Any = field(default=UNSET, hash=False)
    when: When = field(default=None, hash=False)

    def __post_init__(self) -> None:
        low, high = (checks.bound(self, name, LARGEST_FLOAT) for name in ("low", "high"))
        checks.settle(self, low=float(low), high=float(high), shape=checks.shape(self))
        checks.settle(self, log=checks.flag(self, "log"), when=checks.when(self))
        if self.low >= self.high:
            checks.refuse(self, f"low={low!r} is not below high={high!r}", "Swap the bounds, or leave a constant out.")
        checks.check_log(self)
        step = checks.step(self, LARGEST_FLOAT)
        checks.settle(self, step=None if step is None else float(step))
        if self.stretch[1] <= 0:
            checks.refuse(self, f"low={low!r} and high={high!r} are too close for a log scale", "Use log=False.")
        checks.settle(self, default=checks.default(self))

    def __repr__(self) -> str:
        return checks.call(self)

    @property
    def kind(self) -> str:
        return "float" if self.step is None else "ordinal"

    @property
    def continuous(self) -> bool:
        """True if its values are uncountable."""
        return self.step is None

    @cached_property
    def axis(self) -> Steps | None:
        """All values in order (of one element of a vector); None where they are uncountable."""
        return None if self.step is None else Steps(self.low, self.high, self.step)

    @property
    def levels(self) -> int | None:
        """Number of distinct values (of one element of a vector); None where they are uncountable."""
        return None if self.axis is None else len(self.axis)

    @property
    def width(self) -> int:
        """Number of columns in the codec."""
        return math.prod(self.shape)

    @cached_property
    def stretch(self) -> tuple[float, float]:
        """Start and length of the stretch of the (logarithmic) number line that the codes 0 to 1 stand for."""
        return _stretch(self.low, self.high, self.log) if self.axis is None else _positions(self.axis)

    def index(self, value: Any) -> int:
        """The place of a value among those of a domain with a step."""
        assert self.axis is not None, "only values with a step have places"
        return self.axis.index(value)

    def numbers(self, values: Sequence[Any]) -> list[float]:
        """The place of each value on the (logarithmic) number line."""
        if self.axis is not None:
            return [self.axis.nearest(v) for v in values]
        return [math.log10(v) for v in values] if self.log else [float(v) for v in values]

    def values(self, numbers: Sequence[float]) -> list[float]:
        """The value at each place; places beyond the ends give the bounds, exactly."""
        if self.axis is not None:
            return _at(self.axis, numbers)
        low, high = self.low, self.high
        start, length = self.stretch
        end = start + length
        if not self.log:
            end = min(end, high)
            return [low if x <= low else high if x >= end else x for x in numbers]
        inner, outer = start + 1e-9, end - 1e-9  # between these, rounding cannot leave the bounds
        return [10.0**x if inner < x < outer else self._near_bound(x, start, end) for x in numbers]

    def _near_bound(self, x: float, start: float, end: float) -> float:
        return self.low if x <= start else self.high if x >= end else min(max(10.0**x, self.low), self.high)

    def check(self, value: Any, where: str) -> float | list[float]:
        """``value`` as plain Python, or a ConfigError that names ``where``."""
        value = plain(value)
        if not self.shape:
            return self._check_one(value, where)
        if not isinstance(value, list | tuple) or len(value) != self.width:
            found = f"has {len(value)} elements" if isinstance(value, list | tuple) else f"is {value!r}"
            raise ConfigError(f"the value {found}", where=where, remedy=f"Give a list of {self.width} numbers.")
        return [self._check_one(plain(v), f"{where}[{i}]") for i, v in enumerate(value)]

    def _check_one(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{value!r} is not a number", where=where, remedy=_between(self))
        if not self.low <= value <= self.high:  # also refuses NaN
            raise ConfigError(f"{value!r} is outside [{self.low!r}, {self.high!r}]", where=where, remedy=_between(self))
        return float(value) if self.axis is None else _on_step(self, value, where)


@answering
@dataclass(frozen=True)
class Int:
    """Whole numbers from ``low`` to ``high``, both included; ``low == high`` is a constant.

    Args:
        low: Smallest value.
        high: Largest value.
        log: Uniform in the logarithm (``low`` must be at least 1).
        step: Only ``low``, ``low + step``, ``low + 2 step``, … up to ``high`` are values; excludes ``log``.
        default: Same as for :class:`Float`.
        when: Same as for :class:`Float`.

    Raises:
        SpaceError: If no such domain can exist.

    Examples:
        >>> Int(16, 1024, log=True)
        Int(16, 1024, log=True)
    """

    kind: ClassVar[str] = "int"
    width: ClassVar[int] = 1
    continuous: ClassVar[bool] = False
    low: int
    high: int
    _: KW_ONLY
    log: bool = False
    step: int | None = None
    default: Any = field(default=UNSET, hash=False)
    when: When = field(default=None, hash=False)

    def __post_init__(self) -> None:
        low, high = (checks.bound(self, name, LARGEST_INT) for name in ("low", "high"))
        for name, bound in (("low", low), ("high", high)):
            if not isinstance(bound, int):
                checks.refuse(self, f"{name}={bound!r} is not a whole number", "Use whole bounds, or a Float.")
        checks.settle(self, low=low, high=high, when=checks.when(self), log=checks.flag(self, "log"))
        if low > high:
            checks.refuse(self, f"low={low!r} is above high={high!r}", "Swap the bounds.")
        checks.check_log(self)
        checks.settle(self, step=checks.step(self, LARGEST_INT))
        checks.settle(self, default=checks.default(self))

    def __repr__(self) -> str:
        return checks.call(self)

    @property
    def levels(self) -> int:
        """Number of distinct values."""
        return len(self.axis)

    @cached_property
    def axis(self) -> range:
        """All values in order."""
        return range(self.low, self.high + 1, self.step or 1)

    @property
    def origin(self) -> int:
        """The place of the first value on the number line."""
        return self.low if self.step is None else 0

    def index(self, value: Any) -> int:
        """The place of a value among all."""
        return self.axis.index(value)

    @cached_property
    def stretch(self) -> tuple[float, float]:
        """Start and length of the stretch of the (logarithmic) number line that the codes 0 to 1 stand for."""
        return _stretch(self.low - 0.5, self.high + 0.5, self.log) if self.step is None else _positions(self.axis)

    def numbers(self, values: Sequence[Any]) -> list[float]:
        """The place of each value on the (logarithmic) number line."""
        if self.step is not None:
            return [(v - self.low) / self.step for v in values]
        return [math.log10(v) for v in values] if self.log else [float(v) for v in values]

    def values(self, numbers: Sequence[float]) -> list[int]:
        """The value at each place; places beyond the ends give the bounds."""
        if self.step is not None:
            return _at(self.axis, numbers)
        low, high, floor = self.low, self.high, math.floor
        whole = [floor(10.0**x + 0.5) for x in numbers] if self.log else [floor(x + 0.5) for x in numbers]
        return [low if v < low else high if v > high else v for v in whole]

    def check(self, value: Any, where: str) -> int:
        """``value`` as plain Python, or a ConfigError that names ``where``."""
        value = plain(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{value!r} is not a whole number", where=where, remedy=_between(self))
        if not self.low <= value <= self.high:
            raise ConfigError(f"{value!r} is outside [{self.low!r}, {self.high!r}]", where=where, remedy=_between(self))
        return value if self.step is None else _on_step(self, value, where)


@answering
@dataclass(frozen=True)
class Choice:
    """One of several options, each a string, a number, True, False, None, or a tuple or list of these.

    One option alone is a constant. Tuples and lists come back as they were given, lists as copies.

    Args:
        options: The options, all different (1, 1.0 and True count as the same, and so do (1, 2) and [1, 2]).
        ordered: The options are in a meaningful order: neighbours are near each other.
        default: Same as for :class:`Float`.
        when: Same as for :class:`Float`.

    Raises:
        SpaceError: If no such domain can exist.

    Examples:
        >>> Choice(["sgd", "adam"])
        Choice(('sgd', 'adam'))
    """

    width: ClassVar[int] = 1
    continuous: ClassVar[bool] = False
    origin: ClassVar[int] = 0
    options: Sequence[Option] = field(hash=False)
    _: KW_ONLY
    ordered: bool = False
    default: Any = field(default=UNSET, hash=False)
    when: When = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.options, str | Mapping) or not hasattr(self.options, "__iter__"):
            checks.refuse(self, f"options={self.options!r} is not a list", 'Write Choice(["a", "b"]).')
        options = tuple(plain(option) for option in self.options)
        checks.check_options(self, options)
        checks.settle(self, options=options, when=checks.when(self), ordered=checks.flag(self, "ordered"))
        checks.settle(self, default=checks.default(self))

    def __repr__(self) -> str:
        return checks.call(self)

    @property
    def kind(self) -> str:
        return "ordinal" if self.ordered else "categorical"

    @property
    def levels(self) -> int:
        """Number of distinct values."""
        return len(self.options)

    @cached_property
    def stretch(self) -> tuple[float, float]:
        """Start and length of the stretch of the number line that the codes 0 to 1 stand for."""
        return _positions(self.options)

    @property
    def axis(self) -> Sequence[Option]:
        """All options in order."""
        return self.options

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {options_.key(option): i for i, option in enumerate(self.options)}

    @cached_property
    def _several(self) -> bool:
        """True if any option is a list or a tuple."""
        return any(isinstance(option, list | tuple) for option in self.options)

    def index(self, value: Any) -> int:
        """The place of an option.

        Raises:
            KeyError: If it is none.
        """
        return self._places[options_.key(value)]

    def numbers(self, values: Sequence[Any]) -> list[float]:
        """The position of each value among the options."""
        if self._several:
            return [self.index(v) for v in values]
        places = self._places
        return [places[v] for v in values]

    def values(self, numbers: Sequence[float]) -> list[Option]:
        """The option at each place from -1/2 to K - 1/2."""
        options, floor = (*self.options, self.options[-1]), math.floor  # K - 1/2 itself is rounded up
        found = [options[floor(x + 0.5)] for x in numbers]
        return [options_.copied(option) for option in found] if self._several else found

    def check(self, value: Any, where: str) -> Option:
        """``value`` as the option that equals it, or a ConfigError that names ``where``."""
        value = plain(value)
        try:
            option = self.options[self.index(value)]
            if isinstance(option, bool) == isinstance(value, bool):
                return options_.copied(option)
        except (KeyError, TypeError):  # TypeError: a dict, which cannot be looked up
            pass
        options = ", ".join(map(repr, self.options))
        raise ConfigError(f"{value!r} is not an option", where=where, remedy=f"The options are {options}.")


Domain = Float | Int | Choice


def _stretch(low: float, high: float, log: bool) -> tuple[float, float]:
    start, end = (math.log10(low), math.log10(high)) if log else (low, high)
    return start, end - start


def _positions(axis: Sequence[Any]) -> tuple[float, float]:
    return -0.5, float(len(axis))


def _at(axis: Sequence[Any], numbers: Sequence[float]) -> list[Any]:
    last = len(axis) - 1
    return [axis[min(max(math.floor(x + 0.5), 0), last)] for x in numbers]


def _on_step(domain: Float | Int, value: Any, where: str) -> Any:
    assert domain.axis is not None, "the domain has a step"
    try:
        return domain.axis[domain.index(value)]
    except ValueError:
        what = f"{value!r} is not one of {domain.low!r}, {domain.axis[1]!r}, …, {domain.axis[-1]!r}"
        raise ConfigError(what, where=where, remedy=_between(domain)) from None


def _between(domain: Float | Int) -> str:
    what = "whole number" if isinstance(domain, Int) else "number"
    steps = "" if domain.step is None else f" in steps of {domain.step!r}"
    return f"Give a {what} from {domain.low!r} to {domain.high!r}{steps}."


def expect_domain(name: str, value: object) -> Domain:
    """``value``, or a SpaceError that shows how to write the domain that was probably meant."""
    if isinstance(value, Domain):
        return value
    remedy = "Use Float(low, high), Int(low, high) or Choice([options])."
    given: list[Any] = [*value] if isinstance(value, tuple | list) else []
    options = [one for i, one in enumerate(given) if one not in given[:i]]
    if len(given) == 2 and all(type(one) in (int, float) for one in given) and given[0] < given[1]:
        kind = "Int" if all(isinstance(bound, int) for bound in given) else "Float"
        remedy = f"Write {name}={kind}({given[0]!r}, {given[1]!r}), or {name}=Choice({options!r})."
    elif isinstance(value, tuple | list):
        remedy = f"Write {name}=Choice({options!r})."
    elif isinstance(value, int | float | str | None):
        remedy = f"Leave a constant out of the space, or write {name}=Choice([{value!r}])."
    raise SpaceError(f"{value!r} is not a domain", where=name, remedy=remedy)
