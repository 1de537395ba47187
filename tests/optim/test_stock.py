"""Any optimizer and scheduler of torch's kind in a stack, against separate plain loops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prodigyopt
import pytest
import schedulefree
import torch
from cut import resumed
from plain_loop import CONFIGS, SPACE, STEPS, Net, Trained, off, plain, task
from torch import nn
from torch.optim import lr_scheduler

import luthier as lt
from luthier.errors import TaskError
from luthier.stack import run

optim = torch.optim


class Lion(optim.Optimizer):
    """As a user writes it (Chen et al. 2023), in place and without for-each kernels."""

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["average"] = torch.zeros_like(p)
                update = state["average"].mul(group["betas"][0]).add(p.grad, alpha=1 - group["betas"][0]).sign_()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"])
                state["average"].mul_(group["betas"][1]).add_(p.grad, alpha=1 - group["betas"][1])


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


class Lookahead(optim.Optimizer):
    """As users write it (Zhang et al. 2019): it steps another optimizer, and counts in its own state."""

    def __init__(self, base: optim.Optimizer, every: int = 3, alpha: float = 0.5) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.every, self.alpha = base, every, alpha
        self.param_groups = base.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.base.step()
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[p]
            if not state:
                state["slow"], state["step"] = p.clone(), 0
            state["step"] += 1
            if state["step"] % self.every == 0:
                state["slow"].add_(p - state["slow"], alpha=self.alpha)
                p.copy_(state["slow"])


def looking_ahead(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
    return Lookahead(optim.AdamW(trained(model), lr=config["lr"], weight_decay=config["weight_decay"]))


def by_name(kind: Any, **fixed: Any) -> Callable[[nn.Module, dict[str, Any]], optim.Optimizer]:
    """The plain loop's optimizer, with the settings of its configuration."""
    return lambda model, config: kind(trained(model), **{**config, **fixed})


