"""Losses of one member, ``loss(output, target) -> scalar``, minimised, and how a loss runs for a stack of members.

The losses here, and torch's own with their default settings, have a written stacked form. Any other function runs by
vmap; one that vmap cannot run (it calls ``item()`` or NumPy) runs for one member after the other.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from luthier.errors import TaskError

Stacked = Callable[..., Tensor]  # stacked(outputs (members, batch, …), targets (members or 1, batch, …), **settings)
Function = TypeVar("Function", bound=Callable[..., Any])


def _within(tensor: Tensor) -> tuple[int, ...]:
    """All axes but the members'."""
    return tuple(range(1, tensor.ndim))


def _shapes_error(outputs: Tensor, targets: Tensor, remedy: str) -> TaskError:
    what = f"an output of shape {tuple(outputs.shape[1:])} and a target of shape {tuple(targets.shape[1:])}"
    return TaskError(what, where="loss(output, target)", remedy=remedy)


def _like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the outputs' shape and type: (batch,) and (batch, 1) are the same."""
    if targets.shape[1:] != outputs.shape[1:]:
        if [n for n in targets.shape[1:] if n != 1] != [n for n in outputs.shape[1:] if n != 1]:
            raise _shapes_error(outputs, targets, "Give both one shape.")
        targets = targets.reshape(len(targets), *outputs.shape[1:])
    return targets.to(outputs.dtype)


def _classes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, int]:
    """Outputs and targets with the classes on one axis: 1 where the outputs lie batch last in memory, else 2."""
    if outputs.ndim < 3:
        raise _shapes_error(outputs, targets, "Classes are the output's second axis: (batch, classes).")
    probabilities = targets.is_floating_point()
    if targets.shape[1:] != (outputs.shape[1:] if probabilities else (outputs.shape[1], *outputs.shape[3:])):
        raise _shapes_error(outputs, targets, "Give the target as class numbers, (batch,), or as probabilities.")
    if outputs.ndim > 3 or not outputs.transpose(1, 2).is_contiguous():
        return outputs, targets, 2
    return outputs.transpose(1, 2), targets.transpose(1, 2) if probabilities else targets, 1


def _cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float | Tensor = 0.0) -> Tensor:
    outputs, targets, axis = _classes(outputs, targets)
    logs = outputs.log_softmax(axis)
    if targets.is_floating_point():
        fit = (logs * targets).sum(axis)
    else:
        numbers = targets.to(torch.int64).unsqueeze(axis)
        fit = logs.gather(axis, numbers.expand(len(logs), *numbers.shape[1:])).squeeze(axis)
    if isinstance(label_smoothing, Tensor) or label_smoothing != 0:
        fit = fit * (1 - label_smoothing) + logs.mean(axis) * label_smoothing
    return fit.mean(_within(fit)).neg()


def _torch_cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy as :func:`torch.nn.functional.cross_entropy` has it: rows with the target -100 are left out."""
    if targets.is_floating_point():
        return _cross_entropy(outputs, targets, label_smoothing)
    outputs, targets, axis = _classes(outputs, targets)
    numbers = targets.expand(len(outputs), *targets.shape[1:])
    if axis == 1:
        rows = F.cross_entropy(outputs, numbers, reduction="none", label_smoothing=label_smoothing)
    else:
        rows = F.cross_entropy(
            outputs.flatten(0, 1), numbers.flatten(0, 1), reduction="none", label_smoothing=label_smoothing
        ).view(numbers.shape)
    return rows.sum(_within(rows)) / _counted(targets)


def _counted(targets: Tensor) -> Tensor:
    """Targets of each member that count in torch's cross-entropy, (members or 1,)."""
    return (targets != -100).sum(_within(targets))


def _mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - _like(outputs, targets)).square().mean(_within(outputs))


def _mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - _like(outputs, targets)).abs().mean(_within(outputs))


