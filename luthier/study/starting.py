"""Configurations of the user's that a study tries first: made whole, and each tried once however often it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.errors import ConfigError, MethodError, StudyError
from luthier.jobs import ENQUEUED, History
from luthier.optional import optional
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.study.ledger import Ledger

DRAWS = 200  # attempts to find values under which all that was given is active


def check_start(start: Any, space: Space, proposer: Any, trials: int | None, seed: int) -> list[Config]:
    """The configurations to start with, whole.

    Args:
        start: One configuration or several, ``"default"`` for that of the space's defaults; names may be left out, and
            are drawn from the space by the seed.
        space: The search space.
        proposer: The study's method.
        trials: Those that the study may start.
        seed: The study's.

    Raises:
        ConfigError: If one does not belong to the space.
        MethodError: If the method visits fixed points.
        StudyError: If there are more than ``trials``.
    """
    given = [start] if isinstance(start, Mapping | str) else start
    if not isinstance(given, Sequence):
        remedy = 'Give a list of them: start=[{"lr": 0.1}].'
        raise ConfigError(f"start must be configurations, got {start!r}", where="start", remedy=remedy)
    if not given:
        return []
    given = [space.default() if isinstance(one, str) and one == "default" else one for one in given]
    refuse_fixed(proposer, given[0], "start")
    if trials is not None and len(given) > trials:
        remedy = "Give more trials, or fewer configurations."
        raise StudyError(f"{len(given)} configurations came for trials={trials}", where="start", remedy=remedy)
    return [completed(one, space, Seeds(seed), place, f"start[{place}]") for place, one in enumerate(given)]


def completed(given: Any, space: Space, seeds: Seeds, place: int, where: str) -> Config:
    """One configuration, the names that it leaves out drawn from the space: the same for the same seed and place.

    Raises:
        ConfigError: If it does not belong to the space.
    """
    if not isinstance(given, Mapping):
        what = f"{where} must be a configuration, got {given!r}"
        raise ConfigError(what, where=where.partition("[")[0], remedy='Give a dict: {"lr": 0.1}.')
    given, rng = space.flat(given), seeds.rng(place, "start")
    whole: Config = {}
    for _ in range(DRAWS):
        whole = space.complete(given, rng)  # drops what the values drawn make inactive
        if whole.keys() >= given.keys():
            return space.check(whole)
    lost = next(name for name in given if name not in whole)
    raise ConfigError(
        f"{where} has {lost}={given[lost]!r}, which no values of the other names make active",
        where=lost,
        remedy="Give the name that its condition is on too.",
    )


def refuse_fixed(proposer: Any, config: Any, where: str) -> None:
    """Refuse a configuration of the user's under a method that visits fixed points.

    Raises:
        MethodError: If it does.
    """
    if optional(proposer, "size"):
        raise MethodError(
            f"{proposer!r} visits fixed points, and {config!r} would replace one of them",
            where=where,
            remedy="Add the values to the grid's points, or use another method.",
        )


def begun_by(proposer: Any, space: Space, count: int, rng: np.random.Generator) -> list[Config] | None:
    """At most ``count`` of the only configurations that a method begins, drawn; None where it may begin any.

    Raises:
        MethodError: If one of them does not belong to the space.
    """
    while (begins := optional(proposer, "begins")) is None:
        if (proposer := getattr(proposer, "inner", None)) is None:
            return None
    return begins(space, count, rng)


def enqueue_new(ledger: Ledger, configs: Sequence[Config]) -> list[int | None]:
    """Enqueue those configurations that the study has neither enqueued nor started yet.

    A configuration that comes twice is started twice, and never more often, however often this is asked.

    Returns:
        The places of all of them in ``history.enqueued``; None for one that the method has started by itself.
    """
    if not configs:
        return []
    ledger.sync()
    known = _known(ledger.history)
    return [queue.pop(0) if (queue := known.get(text(one))) else ledger.enqueue(one) for one in configs]


def _known(history: History) -> dict[str, list[int | None]]:
    """Map each configuration's text to its places in the queue, and to None for each start by the method itself."""
    found: dict[str, list[int | None]] = {}
    for place, config in enumerate(history.enqueued):
        found.setdefault(text(config), []).append(place)
    for job in history.jobs:
        if job.parent is None and ENQUEUED not in job.tag:
            found.setdefault(text(job.config), []).append(None)
    return found


def text(config: Config) -> str:
    """A configuration as a key: equal for equal values."""
    return json.dumps(config, sort_keys=True)
