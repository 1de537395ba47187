"""A user's module made ready for a stack: its type and device, lazy parts, compiled parts, sparse gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from luthier.errors import TaskError
from luthier.stack.mapped import laid_out
from luthier.task.member import Member


def converted(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module on the device, its numbers in the type of the task, complex ones in that of twice its size."""
    wide = torch.complex128 if dtype == torch.float64 else torch.complex64

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device, wide)
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return model._apply(convert)


def refuse_doubles(model: nn.Module) -> None:
    """Refuse weights of twice the precision that the task has: they would be rounded, unsaid.

    Raises:
        TaskError: If there is one.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float64, torch.complex128):
            raise TaskError(
                f"its weights are {str(parameter.dtype).removeprefix('torch.')}, and the task computes in float32",
                where=f"model, {name}",
                remedy="Give TorchTask(dtype=torch.float64), or make the model in float32: model.float().",
            )


def prepared(member: Member, device: torch.device, dtype: torch.dtype) -> Member:
    """The member with its loss module converted as well, and without gradients that name rows.

    A sparse gradient holds the same numbers as a dense one, in a form that a stack does not have.
    """
    if member.loss is not None:
        converted(member.loss, device, dtype)
    for part in member.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.sparse = False
    return member


def as_eager(model: nn.Module) -> nn.Module:
    """The module with what ``torch.compile`` wraps in place of its wrappers: a stack compiles its whole step."""
    if hasattr(model, "_orig_mod"):
        return as_eager(model._orig_mod)  # type: ignore[arg-type]
    for part in model.modules():
        for name, child in list(part._modules.items()):
            if child is not None and hasattr(child, "_orig_mod"):
                part._modules[name] = child._orig_mod  # type: ignore[assignment]
    return model


def materialise(model: nn.Module, run: Callable[[], Any]) -> None:
    """Let lazy modules make their parameters, in one forward pass that changes no buffer."""
    if not any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        return
    training = {part: part.training for part in model.modules()}
    model.eval()
    with torch.no_grad():
        run()
    for part, mode in training.items():
        part.training = mode


@torch.no_grad()
def unstack_into(
    module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], row: int = 0
) -> nn.Module:
    """Load one member of a stack into a module of the user's.

    Args:
        module: The module that gets the member's parameters and buffers.
        params: (members, …) by name.
        buffers: (members, …) by name.
        row: Index of the member.

    Returns:
        The module.

    Raises:
        TaskError: If names or shapes differ.
    """
    for targets, stack in ((dict(module.named_parameters()), params), (dict(module.named_buffers()), buffers)):
        for name in {**targets, **stack}:
            wanted = _sizes(targets[name].shape) if name in targets else "none"
            found = _sizes(stack[name].shape[1:]) if name in stack else "none"
            if wanted != found:
                raise TaskError(
                    f"{name!r} has shape {wanted} in the module and {found} in the stack",
                    where=f"unstack_into({type(module).__name__})",
                    remedy="Give a module of the architecture that was stacked.",
                )
            target, value = targets[name], laid_out(stack[name][row], targets[name].layout)
            if target.layout == torch.strided:
                target.copy_(value)
            else:  # sparse tensors can be copied only over others with as many entries
                owner, _, last = name.rpartition(".")
                module.get_submodule(owner)._buffers[last] = value.to(target)
    return module


def _sizes(shape: Any) -> str:
    return "none" if shape is None else str(tuple(shape))
