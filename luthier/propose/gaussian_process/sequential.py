"""One configuration after the other, each knowing those before it: what the Bayesian searches share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luthier.jobs import Budget, History, Job
from luthier.propose.door import unseen
from luthier.propose.gaussian_process.design import sobol
from luthier.seeds import Seeds
from luthier.space.encoder import Points, encoding_of, join, keys

Choose = Callable[[int, set[bytes], Points, np.random.Generator], np.ndarray | None]
"""(job's number, keys of what was seen, what has no known result, randomness) -> the code to try, or None."""


def upcoming(history: History, count: int, batch: int, budget: Budget | None) -> range:
    """The numbers of up to ``count`` new jobs, of which at most ``batch`` run at once, within the budget's trials."""
    first = len(history)
    stop = first + min(count, batch - len(history.pending))
    if budget is not None and budget.trials is not None:
        stop = min(stop, budget.trials)
    return range(first, max(first, stop))


def running(history: History) -> Points:
    """The configurations of the jobs that have not ended."""
    pending = list(history.pending)
    return Points(history.codes[pending], history.mask[pending])


def one_by_one(
    history: History, numbers: range, choose: Choose, near: Points, budget: Budget | None, seeds: Seeds
) -> list[Job]:
    """The jobs of these numbers, each chosen with those before it added to ``near``, what has no known result.

    Where ``choose`` has none, the Sobol design gives it. One that was tried before gives way to another near it: of a
    finite space the door sees to that, but other spaces have branches of options alone too.
    """
    space, encoding, budget = history.space, encoding_of(history.space), budget or Budget()
    seen = set(keys(history.codes))
    jobs = []
    for number in numbers:
        code = choose(number, seen, near, seeds.rng(number, "propose"))
        code = sobol(encoding.width, number, seeds) if code is None else code
        [config] = space.decode(code[None])
        point = encoding.points([config])
        if space.finite is None and not seen.isdisjoint(keys(point.codes)):
            tried = {space.key(job.config) for job in (*history.jobs, *jobs)}
            config = unseen(space, config, [tried], seeds.rng(number, "another")) or config
            point = encoding.points([config])
        jobs.append(Job(number, config, budget.steps_for(config)))
        seen.update(keys(point.codes))
        near = join(near, point)
    return jobs
