"""The search space: named domains with conditions, sampling, codec, checks, moves and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast, overload

import numpy as np

from luthier.errors import ConfigError, SpaceError
from luthier.space import moves
from luthier.space.codec import Codec, Column, Conditions, Config, Slot, holds
from luthier.space.constraint import Constraint
from luthier.space.declared import declared
from luthier.space.domain_checks import UNSET
from luthier.space.domain_json import from_record, to_record
from luthier.space.domains import Choice, Domain, Float, Int, When
from luthier.space.finite import Finite, finite
from luthier.space.groups import Grouped, groups_of
from luthier.space.values import Option, copied, key

__all__ = ["Choice", "Column", "Conditions", "Config", "Domain", "Float", "Int", "Option", "Space", "When"]


LISTED = 100_000  # configurations of a finite space that are still looked at one by one
DRAWS = 100_000  # draws in a row of which not one fulfils the constraint, after which there is none
TRIES = 100  # changes of one configuration of which not one fulfils it, after which another is taken


class Space:
    """A search space: an immutable, ordered set of named domains.

    A name may be conditional on names before it (``when=``); where its conditions do not hold it is inactive and
    absent from the configuration. Two spaces are equal when their JSON is.

    A mapping in the place of a domain is a group: ``Space(optimizer={"lr": Float(…)})`` has the name ``optimizer.lr``,
    and a condition inside a group is on the names of the same group first. Configurations are flat dicts by whole
    names; the copies that the user's code gets (functions, Trainables, ``model(config)``) can be read by group too:
    ``config["optimizer"]["lr"]``, ``torch.optim.SGD(…, **config["optimizer"])``.

    Args:
        domains: ``{name: domain}`` or pairs of these; or give the domains as keyword arguments.
        constraint: ``f(config) -> bool``: configurations of which it is False are none of the space's. No method
            proposes one.

    Raises:
        SpaceError: If a name, a domain or a condition is impossible, or nothing fulfils the constraint.

    Examples:
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

    def __init__(
        self,
        domains: Mapping[str, Any] | Sequence[tuple[str, Any]] = (),
        /,
        *,
        constraint: Any = None,
        **named: Any,
    ) -> None:
        if isinstance(constraint, Domain | Mapping):  # a hyperparameter of this name
            named["constraint"], constraint = constraint, None
        self._slots = declared(domains, named)
        self._groups = groups_of(self._slots)
        self._codec = Codec(list(self._slots.values()))
        if constraint is not None and not isinstance(constraint, Constraint) and not callable(constraint):
            remedy = "Give a function: constraint=lambda config: config['a'] < config['b']."
            raise SpaceError(f"constraint={constraint!r} is not a function", where="space", remedy=remedy)
        rule: Any = constraint
        self.constraint: Constraint | None = rule if isinstance(rule, Constraint) else None
        if rule is not None and self.constraint is None:
            self.constraint = Constraint(cast(Any, rule))
            self.sample(np.random.default_rng(0), 16)  # what cannot be fulfilled, or raises, is refused here

    def __repr__(self) -> str:
        parts = [f"{name}={domain!r}" for name, domain in self.domains.items()]
        if self._groups:
            parts = ["{" + ", ".join(f"{name!r}: {domain!r}" for name, domain in self.domains.items()) + "}"]
        parts += [] if self.constraint is None else [f"constraint={self.constraint.name}"]
        return f"Space({', '.join(parts)})"

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def __getitem__(self, name: str) -> Domain:
        return self.domains[name]

    def __eq__(self, other: object) -> bool:
        # a space that was read back cannot judge a configuration: what is kept for one must not serve the other
        return self is other or (
            isinstance(other, Space) and self._text == other._text and self._judges == other._judges
        )

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self):
        return _rebuilt, (self.to_json(), self.constraint)

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
        """Descriptions of the codec's columns, in order."""
        return [
            Column(slot.name, i, slot.domain.kind, slot.domain.levels)
            for slot in self._slots.values()
            for i in range(slot.domain.width)
        ]

    @cached_property
    def conditions(self) -> Mapping[str, Conditions]:
        """The names that each conditional name depends on, and the values that each of them must have one of."""
        return MappingProxyType({slot.name: slot.conditions for slot in self._slots.values() if slot.conditions})

    @cached_property
    def finite(self) -> Finite | None:
        """All configurations of the domains, whatever the constraint; None where a float makes them uncountable."""
        return finite(self.domains, self.conditions)

    @cached_property
    def size(self) -> int | None:
        """Number of distinct configurations; None where a float makes them uncountable.

        Under a constraint None too where there are more than a hundred thousand to look at.
        """
        if self.finite is None:
            return None
        return self.finite.count if not self._judges else None if self.listed is None else len(self.listed)

    @cached_property
    def listed(self) -> Sequence[int] | None:
        """The numbers in :attr:`finite` of the configurations that fulfil the constraint; None where it is too long."""
        if self.finite is None or self.finite.count > LISTED:
            return None
        everything = range(self.finite.count)
        return [n for n in everything if self.feasible(self.finite[n])] if self._judges else everything

    @property
    def _judges(self) -> bool:
        return self.constraint is not None and self.constraint.function is not None

    def feasible(self, config: Mapping[str, Any]) -> bool:
        """Return True if a configuration fulfils the constraint.

        Raises:
            SpaceError: If the constraint raises.
        """
        return self.constraint is None or not self._judges or self.constraint.allows(self.given(config))

    def given(self, config: Mapping[str, Any]) -> Config:
        """A copy of a configuration for the user's code: lists are copies too, and groups can be read by their name."""
        copy = {name: copied(value) for name, value in config.items()}
        return Grouped(copy, self._groups) if self._groups else copy

    def flat(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The configuration by whole names, where the user has written its groups as dicts."""
        if not any(name in self._groups and isinstance(value, Mapping) for name, value in config.items()):
            return config
        found: Config = {}
        for name, value in config.items():
            if name in self._groups and isinstance(value, Mapping):
                found |= self.flat({f"{name}.{inner}": part for inner, part in value.items()})
            else:
                found[name] = value
        return found

    def key(self, config: Mapping[str, Any]) -> tuple[Any, ...]:
        """Something hashable that equal configurations have in common, and no others."""
        return tuple((name, key(config[name])) for name in self._slots if name in config)

    def default(self) -> Config:
        """The defaults of the domains; names without one are absent, and so are those that they make inactive.

        Raises:
            SpaceError: If no domain has a default, or they break the constraint.
        """
        found: Config = {}
        for name, slot in self._slots.items():
            known = {other: values for other, values in slot.conditions.items() if other in found}
            off = any(other in self._slots and other not in found for other in slot.conditions)
            if slot.domain.default is not UNSET and not off and holds(known, found):
                found[name] = copied(slot.domain.default)
        if not found:
            remedy = "Give some: lr=Float(1e-4, 1.0, log=True, default=1e-3)."
            raise SpaceError("no domain has a default", where="space", remedy=remedy)
        if found.keys() == self.active(found) and not self.feasible(found):
            raise SpaceError(
                f"the defaults {found!r} break the constraint", where="space", remedy="Change one of them."
            )
        return found

    @overload
    def sample(self, rng: np.random.Generator, count: None = None) -> Config: ...
    @overload
    def sample(self, rng: np.random.Generator, count: int) -> list[Config]: ...
    def sample(self, rng: np.random.Generator, count: int | None = None) -> Config | list[Config]:
        """One configuration, or ``count`` of them, drawn uniformly (on the scales of the domains).

        Raises:
            SpaceError: If nothing that fulfils the constraint is found.
        """
        wanted = 1 if count is None else count
        configs = self._codec.configs(rng.random((wanted, self._codec.width)))
        if self._judges:
            configs = self._allowed(configs, wanted, rng)
        return configs[0] if count is None else configs

    def _allowed(self, configs: list[Config], wanted: int, rng: np.random.Generator) -> list[Config]:
        """The feasible ones of ``configs`` and of further draws, as many as are wanted."""
        found, vain = [config for config in configs if self.feasible(config)], 0
        vain = 0 if found else len(configs)
        while len(found) < wanted:
            if vain >= DRAWS or (vain >= LISTED // 100 and self.listed is not None):
                return found + self._listed_draws(wanted - len(found), rng)
            more = self._codec.configs(rng.random((min(max(16, vain), 4096), self._codec.width)))
            good = [config for config in more if self.feasible(config)]
            vain = 0 if good else vain + len(more)
            found += good
        return found[:wanted]

    def _listed_draws(self, count: int, rng: np.random.Generator) -> list[Config]:
        if not self.listed or self.finite is None:
            assert self.constraint is not None, "only a constraint refuses draws"
            looked = (
                f"{DRAWS:,} draws" if self.finite is None or self.listed is None else f"{self.finite.count} of them"
            )
            what = f"no configuration fulfils the constraint {self.constraint.name!r} in {looked}"
            remedy = "Loosen it; make a Choice of what few configurations fulfil; compute in the task what others fix."
            raise SpaceError(what, where="constraint", remedy=remedy)
        return [self.finite[self.listed[int(i)]] for i in rng.integers(len(self.listed), size=count)]

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

        Decoding a code gives the configuration back up to rounding only: to pass one on, copy its dict. Those that the
        constraint refuses are among them: see :meth:`feasible`.

        Args:
            codes: (configs, columns), clipped to [0, 1].

        Raises:
            ConfigError: If the shape is wrong or a code is NaN.
        """
        return self._codec.decode(codes)

    def check(self, config: Mapping[str, Any]) -> Config:
        """A copy of ``config`` in the space's order, with NumPy's and torch's scalars made plain Python.

        Raises:
            ConfigError: If a name is unknown, missing or inactive, a value is not in its domain, or the constraint
                refuses the configuration.
        """
        checked = self.check_values(config)
        if not self.feasible(checked):
            assert self.constraint is not None, "only a constraint refuses"
            what = f"the constraint {self.constraint.name!r} refuses {checked!r}"
            raise ConfigError(what, where="configuration", remedy="Change a value that the constraint looks at.")
        return checked

    def check_values(self, config: Mapping[str, Any]) -> Config:
        """:meth:`check` without the constraint."""
        if not isinstance(config, Mapping):
            remedy = 'Give a dict: {"name": value}.'
            raise ConfigError(f"{config!r} is a {type(config).__name__}", where="configuration", remedy=remedy)
        config = self.flat(config)
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
        """A copy in the space's order in which active names without a value are drawn and inactive ones dropped.

        Where the constraint refuses what comes of it, again and again, more and more of the given values are drawn too.
        """
        self._check_names(config)
        whole = self.fill(config, rng)
        if not self._judges or self.feasible(whole):
            return whole
        for attempt in range(TRIES):
            kept = config if attempt < TRIES // 4 else _some(config, rng, 1.0 - attempt / TRIES)
            whole = self.fill(kept, rng)
            if self.feasible(whole):
                return whole
        return self.sample(rng)

    def fill(self, config: Mapping[str, Any], rng: np.random.Generator) -> Config:
        """:meth:`complete` without the constraint: no given value of an active name is changed."""
        self._check_names(config)
        whole: Config = {}
        for name, slot in self._slots.items():
            if holds(slot.conditions, whole):
                whole[name] = copied(config[name]) if name in config else self._draw(slot, rng)
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
        """Draw a configuration near ``config``, always inside the space.

        Each value (each element of a vector) is moved with the given probability: numbers by Gaussian noise on their
        scale, reflected at the bounds, or by a factor; integers by at least 1 where there is room; ordered choices to
        a neighbouring option and others to any other option. Names that become active are drawn uniformly, names that
        become inactive are dropped; what is not moved is kept exactly. What the constraint refuses is moved again, less
        far each time; where nothing else is found, the configuration stays as it is.

        Args:
            config: Active names and their values; numbers outside their bounds are first clipped if moved.
            rng: Source of the noise.
            scale: Standard deviation of the noise, as a fraction of the (logarithmic) range.
            factors: Multiply numbers by one of these, drawn uniformly, then clip: ``(0.8, 1.2)``.
            probability: Probability of moving each value.
        """
        for attempt in range(TRIES if self._judges else 1):
            near = self.fill(self._moved(config, rng, scale / (1 + attempt / 10), factors, probability), rng)
            if self.feasible(near):
                return near
        return self.complete(config, rng)

    def _moved(
        self,
        config: Mapping[str, Any],
        rng: np.random.Generator,
        scale: float,
        factors: Sequence[float] | None,
        probability: float,
    ) -> Config:
        moved: Config = {}
        for name, slot, value in self._items(config):
            new = [
                moves.move(slot.domain, v, rng, scale, factors) if probability >= 1 or rng.random() < probability else v
                for v in (value if slot.vector else [value])
            ]
            moved[name] = new if slot.vector else new[0]
        return moved

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
            near += [self.fill({**config, name: new}, rng) for new in moved]
        return [one for one in near if self.feasible(one)]

    def to_json(self) -> dict[str, Any]:
        """The space as JSON; :meth:`from_json` gives an equal space back. Order is kept even where keys are sorted."""
        records = []
        for slot in self._slots.values():
            when = (
                {"when": {other: list(values) for other, values in slot.conditions.items()}} if slot.conditions else {}
            )
            records.append({"name": slot.name, **to_record(slot.domain), **when})
        return {"domains": records} | ({} if self.constraint is None else {"constraint": self.constraint.text})

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Space:
        """The space that :meth:`to_json` wrote; of a constraint its text alone, and no function that could judge.

        Raises:
            SpaceError: If ``data`` is not such a description.
        """
        try:
            named = [(record["name"], from_record(record)) for record in data["domains"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"the description of a space cannot be read ({type(error).__name__}: {error})"
            raise SpaceError(what, where="space", remedy="It must be what Space.to_json() wrote.") from error
        constraint = Constraint(None, data["constraint"]) if "constraint" in data else None
        return Space(named, constraint=constraint)

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.to_json(), sort_keys=True)

    def _draw(self, slot: Slot, rng: np.random.Generator) -> Any:
        start, length = slot.domain.stretch
        values = slot.domain.values((start + length * rng.random(slot.domain.width)).tolist())
        return values if slot.vector else values[0]

    def _items(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Slot, Any]]:
        """Iterate over the entries of ``config`` in the space's order: a database may have returned them in another."""
        self._check_names(config)
        return ((name, slot, config[name]) for name, slot in self._slots.items() if name in config)

    def _check_names(self, config: Mapping[str, Any]) -> None:
        if config.keys() <= self._slots.keys():
            return
        name = str(next(name for name in config if name not in self._slots))
        near = get_close_matches(name, self._slots, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"The names are {', '.join(self._slots)}."
        raise ConfigError("there is no such hyperparameter in the space", where=name, remedy=remedy)


def _rebuilt(data: Mapping[str, Any], constraint: Constraint | None) -> Space:
    space = Space.from_json(data)
    space.constraint = constraint
    return space


def _some(config: Mapping[str, Any], rng: np.random.Generator, share: float) -> Config:
    """Each value of a configuration with the probability ``share``."""
    return {name: config[name] for name, lot in zip(config, rng.random(len(config)), strict=True) if lot < share}
