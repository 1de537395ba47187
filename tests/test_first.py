"""What can never work is an error of the call; what fails under some configurations alone is theirs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import luthier as lt
from luthier.errors import TaskError


def task(**changes: Any) -> lt.TorchTask:
    split = lt.Split(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(32, 1))
    given: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(0.01, 0.1), depth=lt.Int(1, 8)),
        "model": lambda config: nn.Sequential(*[nn.Linear(4, 4) for _ in range(config["depth"])], nn.Linear(4, 1)),
        "data": lt.Splits(split, split, split),
        "loss": lambda output, target: ((output - target) ** 2).mean(),
        "batch_size": 8,
    }
    return lt.TorchTask(**{**given, **changes})


def tune(given: Any, **changes: Any) -> lt.Study:
    return lt.tune(given, **{"trials": 4, "epochs": 1, "progress": False, **changes})


def raising(*_: Any) -> Any:
    raise KeyError("no such layer: 7")


class Broken:
    space = lt.Space(x=lt.Float(0, 1))

    def init(self, config: dict[str, Any], key: int) -> Any:
        raise FileNotFoundError("data/train.csv")

    def advance(self, state: Any, config: dict[str, Any], steps: int) -> Any:
        return state, {}

    def evaluate(self, state: Any) -> dict[str, float]:
        return {"loss": 0.0}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (task(model=lambda config: nn.Linear(5, config["depth"])), "mat1 and mat2 shapes cannot be multiplied"),
        (task(model=raising), "no such layer: 7"),
        (task(loss=raising), "no such layer: 7"),
        (task(loss=lambda output, target: (output - target).square()), "scalar"),
        (task(model=lambda config: config["depth"]), r"model\(config\) returned int"),
        (task(space=lt.Space(lr=lt.Float(0.1, 1), depth=lt.Int(1, 2), typo=lt.Float(0, 1))), "nothing reads .*'typo'"),
        (Broken(), r"no trial can begin: FileNotFoundError: data/train\.csv"),
    ],
)
def test_what_can_never_work_raises_before_any_trial(given: Any, words: str) -> None:
    diary: list[str] = []

    class Follower(lt.follow.Follower):
        def started(self, study: lt.Study) -> None:
            diary.append(study.name)

    with pytest.raises(TaskError, match=words):
        tune(given, callbacks=[Follower()])
    assert not diary


def test_what_some_configurations_do_is_their_own() -> None:
    def model(config: dict[str, Any]) -> nn.Module:
        if config["depth"] == 3:
            raise ValueError("three is too many")
        return nn.Linear(4, 1)

    space = lt.Space(lr=lt.Float(0.01, 0.1), depth=lt.Choice([3, 1]))
    seeds = [seed for seed in range(20) if space.sample(lt.Seeds(seed).rng(0, "propose"), 1)[0]["depth"] == 3]
    study = tune(task(space=space, model=model), seed=seeds[0], trials=8)  # the very first one fails
    assert {trial.config["depth"]: trial.status for trial in study.trials} == {3: "failed", 1: "ok"}


def test_a_name_that_one_branch_reads_is_a_warning_and_no_failure() -> None:
    space = lt.Space(lr=lt.Float(0.01, 0.1), kind=lt.Choice(["a", "b"]), width=lt.Int(1, 4))

    def model(config: dict[str, Any]) -> nn.Module:
        width = config["width"] if config["kind"] == "a" else 1
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 1))

    given = task(space=space, model=model)
    seeds = {space.sample(lt.Seeds(seed).rng(0, "propose"), 1)[0]["kind"]: seed for seed in range(20)}
    with pytest.warns(RuntimeWarning, match="width: nothing reads it under") as caught:
        study = tune(given, seed=seeds["b"], trials=6)
    assert len(caught) == 1 and {trial.status for trial in study.trials} == {"ok"}
    assert {trial.config["kind"] for trial in study.trials} == {"a", "b"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tune(given, seed=seeds["a"], trials=2)
