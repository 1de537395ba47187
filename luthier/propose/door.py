"""The door through which every proposal passes: it is checked, kept to the constraint, and new where anything is left.

Methods propose as if space were unlimited. In a finite space the same configuration would come again and again, and a
constraint would be broken by crossover, by a model's optimum or by a sampler that knows of none; so both are treated
once, here, for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from luthier.errors import ConfigError, MethodError
from luthier.jobs import REPEATS, Event, History, Job
from luthier.optional import optional
from luthier.propose.sight import Sight
from luthier.seeds import Seeds
from luthier.space import Config, Space

REPLACED = "replaced"  # in the tag of a job whose configuration replaces the one that its method chose
NEAR = (0.05, 0.1, 0.2, 0.4)  # distances from the chosen configuration at which another one is sought
ROUND = 8  # tries at each
DRAWS = 64  # then anywhere
MANY = 10_000  # draws where there are too many configurations to list


def propose(proposer: Any, history: History, count: int, seeds: Seeds, sight: Sight | None = None) -> list[Job]:
    """Return the checked proposals of a bound proposer.

    A fresh configuration that the constraint refuses, or that was tried before in a finite space, gives way to one near
    it, or to any other that is left; where none is left, it is not begun. A job that goes on under a configuration that
    the constraint refuses goes on under that of its parent. A proposer whose ``repeats`` is ``"late"`` may begin one
    again once all were tried, and where it is ``"always"`` nothing is replaced.

    Args:
        proposer: The method, bound to its budget.
        history: All that is known.
        count: Number of jobs that can be taken.
        seeds: The study's seeds.
        sight: The part of the study that the method is shown; by default all of it.

    Raises:
        MethodError: If the answer is not a list of jobs, is too long, or contains a job that cannot be run.
    """
    jobs, first = _listed(proposer, (sight or proposer).propose(history, count, seeds), count), len(history)
    checked = [_checked(proposer, history, first, place, job) for place, job in enumerate(jobs)]
    repeats = optional(proposer, "repeats")
    space = history.space
    if repeats == "always" or (space.finite is None and space.constraint is None):
        return checked
    known: set[Any] = set()
    if space.finite is not None:
        known = history.fold("door", set, lambda seen, event: _see(space, seen, event))
    begun: set[Any] = set()
    kept: list[Job] = []
    for job in checked:
        config = _other(history, job, known, begun, repeats, seeds)
        if config is None:
            continue
        if config is not job.config:
            job = replace(job, config=config, tag={**job.tag, REPLACED: True})
        if space.finite is not None and job.parent is None:
            begun.add(space.key(config))
        kept.append(replace(job, number=first + len(kept)) if job.number != first + len(kept) else job)
    return kept


def unseen(space: Space, near: Config, known: Sequence[set[Any]], rng: np.random.Generator) -> Config | None:
    """A configuration that fulfils the constraint and whose key is in none of the sets, near ``near`` if there is one.

    Returns:
        None where the space was visited whole; of one too large to be listed, where none of many draws was new.
    """

    def new(config: Config) -> bool:
        key = space.key(config)
        return not any(key in one for one in known)

    if space.size is not None and sum(map(len, known)) >= space.size and not any(map(new, _all(space))):
        return None
    for scale in NEAR:
        for _ in range(ROUND):
            config = space.perturb(near, rng, scale=scale, probability=0.5)
            if new(config):
                return config
    few = space.listed is not None
    for _ in range(DRAWS if few else MANY):
        if new(config := space.sample(rng)):
            return config
    rest = [config for config in _all(space) if new(config)]
    return rest[int(rng.integers(len(rest)))] if rest else None


def _all(space: Space) -> Iterator[Config]:
    """Every configuration of a space that can be listed."""
    if space.listed is not None and space.finite is not None:
        yield from (space.finite[number] for number in space.listed)


def _other(history: History, job: Job, known: set[Any], begun: set[Any], repeats: str, seeds: Seeds) -> Config | None:
    """The configuration that a job is to have: its own, another one, or None where nothing is left."""
    space = history.space
    allowed = space.feasible(job.config)
    if REPEATS in job.tag and allowed:
        return job.config
    if job.parent is not None:
        return job.config if allowed else dict(history.jobs[job.parent].config)
    seen = [] if space.finite is None else [known, begun]
    key = space.key(job.config)
    if allowed and not any(key in one for one in seen):
        return job.config
    rng = seeds.rng(job.number, "door")
    config = unseen(space, job.config if allowed else _allowed(space, job.config, rng), seen, rng)
    if config is None and repeats == "late":
        return job.config if allowed else space.complete(job.config, rng)
    return config


def _allowed(space: Space, config: Config, rng: np.random.Generator) -> Config:
    """A feasible configuration, as near to an infeasible one as can be found quickly."""
    for scale in NEAR:
        for _ in range(ROUND):
            near = space.perturb(config, rng, scale=scale, probability=0.7)
            if space.feasible(near):
                return near
    return space.complete(config, rng)


def _see(space: Space, known: set[Any], event: Event) -> set[Any]:
    if isinstance(event, Job):
        known.add(space.key(event.config))
    return known


def _listed(proposer: Any, jobs: Any, count: int) -> list[Any]:
    name = type(proposer).__name__
    if not isinstance(jobs, list | tuple):
        what = f"propose returned {jobs!r}"
        raise MethodError(what, where=f"method {name}", remedy="Return a list of jobs, empty where there is none.")
    if len(jobs) > count:
        what = f"propose returned {len(jobs)} jobs where {count} were asked for"
        raise MethodError(what, where=f"method {name}", remedy="Return at most as many as are asked for.")
    return list(jobs)


def _checked(proposer: Any, history: History, first: int, place: int, job: Any) -> Job:
    """The job with its configuration in plain Python, or a MethodError that names it."""
    where = f"method {type(proposer).__name__}, job {first + place}"
    if not isinstance(job, Job):
        raise MethodError(f"propose returned {job!r}", where=where, remedy="Return Job objects.")
    if job.number != first + place:
        remedy = "Number jobs from len(history) on, without gaps."
        raise MethodError(f"its number must be {first + place}, got {job.number!r}", where=where, remedy=remedy)
    if isinstance(job.steps, bool) or not isinstance(job.steps, int | np.integer) or job.steps < 1:
        remedy = "Give the steps that the job trains: budget.steps_for(config)."
        raise MethodError(f"steps must be an integer ≥ 1, got {job.steps!r}", where=where, remedy=remedy)
    if job.parent is not None and not (isinstance(job.parent, int | np.integer) and 0 <= job.parent < first):
        remedy = "A parent is an earlier job whose training goes on."
        raise MethodError(f"parent must be an earlier job, got {job.parent!r}", where=where, remedy=remedy)
    if not isinstance(job.config, Mapping):
        remedy = "A configuration is a dict: {name: value}."
        raise MethodError(f"config must be a dict, got {job.config!r}", where=where, remedy=remedy)
    if optional(proposer, "repeats") == "always":
        return job  # given from outside: an adapter may have moved its values beyond their bounds
    try:
        config = history.space.check_values(job.config)
    except ConfigError as error:
        raise MethodError(f"its configuration cannot be: {error}", where=where, remedy=error.remedy) from error
    return job if repr(config) == repr(dict(job.config)) else replace(job, config=config)
