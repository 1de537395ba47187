"""What a domain refuses when it is made: bounds, scales, shapes and conditions that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NoReturn

from luthier.errors import SpaceError


def plain(value: Any) -> Any:
    """NumPy's and torch's scalars and arrays as plain Python."""
    return value.tolist() if hasattr(value, "tolist") else value


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


def flag(domain: Any, name: str) -> bool:
    """The field ``name``, True or False."""
    value = getattr(domain, name)
    if not isinstance(value, bool):
        refuse(domain, f"{name}={value!r} is not True or False", f"Write {name}=True.")
    return value


def shape(domain: Any) -> tuple[int, ...]:
    """The field ``shape``: () or (d,)."""
    sizes = tuple(domain.shape) if isinstance(domain.shape, tuple | list) else (0, 0)
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
