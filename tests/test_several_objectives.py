"""A TorchTask with several objectives from end to end: costs, the Pareto set, its test split, a resume, a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import luthier as lt
from luthier.errors import MethodError, StudyError, TaskError
from luthier.pareto import non_dominated


def network(config: dict[str, Any]) -> nn.Module:
    width = config["width"]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def task(**more: Any) -> lt.TorchTask:
    settings: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(1e-3, 1.0, log=True), width=lt.Int(2, 8)),
        "model": network,
        "data": lt.data.digits(train=256, valid=128, test=128),
        "loss": lt.losses.cross_entropy,
        "batch_size": 32,
        "metrics": {"accuracy": lt.metrics.accuracy},
        "costs": {"parameters": lt.metrics.parameters},
    }
    return lt.TorchTask(**settings | more)


def test_the_pareto_set_has_its_test_metrics_and_its_networks(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 2, "metric": ["accuracy", "parameters"], "mode": ["max", "min"]}
    given |= {"method": lt.propose.Genetic(population=4), "store": tmp_path / "s.db", "name": "two", "progress": False}
    study = lt.tune(task(), trials=8, **given)
    assert len(study.front) > 1
    for trial in study.trials:
        assert trial.metrics["parameters"] == 75 * trial.config["width"] + 10
    kept = non_dominated(study.history.values)
    assert sorted(one.number for one in study.front) == [n for n in range(8) if kept[n]]
    accuracies = [one.metrics["accuracy"] for one in study.front]
    assert accuracies == sorted(accuracies, reverse=True)
    data = task().data
    for one in study.front:
        model = study.model(one.number)
        right = (model(data.test.inputs).argmax(1) == data.test.targets).double().mean().item()
        assert one.test["accuracy"] == pytest.approx(right)
        assert one.test["parameters"] == one.metrics["parameters"]

    longer = lt.tune(task(), trials=16, **given)
    assert all(one.test for one in longer.front), "also those that came since"
    read = lt.Study.load("two", tmp_path / "s.db")
    assert [one.number for one in read.front] == [one.number for one in longer.front]
    assert [one.test for one in read.front] == [one.test for one in longer.front]
    assert "Trade-off" in longer.write_report(tmp_path / "two.html").read_text()


def test_nothing_that_ended_well_is_an_empty_set() -> None:
    def fails(config: dict[str, Any]) -> dict[str, float]:
        raise ValueError

    space = lt.Space(x=lt.Float(0, 1))
    with pytest.raises(StudyError, match="all 3 trials failed") as caught:
        lt.tune(fails, space=space, metric=["a", "b"], trials=3, progress=False)
    assert caught.value.study.front == []


def test_genetic_finds_a_larger_hypervolume_than_random_search() -> None:
    def zdt1(config: dict[str, Any]) -> dict[str, float]:  # Zitzler, Deb and Thiele 2000, five variables
        first, *others = (config[f"x{i}"] for i in range(5))
        g = 1 + 9 * sum(others) / 4
        return {"first": first, "second": -g * (1 - (first / g) ** 0.5)}

    space, goals = lt.Space(**{f"x{i}": lt.Float(0, 1) for i in range(5)}), {"first": "min", "second": "max"}
    wins = 0
    for seed in range(5):
        volumes = []
        for method in (lt.propose.Genetic(), lt.propose.Random()):
            history = lt.testing.simulate(method, zdt1, space, lt.Budget(trials=100), seed, objectives=goals)
            volumes.append(lt.pareto.hypervolume(history.values, np.array([1.1, 6.0])))
        wins += volumes[0] > volumes[1]
    assert wins == 5


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_the_name_of_a_cost_may_not_be_taken(name: str) -> None:
    with pytest.raises(TaskError, match=f"'{name}' is taken"):
        task(costs={name: lt.metrics.parameters})


@pytest.mark.parametrize("cost", [lambda model, inputs: float("nan"), lambda model, inputs: model(inputs)])
def test_a_cost_is_a_finite_number(cost: Any) -> None:
    made = task(costs={"latency": cost})
    with pytest.raises(TaskError, match="cost 'latency' is"):
        made.program({"lr": 0.1, "width": 3})


def test_what_is_measured_is_known() -> None:
    with pytest.raises(StudyError, match="loss, train_loss, accuracy, parameters"):
        lt.tune(task(), trials=1, steps=1, metric=["loss", "latency"], progress=False)
    with pytest.raises(MethodError, match="2 objectives"):
        lt.tune(task(), lt.propose.GaussianProcess(), trials=1, steps=1, metric=["loss", "parameters"], progress=False)
