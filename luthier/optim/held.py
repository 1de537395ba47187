"""One instance of a torch.optim optimizer that steps whatever parameters, settings and state it is lent.

Its step for a stack is either one step over (members, …) tensors, or one step a member.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.optim.common import Tensors
from luthier.optim.per_member import PerMember, PerMemberKernels
from luthier.optim.settings_at import Key, Parts, nominal, number, put

WHERE = "TorchTask(optimizer=…)"
INNER = "/"  # between the name of an attribute that holds an optimizer and that one's slot


class Held:
    """The instance, and what is known of it.

    Args:
        optimizer: The instance.
        groups: Names of the parameters of each of its groups, and the settings.
        named: One member's parameters under the names that updates have.

    Attributes:
        inner: The optimizers that it steps itself, over its own groups, by the names of its attributes.
        kinds: Types of the slots of its state that are numbers of Python, or one tensor without axes.
        evolving: Types of the settings that a step itself changes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, groups: Parts, named: Mapping[str, Tensor]) -> None:
        self.optimizer, self.groups, self.named = optimizer, groups, named
        self.inner = _inner(optimizer)
        self.kinds: dict[str, type] = {}
        self.evolving: dict[Key, type] = {}

    def strange(self, name: str) -> bool:
        """True for an adapter's own parameter, which goes into the one group that there is."""
        return len(self.groups) == 1 and name not in self.named

    def together(self, params: Tensors, gradients: Tensors, state: Any, settings: dict[Key, Any]) -> tuple[Any, Any]:
        """One step over the whole stack: the parameters and the state after it."""
        members = len(next(iter(params.values())))
        leaves = {name: p.detach().clone() for name, p in params.items()}
        groups = self.grouped(leaves)
        for i, group in enumerate(groups):
            if "lr" in group and (i, "lr") not in settings:  # a step size is made of it, and of the step
                like = next(iter(params.values()))
                settings[i, "lr"] = torch.full((members,), float(group["lr"]), dtype=torch.float64, device=like.device)
        for (i, setting), value in settings.items():
            put(groups[i], setting, PerMember(value, nominal(groups[i], setting)))
        slots: Any = defaultdict(dict)
        for name, leaf in leaves.items():
            leaf.grad = gradients.get(name)
            kept = {slot: tree[name] for slot, tree in state.items() if slot != "group" and name in tree}
            if kept:
                slots[leaf] = {s: v[0].clone() if self.kinds.get(s) is Tensor else v.clone() for s, v in kept.items()}
        with self.holding(groups, slots) as optimizer, PerMemberKernels(), _exact_steps():
            optimizer.step()
            found = optimizer.state
        after: dict[str, Any] = {"group": state["group"]} if "group" in state else {}
        for name, leaf in leaves.items():
            for slot, value in found.get(leaf, {}).items():
                if isinstance(value, Tensor):
                    whole = value.double().expand(members).clone() if value.ndim == 0 else value
                    after.setdefault(slot, {})[name] = whole
        return leaves, after

    def in_turn(
        self,
        params: Tensors,
        gradients: Tensors,
        state: Any,
        settings: dict[Key, Any],
        reached: Mapping[str, Tensor] | None = None,  # (members,) bool, of gradients that did not come to all of them
    ) -> tuple[Any, Any]:
        """One step a member: the parameters and the state after it."""
        rows, reached = [], reached or {}
        for i in range(len(next(iter(params.values())))):
            there = {n: g for n, g in gradients.items() if n not in reached or bool(reached[n][i])}
            rows.append(self.alone(params, there, state, settings, i))
        return {name: _joined([row[0][name] for row in rows]) for name in params}, _stacked([r[1] for r in rows])

    def loaded(self, params: Tensors, gradients: Tensors, state: Any, settings: dict[Key, Any], i: int) -> Any:
        """Parameters, groups and slots of one member, as torch has them."""
        leaves = {name: p[i].detach().clone() for name, p in params.items()}
        groups = self.grouped(leaves)
        for (g, setting), value in settings.items():
            put(groups[g], setting, self.evolving.get((g, setting), float)(float(value[i])))
        slots: Any = defaultdict(dict)
        for name, leaf in leaves.items():
            leaf.grad = gradients[name][i].clone() if name in gradients else None
            for slot, tree in state.items():
                if slot != "group" and name in tree:
                    value, kind = tree[name][i], self.kinds.get(slot)
                    slots[leaf][slot] = value.clone() if kind in (None, Tensor) else kind(value.item())
        return leaves, groups, slots

    def alone(self, params: Tensors, gradients: Tensors, state: Any, settings: dict[Key, Any], i: int) -> Any:
        """One step of member ``i``."""
        leaves, groups, slots = self.loaded(params, gradients, state, settings, i)
        with self.holding(groups, slots) as optimizer:
            optimizer.step()
            found, after_groups = optimizer.state, optimizer.param_groups
        own = {name: value[i] for name, value in state.get("group", {}).items()}
        for g, setting in self.evolving:
            own[f"{g}.{setting}"] = torch.tensor(float(number(after_groups[g], setting)), dtype=torch.float64)
        after: dict[str, Any] = {"group": own} if own else {}
        for name, leaf in leaves.items():
            for slot, value in found.get(leaf, {}).items():
                if value is None:
                    continue
                if not isinstance(value, Tensor):
                    value = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
                after.setdefault(slot, {})[name] = value
        return leaves, after

    def grouped(self, leaves: Tensors) -> list[dict[str, Any]]:
        """The parameter groups over other tensors, one kernel after the other."""
        strange = [leaf for name, leaf in leaves.items() if self.strange(name)]
        found = []
        for names, settings in self.groups:
            group = {**settings, "params": [leaves[name] for name in names if name in leaves] + strange}
            found.append({**group, **{name: False for name in ("foreach", "fused") if name in group}})
        return found

    @contextmanager
    def holding(self, groups: list[dict[str, Any]], slots: Any) -> Iterator[torch.optim.Optimizer]:
        """The instance, with other parameters and another state."""
        every = {"": self.optimizer, **self.inner}
        kept = {path: (each.param_groups, each.state) for path, each in every.items()}
        own: Any = {path: defaultdict(dict) for path in self.inner}
        for leaf, found in slots.items():
            for slot in [slot for slot in found if INNER in slot]:
                path, _, name = slot.rpartition(INNER)
                own[path][leaf][name] = found.pop(slot)
        for path, each in every.items():
            each.param_groups, each.state = groups, own[path] if path else slots
        try:
            yield self.optimizer
            for path, each in self.inner.items():
                for leaf, found in each.state.items():
                    self.optimizer.state[leaf].update({f"{path}{INNER}{slot}": x for slot, x in found.items()})
        finally:
            for path, each in every.items():
                each.param_groups, each.state = kept[path]


