"""The method cmaes: a plain loop over the package is the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cmaes import CMA

from luthier.errors import MethodError
from luthier.interop.cmaes import CMAES
from luthier.jobs import Budget, History, Job, Result
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.study.study import Study
from luthier.testing import rebuild, simulate

NUMBERS = Space(lr=Float(1e-5, 1.0, log=True), momentum=Float(0.0, 0.99), width=Int(8, 512, log=True), depth=Int(1, 9))


def loss(config: Config) -> float:
    return (math.log10(config["lr"]) + 2) ** 2 + 0.1 * (config["depth"] - 4) ** 2 + config.get("momentum", 0.0)


def plain(size: int, trials: int) -> list[Config]:
    """The package's own loop, with the seeds of the jobs."""
    optimizer = CMA(np.full(4, 0.5), 1 / 6, bounds=np.tile([0.0, 1.0], (4, 1)), population_size=size)
    configs, told = [], []
    for number in range(trials):
        optimizer.reseed_rng(int(Seeds(0).rng(number, "propose").integers(2**31)))
        point = optimizer.ask()
        configs.append(NUMBERS.decode(point[None])[0])
        told.append((point, loss(configs[-1])))
        if len(told) == size:
            optimizer.tell(told)
            told = []
    return configs


@pytest.mark.parametrize("size", [None, 5])
def test_it_is_the_packages_own_loop(size: int | None) -> None:
    history = simulate(CMAES(population=size), loss, NUMBERS, Budget(trials=60))
    assert [job.config for job in history.jobs] == plain(size or 8, 60)


def test_what_fails_or_comes_late_is_replaced() -> None:
    history, method, seeds = History(NUMBERS), CMAES(population=4).bind(Budget()), Seeds(0)

    def start() -> Job:
        [job] = method.propose(history, 1, seeds)
        history.add(job)
        return job

    late, *first = (start() for _ in range(4))
    assert method.propose(history, 9, seeds) == []  # a generation at once, and no more
    for job, status in zip(first, ("failed", "diverged", "pruned"), strict=True):
        history.add(Result(job.number, status, {}))
    for _ in range(4):
        job = start()
        assert job.tag["cmaes"]["generation"] == 0
        history.add(Result(job.number, "ok", {"loss": loss(job.config)}))
    following = start()
    assert following.tag["cmaes"]["generation"] == 1
    history.add(Result(late.number, "ok", {"loss": -1e9}))  # of the generation before: told no more
    assert method.propose(history, 2, seeds) == method.propose(rebuild(history), 2, seeds)
    for value in (0.0, 1.0, 2.0, 3.0):
        job = following if value == 0.0 else start()
        assert job.tag["cmaes"]["generation"] == 1  # four results of its own end a generation
        history.add(Result(job.number, "ok", {"loss": value}))
    assert start().tag["cmaes"]["generation"] == 2


def test_silent_genes_options_and_one_number_alone() -> None:
    space = Space(
        kind=Choice(["a", "b", "c"]), x=Float(-2.0, 2.0, when={"kind": "b"}), order=Choice([1, 2, 4], ordered=True)
    )
    history = simulate(CMAES(), lambda c: c.get("x", 1.0) ** 2 + c["order"], space, Budget(trials=80))
    assert {job.config["kind"] for job in history.jobs[40:]} == {"a", "b", "c"}  # at random to the end
    assert np.mean([job.config["order"] == 1 for job in history.jobs[40:]]) > 0.7
    alone = simulate(CMAES(), lambda c: (c["x"] - 3) ** 2, Space(x=Float(-5.0, 5.0)), Budget(trials=80))
    assert alone.values.min() < 0.01 and abs(np.mean([job.config["x"] for job in alone.jobs[60:]]) - 3) < 0.5


def test_a_tag_that_somebody_else_wrote_is_not_read() -> None:
    for tag in ({"generation": 0, "point": [2.0] * 4}, {"generation": "0", "point": [0.5] * 4}, {"point": [0.5]}, "x"):
        history = History(NUMBERS)
        for number in range(4):
            history.add(Job(number, NUMBERS.decode(np.full((1, 4), 0.5))[0], tag={"cmaes": tag}))
            history.add(Result(number, "ok", {"loss": 0.0}))
        [job] = CMAES(population=4).bind(Budget()).propose(history, 1, Seeds(0))
        assert job.tag["cmaes"]["generation"] == 0


def test_enqueued_configurations_count_as_trials() -> None:
    study = Study("mine", NUMBERS, method=CMAES(), trials=30)
    study.enqueue({"lr": 0.01, "momentum": 0.0, "width": 64, "depth": 4})
    while jobs := study.ask(3):
        for job in jobs:
            study.tell(job, loss(job.config))
    assert study.best is not None and study.best.number == 0 and len(study.trials) == 30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CMAES(population=3).bind(Budget()), "population must be an integer ≥ 4 or None, got 3"),
        (lambda: CMAES(population=2.5).bind(Budget()), "got 2.5"),  # type: ignore[arg-type]
        (lambda: CMAES().propose(History(NUMBERS, {"a": "min", "b": "max"}), 1, Seeds(0)), "one objective.* a, b"),
        (lambda: CMAES().propose(History(Space(a=Choice(["x", "y"]))), 1, Seeds(0)), "no numbers.*tpe"),
    ],
)
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        call()
