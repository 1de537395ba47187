"""The median stopping rule: stop what has always been worse than half of the others by then (Golovin et al., 2017)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any, ClassVar

from luthier.jobs import DIVERGED, FAILED, OK, Budget, Event, History, Job, Report
from luthier.optional import optional
from luthier.propose.inner import bind_inner, learns_from_others
from luthier.propose.lineages import check_number
from luthier.seeds import Seeds

WHERE = "method median"


EVER = 1 << 62  # a step that no training reaches


@dataclass
class _Curve:
    """Reports of a job: their number, sum and best; a value that is not finite is infinite."""

    count: int = 0
    total: float = 0.0
    best: float = inf
    step: int = 0  # of its last report


class _Stretches:
    """Means, each in force over a stretch of steps: how many there are at a step, and how many below a value.

    A segment tree without bounds: node ``(level, i)`` stands for the steps from i 2^level to (i + 1) 2^level and keeps
    the means in force over all of it, in order. So both adding and asking cost O(log steps) searches, whatever the
    steps at which trials report.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], list[float]] = {}

    def add(self, begin: int, end: int, mean: float) -> None:
        """Note a mean that is in force from ``begin`` up to ``end``, excluded."""
        level = 0
        while begin < end:
            if begin & 1:
                insort(self._nodes.setdefault((level, begin), []), mean)
                begin += 1
            if end & 1:
                end -= 1
                insort(self._nodes.setdefault((level, end), []), mean)
            begin, end, level = begin >> 1, end >> 1, level + 1

    def at(self, step: int, value: float) -> tuple[int, int, int]:
        """Return how many means are in force at a step, how many are below ``value``, and how many equal it."""
        found = [self._nodes.get((level, step >> level), ()) for level in range(EVER.bit_length())]
        below = sum(bisect_left(means, value) for means in found)
        return sum(map(len, found)), below, sum(bisect_right(means, value) for means in found) - below


@dataclass
class _Curves:
    """All curves.

    Args:
        jobs: By number.
        means: The running mean of each job, over the steps at which others are compared with it.
        bad: The means that jobs ended with that were stopped or diverged, from there on.
    """

    jobs: dict[int, _Curve] = field(default_factory=dict)
    means: _Stretches = field(default_factory=_Stretches)
    bad: _Stretches = field(default_factory=_Stretches)


@dataclass(frozen=True)
class Median:
    """The median stopping rule, over any proposer that chooses the configurations.

    A job is stopped at a report when its best value so far is worse than the median, over all jobs that came as far,
    of the mean of what they had reported up to this step; where a job has no report at this very step, up to its last
    one before. Jobs that ended earlier count with the mean that they ended with, so that about half of all are stopped,
    not half of what is left each time; a job that is only as good as one that was stopped counts as worse than it. A
    value that is not finite is worse than every other, and a job that has reported no finite one is stopped wherever
    there are enough to compare it with. It works for every task that reports while it runs: for functions through
    ``trial.report``.

    Args:
        inner: Source of the configurations: a method by name, ``"random"``, ``"gp"``, ``"tpe"``, …, or a proposer.
        startup: Jobs to compare with, at least.
        warmup: No job is stopped before this step.
        quantile: 0.5 is the median; at 0.8 only the worst fifth is stopped.
        budget: Set by :meth:`bind`.
        chooser: Set by :meth:`bind`: the inner proposer.

    Examples:
        >>> from luthier.jobs import PRUNED
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
    def learns_known(self) -> bool | None:
        """True if trials that were before can be compared with, and the inner proposer can follow them."""
        return learns_from_others(self.chooser)

    @property
    def extendable(self) -> bool:
        """True if the inner proposer is extendable."""
        return optional(self.chooser, "extendable")

    @property
    def parents(self) -> Callable[[History], set[int]] | None:
        """``parents(history)`` of the inner proposer; None if that one never continues a training run."""
        return optional(self.inner if self.chooser is None else self.chooser, "parents")

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Return the inner proposer's proposals."""
        return self.chooser.propose(history, count, seeds)

    def stop(self, history: History, number: int) -> bool:
        """True if the running job ``number`` is worse than the median by its last report."""
        curves = self._curves(history)
        own = curves.jobs.get(number)
        if own is None or not own.count or own.step < self.warmup:
            return False
        those, better, _ = curves.means.at(own.step, own.best)  # its own mean is among them, no lower than its best
        others = those - 1
        # what is no better than a job that was stopped is not excused by it, and nothing is worse than infinity
        better = others if own.best == inf else better + curves.bad.at(own.step, own.best)[2]
        return others >= self.startup and better > self.quantile * others

    def _curves(self, history: History) -> _Curves:
        objective = next(iter(history.objectives))

        def update(curves: _Curves, event: Event) -> _Curves:
            if isinstance(event, Report):
                curve = curves.jobs.setdefault(event.number, _Curve())
                if objective in event.metrics and (event.step > curve.step or not curve.count):
                    value = history.objective_values(event.metrics)[0]
                    value = value if isfinite(value) else inf
                    if curve.count:
                        curves.means.add(curve.step + 1, event.step, curve.total / curve.count)
                    curve.count, curve.total, curve.step = curve.count + 1, curve.total + value, event.step
                    curve.best = min(curve.best, value)
                    curves.means.add(event.step, event.step + 1, curve.total / curve.count)
            elif not isinstance(event, Job) and history.status[event.number] != FAILED:
                curve = curves.jobs.get(event.number)
                if curve is not None and curve.count:
                    status = history.status[event.number]
                    mean = inf if status == DIVERGED else curve.total / curve.count
                    curves.means.add(curve.step + 1, EVER, mean)
                    if status != OK:
                        curves.bad.add(curve.step, EVER, mean)
            return curves

        return history.fold("median", _Curves, update)
