"""The contract of proposers, as tests that anyone can run on their own."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, ClassVar
from unittest import SkipTest

from luthier.jobs import OK, PRUNED, Budget, History, Job, Result
from luthier.optional import optional
from luthier.propose import Proposer, Random
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.testing.problems import PROBLEMS, SPACES, Problem
from luthier.testing.simulation import rebuild, simulate

Check = Callable[[Proposer, History, int, Seeds, list[Job]], None]


class ProposerContract(ABC):
    """Contract of every proposer, checked on real runs; subclass it in a test file.

    Args:
        spaces: Spaces, on each of which the tests run.
        budget: Budget that the proposer is bound to in most tests.
        objectives: Name and direction of each objective.
        report_every: Steps between reports, for a proposer that prunes.
        batch_invariant: True if configurations do not depend on how proposals were split over calls and workers.
        seeded: True if another seed gives other configurations.
        learns: True if it is better than random search on ``problems``; its budget there is ``learning_budget``.
        problems: Problems to be better on. Random search gets the same number of training steps.
        learning_runs: Paired runs, seeds 0, 1, … on each problem.
        learning_wins: Fraction of the runs that must end below random search's (a tie counts half).
        milliseconds_per_job: Limit of the processor time of a proposed job after 10,000 finished ones, if any.
        long_budget: A budget of more than 10,200 jobs, for that measurement.

    Examples:
        >>> class TestRandom(ProposerContract):
        ...     batch_invariant = True
        ...     milliseconds_per_job = 0.2
        ...     def make(self):
        ...         return Random()
    """

    spaces: ClassVar[Mapping[str, Space]] = SPACES
    budget: ClassVar[Budget] = Budget(trials=24, steps=9)
    objectives: ClassVar[Mapping[str, str]] = {"loss": "min"}
    report_every: ClassVar[int | None] = None
    batch_invariant: ClassVar[bool] = False
    seeded: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    problems: ClassVar[Mapping[str, Problem]] = PROBLEMS
    learning_budget: ClassVar[Budget] = Budget(trials=60)
    learning_runs: ClassVar[int] = 10
    learning_wins: ClassVar[float] = 0.8
    milliseconds_per_job: ClassVar[float | None] = None
    long_budget: ClassVar[Budget] = Budget(trials=12_000)

    @abstractmethod
    def make(self) -> Proposer:
        """The proposer under test, not yet bound to a budget."""

    def __init_subclass__(cls) -> None:
        """Leave out the tests of what a proposer does not promise."""
        promises = {
            "test_batches_and_workers_do_not_matter": cls.batch_invariant,
            "test_it_learns": cls.learns,
            "test_proposing_stays_cheap": cls.milliseconds_per_job is not None,
        }
        for name, promised in promises.items():
            setattr(cls, name, ProposerContract.__dict__[name] if promised else None)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run each test on every space, or on every problem."""
        if "space" in metafunc.fixturenames:
            metafunc.parametrize("space", list(self.spaces.values()), ids=list(self.spaces))
        if "problem" in metafunc.fixturenames:
            metafunc.parametrize("problem", list(self.problems.values()), ids=list(self.problems))

    def run(self, space: Space, seed: int = 0, check: Check | None = None, **settings: Any) -> History:
        """A study of the proposer on a training that any space fits; ``check`` looks at every proposal."""
        proposer = self.make() if check is None else _Watched(self.make(), check)
        settings = {"objectives": self.objectives, "report_every": self.report_every, "stateful": True} | settings
        objective = settings.pop("objective", _training(space, self.objectives))
        return simulate(proposer, objective, space, self.budget, seed, **settings)

    def test_proposals_are_valid(self, space: Space) -> None:
        ways: list[dict[str, Any]] = [{}, {"batch": 8}, {"workers": 3}, {"workers": 2, "failures": {"failed": 0.3}}]
        for settings in ways:
            history = self.run(space, check=_check_jobs, **settings)
            assert len(history) > 0, "nothing was proposed"

    def test_the_study_ends(self, space: Space) -> None:
        def ends(proposer: Proposer, history: History, count: int, seeds: Seeds, jobs: list[Job]) -> None:
            over.append(not jobs and not history.pending)

        ways: list[dict[str, Any]] = [{}, {"batch": 8}, {"workers": 3}]
        for settings in ways:
            over: list[bool] = []
            history = self.run(space, check=ends, limit=2_000, **settings)
            assert len(history) < 2_000, "it went on beyond 2,000 jobs"
            assert over and over[-1], "it did not say that the study is over by proposing nothing"
            started = sum(job.parent is None for job in history.jobs)
            assert self.budget.trials is None or started <= self.budget.trials, f"{started} trials were started"

    def test_a_proposal_is_a_pure_function_of_the_history(self, space: Space) -> None:
        def pure(proposer: Proposer, history: History, count: int, seeds: Seeds, jobs: list[Job]) -> None:
            assert _state(history) == _state(rebuild(history)), "the history was changed"
            again = proposer.propose(history, count, seeds)
            assert _text(again) == _text(jobs), "a second call with the same history gave another answer"

        self.run(space, check=pure)
        self.run(space, check=pure, workers=3)

    def test_a_dropped_cache_changes_nothing(self, space: Space) -> None:
        def cold(proposer: Proposer, history: History, count: int, seeds: Seeds, jobs: list[Job]) -> None:
            again = self.make().bind(self.budget).propose(rebuild(history), count, seeds)
            assert _text(again) == _text(jobs), "another answer from a fresh history of the same events"

        self.run(space, check=cold, workers=3, failures={"failed": 0.2})
        self.run(space, check=cold, batch=5)

    def test_a_resumed_study_goes_on_identically(self, space: Space) -> None:
        for batch in (1, 4):
            whole = self.run(space, batch=batch)
            events = len(whole.events)
            for cut in sorted({1, events // 5, events // 3, events // 2, events * 4 // 5, events - 1}):
                while cut < events and isinstance(whole.events[cut], Job):  # a batch is stored whole or not at all
                    cut += 1
                resumed = self.run(space, batch=batch, history=rebuild(whole, cut))
                assert _text(resumed.jobs) == _text(whole.jobs), f"resumed after {cut} of {events} events, it differs"

    def test_batches_and_workers_do_not_matter(self, space: Space) -> None:
        one = self.run(space)
        ways: list[dict[str, Any]] = [{"batch": 8}, {"workers": 3}, {"workers": 2, "batch": 3}]
        for settings in ways:
            assert _text(self.run(space, **settings).jobs) == _text(one.jobs), f"{settings} gave other jobs"

    def test_it_survives_bad_results(self, space: Space) -> None:
        training = _training(space, self.objectives)

        def infinite(config: Config, steps: int, state: Any) -> tuple[dict[str, float], Any]:
            values, state = training(config, steps, state)
            return {name: math.inf if value > 0.6 else value for name, value in values.items()}, state

        kinds: dict[str, dict[str, Any]] = {
            "30 % failed, 10 % diverged": {"failures": {"failed": 0.3, "diverged": 0.1}},
            "all failed": {"failures": {"failed": 1.0}},
            "all diverged": {"failures": {"diverged": 1.0}},
            "constant": {"objective": lambda config, steps, state: (dict.fromkeys(self.objectives, 1.0), state)},
            "huge": {"objective": lambda config, steps, state: (dict.fromkeys(self.objectives, -1e300), state)},
            "infinite": {"objective": infinite},
        }
        for kind, settings in kinds.items():
            for workers in (1, 3):
                history = self.run(space, check=_check_jobs, workers=workers, limit=2_000, **settings)
                assert 0 < len(history) < 2_000, f"{kind}: {len(history)} jobs"
                assert not history.pending, f"{kind}: jobs are left pending"

    def test_seeds(self, space: Space) -> None:
        assert _text(self.run(space, seed=1).jobs) == _text(self.run(space, seed=1).jobs)
        if self.seeded:
            assert _text(self.run(space, seed=1).jobs) != _text(self.run(space, seed=2).jobs), "seeds 1 and 2 agree"

    def test_another_process_proposes_the_same(self) -> None:
        proposer = self.make()
        space = next(iter(self.spaces.values()))
        history = self.run(space)
        for cut in range(len(history.events), 0, -1):  # a history that is not over
            here = proposer.bind(self.budget).propose(rebuild(history, cut), 4, Seeds(0))
            if here:
                break
        else:
            raise AssertionError("nothing was proposed")
        paths = os.pathsep.join([*sys.path, str(Path.cwd())])
        environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": paths}
        budget = (self.budget.trials, self.budget.steps, self.budget.epochs)
        sent = pickle.dumps((proposer, space, dict(self.objectives), history.events[:cut], budget))
        command = [sys.executable, "-c", _ELSEWHERE]
        there = subprocess.run(command, input=sent, capture_output=True, env=environment, check=False)
        if there.returncode == _UNKNOWN:
            raise SkipTest(f"another process cannot import {type(proposer).__module__}")
        assert there.returncode == 0, there.stderr.decode()
        assert there.stdout.decode() == _text(here), "another process gave another answer"

    def test_it_learns(self, problem: Problem) -> None:
        wins = 0.0
        for seed in range(self.learning_runs):
            settings: dict[str, Any] = {"stateful": problem.stateful}
            if problem.stateful:
                settings["report_every"] = self.report_every
            ours = simulate(self.make(), problem.objective, problem.space, self.learning_budget, seed, **settings)
            fair = _same_steps(ours, self.learning_budget, problem)
            random = simulate(Random(), problem.objective, problem.space, fair, seed, stateful=problem.stateful)
            wins += 1.0 if _best(ours) < _best(random) else 0.5 if _best(ours) == _best(random) else 0.0
        share = wins / self.learning_runs
        assert share >= self.learning_wins, f"below random search in only {share:.0%} of {self.learning_runs} runs"

    def test_proposing_stays_cheap(self) -> None:
        space = next(iter(self.spaces.values()))

        def flat(config: Config) -> dict[str, float]:
            return {name: config[space.names[0]] for name in self.objectives}

        bound, seeds = self.make().bind(self.long_budget), Seeds(0)
        history = simulate(self.make(), flat, space, self.long_budget, batch=64, objectives=self.objectives)
        assert len(history.arrival) >= 10_000, f"only {len(history.arrival)} jobs under long_budget"
        costs = []
        for _ in range(21):
            began = time.process_time()
            jobs = bound.propose(history, 8, seeds)
            costs.append(1e3 * (time.process_time() - began) / len(jobs))
            for job in jobs:
                history.add(job)
                history.add(Result(job.number, "ok", flat(job.config), job.steps))
        assert median(costs[1:]) <= self.milliseconds_per_job, f"{median(costs[1:]):.3f} ms a job"


@dataclass(frozen=True)
class _Watched:
    """A proposer whose every proposal is looked at."""

    inner: Any
    check: Check
    extendable: ClassVar[bool] = False

    def bind(self, budget: Budget) -> _Watched:
        return replace(self, inner=self.inner.bind(budget))

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        jobs = self.inner.propose(history, count, seeds)
        self.check(self.inner, history, count, seeds, jobs)
        return jobs

    def stop(self, history: History, number: int) -> bool:
        ask = optional(self.inner, "stop")
        return ask is not None and ask(history, number)


def _check_jobs(proposer: Proposer, history: History, count: int, seeds: Seeds, jobs: list[Job]) -> None:
    """Every proposed job is numbered, inside the space, of at least one step, continues what can be continued."""
    first = len(history)
    assert [job.number for job in jobs] == list(range(first, first + len(jobs))), "the numbers have gaps"
    assert len(jobs) <= count, f"{len(jobs)} jobs where {count} were asked for"
    for job in jobs:
        checked = history.space.check(job.config)  # raises ConfigError
        assert repr(checked) == repr(dict(job.config)), f"not plain Python in the space's order: {job.config}"
        assert isinstance(job.steps, int) and job.steps >= 1, f"steps={job.steps!r}"
        tag = json.dumps(dict(job.tag), allow_nan=False)
        assert json.loads(tag) == dict(job.tag), f"the tag is not JSON: {job.tag}"
        if job.parent is not None:
            assert 0 <= job.parent < first, f"job {job.number} continues {job.parent}, which is no earlier job"
            assert history.status[job.parent] in (OK, PRUNED), f"job {job.number} continues one that has left no state"


Training = Callable[[Config, int, Any], tuple[dict[str, float], Any]]


def _training(space: Space, objectives: Mapping[str, str]) -> Training:
    """A training on any space: the nearer the codes to 0.3 (0.8 for a second objective …), the lower the loss."""

    def train(config: Config, steps: int, state: Any) -> tuple[dict[str, float], Any]:
        codes, mask = space.encode([config])
        age, total = state or (0, [0.0] * len(objectives))
        targets = [(0.3 + 0.5 * i) % 1.0 for i in range(len(objectives))]
        far = [float(((codes - target)[mask] ** 2).sum() ** 0.5) for target in targets]
        age, total = age + steps, [t + steps * f for t, f in zip(total, far, strict=True)]
        signs = [-1.0 if mode == "max" else 1.0 for mode in objectives.values()]
        losses = [sign * (t / age + 1.0 / age) for sign, t in zip(signs, total, strict=True)]
        return dict(zip(objectives, losses, strict=True)), (age, total)

    return train


def _text(jobs: list[Job]) -> str:
    return "\n".join(json.dumps([j.number, j.config, j.steps, j.parent, dict(j.tag)], sort_keys=True) for j in jobs)


def _state(history: History) -> tuple[Any, ...]:
    """All that a proposer could have changed."""
    columns = (history.values, history.status, history.steps, history.age, history.codes, history.mask)
    return (
        len(history.events),
        _text(history.jobs),
        list(history.pending),
        list(history.arrival),
        {number: len(reports) for number, reports in history.reports.items()},
        [column.tobytes() for column in columns],
    )


def _best(history: History) -> float:
    return math.inf if history.best is None else float(history.values[history.best, 0])


def _same_steps(history: History, budget: Budget, problem: Problem) -> Budget:
    """Budget with which random search trains as many steps as ``history`` has."""
    if not problem.stateful:
        return Budget(trials=len(history))
    each = budget.steps_for({})
    return Budget(trials=max(1, int(history.steps.sum()) // each), steps=each)


_UNKNOWN = 77  # how the other process says that the proposer's module is not to be found

_ELSEWHERE = """
import pickle, sys
from luthier.jobs import Budget
from luthier.seeds import Seeds
from luthier.testing.proposers import _text
from luthier.testing.simulation import replay
try:
    proposer, space, objectives, events, budget = pickle.load(sys.stdin.buffer)
except ModuleNotFoundError:
    sys.exit(77)
jobs = proposer.bind(Budget(*budget)).propose(replay(space, objectives, events), 4, Seeds(0))
sys.stdout.write(_text(jobs))
"""
