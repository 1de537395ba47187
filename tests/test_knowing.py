"""What a study is told beside its own trials: known results, changed code, failed trials to be tried again."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import LuthierError, StudyError, TaskError
from luthier.task.file import FILES, load_file, module_name

SPACE = lt.Space(x=lt.Float(0, 1), y=lt.Float(0, 1))


def bowl(config: dict[str, Any]) -> float:
    return (config["x"] - 0.31) ** 2 + (config["y"] - 0.72) ** 2


def tune(task: Any = bowl, method: Any = "gp", **changes: Any) -> lt.Study:
    return lt.tune(task, method, **{"space": SPACE, "trials": 5, "progress": False, **changes})


def best(study: lt.Study) -> lt.Best:
    assert study.best is not None
    return study.best


def test_a_model_learns_from_known_results(tmp_path: Path) -> None:
    first = tune(method="random", trials=20, store=tmp_path / "s.db", name="first")
    plain = [best(tune(seed=seed)).value for seed in range(5)]
    known = [best(tune(seed=seed, known=first)).value for seed in range(5)]
    assert np.median(known) < 1e-3 < np.median(plain), "five trials after twenty known ones are worth more than five"
    loaded = lt.Study.load("first", tmp_path / "s.db")
    study = tune(known=loaded, store=tmp_path / "t.db", name="t")
    assert best(study).value == known[0] and len(study.trials) == 5, "known results are no trials"
    again = tune(known=first.to_pandas(), store=tmp_path / "t.db", name="t")
    assert len(again.history.foreign) == 20, "the same results are known once"
    assert best(study).number in range(5) and study.suggest() is not None
    assert best(tune(method="random", known=first)).value == best(tune(method="random")).value


LEARN: dict[str, Any] = {
    "tpe": "tpe",
    "cmaes": "cmaes",
    "genetic": "genetic",
    "gflownet": "gflownet",
    "gp in median": lt.propose.Median(inner="gp"),
}


@pytest.mark.filterwarnings("ignore:.*reported nothing")
@pytest.mark.parametrize("method", LEARN)
def test_every_model_learns_from_known_results(method: str) -> None:
    if method in ("tpe", "cmaes"):
        pytest.importorskip({"tpe": "optuna"}.get(method, method))
    first = tune(method="random", trials=60)
    plain = [best(tune(method=LEARN[method], seed=seed, trials=12)).value for seed in range(5)]
    known = [best(tune(method=LEARN[method], seed=seed, trials=12, known=first)).value for seed in range(5)]
    assert np.median(known) < np.median(plain) / 2


def test_cmaes_begins_as_the_distribution_of_the_best_known_results() -> None:
    pytest.importorskip("cmaes")
    first = tune(method="random", trials=60)
    plain, known = (
        np.mean([tune(method="cmaes", trials=6, seed=seed, known=given).history.values[:, 0] for seed in range(5)])
        for given in (None, first)
    )
    assert known < plain / 2, "its first generation is drawn around the valley, not around the middle of the space"


def test_methods_that_continue_trainings_learn_from_known_results() -> None:
    first = tune(method="random", trials=30)
    for method in (lt.propose.FreezeThaw(initial=4), lt.propose.ASHA(inner="gp"), lt.propose.Hyperband(inner="gp")):
        study = lt.Study(space=SPACE, method=method, trials=4, steps=27)
        study._ledger.know([(dict(job.config), {"loss": bowl(job.config)}) for job in first.history.jobs])
        assert bowl(study.ask()[0].config) < 1e-3, f"{method} knows where the valley is"


def test_tpe_resumes_with_known_results_and_others_say_that_they_learn_nothing(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    first = tune(method="random", trials=60)
    store = tmp_path / "s.db"
    half = tune(method="tpe", trials=6, known=first, store=store, name="tpe")
    assert len(half.trials) == 6
    whole = tune(method="tpe", trials=12, known=first, store=store, name="tpe")
    alone = tune(method="tpe", trials=12, known=first)
    assert [job.config for job in whole.history.jobs] == [job.config for job in alone.history.jobs]
    with pytest.warns(RuntimeWarning, match="Genetic keeps the 60 known results and learns nothing"):
        tune(method=lt.propose.Genetic(population=3, generations=1), trials=3, known=first)


def test_of_known_results_what_lies_outside_is_counted() -> None:
    pairs = [({"x": 3.0, "y": 1.0}, 0.5), ({"x": 0.3, "y": 0.5}, {"loss": 0.1}), ({"x": 0.3}, 0.5)]
    with pytest.warns(RuntimeWarning, match="2 of 3 known results lie outside the space .* x: 3.0 is outside"):
        study = tune(known=pairs, trials=2)
    assert [one.config for one in study.history.foreign] == [{"x": 0.3, "y": 0.5}]
    for known, error in ((3, StudyError), ("first", StudyError), ([{"x": 1}], StudyError)):
        with pytest.raises(error, match="known must be a study, pairs"):
            tune(known=known)
    with pytest.raises(TaskError, match="'loss' is not among"):
        tune(known=[({"x": 0.3, "y": 0.5}, {"cost": 1.0})])


def written(folder: Path, goal: float) -> Any:
    """A function of a file, after the file was edited."""
    file = folder / "train.py"
    file.write_text(f"def objective(config):\n    return (config['x'] - {goal}) ** 2\n")
    FILES.pop(module_name(file.resolve()), None)
    return load_file(file).objective


def test_changed_code_is_noticed(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"method": "random", "store": tmp_path / "s.db", "name": "s"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tune(written(tmp_path, 0.25), **kept)
        tune(written(tmp_path, 0.25), **kept)
    with pytest.raises(StudyError, match="the task's code has changed since its first 5 jobs"):
        tune(written(tmp_path, 0.75), on_change="error", **kept)
    with pytest.warns(RuntimeWarning, match="code has changed since its first 5 jobs; it goes on"):
        study = tune(written(tmp_path, 0.75), **{**kept, "trials": 7})
    assert [first for first, _ in study.history.fingerprints] == [0, 5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tune(written(tmp_path, 0.75), **{**kept, "trials": 7})
    assert "code_changed_at" in study.write_report(tmp_path / "page.html").read_text()
    with pytest.raises(StudyError, match="on_change must be 'warn' or 'error', got 'refuse'"):
        tune(on_change="refuse")


def test_failed_trials_are_tried_again_under_their_numbers(tmp_path: Path) -> None:
    broken = [True]
    seen: dict[int, list[tuple[float, int]]] = {}

    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        seen.setdefault(trial.number, []).append((config["x"], trial.seed))
        if broken and config["x"] > 0.3:
            raise OSError("no disk")
        return config["x"]

    kept: dict[str, Any] = {"method": "random", "store": tmp_path / "s.db", "trials": 8}
    failed = [trial.number for trial in tune(train, **kept).trials if trial.status == "failed"]
    assert 0 < len(failed) < 8
    broken.clear()
    assert sum(trial.status == "failed" for trial in tune(train, **kept).trials) == len(failed)
    study = tune(train, retry_failed=True, **kept)
    assert {trial.status for trial in study.trials} == {"ok"} and len(study.trials) == 8
    assert all(len(calls) == 1 + (number in failed) and len(set(calls)) == 1 for number, calls in seen.items())
    assert len(tune(train, retry_failed=True, **kept).trials) == 8


def test_the_environment_is_kept(tmp_path: Path) -> None:
    study = tune(store=tmp_path / "s.db", name="s")
    kept = lt.Study.load("s", tmp_path / "s.db").settings["environment"]
    assert kept["luthier"] == lt.__version__ and kept == study.settings["environment"]
    assert kept["processor"] in study.write_report(tmp_path / "page.html").read_text()
    assert issubclass(StudyError, LuthierError)
