"""Random search: every configuration is drawn uniformly from the space (Bergstra and Bengio, 2012)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from luthier.jobs import Budget, History, Job
from luthier.seeds import Seeds


@dataclass(frozen=True)
class Random:
    """Random search.

    Numbers are uniform on the scale of their domain, options and integers equally likely, conditional names drawn
    where they are active. Job n's configuration depends on the study's seed and n alone.

    Args:
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Float, Space
        >>> random = Random().bind(Budget(trials=3))
        >>> [round(job.config["x"], 3) for job in random.propose(History(Space(x=Float(0, 1))), 8, Seeds(0))]
        [0.076, 0.281, 0.171]

    References:
        Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 13, 2012.
    """

    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True
    learns_known: ClassVar[bool] = False  # it learns from no results at all

    def bind(self, budget: Budget) -> Random:
        """The same search, ending after ``budget.trials`` configurations."""
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations; none once the budget's trials have been started."""
        budget, first = self.budget or Budget(), len(history)
        stop = first + count if budget.trials is None else min(first + count, budget.trials)
        jobs = []
        for number in range(first, stop):
            config = history.space.sample(seeds.rng(number, "propose"))
            jobs.append(Job(number, config, budget.steps_for(config)))
        return jobs
