"""A space as the user declares it: names, groups of names, and conditions on the names before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.errors import ConfigError, SpaceError
from luthier.space.codec import Slot
from luthier.space.domain_checks import plain
from luthier.space.domains import Choice, Domain, expect_domain
from luthier.space.groups import flatten
from luthier.space.values import Option, key


def declared(domains: Any, named: Mapping[str, Any]) -> dict[str, Slot]:
    """The hyperparameters of a space by name, in order.

    Args:
        domains: A mapping of names to domains or to groups of these, or pairs.
        named: More of them.

    Raises:
        SpaceError: If a name, a domain or a condition is impossible.
    """
    pairs = _pairs(domains)
    whole = [*pairs, *named.items()]
    for name, _ in whole:
        _check_name(name, {})
    if len(dict(whole)) < len(whole):
        twice = next(name for i, (name, _) in enumerate(whole) if name in dict(whole[:i]))
        raise SpaceError("the name is there twice", where=twice, remedy="Give each name once.")
    slots: dict[str, Slot] = {}
    width = 0
    for name, value in flatten(dict(whole)):
        _check_name(name, slots)
        domain = expect_domain(name, value)
        slots[name] = Slot(name, domain, width, _conditions(slots, name, domain))
        width += domain.width
    return slots


def _conditions(slots: Mapping[str, Slot], name: str, domain: Domain) -> dict[str, tuple[Option, ...]]:
    """The conditions of a domain with their values as the parents write them."""
    conditions = {}
    for other, values in sorted((domain.when or {}).items()):
        parent = slots.get(other)
        if parent is None:
            earlier = f"the names before it are {', '.join(slots)}" if slots else "it is the first name"
            what = f"its condition is on {other!r}, which is not an earlier name"
            raise SpaceError(what, where=name, remedy=f"Conditions look back only, and {earlier}.")
        if parent.vector:
            raise SpaceError(f"its condition is on the vector {other!r}", where=name, remedy="Use a Choice for it.")
        try:
            conditions[other] = _accepted(parent, values)
        except ConfigError as error:
            what = f"its condition on {other!r} can never hold: {error.what}"
            raise SpaceError(what, where=name, remedy=error.remedy) from error
    return conditions


def _accepted(parent: Slot, values: Sequence[Any]) -> tuple[Option, ...]:
    """The values of a condition as the domain has them; a tuple that is an option is that option, not several."""
    domain = parent.domain
    if isinstance(domain, Choice) and any(isinstance(option, list | tuple) for option in domain.options):
        try:
            return (domain.check(plain(tuple(values)), parent.name),)
        except ConfigError:
            pass
    return tuple({key(value): value for value in (domain.check(value, parent.name) for value in values)}.values())


def _pairs(domains: Any) -> list[tuple[str, Any]]:
    pairs = list(domains.items() if isinstance(domains, Mapping) else domains) if hasattr(domains, "__iter__") else None
    if pairs is None or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        remedy = "Write Space(name=domain, ...) or Space({name: domain, ...})."
        raise SpaceError(f"{domains!r} does not name its domains", where="space", remedy=remedy)
    return [(name, domain) for name, domain in pairs]


def _check_name(name: object, taken: Mapping[str, object]) -> None:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        remedy = "Use letters, digits and underscores, as in a Python variable, and a dot after the name of a group."
        raise SpaceError(f"{name!r} cannot be the name of a hyperparameter", where="space", remedy=remedy)
    if name in taken:
        raise SpaceError("the name is there twice", where=name, remedy="Give each name once.")
