"""Model, loss and metrics of one member as one module: a batch in, a number or the output out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import TaskError
from luthier.nn import Choose, Dropout, Values, Width, reading
from luthier.stack.mapped import TURN

LOSS = "loss:"  # before the names of a loss module's own parameters and buffers, in a state
PRECISIONS = {None: None, "bf16": torch.bfloat16}
OUTPUT = ""  # asks for what forward returns


def call_model(model: nn.Module, inputs: Any) -> Any:
    """The call of a model without ``forward=``: dicts are named arguments, tuples positional ones."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def parts(batch: Any) -> tuple[Any, Any]:
    """(inputs, target) of a batch: a pair is both, anything else stands for both."""
    return (batch[0], batch[1]) if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, batch)


class Member(nn.Module):
    """One member of a task's stack.

    Args:
        task: Gives loss, metrics, the call of the model, and the type for autocast.
        model: The network.
        measures: Loss and metrics by name, with whether each reads the hyperparameters.
    """

    def __init__(self, task: Any, model: nn.Module, measures: Mapping[str, tuple[Callable[..., Any], bool]]) -> None:
        super().__init__()
        self.model = model
        self._call, self._autocast = task.forward or call_model, PRECISIONS[task.precision]
        loss, _ = measures["loss"]
        self.loss = copy.deepcopy(loss) if isinstance(loss, nn.Module) else None
        self._device = torch.device(task.device or "cpu")
        self._measures = dict(measures)

    @property
    def rough(self) -> bool:
        """True if it computes under autocast."""
        return self._autocast is not None

    @property
    def plain(self) -> bool:
        """True if the model is called as :func:`call_model` does."""
        return self._call is call_model

    def forward(self, batch: Any, hyper: Mapping[str, Tensor], wanted: str, differentiable: bool) -> Any:
        """The loss or metric ``wanted`` of a batch, a scalar; the model's output where that is :data:`OUTPUT`."""
        inputs, target = parts(batch)
        with (
            reading(Values(hyper, differentiable)),
            torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None),
        ):
            output = self._call(self.model, inputs)
            return output if wanted == OUTPUT else self.measure(wanted, output, target, hyper)

    def measure(self, name: str, output: Any, target: Any, hyper: Mapping[str, Tensor]) -> Tensor:
        """A loss or metric of one member's output.

        Raises:
            TaskError: If it is no scalar.
        """
        function, reads_hyper = self._measures[name]
        function = self.loss if name == "loss" and self.loss is not None else function
        value: Any = function(output, target, hyper) if reads_hyper else function(output, target)
        if isinstance(value, int | float) and name != "loss":  # a metric computed outside torch
            return torch.as_tensor(float(value), dtype=torch.float64, device=self._device)
        if hasattr(value, "item") and not isinstance(value, Tensor) and name != "loss":
            return torch.as_tensor(float(value), dtype=torch.float64, device=self._device)
        if not isinstance(value, Tensor) or value.ndim:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TaskError(
                f"it returned {found}",
                where=f"{name} {getattr(function, '__name__', type(function).__name__)}(output, target)",
                remedy="Return a scalar tensor: end with .mean(), and do not use .item().",
            )
        return value


def own_name(path: str) -> str:
    """The name in a state of a member's tensor: the model's own, and :data:`LOSS` before those of the loss."""
    return path.removeprefix("model.") if path.startswith("model.") else LOSS + path.removeprefix("loss.")


def path_of(name: str) -> str:
    """The other way round."""
    return "loss." + name.removeprefix(LOSS) if name.startswith(LOSS) else f"model.{name}"


def read_by(model: nn.Module) -> tuple[set[str], set[str]]:
    """The hyperparameters that a model's layers read, and those of them that decide between modules."""
    layers = [part for part in model.modules() if isinstance(part, Dropout | Choose | Width)]
    names = {part.dropout_hyperparameter if isinstance(part, Dropout) else part.name for part in layers}
    return names, {part.name for part in layers if isinstance(part, Choose)}


def refuse_gradient_hooks(model: nn.Module, what: str = "model") -> None:
    """Refuse hooks on the gradients of parameters: a stack computes gradients of tensors of its own.

    Raises:
        TaskError: If there is one.
    """
    for name, param in model.named_parameters():
        if param._backward_hooks or getattr(param, "_post_accumulate_grad_hooks", None):
            raise TaskError(
                "a hook on its gradient would not be called, for a stack takes gradients of tensors of its own",
                where=f"{what}, {name}",
                remedy="Multiply the parameter by its mask in forward, or make it of a frozen and a trained part.",
            )


def refuse_counting(member: Member, batch: Any, hyper: Mapping[str, Tensor]) -> None:
    """Refuse a network or loss that counts its calls in a plain attribute, which all members of a stack would share.

    Two equal calls leave equal numbers behind, such as the last input's size, or it counts.

    Raises:
        TaskError: If a number differs.
    """
    kept: list[dict[str, float]] = []
    for _ in range(2):
        try:
            with TURN, torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                member(batch, hyper, "loss", False)
        except Exception:  # it has run before, in its own way
            return
        kept.append(_numbers(member))
    for name, value in kept[1].items():
        if kept[0].get(name) != value and value == value:
            raise TaskError(
                f"it counts its calls in the attribute {name!r}, which all members of a stack would share",
                where="model or loss",
                remedy="Register what is counted as a buffer (register_buffer) and change it in place.",
            )


def _numbers(member: Member) -> dict[str, float]:
    """The plain numbers that network and loss keep, by the path of their attributes."""
    holders: dict[str, Any] = {"loss": member._measures["loss"][0], **dict(member.named_modules())}
    return {
        f"{path}.{name}".removeprefix("."): value
        for path, holder in holders.items()
        for name, value in getattr(holder, "__dict__", {}).items()
        if type(value) in (int, float)
    }