def grouped(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
    """Layer-wise rates, and no decay on biases."""
    body = [{"params": [p], "lr": config["lr"] / 3, "weight_decay": 0.0} for p in [model.body.bias]]
    return optim.AdamW(
        [{"params": [model.body.weight]}, {"params": model.head.parameters(), "lr": 2 * config["lr"]}, *body],
        lr=config["lr"],
        weight_decay=config["weight_decay"],
    )


def curved(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
    """Settings that are no multiples of a hyperparameter."""
    return optim.SGD(trained(model), lr=config["lr"] ** 0.5 / 10, momentum=1 - 10 * config["lr"])


def only_matrices(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
    return optim.Muon([p for p in trained(model) if p.ndim == 2], lr=config["lr"], weight_decay=config["weight_decay"])


P = functools.partial
OPTIMIZERS: dict[str, tuple[Any, Callable[[nn.Module, dict[str, Any]], optim.Optimizer]]] = {
    "SGD": (optim.SGD, by_name(optim.SGD)),
    "momentum": (P(optim.SGD, momentum=0.9, dampening=0.3), by_name(optim.SGD, momentum=0.9, dampening=0.3)),
    "nesterov": (P(optim.SGD, momentum=0.8, nesterov=True), by_name(optim.SGD, momentum=0.8, nesterov=True)),
    "Adam": (optim.Adam, by_name(optim.Adam)),
    "AMSGrad": (P(optim.Adam, amsgrad=True), by_name(optim.Adam, amsgrad=True)),
    "AdamW": (optim.AdamW, by_name(optim.AdamW)),
    "RMSprop": (P(optim.RMSprop, momentum=0.5, centered=True), by_name(optim.RMSprop, momentum=0.5, centered=True)),
    "Adagrad": (P(optim.Adagrad, initial_accumulator_value=0.1), by_name(optim.Adagrad, initial_accumulator_value=0.1)),
    "Adadelta": (optim.Adadelta, by_name(optim.Adadelta)),
    "Adamax": (optim.Adamax, by_name(optim.Adamax)),
    "NAdam": (optim.NAdam, by_name(optim.NAdam)),
    "RAdam": (optim.RAdam, by_name(optim.RAdam)),
    "ASGD": (optim.ASGD, by_name(optim.ASGD)),
    "Adafactor": (optim.Adafactor, by_name(optim.Adafactor)),
    "Rprop": (
        lambda params, config: optim.Rprop(params, lr=config["lr"], etas=(0.5, 1.1 + config["weight_decay"])),
        lambda model, config: optim.Rprop(trained(model), lr=config["lr"], etas=(0.5, 1.1 + config["weight_decay"])),
    ),
    "Muon": (only_matrices, only_matrices),
    "Lion": (Lion, by_name(Lion)),
    "groups": (grouped, grouped),
    "curved": (
        lambda params, config: optim.SGD(params, lr=config["lr"] ** 0.5 / 10, momentum=1 - 10 * config["lr"]),
        curved,
    ),
    "schedule-free": (
        P(schedulefree.AdamWScheduleFree, warmup_steps=10),
        by_name(schedulefree.AdamWScheduleFree, warmup_steps=10),
    ),
    "Prodigy": (P(prodigyopt.Prodigy, lr=1.0), by_name(prodigyopt.Prodigy, lr=1.0)),
    "Lookahead": (looking_ahead, looking_ahead),
}
TOLERANCE = {
    "Muon": 0.05,  # it rounds to bfloat16 within, so that the last digit of a gradient becomes the second one
    "NAdam": 1e-5,  # torch keeps the product of its momenta in float32, luthier in float64
}
FAST = ("momentum", "AdamW", "RMSprop", "NAdam", "Muon", "Lion", "groups", "curved", "schedule-free", "Lookahead")
KILLED = ("Adam", "groups", "schedule-free", "Lookahead")
RATE = lt.Float(1e-4, 0.05, log=True)
IN_TURN = {"ASGD", "Adafactor", "Rprop", "Muon", "schedule-free", "Prodigy", "Lookahead"}


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS])
def test_an_optimizer_of_torchs_kind_is_the_plain_loop(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty steps, traced where that can be, with a frozen layer, an unreached parameter, clipping, accumulation."""
    monkeypatch.setattr(run, "TRACED_STEPS", 0)
    given, make = OPTIMIZERS[name]
    left = {"Prodigy": "lr", "curved": "weight_decay"}.get(name, "")
    domains = {**SPACE.domains, "lr": lt.Float(1e-4, 0.05, log=True)}
    space = lt.Space({n: domain for n, domain in domains.items() if n != left})
    configs = [{n: c[n] for n in space} for c in CONFIGS]
    one = task(given, dtype, space=space, clip_norm=0.8, clip_value=0.5, accumulate=2)
    usual = 1e-9 if dtype == torch.float64 else 5e-5 if name == "Prodigy" else 1e-5  # its rate is a ratio of sums
    assert off(one, make, Trained(one, configs)) < TOLERANCE.get(name, usual)
    assert one.program(configs[0]).optimizer.in_turn == (name in IN_TURN), "one instance over the stack, or not"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", [n if n in KILLED else pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS])
def test_killed_and_resumed_it_ends_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    """By SIGKILL, bit for bit: with a scheduler, clipping, accumulation, and an average of the weights."""
    given, _ = OPTIMIZERS[name]
    left = {"Prodigy": "lr", "curved": "weight_decay"}.get(name, "")
    space = lt.Space({n: d for n, d in SPACE.domains.items() if n != left} | ({} if left == "lr" else {"lr": RATE}))
    scheduler = lr_scheduler.ExponentialLR
    settings = {"space": space, "clip_norm": 0.8, "accumulate": 2, "average": 0.9, "evaluate_every": 1 / 3}
    assert not resumed(lambda: task(given, torch.float32, scheduler=lambda o: scheduler(o, 0.97), **settings), tmp_path)


SCHEDULERS: dict[str, tuple[Any, str]] = {
    "StepLR": (lambda o: lr_scheduler.StepLR(o, 3, 0.5), "epoch"),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS), "step"),
    "warm restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, 2), "step"),
    "warm-up, then cosine": (
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, total_iters=8), lr_scheduler.CosineAnnealingLR(o, 42)], [8]
        ),
        "step",
    ),
    "OneCycle": (lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=STEPS), "step"),
    "lambda": (lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)), "step"),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), "epoch"),
}


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_torchs_is_the_plain_loop(name: str, dtype: torch.dtype) -> None:
    """Over torch's optimizer with two groups, and over ours."""
    scheduler, every = SCHEDULERS[name]
    for given, make in ((grouped, grouped), (lt.optim.SGD(momentum=0.9), by_name(optim.SGD, momentum=0.9))):
        one = task(given, dtype, scheduler=(scheduler, every))
        worst = off(one, make, Trained(one), scheduler=scheduler, every=every)
        assert worst < (1e-9 if dtype == torch.float64 else 1e-5)


def test_a_scheduler_may_write_what_one_instance_of_the_optimizer_cannot_take() -> None:
    """NAdam keeps a product of its first beta, which OneCycle moves: a number, so members take their steps in turn."""
    scheduler = SCHEDULERS["OneCycle"][0]
    one = task(P(optim.NAdam), torch.float64, scheduler=(scheduler, "step"))
    assert off(one, by_name(optim.NAdam), Trained(one), scheduler=scheduler, every="step") < 1e-5
    assert one.program(CONFIGS[0]).optimizer.in_turn


def test_a_scheduler_may_read_the_configuration_and_be_beside_our_schedules() -> None:
    def scheduler(optimizer: optim.Optimizer, config: dict[str, Any]) -> Any:
        return lr_scheduler.ExponentialLR(optimizer, 1 - config["weight_decay"])

    one = task(P(optim.Adam, weight_decay=0.0), torch.float64, scheduler=scheduler, schedule=lt.optim.StepDecay(0.5, 2))
    program = one.program(CONFIGS[0])
    assert {"lr", "weight_decay"} <= program.updater.reads and not program.unread, "the scheduler reads it"
    for config in CONFIGS:
        gamma = 1 - config["weight_decay"]

        def written(o: optim.Optimizer) -> Any:
            return lr_scheduler.LambdaLR(o, lambda t: gamma**t * 0.5 ** (t // 12))  # noqa: B023

        make = by_name(optim.Adam, weight_decay=0.0)
        assert off(one, make, Trained(one, [config]), scheduler=written) < 1e-9


class Closure(optim.Optimizer):
    def __init__(self, params: Any):
        super().__init__(params, {})

    def step(self, closure: Any) -> None: ...


class Remembering(optim.Optimizer):
    """Keeps something where no member has a place of its own, or draws."""

    def __init__(self, params: Any, kind: str):
        super().__init__(params, {"lr": 0.1})
        self.kind, self.count, self.sums = kind, 0, [torch.zeros(2)]
        if kind == "state":
            self.state["all"]["steps"] = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        if self.kind == "state":
            self.state["all"]["steps"] += 1
        self.count += self.kind == "number"
        self.sums[0].add_(float(self.kind == "tensor"))
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                rate = 0.1 if self.count < 1000 else 0.01
                p.sub_(p.grad + torch.randn_like(p) if self.kind == "drawing" else p.grad, alpha=rate)


class Parted(optim.Optimizer):
    """Holds an optimizer for each of its parameters."""

    def __init__(self, params: Any) -> None:
        params = list(params)
        super().__init__(params, {"lr": 0.1})
        self.parts = [optim.SGD([p], lr=0.1) for p in params]

    def step(self, closure: Any = None) -> None:
        for part in self.parts:
            part.step()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an instance": ({"optimizer": optim.SGD(Net().parameters(), lr=0.1)}, "a SGD over the parameters of one network"),
    "LBFGS": ({"optimizer": optim.LBFGS}, "LBFGS evaluates the loss several times"),
    "a closure of one's own": ({"optimizer": lambda params, config: Closure(params)}, "Closure evaluates the loss"),
    "a counter of its own": ({"optimizer": lambda p, c: Remembering(p, "number")}, "'optimizer.count'"),
    "several optimizers": (
        {"optimizer": lambda p, c: Parted(p)},
        "holds an optimizer with parameter groups of its own",
    ),
    "a sum of its own": ({"optimizer": lambda p, c: Remembering(p, "tensor")}, "in its attribute 'sums'"),
    "a state of no parameter": ({"optimizer": lambda p, c: Remembering(p, "state")}, "in its state, under 'all'"),
    "a step that draws": ({"optimizer": lambda p, c: Remembering(p, "drawing")}, "draws random numbers in its step"),
    "no optimizer": ({"optimizer": lambda params, config: 3}, "it gave int"),
    "a class that fails": ({"optimizer": P(optim.SGD, momentum=-1)}, "Invalid momentum"),
    "matrices alone": ({"optimizer": optim.Muon}, "Muon"),
    "another network's": ({"optimizer": lambda params, c: optim.SGD(nn.Linear(2, 2).parameters())}, "no parameter of"),
    "of another form": (
        {"optimizer": lambda params, c: (optim.SGD if c["lr"] > 0.05 else optim.Adam)(params, lr=c["lr"])},
        "other groups or settings",
    ),
    "a plateau": ({"scheduler": lambda o: lr_scheduler.ReduceLROnPlateau(o)}, "ReduceLROnPlateau follows a measured"),
    "no scheduler": ({"scheduler": lambda o: 3}, "it gave int"),
    "another unit": ({"scheduler": (lr_scheduler.ConstantLR, "week")}, "is no scheduler"),
    "a schedule that is none": ({"scheduler": 3}, "3 is no scheduler"),
    "a short schedule": ({"scheduler": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9)}, "OneCycleLR ends"),
    "two norms": ({"optimizer": lt.optim.SGD(clip_norm=1.0), "clip_norm": 1.0}, "another clip_norm"),
    "a negative norm": ({"clip_norm": -1.0}, "clip_norm must be a finite number > 0"),
    "no minibatches": ({"accumulate": 0}, "accumulate must be an integer ≥ 1"),
    "too many minibatches": ({"accumulate": 7}, "an epoch has 6 minibatches and a step takes 7"),
    "an average of all": ({"average": 1.0}, "average must be"),
    "another precision": ({"precision": "fp8"}, "precision must be 'bf16' or None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stepped_is_refused_by_name(case: str) -> None:
    settings, text = REFUSED[case]
    with pytest.raises(TaskError) as caught:
        Trained(task(**{"optimizer": optim.SGD, "dtype": torch.float64, **settings}), steps=12)
    assert text in str(caught.value)


def test_the_average_of_the_weights_is_torchs() -> None:
    one = task(optim.SGD, torch.float64, average=0.9)
    trained_now = Trained(one)
    for number, config in enumerate(CONFIGS):
        averages: list[Any] = []

        def make(model: nn.Module) -> optim.Optimizer:
            average = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
            averages.append(average)  # noqa: B023
            optimizer = optim.SGD(trained(model), **config)  # noqa: B023
            optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
            return optimizer

        plain(one, config, number, make)
        expected = averages[0].module
        for p, q in zip(trained_now.models[number].parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-9, atol=1e-12)
        inputs, targets = one.tensors("valid")
        loss = nn.functional.cross_entropy(expected(inputs), targets)
        assert trained_now.loss[number] == pytest.approx(loss.item(), rel=1e-9)
