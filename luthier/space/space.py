"""The search space: named domains with conditions, sampling, codec, checks, moves and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from luthier.errors import ConfigError, SpaceError
from luthier.space import moves
from luthier.space.codec import Codec, Column, Conditions, Config, Slot, holds
from luthier.space.combinations import Combinations
from luthier.space.domains import Choice, Domain, Float, Int, Option, When, expect_domain, from_record, to_record

__all__ = ["Choice", "Column", "Conditions", "Config", "Domain", "Float", "Int", "Option", "Space", "When"]


class Space:
    """A search space: an immutable, ordered set of named domains.

    A name may be conditional on names before it (``when=``); where its conditions do not hold it is inactive and
    absent from the configuration. Two spaces are equal when their JSON is.

    Args:
        domains: ``{name: domain}`` or pairs of these; or give the domains as keyword arguments.

    Raises:
        SpaceError: If a name, a domain or a condition is impossible.

    Example:
        >>> space = Space(
        ...     lr=Float(1e-4, 1.0, log=True),
        ...     optimizer=Choice(["sgd", "adam"]),
        ...     momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
        ... )
        >>> space.decode([[0.5, 0.9, 0.5]])
        [{'lr': 0.01, 'optimizer': 'adam'}]
        >>> codes, mask = space.encode([{"lr": 0.01, "optimizer": "adam"}])
        >>> codes.tolist(), mask.tolist()
        ([[0.5, 0.75, 0.5]], [[True, True, False]])
    """

    def __init__(self, domains: Mapping[str, Domain] | Sequence[tuple[str, Domain]] = (), /, **named: Domain) -> None:
        self._slots: dict[str, Slot] = {}
        width = 0
        for name, value in [*_pairs(domains), *named.items()]:
            _check_name(name, self._slots)
            domain = expect_domain(name, value)
            self._slots[name] = Slot(name, domain, width, self._conditions(name, domain))
            width += domain.width
        self._codec = Codec(list(self._slots.values()))

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{name}={domain!r}' for name, domain in self.domains.items())})"

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def __getitem__(self, name: str) -> Domain:
        return self.domains[name]

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Space) and self._text == other._text)

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self):
        return Space.from_json, (self.to_json(),)

    @cached_property
    def domains(self) -> Mapping[str, Domain]:
        """The domain of each name, in order."""
        return MappingProxyType({name: slot.domain for name, slot in self._slots.items()})

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return list(self._slots)

    @cached_property
    def columns(self) -> list[Column]:
        """What each column of the codec is."""
        return [
            Column(slot.name, i, slot.domain.kind, slot.domain.levels)
            for slot in self._slots.values()
            for i in range(slot.domain.width)
        ]

    @cached_property
    def conditions(self) -> Mapping[str, Conditions]:
        """For each conditional name: the names it depends on, and the values that each of them must have one of."""
        return MappingProxyType({slot.name: slot.conditions for slot in self._slots.values() if slot.conditions})

    @cached_property
    def size(self) -> int | None:
        """Number of distinct configurations; None where a float makes them uncountable."""
        axes: dict[str, Sequence[Option]] = {}
        for name, domain in self.domains.items():
            if isinstance(domain, Float):
                return None
            axes[name] = range(domain.low, domain.high + 1) if isinstance(domain, Int) else tuple(domain.options)
        return Combinations(axes, self.conditions).count

    @overload
    def sample(self, rng: np.random.Generator, count: None = None) -> Config: ...
    @overload
    def sample(self, rng: np.random.Generator, count: int) -> list[Config]: ...
    def sample(self, rng: np.random.Generator, count: int | None = None) -> Config | list[Config]:
        """One configuration, or ``count`` of them, drawn uniformly (on the scales of the domains)."""
        configs = self._codec.configs(rng.random((1 if count is None else count, self._codec.width)))
        return configs[0] if count is None else configs

    def encode(self, configs: Sequence[Config]) -> tuple[np.ndarray, np.ndarray]:
        """Configurations as points of the unit cube.

        A code does not depend on what is encoded with it. Values beyond a bound get the code of the bound.

        Args:
            configs: Configurations that would pass :meth:`check`.

        Returns:
            Codes, (configs, columns) float64 in [0, 1], 0.5 where inactive; and which are active, the same shape, bool.

        Raises:
            ConfigError: If a configuration cannot be encoded.
        """
        try:
            return self._codec.encode(configs)
        except (KeyError, TypeError, ValueError):
            for config in configs:
                self.check(config)
            raise

    def decode(self, codes: np.ndarray | Sequence[Sequence[float]]) -> list[Config]:
        """The configurations at points of the unit cube; codes of names that turn out inactive are ignored.

        Decoding a code gives the configuration back up to rounding only: to pass one on, copy its dict.

        Args:
            codes: (configs, columns), clipped to [0, 1].

        Raises:
            ConfigError: If the shape is wrong or a code is NaN.
        """
        return self._codec.decode(codes)

    def check(self, config: Mapping[str, Any]) -> Config:
        """A copy of ``config`` in the space's order, with NumPy's and torch's scalars made plain Python.

        Raises:
            ConfigError: If a name is unknown, missing or inactive, or a value is not in its domain.
        """
        if not isinstance(config, Mapping):
            remedy = 'Give a dict: {"name": value}.'
            raise ConfigError(f"{config!r} is a {type(config).__name__}", where="configuration", remedy=remedy)
        self._check_names(config)
        checked: Config = {}
        for name, slot in self._slots.items():
            active = holds(slot.conditions, checked)
            if active and name in config:
                checked[name] = slot.domain.check(config[name], name)
            elif active:
                what = "an active hyperparameter has no value"
                raise ConfigError(what, where=name, remedy=f"Give one in {slot.domain!r}.")
            elif name in config:
                needs = " and ".join(f"{other} in {list(values)}" for other, values in slot.conditions.items())
                remedy = f"Leave it out, or fulfil its condition: {needs}."
                what = f"an inactive hyperparameter has the value {config[name]!r}"
                raise ConfigError(what, where=name, remedy=remedy)
        return checked

    def active(self, config: Mapping[str, Any]) -> set[str]:
        """The names that are active under the values in ``config``."""
        seen: Config = {}
        names = set()
        for name, slot in self._slots.items():
            if holds(slot.conditions, seen):
                names.add(name)
                if name in config:
                    seen[name] = config[name]
        return names

    def complete(self, config: Mapping[str, Any], rng: np.random.Generator) -> Config:
        """A copy in the space's order in which active names without a value are drawn and inactive ones dropped."""
        self._check_names(config)
        whole: Config = {}
        for name, slot in self._slots.items():
            if holds(slot.conditions, whole):
                whole[name] = config[name] if name in config else self._draw(slot, rng)
        return whole

    def clip(self, config: Mapping[str, Any]) -> Config:
        """A copy with every number moved to the nearest value of its domain (what an adapter moved may be outside)."""
        near: Config = {}
        for name, slot, value in self._items(config):
            near[name] = [moves.clip(slot.domain, v) for v in value] if slot.vector else moves.clip(slot.domain, value)
        return near

    def perturb(
        self,
        config: Mapping[str, Any],
        rng: np.random.Generator,
        *,
        scale: float = 0.1,
        factors: Sequence[float] | None = None,
        probability: float = 1.0,
    ) -> Config:
        """A configuration near ``config``, always inside the space.

        Each value (each element of a vector) is moved with the given probability: numbers by Gaussian noise on their
        scale, reflected at the bounds, or by a factor; integers by at least 1 where there is room; ordered choices to
        a neighbouring option and others to any other option. Names that become active are drawn uniformly, names that
        become inactive are dropped; what is not moved is kept exactly.

        Args:
            config: Active names and their values; numbers outside their bounds are first clipped if moved.
            rng: Source of the noise.
            scale: Standard deviation of the noise, as a fraction of the (logarithmic) range.
            factors: Multiply numbers by one of these, drawn uniformly, then clip: ``(0.8, 1.2)``.
            probability: Of moving each value.
        """
        moved: Config = {}
        for name, slot, value in self._items(config):
            new = [
                moves.move(slot.domain, v, rng, scale, factors) if probability >= 1 or rng.random() < probability else v
                for v in (value if slot.vector else [value])
            ]
            moved[name] = new if slot.vector else new[0]
        return self.complete(moved, rng)

    def neighbours(
        self, config: Mapping[str, Any], rng: np.random.Generator, *, scale: float = 0.1, count: int = 4
    ) -> list[Config]:
        """Configurations that differ from ``config`` in one name (and in what it switches on or off).

        For each active name: ``count`` values near a float (of a vector: each with one element moved); the integers
        above and below, and up to ``count`` near ones; the options next to an ordered one; all other options.
        """
        near: list[Config] = []
        for name, slot, value in self._items(config):
            if slot.vector:
                elements = rng.integers(len(value), size=count).tolist()
                draws = [moves.move(slot.domain, value[i], rng, scale, None) for i in elements]
                moved = [
                    [*value[:i], v, *value[i + 1 :]] for i, v in zip(elements, draws, strict=True) if v != value[i]
                ]
            else:
                moved = moves.neighbours(slot.domain, value, rng, scale, count)
            near += [self.complete({**config, name: new}, rng) for new in moved]
        return near

    def to_json(self) -> dict[str, Any]:
        """The space as JSON; :meth:`from_json` gives an equal space back. Order is kept even where keys are sorted."""
        records = []
        for slot in self._slots.values():
            when = (
                {"when": {other: list(values) for other, values in slot.conditions.items()}} if slot.conditions else {}
            )
            records.append({"name": slot.name, **to_record(slot.domain), **when})
        return {"domains": records}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Space:
        """The space that :meth:`to_json` wrote.

        Raises:
            SpaceError: If ``data`` is not such a description.
        """
        try:
            named = [(record["name"], from_record(record)) for record in data["domains"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"the description of a space cannot be read ({type(error).__name__}: {error})"
            raise SpaceError(what, where="space", remedy="It must be what Space.to_json() wrote.") from error
        return Space(named)

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.to_json(), sort_keys=True)

    def _draw(self, slot: Slot, rng: np.random.Generator) -> Any:
        start, length = slot.domain.stretch
        values = slot.domain.values((start + length * rng.random(slot.domain.width)).tolist())
        return values if slot.vector else values[0]

    def _conditions(self, name: str, domain: Domain) -> dict[str, tuple[Option, ...]]:
        """The conditions of a domain with their values as the parents write them."""
        conditions = {}
        for other, values in sorted((domain.when or {}).items()):
            parent = self._slots.get(other)
            if parent is None:
                earlier = f"the names before it are {', '.join(self._slots)}" if self._slots else "it is the first name"
                what = f"its condition is on {other!r}, which is not an earlier name"
                raise SpaceError(what, where=name, remedy=f"Conditions look back only, and {earlier}.")
            if parent.vector:
                raise SpaceError(f"its condition is on the vector {other!r}", where=name, remedy="Use a Choice for it.")
            try:
                conditions[other] = tuple(dict.fromkeys(parent.domain.check(value, other) for value in values))
            except ConfigError as error:
                what = f"its condition on {other!r} can never hold: {error.what}"
                raise SpaceError(what, where=name, remedy=error.remedy) from error
        return conditions

    def _items(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Slot, Any]]:
        """What ``config`` names, in the space's order: a database may have given it back in another one."""
        self._check_names(config)
        return ((name, slot, config[name]) for name, slot in self._slots.items() if name in config)

    def _check_names(self, config: Mapping[str, Any]) -> None:
        if config.keys() <= self._slots.keys():
            return
        name = str(next(name for name in config if name not in self._slots))
        near = get_close_matches(name, self._slots, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"The names are {', '.join(self._slots)}."
        raise ConfigError("there is no such hyperparameter in the space", where=name, remedy=remedy)


def _pairs(domains: Any) -> list[tuple[str, Any]]:
    pairs = list(domains.items() if isinstance(domains, Mapping) else domains) if hasattr(domains, "__iter__") else None
    if pairs is None or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        remedy = "Write Space(name=domain, ...) or Space({name: domain, ...})."
        raise SpaceError(f"{domains!r} does not name its domains", where="space", remedy=remedy)
    return [(name, domain) for name, domain in pairs]


def _check_name(name: object, taken: Mapping[str, object]) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        remedy = "Use letters, digits and underscores, as in a Python variable."
        raise SpaceError(f"{name!r} cannot be the name of a hyperparameter", where="space", remedy=remedy)
    if name in taken:
        raise SpaceError("the name is there twice", where=name, remedy="Give each name once.")
