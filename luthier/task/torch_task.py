"""TorchTask: a model, a loss, an optimizer and data, so that one training step is a pure function over a stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.arguments import answering
from luthier.checks import maybe, one_of, real, require, whole
from luthier.errors import TaskError
from luthier.losses import Mean, models_own
from luthier.metrics import as_function
from luthier.optim import Adam, sgd
from luthier.optim.scheduler import checked_scheduler
from luthier.optim.schedules import Schedule
from luthier.optim.sgd import SGD
from luthier.space import Config, Space
from luthier.split import as_splits
from luthier.stack.mapped import TURN
from luthier.stack.settle import RULE
from luthier.task.choices import settle
from luthier.task.keyed import drawing
from luthier.task.optimizer import note_reads, refuse_instance
from luthier.task.reading import InMemory
from luthier.task.readings import Path, Readings
from luthier.task.sources import Sources

if TYPE_CHECKING:
    from luthier.task.program import Program


@answering
@dataclass(frozen=True, eq=False)
class TorchTask:
    """A training in PyTorch: the level of task that every method can tune.

    Hyperparameters that ``model(config)``, ``data(config)`` or ``optimizer(config)`` read, and ``batch_size``, are
    *static*: trainings that differ in them cannot share a stack. All others are *dynamic*: one value a member.

    Args:
        space: The hyperparameters. ``lr``, ``momentum``, ``weight_decay``, … are read by the optimizer under these
            names, ``batch_size`` by the loop, the names of :class:`luthier.nn.Dropout` layers by the model.
        model: ``model(config) -> nn.Module``, unchanged user code. Called once a training, under a seed of its own.
            A parameter with ``requires_grad=False`` stays as it is.
        data: Training, validation and, where there is one, test data: :class:`luthier.Splits`, a tuple or a dict of
            their parts (tensors, Datasets, DataLoaders), or ``data(config)`` that gives them, where the size of
            minibatches or an augmentation is a hyperparameter.
        loss: ``loss(output, target)`` or ``loss(output, target, hyper)`` of one member: a scalar, minimised. None is
            the loss that the model returns, as ``output.loss`` or ``output["loss"]``, as Hugging Face's do.
        optimizer: One of ``luthier.optim``; a class of ``torch.optim``, or any of that kind, whose settings are the
            hyperparameters of their names; ``(params, config) -> optimizer`` or, for parameter groups,
            ``(model, config) -> optimizer``; or ``optimizer(config)`` that gives one of ours or a class.
        batch_size: Rows of a minibatch, unless the space has a ``batch_size`` or the data bring their own; None is 64.
            A last, smaller minibatch is dropped, unless a DataLoader keeps it.
        forward: ``forward(model, inputs) -> output``, where that is not ``model(inputs)``, ``model(*inputs)`` of a
            tuple or ``model(**inputs)`` of a dict.

        penalty: ``penalty(params, hyper)`` of one member: a scalar added to the training loss.
        augment: ``augment(inputs, hyper, noise)`` over a stack, (members, batch, …) to the same shape, in training.
        clip_norm: Largest norm of a member's whole gradient; or a hyperparameter of this name.
        clip_value: Largest absolute value in a gradient; or a hyperparameter of this name.
        accumulate: Minibatches whose mean gradient makes one step; a step counts once.
        schedule: A factor of ``luthier.optim`` on the learning rate, or several that multiply.
        scheduler: ``(factory, "step")`` or ``(factory, "epoch")``: ``factory(optimizer)``, or ``factory(optimizer,
            config)``, gives a scheduler of ``torch.optim.lr_scheduler``, stepped so often. A factory alone is stepped
            at every step.
        average: Decay of an exponential average of the weights, such as 0.999, that is measured, and given back, in
            place of the last weights.
        own_batches: Give each member an order of the data of its own. By default all members see the same
            minibatches, which costs less and compares members more sharply.

        metrics: ``metric(output, target)`` of one member by name, measured on the validation split beside the loss:
            any function of all its outputs and targets, or an object with ``update`` and ``compute``, as torchmetrics
            has them.
        costs: ``cost(model, inputs) -> number`` by name: what a network itself costs, whatever its weights are, such as
            their number (:func:`luthier.metrics.parameters`) or the time of a forward pass on these two inputs. Found
            once for each set of static values, and there beside the metrics, for ``metric=["loss", "parameters"]``.
        evaluate_every: Epochs between two measurements on the validation split.
        patience: Epochs without a better measurement of the objective after which a training ends; None is never.
        keep: ``"last"``, or ``"best"`` to keep the weights of the best measurement beside the last ones:
            ``study.model()`` then gives those.

        dtype: Type of weights and inputs.
        precision: ``"bf16"`` computes loss and gradients under ``torch.autocast``; None in ``dtype`` throughout.
        shared: Keep all options of :class:`luthier.nn.Choose` layers, and all families of a
            :class:`luthier.optim.Switch`, in one network that is told at every step what to use. Methods that share
            weights set it; see :meth:`sharing`.
        compile: Compile the traced step with ``torch.compile``: pays from about a million member-steps on.
        device: Device to train on; None is the CPU.

    Raises:
        TaskError: If parts do not fit each other.
        DataError: If the data are empty or of no supported kind.

    Examples:
        >>> import luthier as lt
        >>> task = TorchTask(
        ...     space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True), width=lt.Choice([8, 16])),
        ...     model=lambda config: torch.nn.Sequential(
        ...         torch.nn.Flatten(),
        ...         torch.nn.Linear(64, config["width"]),
        ...         torch.nn.ReLU(),
        ...         torch.nn.Linear(config["width"], 10),
        ...     ),
        ...     data=lt.data.digits(),
        ...     loss=lt.losses.cross_entropy,
        ...     metrics={"accuracy": lt.metrics.accuracy},
        ... )
        >>> study = lt.tune(task, trials=8, epochs=5, metric="accuracy", mode="max", progress=False)
        >>> study.best.value > 0.5
        True
    """

    space: Space
    model: Callable[[Config], nn.Module]
    data: Any
    loss: Any = None
    optimizer: Any = sgd
    batch_size: int | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None
    # the step
    penalty: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor] | None = None
    augment: Callable[..., Tensor] | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    schedule: Schedule | tuple[Schedule, ...] = ()
    scheduler: Any = None
    average: float | None = None
    own_batches: bool = False
    # what is measured and kept
    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    costs: Mapping[str, Callable[[nn.Module, Tensor], float]] = field(default_factory=dict)
    evaluate_every: float = 1.0
    patience: float | None = None
    keep: str = "last"
    # how it runs
    dtype: torch.dtype = torch.float32
    precision: str | None = None
    shared: bool = False
    compile: bool = False
    device: str | torch.device | None = None
    rule: int = field(default=RULE, init=False, repr=False)  # that chooses the form of a stack
    _reads: Readings = field(default_factory=Readings, init=False, repr=False)
    _loaded: Readings = field(default_factory=Readings, init=False, repr=False)
    _programs: dict[Any, Program] = field(default_factory=dict, init=False, repr=False)
    _elsewhere: dict[str, TorchTask] = field(default_factory=dict, init=False, repr=False)
    _sources: dict[Any, Sources] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.loss is None:
            object.__setattr__(self, "loss", Mean(models_own))
        for name, value in (("metrics", self.metrics), ("costs", self.costs)):
            if not isinstance(value, Mapping) or not all(callable(as_function(one)) for one in value.values()):
                raise TaskError(
                    f"{name} must be functions by name, got {value!r}",
                    where="TorchTask",
                    remedy=f'Write {name}={{"accuracy": lt.metrics.accuracy}}.',
                )
        object.__setattr__(self, "metrics", {name: as_function(metric) for name, metric in self.metrics.items()})
        for name, value in (("model", self.model), ("loss", self.loss), ("optimizer", self.optimizer)):
            if not callable(value) and not isinstance(value, SGD | Adam | torch.optim.Optimizer):
                raise TaskError(f"{value!r} cannot be called", where=f"TorchTask({name}=…)", remedy="Give a function.")
        if isinstance(self.model, nn.Module):
            raise TaskError(
                f"model must be a function of the configuration, got the network {type(self.model).__name__}",
                where="TorchTask(model=…)",
                remedy="Each trial builds its own: write model=lambda config: Net(…).",
            )
        if not isinstance(self.space, Space):
            raise TaskError(
                f"{self.space!r} is not a Space",
                where="TorchTask(space=…)",
                remedy="Write lt.Space(lr=lt.Float(…), …).",
            )
        require(
            self,
            "TorchTask",
            TaskError,
            clip_norm=maybe(real(above=0)),
            clip_value=maybe(real(above=0)),
            accumulate=whole(1),
            average=maybe(real(0, below=1)),
            evaluate_every=real(above=0),
            patience=maybe(real(above=0)),
            keep=one_of("last", "best"),
            precision=maybe(one_of("bf16")),
        )
        if self.scheduler is not None:
            checked_scheduler(self.scheduler)
        refuse_instance(self.optimizer)
        if self.shared and (self.scheduler is not None or self.average is not None):
            raise TaskError(
                "options share their weights, and there is a scheduler or an average of the weights",
                where="TorchTask(shared=…)",
                remedy="Leave scheduler= and average= out; schedule=lt.optim.Cosine(…) can be had.",
            )
        if not callable(self.data):
            object.__setattr__(self, "data", as_splits(self.data, "TorchTask(data=…)"))
            self.sources({})
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
        with TURN, drawing(0):
            model = self.model(recorder.own())
        if isinstance(model, nn.Module) and not self.shared:
            settle(model, recorder)  # reads the names of the choices that are in the network
        note_reads(self, model, recorder)
        if callable(self.data):
            self._loaded.of(self._data, recorder)
        if "batch_size" in list(recorder):  # not `in recorder`, which would be a reading
            recorder.note("batch_size")

    def _data(self, config: Any) -> Any:  # the same in each process, also where it splits rows at random
        with TURN, drawing(0):
            return self.data(config)

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
        return self._again(device, device=device)

    def under(self, rule: int) -> TorchTask:
        """This task under an earlier version's rule for the form of a stack, as a study that it began goes on."""
        return self if rule == self.rule else self._again(f"rule {rule}", rule=rule)

    def _again(self, key: str, rule: int | None = None, **changes: Any) -> TorchTask:
        """This task with some changes, the same object at every call."""
        if key not in self._elsewhere:
            made = replace(self, **changes)
            object.__setattr__(made, "rule", self.rule if rule is None else rule)
            self._elsewhere[key] = made
        return self._elsewhere[key]

    def sharing(self) -> TorchTask:
        """This task with all choices of the model in one network, the same object at every call."""
        return self if self.shared else self._again("sharing", shared=True)

    def sources(self, config: Config) -> Sources:
        """The data under ``config``, made once for each set of values that they depend on."""
        key, data = self._loaded.of(self._data, self.space.given(config)) if callable(self.data) else ((), self.data)
        size = config.get("batch_size", self.batch_size)
        if (key, size) not in self._sources:
            self._sources[key, size] = Sources(self, data, size)
        return self._sources[key, size]

    def sources_anew(self, config: Config) -> Sources:
        """The data under ``config``, which ``data(config)`` is asked for again."""
        return Sources(self, self._data(self.space.given(config)), config.get("batch_size", self.batch_size))

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
