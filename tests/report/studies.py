"""Histories for the tests of the report: small real trainings on scikit-learn's digits, and large synthetic ones."""

from __future__ import annotations

import math
import time
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits

from luthier.jobs import History, Job, Report, Result
from luthier.propose import GFlowNet
from luthier.report import StudyInfo, render
from luthier.seeds import Seeds
from luthier.space import Choice, Float, Int, Space
from luthier.study.sampling import samples
from luthier.study.settings import describe

HOSTILE = "</script><b onmouseover=alert(1)>&amp;%{x}'\"λ😀"


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and validation images (with a constant input) and one-hot labels."""
    images, labels = load_digits(return_X_y=True)
    inputs = np.c_[images / 16, np.ones(len(images))]
    targets = np.eye(10)[labels]
    return inputs[:600], targets[:600], inputs[600:900], targets[600:900]


def softmax_regression(
    weights: np.ndarray, lr: float, decay: float | np.ndarray, steps: int, rng: np.random.Generator, every: int
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Train by minibatch gradient descent; the metrics after each ``every`` steps."""
    inputs, targets, valid_inputs, valid_targets = digits()

    def probabilities(x: np.ndarray) -> np.ndarray:
        scores = x @ weights
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    measured = []
    for step in range(1, steps + 1):
        batch = rng.integers(0, len(inputs), 32)
        error = probabilities(inputs[batch]) - targets[batch]
        weights = weights - lr * (inputs[batch].T @ error / 32 + decay * weights)
        if step % every == 0:
            given = probabilities(valid_inputs)
            loss = -np.log(np.maximum((given * valid_targets).sum(axis=1), 1e-12)).mean()
            accuracy = (given.argmax(axis=1) == valid_targets.argmax(axis=1)).mean()
            measured.append({"loss": float(loss), "accuracy": float(accuracy)})
    return weights, measured


def random_search(trials: int = 12, objective: str = "accuracy") -> History:
    """Finished, pruned, diverged, failed and one running trial; conditional, ordered and log-scale hyperparameters."""
    space = Space(
        lr=Float(1e-3, 10.0, log=True),
        regularised=Choice([True, False]),
        decay=Float(1e-6, 0.1, log=True, when={"regularised": True}),
        steps=Choice([20, 40, 60], ordered=True),
        unused=Int(1, 5),
    )
    history = History(space, {objective: "max" if objective == "accuracy" else "min"})
    seeds = Seeds(0)
    for n in range(trials):
        config = space.sample(seeds.rng(n, "propose"))
        history.add(Job(n, config, steps=config["steps"]))
        if n == 3:
            error = f"Traceback (most recent call last):\n  File x\nMemoryError: {HOSTILE}"
            history.add(Result(n, "failed", error=error, seconds=0.25))
            continue
        if n == 5:
            history.add(Report(n, 10, {"accuracy": math.nan, "loss": math.inf}))
            history.add(Result(n, "diverged", {"accuracy": math.nan, "loss": math.inf}, 10, error="loss is inf"))
            continue
        steps = 20 if n == 7 else config["steps"]
        began = time.perf_counter()
        _, measured = softmax_regression(
            np.zeros((65, 10)), config["lr"], config.get("decay", 0.0), steps, seeds.rng(n, "train"), 10
        )
        for i, metrics in enumerate(measured, 1):
            history.add(Report(n, 10 * i, metrics))
        status = "pruned" if n == 7 else "ok"
        history.add(Result(n, status, measured[-1], steps, seconds=time.perf_counter() - began))
    history.add(Job(trials, space.sample(seeds.rng(trials, "propose")), steps=60))
    return history


def population(size: int = 4, rounds: int = 3, slots: bool = True) -> History:
    """Population based training: each round the worst copies the best and moves on from there."""
    space = Space(lr=Float(1e-3, 1.0, log=True), decay=Float(0.0, 0.1))
    history, seeds = History(space, {"loss": "min"}), Seeds(1)
    weights: dict[int, np.ndarray] = {}
    current: list[int] = []
    for turn in range(rounds):
        ranked = sorted(current, key=lambda n: history.values[n, 0])
        members = []
        for slot in range(size):
            n = len(history)
            if turn == 0:
                parent, config = None, space.sample(seeds.rng(n, "propose"))
            else:
                parent = ranked[0] if current[slot] == ranked[-1] else current[slot]
                config = history.final(parent)
                config = (
                    config if parent == current[slot] else space.perturb(config, seeds.rng(n, "propose"), scale=0.2)
                )
            history.add(Job(n, config, 20, parent, {"slot": slot} if slots else {}))
            start = np.zeros((65, 10)) if parent is None else weights[parent]
            weights[n], measured = softmax_regression(
                start, config["lr"], config["decay"], 20, seeds.rng(n, "train"), 10
            )
            for i, metrics in enumerate(measured, 1):
                history.add(Report(n, 20 * turn + 10 * i, metrics))
            history.add(Result(n, "ok", measured[-1], 20))
            members.append(n)
        current = members
    return history


