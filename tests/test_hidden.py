"""State outside of what a training owns is refused at the call, by the name of the part that has it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import luthier as lt

X = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
count = 0
seen: list[Tensor] = []
kept = {"steps": 0}
numbers = itertools.count(1)
by_numpy, by_torch, by_random = np.random.default_rng(0), torch.Generator().manual_seed(0), random.Random(0)
draw = by_numpy.random


def net(config: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def tuned(**settings: Any) -> lt.Study:
    usual: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(1e-2, 1e-1)),
        "model": net,
        "data": lt.Splits((X, Y), (X, Y)),
        "loss": F.cross_entropy,
        "optimizer": optim.SGD,
        "batch_size": 8,
    }
    return lt.tune(lt.TorchTask(**{**usual, **settings}), trials=2, epochs=2, seed=0, progress=False)


def stepping(act: Callable[[], float]) -> type[optim.Optimizer]:
    """An optimizer of the user's own whose rate is a factor of SGD's."""

    class Own(optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            factor = act()
            for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
                p.data.add_(p.grad, alpha=-0.1 * factor)

    return Own


def by_global() -> float:
    global count
    count += 1
    return 1 / count


def on_the_tenth() -> float:
    kept["steps"] += 1
    return float(kept["steps"] % 10 == 0)


class OnTheClass(optim.SGD):
    steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        OnTheClass.steps += 1
        if OnTheClass.steps % 5 == 0:
            super().step()


def in_a_closure() -> Callable[..., Tensor]:
    calls = 0

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x) * (0.5 if calls > 1000 else 1.0)

    return forward


class Linear(nn.Module):
    """A layer whose output is multiplied by what a function gives at each call, or once."""

    made = 0

    def __init__(self, scale: Callable[[], Any] | float) -> None:
        super().__init__()
        Linear.made += 1
        self.layer, self.scale = nn.Linear(5, 2), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (self.scale() if callable(self.scale) else self.scale)


def filled(value: Callable[[], Any]) -> Callable[[Any], nn.Module]:
    def model(config: Any) -> nn.Module:
        made = net(config)
        nn.init.constant_(made[0].bias, float(value()))  # type: ignore[index, arg-type]
        return made

    return model


class Running:
    """A loss beside its own running mean, which is a number or a tensor."""

    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        self.mean, self.read = read(torch.tensor(1.0)), read

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(output, target)
        self.mean = 0.9 * self.mean + 0.1 * self.read(loss.detach())
        return loss / self.mean


def over_all(output: Tensor, target: Tensor) -> Tensor:
    seen.append((output.argmax(1) == target).float().mean())
    return torch.stack(seen).mean()


def other_rows(config: Any) -> lt.Splits:
    rows = torch.tensor(by_numpy.normal(size=(32, 5))).float()
    return lt.Splits((rows, Y), (X, Y))


def other_length(config: Any) -> lt.Splits:
    first = 24 - next(numbers) % 8
    return lt.Splits((X[:first], Y[:first]), (X, Y))


COUNTED = {
    "a global in step": ({"optimizer": stepping(by_global)}, "optimizer", "'count'"),
    "every tenth step": ({"optimizer": stepping(on_the_tenth)}, "optimizer", "kept['steps']"),
    "an attribute of the class in step": ({"optimizer": OnTheClass}, "optimizer", "OnTheClass.steps"),
    "NumPy's generator in step": ({"optimizer": stepping(np.random.rand)}, "optimizer", "NumPy"),
    "a generator in step": ({"optimizer": stepping(draw)}, "optimizer", "closure 'act'"),
    "an optimizer made otherwise": (
        {"optimizer": lambda params, config: optim.SGD(params, lr=1 / next(numbers))},
        "optimizer",
        "'numbers'",
    ),
    "luthier's made otherwise": (
        {"optimizer": lambda config: lt.optim.SGD(momentum=0.9 / next(numbers))},
        "optimizer",
        "'numbers'",
    ),
    "a closure in forward": ({"forward": in_a_closure()}, "model or loss", "closure 'calls'"),
    "a function that counts, in forward": ({"model": lambda config: Linear(by_global)}, "model (Linear)", "'count'"),
    "a generator of torch in forward": (
        {"model": lambda config: Linear(lambda: torch.rand((), generator=by_torch))},
        "model (Linear)",
        "'by_torch'",
    ),
    "another network each time": (
        {"model": lambda config: Linear(1.0 / (Linear.made + 1))},
        "TorchTask(model",
        "something else",
    ),
    "NumPy's Generator in model": ({"model": filled(by_numpy.random)}, "TorchTask(model", "'value'"),
    "torch.Generator in model": (
        {"model": filled(lambda: torch.rand((), generator=by_torch))},
        "TorchTask(model",
        "'by_torch'",
    ),
    "random.Random in model": ({"model": filled(lambda: by_random.random())}, "TorchTask(model", "'by_random'"),
    "a number in a loss": ({"loss": Running(float)}, "TorchTask(loss", "loss.mean"),
    "a tensor in a loss": ({"loss": Running(lambda x: x)}, "TorchTask(loss", "loss.mean"),
    "itertools.count in a loss": (
        {"loss": lambda output, target: F.cross_entropy(output, target) / next(numbers)},
        "TorchTask(loss",
        "'numbers'",
    ),
    "other rows": ({"data": other_rows}, "TorchTask(data", "'by_numpy'"),
    "another length": ({"data": other_length}, "TorchTask(data", "'numbers'"),
    "a scheduler's rule": (
        {"scheduler": lambda o: optim.lr_scheduler.LambdaLR(o, lambda step: 1 / next(numbers))},
        "scheduler",
        "'numbers'",
    ),
    "a scheduler made otherwise": (
        {"scheduler": lambda o: optim.lr_scheduler.StepLR(o, next(numbers))},
        "scheduler",
        "'numbers'",
    ),
    "a penalty": (
        {"penalty": lambda params, hyper: params["0.weight"].square().sum() / next(numbers)},
        "penalty",
        "'numbers'",
    ),
    "an augmentation": (
        {"augment": lambda inputs, hyper, noise: inputs * (1.0 if random.random() < 0.99 else 2.0)},
        "augment",
        "the generator of random",
    ),
    "a metric": ({"metrics": {"share": over_all}}, "metric 'share'", "'seen'"),
}


@pytest.mark.parametrize("case", COUNTED)
def test_hidden_state_is_refused_by_its_part_and_name(case: str) -> None:
    settings, part, name = COUNTED[case]
    with pytest.raises(lt.errors.TaskError) as caught:
        tuned(**settings)
    assert part in caught.value.where and name in caught.value.what and caught.value.remedy
    assert getattr(caught.value, "study", None) is None, "before any trial"


built: list[int] = []


def logging(config: Any) -> nn.Module:
    built.append(len(built))
    return net(config)


def drawn_inside(config: Any) -> nn.Module:
    own = np.random.default_rng(3)
    model = net(config)
    nn.init.constant_(model[0].bias, float(own.random() + np.random.rand() + random.random()))  # type: ignore[index, arg-type]
    return model


def split_at_random(config: Any) -> lt.Splits:
    order = torch.randperm(32)
    return lt.Splits((X[order[:24]], Y[order[:24]]), (X[order[24:]], Y[order[24:]]))


def resampled(output: Tensor, target: Tensor) -> float:
    rows = np.random.randint(0, len(target), len(target))
    return float((output.argmax(1) == target)[rows].float().mean())


def noisy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output + 0.3 * torch.randn_like(output), target)


HARMLESS: dict[str, dict[str, Any]] = {
    "a log of networks": {"model": logging},
    "generators that are set": {"model": drawn_inside},
    "rows split at random": {"data": split_at_random},
    "a metric that draws": {"metrics": {"resampled": resampled}},
    "a loss that draws": {"loss": noisy},
    "a number that stays": {"forward": lambda model, x: model(x) * kept.setdefault("rows", len(x)) / len(x)},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_set_for_each_training_runs_the_same_alone_and_again(case: str) -> None:
    def results(width: int) -> list[Any]:
        task = lt.TorchTask(
            **{
                "space": lt.Space(lr=lt.Float(1e-2, 1e-1)),
                "model": net,
                "data": lt.Splits((X, Y), (X, Y)),
                "loss": F.cross_entropy,
                "optimizer": optim.SGD,
                "batch_size": 8,
                **HARMLESS[case],
            }
        )
        executor = lt.execute.Local(width=width)
        study = lt.tune(task, trials=3, epochs=2, seed=0, progress=False, executor=executor)
        return [result.metrics for result in study.history.results if result is not None]

    assert results(3) == results(1) == results(3)


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "two arguments too few": (lambda: 0.0, "arguments"),
    "one value a row": (lambda output, target: (output.argmax(1) == target).float(), "a tensor of shape"),
    "a string": (lambda output, target: "good", "returned str"),
    "nothing": (lambda output, target: None, "returned NoneType"),
    "a dict": (lambda output, target: {"a": 1.0}, "returned dict"),
    "an array": (lambda output, target: np.array([0.5]), "returned ndarray"),
    "a complex number": (lambda output, target: output.mean() * 1j, "a complex number"),
    "an exception": (lambda output, target: (output == target).float().mean(), "RuntimeError: The size of tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_metric_that_cannot_measure_is_refused_before_any_training(case: str) -> None:
    function, text = WRONG[case]
    with pytest.raises(lt.errors.TaskError, match=text) as caught:
        tuned(metrics={"mine": function})
    assert "metric 'mine'" in caught.value.where and getattr(caught.value, "study", None) is None


def test_a_metric_that_needs_the_whole_split_is_none_of_these() -> None:
    def of_classes(output: Tensor, target: Tensor) -> float:
        if len(target.unique()) < 2:
            raise ValueError("there is one class")
        return 1.0

    ordered = Y.argsort()
    study = tuned(data=lt.Splits((X, Y), (X[ordered], Y[ordered])), metrics={"mine": of_classes})
    assert study.best is not None and study.best.result.metrics["mine"] == 1.0
