"""Optuna's samplers as proposers."""

from __future__ import annotations

import functools
import logging
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from luthier.errors import MethodError
from luthier.interop.optuna import NSGA2, TPE, OptunaSampler, Sampler
from luthier.interop.optuna.library import quiet
from luthier.jobs import Budget, History, Job, Report, Result
from luthier.propose import Random
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.study.study import Study
from luthier.study.tuning import tune
from luthier.testing import rebuild, simulate

NUMBERS = Space(lr=Float(1e-5, 1.0, log=True), momentum=Float(0.0, 0.99), width=Int(8, 512, log=True), depth=Int(1, 9))
MIXED = Space(
    lr=Float(1e-5, 1.0, log=True),
    depth=Int(1, 9),
    batch_size=Choice([16, 32, 64, 128], ordered=True),
    activation=Choice(["relu", "tanh", None]),
)
CONDITIONAL = Space(
    optimizer=Choice(["sgd", "adam"]),
    momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
    layers=Int(1, 3),
    rates=Float(0.0, 0.8, shape=(2,), when={"layers": [2, 3]}),
)


@pytest.fixture(autouse=True)
def quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def seed_of(number: int) -> int:
    return int(Seeds(0).rng(number, "propose").integers(2**31))


def loss(config: Config) -> float:
    return (math.log10(config["lr"]) + 2) ** 2 + 0.1 * (config["depth"] - 4) ** 2 + config.get("momentum", 0.0)


def two(config: Config) -> dict[str, float]:
    return {"loss": loss(config), "size": -abs(config["depth"] - 8)}


def bent(config: Config) -> dict[str, float]:
    """Two losses whose best compromises are x0 from 0 to 1 with all other names 0."""
    far = sum(abs(config[f"x{i}"]) for i in range(1, 4))
    return {"near": config["x0"] ** 2 + far, "far": (config["x0"] - 1) ** 2 + far}


class Probe(optuna.samplers.BaseSampler):
    """Random, and writes down the trials that it was shown."""

    seen: list[list[optuna.trial.FrozenTrial]]

    def __init__(self, seen: list[list[optuna.trial.FrozenTrial]], seed: int) -> None:
        self.seen, self.inner = seen, optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        self.seen.append(study.get_trials(deepcopy=False))
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)


class Single(optuna.samplers.RandomSampler):
    """A sampler for one objective, which says so as Optuna's do."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        return {}


def shown(history: History, flat: bool = False) -> list[optuna.trial.FrozenTrial]:
    """The trials that a sampler is shown when it is asked for the next job."""
    seen: list[list[optuna.trial.FrozenTrial]] = []
    Sampler(lambda seed: Probe(seen, seed), flat=flat).propose(history, 1, Seeds(0))
    return seen[-1]


def native(
    factory: Callable[..., Any], suggest: Callable[[Any], Config], f: Any, trials: int, **ways: Any
) -> list[Any]:
    """The same sampler with the same seeds in Optuna's own loop."""
    study = optuna.create_study(sampler=factory(seed=0), **ways)
    configs = []
    for number in range(trials):
        study.sampler = factory(seed=seed_of(number))
        trial = study.ask()
        configs.append(suggest(trial))
        study.tell(trial, f(configs[-1]))
    return configs


def numbers(trial: optuna.Trial) -> Config:
    return {
        "lr": trial.suggest_float("lr", 1e-5, 1.0, log=True),
        "momentum": trial.suggest_float("momentum", 0.0, 0.99),
        "width": trial.suggest_int("width", 8, 512, log=True),
        "depth": trial.suggest_int("depth", 1, 9),
    }


def mixed(trial: optuna.Trial) -> Config:
    return {
        "lr": trial.suggest_float("lr", 1e-5, 1.0, log=True),
        "depth": trial.suggest_int("depth", 1, 9),
        "batch_size": [16, 32, 64, 128][trial.suggest_int("batch_size", 0, 3)],
        "activation": trial.suggest_categorical("activation", ["relu", "tanh", None]),
    }


def test_tpe_is_optunas_own() -> None:
    ours = simulate(TPE(), loss, MIXED, Budget(trials=30))
    theirs = native(functools.partial(optuna.samplers.TPESampler, multivariate=True), mixed, loss, 30)
    assert [job.config for job in ours.jobs] == theirs


def test_nsga2_is_optunas_own() -> None:
    objectives = {"loss": "min", "size": "max"}
    ours = simulate(NSGA2(population=8), two, MIXED, Budget(trials=50), objectives=objectives)
    factory = functools.partial(optuna.samplers.NSGAIISampler, population_size=8)
    theirs = native(
        factory, mixed, lambda c: [two(c)["loss"], -two(c)["size"]], 50, directions=["minimize", "minimize"]
    )
    assert [job.config for job in ours.jobs] == theirs


