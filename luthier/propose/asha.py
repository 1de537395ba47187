"""ASHA: successive halving that never waits (Li et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from heapq import heappop, heappush, nsmallest
from typing import Any, ClassVar

from luthier.jobs import OK, Budget, Event, History, Job, Report
from luthier.optional import optional
from luthier.propose.inner import bind_inner, first_results, inner_tag, new_configurations
from luthier.propose.lineages import check_rungs, end_of, progress, steps_to, usable
from luthier.propose.stopping import Stopping
from luthier.seeds import Seeds

WHERE = "method asha"
SPARE = 2  # jobs of a rung that may go on to the end in place of the best, should these fail
Entry = tuple[float, int]  # (value, job number)


@dataclass
class _Rung:
    """The results of a rung, the best 1/eta apart from the rest, so that each one costs O(log n).

    Args:
        best: The best 1/eta, worst first, with signs turned (a heap).
        rest: All others, best first (a heap).
        promoted: Those that have been continued.
        waiting: Those among the best that have not.
        asked: Jobs that were asked for in this rung.
        spared: Jobs that were continued though they were not among the best: the study had no other way on.
    """

    best: list[Entry] = field(default_factory=list)
    rest: list[Entry] = field(default_factory=list)
    promoted: set[int] = field(default_factory=set)
    waiting: dict[int, float] = field(default_factory=dict)
    asked: int = 0
    spared: int = 0

    def add(self, value: float, number: int, eta: int) -> None:
        """Take in a result."""
        entry = (value, number)
        if self.best and entry < _turned(self.best[0]):
            self._admit(entry)
            worst = _turned(heappop(self.best))
            self.waiting.pop(worst[1], None)
            heappush(self.rest, worst)
        else:
            heappush(self.rest, entry)
        if len(self.best) < (len(self.best) + len(self.rest)) // eta:
            self._admit(heappop(self.rest))

    def _admit(self, entry: Entry) -> None:
        heappush(self.best, _turned(entry))
        if entry[1] not in self.promoted:
            self.waiting[entry[1]] = entry[0]

    def promote(self, number: int) -> None:
        """Note that a job has been continued."""
        self.spared += number not in self.waiting
        self.promoted.add(number)
        self.waiting.pop(number, None)

    def left(self) -> list[Entry]:
        """Return the entries that are not among the best and have not been promoted."""
        return [entry for entry in self.rest if entry[1] not in self.promoted]


def _turned(entry: Entry) -> Entry:
    return -entry[0], -entry[1]


@dataclass
class _Rungs:
    """All rungs, and how many configurations have been started."""

    list: list[_Rung]
    started: int = 0


@dataclass(frozen=True)
class ASHA:
    """Asynchronous successive halving.

    Every configuration is trained for a small part of a training. Whenever a worker is free, the best job that is
    among the best 1/eta of its rung so far, and has not been promoted, is continued eta times as far, in the highest
    rung that has one; where none has, a new configuration is started. Nobody waits, at the price of promotions that
    turn out undeserved; :class:`Hyperband` waits instead.

    The study ends when ``trials`` configurations have been started and no promotion is due. Where rungs were too small
    for any to reach the whole training, the best goes on to it at the end. A function cannot be continued: it is
    stopped at its reports instead (:meth:`stopping`).

    Args:
        inner: Source of the configurations: ``"random"``, ``"grid"``, ``"genetic"``, ``"gp"``, or a proposer. It
            sees each configuration once, with the result of its first rung.
        eta: One in ``eta`` is continued.
        rungs: Stages from the shortest training, eta ** (1 - rungs) of a whole one, to that, at most: there are fewer
            where the steps have no room for so many.
        budget: Set by :meth:`bind`.
        chooser: Set by :meth:`bind`: the inner proposer.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> from luthier.testing.problems import decay
        >>> space = Space(lr=Float(1e-5, 1e2, log=True))
        >>> history = simulate(ASHA(), decay, space, Budget(trials=27, steps=81), stateful=True)
        >>> [int((history.age == age).sum()) for age in (3, 9, 27, 81)], int(history.steps.sum())
        ([27, 10, 4, 1], 267)

    References:
        Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020.
    """

    inner: Any = "random"
    eta: int = 3
    rungs: int = 4
    budget: Budget | None = field(default=None, repr=False)
    chooser: Any = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    stops_early: ClassVar[bool] = True

    def bind(self, budget: Budget) -> ASHA:
        """The same method for ``budget.trials`` configurations, the best trained for ``budget.epochs`` or ``steps``.

        Raises:
            MethodError: If a setting is out of range, or there are fewer than ``eta`` steps.
        """
        rungs = check_rungs(self.eta, self.rungs, budget, WHERE)
        return replace(self, rungs=rungs, budget=budget, chooser=bind_inner(self.inner, budget, WHERE))

    @property
    def learns_known(self) -> bool | None:
        """True if the inner proposer learns from results that were known before."""
        return optional(self.chooser, "learns_known")

    def stopping(self) -> Stopping:
        """The same rungs for what cannot be continued: a function is stopped at its reports."""
        return Stopping(self.inner, self.eta, self.rungs)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Promotions, highest rung first, then new configurations."""
        state, first = self._rungs(history), len(history)
        due = [
            (rung + 1, number)
            for rung in range(self.rungs - 2, -1, -1)
            for _, number in sorted((v, n) for n, v in state.list[rung].waiting.items())
        ]
        jobs = [self._continue(history, first + i, *one) for i, one in enumerate(due[:count])]
        seen = first_results(history, WHERE)
        new = new_configurations(self.chooser, seen, self._left(state, count - len(jobs)), seeds)
        for job in new:
            steps = self._steps(0, job.config, 0.0)
            jobs.append(Job(first + len(jobs), job.config, steps, None, {"rung": 0} | inner_tag(job)))
        if not jobs and not history.pending and not state.list[-1].asked:
            return self._last(history, state)
        return jobs

    def parents(self, history: History) -> set[int]:
        """The jobs that may still be promoted."""
        state, most = self._rungs(history), (self.budget or Budget()).trials or len(history) * self.eta
        keep: set[int] = set()
        for rung in state.list[:-1]:
            most = max(1, most // self.eta)
            # what was let go once is never wanted again: for each one taken from the rest, one less is kept
            spare = max(most - len(rung.best), 0) + SPARE - rung.spared
            keep |= rung.waiting.keys() | {number for _, number in nsmallest(spare, rung.left())}
        return keep

    def _left(self, state: _Rungs, count: int) -> int:
        trials = (self.budget or Budget()).trials
        return count if trials is None else min(count, trials - state.started)

    def _continue(self, history: History, number: int, rung: int, parent: int) -> Job:
        config = end_of(history, parent)
        done = progress(history, self.budget or Budget())[parent]
        return Job(number, config, self._steps(rung, config, done), parent, {"rung": rung})

    def _last(self, history: History, state: _Rungs) -> list[Job]:
        """Nothing was trained whole: the best of the highest rung that has one goes on."""
        for rung in range(self.rungs - 2, -1, -1):
            if state.list[rung].spared < SPARE and (left := state.list[rung].left()):
                return [self._continue(history, len(history), rung + 1, min(left)[1])]
        return []

    def _steps(self, rung: int, config: dict[str, Any], done: float) -> int:
        return steps_to(self.eta ** (rung + 1 - self.rungs), done, config, self.budget or Budget())

    def _rungs(self, history: History) -> _Rungs:
        def update(state: _Rungs, event: Event) -> _Rungs:
            if isinstance(event, Report):
                return state
            if event.number in history.before:
                state.started += isinstance(event, Job)
                return state
            place = int(history.jobs[event.number].tag["rung"])
            rung = state.list[place]
            if isinstance(event, Job):
                rung.asked += 1
                if event.parent is None:
                    state.started += 1
                else:
                    state.list[place - 1].promote(event.parent)
            elif history.status[event.number] == OK and usable(history, event.number):
                rung.add(float(history.values[event.number, 0]), event.number, self.eta)
            return state

        return history.fold(
            ("asha", self.rungs, self.eta), lambda: _Rungs([_Rung() for _ in range(self.rungs)]), update
        )
