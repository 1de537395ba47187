"""Contract of every adapter, as a pytest class: subclass it, say how to make an adapter, and run pytest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import luthier.nn
from luthier.adapt import Adapter
from luthier.data import digits
from luthier.errors import LuthierError
from luthier.jobs import Job, Partial, Report, Result
from luthier.losses import cross_entropy
from luthier.metrics import accuracy
from luthier.optional import optional
from luthier.seeds import Seeds
from luthier.space import Config, Float, Space
from luthier.stack.run import make_runner
from luthier.stack.trace import Eager, Traced, trace
from luthier.store.checkpoints import Checkpoints
from luthier.task.batches import Batches
from luthier.task.torch_task import TorchTask
from luthier.train import Work
from luthier.train import stack as train_stack

SPACE = Space(
    lr=Float(1e-3, 0.3, log=True),
    momentum=Float(0.0, 0.95),
    weight_decay=Float(1e-6, 1e-1, log=True),
    dropout=Float(0.0, 0.6),
)
MEMBERS = 4


def network(config: Config) -> nn.Module:
    """Small, with normalisation and two kinds of noise: what goes wrong in a stack first."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Linear(32, 32), nn.ReLU(), luthier.nn.Dropout("dropout"), nn.Linear(32, 10)),
    )


def digits_task(**settings: Any) -> TorchTask:
    """Scikit-learn's digits under :func:`network`: 33 steps an epoch."""
    given: dict[str, Any] = {"space": SPACE, "model": network, "data": digits(), "loss": cross_entropy}
    return TorchTask(**{**given, "batch_size": 32, "metrics": {"accuracy": accuracy}, **settings})


def equal(left: Any, right: Any) -> bool:
    """Return True if two states are equal bit for bit, where NaN equals NaN."""
    a, b = pytree.tree_leaves(left), pytree.tree_leaves(right)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and torch.equal(x.nan_to_num(0.5), y.nan_to_num(0.5)) and torch.equal(x.isnan(), y.isnan())
        for x, y in zip(a, b, strict=True)
    )


def outcome(result: Result) -> tuple[Any, ...]:
    """Parts of a result that must be equal for two identical trainings."""
    return result.status, dict(result.metrics), dict(result.final)


class _First:
    """Data of which one step is known."""

    def __init__(self, data: list[tuple[list[Any], Any]]) -> None:
        self._data = data

    def at(self, step: int) -> tuple[list[Any], Any]:
        return self._data[0]


def train(
    work: Work, jobs: list[Job], parents: Mapping[int, Result] | None = None, on_reports: Any = None
) -> dict[int, Result]:
    """The results of jobs, by number; one that an earlier call left in its middle goes on from there."""
    checkpoints = work.checkpoints
    assert checkpoints is not None
    partials = {int(file.split("-")[1]): file for file in checkpoints.files() if file.startswith("partial-")}

    def ask(events: Sequence[Report | Partial]) -> set[int]:
        for event in events:
            if isinstance(event, Partial):  # as the loop of tune() does
                checkpoints.remove([partials[event.number]] if event.number in partials else [])
                partials[event.number] = event.file
        reports = [event for event in events if isinstance(event, Report)]
        return on_reports(reports) if on_reports is not None and len(reports) == len(events) else set()

    return {one.number: one for one in train_stack.run_stack(work, jobs, parents or {}, ask, partials)}  # type: ignore[misc]


