"""The median stopping rule: stop what has always been worse than half of the others by then (Golovin et al., 2017)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import floor, inf, isfinite
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
    """Reports of a job: their number, sum and best; a value that is not finite is infinite.

    The sum is exact: the mean of a constant curve is its value, whose rounding would decide where the values are equal.
    """

    count: int = 0
    infinite: int = 0
    total: Fraction = Fraction(0)
    best: float = inf
    step: int = 0  # of its last report

    def add(self, step: int, value: float) -> None:
        self.count, self.step, self.best = self.count + 1, step, min(self.best, value)
        if value == inf:
            self.infinite += 1
        else:
            self.total += Fraction(value)

    @property
    def mean(self) -> float:
        return inf if self.infinite else float(self.total / self.count)


class _Stretches:
    """Means, each in force over a stretch of steps.

    A segment tree without bounds: node ``(level, i)`` stands for the steps from i 2^level to (i + 1) 2^level and keeps
    the means in force over all of it, in order. So both adding and asking are about O(log steps) lists, whatever the
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

    def at(self, step: int) -> list[list[float]]:
        """Return the means in force at a step, in lists that are in order each."""
        found = [self._nodes.get((level, step >> level), []) for level in range(EVER.bit_length())]
        return [means for means in found if means]


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

    A job is stopped at a report when its best value so far is strictly worse than the median, over all other jobs that
    came as far, of the mean of what they had reported up to this step; where a job has no report at this very step, up
    to its last one before. The median of an even number lies halfway between the two in the middle. Jobs that ended
    earlier count with the mean that they ended with, so that about half of all are stopped, not half of what is left
    each time; a job that is only as good as one that was stopped counts as worse than it. A
    value that is not finite is worse than every other, and a job that has reported no finite one is stopped wherever
    there are enough to compare it with. It works for every task that reports while it runs: for functions through
    ``trial.report``.

    Args:
        inner: Source of the configurations: a method by name, ``"random"``, ``"gp"``, ``"tpe"``, …, or a proposer.
        startup: Jobs to compare with, at least.
        warmup: No job is stopped before this step.
        quantile: 0.5 is the median; at 0.8 only the worst fifth is stopped, at 1 nothing. Between two of the others it
            lies in proportion, as NumPy's does.
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
        means, bad = curves.means.at(own.step), curves.bad.at(own.step)
        others = sum(map(len, means)) - 1  # its own mean is among them, no lower than its best
        if others < self.startup or self.quantile == 1.0:
            return False
        # nothing is worse than infinity; what is no better than a job that was stopped is not excused by it
        excused = sum(_count(equal, own.best) for equal in bad)
        return own.best == inf or _worse(own, means, excused, self.quantile * (others - 1))

    def _curves(self, history: History) -> _Curves:
        objective = next(iter(history.objectives))

        def update(curves: _Curves, event: Event) -> _Curves:
            if isinstance(event, Report):
                curve = curves.jobs.setdefault(event.number, _Curve())
                if objective in event.metrics and (event.step > curve.step or not curve.count):
                    value = history.objective_values(event.metrics)[0]
                    value = value if isfinite(value) else inf
                    if curve.count:
                        curves.means.add(curve.step + 1, event.step, curve.mean)
                    curve.add(event.step, value)
                    curves.means.add(event.step, event.step + 1, curve.mean)
            elif not isinstance(event, Job) and history.status[event.number] != FAILED:
                curve = curves.jobs.get(event.number)
                if curve is not None and curve.count:
                    status = history.status[event.number]
                    mean = inf if status == DIVERGED else curve.mean
                    curves.means.add(curve.step + 1, EVER, mean)
                    if status != OK:
                        curves.bad.add(curve.step, EVER, mean)
            return curves

        return history.fold("median", _Curves, update)


def _worse(own: _Curve, means: list[list[float]], stopped: int, place: float) -> bool:
    """True if the best value of a job is worse than the quantile of the others' means.

    Args:
        own: The job's curve, with a finite best value.
        means: All means in force, its own among them, in lists that are in order each.
        stopped: The number of those equal to its best that belong to jobs that were stopped, and count as better.
        place: The quantile's place among the others in order, from 0: between two of them where it is not whole.
    """
    best, lower = own.best, floor(place)
    better = sum(bisect_left(one, best) for one in means) + stopped
    if better != lower + 1 or place == lower:
        return better > lower
    low = best if stopped else max(one[below - 1] for one in means if (below := bisect_left(one, best)))
    equal = sum(_count(one, best) for one in means) - stopped - (own.mean == best)
    if equal:
        high = best
    else:
        places = [(one, bisect_right(one, best)) for one in means]
        above = sorted(value for one, at in places for value in one[at : at + 2])
        if own.mean > best and own.mean in above:
            above.remove(own.mean)
        high = above[0]
    share = place - lower
    return low == high or low * (1.0 - share) + high * share < best


def _count(ordered: list[float], value: float) -> int:
    return bisect_right(ordered, value) - bisect_left(ordered, value)
