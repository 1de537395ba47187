"""A result from a search over shared weights: search, draw and rank children, train the best from scratch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from luthier.checks import real, require, whole
from luthier.errors import MethodError
from luthier.jobs import OK, Budget, History, Job
from luthier.limits import merits, violation
from luthier.propose.lineages import check_parts
from luthier.seeds import Seeds
from luthier.space import Config


@dataclass(frozen=True)
class Derive:
    """The jobs of a method that searches with shared weights (:class:`luthier.adapt.Enas`), in three phases.

    1. ``search``: one job that trains the shared weights and the controller, for a share of the whole budget.
    2. ``draw``: jobs that continue it, for a few steps each, with one child of the controller's: its configuration is
       the job's ``final``, and its metrics are those under the shared weights, ``shared_loss`` and so on.
    3. ``train``: the best of these by rank are trained from scratch, as ordinary trials.

    The budget is that of ``trials`` ordinary trainings: with ``trials=10, epochs=5`` and half of it for the search,
    search and draws have the steps of 25 epochs, and 5 children are trained for 5 epochs each. The search has whole
    windows of its adapter's. The phase of a job is in
    its tag, and of a child that is trained also the job that drew it. The objective of the study is measured in the
    third phase alone, so ``study.best`` is a network that was trained from scratch.

    Args:
        search: Share of the budget that goes to the search, draws included.
        draws: Number of children drawn.
        draw_steps: Steps of each draw: a child trains for this many before it is measured, if its reward counted that.
        rank: Metric that ranks them; by default the study's first objective, measured under the shared weights.
        budget: Set by :meth:`bind`.

    Raises:
        MethodError: If a setting makes no sense.

    Examples:
        >>> Derive().bind(Budget(trials=10, epochs=5.0)).children
        5
    """

    search: float = 0.5
    draws: int = 30
    draw_steps: int = 10
    rank: str | None = None
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    repeats: ClassVar[str] = "always"

    def __post_init__(self) -> None:
        require(self, "Derive", search=real(above=0, below=1), draws=whole(1), draw_steps=whole(1))

    def bind(self, budget: Budget) -> Derive:
        """The same under a budget of at least two trials.

        Raises:
            MethodError: If the budget does not say how many trials there are and how long they train.
        """
        check_parts(replace(budget, window=1), 1, "Derive")
        if budget.trials is None or budget.trials < 2:
            raise MethodError(
                f"trials={budget.trials}: the search takes a part of them, and children are trained with the others",
                where="Derive",
                remedy="Give trials=10: with half of the budget for the search, 5 children are trained from scratch.",
            )
        bound = replace(self, budget=budget)
        least = budget.least if budget.steps is None else budget.steps
        if least is not None:
            bound._search_steps(least)  # raises
        return bound

    @property
    def children(self) -> int:
        """Children that are trained from scratch."""
        return self._trials - self._shared(self._trials)

    @property
    def _trials(self) -> int:
        assert self.budget is not None and self.budget.trials is not None, "bind has checked it"
        return self.budget.trials

    def _shared(self, trials: int) -> int:
        """Trainings whose steps the search has, of so many trials."""
        return trials - max(1, trials - max(1, round(self.search * trials)))

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next jobs of the phase; none while a phase waits for the one before it."""
        done = len(history)
        if not done:
            config = history.space.sample(seeds.rng(0, "propose"))
            return [Job(0, config, self._search_steps(self._whole(config)), tag={"phase": "search"})]
        if history.status[0] != OK:
            return []  # it runs; or it diverged, and there is nothing to draw from
        if done <= self.draws:
            config = history.jobs[0].config
            stop = min(done + count, 1 + self.draws)
            return [Job(n, config, self.draw_steps, 0, {"phase": "draw"}) for n in range(done, stop)]
        if any(history.results[n] is None for n in range(1, 1 + self.draws)):
            return []
        chosen = self._best(history)
        stop = min(done + count, 1 + self.draws + len(chosen))
        return [self._train(n, *chosen[n - 1 - self.draws]) for n in range(done, stop)]

    def parents(self, history: History) -> set[int]:
        """The search, as long as children are drawn from it."""
        return {0} if len(history) <= self.draws else set()

    @property
    def _budget(self) -> Budget:
        assert self.budget is not None, "bind comes first"
        return self.budget

    def _whole(self, config: Config) -> int:
        """Steps of the training of a child, which has no windows."""
        return replace(self._budget, window=1).steps_for(config)

    def _search_steps(self, each: int) -> int:
        """Steps of the search, whole windows, beside trainings of ``each`` steps.

        Raises:
            MethodError: If not one window is left, with what would do.
        """
        window, share = self._budget.window, self._shared(self._trials) * each
        left = share - self.draws * self.draw_steps
        if left >= window:
            return left // window * window
        least = self.draws * self.draw_steps + window
        longer = -(-least // self._shared(self._trials))
        trials = next(n for n in itertools.count(self._trials) if self._shared(n) * each >= least)
        draws = (share - window) // self.draw_steps
        few = f"Derive(draws={draws})" if draws > 0 else "fewer draws of fewer steps"
        raise MethodError(
            f"{self.draws} draws of {self.draw_steps} steps leave {max(0, left)} of the {share} steps of the search, "
            f"which needs {window}",
            where="Derive",
            remedy=f"Give trials={trials}, or {self._length(longer, each)}, or {few}.",
        )

    def _length(self, longer: int, each: int) -> str:
        """The argument under which trainings of ``each`` steps have ``longer``, or a little more."""
        epochs = self._budget.epochs
        return f"steps={longer}" if epochs is None else f"epochs={math.ceil(epochs * longer / each)}"

    def _train(self, number: int, config: Config, draw: int) -> Job:
        return Job(number, dict(config), self._whole(config), tag={"phase": "train", "draw": draw})

    def _best(self, history: History) -> list[tuple[Config, int]]:
        """(configuration, job that drew it) of the children to train, the best first; the same one comes once."""
        objective, mode = next(iter(history.objectives.items()))
        name, sign = self.rank or f"shared_{objective}", -1.0 if mode == "max" else 1.0
        shared = {f"shared_{name}": bounds for name, bounds in history.limits.items()}
        ranked: list[tuple[float, int]] = []
        for number in range(1, 1 + self.draws):
            result = history.results[number]
            value = sign * result.metrics.get(name, np.nan) if result is not None and result.status == "ok" else np.nan
            if result is not None and np.isfinite(value):
                [merit] = merits([float(value)], violation(shared, result.metrics, whole=False))
                ranked.append((merit, number))
        if not ranked:
            known = [result for result in history.results[1:] if result is not None and result.metrics]
            raise MethodError(
                f"no child has the metric {name!r}",
                where="Derive(rank=…)",
                remedy=f"Children have {', '.join(known[0].metrics) if known else 'no metrics'}.",
            )
        chosen: list[tuple[Config, int]] = []
        for _, number in sorted(ranked):
            config = dict(history.results[number].final)  # type: ignore[union-attr]
            if history.space.feasible(config) and all(config != other for other, _ in chosen):
                chosen.append((config, number))
        return chosen[: self.children]
