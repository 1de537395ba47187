"""The adapter Hypergradient: against the torch optimizer, finite differences, its bounds, and through tune()."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from networks import digits_task
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import luthier as lt
from luthier.adapt.hypergradient import Hypergradient, dot
from luthier.adapt.plain import Plain
from luthier.errors import MethodError
from luthier.optim.common import norm
from luthier.seeds import Seeds
from luthier.task.batches import Batches
from luthier.task.program import Program

STEPS = 50
RATE = lt.Float(1e-5, 1.0, log=True)
OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "sgd": (lt.optim.sgd, torch.optim.SGD),
    "momentum": (
        lt.optim.SGD(momentum=0.9, weight_decay=0.01),
        partial(torch.optim.SGD, momentum=0.9, weight_decay=0.01),
    ),
    "nesterov": (lt.optim.SGD(momentum=0.9, nesterov=True), partial(torch.optim.SGD, momentum=0.9, nesterov=True)),
    "adam": (lt.optim.Adam(weight_decay=0.01), partial(torch.optim.Adam, weight_decay=0.01)),
    "adamw": (lt.optim.adamw, partial(torch.optim.AdamW, weight_decay=0.01)),
    "clipped": (lt.optim.SGD(momentum=0.5, clip_norm=0.3), partial(torch.optim.SGD, momentum=0.5)),
}
BETAS = {"sgd": 1e-2, "momentum": 1e-4, "nesterov": 1e-4, "adam": 1e-6, "adamw": 1e-6, "clipped": 1e-2}


def member(task: lt.TorchTask, adapter: Any, *rates: float) -> tuple[Program, Any, Batches]:
    """The program, a stack of members with these rates, and the minibatches."""
    program = task.program({"lr": rates[0]})
    states = [adapter.init(program, {"lr": rate}, 7) for rate in rates]
    return program, pytree.tree_map(lambda *leaves: torch.cat(leaves), *states), Batches(program, "train", Seeds(0))


def double(name: str = "sgd", **settings: Any) -> lt.TorchTask:
    return digits_task(space=lt.Space(lr=RATE), optimizer=OPTIMIZERS[name][0], dtype=torch.float64, **settings)


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("rule", ["multiplicative", "additive", "adaptive"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_torch_optimizer(name: str, rule: Any, schedule: bool):
    beta, rate = BETAS[name] if rule == "additive" else 0.05, 1e-3 if "adam" in name else 0.02
    task = double(name, schedule=lt.optim.Cosine(3.0, 0.1) if schedule else ())
    adapter = Hypergradient(beta, rule=rule)
    program, state, batches = member(task, adapter, rate)
    model = program.module({"lr": rate}, state).train()
    inner = OPTIMIZERS[name][1](model.parameters(), lr=rate)
    optimizer = lt.optim.HypergradientDescent(inner, beta, rule=rule, bounds=(RATE.low, RATE.high))
    factor = lambda t: 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, t / program.epoch_steps / 3)))  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor if schedule else lambda t: 1.0)
    for t in range(STEPS):
        batch = batches.at(t)
        state, metrics = adapter.step(program, state, [batch], None)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        if name == "clipped":
            nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        scheduler.step()
        found = optimizer.param_groups[0]["tuned_lr"]
        assert state["hyper"]["lr"].item() == pytest.approx(found, rel=1e-11)
        assert metrics["hypergradient"].item() == pytest.approx(optimizer.hypergradients[0], rel=1e-8, abs=1e-12)
    for (_, expected), weights in zip(model.named_parameters(), state["params"].values(), strict=True):
        assert torch.allclose(weights[0], expected, rtol=0, atol=1e-11)
    assert abs(found / rate - 1) > 0.01, "the rate hardly moved: nothing was compared"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_metric_equals_finite_differences(name: str):
    """The loss on the next minibatch, as a function of the rate of one step, of two members at once."""
    adapter, decay = Hypergradient(0.0), 0.01 if name in ("momentum", "adam") else 0.0
    program, state, batches = member(double(name, schedule=lt.optim.Cosine(3.0)), adapter, 0.02, 0.005)
    for t in range(5):
        state, _ = adapter.step(program, state, [batches.at(t)], None)

    def lookahead(factor: float) -> Tensor:
        rates = state["hyper"]["lr"] * factor
        moved, _ = Plain().step(program, {**state, "hyper": {"lr": rates}}, [batches.at(5)], None)
        _, after = Plain().step(program, moved, [batches.at(6)], None)
        squares = sum(p.square().flatten(1).sum(1) for p in moved["params"].values())
        return after["train_loss"] + decay / 2 * squares

    e = 1e-5
    expected = (lookahead(1 + e) - lookahead(1 - e)) / (2 * e * state["hyper"]["lr"])
    for t in (5, 6):
        state, metrics = adapter.step(program, state, [batches.at(t)], None)
    if name == "clipped":  # both factors are clipped: the derivative, scaled
        assert torch.equal(metrics["hypergradient"].sign(), expected.sign())
        assert (metrics["hypergradient"].abs() < expected.abs()).all()
    else:
        assert torch.allclose(metrics["hypergradient"], expected, rtol=1e-6, atol=1e-9)
    assert (expected.abs() > 1e-4).all()


def test_without_a_hyper_rate_it_is_plain_training():
    for name in ("momentum", "adamw"):
        states = []
        for adapter in (Hypergradient(0.0), Plain()):
            program, state, batches = member(double(name), adapter, 0.01, 0.002)
            for t in range(20):
                state, _ = adapter.step(program, state, [batches.at(t)], None)
            states.append(state)
        for name, param in states[0]["params"].items():
            assert torch.allclose(param, states[1]["params"][name], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rule", "hyper_lr"), [("multiplicative", 0.99), ("additive", 1e4), ("adaptive", 50.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_stay_in_the_domain(dtype: torch.dtype, rule: Any, hyper_lr: float):
    domain = lt.Float(0.3, 0.7)  # neither bound is a float32
    task = digits_task(space=lt.Space(lr=domain), dtype=dtype)
    adapter = Hypergradient(hyper_lr, rule=rule)
    program, state, batches = member(task, adapter, 0.3, 0.5, 0.7)
    seen = []
    for t in range(40):
        state, _ = adapter.step(program, state, [batches.at(t)], None)
        seen += adapter.hyperparameters(state)["lr"].tolist()
    for rate in seen:
        task.space.check({"lr": rate})
    assert min(seen) < 0.3001 and max(seen) > 0.6999, "the bounds were not reached"


@pytest.mark.parametrize("rule", ["multiplicative", "additive", "adaptive"])
def test_zero_gradients_and_a_rate_of_zero_give_no_nan(rule: Any):
    silent = digits_task(space=lt.Space(lr=RATE), optimizer=lt.optim.Adam())
    object.__setattr__(silent, "loss", lambda output, target: (output * 0).sum())
    adapter = Hypergradient(0.1, rule=rule)
    program, state, batches = member(silent, adapter, 0.01, 0.02)
    for t in range(3):
        state, metrics = adapter.step(program, state, [batches.at(t)], None)
    assert state["hyper"]["lr"].tolist() == pytest.approx([0.01, 0.02]) and metrics["hypergradient"].tolist() == [0, 0]

    program, state, batches = member(digits_task(space=lt.Space(lr=lt.Float(0.0, 1.0))), adapter, 0.0, 0.5)
    for t in range(5):
        state, metrics = adapter.step(program, state, [batches.at(t)], None)
    assert all(leaf.isfinite().all() for leaf in pytree.tree_leaves((state, metrics)))
    assert (state["hyper"]["lr"][0] > 0) == (rule == "additive"), "a factor cannot lead away from zero"


def test_a_rate_too_small_to_move_float32_weights_grows_as_in_float64():
    rates = []
    for dtype in (torch.float32, torch.float64):
        task = digits_task(space=lt.Space(lr=lt.Float(1e-9, 1.0, log=True)), dtype=dtype)
        adapter = Hypergradient()
        program, state, batches = member(task, adapter, 1e-9)
        for t in range(30):
            state, _ = adapter.step(program, state, [batches.at(t)], None)
        rates.append(state["hyper"]["lr"].item())
    assert rates[0] == pytest.approx(rates[1], rel=1e-3) and rates[0] > 1.5e-9


def test_inner_products_do_not_depend_on_the_number_of_members():
    generator = torch.Generator().manual_seed(0)
    for shapes in ([(3,), ()], [(784, 10), (10,)], [(16, 3, 3, 3), (16,), (16,), (7, 31)], [(1,)], [(1000, 33)]):
        left, right = (
            {str(i): torch.randn(5, *shape, generator=generator) for i, shape in enumerate(shapes)} for _ in range(2)
        )
        for k in range(5):
            one, other = ({n: x[k : k + 1].clone() for n, x in tree.items()} for tree in (left, right))
            assert torch.equal(dot(left, right)[k : k + 1], dot(one, other))
            assert torch.equal(norm(left)[k : k + 1], norm(one))


def test_it_continues_what_a_plain_training_began():
    program, state, batches = member(double("momentum"), Plain(), 0.02)
    for t in range(5):
        state, _ = Plain().step(program, state, [batches.at(t)], None)
    adapter = Hypergradient()
    after = adapter.init(program, {"lr": 0.02}, 9, parent=state, overwrite={})
    assert torch.equal(after["params"]["1.weight"], state["params"]["1.weight"]) and after["t"].item() == 5
    for t in range(5, 9):
        after, _ = adapter.step(program, after, [batches.at(t)], None)
    assert after["hyper"]["lr"].item() != 0.02


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_adaptive_rule_is_each_members_own_and_free_of_the_losss_scale(scale: float):
    """Members at rates decades apart train as they would alone; ten times the loss divides a rate by ten."""
    wide = lt.Space(lr=lt.Float(1e-9, 1e3, log=True))
    adapter, rates = Hypergradient(rule="adaptive"), (1e-6, 1e-3, 0.3)

    def trained(factor: float, *rates: float) -> Tensor:
        task = digits_task(space=wide, dtype=torch.float64)
        loss = task.loss
        object.__setattr__(task, "loss", lambda output, target: factor * loss(output, target))
        program, state, batches = member(task, adapter, *rates)
        seen = []
        for t in range(40):
            state, _ = adapter.step(program, state, [batches.at(t)], None)
            seen.append(state["hyper"]["lr"])
        return torch.stack(seen, 1)

    together = trained(1.0, *rates)
    for found, rate in zip(together, rates, strict=True):
        assert torch.allclose(trained(1.0, rate)[0], found, rtol=1e-9)
    assert torch.allclose(scale * trained(scale, *(rate / scale for rate in rates)), together, rtol=1e-6)
    assert (together[:, -1].log() - together[:, -1].log().mean()).abs().max() < 2.5, "they did not come together"


def test_a_training_of_an_earlier_adaptive_rule_is_refused():
    adapter = Hypergradient(rule="adaptive")
    program, state, _ = member(double(), adapter, 0.02)
    assert adapter.init(program, {"lr": 0.02}, 9, parent=state)["own"]["rate_memory"] == state["own"]["rate_memory"]
    earlier = {**state, "own": {**state["own"], "rate_memory": {"scale": 0, "weight": 0, "squares": 0}}}
    with pytest.raises(MethodError, match="squares"):
        adapter.init(program, {"lr": 0.02}, 9, parent=earlier)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Hypergradient(rule="additive"), "hyper_lr"),
        (lambda: Hypergradient(2.0), "2.0"),
        (lambda: Hypergradient(rule="geometric"), "geometric"),  # type: ignore[arg-type]
        (lambda: Hypergradient(bounds=(0.5, 0.1)), "0.5, 0.1"),
        (lambda: Hypergradient(bounds=0.1), "0.1"),  # type: ignore[arg-type]
        (lambda: Hypergradient(hyper_lr="fast"), "fast"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(make: Any, words: str):
    with pytest.raises(MethodError, match=words):
        make()


MOVERS = [Hypergradient(), lt.adapt.Bilevel("implicit", rate=True), lt.adapt.Hypernet(rate=True)]
STEPPED = lt.Float(0.0, 0.5, step=0.1)


def squared(params: Any, hyper: Any) -> Tensor:
    return hyper["lr"] * sum(param.square().sum() for param in params.values())


@pytest.mark.parametrize("adapter", MOVERS, ids=lambda adapter: type(adapter).__name__)
@pytest.mark.parametrize(
    ("domain", "settings", "words"),
    [
        (RATE, {"penalty": squared}, "lr enters the training loss"),
        (lt.Float(0.0, 1.0, step=0.1), {}, r"lr=Float\(0.0, 1.0, step=0.1\) has no derivative"),
    ],
    ids=["read by the penalty", "in steps"],
)
def test_a_rate_that_is_no_length_of_steps_is_refused(adapter: Any, domain: lt.Float, settings: Any, words: str):
    task = digits_task("mlp with dropout and batch norm", space=lt.Space(lr=domain), **settings)
    with pytest.raises(MethodError, match=words):
        adapter.init(task.program({"lr": 0.1, "dropout": 0.1}), {"lr": 0.1, "dropout": 0.1}, 7)


@pytest.mark.parametrize("adapter", [lt.adapt.Bilevel("implicit"), lt.adapt.Hypernet()], ids=["bilevel", "hypernet"])
def test_values_in_steps_are_left_on_them(adapter: Any):
    space = lt.Space(dropout=STEPPED, weight_decay=lt.Float(1e-6, 1e-1, log=True))
    task = digits_task("mlp with dropout and batch norm", space=space, optimizer=lt.optim.SGD(lr=0.1))
    config = {"dropout": 0.2, "weight_decay": 1e-3}
    state = adapter.init(task.program(config), config, 7)
    assert set(adapter.hyperparameters(state)) == {"weight_decay"}
    alone = digits_task(
        "mlp with dropout and batch norm", space=lt.Space(dropout=STEPPED), optimizer=lt.optim.SGD(lr=0.1)
    )
    with pytest.raises(MethodError, match=r"dropout has its values in steps, Float\(0.0, 0.5, step=0.1\)"):
        adapter.init(alone.program({"dropout": 0.2}), {"dropout": 0.2}, 7)


# --- through tune()


def rates_of(study: lt.Study) -> list[float]:
    assert study.best is not None
    return [float(config["lr"]) for _, config in study.best.schedule]  # type: ignore[arg-type]


def test_tune_records_the_rate_over_time(tmp_path: Any):
    task = digits_task(space=lt.Space(lr=lt.Float(1e-5, 1.0, log=True), momentum=lt.Float(0.8, 0.9)))
    arguments: dict[str, Any] = {"method": "hypergradient", "epochs": 3, "store": tmp_path / "a.db", "progress": False}
    study = lt.tune(task, **arguments)
    assert study.best is not None and len(study.trials) == 1
    rates = rates_of(study)
    assert len(rates) == 4 and len(set(rates)) == 4 and rates[-1] == study.best.final["lr"]
    assert "hypergradient" in study.best.metrics and math.isfinite(study.best.metrics["hypergradient"])
    again = lt.tune(task, **arguments)
    assert rates_of(again) == rates


def test_tune_composes_it_with_a_proposer_and_a_poor_first_rate_is_mended():
    space = lt.Space(lr=lt.Float(1e-5, 1.0, log=True))
    losses = []
    for method in ((lt.propose.Grid(points=3), lt.adapt.Hypergradient(0.1)), lt.propose.Grid(points=3)):
        study = lt.tune(digits_task(space=space), method=method, trials=3, epochs=8, seed=1, progress=False)
        losses.append([trial.metrics["loss"] for trial in study.trials])
    assert losses[0][0] < 1 < 2 < losses[1][0], "from a rate of 1e-5"
    assert max(losses[0]) < 0.6


def test_the_package_of_adapters_does_without_torch_until_one_is_used():
    code = (
        "import sys, luthier.adapt; assert 'torch' not in sys.modules; assert 'Hypergradient' in dir(luthier.adapt); "
        "luthier.adapt.Hypergradient; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