def _inner(optimizer: torch.optim.Optimizer) -> dict[str, torch.optim.Optimizer]:
    """The optimizers in the attributes of another, as Lookahead has one, which share its groups.

    Raises:
        TaskError: If one has groups of its own.
    """
    leaves = ((name, each) for name, value in vars(optimizer).items() for each in pytree.tree_leaves(value))
    found = {name: each for name, each in leaves if isinstance(each, torch.optim.Optimizer)}
    for name, each in found.items():
        shared = each is getattr(optimizer, name) and len(each.param_groups) == len(optimizer.param_groups)
        if not shared or any(a is not b for a, b in zip(each.param_groups, optimizer.param_groups, strict=True)):
            raise TaskError(
                f"{type(optimizer).__name__} holds an optimizer with parameter groups of its own, in its attribute "
                f"{name!r}",
                where=WHERE,
                remedy=f"Let them be the same: self.param_groups = self.{name}.param_groups.",
            )
    return found


def _stacked(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One state of all members; a slot that some have not made yet is zero there, as optimizers make it."""
    found: dict[str, Any] = {}
    for slot in dict.fromkeys(slot for row in rows for slot in row):
        trees = [row.get(slot, {}) for row in rows]
        names = dict.fromkeys(name for tree in trees for name in tree)
        like = {name: next(tree[name] for tree in trees if name in tree) for name in names}
        found[slot] = {n: _joined([t[n] if n in t else torch.zeros_like(like[n]) for t in trees]) for n in names}
    return found


def _joined(rows: list[Tensor]) -> Tensor:
    """The members' tensors as one: of one member a view, for they are new."""
    return torch.stack(rows) if len(rows) > 1 else rows[0].unsqueeze(0)


@contextmanager
def _exact_steps() -> Iterator[None]:
    """The count of steps stays a tensor, which torch reads by item() unless it compiles, and has double precision."""
    compiling, dtype = torch.compiler._is_compiling_flag, torch.get_default_dtype()
    torch.compiler._is_compiling_flag = True
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = compiling
        torch.set_default_dtype(dtype)
