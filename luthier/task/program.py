"""The training step of a TorchTask under one set of static hyperparameters: pure functions over a stack."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.hidden import outside
from luthier.losses import stacked_loss
from luthier.nn import Choose
from luthier.optim.adam import MISSED, Adam
from luthier.optim.common import Tensors
from luthier.optim.stock import TorchOptimizer
from luthier.optim.switch import Switch
from luthier.places import Look
from luthier.space import Choice, Float, Int
from luthier.stack import Noise
from luthier.stack.mapped import TURN, dense
from luthier.stack.settle import Effort
from luthier.task.choices import arrange, check_choices, owners, settle
from luthier.task.evaluate import evaluate, measured, mixes_rows
from luthier.task.keyed import drawing
from luthier.task.made import as_eager, converted, materialise, prepared, refuse_doubles, unstack_into
from luthier.task.member import (
    BUILDER,
    LOSS,
    Member,
    call_model,
    own_name,
    parts,
    read_by,
    refuse_counting,
    refuse_gradient_hooks,
)
from luthier.task.network import Network
from luthier.task.reading import InMemory
from luthier.task.update import Updater

if TYPE_CHECKING:
    from luthier.space import Config
    from luthier.task.network import Execution
    from luthier.task.torch_task import TorchTask

State = dict[str, Any]
"""A stack of trainings: every tensor has the members first.

