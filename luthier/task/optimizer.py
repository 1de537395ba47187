"""The optimizer of a task: one of luthier's, or whatever makes one of torch.optim's kind, for a configuration."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.errors import TaskError
from luthier.optim import SGD, Adam
from luthier.optim.stock import CODE, WHERE, TorchOptimizer
from luthier.optim.switch import Switch, alone
from luthier.space import Config, Float, Space
from luthier.task.readings import Recorder

if TYPE_CHECKING:
    from luthier.task.torch_task import TorchTask

Values = Callable[[Mapping[str, Tensor]], list[dict[str, Any]]]


def note_reads(task: TorchTask, model: nn.Module, recorder: Recorder) -> None:
    """Have the optimizer read what fixes its form; continuous settings of torch's may differ within a stack."""
    given = task.optimizer
    if isinstance(given, Switch):
        if not task.shared:
            given(recorder.own())
        return
    given = _resolved(given, recorder.own())
    if not isinstance(given, SGD | Adam):
        named = dict(model.named_parameters())
        continuous = frozenset(name for name, domain in task.space.domains.items() if isinstance(domain, Float))
        _made(given, model, named, recorder.own(quiet=continuous))


def optimizer_of(
    task: TorchTask, config: Config, model: nn.Module, named: Mapping[str, Tensor], values: Values
) -> SGD | Adam | Switch | TorchOptimizer:
    """Make the optimizer that updates the parameters of a program.

    Args:
        task: The task.
        config: A configuration with the program's static values.
        model: One member's network.
        named: Its trained parameters, by their names in a state.
        values: Maps a stack's hyperparameters to each member's configuration.

    Raises:
        TaskError: If it cannot be made, or not under these settings.
    """
    config = task.space.given(config)
    code = replace(CODE, what="optimizer(config), called twice with one configuration,", owners={"it": task.optimizer})
    given = code.checked(lambda: _resolved(task.optimizer, config))
    if isinstance(given, Switch):
        return given if task.shared else _clipped(given(config), task)
    if isinstance(given, SGD | Adam):
        given = _clipped(given, task)
        return alone(given) if task.shared else given
    if task.shared:
        raise TaskError(
            f"{_title(given)} where options share their weights",
            where=WHERE,
            remedy="Each weight needs slots of its own for every choice: use lt.optim.SGD, Adam or a Switch of them.",
        )
    recorder = Recorder(config)
    _made(given, model, named, recorder)
    reads = tuple(recorder.seen) + tuple(name for name in ("clip_norm",) if name in config)
    configs = [task.space.given(each) for each in (config, *_moved(config, task.space))]
    make, owners = (lambda chosen: _made(given, model, named, chosen)), {"made by": given}
    return TorchOptimizer(make, named, configs, values, reads, task.clip_norm, owners)


def refuse_instance(given: Any) -> None:
    """Refuse an optimizer that is made already, over the parameters of one network."""
    if isinstance(given, torch.optim.Optimizer):
        raise TaskError(
            f"it is a {type(given).__name__} over the parameters of one network, and each training makes its own",
            where=WHERE,
            remedy=f"Give the class, torch.optim.{type(given).__name__}, or a function (params, config) -> optimizer.",
        )


def _resolved(given: Any, config: Any) -> Any:
    """An optimizer of ours, a class of torch's, or a function of parameters and configuration."""
    if isinstance(given, SGD | Adam | Switch) or _is_class(given):
        return given
    if not callable(given):
        raise TaskError(f"{given!r} cannot be called", where=WHERE, remedy="Give a class of torch.optim.")
    if _arity(given) >= 2:
        return given
    found = given(config)
    if isinstance(found, torch.optim.Optimizer) or (not callable(found) and not isinstance(found, SGD | Adam)):
        raise TaskError(
            f"optimizer(config) gave {_title(found)}",
            where=WHERE,
            remedy="A function of the configuration alone returns lt.optim.SGD(…), or a class of torch.optim; one of "
            "(params, config) returns an optimizer.",
        )
    return found if isinstance(found, SGD | Adam) else _resolved(found, config)


def _made(given: Any, model: nn.Module, named: Mapping[str, Tensor], config: Any) -> torch.optim.Optimizer:
    """An instance over the parameters of one network."""
    trained = [parameter for parameter in named.values() if parameter.requires_grad]
    try:
        if _is_class(given):
            return given(trained, **_settings(given, config))
        first = next(iter(inspect.signature(given).parameters.values())).name
        return given(model if first in ("model", "network", "module") else trained, config)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(
            f"{_title(given)} raised {type(error).__name__}: {error}",
            where=WHERE,
            remedy="Make it as in a plain loop: a class of torch.optim, or (params, config) -> optimizer, or "
            "(model, config) -> optimizer for parameter groups.",
        ) from error


def _settings(given: Any, config: Any) -> dict[str, Any]:
    """The arguments of a class that the configuration has, by their names; ``beta1`` and ``beta2`` are its betas."""
    kind = given.func if isinstance(given, functools.partial) else given
    fixed = given.keywords if isinstance(given, functools.partial) else {}
    parameters = inspect.signature(kind.__init__).parameters
    names = set(config)  # not `name in config`, which would be a reading
    found = {name: config[name] for name in parameters if name in names and name not in fixed}
    if "betas" in parameters and not {"betas"} & (found.keys() | fixed.keys()) and {"beta1", "beta2"} & names:
        default = parameters["betas"].default
        pair = list(default) if isinstance(default, tuple | list) else [0.9, 0.999]
        for i, name in enumerate(("beta1", "beta2")):
            pair[i] = config[name] if name in names else pair[i]
        found["betas"] = tuple(pair)
    return found


def _moved(config: Config, space: Space) -> list[dict[str, Any]]:
    """``config`` with two other values in each of its continuous places."""
    found = []
    for name, value in config.items():
        domain = space.domains.get(name)
        if not isinstance(domain, Float):
            continue
        middle = math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
        others = [x for x in (middle, domain.high, domain.low) if x != value][:2]
        found += [{**config, name: [x] * len(value) if isinstance(value, list) else x} for x in others]
    return found


def _clipped(given: SGD | Adam, task: TorchTask) -> SGD | Adam:
    if task.clip_norm is None:
        return given
    if given.clip_norm is not None or "clip_norm" in task.space.domains:
        raise TaskError(
            f"clip_norm={task.clip_norm} and another clip_norm, of the optimizer or the space",
            where="TorchTask(clip_norm=…)",
            remedy="Leave one of them out.",
        )
    return replace(given, clip_norm=task.clip_norm)


def _is_class(given: Any) -> bool:
    kind = given.func if isinstance(given, functools.partial) and not given.args else given
    return isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)


def _arity(function: Any) -> int:
    """Arguments that it needs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def _title(given: Any) -> str:
    return getattr(given, "__name__", None) or repr(given)[:60]
