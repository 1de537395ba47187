"""The door of proposals: nothing forbidden, nothing twice while others are left, nothing that cannot be run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job
from luthier.propose import (
    ASHA,
    PB2,
    PBT,
    GaussianProcess,
    Genetic,
    GFlowNet,
    Grid,
    Hyperband,
    Median,
    Random,
    Stopping,
    door,
)
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.study.methods import METHODS
from luthier.study.resolve import resolve
from luthier.testing import rebuild, simulate

SMALL = Space(n=Int(1, 3), o=Choice(["a", "b"]), q=Choice([(1,), (2,), (3,)]))  # 18 configurations
TREE = Space(k=Choice(["x", "y"]), p=Float(0, 1, step=0.25, when={"k": "x"}), v=Int(0, 2, when={"k": "y"}))  # 8


def value(config: Config) -> float:
    numbers = [one[0] if isinstance(one, tuple) else one for one in config.values()]
    return sum(float(len(one)) if isinstance(one, str) else one for one in numbers)


def steps_of(config: Config, steps: int, state: Any) -> tuple[float, Any]:
    return value(config), state


CHOOSING: dict[str, Any] = {
    "random": Random, "grid": lambda: Grid(points=10), "gp": GaussianProcess, "genetic": lambda: Genetic(population=6),
    "gflownet": lambda: GFlowNet(batch=4, initial=4, bins=4), "median": lambda: Median(inner="genetic"),
    "tpe": lambda: METHODS["tpe"].load()(startup=4), "cmaes": lambda: METHODS["cmaes"].load()(),
    "nsga2": lambda: METHODS["nsga2"].load()(population=6),
}  # fmt: skip
HALVING: dict[str, Any] = {
    "asha": lambda: ASHA(rungs=2), "hyperband": lambda: Hyperband(rungs=2), "stopping": lambda: Stopping(rungs=2),
    "asha-gp": lambda: ASHA(inner="gp", rungs=2), "hyperband-genetic": lambda: Hyperband(inner="genetic", rungs=2),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CHOOSING, *HALVING])
def test_every_method_visits_a_finite_space_whole_and_nothing_twice(name: str) -> None:
    make, stateful = {**CHOOSING, **HALVING}[name], name in HALVING
    for space, ways in ((SMALL, {"workers": 3}), (SMALL, {"batch": 5}), (TREE, {})):
        for trials in (space.size, 60):
            settings: Any = {"stateful": stateful, "report_every": 1 if stateful else None, **ways}
            budget = Budget(trials=trials, steps=6)
            run: Any = steps_of if stateful else value
            history = simulate(make(), run, space, budget, limit=300, **settings)
            fresh = [space.key(job.config) for job in history.jobs if job.parent is None]
            assert len(fresh) == len(set(fresh)) == space.size and not history.pending
            cut = len(history.events) // 2
            while isinstance(history.events[cut], Job):  # a batch is stored whole or not at all
                cut += 1
            again = simulate(
                make(),
                steps_of if stateful else value,
                space,
                budget,
                limit=300,
                history=rebuild(history, cut),
                **settings,
            )
            fresh = [space.key(job.config) for job in again.jobs if job.parent is None]
            assert len(fresh) == len(set(fresh)) == space.size


def test_a_population_larger_than_the_space_begins_some_again_after_all() -> None:
    space = Space(lr=Float(0.25, 1.0, step=0.25))
    for method in (PBT(rounds=2), PB2(rounds=2)):
        history = simulate(method, steps_of, space, Budget(trials=10, steps=6), stateful=True)
        fresh = [job.config["lr"] for job in history.jobs if job.parent is None]
        assert len(fresh) == 10 and len(set(fresh[:4])) == 4


def test_huge_finite_spaces_cost_what_small_ones_do() -> None:
    space = Space({f"x{i}": Int(0, 9) for i in range(40)})
    assert space.size == 10**40
    history = simulate(Random(), lambda config: sum(config.values()), space, Budget(trials=300), batch=50)
    assert len({space.key(job.config) for job in history.jobs}) == 300
    narrow = Space(a=Int(0, 10**6), b=Int(0, 10**6), constraint=lambda c: c["a"] < 300_000 and c["b"] < 300_000)
    assert narrow.size is None
    assert len(simulate(Random(), lambda c: c["a"], narrow, Budget(trials=50))) == 50


def allowed(config: Config) -> bool:
    return config["a"] + config["b"] <= 0.9 and (config["kind"] != "x" or config["only"] % 2 == 0)


FORBIDDING = Space(
    a=Float(0, 1), b=Float(0, 1), kind=Choice(["x", "y"]), only=Int(0, 9, when={"kind": "x"}), constraint=allowed
)
EVEN = Space(n=Int(0, 9), m=Int(0, 9), constraint=lambda c: (c["n"] + c["m"]) % 2 == 0)


def bowl(config: Config, steps: int = 1, state: Any = None) -> Any:
    """The best is beyond what is allowed."""
    loss = (config.get("a", 0) - 0.8) ** 2 + (config.get("b", 0) - 0.7) ** 2 + abs(config.get("n", 5) - 5)
    return loss if steps == 1 else (loss, state)


def test_over_ten_thousand_proposals_of_all_methods_none_is_forbidden() -> None:
    total = 0

    def training(config: Config, steps: int, state: Any) -> tuple[float, Any]:
        return bowl(config), state

    cheap = {"random", "grid", "genetic", "median", "stopping", "asha", "hyperband", "pbt", "heirs"}
    methods = {**CHOOSING, **HALVING, "pbt": lambda: PBT(rounds=4), "pb2": lambda: PB2(rounds=3)}
    methods["heirs"] = lambda: Genetic(population=8, inherit="parent")
    for name, make in methods.items():
        few = 16 if name in ("gp", "gflownet", "asha-gp") else 30
        trials = 1_500 if name in ("random", "genetic") else 900 if name in cheap else few
        budget = Budget(trials=min(trials, 400) if name == "pbt" else trials, steps=8)
        history = simulate(make(), training, FORBIDDING, budget, stateful=True, report_every=2, batch=8, limit=4_000)
        assert all(allowed(FORBIDDING.check(job.config)) for job in history.jobs), name
        total += len(history)
        if name in CHOOSING or name in HALVING:
            history = simulate(make(), training, EVEN, budget, stateful=True, report_every=2, batch=8)
            fresh = {EVEN.key(job.config) for job in history.jobs if job.parent is None}
            assert len(fresh) == min(50, budget.trials or 50) or (name == "grid" and len(fresh) == 50)
            assert all(EVEN.check(job.config) for job in history.jobs)
            total += len(history)
    assert total > 10_000, total


def test_methods_still_learn_at_the_edge_of_a_constraint() -> None:
    """The lowest allowed value of the bowl is 0.18, at a = 0.5, b = 0.4."""
    for make in (GaussianProcess, METHODS["cmaes"].load(), METHODS["tpe"].load()):
        history = simulate(make(), bowl, FORBIDDING, Budget(trials=40))
        assert history.values[:, 0].min() < 0.2, make


def test_samples_of_a_fit_fulfil_the_constraint() -> None:
    history = simulate(Random(), bowl, FORBIDDING, Budget(trials=30))
    generator = GFlowNet(bins=4).fit(history, progress=False)
    assert all(allowed(config) for config in generator.sample(300)) and all(allowed(one) for one in generator.top(10))


@dataclass(frozen=True)
class Answers:
    """Random search whose answer is changed."""

    change: Any
    budget: Budget | None = None
    extendable: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Answers:
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> Any:
        jobs = Random().bind(self.budget or Budget()).propose(history, count, seeds)
        return self.change(jobs) if len(history) == 2 else jobs


def changed(**changes: Any) -> Any:
    return lambda jobs: [replace(job, **changes) for job in jobs]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(config={"x": 2.0}), r"job 2: its configuration cannot be: x: 2.0 is outside \[0.0, 1.0\]"),
        (changed(config={"y": 0.5}), "job 2: its configuration cannot be: y: there is no such hyperparameter"),
        (changed(config={}), "job 2: its configuration cannot be: x: an active hyperparameter has no value"),
        (changed(config=None), "job 2: config must be a dict, got None"),
        (changed(config={"x": math.nan}), "job 2: its configuration cannot be: x: nan is outside"),
        (changed(steps=0), "job 2: steps must be an integer ≥ 1, got 0"),
        (changed(steps=None), "job 2: steps must be an integer ≥ 1, got None"),
        (changed(steps=1.5), "job 2: steps must be an integer ≥ 1, got 1.5"),
        (changed(number=7), "job 2: its number must be 2, got 7"),
        (changed(parent=2), "job 2: parent must be an earlier job, got 2"),
        (lambda jobs: None, "propose returned None"),
        (lambda jobs: [None], "job 2: propose returned None"),
        (lambda jobs: jobs * 2, "propose returned 2 jobs where 1 were asked for"),
    ],
)
def test_what_a_proposer_of_the_users_cannot_mean_is_refused_with_the_job_named(change: Any, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        lt.tune(lambda config: config["x"], Answers(change), space=Space(x=Float(0, 1)), trials=5, progress=False)


def test_scalars_of_numpy_become_plain_numbers() -> None:
    import numpy as np

    proposer = Answers(changed(config={"x": np.float32(0.5)}, steps=np.int64(3))).bind(Budget())
    history = History(Space(x=Float(0, 1)))
    for job in Random().propose(history, 2, Seeds(0)):
        history.add(job)
    [job] = door.propose(proposer, history, 1, Seeds(0))
    assert job.config == {"x": 0.5} and type(job.config["x"]) is float


def test_a_study_ends_when_its_space_was_visited_whole() -> None:
    study = lt.tune(value, "tpe", space=SMALL, trials=100, progress=False)
    assert len(study.trials) == 18 == len({SMALL.key(trial.config) for trial in study.trials})
    study = lt.tune(value, "random", space=TREE, seconds=60, progress=False)
    assert len(study.trials) == TREE.size
    assert resolve("random").proposer == Random()
