"""A study as its method sees it, where there is more in it than the method's own jobs.

There may be results from elsewhere, and trials of another method that began the study. A method keeps notes in the
tags of its jobs and counts them by number, and neither would be true of jobs that it did not propose. So it is shown a
history of its own, in which what it may learn from comes as jobs that have ended, ``history.before``, and its own jobs
follow. It is a function of the log up to there, so a resumed study shows the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import Any

from luthier.jobs import REPEATS, Budget, Foreign, History, Job, Note, Report, Result
from luthier.optional import optional
from luthier.seeds import Seeds
from luthier.space import Config
from luthier.trials import lineage, trials_of

NONE = -1  # in place of a job's number in the study: a result from elsewhere


@dataclass
class _View:
    """The history that a method is shown.

    Args:
        seen: The history.
        cursor: Entries of the study's log that are in it.
        place: For each job of the study that is in it, its number there.
        number: For each of its jobs, the number in the study.
    """

    seen: History
    cursor: int = 0
    place: dict[int, int] = field(default_factory=dict)
    number: list[int] = field(default_factory=list)

    def add_job(self, number: int, job: Job, at: float, before: bool = False) -> int:
        """Take in a job of the study, or ``NONE``; its number here."""
        here = len(self.seen)
        parent = None if job.parent is None else self.place[job.parent]
        self.seen.add(replace(job, number=here, parent=parent), at)
        self.number.append(number)
        if number != NONE:
            self.place[number] = here
        if before:
            self.seen.before.add(here)
        return here

    def add_outcome(self, event: Report | Result, at: float) -> None:
        """Take in a report or a result, where its job is here; a second result takes the place of the first."""
        here = self.place.get(event.number)
        if here is None:
            return
        running = here in self.seen.pending or here in self.seen.reopened
        if isinstance(event, Result) and not running:
            self.seen.add(Note("reopened", {"number": here}))
        if isinstance(event, Result):
            self.seen.add(replace(event, number=here), at)
        elif running:
            self.seen.add(replace(event, number=here), at)

    def add_known(self, one: Foreign, budget: Budget) -> None:
        """Take in a result from elsewhere, as a job that has been trained whole."""
        steps = budget.steps_for(one.config)
        here = self.add_job(NONE, Job(0, one.config, steps), nan, before=True)
        good = all(map(isfinite, self.seen.objective_values(one.metrics)))
        self.seen.add(Result(here, "ok" if good else "diverged", one.metrics, steps))


class Sight:
    """A method, and what it sees of a study.

    Args:
        proposer: The method, not bound.
        budget: Budget of the whole study.
        history: The study's history, where another method has begun the study.
        place: Entries of its log that come before this method took the study on.

    Attributes:
        first: Jobs that other methods have proposed.
        begun: Trials that they have begun.

    Raises:
        MethodError: If the method does not fit what is left of the budget.
    """

    def __init__(self, proposer: Any, budget: Budget, history: History | None = None, place: int = 0) -> None:
        self.given, self._budget, self._place = proposer, budget, place
        jobs = [] if history is None else [event for event in history.log[:place] if isinstance(event, Job)]
        self.first, self.begun = len(jobs), sum(job.parent is None for job in jobs)
        self._learns = bool(optional(proposer.bind(budget), "learns_known"))
        self._shown, self.bound = 0, self._bind(0)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The method's proposals, numbered as the study counts."""
        view = self._view(history)
        if view is None:
            return self.bound.propose(history, count, seeds)
        own = Seeds(seeds.key(self.first, "method")) if self.first else seeds
        jobs = self._fitting(view).propose(view.seen, count, own)
        return [_told(job, view, history) for job in jobs] if isinstance(jobs, list | tuple) else jobs

    def stop(self, history: History, number: int) -> bool:
        """True if the method would end the running job ``number``; of jobs that it did not propose it ends none."""
        view = self._view(history)
        if view is None:
            return self.bound.stop(history, number)
        here = view.place.get(number)
        return here is not None and here not in view.seen.before and self._fitting(view).stop(view.seen, here)

    def parents(self, history: History) -> set[int]:
        """The jobs that a later one may still continue from."""
        view = self._view(history)
        if view is None:
            return self.bound.parents(history)
        return {view.number[here] for here in self._fitting(view).parents(view.seen)} - {NONE}

    def suggest(self, history: History) -> Config:
        """The configuration that the method's model believes best."""
        view = self._view(history)
        return self.bound.suggest(history) if view is None else self._fitting(view).suggest(view.seen)

    def _view(self, history: History) -> _View | None:
        """The part of the study that the method is shown; None where it is all of it."""
        if not self._place and not (self._learns and history.foreign):
            return None
        key = ("sight", self._place, self._learns)
        view: _View = history.fold(key, lambda: self._begin(history), lambda view, event: view)
        for place in range(view.cursor, len(history.log)):
            self._read(view, history.log[place], history.times[place])
        view.cursor = len(history.log)
        return view

    def _begin(self, history: History) -> _View:
        """The view before the method's first job: every trial so far as one job, where the method learns from them."""
        view = _View(History(history.space, history.objectives, history.limits), self._place)
        if not self._learns:
            return view
        past = History(history.space, history.objectives, history.limits)
        for event, at in zip(history.log[: self._place], history.times, strict=False):
            past.add(event, at)
        for trial in trials_of(past):  # all jobs before all results: no model has to be asked on the way
            steps = int(past.age[trial.jobs[-1]])
            last = Job(0, trial.config, max(1, steps))
            view.add_job(trial.jobs[-1], last, past.asked[trial.number], before=True)
        for number in past.arrival:
            if number in view.place:
                _end(view, past, number)
        for number in past.pending:
            _report(view, past, number)
        for one in past.foreign:
            view.add_known(one, self._budget)
        return view

    def _read(self, view: _View, event: Any, at: float) -> None:
        if isinstance(event, Job):
            view.add_job(event.number, event, at)
        elif isinstance(event, Report | Result):
            view.add_outcome(event, at)
        elif event.kind == "foreign" and self._learns:
            view.add_known(Foreign(event.body["config"], event.body["metrics"]), self._budget)

    def _fitting(self, view: _View) -> Any:
        """The method, bound to what is left of the budget, which counts what the method is shown as trials."""
        if self._shown != len(view.seen.before):
            self._shown, self.bound = len(view.seen.before), self._bind(len(view.seen.before))
        return self.bound

    def _bind(self, shown: int) -> Any:
        trials = self._budget.trials
        left = trials if trials is None else trials - self.begun + shown
        return self.given.bind(self._budget if left == trials else replace(self._budget, trials=left))


def _told(job: Any, view: _View, history: History) -> Any:
    """A proposal with the study's numbers; anything but a job is left to the door."""
    if not isinstance(job, Job) or not isinstance(job.number, int):
        return job
    parent = job.parent if job.parent is None else view.number[job.parent]
    tag = job.tag if REPEATS not in job.tag else {**job.tag, REPEATS: view.number[job.tag[REPEATS]]}
    return replace(job, number=job.number - len(view.seen) + len(history), parent=parent, tag=tag)


def _report(view: _View, past: History, number: int) -> None:
    """The curve of a whole trial."""
    if number in view.place:
        for link in lineage(past, number):
            for report in past.reports.get(link, ()):
                view.add_outcome(replace(report, number=number), nan)


def _end(view: _View, past: History, number: int) -> None:
    """The curve and the end of a whole trial."""
    _report(view, past, number)
    result = past.results[number]
    assert result is not None, "it has arrived"
    whole = replace(result, steps=int(past.age[number]), checkpoint=None)
    view.add_outcome(whole, past.ended[number])
