"""The contract of adapters on our own ones, and on broken ones, which it must refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import luthier as lt
from luthier.adapt import Adapter, Hypergradient
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

    monkeypatch.setattr(train_stack, "measured_width", lambda program, adapter, state, data, members: members)
    arguments = (
        {} if any(word in test for word in ("traced", "every", "diverged", "refuses")) else {"tmp_path": tmp_path}
    )
    with pytest.raises((AssertionError, LuthierError, pytest.fail.Exception)):  # LuthierError: outside the space
        getattr(Contract(), test)(**arguments)
