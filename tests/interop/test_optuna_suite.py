"""luthier's proposers as Optuna's samplers: Optuna's own public test suite, and what it does not cover."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from luthier.interop.cmaes import CMAES
from luthier.interop.optuna import TPE, OptunaSampler
from luthier.propose import GaussianProcess, Random


@pytest.fixture(autouse=True)
def quiet_optuna() -> Iterator[None]:
    """The suite makes hundreds of studies, and Optuna logs each of them."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class TestRandom(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: OptunaSampler(Random(), seed=3)


class TestGaussianProcess(BasicSamplerTestCase, RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: OptunaSampler(GaussianProcess(initial=2), seed=3)


def bowl(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    decay = trial.suggest_float("decay", 1e-7, 1e-1, log=True)
    return (math.log10(lr) + 2) ** 2 + (math.log10(decay) + 4) ** 2 + trial.suggest_int("layers", 1, 5)


def test_the_proposer_is_what_chooses() -> None:
    wins = 0
    for seed in range(4):
        ours = optuna.create_study(sampler=OptunaSampler(GaussianProcess(), seed=seed))
        random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        ours.optimize(bowl, n_trials=30)
        random.optimize(bowl, n_trials=30)
        wins += ours.best_value < random.best_value
    assert wins == 4
    assert ours.best_value < 1.05  # the optimum is 1


def test_maximising_is_understood() -> None:
    study = optuna.create_study(direction="maximize", sampler=OptunaSampler("gp"))
    study.optimize(lambda trial: -bowl(trial), n_trials=30)
    assert study.best_value > -1.2


def crossing(trial: optuna.Trial) -> float:
    """Every kind of parameter, some of them conditional; a trial in five is pruned or fails."""
    kind = trial.suggest_categorical("kind", ["a", 1, None])
    value = trial.suggest_float("stepped", -1.0, 1.0, step=0.25) ** 2 + trial.suggest_int("even", 0, 10, step=2)
    if kind == "a":
        value += trial.suggest_float("not a name!", 0, 1)
    trial.report(value, 1)
    if trial.number % 10 == 3:
        raise optuna.TrialPruned
    if trial.number % 10 == 7:
        raise ValueError("on purpose")
    return value


@pytest.mark.parametrize("proposer", [Random(), GaussianProcess(initial=4), TPE(startup=4), CMAES()])
def test_a_resumed_optuna_study_goes_on_identically(proposer: Any, tmp_path: Path) -> None:
    def run(storage: Any, *parts: int) -> list[dict[str, Any]]:
        for part in parts:
            sampler = OptunaSampler(proposer, seed=5)  # a new process has a new one
            study = optuna.create_study(storage=storage, study_name="s", sampler=sampler, load_if_exists=True)
            study.optimize(crossing, n_trials=part, catch=ValueError)
        return [trial.params for trial in study.trials]

    whole = run(None, 24)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
    resumed = run(optuna.storages.JournalStorage(backend), 9, 15)
    assert resumed == whole
    assert len({str(params) for params in whole}) > 18  # it does not repeat itself


def test_brackets_do_not_repeat_each_other() -> None:
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    study = optuna.create_study(sampler=OptunaSampler(Random(), seed=1), pruner=pruner, study_name="fixed")

    def f(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.report(x, 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        return x

    study.optimize(f, n_trials=40)
    assert len({trial.params["x"] for trial in study.trials}) == 40


def test_threads_share_a_sampler() -> None:
    study = optuna.create_study(sampler=OptunaSampler("gp", seed=2))
    study.optimize(bowl, n_trials=24, n_jobs=3)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 24
    assert study.best_value < 3.0


@pytest.mark.parametrize(("proposer", "seed", "tried"), [("gp", 0, 14), ("gp", 2, 23), ("gp", 4, 17), ("random", 0, 9)])
def test_a_thread_that_comes_out_of_turn_is_given_other_values(proposer: str, seed: int, tried: int) -> None:
    sampler = OptunaSampler(proposer, seed=seed)
    study = optuna.create_study(sampler=sampler)
    study.optimize(bowl, n_trials=tried)  # so many that the gp explores corners, the same ones if it did not know
    trials = [study._storage.get_trial(study._storage.create_new_trial(study._study_id)) for _ in range(2)]
    space = sampler.infer_relative_search_space(study, trials[0])
    later = sampler.sample_relative(study, trials[1], space)
    assert sampler.sample_relative(study, trials[0], space) not in (later, {})


def test_a_sampler_can_be_pickled() -> None:
    study = optuna.create_study(sampler=OptunaSampler("gp", seed=2))
    study.optimize(bowl, n_trials=5)
    other = pickle.loads(pickle.dumps(study))
    study.optimize(bowl, n_trials=4)
    other.optimize(bowl, n_trials=4)
    assert [trial.params for trial in other.trials] == [trial.params for trial in study.trials]