def moving(width: int = 64, trials: int = 2) -> History:
    """An adapter moved a scalar, and a vector as wide as the inputs, during training."""
    space = Space(lr=Float(1e-3, 1.0, log=True), decay=Float(1e-5, 1.0, log=True, shape=(width,)))
    history, seeds = History(space, {"loss": "min"}), Seeds(2)
    for n in range(trials):
        config = space.sample(seeds.rng(n, "propose"))
        history.add(Job(n, config, 100))
        lr, decay = config["lr"], np.array(config["decay"])
        weights = np.zeros((65, 10))
        for i in range(1, 6):
            padded = np.zeros((65, 1))
            padded[: min(width, 64), 0] = decay[: min(width, 64)]
            weights, measured = softmax_regression(weights, lr, padded, 20, seeds.rng(10 * n + i, "train"), 20)
            lr, decay = lr * 0.9, np.maximum(decay * 0.7, 1e-5)
            history.add(Report(n, 20 * i, measured[-1], {"lr": lr, "decay": decay.tolist()}))
        history.add(Result(n, "ok", measured[-1], 100, {"lr": lr, "decay": decay.tolist()}))
    return history


def two_objectives(trials: int = 20) -> History:
    """Accuracy (more is better) against the number of weights that are not near zero (fewer is better)."""
    space = Space(lr=Float(1e-2, 1.0, log=True), decay=Float(1e-4, 0.3, log=True))
    history, seeds = History(space, {"accuracy": "max", "weights": "min"}), Seeds(3)
    for n in range(trials):
        config = space.sample(seeds.rng(n, "propose"))
        history.add(Job(n, config, 20))
        weights, measured = softmax_regression(
            np.zeros((65, 10)), config["lr"], config["decay"], 20, seeds.rng(n, "train"), 20
        )
        kept = int((np.abs(weights) > 0.02).sum())
        history.add(Result(n, "ok", {**measured[-1], "weights": kept}, 20))
    return history


def all_failed(trials: int = 3) -> History:
    """Nothing but failures, with one message."""
    history = History(Space(lr=Float(1e-3, 1.0, log=True)), {"loss": "min"})
    for n in range(trials):
        history.add(Job(n, {"lr": 0.1}))
        history.add(Result(n, "failed", error="ValueError: no data"))
    return history


def large(trials: int = 10_000) -> History:
    """Many trials with curves of five reports; a closed form, since the size is what matters."""
    space = Space(
        lr=Float(1e-5, 1.0, log=True),
        width=Int(8, 1024, log=True),
        momentum=Float(0.0, 0.99),
        kind=Choice(["sgd", "adam", "lion"]),
        beta=Float(0.8, 0.999, when={"kind": ["adam", "lion"]}),
    )
    history, rng = History(space, {"loss": "min"}), Seeds(4).rng(0, "large")
    for n, config in enumerate(space.sample(rng, trials)):
        history.add(Job(n, config, 500))
        if n % 17 == 0:
            history.add(Result(n, "failed", error=f"RuntimeError: CUDA out of memory in layer {n % 5}"))
            continue
        floor = (math.log10(config["lr"]) + 2) ** 2 + 0.1 * config["momentum"]
        for i in range(1, 6):
            history.add(Report(n, 100 * i, {"loss": floor + 1 / i}))
        history.add(Result(n, "ok", {"loss": floor + 0.2}, 500, seconds=1.0))
    return history


def hostile() -> History:
    """Options, metrics and messages that try to break out of the page."""
    space = Space({"λ": Float(0.0, 1.0), "option": Choice([HOSTILE, "</td><script>alert(2)</script>", None])})
    history = History(space, {f"<i>{HOSTILE}": "min"})
    for n in range(12):
        options = space.domains["option"].options  # pyright: ignore[reportAttributeAccessIssue]
        history.add(Job(n, {"λ": n / 12, "option": options[n % 3]}))
        if n == 4:
            history.add(Result(n, "failed", error=HOSTILE))
            continue
        history.add(Report(n, 1, {f"<i>{HOSTILE}": 2.0 * n, "<u>": 1.0}, {"<moved>": 1.0 + n}))
        history.add(Report(n, 2, {f"<i>{HOSTILE}": 1.0 * n, "<u>": 2.0}, {"<moved>": 2.0 + n}))
        history.add(Result(n, "ok", {f"<i>{HOSTILE}": 1.0 * n, "<u>": 2.0}, 2))
    return history


def sampled(sampler: Literal["learnt"] | None = "learnt") -> tuple[History, StudyInfo]:
    """A study by method gflownet with a result that failed, and what its sampler would draw."""
    space = Space(
        {"lr": Float(1e-3, 10.0, log=True), "kind": Choice(["a", HOSTILE]), "x": Float(0, 1, when={"kind": "a"})}
    )
    history, seeds, method = History(space, {"loss": "min"}), Seeds(5), GFlowNet(sampler=sampler)
    for n, config in enumerate(space.sample(seeds.rng(0, "sampled"), 30)):
        history.add(Job(n, config))
        value = abs(math.log10(config["lr"])) + config.get("x", 0.5)
        history.add(Result(n, "failed", error=HOSTILE) if n == 4 else Result(n, "ok", {"loss": value}))
    settings = {"method": {"proposer": describe(method), "adapter": None}, "seed": 0}
    return history, StudyInfo("sampled", samples=samples(history, settings))


def page_of(made: History | tuple[History, StudyInfo]) -> str:
    """The page of a history, or of one with what else is known of its study."""
    return render(*made) if isinstance(made, tuple) else render(made, StudyInfo("study"))
