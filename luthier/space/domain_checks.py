"""Checks made when a domain is created: impossible bounds, scales, shapes and conditions are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, NoReturn

from luthier.errors import ConfigError, SpaceError
from luthier.space import values as options_of


class Unset(Enum):
    """Mark of a default that is not given: None may be one."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset.UNSET
MOST_STEPS = 2**40  # values of a domain with a step


def plain(value: Any) -> Any:
    """NumPy's and torch's scalars and arrays, and members of ``StrEnum`` and its kin, as plain Python; in lists too."""
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else tuple(map(plain, value))
    if isinstance(value, Enum) and isinstance(value, str | int | float):  # else it would differ after it was stored
        return value.value
    listed = getattr(value, "tolist", None)
    return value if listed is None else listed()


def settle(domain: Any, **values: Any) -> None:
    """Set fields of a frozen domain while it is being made."""
    for name, value in values.items():
        object.__setattr__(domain, name, value)


def refuse(domain: Any, what: str, remedy: str) -> NoReturn:
    """Raise a SpaceError whose place is the call that makes the domain."""
    raise SpaceError(what, where=call(domain), remedy=remedy)


def call(domain: Any) -> str:
    """The call that makes the domain, without the arguments left at their defaults."""
    parts = []
    for f in fields(domain):
        value = getattr(domain, f.name)
        if f.kw_only and value == f.default:
            continue
        parts.append(f"{f.name}={value!r}" if f.kw_only else repr(value))
    return f"{type(domain).__name__}({', '.join(parts)})"


def bound(domain: Any, name: str, largest: float) -> float:
    """The field ``name``, a finite number."""
    value = plain(getattr(domain, name))
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(domain, f"{name}={value!r} is not a number", "Give two numbers, low and high.")
    if not abs(value) <= largest:  # also refuses NaN
        refuse(domain, f"{name}={value!r} is not between {-largest:.4g} and {largest:.4g}", "Give a finite bound.")
    return value


def check_log(domain: Any) -> None:
    """A log scale begins above zero."""
    if domain.log and domain.low <= 0:
        smallest = "at least 1" if domain.kind == "int" else "above zero, such as 1e-6"
        remedy = f"Use a lower bound {smallest}, or log=False."
        refuse(domain, f"low={domain.low!r} has no logarithm", remedy)


def step(domain: Any, largest: float) -> Any:
    """The field ``step``: None, or a number above zero under which there are at least two values."""
    if domain.step is None:
        return None
    value = bound(domain, "step", largest)
    if domain.log:
        remedy = "Leave one out, or list the values: Choice([16, 32, 64], ordered=True)."
        refuse(domain, f"step={value!r} and log=True exclude each other", remedy)
    if domain.kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if value <= 0 or (domain.kind == "int" and not isinstance(value, int)):
        what = "whole number" if domain.kind == "int" else "number"
        refuse(domain, f"step={value!r} is not a {what} above zero", f"Give a {what} above zero, or leave it out.")
    if value > domain.high - domain.low:
        refuse(domain, f"step={value!r} leaves a single value", "Give a smaller step, or leave a constant out.")
    if (domain.high - domain.low) / value > MOST_STEPS:
        refuse(domain, f"step={value!r} makes more than {MOST_STEPS} values", "Give a larger step, or leave it out.")
    return value


def default(domain: Any) -> Any:
    """The field ``default``, a value of the domain."""
    if domain.default is UNSET:
        return UNSET
    try:
        return domain.check(domain.default, "default")
    except ConfigError as error:
        refuse(domain, f"default={domain.default!r} is no value of it: {error.what}", error.remedy)


def check_options(domain: Any, options: tuple[Any, ...]) -> None:
    """Refuse options that are none, or that are equal."""
    if not options:
        refuse(domain, "there are no options", "Give at least one.")
    seen: dict[Any, Any] = {}
    for option in options:
        if fault := options_of.faulty(option):
            remedy = "Options are strings, finite numbers, True, False, None, and tuples or lists of these: name other "
            refuse(domain, fault, remedy + "objects, and look them up in the task.")
        key = options_of.key(option)
        if key in seen:
            same = f"the option {option!r} is there twice"
            if type(option) is not type(seen[key]):
                same = f"the options {seen[key]!r} and {option!r} are equal"
            refuse(domain, same, "Remove one, or write them as different strings.")
        seen[key] = option


def flag(domain: Any, name: str) -> bool:
    """The field ``name``, True or False."""
    value = plain(getattr(domain, name))
    if not isinstance(value, bool):
        refuse(domain, f"{name}={value!r} is not True or False", f"Write {name}=True.")
    return value


def shape(domain: Any) -> tuple[int, ...]:
    """The field ``shape``: () or (d,)."""
    given = plain(domain.shape)
    sizes = tuple(given) if isinstance(given, tuple | list) else (0, 0)
    if len(sizes) > 1 or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        remedy = "Use () for a number and (d,) for a vector; reshape inside the task."
        refuse(domain, f"shape={domain.shape!r} is not a vector's", remedy)
    return sizes


def when(domain: Any) -> dict[str, tuple[Any, ...]] | None:
    """Each condition as a tuple of values."""
    if domain.when is None:
        return None
    if not isinstance(domain.when, Mapping) or not domain.when:
        refuse(domain, f"when={domain.when!r} is not a condition", 'Write when={"other": value}.')
    listed = {name: plain(value) for name, value in domain.when.items()}
    conditions = {name: tuple(v) if isinstance(v, list | tuple) else (v,) for name, v in listed.items()}
    for name, values in conditions.items():
        if not values:
            refuse(domain, f"the condition on {name!r} names no value", f'Write when={{"{name}": value}}.')
    return conditions
