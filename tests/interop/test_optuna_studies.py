"""Studies to Optuna, and Optuna's studies to histories."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest

from luthier.errors import ConfigError, StudyError
from luthier.interop.optuna import from_optuna, to_optuna
from luthier.jobs import Budget, History, Job, Report, Result
from luthier.propose import GaussianProcess, Random
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.study.tuning import tune
from luthier.testing import SPACES, simulate

SPACE = Space(lr=Float(1e-5, 1.0, log=True), depth=Int(1, 9), activation=Choice(["relu", "tanh", None]))


@pytest.fixture(autouse=True)
def quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def loss(config: Config) -> float:
    return (math.log10(config["lr"]) + 2) ** 2 + 0.1 * (config["depth"] - 4) ** 2


def two(config: Config) -> dict[str, float]:
    return {"loss": loss(config), "size": -abs(config["depth"] - 8)}


def rich_history() -> History:
    """Every kind of domain and of ending, several jobs of one lineage, reports, and one that is running."""
    history = History(SPACES["conditional"], {"accuracy": "max"})
    rng = np.random.default_rng(1)
    for number, config in enumerate(history.space.sample(rng, 12)):
        history.add(Job(number, config, 5, parent=0 if number == 7 else None))
        if number == 11:
            break
        history.add(Report(number, 5, {"accuracy": 0.125}))
        status = ("ok", "pruned", "diverged", "failed")[max(0, number - 6) % 4]
        accuracy = {"ok": number / 8, "pruned": 0.25, "diverged": math.nan}.get(status)
        metrics = {} if accuracy is None else {"accuracy": accuracy, "seconds": 2.0}
        error = "ValueError: too high" if status == "failed" else ""
        history.add(Result(number, status, metrics, 4, {**config, "layers": 1}, 60.0, error))  # type: ignore[arg-type]
    return history


def test_an_exported_study_is_one_of_optunas() -> None:
    history = rich_history()
    copy = to_optuna(history)
    assert copy.direction == optuna.study.StudyDirection.MAXIMIZE and copy.metric_names == ["accuracy"]
    states = [trial.state.name for trial in copy.trials]
    assert states == ["COMPLETE"] * 7 + ["PRUNED", "FAIL", "FAIL", "COMPLETE", "RUNNING"]
    assert copy.best_trial.number == history.best == 10 and copy.best_value == 1.25
    for job, trial in zip(history.jobs, copy.trials, strict=True):
        flat = {key: value for key, value in job.config.items() if key != "dropout"}
        flat |= {f"dropout[{i}]": value for i, value in enumerate(job.config.get("dropout", []))}
        assert trial.params == flat
    assert copy.trials[3].duration is not None and abs(copy.trials[3].duration.total_seconds() - 60) < 0.001
    assert copy.trials[9].user_attrs["luthier:result"]["error"] == "ValueError: too high"
    assert copy.trials[8].intermediate_values == {5: 0.125}
    assert copy.trials_dataframe().shape[0] == 12


def test_export_and_import_give_the_history_back(tmp_path: Path) -> None:
    history = rich_history()
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    to_optuna(history, storage=storage, name="rich")
    back = from_optuna(optuna.load_study(study_name="rich", storage=storage))
    assert back.space == history.space and back.objectives == history.objectives
    assert back.jobs == history.jobs[:11]  # the one that runs is left out
    assert repr(back.results) == repr(history.results[:11])  # repr, because NaN differs from itself
    assert back.arrival == history.arrival and back.best == history.best
    assert back.reports == history.reports and back.parent.tolist() == history.parent.tolist()[:11]
    with pytest.raises(StudyError, match="'rich' already"):
        to_optuna(history, storage=storage, name="rich")


def test_a_tuned_study_is_exported_and_explained() -> None:
    study = tune(loss, space=SPACE, trials=40, progress=False, name="mine")
    copy = to_optuna(study)
    assert copy.study_name == "mine" and copy.best_params == study.best.config  # type: ignore[union-attr]
    importances = optuna.importance.get_param_importances(copy)
    assert importances["lr"] > importances["activation"]


def test_several_objectives_are_exported() -> None:
    history = simulate(Random(), two, SPACE, Budget(trials=12), objectives={"loss": "min", "size": "max"})
    copy = to_optuna(history)
    front = {tuple(trial.values) for trial in copy.best_trials}
    values = history.values * [1.0, -1.0]
    best = [row for row in values if not any((r[0] <= row[0]) & (r[1] >= row[1]) & (r != row).any() for r in values)]
    assert front == {tuple(row) for row in best}


def test_a_foreign_study_is_read_with_its_space() -> None:
    def f(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["sgd", "adam"])
        value = trial.suggest_float("lr", 1e-4, 1.0, log=True) + trial.suggest_float("noise", 0.0, 1.0, step=0.1)
        if kind == "sgd":
            value += trial.suggest_float("momentum", 0.0, 0.9)
        layers = trial.suggest_int("layers", 1, 4)
        if trial.number == 9:
            raise ValueError("before all was asked for")
        if layers >= 3:
            value += trial.suggest_int("width", 8, 64, step=8)
        return value

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(f, n_trials=30, catch=ValueError)
    space = Space(
        kind=Choice(["sgd", "adam"]),
        lr=Float(1e-4, 1.0, log=True),
        noise=Float(0.0, 1.0),
        layers=Int(1, 4),
        momentum=Float(0.0, 0.9, when={"kind": "sgd"}),
        width=Choice(range(8, 65, 8), ordered=True, when={"layers": [3, 4]}),
    )
    history = from_optuna(study, space)
    assert history.space == space
    failed_early = study.trials[9].params["layers"] >= 3
    assert len(history) == 30 - failed_early
    assert history.objectives == {"value": "min"}
    assert history.values[history.best, 0] == study.best_value
    GaussianProcess().bind(Budget()).propose(history, 2, Seeds(0))  # it can be gone on with


def test_steps_of_another_program_are_values_and_no_places() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_int("n", 0, 100, step=10) + trial.suggest_float("p", 0, 1, step=0.1), 12)
    space = Space(n=Int(0, 100, step=10), p=Float(0.0, 1.0, step=0.1))
    history = from_optuna(study, space)
    assert [job.config["n"] for job in history.jobs] == [trial.params["n"] for trial in study.trials]
    assert [job.config["p"] for job in history.jobs] == pytest.approx([trial.params["p"] for trial in study.trials])
    ours = tune(lambda c: c["n"] + c["p"], space=space, trials=12, seed=1, progress=False)
    assert [job.config for job in from_optuna(to_optuna(ours)).jobs] == [job.config for job in ours.history.jobs]


def test_what_cannot_be_imported_is_named() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(StudyError, match=r"does not say its space.*from_optuna\(study, lt.Space"):
        from_optuna(study)
    with pytest.raises(StudyError, match=r"no trial has all names of the space.*those of a trial x"):
        from_optuna(study, Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0)))
    with pytest.raises(ConfigError, match="x"):
        from_optuna(study, Space(x=Float(2.0, 3.0)))
