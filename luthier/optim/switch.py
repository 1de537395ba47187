"""One of several optimizers, decided by a hyperparameter: between trainings, or anew at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from luthier.errors import TaskError
from luthier.optim.adam import Adam
from luthier.optim.common import Tensors, clip_by_norm, read
from luthier.optim.sgd import SGD

Family = SGD | Adam
SwitchState = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Switch:
    """The optimizer that the hyperparameter ``name`` names.

    In a training of its own the choice is static: ``switch(config)`` is the optimizer of that configuration, and what
    a ``TorchTask`` trains with. Where weights are shared, the decision changes from step to step: then every family
    keeps its own slots for every weight, an update moves those of the chosen family alone, and bias corrections count
    the updates that the weight has had under that family. A sequence under one family is that family, bit for bit.

    Args:
        name: The hyperparameter, a ``luthier.Choice`` of the names of the families.
        families: An optimizer by name.

    Raises:
        TaskError: If a family is not one of luthier's optimizers.

    Examples:
        >>> switch = Switch("optimizer", {"sgd": SGD(momentum=0.9), "adam": Adam()})
        >>> switch({"optimizer": "sgd"})
        SGD(lr=None, momentum=0.9, weight_decay=0.0, clip_norm=None, nesterov=False)
    """

    name: str
    families: Mapping[str, Family]

    def __post_init__(self) -> None:
        for family, optimizer in self.families.items():
            if not isinstance(optimizer, Family):
                raise TaskError(
                    f"{family!r} is {optimizer!r}",
                    where=f"lt.optim.Switch({self.name!r})",
                    remedy="Give lt.optim.SGD(…) or lt.optim.Adam(…).",
                )

    def __call__(self, config: Mapping[str, Any]) -> Family:
        """The optimizer of one configuration.

        Raises:
            TaskError: If the configuration does not name a family.
        """
        chosen: Any = config[self.name] if self.name in config else None
        if chosen not in self.families:
            raise TaskError(
                f"{self.name}={chosen!r} is none of its families",
                where=f"lt.optim.Switch({self.name!r})",
                remedy=f"Put {self.name}=lt.Choice({list(self.families)}) into the space.",
            )
        return self.families[chosen]

    @property
    def reads(self) -> tuple[str, ...]:
        """All hyperparameters that one of the families reads, and the one that decides."""
        every = [name for optimizer in self.families.values() for name in optimizer.reads]
        return tuple(dict.fromkeys([self.name, *every] if len(self.families) > 1 else every))

    @property
    def lr(self) -> float | None:
        """A learning rate where every family has one of its own."""
        rates = [optimizer.lr for optimizer in self.families.values()]
        return None if None in rates else rates[0]

    def init(self, params: Tensors, hyper: Mapping[str, Tensor]) -> SwitchState:
        """The slots of all families, and how many updates each weight has had under each, (members,) int64."""
        zero = {name: torch.zeros(len(p), dtype=torch.int64, device=p.device) for name, p in params.items()}
        return {
            family: {**optimizer.init(params, hyper), "count": dict(zero)}
            for family, optimizer in self.families.items()
        }

    def update(
        self,
        params: Tensors,  # (members, …)
        gradients: Tensors,  # (members, …)
        state: SwitchState,
        hyper: Mapping[str, Tensor],  # (members,); ``name``: the position of the family among the families
        step: Tensor,  # (members,) not read: weights that are not always trained have counts of their own
    ) -> tuple[Tensors, SwitchState]:
        """One step of each member's family. Returns the new parameters and the new slots of all families."""
        after, slots = params, dict(state)
        position = hyper[self.name] if len(self.families) > 1 else torch.zeros_like(step)
        for i, (family, optimizer) in enumerate(self.families.items()):
            chosen = position == i  # (members,)
            if bool(chosen.any()):
                moved, own = _advance(optimizer, params, gradients, state[family], hyper)
                after = _where(chosen, moved, after)
                slots[family] = {slot: _where(chosen, own[slot], old) for slot, old in state[family].items()}
        return after, slots


def alone(optimizer: Family) -> Switch:
    """An optimizer that is not chosen, with the slots and counts of a switch."""
    return Switch("optimizer", {"": optimizer})


def _advance(
    optimizer: Family, params: Tensors, gradients: Tensors, state: dict[str, Tensors], hyper: Mapping[str, Tensor]
) -> tuple[Tensors, dict[str, Tensors]]:
    """The update of one family, for all members; weights with equal counts together."""
    if "clip_norm" in hyper or optimizer.clip_norm is not None:  # by the norm of the whole
        gradients = clip_by_norm(gradients, read("clip_norm", optimizer.clip_norm, hyper))
        optimizer, hyper = replace(optimizer, clip_norm=None), {n: h for n, h in hyper.items() if n != "clip_norm"}
    count = state["count"]
    groups: dict[Any, list[str]] = {}
    for name in params:
        groups.setdefault(tuple(count[name].tolist()) if isinstance(optimizer, Adam) else (), []).append(name)
    moved: Tensors = {}
    slots: dict[str, Tensors] = {slot: {} for slot in state}
    for names in groups.values():
        own = {slot: {name: tensors[name] for name in names} for slot, tensors in state.items() if slot != "count"}
        part, own = optimizer.update(
            {name: params[name] for name in names},
            {name: gradients[name] for name in names},
            own,
            hyper,
            count[names[0]],
        )
        moved |= part
        for slot, tensors in own.items():
            slots[slot] |= tensors
        slots["count"] |= {name: count[name] + 1 for name in names}
    return {name: moved[name] for name in params}, slots


def _where(chosen: Tensor, new: Tensors, old: Tensors) -> Tensors:
    """``new`` for the members that are chosen, ``old`` for the others."""
    if bool(chosen.all()):
        return new
    shaped = {name: chosen.view(-1, *(1,) * (tensor.ndim - 1)) for name, tensor in new.items()}
    return {name: torch.where(shaped[name], tensor, old[name]) for name, tensor in new.items()}