def _huber(outputs: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    targets = _like(outputs, targets).expand(outputs.shape)
    return F.huber_loss(outputs, targets, reduction="none", delta=delta).mean(_within(outputs))


def _smooth_l1(outputs: Tensor, targets: Tensor, beta: float = 1.0) -> Tensor:
    targets = _like(outputs, targets).expand(outputs.shape)
    return F.smooth_l1_loss(outputs, targets, reduction="none", beta=beta).mean(_within(outputs))


def _binary_cross_entropy_with_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((1 - _like(outputs, targets)) * outputs - F.logsigmoid(outputs)).mean(_within(outputs))


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    # not torch's kernel: it raises an error for all members where one of them is NaN, and is slow for many
    targets = _like(outputs, targets)
    truth = torch.stack((targets, 1 - targets), 1)
    logs = torch.stack((outputs, 1 - outputs), 1).clamp(min=math.exp(-100)).log()  # -100 at least, as in torch
    return (logs * truth).sum(_within(logs)) / -outputs[0].numel()


def stacked_form(form: Stacked) -> Callable[[Function], Function]:
    """Give a loss or metric its stacked form, which :func:`stacked_loss` then takes instead of vmap.

    Args:
        form: ``form(outputs, targets, **settings) -> (members,)`` for outputs (members, batch, …) and targets
            (members, batch, …) or, shared by all members, (1, batch, …). It must equal the function on each member.
    """

    def mark(function: Function) -> Function:
        function.stacked = form  # type: ignore[attr-defined]
        return function

    return mark


@stacked_form(_cross_entropy)
def cross_entropy(output: Tensor, target: Tensor, *, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Mean cross-entropy of logits.

    Args:
        output: Logits, (batch, classes, …).
        target: Class numbers, (batch, …), or probabilities in the output's shape.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1].

    Examples:
        >>> cross_entropy(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))
        tensor(1.3863)
        >>> smooth = functools.partial(cross_entropy, label_smoothing=0.1)  # keeps the fast stacked form
    """
    return _cross_entropy(output[None], target[None], label_smoothing)[0]


@stacked_form(_mean_squared_error)
def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of ``(output - target)²`` over all elements; (batch,) fits (batch, 1)."""
    return _mean_squared_error(output[None], target[None])[0]


@stacked_form(_mean_absolute_error)
def mean_absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of ``|output - target|`` over all elements; (batch,) fits (batch, 1)."""
    return _mean_absolute_error(output[None], target[None])[0]


@stacked_form(_huber)
def huber(output: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    """Mean Huber loss: quadratic up to ``delta``, linear beyond; (batch,) fits (batch, 1).

    References:
        Huber 1964, Robust estimation of a location parameter.
    """
    return _huber(output[None], target[None], delta)[0]


@stacked_form(_binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits(output: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits against targets in [0, 1]; (batch,) fits (batch, 1)."""
    return _binary_cross_entropy_with_logits(output[None], target[None])[0]


@stacked_form(_binary_cross_entropy)
def binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities against targets in [0, 1]; (batch,) fits (batch, 1).

    Logarithms are at least -100, as in torch. Prefer :func:`binary_cross_entropy_with_logits` for a network of your
    own: it needs no such bound.
    """
    return _binary_cross_entropy(output[None], target[None])[0]


# torch's losses with a stacked form: its settings that the form takes; with any other the loss runs by vmap.
def _of_one_shape(form: Stacked) -> Stacked:
    """The form for torch's function, which would spread (batch,) and (batch, 1) to (batch, batch)."""

    @functools.wraps(form)
    def checked(outputs: Tensor, targets: Tensor, **settings: Any) -> Tensor:
        if targets.shape[1:] != outputs.shape[1:]:
            raise _shapes_error(outputs, targets, "torch would broadcast one over the other: give both one shape.")
        return form(outputs, targets, **settings)

    return checked


TORCH: dict[Any, tuple[Stacked, tuple[str, ...]]] = {
    F.cross_entropy: (_torch_cross_entropy, ("label_smoothing",)),
    F.mse_loss: (_of_one_shape(_mean_squared_error), ()),
    F.l1_loss: (_of_one_shape(_mean_absolute_error), ()),
    F.huber_loss: (_of_one_shape(_huber), ("delta",)),
    F.smooth_l1_loss: (_of_one_shape(_smooth_l1), ("beta",)),
    F.binary_cross_entropy: (_binary_cross_entropy, ()),
    F.binary_cross_entropy_with_logits: (_binary_cross_entropy_with_logits, ()),
}
TORCH |= {
    kind: TORCH[function]
    for kind, function in {
        nn.CrossEntropyLoss: F.cross_entropy,
        nn.MSELoss: F.mse_loss,
        nn.L1Loss: F.l1_loss,
        nn.HuberLoss: F.huber_loss,
        nn.SmoothL1Loss: F.smooth_l1_loss,
        nn.BCELoss: F.binary_cross_entropy,
        nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    }.items()
}


def _written(loss: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The stacked form of a loss with its settings, or None."""
    settings: dict[str, Any] = {}
    if isinstance(loss, functools.partial):
        if loss.args:
            return None
        loss, settings = loss.func, loss.keywords
    if hasattr(loss, "stacked"):
        return functools.partial(loss.stacked, **settings)
    if type(loss) in TORCH and not settings:
        form, names = TORCH[type(loss)]
        plain = type(loss)(**{name: getattr(loss, name) for name in names})
        tensors = [*loss.parameters(), *loss.buffers()]
        same = all(value == vars(loss)[name] for name, value in vars(plain).items() if not name.startswith("_"))
        settings = {name: getattr(loss, name) for name in names}
        return functools.partial(form, **settings) if same and not tensors else None
    form, names = TORCH.get(loss, (None, ())) if isinstance(loss, Hashable) else (None, ())
    return functools.partial(form, **settings) if form is not None and set(settings) <= set(names) else None


class Mean:
    """A loss or metric that is a mean over rows, so that it may be measured on one batch after the other.

    Any other function gets the outputs on the whole split at once, which have to fit into memory.

    Args:
        function: ``function(output, target)`` or ``function(output, target, hyper)``, a scalar.

    Examples:
        >>> brier = Mean(lambda output, target: (output.softmax(1) - F.one_hot(target, 10)).square().sum(1).mean())
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TaskError(f"{function!r} cannot be called", where="lt.losses.Mean(function)", remedy="Give one.")
        self.function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__wrapped__ = function  # whose arguments inspect.signature shows

    def __call__(self, *args: Any) -> Any:
        """The function's own value."""
        return self.function(*args)


def models_own(output: Any, target: Any) -> Any:
    """Return the loss that the model has computed itself: ``output.loss`` or ``output["loss"]``.

    Raises:
        TaskError: If there is none.
    """
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if found is None:
        raise TaskError(
            f"the model returned {type(output).__name__} without a loss",
            where="TorchTask(loss=…)",
            remedy="Give loss=function(output, target), or let the batch that the model gets hold the targets.",
        )
    return found


class StackedLoss:
    """A loss or metric for all members of a stack, made by :func:`stacked_loss`.

    Attributes:
        form: ``"written"``, ``"vmap"``, or ``"loop"``: one member after the other.
        reads_hyper: True if the function takes hyperparameters.
    """

    def __init__(self, loss: Callable[..., Any], what: str = "loss") -> None:
        self._loss, self._what = loss, what
        self._measured: Any = copy.deepcopy(loss).eval() if isinstance(loss, nn.Module) else loss
        self._form = _written(loss)
        self.by_rows = self._form is not None or isinstance(loss, Mean)
        self.name = getattr(loss, "__name__", type(loss).__name__)
        self.form: Literal["written", "vmap", "loop"] = "vmap" if self._form is None else "written"
        self.reads_hyper = self._form is None and _takes_hyper(loss, f"{what} {self.name}")

    def __call__(
        self, outputs: Tensor, targets: Tensor, hyper: Mapping[str, Tensor] | None = None, *, own: bool | None = None
    ) -> Tensor:
        """The value of each member, (members,).

        Args:
            outputs: (members, batch, …).
            targets: (batch, …) for all members, or (members, batch, …).
            hyper: (members, …) by name.
            own: True if each member has its own targets; None infers it from the shapes.

        Raises:
            TaskError: If shapes do not fit, or the function does not return a scalar.
        """
        own = _are_own(outputs, targets) if own is None else own
        if self._form is not None:
            return self._form(outputs, targets if own else targets.unsqueeze(0))
        extra = dict(hyper or {}) if self.reads_hyper else {}
        if self.form == "loop":
            return self._in_turn(outputs, targets, extra, own)
        try:
            return vmap(self._one, in_dims=(0, 0 if own else None, 0), randomness="error")(outputs, targets, extra)
        except TaskError:
            raise
        except Exception as error:  # what torch.func raises, or the user's own code
            if "random operation" in str(error):
                raise TaskError(
                    "it draws from torch's generator, so a member would not be the same alone and in a stack",
                    where=f"loss {self.name}",
                    remedy="Draw nothing in a loss; for noise on the inputs give the task an augment function.",
                ) from error
            result = self._in_turn(outputs, targets, extra, own)
            if detect_fake_mode() is None:  # what fails on a trace's tensors without values may do on real ones
                self.form = "loop"
            return result

    @property
    def member(self) -> Callable[..., Any]:
        """The function of one member: the written form where there is one, which a member of NaN does not stop."""
        form = self._form
        if form is None:
            return self._loss
        return lambda output, target: form(output.unsqueeze(0), target.unsqueeze(0))[0]

    def rows(
        self,
        outputs: Any,
        targets: Any,
        hyper: Mapping[str, Tensor],
        own: Mapping[str, Tensor] | None = None,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Tensor:
        """The value of each member on outputs and targets of any nest, measured in turn unless there is a form.

        Args:
            outputs: A nest of (members, …).
            targets: A nest, the same for all members.
            hyper: (members, …) by name.
            own: The parameters and buffers of a loss that is a module, (members, …) by name.
            around: Context of each call, which sets the generators that it may draw from.
        """
        if self._form is not None:  # in one layout: the order of a sum follows it, and vmap's varies with the members
            return self._form(outputs.contiguous(), targets.unsqueeze(0))
        extra = dict(hyper) if self.reads_hyper else {}
        members = len(next(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)))

        def one(i: int) -> Tensor:
            row = pytree.tree_map_only(Tensor, lambda tensor: tensor[i].contiguous(), outputs)
            knobs = {name: value[i] for name, value in extra.items()}
            given = (row, targets, knobs) if self.reads_hyper else (row, targets)
            with around():
                if not own:
                    return self._one(row, targets, knobs, self._measured)
                return functional_call(self._measured, {name: tensor[i].clone() for name, tensor in own.items()}, given)

        return torch.stack([one(i) for i in range(members)])

    def weight(self, targets: Any, rows: int) -> float:
        """Weight of a batch's value in the mean over several batches: its rows, or the number that torch divides by."""
        form = self._form.func if isinstance(self._form, functools.partial) else None
        if form is not _torch_cross_entropy or targets.is_floating_point():
            return rows
        return float(_counted(targets.unsqueeze(0)))

    def _one(self, output: Any, target: Any, hyper: dict[str, Tensor], function: Any = None) -> Tensor:
        function = self._loss if function is None else function
        value: Any = function(output, target, hyper) if self.reads_hyper else function(output, target)
        number = isinstance(value, int | float) or (hasattr(value, "item") and not getattr(value, "ndim", 0))
        if number and not isinstance(value, Tensor):
            if not (isinstance(output, Tensor) and output.requires_grad):  # a metric computed outside torch
                value = torch.as_tensor(float(value), dtype=torch.float64)
        if not isinstance(value, Tensor) or value.ndim or value.is_complex():
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            found = "a complex number" if isinstance(value, Tensor) and value.is_complex() else found
            shape = f" for an output of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
            raise TaskError(
                f"it returned {found}{shape}",
                where=f"{self._what} {self.name}(output, target)",
                remedy="Return a scalar tensor: end with .mean(), and do not use .item().",
            )
        return value

    def _in_turn(self, outputs: Tensor, targets: Tensor, hyper: dict[str, Tensor], own: bool) -> Tensor:
        rows = range(len(outputs))
        return torch.stack(
            [self._one(outputs[k], targets[k] if own else targets, {n: v[k] for n, v in hyper.items()}) for k in rows]
        )


def stacked_loss(loss: Callable[..., Any], what: str = "loss") -> StackedLoss:
    """Turn a loss or metric of one member into one for a stack.

    Args:
        loss: ``loss(output, target)`` or ``loss(output, target, hyper)``: one of this module, one of torch's, or any
            function or module that returns a scalar.
        what: Its name in errors.

    Raises:
        TaskError: If it cannot be called with an output and a target.

    Examples:
        >>> stacked_loss(mean_squared_error)(torch.ones(3, 4, 1), torch.zeros(4))
        tensor([1., 1., 1.])
    """
    return StackedLoss(loss, what)


def _takes_hyper(loss: Any, where: str) -> bool:
    """Return True if the function has a third positional argument without a default, or one called hyper."""
    try:
        arguments = list(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values())
    except (TypeError, ValueError) as error:  # not callable, or built in
        if callable(loss):
            return False
        raise TaskError(f"{loss!r} cannot be called", where=where, remedy="Give a function.") from error
    kinds = inspect.Parameter
    if any(argument.kind is kinds.VAR_POSITIONAL for argument in arguments):
        return False
    places = [a for a in arguments if a.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    required = [a for a in places if a.default is kinds.empty]
    unfilled = [a for a in arguments if a.kind is kinds.KEYWORD_ONLY and a.default is kinds.empty]
    if len(places) < 2 or len(required) > 3 or unfilled:
        raise TaskError(
            f"it has the arguments ({', '.join(argument.name for argument in arguments)})",
            where=where,
            remedy="Write it as function(output, target) or function(output, target, hyper).",
        )
    return len(places) > 2 and (places[2].default is kinds.empty or places[2].name == "hyper")


def _are_own(outputs: Tensor, targets: Tensor) -> bool:
    """Return True if targets have the members' axis, judging by the shapes."""
    if targets.shape[:2] == outputs.shape[:2]:
        return not (targets.is_floating_point() and targets.shape == outputs.shape[1:])
    if targets.shape[:1] == outputs.shape[1:2]:
        return False
    what = f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
    raise TaskError(what, where="stacked loss", remedy="Give targets (batch, …) or (members, batch, …).")