def test_any_other_sampler() -> None:
    method = Sampler(functools.partial(optuna.samplers.NSGAIIISampler, population_size=8), flat=True)
    with pytest.warns(optuna.exceptions.ExperimentalWarning) as told:  # Optuna's, once a study and not once a job
        history = simulate(method, loss, MIXED, Budget(trials=40))
        again = simulate(method, loss, MIXED, Budget(trials=40), history=rebuild(history, 33))
    assert len(told) == 2
    assert [job.config for job in again.jobs] == [job.config for job in history.jobs]
    assert history.values[24:].mean() < history.values[:8].mean()


def test_what_a_sampler_is_shown() -> None:
    history = History(Space(x=Float(0.0, 1.0)), {"accuracy": "max"})
    endings = [("ok", 0.5), ("failed", None), ("diverged", math.nan), ("pruned", 0.25), ("ok", 0.75)]
    for number in range(6):
        history.add(Job(number, {"x": number / 10}))
    history.add(Report(3, 10, {"accuracy": 0.125}))
    history.add(Report(3, 20, {"accuracy": 0.25}))
    for number in (4, 3, 2, 1, 0):
        status, value = endings[number]
        history.add(Result(number, status, {} if value is None else {"accuracy": value}))  # type: ignore[arg-type]
    trials = shown(history)
    assert [trial.params["x"] for trial in trials[:6]] == [0.4, 0.3, 0.2, 0.1, 0.0, 0.5]  # by arrival, then pending
    done, pruned, failed = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    states = [done, pruned, pruned, failed, done, TrialState.RUNNING, TrialState.RUNNING]  # the last is asked for
    assert [trial.state for trial in trials] == states
    assert [trial.values for trial in trials[:5]] == [[-0.75], None, None, None, [-0.5]]
    assert [trial.intermediate_values for trial in trials[1:3]] == [{10: -0.125, 20: -0.25}, {}]
    assert [trial.number for trial in trials] == list(range(7))


def test_what_was_asked_for_and_never_run_is_forgotten() -> None:
    history = simulate(TPE(), loss, NUMBERS, Budget(trials=20))
    method, seeds = TPE().bind(Budget()), Seeds(0)
    first = method.propose(history, 9, seeds)
    assert method.propose(history, 9, seeds) == first == method.propose(rebuild(history), 9, seeds)


def test_inactive_names_are_silent_genes() -> None:
    history = simulate(
        NSGA2(population=4), lambda c: c.get("momentum", 0.5) + c["layers"], CONDITIONAL, Budget(trials=30)
    )
    keys = {"momentum": ["momentum"], "rates": ["rates[0]", "rates[1]"]}
    trials = shown(history, flat=True)
    for job, trial in zip(history.jobs, trials, strict=False):
        assert CONDITIONAL.check(job.config) == job.config
        inactive = [key for name, several in keys.items() if name not in job.config for key in several]
        silent = job.tag["optuna"].get("silent", {})
        assert list(silent) == inactive
        assert set(trial.params) == {"optimizer", "momentum", "layers", "rates[0]", "rates[1]"}
        assert all(trial.params[key] == value for key, value in silent.items())
    assert {len(job.config) for job in history.jobs} == {2, 3, 4}
    short = [set(trial.params) for trial in shown(history)]  # without flat, what is inactive is absent
    assert {"optimizer", "layers"} in short and {"optimizer", "momentum", "layers", "rates[0]", "rates[1]"} in short


@pytest.mark.parametrize("method", [TPE(startup=5), NSGA2(population=6)], ids=["tpe", "nsga2"])
def test_a_stored_study_resumes(method: Any, tmp_path: Path) -> None:
    whole = tune(loss, method, space=MIXED, trials=24, progress=False)
    for trials in (13, 24):
        halves = tune(loss, method, space=MIXED, trials=trials, store=tmp_path / "a.db", name="a", progress=False)
    assert [job.config for job in halves.history.jobs] == [job.config for job in whole.history.jobs]


def share_of_bad(status: Any, seeds: int) -> float:
    """Share of trials 20 to 49 in the 60 % of the space where every training ends so."""
    bad = []
    for seed in range(seeds):
        study = Study("bad", Space(lr=Float(0.0, 1.0), other=Float(0.0, 1.0)), method=TPE(), trials=50, seed=seed)
        while jobs := study.ask():
            lr, other = jobs[0].config.values()
            if lr > 0.4:
                study.tell(jobs[0], status=status)
            else:
                study.tell(jobs[0], 1.0 + (lr - 0.3) ** 2 + other)
        bad += [job.config["lr"] > 0.4 for job in study.history.jobs[20:]]
    return float(np.mean(bad))


