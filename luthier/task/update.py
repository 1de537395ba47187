"""One update of a stack's weights: clipping, schedules, the optimizer, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.optim import SGD, Adam
from luthier.optim.common import Tensors, read
from luthier.optim.scheduler import Scheduler, checked_scheduler
from luthier.optim.stock import TorchOptimizer
from luthier.space import Config, Int
from luthier.task.optimizer import optimizer_of
from luthier.task.readings import Recorder

if TYPE_CHECKING:
    from luthier.task.program import State
    from luthier.task.torch_task import TorchTask

OURS = {"0.lr": "lr", "0.momentum": "momentum", "0.betas.0": "beta1"}  # settings of torch's that luthier's read
SCHEDULE, AVERAGE = "schedule", "average"  # in what a state has of its own


class Updater:
    """The update that a task makes from gradients, under one set of static values.

    Args:
        task: The task.
        config: A configuration with these static values.
        model: One member's network.
        named: Its trained parameters, by their names in a state.
        epoch_steps: Steps in an epoch.
    """

    def __init__(
        self, task: TorchTask, config: Config, model: nn.Module, named: Mapping[str, Tensor], epoch_steps: int
    ) -> None:
        self._task, self._epoch_steps = task, epoch_steps
        self._config = config = task.space.given(config)
        self.optimizer = optimizer_of(task, config, model, named, self._configs)
        read = [*self.optimizer.reads, "clip_value"]
        self.schedules = task.schedule if isinstance(task.schedule, tuple) else (task.schedule,)
        self._scheduler, self._unit = None, "step"
        for schedule in self.schedules:
            read += schedule.reads
        if task.scheduler is not None:
            factory, self._unit = checked_scheduler(task.scheduler)
            self._scheduler = Scheduler(factory, self._instance)
            self._scheduler.check(config)
            if isinstance(self.optimizer, TorchOptimizer):
                self.optimizer.scheduled(self._scheduler.rows(config, 1)[0])
            recorder = Recorder(config)
            self._scheduler.made(self._instance(config), recorder)
            read += [*recorder.seen, "lr"]
        self.reads = set(read)

    def update(self, state: State, hyper: Tensors, gradients: Tensors) -> State:
        """The state with new parameters and slots."""
        optimizer = self.optimizer
        if isinstance(optimizer, TorchOptimizer):
            factor, scheduled = self._factor(state, hyper), self._scheduled(state)
            params, opt = optimizer.update(
                state["params"], gradients, state["opt"], hyper, state["t"], factor=factor, scheduled=scheduled
            )
            return {**state, "params": params, "opt": opt}
        hyper = self.settings(state, hyper)
        if len(gradients) == len(state["params"]):
            params, opt = optimizer.update(state["params"], gradients, state["opt"], hyper, state["t"])
            return {**state, "params": params, "opt": opt}
        reached = {name: p for name, p in state["params"].items() if name in gradients}
        slots = {slot: {n: x for n, x in tree.items() if n in gradients} for slot, tree in state["opt"].items()}
        params, opt = optimizer.update(reached, gradients, slots, hyper, state["t"])
        opt = {slot: {**tree, **opt.get(slot, {})} for slot, tree in state["opt"].items()}
        return {**state, "params": {**state["params"], **params}, "opt": opt}

    def settings(self, state: State, hyper: Mapping[str, Tensor], lr: float | None = None) -> Tensors:
        """The hyperparameters of a step, those that schedules change as they are in this one.

        Args:
            state: The state before it.
            hyper: The hyperparameters.
            lr: Learning rate where the space has none, by default that of the optimizer, which is luthier's.
        """
        scheduled = {} if isinstance(self.optimizer, TorchOptimizer) else self._scheduled(state)
        hyper = {**hyper, **{OURS[name]: x.to(self._task.dtype) for name, x in scheduled.items()}}
        factor = self._factor(state, hyper)
        if factor is not None:
            given = self.optimizer.lr if lr is None else lr  # type: ignore[union-attr]
            hyper["lr"] = read("lr", given, hyper) * factor  # type: ignore[assignment]
        return hyper

    def _factor(self, state: State, hyper: Mapping[str, Tensor]) -> Tensor | None:
        """Factor of the learning rate by the schedules, (members,); None without one."""
        if not self.schedules:
            return None
        epoch = state["t"].to(self._task.dtype) / self._epoch_steps
        first, *others = (schedule.factor(epoch, hyper) for schedule in self.schedules)
        return math.prod(others, start=first)

    def clipped(self, gradients: Tensors, hyper: Mapping[str, Tensor]) -> Tensors:
        """Gradients with every number within ±clip_value, as ``torch.nn.utils.clip_grad_value_`` has it."""
        limit = hyper.get("clip_value", self._task.clip_value)
        if limit is None:
            return gradients
        if not isinstance(limit, Tensor):
            return {name: g.clamp(-limit, limit) for name, g in gradients.items()}
        ends = {name: limit.view(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}
        return {name: g.clamp(-ends[name], ends[name]) for name, g in gradients.items()}

    # -- torch's schedulers

    def prepared(self, state: State, steps: int) -> State:
        """The state with what the scheduler says for so many coming steps."""
        if self._scheduler is None:
            return state
        begun = state["t"].tolist()
        first, last = self._place(begun[0]), self._place(begun[0] + max(steps, 1) - 1)
        assert len(set(begun)) == 1, "members of a stack are of one age"
        tables = [self._scheduler.rows(config, last + 1)[first : last + 1] for config in self._configs(state["hyper"])]
        found = {
            name: torch.tensor([[row[name] for row in rows] for rows in tables], dtype=torch.float64)
            for name in tables[0][0]
        }
        found = {name: table.to(state["t"].device) for name, table in found.items()}
        start = torch.full_like(state["t"], first)
        return {**state, "own": {**state["own"], SCHEDULE: {"start": start, **found}}}

    def bare(self, state: State) -> State:
        """The state without what :meth:`prepared` can make again."""
        return {**state, "own": {name: part for name, part in state["own"].items() if name != SCHEDULE}}

    def _scheduled(self, state: State) -> Tensors:
        """The settings of this step that the scheduler has set, (members,) each."""
        if self._scheduler is None:
            return {}
        own = state["own"].get(SCHEDULE) or self.prepared(state, 1)["own"][SCHEDULE]
        row = (self._place(state["t"]) - own["start"]).unsqueeze(1)
        return {name: table.gather(1, row).squeeze(1) for name, table in own.items() if name != "start"}

    def _place(self, step: Any) -> Any:
        """Calls of the scheduler's ``step`` before this training step."""
        return step if self._unit == "step" else step // self._epoch_steps

    def _instance(self, config: Mapping[str, Any]) -> torch.optim.Optimizer:
        """An optimizer of torch's with the settings of one member."""
        optimizer = self.optimizer
        if isinstance(optimizer, TorchOptimizer):
            return optimizer.instance(config)
        nothing = [torch.zeros(1, requires_grad=True)]
        get = lambda name: float(config.get(name, getattr(optimizer, name)))  # noqa: E731
        if isinstance(optimizer, SGD):
            return torch.optim.SGD(nothing, lr=get("lr"), momentum=get("momentum"))
        assert isinstance(optimizer, Adam), "Sources: shared weights take no scheduler"
        return torch.optim.Adam(nothing, lr=get("lr"), betas=(get("beta1"), get("beta2")))

    def _configs(self, hyper: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """Each member's configuration."""
        columns = {name: values.tolist() for name, values in hyper.items() if name in self._config}
        whole = {name for name in columns if isinstance(self._task.space.domains.get(name), Int)}
        members = len(next(iter(hyper.values()))) if hyper else 1
        rows = [{n: round(x[i]) if n in whole else x[i] for n, x in columns.items()} for i in range(members)]
        return [self._task.space.given({**self._config, **row}) for row in rows]

    # -- the average of the weights

    def begun(self, params: Tensors) -> dict[str, Any]:
        """State that a new training starts with."""
        return {} if self._task.average is None else {AVERAGE: {name: p.clone() for name, p in params.items()}}

    def again(self, state: State) -> State:
        """A continued state under other hyperparameters: settings that were made of them are made anew."""
        fresh = (
            self.optimizer.init(state["params"], state["hyper"]) if isinstance(self.optimizer, TorchOptimizer) else {}
        )
        if "group" not in fresh:
            return state
        return {**state, "opt": {**state["opt"], "group": {**state["opt"].get("group", {}), **fresh["group"]}}}

    def averaged(self, before: State, after: State) -> State:
        """``after`` with the average moved on: the first one is the weights, as torch's AveragedModel has it."""
        decay = self._task.average
        if decay is None:
            return after
        kept = torch.full_like(before["t"], decay, dtype=self._task.dtype)
        weight = 1.0 - kept.where(before["t"] > 0, 0.0)
        old = before["own"].get(AVERAGE, before["params"])
        new = {n: torch.lerp(old[n], p, weight.view(-1, *[1] * (p.ndim - 1))) for n, p in after["params"].items()}
        return {**after, "own": {**after["own"], AVERAGE: new}}

    def measured(self, state: State) -> Tensors:
        """The weights that are measured, and given back in the end."""
        if self._task.average is not None:
            return state["own"].get(AVERAGE, state["params"])
        if isinstance(self.optimizer, TorchOptimizer):
            return self.optimizer.measured(state["params"], state["opt"], state["hyper"])
        return state["params"]