``params``, ``buffers``: by name; ``opt``: the optimizer's slots; ``t``: steps done, (members,) int64; ``key``: of the
noise, (members,) int64; ``hyper``: dynamic hyperparameters by name; ``own``: what an adapter keeps.
"""
Batch = Any  # a nest of tensors, (batch, …) for all members or (members, batch, …); a pair is inputs and targets

AUGMENT_SITE = 1 << 20  # sites below are those of the model's own random layers
STACKED = ("params", "buffers", "t", "key")


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
        self._config = dict(config)
        self.device = torch.device(task.device or "cpu")
        self.sources = task.sources(config)
        self.sources.check()
        self.batch_size = task.rows_in_batch(config)
        self.epoch_steps = task.epoch_steps(config)
        self.traces: dict[Any, Any] = {}  # filled by luthier.stack.trace, by shape
        self.notes: list[str] = []  # of what fell back while it ran
        self.differentiating: set[str] = set()  # measures that take gradients of the outputs
        self.measures = {"loss": stacked_loss(task.loss)} | {
            name: stacked_loss(metric, f"metric {name!r},") for name, metric in task.metrics.items()
        }
        begun = Look({"loss": self.measures["loss"].member(task.rule), "forward": task.forward})
        self._batch = self.sources.example(rows=self.batch_size)
        if isinstance(task.loss, nn.Module):
            refuse_gradient_hooks(task.loss, "loss")
        template = self._model(config, key=0)
        named = self._hold(template)
        self.updater = Updater(task, config, template, named, self.epoch_steps)
        self.optimizer, self.schedules = self.updater.optimizer, self.updater.schedules
        self.choices = self._choices(template) if task.shared else {}
        self.owners = owners(template) if task.shared else {}
        self._costs = self._measure(template)
        self._penalty = None if task.penalty is None else vmap(task.penalty)
        self._open_ended = bool(task.penalty or task.augment or self.measures["loss"].reads_hyper)  # may read any name
        self._also = self._read_in_steps(template)
        hyper = self.hyper(config)
        member = self._rebuilt(template)
        stack = self.device.type != "cpu"
        self.network = Network(member, self._trained, self._batch, hyper, stack=stack, rule=task.rule)
        if not task.shared:
            again = self._member(self._model(config, key=0))
            if refuse_counting(again, member, self._batch, {n: value[0] for n, value in hyper.items()}, begun):
                self.network.turn("it compares numbers that it keeps")
        # a step of one member is its network's loss alone
        self._bare = self.network.loops and not (task.penalty or task.augment or self._complex)
        if self.in_turn and isinstance(self.optimizer, TorchOptimizer):
            self.optimizer.in_turn = True  # members may reach other parameters, and count other steps for them
        self._check_readers(config)

    @property
    def execution(self) -> Execution:
        """The form in which a stack of it runs."""
        return self.network.execution

    @property
    def in_turn(self) -> bool:
        """True if members run in turn."""
        return self.network.in_turn

    @property
    def in_memory(self) -> bool:
        """True if the training data are tensors in memory: a pass over them costs nothing."""
        return isinstance(self.sources["train"], InMemory)

    @functools.cached_property
    def elements(self) -> int:
        """Numbers that a forward pass of one member makes."""
        state = self.init(self._config, 0)
        with torch.no_grad(), Effort() as work:
            noise = Noise(state["key"], state["t"])
            self.network.losses(self._as_made(state["params"]), state["buffers"], state["hyper"], self._batch, noise)
        return work.elements // self.network.at_once

    @functools.cached_property
    def mixes_rows(self) -> bool:
        """True if an output in evaluation mode depends on the other rows of its minibatch."""
        if self.network.over_rows:
            return True
        state = self.init(self._config, 0)
        params, batch = self._as_made(state["params"]), self.sources.example("valid", rows=8)
        return mixes_rows(self.network, params, state["buffers"], state["hyper"], batch)

    def init(
        self, config: Config, key: int, parent: State | None = None, overwrite: Mapping[str, Any] | None = None
    ) -> State:
        """A stack of one: a fresh training, or the continuation of ``parent`` with some values overwritten.

        Args:
            config: The configuration.
            key: Key of this job's initial weights and noise.
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
            return self.updater.again({**parent, "hyper": kept, "key": noise_key})
        member = self._member(self._model(config, key))
        named = {own_name(name): t.detach().clone()[None] for name, t in member.named_parameters()}
        params = {name: _real(named.pop(name)) for name in self._trained}
        buffers = {own_name(name): dense(buffer.detach()).clone()[None] for name, buffer in member.named_buffers()}
        return {
            "params": params,
            "buffers": named | buffers,
            "opt": self.slots(params, hyper),
            "t": torch.zeros(1, dtype=torch.int64, device=self.device),
            "key": torch.tensor([key], device=self.device),
            "hyper": hyper,
            "own": self.updater.begun(params),
        }

    def slots(self, params: Tensors, hyper: Tensors) -> dict[str, Tensors]:
        """The optimizer's slots; with them, where branches may leave a parameter out of a step, how often they did."""
        slots = self.optimizer.init(params, hyper)
        if isinstance(self.optimizer, Adam) and self.in_turn:
            slots[MISSED] = {name: torch.zeros(1, dtype=torch.int64, device=self.device) for name in params}
        return slots

    def hyper(self, config: Mapping[str, Any]) -> Tensors:
        """The hyperparameters of a configuration that steps may read as a stack of one, (1,) or (1, d) each.

        Those are the dynamic ones, and static ones that are read in steps too, such as the learning rate under a model
        that reads its whole configuration.

        Where weights are shared, a choice is there as the position of its option, int64: among the options in the
        space for :class:`luthier.nn.Choose`, among the families for :class:`luthier.optim.Switch`.
        """
        hyper: Tensors = {}
        fixed = {name for name, _ in self.static} - self._also
        for name, value in config.items():
            if name in self.choices:
                hyper[name] = torch.tensor([self.choices[name].index(value)], device=self.device)
            elif _is_number(value) and name not in fixed:
                hyper[name] = torch.as_tensor(value, dtype=self.task.dtype, device=self.device)[None]
        return hyper

    def values(self, name: str, moved: Tensor) -> list[Any]:
        """Each member's value of a dynamic hyperparameter, in the space's terms, from :meth:`hyper`'s numbers."""
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
        """Training losses with penalty and augmentation, (members,), and the new buffers.

        Of a list of minibatches, whose gradients a step accumulates, it is the mean loss.
        """
        task = self.task
        if isinstance(batch, list):
            mean: Any = 0.0
            for i, part in enumerate(batch):
                losses, buffers = self.losses(params, buffers, hyper, part, _of_part(noise, i))
                mean = mean + losses / len(batch)
            return mean, buffers
        if task.augment is not None:
            batch = self.augmented(batch, hyper, noise), parts(batch)[1]
        made = self._as_made(params)
        losses, buffers = self.network.losses(made, buffers, hyper, batch, noise)
        return (losses if task.penalty is None else losses + self.penalties(params, hyper)), buffers

    def augmented(self, batch: Batch, hyper: Tensors, noise: Noise) -> Tensor:
        """The inputs of each member as ``augment`` makes them, (members, batch, …)."""
        inputs, augment = parts(batch)[0], self.task.augment
        assert augment is not None
        if not self.task.own_batches:
            inputs = inputs.expand(len(noise.key), *inputs.shape)
        return augment(inputs, hyper, Noise(noise.key, noise.step, AUGMENT_SITE + noise.site))

    def penalties(self, params: Tensors, hyper: Tensors) -> Tensor:
        """The penalty of each member, (members,)."""
        assert self._penalty is not None
        return self._penalty(self._as_made(params), hyper)

    def gradient(self, state: State, hyper: Tensors, batch: Batch) -> tuple[Tensor, Tensors, Tensors]:
        """(losses (members,), gradients by parameter, new buffers) of a stack at ``hyper``.

        Members never mix, so the gradient of the summed loss is every member's gradient. A parameter that the loss
        does not reach is not among the gradients.
        """
        if self.in_turn and len(state["t"]) > 1:
            return self._gradient_in_turn(state, hyper, batch)
        alone = self._bare
        params = {
            name: (param.detach().squeeze(0) if alone else param.detach()).requires_grad_()
            for name, param in state["params"].items()
        }
        micro = batch if isinstance(batch, list) else [batch]
        buffers, mean, sums = state["buffers"], 0.0, {}
        run = self.network.loss_alone if alone else self.losses
        for i, part in enumerate(micro):
            noise = _of_part(Noise(state["key"], state["t"]), i)
            losses, buffers = run(params, buffers, hyper, part, noise)
            if not losses.requires_grad:
                raise TaskError(
                    "the loss depends on no parameter that is trained",
                    where="TorchTask(model=…, loss=…)",
                    remedy="Leave requires_grad on for what is to be trained, and do not detach the output.",
                )
            total = losses if alone else losses.sum()
            total = total / len(micro) if len(micro) > 1 else total
            found = torch.autograd.grad(total, list(params.values()), allow_unused=True)
            for name, gradient in zip(params, found, strict=True):
                if gradient is not None:
                    if alone:  # in the order of its axes, as those of several are
                        gradient = gradient.contiguous().unsqueeze(0)
                    sums[name] = sums[name] + gradient if name in sums else gradient
            losses = losses.detach().view(-1)
            mean = mean + losses / len(micro) if len(micro) > 1 else losses
            buffers = {name: buffer.detach() for name, buffer in buffers.items()}
        assert isinstance(mean, Tensor)
        return mean, self.updater.clipped(sums, hyper), buffers

    def _gradient_in_turn(self, state: State, hyper: Tensors, batch: Batch) -> tuple[Tensor, Tensors, Tensors]:
        """The gradients of each member by itself, since they may reach other parameters."""
        own = self.network.own(batch)
        results = []
        for i in range(len(state["t"])):
            row = slice(i, i + 1)
            member = {name: pytree.tree_map(lambda t, row=row: t[row], state[name]) for name in STACKED}
            leaves, spec = pytree.tree_flatten(batch)
            given = [leaf[row] if mine else leaf for leaf, mine in zip(leaves, own, strict=True)]
            knobs = {name: value[row] for name, value in hyper.items()}
            results.append(self.gradient(member, knobs, pytree.tree_unflatten(given, spec)))
        losses, _, buffers = (
            pytree.tree_map(lambda *rows: torch.cat(rows), *column)
            for column in ([r[0] for r in results], [{} for _ in results], [r[2] for r in results])
        )
        names = [name for name in state["params"] if any(name in gradients for _, gradients, _ in results)]
        joined = Gradients()
        for name in names:
            like = torch.zeros_like(state["params"][name][:1])
            joined[name] = torch.cat([gradients.get(name, like) for _, gradients, _ in results])
            there = torch.tensor([name in gradients for _, gradients, _ in results], device=self.device)
            if not there.all():
                joined.reached[name] = there
        return losses, joined, buffers

    def apply(self, state: State, hyper: Tensors, gradients: Tensors, buffers: Tensors) -> State:
        """The state after the optimizer's update with ``gradients``.

        Parameters and members that no gradient reaches keep their values and their part of the optimizer's state.
        """
        after = self._applied(state, hyper, gradients, buffers)
        if MISSED in state["opt"]:
            reached = getattr(gradients, "reached", {})
            missed = {
                name: count + (~reached[name] if name in reached else int(name not in gradients))
                for name, count in state["opt"][MISSED].items()
            }
            after = {**after, "opt": {**after["opt"], MISSED: missed}}
        return self.updater.averaged(state, after)

    def _applied(self, state: State, hyper: Tensors, gradients: Tensors, buffers: Tensors) -> State:
        if isinstance(self.optimizer, TorchOptimizer):
            return self._update(state, hyper, gradients, buffers)
        part = state
        if len(gradients) < len(state["params"]):
            part = {**state, "params": {n: p for n, p in state["params"].items() if n in gradients}}
            left = state["params"].keys() - gradients.keys()
            part["opt"] = {slot: {n: v for n, v in s.items() if n not in left} for slot, s in state["opt"].items()}
        after = self._update(part, hyper, gradients, buffers)
        for name, there in getattr(gradients, "reached", {}).items():
            slots = [(after["opt"][slot], old) for slot, old in part["opt"].items() if name in old]
            for new, old in [(after["params"], part["params"]), *slots]:
                new[name] = torch.where(there.view(-1, *(1,) * (old[name].ndim - 1)), new[name], old[name])
        if part is state:
            return after
        opt = {slot: {**s, **after["opt"].get(slot, {})} for slot, s in state["opt"].items()}
        return {**after, "params": {**state["params"], **after["params"]}, "opt": opt}

    def _update(self, state: State, hyper: Tensors, gradients: Tensors, buffers: Tensors) -> State:
        return {**self.updater.update(state, hyper, gradients), "buffers": buffers, "t": state["t"] + 1}

    @torch.no_grad()
    def evaluate(self, state: State, split: str) -> dict[str, Tensor]:
        """Loss and metrics of each member on a whole split, (members,) float64 each, in evaluation mode.

        Neither penalty nor augmentation enters: trainings that differ in them stay comparable.
        """
        members = len(state["t"])
        params = self._as_made(self.updater.measured(state))
        found = evaluate(self, params, state["buffers"], state["hyper"], split)
        return found | {name: torch.full((members,), cost, dtype=torch.float64) for name, cost in self._costs.items()}

    def measures_of(self, state: State, batch: Batch) -> dict[str, Callable[[], Tensor]]:
        """Loss and metrics of a minibatch in evaluation mode, each as a function that measures it."""
        hyper, target, buffers = state["hyper"], parts(batch)[1], state["buffers"]
        params = self._as_made(self.updater.measured(state))
        with torch.no_grad():
            output = self.network.outputs(params, buffers, hyper, batch)
        of = functools.partial(measured, self, output=output, target=target, tensors={**params, **buffers}, hyper=hyper)
        return {name: functools.partial(of, name) for name in self.measures}

    def objective(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Batch, name: str = "loss") -> Tensor:
        """The loss, or the metric ``name``, of each member in evaluation mode, (members,); can be differentiated."""
        return self.network.value(name, self._as_made(params), buffers, hyper, batch)

    def module(self, config: Config, state: State) -> nn.Module:
        """The user's own module with the weights of a stack of one, in evaluation mode."""
        model = self._model(config, key=0)
        every = {**self._as_made(self.updater.measured(state)), **state["buffers"]}
        every = {name: tensor for name, tensor in every.items() if not name.startswith(LOSS)}
        names = {name for name, _ in model.named_parameters()}
        params = {name: every.pop(name) for name in list(every) if name in names}
        return settle(unstack_into(model, params, every), config).eval()

    def _hold(self, template: nn.Module) -> Tensors:
        """Remember which tensors are trained, and which of them are complex: the optimizer sees pairs of numbers."""
        named = {own_name(name): param for name, param in self._member(template).named_parameters()}
        self._trained = tuple(name for name, param in named.items() if param.requires_grad)
        self._complex = {name for name in self._trained if named[name].is_complex()}
        if not self._trained:
            raise TaskError(
                "it has no parameter with requires_grad",
                where="TorchTask(model=…)",
                remedy="Leave requires_grad on for what is to be trained.",
            )
        return {name: named[name] for name in self._trained}

    def _as_made(self, params: Tensors) -> Tensors:
        """Parameters as the network has them: complex where it made them so."""
        if not self._complex:
            return params
        return {n: torch.view_as_complex(p.contiguous()) if n in self._complex else p for n, p in params.items()}

    def _rebuilt(self, template: nn.Module) -> Member:
        """Build the network again: its weights must be the template's."""
        code = replace(BUILDER, owners={"model": self.task.model})
        before = outside(code.owners)
        model = self._model(self._config, key=0)
        one, other = (dict([*m.named_parameters(), *m.named_buffers()]) for m in (template, model))
        code.compare(one, other, before)
        return self._member(model)

    def _member(self, model: nn.Module) -> Member:
        reads = {name: (one.member(self.task.rule), one.reads_hyper) for name, one in self.measures.items()}
        return prepared(Member(self.task, model, reads), self.device, self.task.dtype)

    def _measure(self, template: nn.Module) -> dict[str, float]:
        """The costs of the network, as numbers."""
        if self.task.costs and self.task.shared:
            remedy = "Leave costs out, or shared."
            what = "networks that share weights have no costs of their own"
            raise TaskError(what, where="TorchTask(costs=…)", remedy=remedy)
        found: dict[str, float] = {}
        for name, cost in self.task.costs.items():
            example = pytree.tree_map_only(Tensor, lambda t: t[:2], parts(self._batch)[0])
            with torch.no_grad():
                value = cost(template.eval(), example)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                remedy = "Return a finite number: cost(model, inputs) -> float."
                raise TaskError(f"the cost {name!r} is {value!r}", where="TorchTask(costs=…)", remedy=remedy)
            found[name] = float(value)
        return found

    def _model(self, config: Config, key: int) -> nn.Module:
        with TURN, drawing(key):
            model = self.task.model(self.task.space.given(config))
            if isinstance(model, nn.Module):
                refuse_gradient_hooks(model)
                model = as_eager(model)
                materialise(model, lambda: (self.task.forward or call_model)(model, parts(self._batch)[0]))
        if isinstance(model, nn.Module) and self.task.dtype == torch.float32:
            refuse_doubles(model)
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
        return converted(model, self.device, self.task.dtype)

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

    def _read_in_steps(self, model: nn.Module) -> set[str]:
        """Names that a step reads from the stack's hyperparameters, whoever else reads them."""
        names = {*self._config} if self._open_ended else self.updater.reads | read_by(model)[0]
        if not isinstance(self.optimizer, TorchOptimizer):
            return names
        domains = self.task.space.domains  # torch's optimizers are made under the static values that are no Float
        return {name for name in names if name not in self.optimizer.reads or isinstance(domains.get(name), Float)}

    def _check_readers(self, config: Config) -> None:
        read = {name for name, _ in self.static} | self.updater.reads | self.network.hyperparameters
        names = self.task.space if self.task.shared else config
        self.unread = () if self._open_ended else tuple(name for name in names if name not in read)
        if "lr" not in names and self.optimizer.lr is None:
            raise TaskError(
                "there is no learning rate",
                where="TorchTask(optimizer=…)",
                remedy="Put lr=lt.Float(1e-4, 1, log=True) into the space, or write lt.optim.SGD(lr=0.1).",
            )


class Gradients(dict[str, Tensor]):
    """Gradients by name of members of which some do not reach every parameter.

    Attributes:
        reached: For such a parameter, the members that do reach it, (members,) bool.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached: Tensors = {}


def _of_part(noise: Noise, i: int) -> Noise:
    """The noise of one of several minibatches that a step accumulates."""
    return noise if i == 0 else Noise(noise.key, noise.step, noise.site + (i << 22), noise.differentiable)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | list) and not isinstance(value, bool)
