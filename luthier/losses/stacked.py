"""A loss or metric for all members of a stack: by its written form, by vmap, or one member after the other."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.losses import forms


def mapped() -> bool:
    """Return True inside of torch.func's transforms."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]


class StackedLoss:
    """A loss or metric for all members of a stack, made by :func:`stacked_loss`.

    Attributes:
        form: ``"written"``, ``"vmap"``, or ``"loop"``: one member after the other.
        reads_hyper: True if the function takes hyperparameters.
    """

    def __init__(self, loss: Callable[..., Any], what: str = "loss") -> None:
        self._loss, self._what = loss, what
        self._measured: Any = copy.deepcopy(loss).eval() if isinstance(loss, nn.Module) else loss
        self._form = forms.written(loss)
        self.by_rows = self._form is not None or getattr(loss, "by_rows", False)
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

    def member(self, rule: int) -> Callable[..., Any]:
        """The function of one member: the written form where there is one, which a member of NaN does not stop.

        Args:
            rule: The rule of :mod:`luthier.stack.settle` by which a stack runs.
        """
        form = self._form
        if form is None:
            return self._loss
        torchs = rule > 1 and isinstance(form, functools.partial) and form.func is forms.torch_cross_entropy

        def one(output: Tensor, target: Tensor) -> Tensor:
            # outside of vmap torch's own is one operator in place of six
            if torchs and not mapped() and target.shape == (*output.shape[:1], *output.shape[2:]):
                return self._loss(output, target)
            return form(output.unsqueeze(0), target.unsqueeze(0))[0]

        return one

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
        if form is not forms.torch_cross_entropy or targets.is_floating_point():
            return rows
        return float(forms.counted(targets.unsqueeze(0)))

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
        >>> from luthier.losses import mean_squared_error
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
