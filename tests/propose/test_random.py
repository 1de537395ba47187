"""Random search: the distribution, the numbering, the end. (What every proposer must do is in tests/contracts.)"""

from __future__ import annotations

import numpy as np

from luthier.jobs import Budget, History, Job
from luthier.propose import Random
from luthier.seeds import Seeds
from luthier.space import Choice, Float, Space
from luthier.testing import simulate

SPACE = Space(
    lr=Float(1e-4, 1.0, log=True), optimizer=Choice(["sgd", "adam"]), momentum=Float(0, 0.9, when={"optimizer": "sgd"})
)


def test_job_n_is_a_function_of_the_seed_and_n() -> None:
    history = History(SPACE)
    jobs = Random().propose(history, 5, Seeds(3))
    assert [job.config for job in jobs] == [SPACE.sample(Seeds(3).rng(n, "propose")) for n in range(5)]
    for job in jobs[:2]:
        history.add(job)
    assert Random().propose(history, 3, Seeds(3)) == jobs[2:]


def test_it_samples_uniformly_on_the_scale_of_each_domain() -> None:
    history = simulate(Random(), lambda config: 0.0, SPACE, Budget(trials=2000), batch=100)
    exponents = np.log10([job.config["lr"] for job in history.jobs])
    counts, _ = np.histogram(exponents, bins=10, range=(-4, 0))
    assert ((counts - 200) ** 2 / 200).sum() < 21.7  # chi squared, 9 degrees of freedom, 1 %
    assert abs(np.mean([job.config["optimizer"] == "sgd" for job in history.jobs]) - 0.5) < 0.04
    assert all(("momentum" in job.config) == (job.config["optimizer"] == "sgd") for job in history.jobs)


def test_it_stops_at_the_trials_of_the_budget() -> None:
    bound, history = Random().bind(Budget(trials=3)), History(SPACE)
    assert [job.number for job in bound.propose(history, 8, Seeds(0))] == [0, 1, 2]
    for job in bound.propose(history, 8, Seeds(0)):
        history.add(job)
    assert bound.propose(history, 1, Seeds(0)) == []
    extended = Random().bind(Budget(trials=5)).propose(history, 8, Seeds(0))
    assert [job.number for job in extended] == [3, 4]


def test_a_budget_without_trials_never_ends() -> None:
    history = History(SPACE)
    for n in range(50):
        history.add(Job(n, SPACE.sample(Seeds(0).rng(n, "x"))))
    assert len(Random().bind(Budget(seconds=1.0)).propose(history, 7, Seeds(0))) == 7


def test_steps_follow_the_budget_and_the_configuration() -> None:
    budget = Budget(trials=20, epochs=3, epoch_steps=lambda config: 10 if config["optimizer"] == "sgd" else 20)
    jobs = Random().bind(budget).propose(History(SPACE), 20, Seeds(0))
    assert all(job.steps == (30 if job.config["optimizer"] == "sgd" else 60) for job in jobs)
    assert {job.steps for job in jobs} == {30, 60}
