"""Population based training of real networks: what a copy takes with it, what fits, and the replay of a schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import luthier as lt
from luthier.jobs import Budget, History, Job
from luthier.propose.pbt import PBT
from luthier.seeds import Seeds
from luthier.space import Config
from luthier.store.checkpoints import Checkpoints
from luthier.task.batches import Batches
from luthier.train import Work
from luthier.train import stack as train_stack
from tests.networks import digits_task

EPOCH = 33  # steps of one epoch of the digits


@pytest.fixture
def one_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)


def trained(task: lt.TorchTask, method: PBT, budget: Budget, folder: Path) -> tuple[Work, History]:
    """A study by hand that keeps every state."""
    work = Work(task, Seeds(0), checkpoints=Checkpoints(folder), save=True)
    history, bound = History(task.space), method.bind(budget)
    while jobs := bound.propose(history, 64, work.seeds):
        for job in jobs:
            history.add(job)
        parents = {n: r for n, r in enumerate(history.results) if r is not None}
        for part in ([job] for job in jobs):
            for result in train_stack.run_stack(work, part, parents, lambda reports: set()):
                history.add(result)
    return work, history


def state_of(work: Work, history: History, number: int) -> dict[str, Any]:
    result = history.results[number]
    assert result is not None and result.checkpoint is not None and work.checkpoints is not None
    return work.checkpoints.load(result.checkpoint[0])[0]


def reference(task: lt.TorchTask, work: Work, job: Job, donor: dict[str, Any], keep_momentum: bool) -> torch.Tensor:
    """The first weight after ``job``, by torch.optim from the donor's weights."""
    program = task.program(job.config)
    model = program.module(job.config, donor).train()
    optimizer = torch.optim.SGD(model.parameters(), **job.config)
    if keep_momentum:
        for name, parameter in model.named_parameters():
            optimizer.state[parameter]["momentum_buffer"] = donor["opt"]["momentum"][name][0].clone()
    batches, begin = Batches(program, "train", work.seeds), int(donor["t"][0])
    for step in range(begin, begin + job.steps):
        inputs, targets = batches.at(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return next(iter(model.parameters())).detach()


def test_a_copy_takes_weights_optimizer_state_and_step_counter(tmp_path: Path, one_stack: None) -> None:
    space = lt.Space(lr=lt.Float(0.01, 0.1, log=True), momentum=lt.Float(0.85, 0.95), weight_decay=lt.Float(1e-6, 1e-3))
    task = digits_task(space=space)
    work, history = trained(task, PBT(rounds=2), Budget(trials=4, steps=40), tmp_path)
    copies = [job for job in history.jobs[4:] if job.parent != job.number - 4]
    assert copies
    for job in copies:
        assert job.parent is not None and job.config != history.jobs[job.parent].config
        donor, child = state_of(work, history, job.parent), state_of(work, history, job.number)
        assert int(donor["t"][0]) == 20 and int(child["t"][0]) == 40
        weight = next(iter(child["params"].values()))[0]
        whole, forgotten = (reference(task, work, job, donor, keep) for keep in (True, False))
        assert (weight - whole).abs().max() < 1e-5
        assert (weight - forgotten).abs().max() > 1e-2, "without the momentum of the donor it would be elsewhere"


def test_it_trains_digits_and_repeats_itself_bit_for_bit(tmp_path: Path, one_stack: None) -> None:
    task = digits_task()
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        store = tmp_path / folder / "digits.db"
        study = lt.tune(
            task, PBT(rounds=4), trials=6, steps=4 * EPOCH, seed=5, store=store, name="digits", progress=False
        )
        found.append(study)
        files = list(tmp_path.glob(f"{folder}/**/*.ckpt"))
        assert len(files) == 1, "only the best state stays"
    one, two = found
    assert len(one.history) == 24 and len(one.trials) == 24 - sum(
        job.parent is not None and job.parent == job.number - 6 for job in one.history.jobs
    )
    assert one.best is not None and two.best is not None and one.best.schedule == two.best.schedule
    assert one.history.jobs == two.history.jobs
    for a, b in zip(one.model().parameters(), two.model().parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.best.metrics["accuracy"] > 0.8


class Widths:
    """A task file's model, of a width that is static."""

    def __call__(self, config: Config) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, config["width"]), nn.Tanh(), nn.Linear(config["width"], 10))


