"""TorchTask: what is static, what shapes the training beside the model, and what is refused."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from networks import digits_task
from torch import nn
from torch.nn import functional as F

import luthier as lt
from luthier.errors import LuthierError, TaskError

SPACE = lt.Space(lr=lt.Float(0.01, 0.5, log=True))


def settings(**given: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "space": SPACE,
        "model": lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "data": lt.data.digits(),
        "loss": lt.losses.cross_entropy,
    }
    return {**base, **given}


def test_what_the_model_reads_is_static_and_nothing_else() -> None:
    space = lt.Space(lr=lt.Float(0.01, 0.5), width=lt.Choice([8, 16]), deep=lt.Choice([False, True]))
    built = []

    def model(config: dict[str, Any]) -> nn.Module:
        built.append(1)
        layers = [nn.Flatten(), nn.Linear(64, config["width"])]
        if config["width"] == 16 and config["deep"]:
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, nn.Linear(config["width"], 10))

    task = lt.TorchTask(**settings(space=space, model=model))
    narrow = {"lr": 0.1, "width": 8, "deep": True}
    assert [name for name, _ in task.static(narrow)] == ["width"]
    assert [name for name, _ in task.static({**narrow, "width": 16})] == ["width", "deep"]
    count = len(built)
    assert task.static({**narrow, "lr": 0.2}) == task.static({**narrow, "deep": False})
    assert len(built) == count, "a reading that is known should not build the model again"


@pytest.mark.parametrize(
    "read",
    [
        lambda config: {**config},
        lambda config: dict(**config),
        lambda config: json.loads(json.dumps(config)),
        copy.copy,
        copy.deepcopy,
        lambda config: pickle.loads(pickle.dumps(config)),
        lambda config: config | {"more": 1},
        lambda config: {"more": 1} | config,
        lambda config: dict(config.items()),
        lambda config: ast.literal_eval(f"{config}"),
        lambda config: {name: config.pop(name) for name in list(config)},
        lambda config: dict(config.popitem() for _ in range(2)),
        lambda config: {name: config.setdefault(name, 3) for name in config},
        lambda config: dict(zip(config.keys(), config.values(), strict=True)),
    ],
)
def test_a_configuration_is_a_dict_whose_readings_are_all_seen(read: Any) -> None:
    space, found = lt.Space(lr=lt.Float(0.01, 0.5), width=lt.Choice([8, 16])), {}

    def model(config: Any) -> nn.Module:
        assert isinstance(config, dict)
        config["own"] = 1
        del config["own"]
        found.update(read(config))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, found["width"]), nn.Linear(found["width"], 10))

    def data(config: Any) -> lt.Splits:
        assert config["lr"] and config["width"]  # whatever the model did to its own
        return lt.data.digits()

    task = lt.TorchTask(**settings(space=space, model=model, data=data))
    for config in ({"lr": 0.1, "width": 8}, {"lr": 0.2, "width": 16}):
        assert sorted(task.static(config)) == [("lr", ("float", config["lr"])), ("width", ("int", config["width"]))]
        assert {name: found[name] for name in config} == config
    study = lt.tune(task, trials=2, epochs=1, progress=False)  # the optimizer has its rate, whatever the model took out
    assert [trial.status for trial in study.trials] == ["ok", "ok"]


@pytest.mark.parametrize(
    "read", [copy.copy, copy.deepcopy, lambda config: config.copy(), lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_of_a_configuration_have_its_groups(read: Any) -> None:
    space = lt.Space(net={"width": lt.Choice([8, 16])}, lr=lt.Float(0.01, 0.5))

    def model(config: Any) -> nn.Module:
        width = read(config)["net"]["width"]
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))

    def optimizer(params: Any, config: Any) -> torch.optim.Optimizer:
        whole = read(config)
        assert whole["net"]["width"] in (8, 16)
        return torch.optim.SGD(params, lr=whole["lr"])

    task = lt.TorchTask(**settings(space=space, model=model, optimizer=optimizer))
    assert "net.width" in dict(task.static({"net.width": 8, "lr": 0.1}))
    assert [trial.status for trial in lt.tune(task, trials=2, epochs=1, progress=False).trials] == ["ok", "ok"]


def test_a_batch_size_from_the_space_changes_the_steps_of_an_epoch() -> None:
    space = lt.Space(lr=lt.Float(0.01, 0.5), batch_size=lt.Int(16, 128, log=True))
    task = lt.TorchTask(**settings(space=space))
    study = lt.tune(task, trials=6, epochs=2, seed=1, progress=False)
    for trial in study.trials:
        assert trial.steps == 2 * (1077 // int(trial.config["batch_size"]))


def test_the_optimizer_may_depend_on_the_configuration() -> None:
    space = lt.Space(lr=lt.Float(0.001, 0.01), family=lt.Choice(["sgd", "adam"]))
    families = {"sgd": lt.optim.sgd, "adam": lt.optim.adam}
    task = lt.TorchTask(**settings(space=space, optimizer=lambda config: families[config["family"]]))
    losses = {}
    for family in families:
        tuned = lt.tune(task, lt.propose.Grid(points={"lr": [0.005], "family": [family]}), steps=40, progress=False)
        assert tuned.best is not None
        losses[family] = tuned.best.metrics["loss"]
    assert losses["adam"] < losses["sgd"]  # forty steps at this rate are nothing for plain descent


def trained(task: lt.TorchTask, steps: int = 60, **config: float) -> tuple[lt.Study, nn.Module]:
    points = {name: [value] for name, value in config.items()}
    study = lt.tune(task, lt.propose.Grid(points=points), steps=steps, progress=False)
    return study, study.model()


def test_a_penalty_equals_the_optimizers_weight_decay() -> None:
    def penalty(params: dict[str, torch.Tensor], hyper: dict[str, torch.Tensor]) -> torch.Tensor:
        return hyper["strength"] * sum(p.square().sum() for p in params.values()) / 2

    space = lt.Space(lr=lt.Float(0.01, 0.5), strength=lt.Float(0.0, 0.2))
    decay = lt.Space(lr=lt.Float(0.01, 0.5), weight_decay=lt.Float(0.0, 0.2))
    double = {"dtype": torch.float64}
    _, left = trained(lt.TorchTask(**settings(space=space, penalty=penalty, **double)), lr=0.1, strength=0.05)
    _, right = trained(lt.TorchTask(**settings(space=decay, **double)), lr=0.1, weight_decay=0.05)
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_augmentation_reaches_the_training_alone_and_each_member_for_itself() -> None:
    def augment(inputs: torch.Tensor, hyper: dict[str, torch.Tensor], noise: Any) -> torch.Tensor:
        scale = hyper["strength"].view(-1, 1, 1, 1, 1)
        return inputs + scale * noise.normal(0, inputs.shape[1:])

    space = lt.Space(lr=lt.Float(0.01, 0.5), strength=lt.Float(0.0, 3.0))
    noisy = lt.TorchTask(**settings(space=space, augment=augment))
    study = lt.tune(noisy, lt.propose.Grid(points={"lr": [0.2], "strength": [0.0, 3.0]}), steps=60, progress=False)
    clean, blurred = (trial.metrics for trial in study.trials)
    assert clean["train_loss"] < blurred["train_loss"]
    plain, _ = trained(lt.TorchTask(**settings()), lr=0.2)
    assert plain.best is not None and clean["loss"] == pytest.approx(plain.best.metrics["loss"], rel=1e-6)


def test_a_schedules_factor_may_be_tuned() -> None:
    space = lt.Space(lr=lt.Float(0.01, 0.5), gamma=lt.Float(0.0, 1.0))
    task = lt.TorchTask(**settings(space=space, schedule=lt.optim.StepDecay("gamma")))
    study = lt.tune(task, lt.propose.Grid(points={"lr": [0.1], "gamma": [0.0, 1.0]}), epochs=3, progress=False)
    stopped, constant = (study.history.reports[n] for n in (0, 1))
    assert stopped[0].metrics["loss"] == stopped[2].metrics["loss"], "a rate of zero moves nothing after one epoch"
    assert constant[2].metrics["loss"] < constant[0].metrics["loss"]


def ridge(params: dict[str, torch.Tensor], hyper: dict[str, torch.Tensor]) -> torch.Tensor:
    return hyper["rate"] * sum(p.square().sum() for p in params.values())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"lr": lt.Choice([0.1, 0.02])},
        {"optimizer": lt.optim.Adam(), "weight_decay": lt.Float(0.0, 0.1)},
        {"optimizer": torch.optim.AdamW, "weight_decay": lt.Float(0.0, 0.1)},
        {"optimizer": torch.optim.SGD, "lr": lt.Choice([0.1, 0.02])},
        {
            "optimizer": torch.optim.SGD,
            "rate": lt.Float(0.1, 0.9),
            "scheduler": (lambda o, c: torch.optim.lr_scheduler.StepLR(o, 9, c["rate"]), "step"),
        },
        {"rate": lt.Float(0.1, 0.9), "schedule": lt.optim.StepDecay("rate")},
        {"rate": lt.Int(1, 3), "schedule": lt.optim.Cosine("rate")},
        {"rate": lt.Float(0.1, 0.9), "penalty": ridge},
        {"rate": lt.Float(0.1, 0.9), "dropout": True},
        {"clip_norm": lt.Float(0.1, 1.0), "batch_size": lt.Int(32, 64)},
    ],
)
def test_a_model_that_reads_its_whole_configuration_leaves_it_to_the_others(given: dict[str, Any]) -> None:
    """Network(**config) and dict(config) make a name static; steps read it all the same."""
    dropout = given.get("dropout", False)
    domains = {"lr": SPACE.domains["lr"]} | {n: d for n, d in given.items() if isinstance(d, lt.space.Domain)}
    parts = {name: value for name, value in given.items() if name not in domains and name != "dropout"}

    def task(whole: bool) -> lt.TorchTask:
        def model(config: Any) -> nn.Module:
            assert not whole or dict(config)  # which reads every name
            layer = lt.nn.Dropout("rate") if dropout else nn.Identity()
            return nn.Sequential(nn.Flatten(), layer, nn.Linear(64, 10))

        data = (lambda config: dict(config) and lt.data.digits()) if whole else lt.data.digits()
        return lt.TorchTask(**settings(space=lt.Space(**domains), model=model, data=data, **parts))

    whole, part = (lt.tune(task(w), trials=3, epochs=1, seed=3, progress=False).trials for w in (True, False))
    assert [one.metrics for one in whole] == [one.metrics for one in part]
    assert len({one.metrics["loss"] for one in part}) > 1


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"loss": 3}, "3"),
        ({"space": {"lr": 1}}, "{'lr': 1}"),
        ({"batch_size": 5000}, "5000"),
        ({"evaluate_every": 0}, "0"),
        ({"metrics": {"loss": lt.metrics.accuracy}}, "'loss'"),
    ],
)
def test_a_task_that_cannot_be_meant_is_refused(given: dict[str, Any], value: str) -> None:
    with pytest.raises(TaskError) as caught:
        lt.TorchTask(**settings(**given))
    assert value in caught.value.what and caught.value.where and caught.value.remedy


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"space": lt.Space(momentum=lt.Float(0, 0.9))}, "there is no learning rate"),
        ({"model": lambda config: "a network"}, "model(config) returned str"),
        (
            {"model": lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 10).double())},
            "model, 1.weight: its weights are float64",
        ),
    ],
)
def test_what_only_the_first_configuration_shows_is_a_named_error(given: dict[str, Any], text: str) -> None:
    task = lt.TorchTask(**settings(**given))
    with pytest.raises(TaskError, match=text.replace("(", r"\(").replace(")", r"\)")):
        task.program({name: 0.1 for name in task.space})


def test_a_model_is_made_under_its_own_seed_whoever_draws_its_weights() -> None:
    """Weights by NumPy and by ``random`` come again, differ between members, and leave the caller's draws alone."""

    def model(config: dict[str, Any]) -> nn.Module:
        linear = nn.Linear(64, 10)
        linear.weight.data = torch.from_numpy(np.random.randn(10, 64).astype("float32") * random.random())
        return nn.Sequential(nn.Flatten(), linear)

    random.seed(3), np.random.seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist()
    found = [
        [trial.metrics["loss"] for trial in lt.tune(lt.TorchTask(**settings(model=model)), **how).trials]
        for how in [{"trials": 3, "steps": 2, "progress": False, "executor": lt.execute.Local(width=w)} for w in (1, 8)]
    ]
    assert found[0] == found[1] and len(set(found[0])) == 3
    assert states == (random.getstate(), np.random.get_state()[1].tolist())


