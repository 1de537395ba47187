"""The median stopping rule: stop what has always been worse than half of the others by then (Golovin et al., 2017)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any, ClassVar

from luthier.jobs import PRUNED, Budget, Event, History, Job, Report
from luthier.propose.inner import bind_inner
from luthier.propose.lineages import check_number
from luthier.seeds import Seeds

WHERE = "method median"


@dataclass
class _Curve:
    """What a job has reported: how often, the sum, and the best."""

    count: int = 0
    total: float = 0.0
    best: float = inf
    step: int = 0  # of its last report


@dataclass
class _Curves:
    """All curves.

    Args:
        jobs: By number.
        at: For each step, the running means of all jobs that reported there, in order.
        ended: For each step, the running means of the jobs that were pruned at it, in order.
    """

    jobs: dict[int, _Curve] = field(default_factory=dict)
    at: dict[int, list[float]] = field(default_factory=dict)
    ended: dict[int, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Median:
    """The median stopping rule, over any proposer that chooses the configurations.

    A job is stopped at a report when its best value so far is worse than the median, over all jobs that came as far,
    of the mean of what they had reported up to this step. Jobs that were stopped earlier count with the mean that they
    ended with, so that about half of all are stopped, not half of what is left each time. It works for every task that
    reports while it runs: for functions through ``trial.report``.

    Args:
        inner: What chooses the configurations: ``"random"``, ``"grid"``, ``"genetic"``, ``"gp"``, or a proposer.
        startup: Jobs to compare with, at least.
        warmup: No job is stopped before this step.
        quantile: 0.5 is the median; at 0.8 only the worst fifth is stopped.
        budget: Set by :meth:`bind`.
        chooser: Set by :meth:`bind`: the inner proposer.

    Example:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> from luthier.testing.problems import decay
        >>> space = Space(lr=Float(1e-5, 1e2, log=True))
        >>> history = simulate(
        ...     Median(), decay, space, Budget(trials=20, steps=27), stateful=True, report_every=1
        ... )
        >>> 3 < int((history.status == PRUNED).sum()) < 17
        True

    References:
        Golovin et al., "Google Vizier: a service for black-box optimization", KDD 2017, section 3.5.1.
    """

    inner: Any = "random"
    startup: int = 5
    warmup: int = 0
    quantile: float = 0.5
    budget: Budget | None = field(default=None, repr=False)
    chooser: Any = field(default=None, repr=False)
    stops_early: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Median:
        """The same rule, its inner proposer under the budget.

        Raises:
            MethodError: If a setting is out of range.
        """
        check_number("startup", self.startup, 1, inf, WHERE, whole=True)
        check_number("warmup", self.warmup, 0, inf, WHERE, whole=True)
        check_number("quantile", self.quantile, 0.0, 1.0, WHERE)
        return replace(self, budget=budget, chooser=bind_inner(self.inner, budget, WHERE, continues=True))

    @property
    def extendable(self) -> bool:
        """Whether the inner proposer is."""
        return bool(self.chooser is not None and self.chooser.extendable)

    @property
    def parents(self) -> Callable[[History], set[int]]:
        """``parents(history)`` of the inner proposer; absent where that continues no trainings."""
        return (self.inner if self.chooser is None else self.chooser).parents

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """What the inner proposer proposes."""
        return self.chooser.propose(history, count, seeds)

    def stop(self, history: History, number: int) -> bool:
        """Whether the running job ``number`` is worse than the median by its last report."""
        curves = self._curves(history)
        own = curves.jobs.get(number)
        if own is None or not own.count or own.step < self.warmup:
            return False
        means = [curves.at[own.step], *(ended for step, ended in curves.ended.items() if step < own.step)]
        others = sum(map(len, means)) - 1
        better = sum(bisect_left(one, own.best) for one in means)  # its own mean is no lower than its best
        return others >= self.startup and better > self.quantile * others

    def _curves(self, history: History) -> _Curves:
        def update(curves: _Curves, event: Event) -> _Curves:
            if isinstance(event, Report):
                value = history.objective_values(event.metrics)[0]
                curve = curves.jobs.setdefault(event.number, _Curve())
                if isfinite(value) and (event.step > curve.step or not curve.count):
                    curve.count, curve.total, curve.step = curve.count + 1, curve.total + value, event.step
                    curve.best = min(curve.best, value)
                    insort(curves.at.setdefault(event.step, []), curve.total / curve.count)
            elif not isinstance(event, Job) and history.status[event.number] == PRUNED:
                curve = curves.jobs.get(event.number)
                if curve is not None and curve.count:
                    insort(curves.ended.setdefault(curve.step, []), curve.total / curve.count)
            return curves

        return history.fold("median", _Curves, update)
