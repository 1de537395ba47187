"""The contract of proposers on our own ones, on small ones of every kind, and on broken ones, which it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from luthier.errors import LuthierError
from luthier.interop.botorch import HypervolumeImprovement
from luthier.interop.cmaes import CMAES
from luthier.interop.optuna import NSGA2, TPE
from luthier.jobs import OK, Budget, History, Job
from luthier.propose import Diverse, GaussianProcess, GFlowNet, Grid, Proposer, Random
from luthier.propose.asha import ASHA
from luthier.propose.freeze_thaw import FreezeThaw
from luthier.propose.genetic import Genetic
from luthier.propose.hyperband import Hyperband
from luthier.propose.median import Median
from luthier.propose.pb2 import PB2
from luthier.propose.pbt import PBT
from luthier.propose.stopping import Stopping
from luthier.seeds import Seeds
from luthier.space import Config, Float, Space
from luthier.testing import PROBLEMS, SPACES, Problem, ProposerContract
from luthier.testing.problems import decay


class TestRandom(ProposerContract):
    batch_invariant = True
    milliseconds_per_job = 0.2

    def make(self) -> Proposer:
        return Random()


class TestGrid(ProposerContract):
    batch_invariant = True
    seeded = False
    milliseconds_per_job = 0.2

    def make(self) -> Proposer:
        return Grid(points=25)


class TestShuffledGrid(ProposerContract):
    batch_invariant = True
    milliseconds_per_job = 0.2

    def make(self) -> Proposer:
        return Grid(points=25, shuffle=True)


class TestGaussianProcess(ProposerContract):
    budget = Budget(trials=13, steps=9)
    learns = True
    learning_budget = Budget(trials=22)
    learning_runs = 5

    def make(self) -> Proposer:
        return GaussianProcess()


class TestDiverse(ProposerContract):
    budget = Budget(trials=13, steps=9)
    learns = True
    learning_budget = Budget(trials=26)
    learning_runs = 5

    def make(self) -> Proposer:
        return Diverse(count=2)


class TestGFlowNet(ProposerContract):
    budget = Budget(trials=12, steps=9)
    learns = True
    learning_budget = Budget(trials=30)
    learning_runs = 5

    def make(self) -> Proposer:
        return GFlowNet(batch=5, initial=5, bins=4)


def drift(config: Config, steps: int, state: tuple[float, int] | None) -> tuple[float, tuple[float, int]]:
    """A training whose best learning rate falls from 1 to 0.001 within 90 steps: no constant one goes far."""
    loss, age = state or (1.0, 0)
    for t in range(age, age + steps):
        loss *= 1 - 0.1 * math.exp(-2 * (math.log10(config["lr"]) + 3 * min(t / 90, 1)) ** 2)
    return loss, (loss, age + steps)


def curves(config: Config, steps: int, state: int | None) -> tuple[float, int]:
    """Learning curves that cross: the faster a training begins, the higher it ends."""
    age = (state or 0) + steps
    end = (config["width"] - 0.7) ** 2 + 0.3 * config["lr"] ** 2 + (config["decay"] - 0.2) ** 2
    return end + math.exp(-(0.02 + 0.2 * config["lr"]) * age), age


RATE = Space(lr=Float(1e-5, 1e2, log=True))
DRIFT = Problem(RATE, drift, 0.0, stateful=True)
DECAY = Problem(RATE, decay, 0.0, stateful=True)
CURVES = Problem(Space(lr=Float(0, 1), width=Float(0, 1), decay=Float(0, 1)), curves, 0.0, stateful=True)


class TestGenetic(ProposerContract):
    batch_invariant = True
    learns = True
    problems: ClassVar[Mapping[str, Problem]] = {name: PROBLEMS[name] for name in ("bowl", "tree")}
    learning_budget = Budget(trials=120)
    milliseconds_per_job = 0.5

    def make(self) -> Proposer:
        return Genetic()


class TestGeneticThatNudges(ProposerContract):
    batch_invariant = True
    learns = True
    problems: ClassVar[Mapping[str, Problem]] = {name: PROBLEMS[name] for name in ("bowl", "tree")}
    learning_budget = Budget(trials=60)

    def make(self) -> Proposer:
        return Genetic(nudge=0.5, mutation=0.3)


class TestGeneticOfSeveralObjectives(ProposerContract):
    budget = Budget(trials=24, steps=9)
    objectives: ClassVar[Mapping[str, str]] = {"loss": "min", "accuracy": "max"}
    batch_invariant = True
    milliseconds_per_job = 2.0

    def make(self) -> Proposer:
        return Genetic(population=6)


class TestGeneticOfSeveralObjectivesThatInherits(ProposerContract):
    budget = Budget(trials=24, steps=9)
    objectives: ClassVar[Mapping[str, str]] = {"loss": "min", "accuracy": "max"}
    batch_invariant = True

    def make(self) -> Proposer:
        return Genetic(population=6, inherit="best")


class TestGeneticThatInherits(ProposerContract):
    batch_invariant = True
    learns = True
    learning_budget = Budget(trials=60, steps=15)
    problems: ClassVar[Mapping[str, Problem]] = {"drift": DRIFT}

    def make(self) -> Proposer:
        return Genetic(population=8, inherit="parent")


class TestGeneticThatInheritsTheBest(ProposerContract):
    batch_invariant = True
    learns = True
    learning_budget = Budget(trials=60, steps=15)
    problems: ClassVar[Mapping[str, Problem]] = {"drift": DRIFT}

    def make(self) -> Proposer:
        return Genetic(population=8, inherit="best", elite=1)


class TestPBT(ProposerContract):
    budget = Budget(trials=6, steps=9)
    batch_invariant = True
    learns = True
    learning_budget = Budget(trials=10, steps=90)
    problems: ClassVar[Mapping[str, Problem]] = {"drift": DRIFT, "decay": DECAY}
    milliseconds_per_job = 0.5
    long_budget = Budget(trials=4_000, steps=9)

    def make(self) -> Proposer:
        return PBT(rounds=9)


class TestTournamentPBT(ProposerContract):
    budget = Budget(trials=6, steps=9)
    batch_invariant = True
    learns = True
    learning_budget = Budget(trials=10, steps=90)
    learning_wins = 0.7
    problems: ClassVar[Mapping[str, Problem]] = {"drift": DRIFT, "decay": DECAY}

    def make(self) -> Proposer:
        return PBT(rounds=9, exploit="tournament", fresh=2)


class TestAsynchronousPBT(ProposerContract):
    budget = Budget(trials=6, steps=9)
    learns = True
    learning_budget = Budget(trials=10, steps=90)
    problems: ClassVar[Mapping[str, Problem]] = {"drift": DRIFT, "decay": DECAY}
    milliseconds_per_job = 0.5
    long_budget = Budget(trials=1_500, steps=9)

    def make(self) -> Proposer:
        return PBT(rounds=9, asynchronous=True, fresh=1)


class TestPB2(ProposerContract):
    budget = Budget(trials=6, steps=9)
    batch_invariant = True
    learns = True
    learning_budget = Budget(trials=10, steps=90)
    problems: ClassVar[Mapping[str, Problem]] = {"drift": DRIFT, "decay": DECAY}

    def make(self) -> Proposer:
        return PB2(rounds=9)


class TestAsynchronousPB2(ProposerContract):
    budget = Budget(trials=6, steps=9)
    learns = True
    learning_budget = Budget(trials=10, steps=90)
    problems: ClassVar[Mapping[str, Problem]] = {"drift": DRIFT}

    def make(self) -> Proposer:
        return PB2(rounds=9, asynchronous=True, exploit="tournament", fresh=1)


class TestHyperband(ProposerContract):
    learning_wins = 0.7
    learns = True
    learning_budget = Budget(trials=49, steps=27)
    problems: ClassVar[Mapping[str, Problem]] = {"decay": DECAY, "curves": CURVES}
    milliseconds_per_job = 0.5
    long_budget = Budget(trials=9_000, steps=9)

    def make(self) -> Proposer:
        return Hyperband(rungs=3)


class TestASHA(ProposerContract):
    learning_wins = 0.7
    learns = True
    learning_budget = Budget(trials=49, steps=27)
    problems: ClassVar[Mapping[str, Problem]] = {"decay": DECAY, "curves": CURVES}
    milliseconds_per_job = 0.5
    long_budget = Budget(trials=9_000, steps=9)

    def make(self) -> Proposer:
        return ASHA(rungs=3)


class TestFreezeThaw(ProposerContract):
    spaces: ClassVar[Mapping[str, Space]] = {name: SPACES[name] for name in ("conditional", "mixed")}
    budget = Budget(trials=8, steps=9)
    learns = True
    learning_budget = Budget(trials=30, steps=27)
    learning_wins = 0.6
    problems: ClassVar[Mapping[str, Problem]] = {"decay": DECAY, "curves": CURVES}

    def make(self) -> Proposer:
        return FreezeThaw(initial=4, rungs=3)


class TestFreezeThawThatStops(ProposerContract):
    spaces: ClassVar[Mapping[str, Space]] = {"conditional": SPACES["conditional"]}
    budget = Budget(trials=8, steps=9)
    report_every = 1

    def make(self) -> Proposer:
        return FreezeThaw(initial=4, rungs=3, stops=True)


class TestStopping(ProposerContract):
    report_every = 1
    learning_wins = 0.7
    learns = True
    learning_budget = Budget(trials=49, steps=27)
    problems: ClassVar[Mapping[str, Problem]] = {"decay": DECAY, "curves": CURVES}
    milliseconds_per_job = 0.5
    long_budget = Budget(trials=12_000, steps=9)

    def make(self) -> Proposer:
        return Stopping(rungs=3)


class TestMedian(ProposerContract):
    report_every = 1
    learns = True
    learning_budget = Budget(trials=49, steps=27)
    learning_runs = 20
    learning_wins = 0.6
    problems: ClassVar[Mapping[str, Problem]] = {"decay": DECAY, "curves": CURVES}

    def make(self) -> Proposer:
        return Median()


class TestTPE(ProposerContract):
    budget = Budget(trials=14, steps=9)
    learns = True
    learning_budget = Budget(trials=40)
    learning_runs = 6
    problems: ClassVar[Mapping[str, Problem]] = {"bowl": PROBLEMS["bowl"]}

    def make(self) -> Proposer:
        return TPE(startup=5)


class TestCMAES(ProposerContract):
    budget = Budget(trials=14, steps=9)
    learns = True
    learning_runs = 6
    problems: ClassVar[Mapping[str, Problem]] = {"bowl": PROBLEMS["bowl"]}

    def make(self) -> Proposer:
        return CMAES()


@pytest.mark.slow
class TestHypervolumeImprovement(ProposerContract):
    budget = Budget(trials=7, steps=9)
    objectives: ClassVar[Mapping[str, str]] = {"loss": "min", "accuracy": "max"}
    spaces: ClassVar[Mapping[str, Space]] = {name: SPACES[name] for name in ("conditional", "mixed", "constant")}

    def make(self) -> Proposer:
        return HypervolumeImprovement(initial=5)


class TestNSGA2(ProposerContract):
    budget = Budget(trials=14, steps=9)
    objectives: ClassVar[Mapping[str, str]] = {"loss": "min", "accuracy": "max"}

    def make(self) -> Proposer:
        return NSGA2(population=4)


@dataclass(frozen=True)
class Climber:
    """A (1 + 1) evolution strategy: ten random configurations, then the best so far, perturbed."""

    budget: Budget | None = None
    extendable: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Climber:
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        budget, first = self.budget or Budget(), len(history)
        jobs = []
        for number in range(first, min(first + count, budget.trials or first)):
            config = history.space.sample(rng := seeds.rng(number, "propose"))
            if number >= 10 and history.best is not None:
                config = history.space.perturb(history.jobs[history.best].config, rng, scale=0.07, probability=0.7)
            jobs.append(Job(number, config, budget.steps_for(config)))
        return jobs


class TestClimber(ProposerContract):
    learns = True

    def make(self) -> Proposer:
        return Climber()


@dataclass(frozen=True)
class Halving:
    """One bracket of successive halving: a third of the steps for all, the rest for the better half of those that ran.

    A job whose first report is worse than all finished ones is pruned.
    """

    budget: Budget | None = None
    extendable: ClassVar[bool] = False

    def bind(self, budget: Budget) -> Halving:
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        budget, first = self.budget or Budget(), len(history)
        trials = budget.trials or 8
        if first < trials:
            numbers = range(first, min(first + count, trials))
            configs = [history.space.sample(seeds.rng(number, "propose")) for number in numbers]
            return [
                Job(n, config, budget.steps_for(config, 1 / 3), tag={"rung": 0})
                for n, config in zip(numbers, configs, strict=True)
            ]
        if np.any(history.status[:trials] == 0):
            return []
        ok = np.flatnonzero(history.status[:trials] == OK)
        best = ok[np.argsort(history.values[ok, 0], kind="stable")][: trials // 2].tolist()
        return [
            Job(first + i, history.jobs[k].config, budget.steps_for(history.jobs[k].config, 2 / 3), k, {"rung": 1})
            for i, k in enumerate(best[first - trials : first - trials + count])
        ]

    def stop(self, history: History, number: int) -> bool:
        ended = history.values[[n for n in history.arrival if history.status[n] == OK], 0]
        loss = next(iter(history.reports[number][-1].metrics.values()))
        return len(ended) >= 4 and bool(loss > ended.max())


class TestHalving(ProposerContract):
    report_every = 1
    learns = True
    learning_budget = Budget(trials=27, steps=27)
    problems: ClassVar[Mapping[str, Problem]] = {
        "decay": Problem(Space(lr=Float(1e-5, 1e2, log=True)), decay, 0.0, stateful=True)
    }

    def make(self) -> Proposer:
        return Halving()


Fault = Callable[[History, list[Job], Seeds], list[Job]]


@dataclass(frozen=True)
class Faulty:
    """Random search with a fault."""

    fault: Fault
    inner: Random = field(default_factory=Random)
    extendable: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Faulty:
        return replace(self, inner=self.inner.bind(budget))

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        return self.fault(history, self.inner.propose(history, count, seeds), seeds)


def _with(jobs: list[Job], **changes: Any) -> list[Job]:
    return [replace(job, **changes) for job in jobs]


def _fault_counter() -> Fault:
    calls: list[int] = []

    def fault(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
        calls.append(0)
        return _with(jobs, config=history.space.sample(seeds.rng(len(calls), "propose")))

    return fault


def _fault_global(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return _with(jobs, config=history.space.sample(np.random.default_rng()))


def _fault_mutation(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    history.arrival.sort(reverse=True)
    return jobs


def _fault_call_key(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    rng = seeds.rng(len(history), "propose")
    return [replace(job, config=history.space.sample(rng)) for job in jobs]


def _fault_endless(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return jobs or [Job(len(history), history.space.sample(seeds.rng(len(history), "propose")))]


def _fault_nan(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return _with(jobs, steps=1 + int(abs(history.values[history.arrival].sum()) % 2))


def _fault_parent(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return _with(jobs, parent=history.arrival[-1]) if history.arrival else jobs


def _fault_rescan(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    if len(history) >= 10_000:  # not sooner, or this test would take long itself
        sorted(history.jobs, key=lambda job: job.config["lr"])
    return jobs


def _fault_object(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    history.space.__dict__.setdefault("cache", {})[len(history)] = jobs  # a cache that is not of the history
    return _with(jobs, tag={"seen": len(history.space.__dict__["cache"])})


def _fault_numpy(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return [replace(job, config={name: np.float64(v) for name, v in job.config.items()}) for job in jobs]


def _fault_number(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return [replace(job, number=i) for i, job in enumerate(jobs)]


def _fault_too_many(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return jobs + [replace(job, number=job.number + len(jobs)) for job in jobs]


def _fault_outside(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return [replace(job, config={**job.config, "lr": 2.0}) for job in jobs]


def _fault_one_seed(history: History, jobs: list[Job], seeds: Seeds) -> list[Job]:
    return _with(jobs, config=history.space.sample(np.random.default_rng(0)))


FAULTS: list[tuple[str, Fault, str]] = [
    ("counts its calls", _fault_counter(), "a_proposal_is_a_pure_function_of_the_history"),
    ("global randomness", _fault_global, "a_proposal_is_a_pure_function_of_the_history"),
    ("sorts the history", _fault_mutation, "a_proposal_is_a_pure_function_of_the_history"),
    ("a cache elsewhere", _fault_object, "a_dropped_cache_changes_nothing"),
    ("global randomness", _fault_global, "a_dropped_cache_changes_nothing"),
    ("global randomness", _fault_global, "a_resumed_study_goes_on_identically"),
    ("global randomness", _fault_global, "seeds"),
    ("one seed for all", _fault_one_seed, "seeds"),
    ("one generator a call", _fault_call_key, "batches_and_workers_do_not_matter"),
    ("never ends", _fault_endless, "the_study_ends"),
    ("proposes nothing", lambda history, jobs, seeds: [], "proposals_are_valid"),
    ("too many", _fault_too_many, "proposals_are_valid"),
    ("counts from 0", _fault_number, "proposals_are_valid"),
    ("no steps", lambda history, jobs, seeds: _with(jobs, steps=0), "proposals_are_valid"),
    ("NumPy's numbers", _fault_numpy, "proposals_are_valid"),
    ("outside its domain", _fault_outside, "proposals_are_valid"),
    ("a tuple in the tag", lambda history, jobs, seeds: _with(jobs, tag={"slot": (1, 2)}), "proposals_are_valid"),
    ("NaN in the tag", lambda history, jobs, seeds: _with(jobs, tag={"score": math.nan}), "proposals_are_valid"),
    ("continues failed jobs", _fault_parent, "proposals_are_valid"),
    ("cannot bear NaN", _fault_nan, "it_survives_bad_results"),
]


@pytest.mark.parametrize(("fault", "test"), [f[1:] for f in FAULTS], ids=[f"{f[0]}-{f[2]}" for f in FAULTS])
def test_the_contract_refuses(fault: Fault, test: str) -> None:
    class Contract(ProposerContract):
        batch_invariant = True

        def make(self) -> Proposer:
            return Faulty(fault)

    space = Space.from_json(SPACES["floats"].to_json())
    with pytest.raises((AssertionError, LuthierError, TypeError, ValueError)):
        getattr(Contract(), f"test_{test}")(space)


def test_the_contract_refuses_a_slow_proposer() -> None:
    class Contract(ProposerContract):
        milliseconds_per_job = 0.2

        def make(self) -> Proposer:
            return Faulty(_fault_rescan)

    with pytest.raises(AssertionError, match="ms a job"):
        Contract().test_proposing_stays_cheap()


def test_the_contract_refuses_a_learner_that_does_not_learn() -> None:
    class Contract(ProposerContract):
        learns = True

        def make(self) -> Proposer:
            return Faulty(
                lambda history, jobs, seeds: [
                    replace(job, config=history.space.sample(seeds.rng(job.number, "another stream"))) for job in jobs
                ]
            )

    with pytest.raises(AssertionError, match="below random search"):
        for problem in PROBLEMS.values():
            Contract().test_it_learns(problem)


def test_what_is_not_promised_is_not_tested() -> None:
    assert TestClimber.test_batches_and_workers_do_not_matter is None
    assert TestRandom.test_batches_and_workers_do_not_matter is not None
    assert TestRandom.test_it_learns is None
