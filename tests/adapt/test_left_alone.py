"""Hyperparameters that an adapter must leave alone, or must not: read elsewhere too, hidden by zeros, conditional."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import luthier as lt

ROWS = torch.Generator().manual_seed(1)
X = torch.randn(60, 3, generator=ROWS, dtype=torch.float64)
Y = X @ torch.randn(3, 1, generator=ROWS, dtype=torch.float64) + 0.3
DATA = lt.Splits(train=lt.Split(X[:40], Y[:40]), valid=lt.Split(X[40:], Y[40:]))
RATE, DECAY = lt.Float(1e-4, 10.0, log=True), lt.Float(1e-4, 1.0, log=True)
ADAPTERS = {
    "bilevel": lt.adapt.Bilevel(outer_lr=0.2),
    "hypernet": lt.adapt.Hypernet(outer_lr=0.2, gate=0.0, warmup=0.0),
}


def zeros(config: Any) -> nn.Module:
    layer = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def square(params: Any) -> Any:
    return sum(value.square().sum() for value in params.values())


def task(**changes: Any) -> lt.TorchTask:
    given: dict[str, Any] = {
        "model": lambda config: nn.Linear(3, 1, bias=False),
        "data": DATA,
        "loss": lambda output, target: (output - target).square().mean(),
        "optimizer": lt.optim.sgd,
        "batch_size": 40,
        "dtype": torch.float64,
    }
    return lt.TorchTask(**{**given, **changes})


def end(task: lt.TorchTask, adapter: Any, steps: int = 10, **start: Any) -> tuple[lt.Study, dict[str, Any]]:
    method = (lt.propose.Random(), adapter)
    study = lt.tune(task, method, trials=1, steps=steps, start=[start], progress=False)
    return study, dict(study.history.final(0))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_rate_that_the_penalty_reads_too_is_left_alone(name: str) -> None:
    both = task(
        space=lt.Space(lr=RATE, decay=DECAY),
        penalty=lambda params, hyper: (hyper["decay"] + hyper["lr"]) * square(params),
    )
    _, final = end(both, ADAPTERS[name], lr=0.05, decay=0.1)
    assert final["lr"] == 0.05 and final["decay"] != 0.1
    named = type(ADAPTERS[name])(names=("lr",))
    with pytest.raises(lt.errors.MethodError, match=r"lr is read by the optimizer too, and only .*unrolled"):
        end(both, named, lr=0.05, decay=0.1)
    alone = task(space=lt.Space(lr=RATE), penalty=lambda params, hyper: hyper["lr"] * square(params))
    with pytest.raises(lt.errors.MethodError, match="none of the hyperparameters can be moved by it: lr is read by"):
        end(alone, ADAPTERS[name], lr=0.05)
    scheduled = task(
        space=lt.Space(lr=RATE, decay=DECAY, gamma=lt.Float(0.1, 1.0)),
        schedule=lt.optim.StepDecay(gamma="gamma", every=2),
        penalty=lambda params, hyper: (hyper["decay"] + hyper["gamma"]) * square(params),
    )
    _, final = end(scheduled, ADAPTERS[name], lr=0.05, decay=0.1, gamma=0.5)
    assert final["gamma"] == 0.5 and final["decay"] != 0.1


def test_unrolled_has_the_whole_derivative_of_a_rate_that_the_penalty_reads_too() -> None:
    both = task(space=lt.Space(lr=RATE), model=zeros, penalty=lambda params, hyper: 20 * hyper["lr"] * square(params))
    study, _ = end(both, lt.adapt.Bilevel("unrolled", inner_steps=5), 5, lr=0.05)

    def valid(log: float) -> float:
        lr, w = 0.05 * math.exp(log), torch.zeros(1, 3, dtype=torch.float64)
        for _ in range(5):
            w = w - lr * (2 / 40 * (X[:40] @ w.T - Y[:40]).T @ X[:40] + 40 * lr * w)
        return (X[40:] @ w.T - Y[40:]).square().mean().item()

    truth = abs(valid(1e-5) - valid(-1e-5)) / 2e-5
    assert study.trials[0].metrics["hypergradient"] == pytest.approx(truth, rel=1e-7)


@pytest.mark.parametrize(
    "optimizer",
    [lt.optim.SGD(lr=0.1), lambda params, config: torch.optim.SGD(params, lr=0.1, weight_decay=config["weight_decay"])],
)
def test_zero_weights_hide_no_decay(optimizer: Any) -> None:
    held = task(space=lt.Space(weight_decay=DECAY), model=zeros, optimizer=optimizer)
    for adapter in ADAPTERS.values():
        _, final = end(held, adapter, weight_decay=0.1)
        assert final["weight_decay"] != 0.1


def test_zero_weights_hide_no_augmentation() -> None:
    def masked(inputs: Any, hyper: Any, noise: Any) -> Any:  # no derivative by the rate, and no effect at w = 0
        return inputs * (noise.uniform(0, (3,), dtype=inputs.dtype) > hyper["rate"][:, None]).to(inputs.dtype)[:, None]

    hidden = task(space=lt.Space(rate=lt.Float(0.05, 0.9)), model=zeros, augment=masked, optimizer=lt.optim.SGD(lr=0.1))
    _, final = end(hidden, lt.adapt.Hypernet(outer_lr=0.2, gate=0.0, warmup=0.0), 30, rate=0.5)
    assert "rate" in final
    decoupled = task(space=lt.Space(weight_decay=DECAY), model=zeros, optimizer=lt.optim.Adam(lr=0.1, decoupled=True))
    with pytest.raises(lt.errors.MethodError, match="weight_decay enters the optimizer and not the training loss"):
        end(decoupled, ADAPTERS["hypernet"], weight_decay=0.1)


CONDITIONAL = {
    **{name: (adapter, "decay") for name, adapter in ADAPTERS.items()},
    "unrolled": (lt.adapt.Bilevel("unrolled", names=("weight_decay",)), "weight_decay"),
    "hypergradient": (lt.adapt.Hypergradient(rule="adaptive"), "lr"),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_training_in_which_nothing_active_can_move_is_plain(name: str) -> None:
    adapter, moved = CONDITIONAL[name]
    domains = {"lr": RATE, "kind": lt.Choice(["a", "b"]), moved: lt.Float(0.01, 0.3, log=True, when={"kind": "a"})}
    if moved == "lr":
        domains = {"kind": domains["kind"], "lr": domains["lr"]}
    space = lt.Space(**domains)

    def penalty(params: Any, hyper: Any) -> Any:
        return hyper["decay"] * square(params) if "decay" in hyper else 0.0 * square(params)

    optimizer = lt.optim.SGD(lr=0.05) if moved == "lr" else lt.optim.sgd
    model = lambda config: nn.Linear(3, 1, bias=config["kind"] == "a")  # noqa: E731
    both = task(space=space, model=model, penalty=None if moved != "decay" else penalty, optimizer=optimizer)
    rate = {} if moved == "lr" else {"lr": 0.05}
    start = [{**rate, "kind": "b"}, {**rate, "kind": "a", moved: 0.1}]
    for order in (start, start[::-1]):  # whichever is built first
        study = lt.tune(both, (lt.propose.Random(), adapter), trials=2, steps=10, start=order, progress=False)
        plain = lt.tune(both, "random", trials=2, steps=10, start=order, progress=False)
        assert [trial.status for trial in study.trials] == ["ok", "ok"]
        b, a = order.index(start[0]), order.index(start[1])
        assert study.trials[b].metrics["loss"] == plain.trials[b].metrics["loss"], "bit for bit"
        assert study.history.final(b) == order[b]
        assert study.history.final(a)[moved] != order[a][moved]


def test_a_space_in_which_no_configuration_has_anything_to_move_is_refused() -> None:
    space = lt.Space(
        lr=RATE, kind=lt.Choice(["a", "b"]), x=lt.Float(0.0, 1.0, when={"kind": "a"})
    )  # x is read, and by no derivative
    unmoved = task(space=space, penalty=lambda params, hyper: 0.0 * square(params))
    for seed in range(3):
        for adapter in ADAPTERS.values():
            with pytest.raises(
                lt.errors.MethodError, match=r"none of the hyperparameters can be moved by it: .*x does not"
            ):
                lt.tune(unmoved, (lt.propose.Random(), adapter), trials=2, steps=10, seed=seed, progress=False)