def test_tpe_avoids_where_trainings_diverge() -> None:
    assert share_of_bad("diverged", 3) < 0.4 < 0.8 < share_of_bad("failed", 3)  # docs/optuna.md has it for 10 seeds


def test_nsga2_is_better_than_random_search_at_two_objectives() -> None:
    space = Space({f"x{i}": Float(-3.0, 3.0) for i in range(4)})
    objectives = {"near": "min", "far": "min"}

    def area(history: History) -> float:
        """What is dominated below (8, 8)."""
        front = sorted(tuple(row) for row in history.values if (row < 8).all())
        total, height = 0.0, 8.0
        for x, y in front:
            total, height = total + (8 - x) * max(0.0, height - y), min(height, y)
        return total

    wins = 0
    for seed in range(5):
        ours, random = (
            simulate(method, bent, space, Budget(trials=150), seed, objectives=objectives)
            for method in (NSGA2(population=15), Random())
        )
        wins += area(ours) > area(random)
    assert wins >= 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TPE(startup=0).bind(Budget()), ["startup must be", "got 0", "tpe"]),
        (lambda: TPE(candidates=2.5).bind(Budget()), ["candidates must be", "got 2.5"]),  # type: ignore[arg-type]
        (lambda: NSGA2(mutation=1.5).bind(Budget()), ["mutation must be", "≤ 1", "got 1.5"]),
        (lambda: Sampler(optuna.samplers.TPESampler()).bind(Budget()), ["factory", "Sampler("]),  # type: ignore[arg-type]
        (lambda: Sampler(lambda seed: "tpe").bind(Budget()), ["'tpe'", "BaseSampler"]),
        (
            lambda: Sampler(Single).propose(History(NUMBERS, {"a": "min", "b": "max"}), 1, Seeds(0)),
            ["several objectives", "nsga2"],
        ),
        (lambda: Sampler(optuna.samplers.CmaEsSampler).bind(Budget()), ["CmaEsSampler", "pickle", "method cmaes"]),
        (lambda: OptunaSampler("tpee"), ["tpee"]),
        (lambda: OptunaSampler("hypergradient"), ["changes trainings", "luthier.tune"]),
        (lambda: OptunaSampler("pbt", trials=8), ["continues them"]),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(MethodError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("package", "method"), [("optuna", "tpe"), ("cmaes", "cmaes")])
def test_a_missing_package_is_named_with_its_extra(package: str, method: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nimport luthier as lt\n" + (
        f"lt.tune(lambda c: c['x'], {method!r}, space=lt.Space(x=lt.Float(0, 1)), trials=2, progress=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MethodError" in done.stderr and f"pip install 'luthier[{package}]'" in done.stderr


def test_logging_is_left_as_it_is(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    loggers = [one for name, one in logging.Logger.manager.loggerDict.items() if name.startswith("optuna")]

    def state() -> list[Any]:
        kept = [one for one in loggers if isinstance(one, logging.Logger)]
        return [(one.level, one.disabled, one.propagate, list(one.handlers), list(one.filters)) for one in kept]

    before = state()
    method = Sampler(lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=2))
    simulate(method, loss, MIXED, Budget(trials=6))
    assert state() == before
    assert capfd.readouterr().err == ""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("optuna.samplers")
    logger.addHandler(handler)
    with quiet():
        logger.warning("ours")
        other = threading.Thread(target=logger.warning, args=("theirs",))
        other.start()
        other.join()
        logger.error("an error")
    logger.warning("afterwards")
    logger.removeHandler(handler)
    assert records == ["theirs", "an error", "afterwards"]


@pytest.mark.parametrize(("method", "batch"), [(TPE(), 8), (TPE(batch=3), 3), (NSGA2(population=5), 5)])
def test_a_sampler_that_is_offered_a_whole_stack_waits_for_results(method: Any, batch: int) -> None:
    space = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
    history, seeds, bound = History(space), Seeds(0), method.bind(Budget(trials=100))
    jobs = bound.propose(history, 256, seeds)
    assert len(jobs) == batch
    for job in jobs:
        history.add(job)
    assert bound.propose(history, 256, seeds) == []
    history.add(Result(0, "ok", {"loss": 1.0}))
    assert [job.number for job in bound.propose(history, 256, seeds)] == [batch]
