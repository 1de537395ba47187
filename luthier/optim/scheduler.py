"""torch.optim's learning-rate schedulers over stacks: each member's settings at the coming steps, as a table.

A scheduler changes the settings of an optimizer as a function of how often it was stepped, and nothing else. So it is
stepped beforehand, on an optimizer that trains nothing, and a training step reads its row.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from luthier.errors import TaskError
from luthier.hidden import Code

WHERE = "TorchTask(scheduler=…)"
UNITS = ("step", "epoch")
TRIED = 20  # calls of step() that are compared with those of another scheduler of the same configuration
CODE = Code(
    where=WHERE,
    what="a scheduler, made and stepped as often under the same configuration,",
    remedy="Let it be a function of the number of its steps and of the configuration.",
)
KEPT = 4096  # members whose schedulers are kept where they have come to


class Scheduler:
    """A scheduler of each configuration.

    Args:
        factory: optimizer -> scheduler, or (optimizer, configuration) -> scheduler.
        instance: configuration -> optimizer.

    Raises:
        TaskError: If it makes none, or one that follows a metric.
    """

    def __init__(self, factory: Callable[..., Any], instance: Callable[[Mapping[str, Any]], Any]) -> None:
        self._factory, self._instance = factory, instance
        self._kept: dict[Any, tuple[Any, Any, list[dict[str, float]]]] = {}
        self._others: dict[Any, dict[str, float]] = {}  # settings that a scheduler must not change

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse one whose settings depend on more than how often it was stepped."""
        code = replace(CODE, owners={"scheduler": self._factory})
        code.checked(lambda: self._beginning(config))

    def _beginning(self, config: Mapping[str, Any]) -> list[dict[str, float]]:
        """The settings after the first calls of ``step``."""
        optimizer = self._instance(config)
        scheduler = self.made(optimizer, config)
        rows = [_settings(optimizer, scheduler)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer was not stepped
            for _ in range(TRIED):
                try:
                    scheduler.step()
                except Exception:  # it has an end
                    break
                rows.append(_settings(optimizer, scheduler))
        return rows

    def rows(self, config: Mapping[str, Any], end: int) -> Sequence[dict[str, float]]:
        """The settings, by "<group>.<setting>", after 0, 1, … ``end`` - 1 calls of the scheduler's ``step``.

        Raises:
            TaskError: If it goes no further.
        """
        key = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in config.items())
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            optimizer = self._instance(config)
            self._others[key] = _others(optimizer)
            scheduler = self.made(optimizer, config)
            self._check_others(key, optimizer, scheduler)
            self._kept[key] = optimizer, scheduler, [_settings(optimizer, scheduler)]
        optimizer, scheduler, rows = self._kept[key]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer was not stepped
            while len(rows) < end:
                try:
                    scheduler.step()
                except Exception as error:
                    raise TaskError(
                        f"{type(scheduler).__name__} ends after {len(rows)} calls of step(), and the training asks for "
                        f"{end}: {error}",
                        where=WHERE,
                        remedy="Give it as many steps, or epochs, as the training has.",
                    ) from error
                rows.append(_settings(optimizer, scheduler))
                self._check_others(key, optimizer, scheduler)
        return rows

    def _check_others(self, key: Any, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        before, now = self._others[key], _others(optimizer)
        for name, value in now.items():
            if before.get(name) != value:
                raise TaskError(
                    f"{type(scheduler).__name__} changes {name}, and only lr and the momentum of cyclic schedules are "
                    "followed",
                    where=WHERE,
                    remedy="Leave that setting to the optimizer, or to the loss as a penalty.",
                )

    def made(self, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]) -> Any:
        """The scheduler of one optimizer."""
        required = [
            p
            for p in inspect.signature(self._factory).parameters.values()
            if p.default is inspect.Parameter.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler = self._factory(optimizer) if len(required) < 2 else self._factory(optimizer, config)
        except Exception as error:
            raise TaskError(
                f"it raised {type(error).__name__}: {error}",
                where=WHERE,
                remedy="Give a function optimizer -> scheduler, or (optimizer, config) -> scheduler.",
            ) from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise TaskError(
                "ReduceLROnPlateau follows a measured loss, so that what it does is no function of the step",
                where=WHERE,
                remedy="Use another scheduler of torch.optim, or schedule=lt.optim.StepDecay(…) or Cosine(…); "
                "patience= ends a training that no longer improves.",
            )
        if not isinstance(scheduler, LRScheduler):
            raise TaskError(
                f"it gave {type(scheduler).__name__}, which is no scheduler of torch.optim",
                where=WHERE,
                remedy="Give a function optimizer -> torch.optim.lr_scheduler.…, or schedule=lt.optim.StepDecay(…).",
            )
        return scheduler


def _settings(optimizer: torch.optim.Optimizer, scheduler: Any) -> dict[str, float]:
    """The settings that the scheduler has made."""
    parts = [scheduler, *getattr(scheduler, "_schedulers", ())]
    cycles = any(getattr(part, "cycle_momentum", False) for part in parts)
    found: dict[str, float] = {}
    for i, group in enumerate(optimizer.param_groups):
        found[f"{i}.lr"] = float(group["lr"])
        if cycles and "momentum" in group:
            found[f"{i}.momentum"] = float(group["momentum"])
        elif cycles and "betas" in group:
            found[f"{i}.betas.0"] = float(group["betas"][0])
    return found


def _others(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The settings that are not followed, by name and group."""
    own = ("lr", "initial_lr", "momentum", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
    return {
        f"{name} of group {i}": value
        for i, group in enumerate(optimizer.param_groups)
        for name, value in group.items()
        if type(value) in (int, float) and name not in own
    }


def checked_scheduler(given: Any) -> tuple[Callable[..., Any], str]:
    """(factory, unit) from what a task is given; a factory alone is stepped at every step.

    Raises:
        TaskError: If it is neither.
    """
    factory, unit = given if isinstance(given, tuple | list) and len(given) == 2 else (given, "step")
    if unit not in UNITS or not callable(factory) or isinstance(factory, LRScheduler):
        raise TaskError(
            f"{given!r} is no scheduler",
            where=WHERE,
            remedy='Give (factory, "step") or (factory, "epoch"): factory(optimizer) -> a scheduler of torch.optim.',
        )
    return factory, unit
