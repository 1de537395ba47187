"""A search space as the parameters of Optuna's trials, and configurations as their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from luthier.interop.optuna.library import optuna
from luthier.space import Choice, Config, Domain, Float, Space
from luthier.space.codec import Conditions, holds
from luthier.space.values import copied

Distribution = optuna.distributions.BaseDistribution


@dataclass(frozen=True)
class Parameter:
    """One parameter of a trial: a hyperparameter, or one element of a vector.

    Args:
        key: Optuna's name for it: ``"lr"``, or ``"rates[2]"`` for an element.
        name: The hyperparameter.
        index: Index of the element, or None.
        domain: The hyperparameter's domain.
        conditions: Conditions under which it is active.
        distribution: The distribution that Optuna draws from.
        places: Optuna draws the place among the values: of an ordered choice, and of what has steps or options that
            Optuna cannot write.
    """

    key: str
    name: str
    index: int | None
    domain: Domain
    conditions: Conditions
    distribution: Distribution
    places: bool

    def active(self, config: Mapping[str, Any]) -> bool:
        """Return True if it is active under the values of the names before it."""
        return holds(self.conditions, config)

    def suggest(self, trial: optuna.Trial) -> Any:
        """The value that Optuna draws, as Optuna writes it."""
        one = self.distribution
        if isinstance(one, optuna.distributions.FloatDistribution):
            return trial.suggest_float(self.key, one.low, one.high, log=one.log)
        if isinstance(one, optuna.distributions.IntDistribution):
            return trial.suggest_int(self.key, one.low, one.high, log=one.log)
        assert isinstance(one, optuna.distributions.CategoricalDistribution)
        return trial.suggest_categorical(self.key, one.choices)

    def put(self, config: dict[str, Any], value: Any, foreign: bool = False) -> None:
        """Write the value that Optuna drew into a configuration; ``foreign`` is one that luthier has not described."""
        places = self.places and not foreign and self.domain.axis is not None
        value = copied(self.domain.axis[value]) if places else value  # type: ignore[index]
        if self.index is None:
            config[self.name] = value
        else:
            config.setdefault(self.name, []).append(value)

    def take(self, config: Mapping[str, Any]) -> Any:
        """The value in a configuration, as Optuna writes it."""
        value = config[self.name]
        value = value if self.index is None else value[self.index]
        return self.domain.index(value) if self.places else value

    @property
    def middle(self) -> Any:
        """The middle of the domain, as Optuna writes it: what an inactive parameter has before it was ever drawn."""
        start, length = self.domain.stretch
        [value] = self.domain.values([start + length / 2])
        return self.domain.index(value) if self.places else value


@lru_cache(maxsize=16)
def parameters(space: Space, places: bool) -> tuple[Parameter, ...]:
    """The parameters of a space, in its order.

    Args:
        space: The space.
        places: Let Optuna see an ordered choice as an integer, the place of the option: its samplers know no order
            among the options of a categorical parameter. Without it, they are shown as they are.
    """
    found = []
    for name, domain in space.domains.items():
        distribution, placed = _distribution(domain, places)
        vector = isinstance(domain, Float) and bool(domain.shape)
        for index in range(domain.width) if vector else [None]:
            key = name if index is None else f"{name}[{index}]"
            conditions = space.conditions.get(name, {})
            found.append(Parameter(key, name, index, domain, conditions, distribution, placed))
    return tuple(found)


def _distribution(domain: Domain, places: bool) -> tuple[Distribution, bool]:
    if isinstance(domain, Choice):
        several = any(isinstance(option, list | tuple) for option in domain.options)
        choices: Any = domain.options
        if several and not domain.ordered:
            return optuna.distributions.CategoricalDistribution(tuple(range(len(domain.options)))), True
        if several or (places and domain.ordered):
            return optuna.distributions.IntDistribution(0, len(domain.options) - 1), True
        return optuna.distributions.CategoricalDistribution(choices), False
    if domain.step is not None:
        assert domain.axis is not None, "a domain with a step is finite"
        return optuna.distributions.IntDistribution(0, len(domain.axis) - 1), True
    if isinstance(domain, Float):
        return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log), False
    return optuna.distributions.IntDistribution(domain.low, domain.high, log=domain.log), False


def values(config: Config, found: Sequence[Parameter]) -> dict[str, Any]:
    """Values that are active in a configuration, as the parameters of a trial."""
    return {one.key: one.take(config) for one in found if one.name in config}


def distributions(params: Mapping[str, Any], found: Sequence[Parameter]) -> dict[str, Distribution]:
    """The distributions of those parameters that have a value."""
    return {one.key: one.distribution for one in found if one.key in params}
