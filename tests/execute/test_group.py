"""Group: one trial over several processes, here two on the CPU with gloo between them."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch import nn

import luthier as lt
from luthier.errors import MethodError, TaskError

SPACE = lt.Space(lr=lt.Float(0.05, 0.5))
ROWS, STEPS = 16, 5


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True)


def fit(lr: float, model: nn.Module, rows: slice, report: Any) -> float:
    inputs, targets = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for step in range(STEPS):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
        report(step, nn.functional.mse_loss(model(inputs), targets).item())
    return nn.functional.mse_loss(model(inputs), targets).item()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(3, 1, dtype=torch.float64)


def train(config: dict, trial: lt.Trial) -> dict[str, float]:
    from torch.nn.parallel import DistributedDataParallel

    rank = int(os.environ["RANK"])
    half = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    trial.note(rank=rank)
    wrapped = DistributedDataParallel(network())
    return {"loss": fit(config["lr"], wrapped, half, lambda step, loss: trial.report(step, loss=loss))}


@pytest.mark.slow
def test_two_processes_train_what_one_would_on_the_whole_batch() -> None:
    task = lt.execute.Group(train, processes=2)
    study = lt.tune(task, space=SPACE, trials=2, executor=lt.execute.Local(workers=2), progress=False)
    for job, result in zip(study.history.jobs, study.history.results, strict=True):
        curve: list[float] = []
        plain = fit(job.config["lr"], network(), slice(None), lambda step, loss, curve=curve: curve.append(loss))
        assert result is not None and result.status == "ok", result
        assert result.metrics["loss"] == pytest.approx(plain, rel=1e-10)
        assert result.steps == STEPS
        reports = [
            event for event in study.history.events if isinstance(event, lt.Report) and event.number == job.number
        ]
        assert [report.step for report in reports] == [1, 2, 3, 4, 5]
        assert [report.metrics["loss"] for report in reports] == pytest.approx(curve, rel=1e-10)


def call(function: Any, stop_at: int | None = None) -> tuple[Any, list[int]]:
    """What a group returns when the study asks it to stop at a step, and the steps that it reported."""
    steps: list[int] = []

    def send(step: int, metrics: dict[str, float]) -> bool:
        steps.append(step)
        return step == stop_at

    trial = lt.Trial(0, {"lr": 0.1}, key=3, steps=1, send=send, asked=lambda: bool(steps) and steps[-1] == stop_at)
    return lt.execute.Group(function, processes=2)({"lr": 0.1}, trial), steps


@pytest.mark.slow
def test_all_processes_stop_where_the_study_asks() -> None:
    steps: list[int] = []
    trial = lt.Trial(0, {"lr": 0.1}, key=3, steps=1, send=lambda step, _: steps.append(step) or step == 2)
    with pytest.raises(lt.Pruned):
        lt.execute.Group(train, processes=2)({"lr": 0.1}, trial)
    assert steps == [1, 2] and trial.stopped and trial.notes == {"rank": 0}


@pytest.mark.slow
def test_a_function_that_ends_by_itself_keeps_its_value() -> None:
    def polite(config: dict, trial: lt.Trial) -> float:
        for step in range(1, 100):
            if trial.should_stop:
                return float(step)
            trial.report(step, loss=1.0)
        return -1.0

    assert call(polite, stop_at=3) == (4.0, [1, 2, 3])


@pytest.mark.slow
def test_a_failure_or_a_death_of_one_process_ends_all() -> None:
    def fails(config: dict, trial: lt.Trial) -> float:
        if os.environ["RANK"] == "1":
            raise ValueError("only here")
        trial.report(1, loss=0.0)
        return 0.0

    def dies(config: dict, trial: lt.Trial) -> float:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        trial.report(1, loss=0.0)
        return 0.0

    with pytest.raises(TaskError, match="rank 1: ValueError: only here"):
        call(fails)
    with pytest.raises(TaskError, match="rank 1 was killed by SIGKILL"):
        call(dies)


def test_settings_out_of_range() -> None:
    for wrong in ({"processes": 0}, {"processes": 2, "backend": "carrier pigeon"}):
        with pytest.raises(MethodError, match="must be"):
            lt.execute.Group(train, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="callable"):
        lt.execute.Group(3, processes=2)  # type: ignore[arg-type]
