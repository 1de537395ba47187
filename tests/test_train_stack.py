"""The training loop: the same numbers alone and in a stack, eager and traced, at once and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS, digits_task, equal
from torch.utils import _pytree as pytree

import luthier as lt
from luthier.adapt.plain import Plain
from luthier.jobs import Job, Report, Result
from luthier.seeds import Seeds
from luthier.stack.trace import Eager, Traced, trace
from luthier.store.checkpoints import Checkpoints
from luthier.task.batches import Batches
from luthier.testing.adapters import train
from luthier.train import Work, restore
from luthier.train import stack as train_stack

EPOCH = 33  # steps of one epoch: 1,077 rows of the digits in batches of 32


@pytest.fixture(autouse=True)
def one_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train all jobs of a group as one stack, whatever a measurement on a busy machine would say."""
    monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)


def go_on(reports: list[Report]) -> set[int]:
    return set()


def configs(task: lt.TorchTask, count: int, seed: int = 0) -> list[dict[str, Any]]:
    return task.space.sample(np.random.default_rng(seed), count)


def work_on(task: lt.TorchTask, folder: Path, adapter: Any = None) -> Work:
    return Work(task, Seeds(0), adapter=adapter, checkpoints=Checkpoints(folder), save=True)


def state_of(work: Work, result: Result) -> Any:
    assert result.checkpoint is not None and work.checkpoints is not None
    file, row = result.checkpoint
    return pytree.tree_map(lambda tensor: tensor[row : row + 1], work.checkpoints.load(file)[0])


def outcome(result: Result) -> Any:
    return result.status, dict(result.metrics), result.steps, result.final


