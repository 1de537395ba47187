"""Search for several good configurations that differ: a Gaussian process, and the improvement expected of the set.

The set is read off the results greedily, as ROBOT does it (Maus et al., 2023): the best, then again and again the best
that is far enough from all before it. A configuration is worth what it would improve that set's mean by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from luthier.checks import real, require, whole
from luthier.jobs import Budget
from luthier.propose.gaussian_process.acquisition import improvement_beside, improvement_within
from luthier.propose.gaussian_process.fold import Model
from luthier.propose.gaussian_process.search import maximise
from luthier.propose.gp import OneByOne
from luthier.space import Space
from luthier.space.distance import distances, first_apart
from luthier.space.encoder import Points, encoding_of, join


@dataclass(frozen=True)
class Diverse(OneByOne):
    """Bayesian optimisation of ``count`` good configurations, any two of them farther apart than ``apart``.

    It is :class:`luthier.propose.GaussianProcess` but for what a new configuration has to improve on. Near one of the
    set, within ``apart``, that is the best of those that it would replace; anywhere else it is the last of the set. So
    the best place is refined, and others beside it, each job where the mean of the set is expected to gain most.
    ``study.diverse(count, by=…, apart=…)`` reads the set.

    Args:
        initial: Configurations before the model is asked.
        batch: Jobs that may be running at once.
        points: Results that the model takes at most.
        budget: Set by :meth:`bind`.
        count: Configurations in the set.
        apart: The distance that every two of them exceed (see :mod:`luthier.space.distance`).

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> space = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
        >>> history = simulate(
        ...     Diverse(count=2, apart=0.2), lambda c: (abs(c["x"]) - 3) ** 2 + c["y"] ** 2, space, Budget(trials=40)
        ... )
        >>> good = [job.config["x"] for job, value in zip(history.jobs, history.values[:, 0]) if value < 0.1]
        >>> sorted({round(x / 3) for x in good})  # there is one at x = 3 and one at x = -3
        [-1, 1]

    References:
        Maus, Wu, Eriksson and Gardner, "Discovering many diverse solutions with Bayesian optimization", AISTATS 2023.
    """

    count: int = 10
    apart: float = 0.1
    where: ClassVar[str] = "method diverse"

    def bind(self, budget: Budget) -> Diverse:
        """The same search, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If a setting cannot be.
        """
        require(self, self.where, count=whole(1), apart=real(0, 1))
        return super().bind(budget)

    def _choose(
        self, fitted: Model, space: Space, seen: set[bytes], near: Points, rng: np.random.Generator
    ) -> np.ndarray | None:
        """The code of the largest expected gain of the set, given the running jobs."""
        encoding = encoding_of(space)
        marks = partial(marks_of, space, join(fitted.points, near), self.count, self.apart)
        if fitted.limits:
            within = (fitted.posterior, fitted.inside, fitted.limits, encoding, near, rng, marks)
            acquisition = improvement_within(*within)
        else:
            acquisition = improvement_beside(fitted.posterior, encoding, near, rng, marks)
        ranked = fitted.points.take(fitted.leading())
        chosen = first_apart(space, ranked.codes, ranked.mask, self.apart, self.count)
        return maximise(acquisition, encoding, ranked.take(chosen), seen, near.codes, rng)


def marks_of(
    space: Space, points: Points, count: int, apart: float, levels: np.ndarray
) -> Callable[[Points], np.ndarray]:
    """Mark that a configuration has to improve on where it is; see :class:`Diverse`.

    Args:
        space: The search space.
        points: (n) configurations of the results, real and imagined.
        count: Configurations in the set.
        apart: The distance that every two of it exceed.
        levels: (n, worlds) what each result is worth, infinite where it does not count.
    """
    sets = [_set(space, points, count, apart, world) for world in levels.T]
    members = sorted(set().union(*sets))
    held = np.full((len(members), levels.shape[1]), np.inf)  # the level of each in the worlds whose set it is in
    for world, rows in enumerate(sets):
        held[[members.index(row) for row in rows], world] = levels[rows, world]
    finite = np.where(np.isfinite(levels), levels, -np.inf)
    # while the set is not full, the worst of all results
    last = [levels[rows[-1], w] if len(rows) == count else finite[:, w].max() for w, rows in enumerate(sets)]
    elsewhere = np.where(np.isfinite(last), last, np.inf)
    centres = points.take(members)

    def marks(where: Points) -> np.ndarray:
        close = distances(space, *where, *centres) <= apart  # (m, members)
        nearest = np.where(close[:, :, None], held, np.inf).min(axis=1, initial=np.inf)
        return np.where(np.isfinite(nearest), nearest, elsewhere)

    return marks


def _set(space: Space, points: Points, count: int, apart: float, levels: np.ndarray) -> list[int]:
    """The rows of the best results of which any two are farther apart than ``apart``, best first."""
    order = np.argsort(levels, kind="stable")
    order = order[np.isfinite(levels[order])]
    return [int(order[i]) for i in first_apart(space, points.codes[order], points.mask[order], apart, count)]
