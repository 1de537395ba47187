"""The last trial where trials are stopped for good: what the model believes best, begun again and run whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from luthier.jobs import OK, Budget, History, Job
from luthier.propose.gaussian_process.curve_model import CurveModel
from luthier.propose.learning_curves import Memory


def is_last(history: History, budget: Budget, started: int, jobs: Sequence[Job]) -> bool:
    """True if exactly one more whole training can be begun, as far as ``trials`` and ``total_steps`` tell.

    Args:
        history: The study so far, in which something was begun.
        budget: Its budget.
        started: Trials begun, those just now too.
        jobs: Jobs begun just now.
    """
    if budget.trials is not None and started >= budget.trials - 1:
        return started == budget.trials - 1
    if budget.total is None:
        return False
    spent = sum(int(history.steps[n]) for n in range(len(history)) if n not in history.before)
    longest = max(job.steps for job in history.jobs)  # steps may differ between configurations
    return budget.total - spent - sum(job.steps for job in jobs) < 2 * longest


def sound(memory: Memory) -> list[int]:
    """The trials that have come to a finite value."""
    return [root for root, curve in memory.curves.items() if curve.values and math.isfinite(curve.values[-1])]


def unfinished(model: CurveModel) -> int | None:
    """The trial within the limits that the model believes best, where its configuration was not run whole, or None."""
    history, curves, key = model.history, model.memory.curves, model.history.space.key
    roots = [root for root in sound(model.memory) if history.violation[root] <= 0]
    if not roots:
        return None
    best = model.believed(model.given({}, np.random.default_rng(0)), roots)
    same = [root for root in roots if key(history.jobs[root].config) == key(history.jobs[best].config)]
    ended = [root for root in same if history.status[root] == OK]  # a function may end before its steps are done
    return None if any(root not in history.before or curves[root].steps[-1] > 0.999 for root in ended) else best
