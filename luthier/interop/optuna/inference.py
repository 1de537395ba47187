"""The search space of a study that defined it while it ran, read from its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from luthier.errors import StudyError
from luthier.interop.optuna.library import optuna
from luthier.interop.optuna.parameters import Distribution
from luthier.interop.optuna.timeline import FrozenTrial, TrialState
from luthier.space import Choice, Domain, Float, Int, Space

MOST = 1_000  # options that a range with steps may become


def infer_space(trials: Sequence[FrozenTrial], where: str) -> Space:
    """The space of finished trials; see :func:`luthier.interop.optuna.from_optuna`.

    Args:
        trials: The trials.
        where: Of the study, for errors.

    Raises:
        StudyError: If there is none, or it cannot be read from them.
    """
    whole = [one for one in trials if one.state in (TrialState.COMPLETE, TrialState.PRUNED) and one.params]
    if not whole:
        remedy = "Run it first, or give what luthier.interop.optuna.to_optuna made."
        raise StudyError("no trial has ended with a value", where=f"study {where!r}", remedy=remedy)
    domains: dict[str, Domain] = {}
    seen: dict[str, Distribution] = {}
    for trial in whole:
        for name, one in trial.distributions.items():
            if seen.setdefault(name, one) != one:
                what = f"its distribution has changed from {seen[name]!r} to {one!r}"
                remedy = "Import the trials of each distribution by themselves."
                raise StudyError(what, where=f"study {where!r}, {name}", remedy=remedy)
            domains.setdefault(name, _domain(name, one, where))
    always = [name for name in domains if all(name in one.params for one in whole)]
    placed = {name: domains[name] for name in always}
    rest = [name for name in domains if name not in placed]
    while rest:
        found = [(name, when) for name in rest if (when := _condition(name, whole, placed)) is not None]
        if not found:
            what = f"{rest[0]!r} was asked for in some trials alone, and no parameter of discrete values says in which"
            remedy = "Give the history a space by hand: luthier.History(space), and its jobs."
            raise StudyError(what, where=f"study {where!r}", remedy=remedy)
        for name, when in found:
            placed[name] = replace(domains[name], when=when)
            rest.remove(name)
    return Space(placed)


def _condition(name: str, trials: Sequence[FrozenTrial], placed: dict[str, Domain]) -> dict[str, list[Any]] | None:
    """A parameter whose values say whether ``name`` is asked for."""
    for other, domain in placed.items():
        if isinstance(domain, Float):
            continue
        have = [nearest(domain, one.params[other]) for one in trials if name in one.params and other in one.params]
        lack = [nearest(domain, one.params[other]) for one in trials if name not in one.params and other in one.params]
        complete = len(have) == sum(name in one.params for one in trials)
        if complete and not set(have) & set(lack) and (lack or domain.when is not None):
            values = domain.options if isinstance(domain, Choice) else range(domain.low, domain.high + 1)
            return {other: [value for value in values if value in set(have)]}
    return None


def _domain(name: str, one: Distribution, where: str) -> Domain:
    if isinstance(one, optuna.distributions.CategoricalDistribution):
        return Choice(one.choices)
    assert isinstance(one, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    whole = isinstance(one, optuna.distributions.IntDistribution)
    if one.single():
        return Choice([one.low])
    if one.step is None or (whole and one.step == 1):
        return Int(one.low, one.high, log=one.log) if whole else Float(one.low, one.high, log=one.log)
    count = round((one.high - one.low) / one.step) + 1
    if count > MOST:
        what = f"{one!r} has {count} steps, which would be as many options"
        remedy = f"At most {MOST} can be imported: use a range without steps."
        raise StudyError(what, where=f"study {where!r}, {name}", remedy=remedy)
    return Choice([one.low + i * one.step for i in range(count)], ordered=True)


def nearest(domain: Domain, value: Any) -> Any:
    """The option that a value is; of a range with steps, which are rounded in several ways, the nearest one."""
    if not isinstance(domain, Choice) or value in domain.positions:
        return value
    numbers = [one for one in domain.options if isinstance(one, int | float)]
    return min(numbers, key=lambda one: abs(one - value), default=value) if isinstance(value, float) else value