def test_a_loss_module_is_measured_in_evaluation_mode() -> None:
    """It moves its buffer in training alone, as the network's own; beside a plain loop over whole minibatches."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(10))

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.centre = 0.9 * self.centre + 0.1 * output.detach().mean(0)
            return F.cross_entropy(output - self.centre, target)

    data = lt.data.digits()
    train = data.train.subset(96)

    def model(config: dict[str, Any]) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    given = settings(model=model, loss=Centred(), data=lt.Splits(train, data.valid), batch_size=96)
    (trial,) = lt.tune(lt.TorchTask(**given), trials=1, steps=6, progress=False).trials
    net, loss = model({}), Centred()
    optimizer = torch.optim.SGD(net.parameters(), lr=trial.config["lr"])
    for _ in range(6):
        optimizer.zero_grad()
        loss(net(train.inputs), train.targets).backward()
        optimizer.step()
    assert trial.metrics["loss"] == pytest.approx(loss.eval()(net(data.valid.inputs), data.valid.targets).item(), 1e-5)


def test_a_metric_that_is_no_number_is_named() -> None:
    task = lt.TorchTask(**settings(metrics={"by class": lambda output, target: output.mean(0)}))
    with pytest.raises(LuthierError, match=r"metric 'by class', <lambda>.*it returned a tensor of shape"):
        lt.tune(task, trials=2, steps=1, progress=False)


def test_another_device_gets_a_task_of_its_own() -> None:
    task = digits_task()
    assert task.on(None) is task and task.on("cpu") is task.on("cpu")
