"""What can be had of a study afterwards: its network, and its best trials trained again under other seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import luthier as lt
from luthier.errors import StudyError


def task(width: int = 10) -> lt.TorchTask:
    return lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 0.3, log=True)),
        model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, width)),
        data=lt.data.digits(train=128, valid=64, test=64),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.sgd,
        batch_size=32,
    )


def test_the_network_of_a_loaded_study(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    study = lt.tune(task(), trials=4, epochs=2, store=store, name="s", progress=False)
    loaded = lt.Study.load("s", store)
    one, two = study.model().state_dict(), loaded.model(task=task()).state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(StudyError, match=r"was not trained in this process.*study\.model\(task=…\)"):
        loaded.model()
    with pytest.raises(StudyError, match="is not that of the study"):
        loaded.model(task=replace(task(), space=lt.Space(lr=lt.Float(0.1, 1.0))))
    with pytest.raises(StudyError, match="job 9 has not ended"):
        loaded.model(9, task())


def test_the_best_of_many_noisy_results_was_lucky(tmp_path: Path) -> None:
    def noisy(config: dict[str, Any], trial: lt.Trial) -> float:
        return config["x"] + np.random.default_rng(trial.seed).normal()

    store, space = tmp_path / "s.db", lt.Space(x=lt.Float(0.0, 0.1))
    study = lt.tune(noisy, space=space, trials=60, store=store, name="s", progress=False)
    found = study.retrain(count=3, seeds=40)
    assert [one.mean for one in found] == sorted(one.mean for one in found) and len(found) == 3
    for one in found:
        assert one.value < -1.0 and abs(one.mean) < 0.6 and 0.6 < one.sd < 1.5, "a mean of 40, of one normal value"
        assert one.values == tuple(run.trials[0].metrics["loss"] for run in one.studies)
        assert all(run.trials[0].config == one.config for run in one.studies)
    again = lt.Study.load("s", store).retrain(count=3, seeds=40, task=noisy)
    assert [one.values for one in again] == [one.values for one in found], "kept in the store and not done twice"
    with pytest.raises(StudyError, match="no task was given"):
        lt.Study.load("s", store).retrain()
    with pytest.raises(StudyError, match="count must be an integer ≥ 1, got 0"):
        study.retrain(count=0)


def test_what_a_method_moved_is_replayed() -> None:
    study = lt.tune(task(), "pbt", trials=4, epochs=4, seed=1, progress=False)
    best = study.best
    assert best is not None
    (one,) = study.retrain(count=1, seeds=[7])
    ended = one.studies[0].best
    assert ended is not None and [step for step, _ in ended.schedule] == [step for step, _ in best.schedule]
    assert ended.final == best.final and one.values[0] != one.value


class Steps:
    """Counts its steps, in a state that keeps a module."""

    space = lt.Space(x=lt.Float(0.0, 1.0))

    def init(self, config: dict[str, Any], key: int) -> dict[str, Any]:
        return {"done": 0, "x": config["x"], "weights": np.zeros(3)}

    def advance(self, state: dict[str, Any], config: dict[str, Any], steps: int) -> Any:
        return {**state, "done": state["done"] + steps, "weights": state["weights"] + steps * config["x"]}, {}

    def evaluate(self, state: dict[str, Any]) -> dict[str, float]:
        return {"loss": state["x"]}


def test_the_state_of_a_trainable(tmp_path: Path) -> None:
    study = lt.tune(Steps(), trials=3, steps=4, store=tmp_path / "s.db", name="s", checkpoints=True, progress=False)
    best = study.best
    assert best is not None
    for state in (study.state(), lt.Study.load("s", tmp_path / "s.db").state(task=Steps())):
        assert state["done"] == 4 and state["weights"].tolist() == [4 * best.config["x"]] * 3
    with pytest.raises(StudyError, match="which is no network of a TorchTask"):
        study.model()
    with pytest.raises(StudyError, match=r"study\.state\(task=…\)"):
        lt.Study.load("s", tmp_path / "s.db").state()
    with pytest.raises(lt.errors.CheckpointError, match="no state was kept"):
        lt.tune(Steps(), trials=2, steps=4, progress=False).state()
