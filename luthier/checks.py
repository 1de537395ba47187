"""One form of checking arguments: ``name must be an integer ≥ 1, got 0``, then the place and the remedy.

A rule says what is accepted; NumPy's scalars are, and become Python's own numbers::

    checked("count", count, whole(1), where="Generator.sample")            # the value, or an error
    require(self, "Bilevel", inner_steps=whole(1), outer_lr=real(above=0), outer=one_of("adam", "sgd"))
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luthier.errors import LuthierError, MethodError


@dataclass(frozen=True)
class Rule:
    """Requirement on an argument.

    Args:
        text: The requirement, to follow "must be".
        accepts: Predicate that returns True for values that fulfil it.
    """

    text: str
    accepts: Callable[[Any], bool]


def whole(least: int | None = None, most: int | None = None) -> Rule:
    """Return the rule for integers within bounds; True and False are none."""
    within = real(least, most)
    text = f"an integer{within.text.removeprefix('a finite number')}"
    return Rule(text, lambda value: isinstance(value, numbers.Integral) and within.accepts(value))


def real(
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Rule:
    """Return the rule for finite numbers within bounds, closed (``least``, ``most``) or open (``above``, ``below``)."""
    bounds = {"≥": least, ">": above, "≤": most, "<": below}
    said = " and ".join(f"{sign} {bound:.12g}" for sign, bound in bounds.items() if bound is not None)

    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        number: Any = value
        low = number > -math.inf and (least is None or number >= least) and (above is None or number > above)
        return low and number < math.inf and (most is None or number <= most) and (below is None or number < below)

    return Rule(f"a finite number {said}".rstrip(), accepts)


def one_of(*options: Any) -> Rule:
    """Return the rule for one of a few values."""
    *most, last = map(repr, options)
    text = f"{', '.join(most)} or {last}" if most else last

    def accepts(value: Any) -> bool:  # 1 is neither True nor 1.0
        return any(
            isinstance(value, type(x)) and isinstance(value, bool) == isinstance(x, bool) and value == x
            for x in options
        )

    return Rule(text, accepts)


def maybe(rule: Rule) -> Rule:
    """Return the rule that accepts None too."""
    return Rule(f"{rule.text} or None", lambda value: value is None or rule.accepts(value))


def checked(
    name: str, value: Any, rule: Rule, *, where: str, error: type[LuthierError] = MethodError, remedy: str = ""
) -> Any:
    """Return the value after checking it; a NumPy number comes back as Python's own type.

    Args:
        name: The argument.
        value: The value given for it.
        rule: The requirement on it.
        where: The place that an error names.
        error: Its class.
        remedy: Its remedy; by default to give what is accepted.

    Raises:
        LuthierError: If the rule does not accept it.

    Examples:
        >>> checked("steps", 3, whole(1), where="a doctest")
        3
        >>> checked("steps", 0, whole(1), where="a doctest")
        Traceback (most recent call last):
        luthier.errors.MethodError: a doctest: steps must be an integer ≥ 1, got 0. Give an integer ≥ 1.
    """
    scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    taken = value.item() if scalar else value  # np.bool_ is no bool, np.array(3) no number
    if not rule.accepts(taken):
        raise error(f"{name} must be {rule.text}, got {value!r}", where=where, remedy=remedy or f"Give {rule.text}.")
    if isinstance(taken, bool | int | float) or not isinstance(taken, numbers.Real):
        return taken
    return int(taken) if isinstance(taken, numbers.Integral) else float(taken)


def require(settings: Any, where: str, error: type[LuthierError] = MethodError, /, **rules: Rule) -> None:
    """Check the fields of a dataclass, and put Python's own numbers there.

    Args:
        settings: The dataclass, frozen or not.
        where: The place that an error names.
        error: Its class.
        **rules: Requirement on each field.

    Raises:
        LuthierError: If a field breaks its rule.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for name, rule in rules.items():
        value, default = getattr(settings, name), defaults[name]
        remedy = "" if default is dataclasses.MISSING else f"The default is {default!r}."
        taken = checked(name, value, rule, where=where, error=error, remedy=remedy)
        if taken is not value:
            object.__setattr__(settings, name, taken)
