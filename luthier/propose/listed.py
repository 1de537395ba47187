"""Configurations that a user lists: the only ones that a method begins, each exactly as it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from luthier.errors import ConfigError, MethodError
from luthier.jobs import History, Job
from luthier.space import Config, Space
from luthier.space.encoder import Points, encoding_of


class Listed(NamedTuple):
    """Listed configurations.

    Args:
        configs: The configurations, distinct.
        points: The same as points; their codes say where they lie, and no value comes from them.
    """

    configs: list[Config]
    points: Points

    def left(self, history: History, new: Sequence[Job]) -> Listed | None:
        """Those that were begun neither in the history nor by ``new``; None where all were."""
        key = history.space.key
        begun = {key(job.config) for job in (*history.jobs, *new) if job.parent is None}
        rows = [row for row, config in enumerate(self.configs) if key(config) not in begun]
        return Listed([self.configs[row] for row in rows], self.points.take(rows)) if rows else None


def drawn(size: int, count: int, rng: np.random.Generator) -> list[int]:
    """At most ``count`` different places among ``size``, which may be too many for a range."""
    return list(dict.fromkeys(int(share * size) for share in rng.random(4 * count)))[:count]


def check_list(name: str, given: Any, where: str) -> None:
    """Refuse what is no list of configurations, and an empty one.

    Raises:
        MethodError: Naming the setting.
    """
    remedy = 'Give the configurations that there are: [{"lr": 0.1}, {"lr": 0.3}].'
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise MethodError(f"{name} must be a list of configurations, got {given!r}", where=where, remedy=remedy)
    if not given:
        raise MethodError(f"{name} is empty: there is nothing to try", where=where, remedy=remedy)


def check_listed(name: str, given: Sequence[Any], space: Space, where: str) -> list[Config]:
    """The configurations in plain Python, without repetitions.

    Raises:
        MethodError: If one does not belong to the space, with its place.
    """
    found: dict[Any, Config] = {}
    for place, one in enumerate(given):
        try:
            config = space.check(one)
        except ConfigError as error:
            at = f"{where}: {name}[{place}]" + ("" if error.where == "configuration" else f", {error.where}")
            raise MethodError(error.what, where=at, remedy=error.remedy) from error
        found.setdefault(space.key(config), config)
    return list(found.values())


def some(
    name: str, given: Sequence[Any], where: str, space: Space, count: int, rng: np.random.Generator
) -> list[Config]:
    """At most ``count`` of the listed configurations, all of which are checked.

    Raises:
        MethodError: If there is none, or one does not belong to the space.
    """
    check_list(name, given, where)
    found = check_listed(name, given, space, where)
    return [found[place] for place in drawn(len(found), count, rng)]


def listed(name: str, given: Sequence[Any], history: History, where: str) -> Listed:
    """The listed configurations of a study, checked once.

    Raises:
        MethodError: If one does not belong to the space.
    """

    def begin() -> Listed:
        configs = check_listed(name, given, history.space, where)
        return Listed(configs, encoding_of(history.space).points(configs))

    return history.fold(("listed", where, name), begin, lambda found, event: found)
