"""Moves inside a domain: what population methods and local searches call, always landing inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.space.domains import Choice, Domain, Float, Int
from luthier.space.values import copied


def clip(domain: Domain, value: Any) -> Any:
    """The nearest value of the domain (of one element of a vector); an option is returned as it is."""
    if isinstance(domain, Choice):
        return value
    low, high = domain.low, domain.high
    near = min(max(round(value) if isinstance(domain, Int) and domain.step is None else float(value), low), high)
    return near if domain.step is None else domain.values(domain.numbers([near]))[0]


def move(domain: Domain, value: Any, rng: np.random.Generator, scale: float, factors: Sequence[float] | None) -> Any:
    """Another value near ``value`` (one element of a vector), where there is one; see :meth:`luthier.Space.perturb`."""
    if isinstance(domain, Choice):
        return _move_option(domain, value, rng)
    old = clip(domain, value)
    if factors is None:
        noise = scale * rng.normal()
        return _settle(domain, old, domain.values([_shift(domain, old, noise)])[0], noise > 0)
    factor = factors[int(rng.integers(len(factors)))]
    # zero times any factor is zero, and a hyperparameter would be stuck there for good
    new = old * factor if old else (factor - 1.0) * (domain.high - domain.low)
    return _settle(domain, old, clip(domain, new), (factor > 1) == (old >= 0))


def neighbours(domain: Domain, value: Any, rng: np.random.Generator, scale: float, count: int) -> list[Any]:
    """Values near ``value`` (one element of a vector); see :meth:`luthier.Space.neighbours`."""
    if isinstance(domain, Choice):
        old = domain.index(value)
        last = len(domain.options) - 1
        near = [i for i in (old - 1, old + 1) if 0 <= i <= last] if domain.ordered else range(last + 1)
        return [copied(domain.options[i]) for i in near if i != old]
    old = clip(domain, value)
    near = []
    if domain.axis is not None:
        place = domain.index(old)
        near = [domain.axis[i] for i in (place - 1, place + 1) if 0 <= i < len(domain.axis)]
    near += [move(domain, old, rng, scale, None) for _ in range(count)]
    return [v for v in dict.fromkeys(near) if v != old]


def _move_option(domain: Choice, value: Any, rng: np.random.Generator) -> Any:
    old, last = domain.index(value), len(domain.options) - 1
    if last == 0:
        return value
    if domain.ordered:
        return copied(domain.options[_step(old, bool(rng.integers(2)), 0, last)])
    new = int(rng.integers(last))
    return copied(domain.options[new + (new >= old)])


def _settle(domain: Float | Int, old: float, new: float, up: bool) -> float:
    """``new``, or where a finite domain has values between which it has not moved, the next one."""
    if domain.axis is None or new != old:
        return new
    return domain.axis[_step(domain.index(old), up, 0, len(domain.axis) - 1)]


def _shift(domain: Float | Int, value: float, noise: float) -> float:
    """The place ``noise`` (a fraction of the stretch) away from ``value``, reflected at the ends."""
    start, length = domain.stretch
    code = abs((domain.numbers([value])[0] - start) / length + noise) % 2.0
    return start + min(code, 2.0 - code) * length


def _step(old: int, up: bool, low: int, high: int) -> int:
    """The whole number next to ``old``, on the other side where the wanted one is outside."""
    new = old + 1 if up else old - 1
    return new if low <= new <= high else min(max(2 * old - new, low), high)
