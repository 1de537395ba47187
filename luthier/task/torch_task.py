"""TorchTask: a model, a loss, an optimizer and data, so that one training step is a pure function over a stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.errors import TaskError
from luthier.optim import Adam, sgd
from luthier.optim.schedules import Schedule
from luthier.optim.sgd import SGD
from luthier.optim.switch import Switch
from luthier.space import Config, Space
from luthier.split import as_splits
from luthier.task.choices import settle
from luthier.task.reading import InMemory
from luthier.task.readings import Path, Readings
from luthier.task.sources import Sources

if TYPE_CHECKING:
    from luthier.task.program import Program

Optimizer = SGD | Adam


@dataclass(frozen=True, eq=False)
class TorchTask:
    """What is trained: the level of task that every method can tune.

    Hyperparameters that ``model(config)`` or ``optimizer(config)`` read, and ``batch_size``, are *static*: trainings
    that differ in them cannot share a stack. All others are *dynamic*: one value a member.

    Args:
        space: The hyperparameters. ``lr``, ``momentum``, ``weight_decay``, … are read by the optimizer under these
            names, ``batch_size`` by the loop, the names of :class:`luthier.nn.Dropout` layers by the model.
        model: ``model(config) -> nn.Module``, unchanged user code. Called once a training, under a seed of its own.
        data: Training, validation and test split.
        loss: ``loss(output, target)`` or ``loss(output, target, hyper)`` of one member: a scalar, minimised.
        optimizer: One of ``luthier.optim``, or ``optimizer(config)`` that returns one.
        batch_size: Rows of a minibatch, unless the space has a ``batch_size``. The last, smaller batch is dropped.
        metrics: ``metric(output, target)`` of one member by name, measured on the validation split beside the loss.
        costs: ``cost(model, inputs) -> number`` by name: what a network itself costs, whatever its weights are, such as
            their number (:func:`luthier.metrics.parameters`) or the time of a forward pass on these two inputs. Found
            once for each set of static values, and there beside the metrics, for ``metric=["loss", "parameters"]``.
        penalty: ``penalty(params, hyper)`` of one member: a scalar added to the training loss.
        augment: ``augment(inputs, hyper, noise)`` over a stack, (members, batch, …) to the same shape, in training.
        schedule: A factor on the learning rate, or several that multiply.
        own_batches: Give each member an order of the data of its own. By default all members see the same
            minibatches, which costs less and compares members more sharply.
        evaluate_every: Epochs between two measurements on the validation split.
        dtype: Of weights and inputs.
        shared: Keep all options of :class:`luthier.nn.Choose` layers, and all families of a
            :class:`luthier.optim.Switch`, in one network that is told at every step what to use. Methods that share
            weights set it; see :meth:`sharing`.
        whole: Run a member as one function, without rules for its parts: any module, any of torch.optim, any Dataset.
        forward: ``forward(model, inputs) -> output`` where ``model(inputs)`` is not the call; with ``whole``.
        accumulate: Parts of a minibatch whose gradients are averaged before a step; with ``whole``.
        autocast: The type that ``torch.autocast`` computes in; with ``whole``.
        compile: Compile the traced step with ``torch.compile``: pays from about a million member-steps on.
        device: Where to train; None is the CPU.

    Raises:
        TaskError: Where parts do not fit each other.
    """

    space: Space
    model: Callable[[Config], nn.Module]
    data: Any
    loss: Callable[..., Tensor]
    optimizer: Optimizer | Callable[[Config], Optimizer] = sgd
    batch_size: int | None = None
    metrics: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    costs: Mapping[str, Callable[[nn.Module, Tensor], float]] = field(default_factory=dict)
    penalty: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor] | None = None
    augment: Callable[..., Tensor] | None = None
    schedule: Schedule | tuple[Schedule, ...] = ()
    own_batches: bool = False
    evaluate_every: float = 1.0
    dtype: torch.dtype = torch.float32
    shared: bool = False
    compile: bool = False
    whole: bool = False
    forward: Callable[[nn.Module, Any], Any] | None = None
    accumulate: int = 1
    autocast: torch.dtype | None = None
    device: str | torch.device | None = None
    _reads: Readings = field(default_factory=Readings, init=False, repr=False)
    _loaded: Readings = field(default_factory=Readings, init=False, repr=False)
    _programs: dict[Any, Program] = field(default_factory=dict, init=False, repr=False)
    _elsewhere: dict[str, TorchTask] = field(default_factory=dict, init=False, repr=False)
    _sources: dict[Any, Sources] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("model", self.model), ("loss", self.loss), ("optimizer", self.optimizer)):
            if not callable(value) and not isinstance(value, SGD | Adam):
                raise TaskError(f"{value!r} cannot be called", where=f"TorchTask({name}=…)", remedy="Give a function.")
        if not isinstance(self.space, Space):
            raise TaskError(
                f"{self.space!r} is not a Space",
                where="TorchTask(space=…)",
                remedy="Write lt.Space(lr=lt.Float(…), …).",
            )
        if not callable(self.data):
            object.__setattr__(self, "data", as_splits(self.data, "TorchTask(data=…)"))
            self.sources({})
        if self.evaluate_every <= 0:
            raise TaskError(
                f"evaluate_every={self.evaluate_every} is not positive",
                where="TorchTask(evaluate_every=…)",
                remedy="It counts epochs between measurements: 1.0 is once an epoch.",
            )
        reserved = {"loss", "train_loss"} & {*self.metrics, *self.costs} or set(self.metrics) & set(self.costs)
        if reserved:
            raise TaskError(
                f"the metric name {min(reserved)!r} is taken",
                where="TorchTask(metrics=…)",
                remedy="'loss' is the validation loss and 'train_loss' the training loss: choose another name.",
            )

    def __getstate__(self) -> dict[str, Any]:  # programs hold traced graphs: each process makes its own
        own = {"_programs": {}, "_reads": Readings(), "_loaded": Readings(), "_sources": {}, "_elsewhere": {}}
        return {**self.__dict__, **own}

    def static(self, config: Config) -> Path:
        """The static hyperparameters under ``config``, (name, value) in the order in which they are read."""
        return self._reads.of(self._read, self.space.given(config))[0]

    def _read(self, recorder: Any) -> None:  # not a Config by its type, to the user's functions all the same
        with torch.random.fork_rng(devices=[]):
            model = self.model(recorder)
        if isinstance(model, nn.Module) and not self.shared:
            settle(model, recorder)  # reads the names of the choices that are in the network
        if (
            not self.whole
            and not isinstance(self.optimizer, SGD | Adam)
            and not (self.shared and isinstance(self.optimizer, Switch))
        ):
            self.optimizer(recorder)
        if callable(self.data):
            self._loaded.of(self.data, recorder)
        if "batch_size" in list(recorder):  # not `in recorder`, which would be a reading
            recorder.note("batch_size")

    def program(self, config: Config) -> Program:
        """The step for the static values of ``config``, made once for each set of them."""
        from luthier.task.program import Program  # a program reads its task

        key = self.static(config)
        if key not in self._programs:
            self._programs[key] = Program(self, config)
        return self._programs[key]

    def on(self, device: str | None) -> TorchTask:
        """This task on another device; None leaves it where it is."""
        if device is None or device == self.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = replace(self, device=device)
        return self._elsewhere[device]

    def sharing(self) -> TorchTask:
        """This task with all choices of the model in one network, the same object at every call."""
        if self.shared:
            return self
        if "sharing" not in self._elsewhere:
            self._elsewhere["sharing"] = replace(self, shared=True)
        return self._elsewhere["sharing"]

    def sources(self, config: Config) -> Sources:
        """The data under ``config``, made once for each set of values that they depend on."""
        key, data = self._loaded.of(self.data, self.space.given(config)) if callable(self.data) else ((), self.data)
        size = config.get("batch_size", self.batch_size)
        if (key, size) not in self._sources:
            self._sources[key, size] = Sources(self, data, size)
        return self._sources[key, size]

    def tensors(self, split: str) -> Any:
        """All rows of a split in memory, (inputs, targets), on the task's device, floats in its type."""
        source = self.sources({})[split]
        if not isinstance(source, InMemory):
            remedy = "Read it by its minibatches."
            raise TaskError(f"the {split} split is not in memory", where="TorchTask.tensors", remedy=remedy)
        return source.batch

    def rows_in_batch(self, config: Config) -> int:
        """The batch size under ``config``, at most the training rows."""
        return self.sources(config).size("train")

    def epoch_steps(self, config: Config) -> int:
        """Training steps of one epoch under ``config``."""
        sources = self.sources(config)
        return sources["train"].steps(sources.size("train")) // self.accumulate