def width_task() -> lt.TorchTask:
    space = lt.Space(lr=lt.Float(1e-2, 0.3, log=True), width=lt.Int(4, 64, log=True))
    return lt.TorchTask(space=space, model=Widths(), data=lt.data.digits(), loss=lt.losses.cross_entropy)


def test_a_width_is_kept_with_the_weights(one_stack: None) -> None:
    study = lt.tune(width_task(), PBT(rounds=4), trials=4, steps=40, seed=0, progress=False)
    assert (study.history.status == 1).all()
    widths = {job.number: job.config["width"] for job in study.history.jobs}
    assert all(widths[job.number] == widths[job.parent] for job in study.history.jobs if job.parent is not None)
    assert len(set(widths.values())) > 1


def test_a_width_that_is_to_move_is_refused_and_harms_nobody_else(one_stack: None) -> None:
    wrong = PBT(rounds=4, mutate=["lr", "width"], resample=0.0)
    study = lt.tune(width_task(), wrong, trials=4, steps=40, seed=0, progress=False)
    widths = {job.number: job.config["width"] for job in study.history.jobs}
    moved = [j.number for j in study.history.jobs if j.parent is not None and widths[j.number] != widths[j.parent]]
    assert moved
    for number, result in enumerate(study.history.results):
        assert result is not None
        assert (result.status == "failed") == (number in moved), result.error
        assert number not in moved or "params['1.weight']" in result.error


@pytest.mark.parametrize("network", ["mlp", "mlp with dropout and batch norm"])
def test_a_replayed_schedule_gives_the_same_weights(network: str, tmp_path: Path, one_stack: None) -> None:
    task = digits_task(network)
    study = lt.tune(task, PBT(rounds=4), trials=6, steps=4 * EPOCH, seed=5, progress=False)
    assert study.best is not None
    schedule = study.best.schedule
    assert len(schedule) > 1, "the schedule should have a step in it"
    file = schedule.save(tmp_path / "schedule.json")
    for given in (schedule, file, str(file), file.read_text(), json.loads(file.read_text())):
        again = lt.tune(task, schedule=given, progress=False)
        assert again.best is not None and again.name == "torchtask-replay"
        for a, b in zip(study.model().parameters(), again.model().parameters(), strict=True):
            assert torch.equal(a, b)
        assert again.best.metrics == study.best.metrics and again.best.schedule == schedule
    by_hand = lt.tune(task, schedule=list(schedule), steps=schedule.steps, seed=6, progress=False)
    last = len(by_hand.history) - 1
    assert by_hand.history.age[last] == schedule.steps
    assert not torch.equal(next(study.model().parameters()), next(by_hand.model(last).parameters()))


def test_a_schedule_of_an_adapter_is_replayed_from_report_to_report(one_stack: None) -> None:
    space = lt.Space(lr=lt.Float(1e-4, 1.0, log=True))

    def distances(evaluate_every: float) -> tuple[float, float]:
        """How far a replay, and a training at the first rate, end from what the adapter trained."""
        task = digits_task(space=space, evaluate_every=evaluate_every)
        study = lt.tune(task, lt.adapt.Hypergradient(0.02), steps=2 * EPOCH, seed=1, progress=False)
        assert study.best is not None
        schedule = study.best.schedule
        assert len(schedule) > 1 and schedule[-1][1] == study.best.final
        parts = [{"job": 0, "steps": schedule.steps, "config": study.best.config}]
        plain = lt.tune(task, schedule={"seed": 1, "parts": parts}, progress=False)
        again = lt.tune(task, schedule=schedule, progress=False)
        weights = [
            torch.cat([w.detach().flatten() for w in one.model(len(one.history) - 1).parameters()])
            for one in (study, again, plain)
        ]
        return float((weights[1] - weights[0]).norm()), float((weights[2] - weights[0]).norm())

    coarse, fine = distances(0.5), distances(1 / EPOCH)
    assert 0 < fine[0] < coarse[0] < coarse[1] and fine[0] < 0.1 * fine[1]
