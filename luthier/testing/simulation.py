"""A proposer on a function, without executor or store: the study loop in simulated time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from luthier.jobs import Budget, Event, History, Job, Report, Result, Status
from luthier.limits import Bounds
from luthier.optional import optional
from luthier.propose import Proposer, door
from luthier.seeds import Seeds
from luthier.space import Config, Space

Metrics = float | Mapping[str, float]
Objective = Callable[[Config], Metrics]
StatefulObjective = Callable[[Config, int, Any], tuple[Metrics, Any]]


def simulate(
    proposer: Proposer,
    objective: Objective | StatefulObjective,
    space: Space,
    budget: Budget,
    seed: int = 0,
    *,
    workers: int = 1,
    batch: int = 1,
    failures: Mapping[str, float] | None = None,
    objectives: Mapping[str, str] | None = None,
    limits: Mapping[str, Bounds] | None = None,
    stateful: bool = False,
    report_every: int | None = None,
    history: History | None = None,
    limit: int = 10_000,
) -> History:
    """Run a proposer on a function until it says that the study is over.

    Worker k of several takes ``1 + 0.7 k`` units of simulated time a step, so that results arrive out of order. A
    worker asks for ``batch`` jobs when it is free, and their results come together.

    Args:
        proposer: The proposer, not yet bound to a budget.
        objective: ``f(config) -> value or {name: value}``; with ``stateful``, ``f(config, steps, state) -> (value or
            values, state)``, where the state is None at first and a continued job gets its parent's.
        space: The search space.
        budget: Budget that the proposer is bound to.
        seed: The study's seed.
        workers: Jobs (batches of them) that run at once.
        batch: Jobs asked for at once.
        failures: Probability of each status other than "ok": ``{"failed": 0.3, "diverged": 0.1}``. Whether a job
            fails depends on the seed and its number alone.
        objectives: Name and direction of each objective, as for :class:`~luthier.jobs.History`.
        limits: Bounds of metrics, as for :class:`~luthier.jobs.History`.
        stateful: The objective has a state, which jobs with a parent continue.
        report_every: Steps between the reports of a job (stateful objectives only); after each one a proposer that has
            ``stop`` is asked whether to prune the job.
        history: Continue from this one (it is added to); its pending jobs are run first.
        limit: No new jobs after so many.

    Returns:
        The history of the study. A value that is not finite makes its job "diverged".

    Examples:
        >>> from luthier.propose import Random
        >>> from luthier.space import Float
        >>> history = simulate(Random(), lambda config: config["x"] ** 2, Space(x=Float(-1, 1)), Budget(trials=50))
        >>> len(history), round(history.values[history.best, 0].item(), 4)
        (50, 0.0001)
    """
    history = History(space, objectives, limits) if history is None else history
    train: Any = objective if stateful else _without_state(objective)
    trainer = _Trainer(train, history, seed, failures or {}, report_every)
    bound, seeds = proposer.bind(budget), Seeds(seed)
    taken = list(history.pending.values())  # jobs that a stopped study had begun
    running: list[tuple[float, int, list[Job]]] = []  # (end, worker, jobs), a heap
    idle, now = list(range(workers)), 0.0
    while True:
        for worker in list(idle):
            jobs, taken = taken[:batch], taken[batch:]
            if not jobs and len(history) < limit:
                jobs = door.propose(bound, history, batch, seeds)
                for job in jobs:
                    history.add(job)
            if not jobs:
                break
            idle.remove(worker)
            steps = max(job.steps for job in jobs)
            heapq.heappush(running, (now + steps * (1.0 + 0.7 * worker), worker, jobs))
        if not running:
            return history
        now, worker, jobs = heapq.heappop(running)
        for job in jobs:
            trainer.run(job, optional(bound, "stop"))
        idle = sorted([*idle, worker])


def rebuild(history: History, stop: int | None = None) -> History:
    """A fresh history from the first ``stop`` events (all of them if None), as a resumed study has it.

    The space is a fresh one too, so that nothing kept on either can be found again.
    """
    return replay(Space.from_json(history.space.to_json()), history.objectives, history.events[:stop], history.limits)


def replay(
    space: Space,
    objectives: Mapping[str, str],
    events: Iterable[Event],
    limits: Mapping[str, Bounds] | None = None,
) -> History:
    """A history from its events."""
    history = History(space, objectives, limits)
    for event in events:
        history.add(event)
    return history


class _Trainer:
    """Runs jobs on an objective and tells the history; knows the state that each finished job has left."""

    def __init__(
        self,
        objective: Callable[[Config, int, Any], tuple[Metrics, Any]],
        history: History,
        seed: int,
        failures: Mapping[str, float],
        report_every: int | None,
    ) -> None:
        self._objective, self._history, self._seeds = objective, history, Seeds(seed)
        self._failures, self._report_every = failures, report_every
        self._states: dict[int, Any] = {}

    def run(self, job: Job, stop: Callable[[History, int], bool] | None) -> None:
        history, number = self._history, job.number
        status = self._drawn(number)
        if status == "failed":
            history.add(Result(number, status, error="RuntimeError: a simulated failure"))
            return
        if status == "diverged":
            history.add(Result(number, status, dict.fromkeys(history.objectives, math.nan), job.steps))
            return
        state = None if job.parent is None else self._state(job.parent)
        before = 0 if job.parent is None else int(history.age[job.parent])
        metrics, done, status = {}, 0, "ok"
        while done < job.steps and status == "ok":
            part = min(self._report_every or job.steps, job.steps - done)
            metrics, state = self._train(job, part, state)
            done += part
            if not all(math.isfinite(metrics[name]) for name in history.objectives):
                status = "diverged"
            elif self._report_every:
                history.add(Report(number, before + done, metrics))
                if stop is not None and done < job.steps and stop(history, number):
                    status = "pruned"
        self._states[number] = state
        history.add(Result(number, status, metrics, done))

    def _train(self, job: Job, steps: int, state: Any) -> tuple[dict[str, float], Any]:
        values, state = self._objective(job.config, steps, state)
        named = values if isinstance(values, Mapping) else {next(iter(self._history.objectives)): values}
        return {name: float(value) for name, value in named.items()}, state

    def _drawn(self, number: int) -> Status:
        """Draw the status of job ``number``: "ok", or the way in which it goes wrong."""
        place = self._seeds.rng(number, "simulated failure").random()
        for status, probability in self._failures.items():
            if status not in ("failed", "diverged"):
                raise ValueError(f"failures may be failed or diverged, not {status!r}")
            if place < probability:
                return status
            place -= probability
        return "ok"

    def _state(self, number: int) -> Any:
        """The state at the end of a finished job; of one from before a resume, its training is done again."""
        result = self._history.results[number]
        assert result is not None and result.status in ("ok", "pruned"), f"job {number} has left no state to continue"
        if number not in self._states:
            job, done = self._history.jobs[number], 0
            state = None if job.parent is None else self._state(job.parent)
            while done < result.steps:
                part = min(self._report_every or job.steps, result.steps - done)
                _, state = self._train(job, part, state)
                done += part
            self._states[number] = state
        return self._states[number]


def _without_state(objective: Any) -> StatefulObjective:
    return lambda config, steps, state: (objective(config), None)
