"""The training step of a TorchTask under one set of static hyperparameters: pure functions over a stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from luthier.errors import TaskError
from luthier.losses import stacked_loss
from luthier.nn import Choose
from luthier.optim import SGD, Adam
from luthier.optim.common import Tensors, read
from luthier.optim.switch import Switch, alone
from luthier.space import Choice, Int
from luthier.stack import Noise, stack_module, unstack_into
from luthier.task.choices import arrange, check_choices, owners, settle

if TYPE_CHECKING:
    from luthier.space import Config
    from luthier.task.torch_task import TorchTask

State = dict[str, Any]
"""A stack of trainings: every tensor has the members first.

``params``, ``buffers``: by name; ``opt``: the optimizer's slots; ``t``: steps done, (members,) int64; ``key``: of the
noise, (members,) int64; ``hyper``: dynamic hyperparameters by name; ``own``: what an adapter keeps.
"""
Batch = tuple[Tensor, Tensor]  # inputs and targets: (batch, …) for all members, or (members, batch, …)

AUGMENT_SITE = 1 << 20  # sites below are those of the model's own random layers


class Program:
    """A :class:`~luthier.task.torch_task.TorchTask` bound to static values: what an adapter steps with.

    Args:
        task: The task.
        config: Any configuration with the static values wanted.

    Raises:
        TaskError: If the model cannot be built.
    """

    unread: tuple[str, ...] = ()  # names of the configuration that nothing reads

    def __init__(self, task: TorchTask, config: Config) -> None:
        self.task = task
        self.static = task.static(config)
        self.device = torch.device(task.device or "cpu")
        self.sources = task.sources(config)
        self.sources.check()
        self.batch_size = task.rows_in_batch(config)
        self.epoch_steps = task.epoch_steps(config)
        self.optimizer = self._optimizer(config)
        schedules = task.schedule if isinstance(task.schedule, tuple) else (task.schedule,)
        self.schedules = schedules
        self.traces: dict[Any, Any] = {}  # filled by luthier.stack.trace, by shape
        template = self._model(config, key=0)
        self.choices = self._choices(template) if task.shared else {}
        self.owners = owners(template) if task.shared else {}
        example = self.sources.example(rows=2)[0]
        self._costs = self._measure(template, example)
        self._train = stack_module(template.train(), example, training=True)
        self._eval = stack_module(template.eval(), example, training=False)
        self._loss = stacked_loss(task.loss)
        self._metrics = {name: stacked_loss(metric) for name, metric in task.metrics.items()}
        self._penalty = None if task.penalty is None else vmap(task.penalty)
        self._check_readers(config)

    def init(
        self, config: Config, key: int, parent: State | None = None, overwrite: Mapping[str, Any] | None = None
    ) -> State:
        """A stack of one: a fresh training, or the continuation of ``parent`` with some values overwritten.

        Args:
            config: The configuration.
            key: Of this job's initial weights and noise.
            parent: The state to continue, a stack of one. Its noise key is kept when nothing is overwritten, so that
                a training continued equals one that was never interrupted; a clone gets the key of its own job.
            overwrite: Hyperparameters of ``config`` that differ from the parent's last values; None is all.
        """
        hyper = self.hyper(config)
        if parent is not None:
            changed = config if overwrite is None else overwrite
            kept = {
                name: parent["hyper"].get(name, value) if name not in changed else value
                for name, value in hyper.items()
            }
            noise_key = torch.tensor([key], device=self.device) if changed else parent["key"]
            return {**parent, "hyper": kept, "key": noise_key}
        model = self._model(config, key)
        params = {name: param.detach().clone()[None] for name, param in model.named_parameters()}
        buffers = {name: buffer.detach().clone()[None] for name, buffer in model.named_buffers()}
        return {
            "params": params,
            "buffers": buffers,
            "opt": self.optimizer.init(params, hyper),
            "t": torch.zeros(1, dtype=torch.int64, device=self.device),
            "key": torch.tensor([key], device=self.device),
            "hyper": hyper,
            "own": {},
        }

    def hyper(self, config: Mapping[str, Any]) -> Tensors:
        """The dynamic hyperparameters of a configuration as a stack of one, (1,) or (1, d) each.

        Where weights are shared, a choice is there as the position of its option, int64: among the options in the
        space for :class:`luthier.nn.Choose`, among the families for :class:`luthier.optim.Switch`.
        """
        hyper: Tensors = {}
        for name, value in config.items():
            if name in self.choices:
                hyper[name] = torch.tensor([self.choices[name].index(value)], device=self.device)
            elif _is_number(value) and name not in dict(self.static):
                hyper[name] = torch.as_tensor(value, dtype=self.task.dtype, device=self.device)[None]
        return hyper

    def values(self, name: str, moved: Tensor) -> list[Any]:
        """What a dynamic hyperparameter is in each member, as the space has it, from :meth:`hyper`'s numbers."""
        numbers = moved.tolist()
        if name in self.choices:
            return [self.choices[name][i] for i in numbers]
        domain = self.task.space.domains.get(name)
        if not self.task.shared or not isinstance(domain, Int | Choice):
            return numbers
        return [domain.check(round(x) if isinstance(domain, Int) else x, name) for x in numbers]

    def losses(
        self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Batch, noise: Noise
    ) -> tuple[Tensor, Tensors]:
        """Training losses with penalty and augmentation, (members,), and the new buffers."""
        inputs, targets = batch
        task = self.task
        if task.augment is not None:
            if not task.own_batches:
                inputs = inputs.expand(len(noise.key), *inputs.shape)
            inputs = task.augment(inputs, hyper, Noise(noise.key, noise.step, AUGMENT_SITE))
        outputs, buffers = self._train(params, buffers, inputs, hyper, noise)
        losses = self._loss(outputs, targets, hyper)
        return (losses if self._penalty is None else losses + self._penalty(params, hyper)), buffers

    def gradient(self, state: State, hyper: Tensors, batch: Batch) -> tuple[Tensor, Tensors, Tensors]:
        """(losses (members,), gradients by parameter, new buffers) of a stack at ``hyper``.

        Members never mix, so the gradient of the summed loss is every member's gradient.
        """
        params = {name: param.detach().requires_grad_() for name, param in state["params"].items()}
        losses, buffers = self.losses(params, state["buffers"], hyper, batch, Noise(state["key"], state["t"]))
        gradients = torch.autograd.grad(losses.sum(), list(params.values()), allow_unused=True, materialize_grads=True)
        return losses.detach(), dict(zip(params, gradients, strict=True)), {n: b.detach() for n, b in buffers.items()}

    def apply(self, state: State, hyper: Tensors, gradients: Tensors, buffers: Tensors) -> State:
        """The state after the optimizer's update with ``gradients``."""
        if self.schedules:
            epoch = state["t"].to(self.task.dtype) / self.epoch_steps
            factors = [schedule.factor(epoch, hyper) for schedule in self.schedules]
            hyper = {**hyper, "lr": math.prod(factors, start=read("lr", self.optimizer.lr, hyper))}  # type: ignore[dict-item]
        params, opt = self.optimizer.update(state["params"], gradients, state["opt"], hyper, state["t"])
        return {**state, "params": params, "opt": opt, "buffers": buffers, "t": state["t"] + 1}

    @torch.no_grad()
    def evaluate(self, state: State, split: str) -> dict[str, Tensor]:
        """Mean loss and metrics of each member over a split, (members,) float64 each, in evaluation mode.

        Neither penalty nor augmentation enters: trainings that differ in them stay comparable.
        """
        functions = {"loss": self._loss, **self._metrics}
        totals: dict[str, Any] = dict.fromkeys(functions, 0.0)
        rows = 0
        for inputs, targets in self.sources[split].in_order(self.batch_size):
            rows += len(inputs)
            outputs, _ = self._eval(state["params"], state["buffers"], inputs, state["hyper"], None)
            for name, function in functions.items():
                totals[name] = totals[name] + function(outputs, targets, state["hyper"]).double() * len(inputs)
        members = len(state["t"])
        costs = {name: torch.full((members,), cost, dtype=torch.float64) for name, cost in self._costs.items()}
        return {name: total / rows for name, total in totals.items()} | costs

    def objective(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Batch, name: str = "loss") -> Tensor:
        """The loss, or the metric ``name``, of each member in evaluation mode, (members,); can be differentiated."""
        inputs, targets = batch
        outputs, _ = self._eval(params, buffers, inputs, hyper, None)
        return (self._loss if name == "loss" else self._metrics[name])(outputs, targets, hyper)

    def module(self, config: Config, state: State) -> nn.Module:
        """The user's own module with the weights of a stack of one, in evaluation mode."""
        model = unstack_into(self._model(config, key=0), state["params"], state["buffers"])
        return settle(model, config).eval()

    def _measure(self, template: nn.Module, example: Tensor) -> dict[str, float]:
        """The costs of the network, as numbers."""
        if self.task.costs and self.task.shared:
            remedy = "Leave costs out, or shared."
            what = "networks that share weights have no costs of their own"
            raise TaskError(what, where="TorchTask(costs=…)", remedy=remedy)
        found: dict[str, float] = {}
        for name, cost in self.task.costs.items():
            with torch.no_grad():
                value = cost(template.eval(), example)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                remedy = "Return a finite number: cost(model, inputs) -> float."
                raise TaskError(f"the cost {name!r} is {value!r}", where="TorchTask(costs=…)", remedy=remedy)
            found[name] = float(value)
        return found

    def _model(self, config: Config, key: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            model = self.task.model(self.task.space.given(config))
        if not isinstance(model, nn.Module):
            raise TaskError(
                f"model(config) returned {type(model).__name__}",
                where="TorchTask(model=…)",
                remedy="Return an nn.Module.",
            )
        check_choices(model, self.task.space)
        if self.task.shared:
            model = arrange(nn.Sequential(model) if isinstance(model, Choose) else model, self.task.space)
        else:
            model = settle(model, config)
        return model.to(self.device, self.task.dtype)

    def _optimizer(self, config: Config) -> SGD | Adam | Switch:
        given = self.task.optimizer
        if not self.task.shared:
            return given if isinstance(given, SGD | Adam) else given(self.task.space.given(config))
        if isinstance(given, Switch):
            return given
        return alone(given if isinstance(given, SGD | Adam) else given(self.task.space.given(config)))

    def _choices(self, model: nn.Module) -> dict[str, tuple[Any, ...]]:
        found = {layer.name: layer.values for layer in model.modules() if isinstance(layer, Choose)}
        if isinstance(self.optimizer, Switch) and len(self.optimizer.families) > 1:
            name, families = self.optimizer.name, tuple(self.optimizer.families)
            domain = self.task.space.domains.get(name)
            if not isinstance(domain, Choice) or set(domain.options) != set(families):
                raise TaskError(
                    f"{name}={domain!r} in the space",
                    where=f"lt.optim.Switch({name!r})",
                    remedy=f"Put {name}=lt.Choice({list(families)}) there.",
                )
            found[name] = families
        return found

    def _check_readers(self, config: Config) -> None:
        read = {name for name, _ in self.static} | set(self.optimizer.reads) | self._train.hyperparameters
        for schedule in self.schedules:
            read |= set(schedule.reads)
        open_ended = self.task.penalty or self.task.augment or self._loss.reads_hyper  # may read any name
        names = self.task.space if self.task.shared else config
        self.unread = () if open_ended else tuple(name for name in names if name not in read)
        if "lr" not in names and self.optimizer.lr is None:
            raise TaskError(
                "there is no learning rate",
                where="TorchTask(optimizer=…)",
                remedy="Put lr=lt.Float(1e-4, 1, log=True) into the space, or write lt.optim.SGD(lr=0.1).",
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | list) and not isinstance(value, bool)