@pytest.mark.parametrize("own_batches", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_stack_equals_its_members_alone_bit_for_bit(network: str, own_batches: bool, tmp_path: Path):
    task = digits_task(network, own_batches=own_batches)
    jobs = [Job(n, config, steps=60) for n, config in enumerate(configs(task, 5))]
    work = work_on(task, tmp_path)
    together = train(work, jobs)
    for job in jobs:
        alone = train(work, [job])[job.number]
        assert outcome(alone) == outcome(together[job.number])
        assert equal(state_of(work, alone), state_of(work, together[job.number]))


@pytest.mark.parametrize("optimizer", [lt.optim.sgd, lt.optim.adamw])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_traced_step_equals_the_eager_one_bit_for_bit(network: str, optimizer: Any):
    task = digits_task(network, optimizer=optimizer, space=lt.Space(lr=lt.Float(1e-3, 0.1)))
    program, plain = task.program(configs(task, 1)[0]), Plain()
    states = [plain.init(program, config, key) for key, config in enumerate(configs(task, 4))]
    state = pytree.tree_map(lambda *tensors: torch.cat(tensors), *states)

    def step(state: Any, batches: Any, valid: Any) -> Any:
        return plain.step(program, state, batches, valid)

    batches = Batches(program, "train", Seeds(0))
    before = pytree.tree_map(torch.clone, state)
    graph = trace(step, state, [batches.at(0)], None)
    assert graph is not None
    eager, traced = Eager(step, state), Traced(graph, state)
    for t in range(50):
        assert equal(eager([batches.at(t)], None), traced([batches.at(t)], None))
    assert equal(eager.state, traced.state)
    assert equal(state, before), "the caller's state was written over"


def test_a_trace_that_would_be_wrong_is_refused_with_a_warning():
    def step(state: Any, batches: Any, valid: Any) -> Any:
        factor = 1.0 if float(state["w"].sum()) > 3.5 else 2.0  # a branch on values: a trace keeps one side of it
        return {"w": state["w"] + factor}, {"train_loss": state["w"]}

    with pytest.warns(UserWarning, match="runs eagerly"):
        assert trace(step, {"w": torch.ones(3)}, [(torch.zeros(1), torch.zeros(1))], None) is None


def test_a_trace_that_differs_without_leaving_torch_is_refused_too():
    calls: list[int] = []

    def counting(state: Any, batches: Any, valid: Any) -> Any:
        calls.append(0)
        return {"w": state["w"] * len(calls)}, {"train_loss": state["w"]}

    def averaging(state: Any, batches: Any, valid: Any) -> Any:
        return {"w": state["w"] + batches[0].sum() / len(batches[0])}, {"train_loss": state["w"]}

    state, whole, rest = {"w": torch.ones(3)}, [torch.ones(5)], [torch.ones(3)]  # an epoch's last minibatch is smaller
    for step, others in ((counting, [(whole, None)]), (averaging, [(rest, None)])):
        with pytest.warns(UserWarning, match="runs eagerly, since its trace differs: a tensor of shape"):
            assert trace(step, state, whole, None, others=others) is None
    assert trace(averaging, state, whole, None, others=[(whole, None)]) is not None


@pytest.mark.parametrize("network", NETWORKS)
def test_a_diverged_member_leaves_the_others_as_they_are(network: str, tmp_path: Path):
    task = digits_task(network)
    good = configs(task, 3)
    bad = {**good[0], "lr": 1e20}
    work = work_on(task, tmp_path)
    mixed = [Job(0, good[0], 90), Job(1, bad, 90), Job(2, good[1], 90), Job(3, good[2], 90)]
    together = train(work, mixed)
    assert together[1].status == "diverged" and together[1].checkpoint is None
    assert together[1].steps == EPOCH, "it should end at the first measurement"
    for job in (mixed[0], mixed[2], mixed[3]):
        alone = train(work, [job])[job.number]
        assert outcome(alone) == outcome(together[job.number])
        assert equal(state_of(work, alone), state_of(work, together[job.number]))


def test_members_that_end_early_are_compacted_away(tmp_path: Path):
    task = digits_task("mlp with dropout and batch norm")
    steps = [20, 45, 100, 45, 160]
    jobs = [Job(n, config, steps[n]) for n, config in enumerate(configs(task, 5))]
    work = work_on(task, tmp_path)
    together = train(work, jobs)
    assert list(together) == [0, 1, 3, 2, 4], "results should come as members end"
    for job in jobs:
        alone = train(work, [job])[job.number]
        assert outcome(alone) == outcome(together[job.number])
        assert equal(state_of(work, alone), state_of(work, together[job.number]))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_continued_equals_one_that_was_not_cut(network: str, tmp_path: Path):
    task = digits_task(network)
    config = configs(task, 1)[0]
    work = work_on(task, tmp_path)
    whole = train(work, [Job(0, config, 100)])[0]
    first = train(work, [Job(0, config, 57)])[0]
    second = train(work, [Job(1, config, 43, parent=0)], {0: first})[1]
    assert second.steps == 43
    assert equal(state_of(work, whole), state_of(work, second))
    assert whole.metrics["loss"] == second.metrics["loss"]


def test_a_continued_job_gets_the_values_that_differ_and_a_key_of_its_own(tmp_path: Path):
    task = digits_task("mlp with dropout and batch norm")
    config = configs(task, 1)[0]
    work = work_on(task, tmp_path)
    first = train(work, [Job(0, config, 50)])[0]
    moved = {**config, "lr": 0.02}
    clone = train(work, [Job(1, moved, 50, parent=0), Job(2, config, 50, parent=0)], {0: first})
    parent, changed, kept = state_of(work, first), state_of(work, clone[1]), state_of(work, clone[2])
    assert changed["hyper"]["lr"].item() == pytest.approx(0.02)
    assert kept["hyper"]["lr"].item() == parent["hyper"]["lr"].item()
    assert changed["key"] != parent["key"] and kept["key"] == parent["key"]
    assert changed["t"] == kept["t"] == 100


def test_a_job_cut_in_the_middle_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train_stack, "PARTIAL_SECONDS", 0.0)
    task = digits_task("mlp with dropout and batch norm")
    jobs = [Job(n, config, 5 * EPOCH) for n, config in enumerate(configs(task, 3))]
    whole_work, work = work_on(task, tmp_path / "whole"), work_on(task, tmp_path / "cut")
    curves: list[Report] = []
    whole = train(whole_work, jobs, on_reports=lambda reports: curves.extend(reports) or set())

    def interrupt(reports: list[Report]) -> set[int]:
        if reports and reports[0].step == 4 * EPOCH:
            raise KeyboardInterrupt
        return set()

    with pytest.raises(KeyboardInterrupt):
        train(work, jobs, on_reports=interrupt)
    again: list[Report] = []
    resumed = train(work, jobs, on_reports=lambda reports: again.extend(reports) or set())
    for number in whole:
        assert outcome(whole[number]) == outcome(resumed[number])
        assert equal(state_of(whole_work, whole[number]), state_of(work, resumed[number]))
    assert sorted(again, key=lambda r: (r.step, r.number)) == sorted(curves, key=lambda r: (r.step, r.number))


def test_reports_come_once_an_epoch_and_pruning_stops_a_member(tmp_path: Path):
    task = digits_task()
    jobs = [Job(n, config, 4 * EPOCH) for n, config in enumerate(configs(task, 3))]
    seen: list[Report] = []

    def stop_one(reports: list[Report]) -> set[int]:
        seen.extend(reports)
        return {1} if reports and reports[0].step >= 2 * EPOCH else set()

    results = train(work_on(task, tmp_path), jobs, on_reports=stop_one)
    assert results[1].status == "pruned" and results[1].steps == 2 * EPOCH
    assert [report.step for report in seen if report.number == 0] == [EPOCH, 2 * EPOCH, 3 * EPOCH, 4 * EPOCH]
    assert [report.step for report in seen if report.number == 1] == [EPOCH, 2 * EPOCH]
    assert set(seen[0].metrics) == {"loss", "train_loss", "accuracy"}
    assert results[0].metrics == seen[-2].metrics


def test_the_network_learns_digits(tmp_path: Path):
    task = digits_task()
    job = Job(0, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}, EPOCH * 20)
    work = work_on(task, tmp_path)
    result = train(work, [job])[0]
    assert result.metrics["accuracy"] > 0.93
    tested = restore.final_test(work, job, result)
    assert tested["accuracy"] > 0.9
    model = restore.load_model(work, job, result)
    with torch.no_grad():
        found = model(task.data.test.inputs).argmax(1).eq(task.data.test.targets).float().mean().item()
    assert found == pytest.approx(tested["accuracy"], abs=1e-6)
