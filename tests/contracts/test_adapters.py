"""The contract of adapters on our own ones, and on broken ones, which it must refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import luthier as lt
from luthier.adapt import Adapter, Bilevel, Hypergradient, Hypernet
from luthier.adapt.plain import Plain
from luthier.errors import LuthierError
from luthier.testing.adapters import AdapterContract, digits_task, network
from luthier.train import stack as train_stack


class TestPlain(AdapterContract):
    def make(self) -> Adapter:
        return Plain()


class TestHypergradient(AdapterContract):
    moves = frozenset({"lr"})

    def make(self) -> Adapter:
        return Hypergradient()

    def refused(self) -> Mapping[str, lt.TorchTask]:
        rest = {name: domain for name, domain in digits_task().space.domains.items() if name != "lr"}

        def with_rate(lr: object, **settings: object) -> lt.TorchTask:
            return digits_task(space=lt.Space({**rest, "lr": lr}), **settings)

        return {
            "no lr": digits_task(space=lt.Space(rest), optimizer=lt.optim.SGD(lr=0.1)),
            "a choice": with_rate(lt.Choice([0.1, 0.01])),
            "whole numbers": with_rate(lt.Int(1, 3)),
            "negative": with_rate(lt.Float(-0.1, 0.1)),
            "static": with_rate(lt.Float(0.01, 0.1), optimizer=lambda config: lt.optim.SGD(lr=config["lr"])),
            "read by the model": digits_task(model=lambda config: (config["lr"], network(config))[1]),
        }


class TestAdditiveHypergradientUnderAdam(AdapterContract):
    moves = frozenset({"lr"})

    def make(self) -> Adapter:
        return Hypergradient(hyper_lr=1e-5, rule="additive", bounds=(2e-3, 0.1))

    def task(self) -> lt.TorchTask:
        space = lt.Space({n: d for n, d in digits_task().space.domains.items() if n != "momentum"})
        return digits_task(space=space, optimizer=lt.optim.adamw, schedule=lt.optim.Cosine(6), own_batches=True)

    def refused(self) -> Mapping[str, lt.TorchTask]:
        return {"bounds outside the space": digits_task(space=lt.Space(lr=lt.Float(1e-2, 0.3), dropout=lt.Float(0, 1)))}


class TestBilevel(AdapterContract):
    moves = frozenset({"weight_decay", "dropout"})
    steps = 90

    def make(self) -> Adapter:
        return Bilevel(lt.response.implicit, inner_steps=3, settings={"iterations": 5})

    def refused(self) -> Mapping[str, lt.TorchTask]:
        rest = {name: digits_task().space.domains[name] for name in ("lr", "momentum")}
        cross_entropy = lt.losses.cross_entropy

        def smoothed(output: Any, target: Any, hyper: Any) -> Any:
            return cross_entropy(output, target, label_smoothing=hyper["smoothing"])

        with_rate = digits_task().space.domains["dropout"]
        return {
            "rates of the optimizer alone": digits_task(
                space=lt.Space(rest), model=lambda config: torch.nn.Sequential(torch.nn.Flatten(), plain_network())
            ),
            "a choice": digits_task(
                space=lt.Space({**rest, "width": lt.Choice([8, 16])}),
                model=lambda config: torch.nn.Sequential(torch.nn.Flatten(), plain_network(config["width"])),
            ),
            "a decay apart from the gradient": digits_task(
                space=lt.Space(lr=rest["lr"], weight_decay=lt.Float(1e-4, 1e-1, log=True)),
                model=lambda config: torch.nn.Sequential(torch.nn.Flatten(), plain_network()),
                optimizer=lt.optim.adamw,
            ),
            "in the validation loss too": digits_task(
                space=lt.Space({**rest, "dropout": with_rate, "smoothing": lt.Float(0.0, 0.5)}), loss=smoothed
            ),
        }


class TestUnrolledBilevel(AdapterContract):
    moves = frozenset({"lr", "momentum", "weight_decay", "dropout"})
    steps = 90

    def make(self) -> Adapter:
        return Bilevel(lt.response.unrolled, inner_steps=3, outer="rmsprop")

    def refused(self) -> Mapping[str, lt.TorchTask]:
        batch_size = digits_task(
            space=lt.Space(batch_size=lt.Int(16, 32)),
            optimizer=lt.optim.SGD(lr=0.1),
            model=lambda config: torch.nn.Sequential(torch.nn.Flatten(), plain_network()),
        )
        return {"whole numbers": batch_size}


class TestUnrolledBilevelUnderAdam(AdapterContract):
    moves = frozenset({"lr", "weight_decay", "dropout"})

    def make(self) -> Adapter:
        return Bilevel("unrolled", inner_steps=2, outer=lt.optim.SGD(lr=0.1, momentum=0.5))

    def task(self) -> lt.TorchTask:
        space = lt.Space({n: d for n, d in digits_task().space.domains.items() if n != "momentum"})
        return digits_task(space=space, optimizer=lt.optim.adamw, schedule=lt.optim.Cosine(6), own_batches=True)


class TestBilevelByTheIdentity(AdapterContract):
    moves = frozenset({"dropout", "lr"})
    steps = 81

    def make(self) -> Adapter:
        return Bilevel("identity", inner_steps=3, names="dropout", warmup=1.0, outer_lr=0.1, rate=True)

    def refused(self) -> Mapping[str, lt.TorchTask]:
        return {"not in the space": digits_task(space=lt.Space(lr=lt.Float(0.01, 0.1)), model=plain_model)}


def plain_network(width: int = 8) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))


def plain_model(config: Any) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), plain_network())


class TestHypernet(AdapterContract):
    moves = frozenset({"weight_decay", "dropout"})

    def make(self) -> Adapter:
        return Hypernet(warmup=0.5, outer_lr=0.05)

    def refused(self) -> Mapping[str, lt.TorchTask]:
        rest = {name: domain for name, domain in digits_task().space.domains.items() if name not in self.moves}

        def smoothed(output: Tensor, target: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
            return torch.nn.functional.cross_entropy(output, target) * (1 + hyper["decay"])

        def plain(config: lt.Config) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

        decay = {"decay": lt.Float(0.0, 1.0)}
        return {
            "optimizer's alone": digits_task(space=lt.Space(rest), model=plain),
            "in the validation loss": digits_task(space=lt.Space({**rest, **decay}), model=plain, loss=smoothed),
        }


class TestGlobalHypernetUnderAdam(AdapterContract):
    moves = frozenset({"dropout"})

    def make(self) -> Adapter:
        return Hypernet(("dropout",), mode="global", hidden=8, samples=4, warmup=0.5, inner_steps=4)

    def task(self) -> lt.TorchTask:
        space = lt.Space({n: d for n, d in digits_task().space.domains.items() if n != "momentum"})
        return digits_task(space=space, optimizer=lt.optim.adamw, schedule=lt.optim.Cosine(6), own_batches=True)

    def refused(self) -> Mapping[str, lt.TorchTask]:
        return {"static": digits_task(model=lambda config: (config["dropout"], network(config))[1])}


class TestSimplifiedGatedHypernet(AdapterContract):
    moves = frozenset({"weight_decay", "dropout", "lr"})

    def make(self) -> Adapter:
        return Hypernet(structure="gated", scale=0, centred=False, samples=1, warmup=0.0, outer_lr=0.1, rate=True)


def choosing(config: object) -> nn.Module:
    """Two depths, one of them with normalisation, and a width."""
    deep = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    layers = (nn.Flatten(), lt.nn.Dropout("dropout"), lt.nn.Choose("depth", {0: nn.Linear(64, 10), 1: deep}))
    return nn.Sequential(*layers)


class TestEnas(AdapterContract):
    """Of a network that its own decisions leave as it is: an option would stand for itself as its position."""

    moves = frozenset({"lr", "momentum", "weight_decay", "dropout"})

    def make(self) -> Adapter:
        return lt.adapt.Enas("unrolled", decide=sorted(self.moves), samples=2, steps=2, warmup=0.0)

    def task(self) -> lt.TorchTask:
        space = lt.Space({**digits_task().space.domains, "depth": lt.Choice([0, 1])})
        return digits_task(space=space, model=choosing).sharing()

    def refused(self) -> Mapping[str, lt.TorchTask]:
        rest = {name: domain for name, domain in digits_task().space.domains.items() if name != "momentum"}
        return {
            "a name is missing": digits_task(space=lt.Space(rest)),
            "a name is read by the model": digits_task(model=lambda config: (config["lr"], network(config))[1]),
        }


# --- adapters with one fault each, and the test that must find it


@dataclass(frozen=True)
class Broken:
    """Plain training, up to what a subclass does to its rates."""

    window: ClassVar[int] = 1
    needs_valid: ClassVar[bool] = False

    def init(self, task: Any, config: Any, key: int, parent: Any = None, overwrite: Any = None) -> Any:
        return task.init(config, key, parent, overwrite)

    def step(self, task: Any, state: Any, batches: Any, valid: Any) -> Any:
        losses, gradients, buffers = task.gradient(state, state["hyper"], batches[0])
        state = {**state, "hyper": {**state["hyper"], "lr": self.rates(state)}}
        return task.apply(state, state["hyper"], gradients, buffers), {"train_loss": losses}

    def rates(self, state: Any) -> Any:
        return state["hyper"]["lr"]

    def hyperparameters(self, state: Any) -> Any:
        return {"lr": state["hyper"]["lr"]}


class Mixing(Broken):
    def rates(self, state: Any) -> Any:
        return state["hyper"]["lr"] * 0.99 + 0.01 * state["hyper"]["lr"].mean()


@dataclass(frozen=True)
class Remembering(Broken):
    calls: list[int] = field(default_factory=lambda: [0], compare=False)

    def rates(self, state: Any) -> Any:
        self.calls[0] += 1
        return state["hyper"]["lr"] * (0.99 if self.calls[0] % 7 else 1.02)


class Careless(Broken):
    def rates(self, state: Any) -> Any:
        return state["hyper"]["lr"] * 0.9


class Silent(Broken):
    def rates(self, state: Any) -> Any:
        return state["hyper"]["lr"] * 0.999

    def hyperparameters(self, state: Any) -> Any:
        return {}


class Overwriting(Broken):
    def rates(self, state: Any) -> Any:
        return state["hyper"]["lr"].mul_(0.999)


class Random(Broken):
    def rates(self, state: Any) -> Any:
        return state["hyper"]["lr"] * (1 - 0.01 * torch.rand(len(state["t"])))


@pytest.mark.parametrize(
    ("adapter", "test"),
    [
        (Mixing(), "test_a_stack_equals_its_members_alone_bit_for_bit"),
        (Random(), "test_a_stack_equals_its_members_alone_bit_for_bit"),
        (Remembering(), "test_a_training_continued_equals_one_that_was_not_cut"),
        (Mixing(), "test_a_diverged_member_leaves_the_others_as_they_are"),
        (Careless(), "test_the_schedule_is_recorded"),
        (Silent(), "test_the_schedule_is_recorded"),
        (Silent(), "test_every_tensor_has_the_members_first"),
        (Overwriting(), "test_the_traced_step_equals_the_eager_one_bit_for_bit"),
        (Careless(), "test_it_refuses_what_it_cannot_tune"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Broken) else value,
)
def test_broken_adapters_are_found(adapter: Any, test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Contract(AdapterContract):
        moves = frozenset({"lr"})

        def make(self) -> Adapter:
            return adapter

        def refused(self) -> Mapping[str, lt.TorchTask]:
            return {"anything": digits_task()}

    monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)
    arguments = (
        {} if any(word in test for word in ("traced", "every", "diverged", "refuses")) else {"tmp_path": tmp_path}
    )
    with pytest.raises((AssertionError, LuthierError, pytest.fail.Exception)):  # LuthierError: outside the space
        getattr(Contract(), test)(**arguments)