class AdapterContract:
    """Subclass it as ``class TestMine(AdapterContract)``, define :meth:`make`, and set what applies.

    Args:
        moves: The hyperparameters that the adapter moves; empty for one that moves none.
        steps: Minibatches of a training here: two epochs and a bit, at least.

    Examples:
        >>> from luthier.adapt import Hypergradient
        >>> class TestHypergradient(AdapterContract):
        ...     moves = frozenset({"lr"})
        ...     def make(self):
        ...         return Hypergradient()
    """

    moves: ClassVar[frozenset[str]] = frozenset()
    steps: ClassVar[int] = 80

    def make(self) -> Adapter:
        """The adapter under test."""
        raise NotImplementedError

    def task(self) -> TorchTask:
        """Return the task that the adapter tunes in these tests."""
        return digits_task()

    def refused(self) -> Mapping[str, TorchTask]:
        """Tasks that it cannot tune, by what is wrong with them."""
        return {}

    @pytest.fixture(autouse=True)
    def _one_stack(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Train all members as one stack, whatever a measurement on a busy machine would say."""
        torch.set_num_threads(1)
        monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)
        yield

    def configs(self, task: TorchTask, count: int = MEMBERS) -> list[Config]:
        """Configurations that can share a stack."""
        return task.space.sample(np.random.default_rng(0), count)

    def work(self, folder: Path, task: TorchTask | None = None) -> Work:
        """A study's order to a worker."""
        return Work(task or self.task(), Seeds(0), adapter=self.make(), checkpoints=Checkpoints(folder), save=True)

    def train(
        self, work: Work, jobs: list[Job], parents: Mapping[int, Result] | None = None, on_reports: Any = None
    ) -> dict[int, Result]:
        """The results of jobs, by number."""
        return train(work, jobs, parents, on_reports)

    def state(self, work: Work, result: Result) -> Any:
        """The state at the end of a job, a stack of one."""
        assert result.checkpoint is not None and work.checkpoints is not None
        file, row = result.checkpoint
        return pytree.tree_map(lambda tensor: tensor[row : row + 1], work.checkpoints.load(file)[0])

    def stack(self, task: TorchTask) -> tuple[Any, Any, Any, list[tuple[list[Any], Any]]]:
        """Program, adapter, a stack of four fresh members, and the data of five steps."""
        adapter, configs = self.make(), self.configs(task)
        program = task.program(configs[0])
        states = [adapter.init(program, config, key) for key, config in enumerate(configs)]
        train, valid = (Batches(program, split, Seeds(0)) for split in ("train", "valid"))
        window, needed = adapter.window, adapter.needs_valid
        data = [([train.at(window * t + i) for i in range(window)], valid.at(t) if needed else None) for t in range(5)]
        return program, adapter, pytree.tree_map(lambda *tensors: torch.cat(tensors), *states), data

    def test_a_stack_equals_its_members_alone_bit_for_bit(self, tmp_path: Path) -> None:
        work = self.work(tmp_path)
        jobs = [Job(n, config, self.steps) for n, config in enumerate(self.configs(work.task))]  # type: ignore[arg-type]
        together = self.train(work, jobs)
        for job in jobs:
            alone = self.train(work, [job])[job.number]
            assert outcome(alone) == outcome(together[job.number])
            assert equal(self.state(work, alone), self.state(work, together[job.number]))

    def test_the_traced_step_equals_the_eager_one_bit_for_bit(self) -> None:
        program, adapter, state, data = self.stack(self.task())

        def step(state: Any, batches: Any, valid: Any) -> Any:
            return adapter.step(program, state, batches, valid)

        before = pytree.tree_map(torch.clone, state)
        if not optional(adapter, "traceable"):  # its step branches on values: it must never be traced
            runner = make_runner(program, adapter, state, _First(data), 0, 10_000)
            assert isinstance(runner, Eager)
            for batches, valid in data:
                runner(batches, valid)
            assert equal(state, before), "the step wrote over the state that it was given"
            return
        graph = trace(step, state, *data[0])
        assert graph is not None
        eager, traced = Eager(step, state), Traced(graph, state)
        for batches, valid in data * 6:
            assert equal(eager(batches, valid), traced(batches, valid))
        assert equal(eager.state, traced.state)
        assert equal(state, before), "the step wrote over the state that it was given"

    def test_every_tensor_has_the_members_first(self) -> None:
        program, adapter, state, data = self.stack(self.task())
        for batches, valid in data[:2]:
            state, metrics = adapter.step(program, state, batches, valid)
            assert {"params", "buffers", "opt", "t", "key", "hyper", "own"} <= set(state)
            for leaf in pytree.tree_leaves((state, metrics)):
                assert isinstance(leaf, Tensor) and not leaf.requires_grad and len(leaf) == MEMBERS
            assert "train_loss" in metrics and all(value.shape == (MEMBERS,) for value in metrics.values())
        assert state["t"].tolist() == [2 * adapter.window] * MEMBERS, "t counts minibatches"
        assert set(adapter.hyperparameters(state)) == self.moves

    def test_a_training_continued_equals_one_that_was_not_cut(self, tmp_path: Path) -> None:
        work = self.work(tmp_path)
        config, window = self.configs(work.task)[0], self.make().window  # type: ignore[arg-type]
        cut = self.steps // 2 // window * window
        whole = self.train(work, [Job(0, config, self.steps)])[0]
        first = self.train(work, [Job(0, config, cut)])[0]
        second = self.train(work, [Job(1, {**config, **first.final}, self.steps - cut, parent=0)], {0: first})[1]
        assert equal(self.state(work, whole), self.state(work, second))
        assert outcome(whole) == outcome(second)

    def test_a_clone_takes_the_values_that_differ(self, tmp_path: Path) -> None:
        work = self.work(tmp_path)
        mine, other = self.configs(work.task)[:2]  # type: ignore[arg-type]
        first = self.train(work, [Job(0, mine, self.steps)])[0]
        window = self.make().window
        clone = self.train(work, [Job(1, other, window, parent=0)], {0: first})[1]
        assert clone.status == "ok" and clone.steps == window
        for name in set(other) - self.moves:
            assert clone.final[name] == other[name]
            assert self.state(work, clone)["hyper"][name].item() == pytest.approx(other[name], rel=1e-6)

    def test_a_training_cut_midway_goes_on_where_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train_stack, "PARTIAL_SECONDS", 0.0)
        whole, work = self.work(tmp_path / "whole"), self.work(tmp_path / "cut")
        configs = self.configs(whole.task, 3)  # type: ignore[arg-type]
        jobs = [Job(n, config, self.steps + 66) for n, config in enumerate(configs)]
        curve: list[Report] = []
        expected = self.train(whole, jobs, on_reports=lambda reports: curve.extend(reports) or set())
        seen = [0]

        def die(reports: list[Report]) -> set[int]:
            seen[0] += 1
            if seen[0] == 3:
                raise KeyboardInterrupt
            return set()

        with pytest.raises(KeyboardInterrupt):
            self.train(work, jobs, on_reports=die)
        again: list[Report] = []
        resumed = self.train(work, jobs, on_reports=lambda reports: again.extend(reports) or set())
        for job in jobs:
            assert outcome(expected[job.number]) == outcome(resumed[job.number])
            assert equal(self.state(whole, expected[job.number]), self.state(work, resumed[job.number]))
        assert sorted(again, key=lambda r: (r.step, r.number)) == sorted(curve, key=lambda r: (r.step, r.number))

    def test_a_diverged_member_leaves_the_others_as_they_are(self) -> None:
        program, adapter, state, data = self.stack(self.task())
        broken = pytree.tree_map(torch.clone, state)
        for leaf in pytree.tree_leaves(broken):
            if leaf.is_floating_point():  # what is not a number may be anywhere by the time that anybody looks
                leaf[1] = torch.nan
        for batches, valid in data:
            state, metrics = adapter.step(program, state, batches, valid)
            broken, of_broken = adapter.step(program, broken, batches, valid)
            assert math.isnan(of_broken["train_loss"][1])
            whole, beside = (
                pytree.tree_map(lambda tensor: tensor[[0, 2, 3]], tree)
                for tree in ((state, dict(metrics)), (broken, dict(of_broken)))
            )
            assert equal(whole, beside)

    def test_the_schedule_is_recorded(self, tmp_path: Path) -> None:
        reports: list[Report] = []
        work = self.work(tmp_path)
        task: Any = work.task
        jobs = [Job(n, config, self.steps) for n, config in enumerate(self.configs(task))]
        results = self.train(work, jobs, on_reports=lambda new: reports.extend(new) or set())
        for job in jobs:
            mine = [report for report in reports if report.number == job.number]
            result = results[job.number]
            assert len(mine) >= 2 and all(set(report.hyperparameters) == self.moves for report in mine)
            assert result.final == {**job.config, **mine[-1].hyperparameters}
            for report in mine:  # what was moved is still a configuration of the space
                task.space.check({**job.config, **report.hyperparameters})
            assert all(job.config[name] != result.final[name] for name in self.moves), "nothing was moved"
            hyper = self.state(work, result)["hyper"]
            assert all(hyper[name][0].tolist() == result.final[name] for name in self.moves)

    def test_it_refuses_what_it_cannot_tune(self) -> None:
        for fault, task in self.refused().items():
            (config,) = self.configs(task, 1)
            with pytest.raises(LuthierError) as error:
                self.make().init(task.program(config), config, 0)
            assert error.value.where and error.value.remedy, fault

    def test_settings_are_hashable_and_equal_by_value(self) -> None:
        assert self.make() == self.make() and hash(self.make()) == hash(self.make())
        assert isinstance(self.make(), Adapter)
