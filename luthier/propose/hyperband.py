"""Hyperband: many short trainings, of which the best are continued, in rounds (Li et al., 2018).

A configuration that is promoted goes on from its own weights; nothing is trained twice.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from typing import Any, ClassVar

from luthier.jobs import OK, Budget, Event, History, Job, Report
from luthier.optional import optional
from luthier.propose.inner import bind_inner, first_results, inner_tag, new_configurations
from luthier.propose.lineages import check_rungs, end_of, progress, steps_to, usable
from luthier.propose.stopping import Stopping
from luthier.seeds import Seeds

WHERE = "method hyperband"


@dataclass
class _Rung:
    """Outcome of one rung: jobs asked for, jobs with any result, and (value, number) of the good, best first."""

    asked: int = 0
    ended: int = 0
    ranked: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class _Bracket:
    """The rungs of a bracket, and how many configurations the brackets before it have started."""

    rungs: list[_Rung]
    before: int


@dataclass
class _Brackets:
    """All brackets so far; those below ``open`` have nothing left to ask for."""

    list: list[_Bracket] = field(default_factory=list)
    open: int = 0
    started: int = 0


@dataclass(frozen=True)
class Hyperband:
    """Hyperband: brackets of successive halving.

    A bracket starts many configurations for a small part of a training, continues the best 1/eta of them eta times as
    far, and so on up to the whole ``epochs`` of the budget: each of these stages is a rung. A short training may
    mislead, so later brackets start fewer configurations higher up, the last kind for a whole training at once; then it
    begins again. A bracket starts when all jobs of the one before it have been started.

    ``trials`` are configurations started. Most of them end early, so the steps spent are far below trials x epochs. How
    many a rung takes is only known when the one below is complete: trainings that failed there are not replaced. A
    function cannot be held until the others have come as far: it is stopped at its reports instead (:meth:`stopping`).

    Args:
        inner: Source of the configurations: ``"random"``, ``"grid"``, ``"genetic"``, ``"gp"``, or a proposer. It
            sees each configuration once, with the result of its first rung.
        eta: One in ``eta`` is continued.
        rungs: Stages from the shortest training, eta ** (1 - rungs) of a whole one, to that, at most: there are fewer
            where the steps have no room for so many.
        brackets: Kinds of brackets, each beginning one rung above the one before; None is all of them, 1 is successive
            halving alone.
        budget: Set by :meth:`bind`.
        chooser: Set by :meth:`bind`: the inner proposer.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> from luthier.testing.problems import decay
        >>> space = Space(lr=Float(1e-5, 1e2, log=True))
        >>> history = simulate(Hyperband(brackets=1), decay, space, Budget(trials=27, steps=81), stateful=True)
        >>> [int((history.age == age).sum()) for age in (3, 9, 27, 81)], int(history.steps.sum())
        ([27, 9, 3, 1], 243)

    References:
        Li et al., "Hyperband: a novel bandit-based approach to hyperparameter optimization", JMLR 18, 2018.
        Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
    """

    inner: Any = "random"
    eta: int = 3
    rungs: int = 4
    brackets: int | None = None
    budget: Budget | None = field(default=None, repr=False)
    chooser: Any = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    stops_early: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Hyperband:
        """The same method for ``budget.trials`` configurations, the best trained for ``budget.epochs`` or ``steps``.

        Raises:
            MethodError: If a setting is out of range, or there are fewer than ``eta`` steps.
        """
        rungs = check_rungs(self.eta, self.rungs, budget, WHERE, self.brackets)
        brackets = None if self.brackets is None else min(self.brackets, rungs)
        return replace(
            self, rungs=rungs, brackets=brackets, budget=budget, chooser=bind_inner(self.inner, budget, WHERE)
        )

    @property
    def learns_known(self) -> bool | None:
        """True if the inner proposer learns from results that were known before."""
        return optional(self.chooser, "learns_known")

    def stopping(self) -> Stopping:
        """The same brackets for what cannot be continued, without waiting: a function is stopped at its reports."""
        return Stopping(self.inner, self.eta, self.rungs, self.brackets)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next jobs of the bracket in hand; none while a rung has to be waited for."""
        brackets, first = self._brackets(history), len(history)
        stage = self._stage(brackets, brackets.open)
        while stage is None:
            brackets.open += 1
            stage = self._stage(brackets, brackets.open)
        rung, left = stage
        if rung == 0 and left:
            seen = first_results(history, WHERE)
            new = new_configurations(self.chooser, seen, min(count, left), seeds)
            if new or seen.pending:
                return [self._begin(brackets.open, first + i, job) for i, job in enumerate(new)]
            closed = self._stage(brackets, brackets.open, closed=True)  # it has no more configurations
            rung, left = closed or (0, 0)
        return self._promote(history, brackets, rung, min(count, left)) if rung else []

    def _begin(self, bracket: int, number: int, chosen: Job) -> Job:
        """A new configuration in the first rung."""
        tag = {"bracket": bracket, "rung": 0} | inner_tag(chosen)
        return Job(number, chosen.config, self._steps(bracket, 0, chosen.config, 0.0), None, tag)

    def _promote(self, history: History, brackets: _Brackets, rung: int, count: int) -> list[Job]:
        """The first jobs of ``rung`` that have not been asked for yet."""
        rungs, first = brackets.list[brackets.open].rungs, len(history)
        best = rungs[rung - 1].ranked[rungs[rung].asked :][:count]
        done, jobs = progress(history, self.budget or Budget()), []
        for i, (_, parent) in enumerate(best):
            config = end_of(history, parent)
            steps = self._steps(brackets.open, rung, config, done[parent])
            jobs.append(Job(first + i, config, steps, parent, {"bracket": brackets.open, "rung": rung}))
        return jobs

    def parents(self, history: History) -> set[int]:
        """The jobs that may still be promoted."""
        brackets = self._brackets(history)
        keep: set[int] = set()
        for number in range(brackets.open, len(brackets.list)):
            rungs, size = brackets.list[number].rungs, self._starts(brackets, number)
            for low, high in pairwise(rungs):
                size = max(1, size // self.eta)
                keep |= {job for _, job in low.ranked[high.asked : size]}
        return keep

    def _starts(self, brackets: _Brackets, number: int) -> int:
        """Configurations that bracket ``number`` starts with."""
        known = number < len(brackets.list)
        before = brackets.list[number].before if known else brackets.started
        rungs = self._rungs(number)
        wanted = ceil(self.rungs / rungs * self.eta ** (rungs - 1))
        trials = (self.budget or Budget()).trials
        return wanted if trials is None else min(wanted, trials - before)

    def _rungs(self, number: int) -> int:
        """Rungs of bracket ``number``."""
        return self.rungs - number % (self.brackets or self.rungs)

    def _stage(self, brackets: _Brackets, number: int, closed: bool = False) -> tuple[int, int] | None:
        """The rung of a bracket that is being filled, and how many jobs it still takes (0: wait); None: all are asked.

        ``closed``: no more configurations can be started.
        """
        known = number < len(brackets.list)
        rungs = brackets.list[number].rungs if known else [_Rung() for _ in range(self._rungs(number))]
        size = rungs[0].asked if closed else self._starts(brackets, number)
        if size == 0 and not known:
            return 0, 0  # the trials are used up
        for i, rung in enumerate(rungs):
            if rung.asked < size:
                return i, size - rung.asked
            if rung.ended < size and i < len(rungs) - 1:
                return i, 0
            size = min(max(1, size // self.eta), len(rung.ranked))
            if size == 0:
                break
        return None

    def _steps(self, bracket: int, rung: int, config: dict[str, Any], done: float) -> int:
        below = self._rungs(bracket) - 1 - rung
        return steps_to(self.eta**-below, done, config, self.budget or Budget())

    def _brackets(self, history: History) -> _Brackets:
        def update(brackets: _Brackets, event: Event) -> _Brackets:
            if isinstance(event, Report):
                return brackets
            if event.number in history.before:
                brackets.started += isinstance(event, Job)
                return brackets
            tag = history.jobs[event.number].tag
            if tag["bracket"] == len(brackets.list):
                rungs = [_Rung() for _ in range(self._rungs(tag["bracket"]))]
                brackets.list.append(_Bracket(rungs, brackets.started))
            rung = brackets.list[tag["bracket"]].rungs[tag["rung"]]
            if isinstance(event, Job):
                rung.asked += 1
                brackets.started += event.parent is None
            else:
                rung.ended += 1
                if history.status[event.number] == OK and usable(history, event.number):
                    insort(rung.ranked, (float(history.values[event.number, 0]), event.number))
            return brackets

        return history.fold(("hyperband", self.rungs, self.brackets), _Brackets, update)
