"""Layers of a stacked model that hyperparameters decide on: one of several options, and a number of features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from luthier.errors import TaskError
from luthier.nn import Choose, Width
from luthier.stack.layout import Call, Value, plain


class Branch(nn.Module):
    """Stands in for one :class:`luthier.nn.Choose` layer of the user's model.

    Args:
        layer: The layer.
        where: Its name in the model.
    """

    call: Call | None = None  # of the member that runs through ``forward``, while it does

    def __init__(self, layer: Choose, where: str) -> None:
        super().__init__()
        self.rate, self.where, self.options = layer.name, where, layer.options

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the member's own option, for code that runs one member at a time."""
        return self.options[0 if self.call is None else position(self, self.call)](inputs)


class Mask(nn.Module):
    """Stands in for one :class:`luthier.nn.Width` layer of the user's model.

    Args:
        layer: The layer.
        where: Its name in the model.
    """

    call: Call | None = None

    def __init__(self, layer: Width, where: str) -> None:
        super().__init__()
        self.rate, self.where, self.axis = layer.name, where, layer.axis

    def forward(self, inputs: Tensor) -> Tensor:
        """Run :func:`narrow` on a stack of one, for code that runs one member at a time."""
        if self.call is None:  # the model is run to be looked at
            return inputs
        return narrow(self, self.call, Value(inputs.unsqueeze(0), "plain")).tensor[0]


def replace_choices(model: nn.Module) -> dict[str, int]:
    """Put a :class:`Branch` or :class:`Mask` in place of each such layer below ``model``.

    Returns:
        The hyperparameters that they read, with the number of options of each; 0 for a width.
    """
    counts: dict[str, int] = {}
    made: dict[nn.Module, nn.Module] = {}
    for path, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, Choose | Width):
                where = f"{path}.{name}".lstrip(".")
                stand_in = Branch(child, where) if isinstance(child, Choose) else Mask(child, where)
                parent._modules[name] = made.setdefault(child, stand_in)
                counts[child.name] = len(child.values) if isinstance(child, Choose) else 0
    return counts


@contextmanager
def choosing(model: nn.Module, decision: dict[str, Tensor]) -> Iterator[None]:
    """Let the branches of a module that is run by itself take these options, (members,) positions by name."""
    branches = [part for part in model.modules() if isinstance(part, Branch)]
    for branch in branches:
        branch.call = Call({}, {}, decision, None, 1, silent=True)
    try:
        yield
    finally:
        for branch in branches:
            branch.call = None


def position(branch: Branch, call: Call) -> int:
    """Index of the option that runs, the same for all members of a call.

    Raises:
        TaskError: If the stack has no such hyperparameter.
    """
    chosen = call.hyper.get(branch.rate)
    if chosen is not None:
        return int(chosen[0])
    if call.silent:  # the rewritten form is held against the model itself, in any option
        return 0
    raise _missing(branch, call)


def narrow(site: Mask, call: Call, x: Value) -> Value:
    """The first features of each member, as many as it has, and zeros for the others."""
    width = call.hyper.get(site.rate)
    if width is None and call.silent:
        return x
    if width is None:
        raise _missing(site, call)
    if x.layout == "last":
        tensor, axis = x.tensor, 1
    else:
        tensor, axis = plain(x, call.members), site.axis + 1
    if axis >= tensor.ndim:
        raise TaskError(
            f"it gets inputs of shape {tuple(tensor.shape[1:])}, which have no axis {site.axis}",
            where=f"model, {site.where} (Width)",
            remedy="Give axis= of the features.",
        )
    features = torch.arange(tensor.shape[axis], device=tensor.device)
    keep = features < width.detach().view(-1, 1)  # (members, features)
    shape = [len(keep), *(1 for _ in range(1, tensor.ndim))]
    shape[axis] = tensor.shape[axis]
    return Value(torch.where(keep.view(shape), tensor, 0.0), "last" if x.layout == "last" else "plain")


def _missing(site: Branch | Mask, call: Call) -> TaskError:
    kind = "Choose" if isinstance(site, Branch) else "Width"
    return TaskError(
        f"there is no hyperparameter {site.rate!r}",
        where=f"lt.nn.{kind}({site.rate!r})",
        remedy=f"The stack has {', '.join(call.hyper) or 'none'}: put {site.rate!r} into the space.",
    )
