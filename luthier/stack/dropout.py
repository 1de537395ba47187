"""Dropout from the members' own noise, and the search for code that draws from torch's generators instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from luthier.errors import TaskError
from luthier.nn import with_slope
from luthier.stack.layout import Call, Value, plain

STATIC = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Site(nn.Module):
    """Stands in for one dropout layer of the user's model.

    Args:
        rate: The rate, or the name of the hyperparameter that holds it.
        channels: Drop whole channels.
        where: The layer's name in the model.
    """

    call: Call | None = None  # of the members that run through ``forward``, while they do

    def __init__(self, rate: float | str, channels: bool, where: str) -> None:
        super().__init__()
        self.rate, self.channels, self.where = rate, channels, where

    def forward(self, inputs: Tensor) -> Tensor:
        """Run :func:`drop` on a stack of one, for code that runs one member at a time."""
        if self.call is None:  # the model is run to be looked at
            return inputs
        return drop(self, self.call, Value(inputs.unsqueeze(0), "plain")).tensor[0]


def replace_dropout(model: nn.Module) -> set[str]:
    """Put a :class:`Site` in place of each dropout layer below ``model``; returns the hyperparameters read by them."""
    names: set[str] = set()
    made: dict[nn.Module, Site] = {}
    for path, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            named = getattr(child, "dropout_hyperparameter", None)  # of luthier.nn.Dropout
            if type(child) in STATIC or isinstance(named, str):
                rate = named if isinstance(named, str) else child.p  # type: ignore[union-attr]
                where = f"{path}.{name}".lstrip(".")
                channels = type(child) in STATIC[1:]
                parent._modules[name] = made.setdefault(child, Site(rate, channels, where))  # type: ignore[arg-type]
                made[child].training = child.training  # type: ignore[index]
                if isinstance(named, str):
                    names.add(named)
    return names


def drop(site: Site, call: Call, x: Value) -> Value:
    """Dropout of a stack: each draw in a run has a site of its own, in the order of execution."""
    if not site.training or call.silent or site.rate == 0:
        return x
    if call.noise is None:
        raise TaskError(
            "dropout is active and there is no noise",
            where=f"model, {site.where}",
            remedy="Give noise=Noise(key, step).",
        )
    number, call.draws = call.draws, call.draws + 1
    batch_last = x.layout == "last"
    tensor = x.tensor if batch_last else plain(x, call.members)  # (members, …)
    shape = tensor.shape[1:][::-1] if batch_last else tensor.shape[1:]
    if site.channels:
        shape = (*shape[:2], *(1,) * (len(shape) - 2))
    rate = _rate(site, call) if isinstance(site.rate, str) else site.rate
    if isinstance(rate, Tensor):
        scale = torch.where(rate < 1, 1 / (1 - rate), 0.0).to(tensor.dtype).view(-1, *(1,) * len(shape))
    else:
        scale = 1 / (1 - rate) if rate < 1 else 0.0
    keep = call.noise.keep(number, shape, rate, batch_last=batch_last)
    factor = keep.to(tensor.dtype) * scale
    if call.noise.differentiable and isinstance(site.rate, str):
        factor = with_slope(factor, keep, call.hyper[site.rate])
    return Value(tensor * factor, "last" if batch_last else "plain")


def _rate(site: Site, call: Call) -> Tensor:
    """The rate of each member, (members,)."""
    rate = call.hyper.get(str(site.rate))
    if rate is None:
        raise TaskError(
            f"there is no hyperparameter {site.rate!r}",
            where=f"lt.nn.Dropout({site.rate!r})",
            remedy=f"The stack has {', '.join(call.hyper) or 'none'}: put {site.rate!r} into the space.",
        )
    return rate.detach()


def refuse_generators(model: nn.Module, run: Callable[[], Any], device: torch.device) -> None:
    """Run the model once and raise if its code draws from torch's generators.

    Args:
        model: The model, with its dropout layers replaced.
        run: Runs it.
        device: Device that it runs on.

    Raises:
        TaskError: Naming the innermost module that draws.
    """
    before: dict[str, Tensor] = {}
    culprits: list[str] = []

    def state() -> Tensor:
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    def entered(name: str) -> Callable[..., None]:
        return lambda module, inputs: before.__setitem__(name, state())

    def left(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: culprits.append(name) if not torch.equal(before[name], state()) else None

    hooks = []
    for name, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(entered(name)), module.register_forward_hook(left(name))]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    if culprits:
        kind = type(model.get_submodule(culprits[0])).__name__
        raise TaskError(
            "forward draws from torch's random generator, so a member would not be the same alone and in a stack",
            where=f"model, {culprits[0] or 'forward'} ({kind})",
            remedy="Use nn.Dropout(rate) or lt.nn.Dropout(name) as a module of its own, and set the dropout inside "
            "other layers to 0.",
        )
