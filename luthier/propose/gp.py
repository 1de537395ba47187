"""Bayesian optimisation: a Gaussian process of the results so far, and the expected improvement on the best of them.

The process and its settings are those that were best on real tuning problems; see docs/gp.md for figures and sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from luthier.checks import require, whole
from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job
from luthier.propose.gaussian_process.acquisition import improvement_beside, improvement_within
from luthier.propose.gaussian_process.fold import Model, model
from luthier.propose.gaussian_process.search import maximise
from luthier.propose.gaussian_process.sequential import one_by_one, running, upcoming
from luthier.propose.threads import one_thread
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.space.encoder import Points, encoding_of

WIDEST = 128  # columns of a space
LEADING = 5  # results around which the search for the next configuration begins


@dataclass(frozen=True)
class Modelled:
    """Settings of a method that fits Gaussian processes to the results; :class:`GaussianProcess` explains them."""

    initial: int = 8
    batch: int = 8
    points: int = 400
    budget: Budget | None = field(default=None, repr=False)
    where: ClassVar[str] = "method gp"  # its name in messages
    extendable: ClassVar[bool] = True
    learns_known: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Self:
        """The same search, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If a setting is not a whole number in its range.
        """
        bound = replace(self, budget=budget)
        require(bound, self.where, initial=whole(2), batch=whole(1), points=whole(10))
        return bound


@dataclass(frozen=True)
class OneByOne(Modelled):
    """A method that models one objective, and chooses one configuration after the other by the model."""

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations, as long as at most ``batch`` jobs are running.

        Raises:
            MethodError: If the study has several objectives or too wide a space.
        """
        check(history, self.where)
        numbers = upcoming(history, count, self.batch, self.budget)
        if not numbers:
            return []
        with one_thread():
            fitted = model(history, self.initial, self.points) if numbers[-1] >= self.initial else None

            def choose(number: int, seen: set[bytes], near: Points, rng: np.random.Generator) -> np.ndarray | None:
                if fitted is None or number < self.initial:
                    return None
                return self._choose(fitted, history.space, seen, near, rng)

            return one_by_one(history, numbers, choose, running(history), self.budget, seeds)

    def _choose(
        self, fitted: Model, space: Space, seen: set[bytes], near: Points, rng: np.random.Generator
    ) -> np.ndarray | None:
        """The code of the next configuration, given those of the running jobs; None where none is left."""
        raise NotImplementedError


@dataclass(frozen=True)
class GaussianProcess(OneByOne):
    """Bayesian optimisation with a Gaussian process.

    The first configurations cover the space evenly. From then on a Gaussian process is fitted to all results, and the
    next configuration is where the expected improvement is highest. Jobs that are running count: their results are
    imagined from the model, several times over. A configuration is never proposed twice; a finite space that has been
    visited whole ends the study.

    Failed and diverged trainings count as the worst result, and are avoided. Under limits each limited metric is
    modelled too, and whether a training ends with its metrics at all: what is maximised is the expected improvement on
    the best result within the limits, times the probability of keeping them. It takes one objective; of several,
    ``method="gp"`` by its name takes :class:`luthier.interop.botorch.HypervolumeImprovement`.

    Args:
        initial: Configurations before the model is asked.
        batch: Jobs that may be running at once; more wait, since a model that is asked for many at once knows little of
            each.
        points: Results that the model takes at most: of more, the best half and the latest. Its cost grows with their
            square and cube.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> space = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
        >>> history = simulate(
        ...     GaussianProcess(), lambda c: (c["x"] - 1) ** 2 + (c["y"] + 2) ** 2, space, Budget(trials=30)
        ... )
        >>> bool(history.values.min() < 0.01)
        True

    References:
        Jones, Schonlau and Welch, "Efficient global optimization of expensive black-box functions", 1998.
        Snoek, Larochelle and Adams, "Practical Bayesian optimization of machine learning algorithms", NeurIPS 2012.
    """

    def _choose(
        self, fitted: Model, space: Space, seen: set[bytes], near: Points, rng: np.random.Generator
    ) -> np.ndarray | None:
        """The code of the highest expected improvement, given the running jobs."""
        encoding = encoding_of(space)
        if fitted.limits:
            acquisition = improvement_within(fitted.posterior, fitted.inside, fitted.limits, encoding, near, rng)
        else:
            acquisition = improvement_beside(fitted.posterior, encoding, near, rng)
        leading = fitted.points.take(fitted.leading()[:LEADING])
        return maximise(acquisition, encoding, leading, seen, near.codes, rng)

    def suggest(self, history: History) -> Config:
        """The evaluated configuration that the model believes best: its mean is lowest there.

        Where results are noisy this is a better choice than the best result, which may have been lucky.

        Raises:
            MethodError: If no job has ended with a finite result yet.
        """
        check(history, self.where)
        if history.best is None:
            remedy = "Wait for the first result that is finite."
            raise MethodError("there is no result to judge by", where="method gp, suggest", remedy=remedy)
        with one_thread():
            fitted = model(history, self.initial, self.points)
        number = history.best
        if fitted is not None:
            own = fitted.numbers
            usable = history.good[own] & np.isfinite(history.values[own, 0])
            number = int(own[np.argmin(np.where(usable, fitted.posterior.means()[:, 0], np.inf))])
        return dict(history.jobs[number].config)


def check(history: History, where: str) -> None:
    """Refuse several objectives and too wide a space."""
    if len(history.objectives) > 1:
        raise MethodError(
            f"there are {len(history.objectives)} objectives, {', '.join(history.objectives)}",
            where=where,
            remedy="This object models one; method='gp', by its name, models several (pip install 'luthier[botorch]').",
        )
    width = len(history.space.columns)
    if not 1 <= width <= WIDEST:
        raise MethodError(
            f"the space has {width} columns",
            where=where,
            remedy=f"It models 1 to {WIDEST}; wide vectors are tuned during the training, by hypergradients.",
        )
