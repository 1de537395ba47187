"""Successive halving that stops instead of promoting: a rung is a decision at a report (Li et al., 2020, section 3.3).

ASHA and Hyperband continue the saved state of a training. A function has none, so it begins as if it were to run whole,
and is stopped at the first rung where it is not among the best: the same rungs, the same decisions, nothing saved.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field, replace
from math import ceil, inf, isfinite
from typing import Any, ClassVar

from luthier.jobs import Budget, Event, History, Job, Report, Result
from luthier.propose.inner import bind_inner, inner_tag, learns_from_others, new_configurations
from luthier.propose.lineages import check_rungs
from luthier.seeds import Seeds

WHERE = "method stopping"


@dataclass
class _State:
    """Decisions so far.

    Args:
        seen: The study as the inner proposer sees it: every configuration with its value at its first rung.
        passed: The next rung that each job has not reached, among those of its kind of bracket.
        rungs: For each (kind of bracket, rung), the values of the jobs that have reached it, in order.
        stopped: Jobs that were not among the best of a rung.
    """

    seen: History
    passed: dict[int, int] = field(default_factory=dict)
    rungs: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Stopping:
    """Successive halving by stopping: what :class:`ASHA` and :class:`Hyperband` are for functions.

    Every trial is asked for a whole training. Its value at a rung is that of its first report at or past it; there it
    goes on if it is among the best 1/eta of all that have reached the rung by now (the first to reach it always is),
    and is stopped otherwise. Nobody waits. A value that is not finite is worse than every other. ``trials`` are
    configurations started.

    With several ``brackets`` it is asynchronous Hyperband: brackets follow one another with as many configurations as
    Hyperband starts in them, each kind with one rung fewer to stop at than the one before, the last kind with none. A
    synchronous bracket would have to hold a function at a report until all others have come as far.

    Args:
        inner: Source of the configurations: a method by name, ``"random"``, ``"gp"``, ``"tpe"``, …, or a proposer.
            It sees each configuration once, with its value at the first rung.
        eta: One in ``eta`` goes on.
        rungs: Stages from the shortest training, eta ** (1 - rungs) of a whole one, to that, at most: there are fewer
            where the steps have no room for so many.
        brackets: Kinds of brackets; None is all of them, 1 is ASHA.
        budget: Set by :meth:`bind`.
        chooser: Set by :meth:`bind`: the inner proposer.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> from luthier.testing.problems import decay
        >>> space = Space(lr=Float(1e-5, 1e2, log=True))
        >>> history = simulate(Stopping(), decay, space, Budget(trials=27, steps=81), stateful=True, report_every=1)
        >>> [int((history.age >= age).sum()) for age in (3, 9, 27, 81)], int(history.steps.sum())
        ([27, 8, 3, 3], 345)

    References:
        Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020.
    """

    inner: Any = "random"
    eta: int = 3
    rungs: int = 4
    brackets: int | None = 1
    budget: Budget | None = field(default=None, repr=False)
    chooser: Any = field(default=None, repr=False)
    extendable: ClassVar[bool] = True
    stops_early: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Stopping:
        """The same method for ``budget.trials`` configurations, the best trained for ``budget.epochs`` or ``steps``.

        Raises:
            MethodError: If a setting is out of range, or there are fewer than ``eta`` steps.
        """
        rungs = check_rungs(self.eta, self.rungs, budget, WHERE, self.brackets)
        brackets = None if self.brackets is None else min(self.brackets, rungs)
        return replace(
            self,
            rungs=rungs,
            brackets=brackets,
            budget=budget,
            chooser=bind_inner(self.inner, replace(budget, trials=None), WHERE),
        )

    @property
    def learns_known(self) -> bool | None:
        """True if trials that were before can count at the rungs, and the inner proposer can follow them."""
        return learns_from_others(self.chooser)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """New configurations; none once the budget's trials have been started."""
        budget, first = self.budget or Budget(), len(history)
        left = count if budget.trials is None else min(count, budget.trials - first)
        chosen = new_configurations(self.chooser, self._state(history).seen, left, seeds)
        jobs = []
        for number, job in enumerate(chosen, first):
            tag = {"bracket": self._bracket(number)} | inner_tag(job)
            jobs.append(Job(number, job.config, budget.steps_for(job.config), None, tag))
        return jobs

    def stop(self, history: History, number: int) -> bool:
        """True if the running job ``number`` was not among the best at a rung that it has reached."""
        return number in self._state(history).stopped

    def _bracket(self, number: int) -> int:
        """The kind of bracket that trial ``number`` belongs to: how many of the lowest rungs it passes unjudged."""
        kinds = self.brackets or self.rungs
        sizes = [ceil(self.rungs / (self.rungs - kind) * self.eta ** (self.rungs - kind - 1)) for kind in range(kinds)]
        place = number % sum(sizes)
        for kind, size in enumerate(sizes):
            if place < size:
                return kind
            place -= size
        raise AssertionError("the sizes add up to their sum")

    def _state(self, history: History) -> _State:
        budget, objective = self.budget or Budget(), next(iter(history.objectives))

        def update(state: _State, event: Event) -> _State:
            number = event.number
            if isinstance(event, Job):
                state.passed[number] = _kind(event)
                if number in history.before:
                    state.seen.before.add(number)
                state.seen.add(Job(number, event.config, event.steps, None, event.tag.get("inner", {})))
            elif isinstance(event, Result):
                if number in state.seen.pending:
                    state.seen.add(replace(event, checkpoint=None))
            elif objective in event.metrics:
                self._judge(state, event, history, budget)
            return state

        key = ("stopping", self.eta, self.rungs, self.brackets)
        return history.fold(key, lambda: _State(history.inner()), update)

    def _judge(self, state: _State, report: Report, history: History, budget: Budget) -> None:
        """Decide at every rung that a report has reached; the last rung is the end, where nothing is left to decide."""
        number, config = report.number, history.jobs[report.number].config
        value = history.objective_values(report.metrics)[0]
        value = value if isfinite(value) else inf
        while (rung := state.passed[number]) < self.rungs - 1:
            if report.step < budget.steps_for(config, self.eta ** (rung + 1 - self.rungs)):
                return
            state.passed[number] = rung + 1
            values = state.rungs.setdefault((_kind(history.jobs[number]), rung), [])
            insort(values, value)
            if bisect_left(values, value) >= max(1, len(values) // self.eta) or value == inf:
                state.stopped.add(number)
            if number in state.seen.pending:
                status = "ok" if value < inf else "diverged"
                state.seen.add(Result(number, status, report.metrics, report.step))


def _kind(job: Job) -> int:
    """The kind of bracket of a trial; one that another method began is judged at every rung."""
    return int(job.tag.get("bracket", 0))
