"""Model, loss and metrics of one member as one module: a batch in, a number or the output out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.hidden import Code, alike, outside
from luthier.nn import Choose, Dropout, Values, Width, reading
from luthier.places import Look
from luthier.stack.mapped import TURN
from luthier.task.keyed import drawing

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
        kind, narrow = self._device.type, self._autocast
        same = narrow is None and not torch.is_autocast_enabled(kind)
        cast = nullcontext() if same else torch.autocast(kind, narrow, enabled=narrow is not None)
        with reading(Values(hyper, differentiable)), cast:
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


def refuse_counting(member: Member, again: Member, batch: Any, hyper: Mapping[str, Tensor], begun: Look) -> bool:
    """Refuse a network that computes something else when it is built again, and one that acts on its earlier calls.

    Args:
        member: Network and loss.
        again: The same, built from the same configuration.
        batch: A minibatch.
        hyper: Hyperparameters of one member.
        begun: The loss and ``forward`` before they ran for the first time.

    Returns:
        True if something that is kept decides which code runs: vmap might not run all of it.

    Raises:
        TaskError: If losses differ, or what is kept can reach them.
    """

    def run(one: Member, given: Any = batch) -> Tensor:
        with TURN, drawing(0), _buffers_apart(one):
            return one(given, hyper, "loss", False)

    def whole() -> Any:
        """All that a training takes from it: the loss with its gradients, new buffers, and the loss in evaluation."""
        trained = [parameter for parameter in member.parameters() if parameter.requires_grad]
        found = measured = None
        with TURN, drawing(0), _buffers_apart(member):
            loss = member(batch, hyper, "loss", False)
            with suppress(Exception):
                found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
            buffers = [buffer.clone() for buffer in member.buffers()]
            with suppress(Exception):
                measured = member.eval()(batch, hyper, "loss", False).detach()
            weights = [(parameter.detach().sum(), parameter.requires_grad) for parameter in member.parameters()]
        member.train()
        return loss.detach(), found, buffers, weights, measured

    code = code_of(member)
    for each in (member, again):  # made in whatever mode
        each.train()
    try:
        first, before = whole()[0], outside(code.owners)
        second = whole()[0]
        made = _after_another(again, batch, run, begun)
        rebuilt = run(again).detach()
    except Exception:  # it has run before, in its own way
        return False
    branches = code.compare(first, second, before, whole, lambda: run(member, half(batch)))
    if not alike(first, rebuilt):
        raise code.error(made) if made else BUILDER.error([])
    return branches


def _after_another(member: Member, batch: Any, run: Callable[..., Any], begun: Look) -> list[str]:
    """Make a member's first call one with other weights and inputs; the names of what it has kept of them."""
    owners, loss = code_of(member).owners, begun.values
    now = Look(owners)
    for name, places in now.places.items():  # a loss has run before: it begins anew
        if name in loss and loss[name] is None and now.values[name] is not None:
            for place in places:
                place.put(None)
    fresh, kept = Look(owners), [parameter.data for parameter in member.parameters()]
    for parameter in member.parameters():
        parameter.data = parameter.data * 1.1
    try:
        run(member, pytree.tree_map_only(Tensor, lambda t: 0.9 * t if t.is_floating_point() else t, batch))
    except Exception:  # of inputs that it was not made for
        return []
    finally:
        for parameter, data in zip(member.parameters(), kept, strict=True):
            parameter.data = data
    return [name for name in Look(owners).found if fresh.values.get(name) is None]


def half(batch: Any) -> Any:
    """The first rows of a minibatch."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[: (len(tensor) + 1) // 2], batch)


@contextmanager
def _buffers_apart(member: Member) -> Iterator[None]:
    """Have a run write into copies of the buffers."""
    places = [(part._buffers, name) for part in member.modules() for name in part._buffers]
    kept = [slots[name] for slots, name in places]
    for (slots, name), tensor in zip(places, kept, strict=True):
        slots[name] = None if tensor is None else tensor.clone()
    try:
        yield
    finally:
        for (slots, name), tensor in zip(places, kept, strict=True):
            slots[name] = tensor


BUILDER = Code(
    where="TorchTask(model=…)",
    what="model(config), called twice with one configuration and seed,",
    remedy="Draw initial weights from the global generators of torch, NumPy or random, which luthier sets for each "
    "training, or from a generator that model(config) makes; and let what it builds depend on the configuration alone.",
)


def code_of(member: Member) -> Code:
    """The user's code that a training step runs."""
    loss = member._measures["loss"][0] if member.loss is None else member.loss
    return Code(
        where="model or loss",
        what="a training step from the same weights, minibatch and noise",
        remedy="Register what is kept as a buffer (register_buffer) and change it in place, or compute it outside.",
        owners={"model": member.model, "loss": loss, **({} if member.plain else {"forward": member._call})},
    )
