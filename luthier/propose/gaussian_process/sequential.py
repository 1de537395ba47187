"""One configuration after the other, each knowing those before it: what the Bayesian searches share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luthier.jobs import Budget, History, Job
from luthier.propose.gaussian_process.encoding import Encoding, Points, encoding_of, join, keys
from luthier.propose.gaussian_process.settle import settle
from luthier.seeds import Seeds

Improve = Callable[[Encoding, set[bytes], Points, np.random.Generator], np.ndarray | None]
"""(encoding, keys of what was seen, what is running, randomness) -> the code to try next, None where there is none."""


def upcoming(history: History, count: int, batch: int, budget: Budget | None) -> range:
    """The numbers of up to ``count`` new jobs, of which at most ``batch`` run at once, within the budget's trials."""
    first = len(history)
    stop = first + min(count, batch - len(history.pending))
    if budget is not None and budget.trials is not None:
        stop = min(stop, budget.trials)
    return range(first, max(first, stop))


def one_by_one(
    history: History, numbers: range, initial: int, improve: Improve | None, budget: Budget | None, seeds: Seeds
) -> list[Job]:
    """The jobs of these numbers: the first ``initial`` of a study from the Sobol design, and all without ``improve``.

    It ends early where a finite space has been visited whole.
    """
    encoding, budget = encoding_of(history.space), budget or Budget()
    seen, pending = set(keys(history.codes)), list(history.pending)
    running = Points(history.codes[pending], history.mask[pending])
    jobs = []
    for number in numbers:
        code = None
        if number >= initial and improve is not None:
            code = improve(encoding, seen, running, seeds.rng(number, "propose"))
        config = settle(code, encoding, number, seen, seeds)
        if config is None:
            break
        jobs.append(Job(number, config, budget.steps_for(config)))
        point = encoding.points([config])
        seen.update(keys(point.codes))
        running = join(running, point)
    return jobs
