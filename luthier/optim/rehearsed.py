"""Steps on random numbers by which somebody else's optimizer shows how it can be run, or that it cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.optim.common import Tensors
from luthier.optim.held import WHERE, Held
from luthier.optim.settings_at import Key, number, numbers, raw
from luthier.places import is_users


class Sample(NamedTuple):
    """Weights of two members, three gradients, and settings that differ."""

    start: Tensors
    gradients: list[Tensors]
    settings: dict[Key, Any]


def sample(held: Held, varying: Collection[Key], dtype: torch.dtype | None = None) -> Sample:
    """Random numbers, the same at each call, in the types of the parameters or in one type."""
    generator = torch.Generator().manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        like = torch.view_as_real(like) if like.is_complex() else like  # as states have complex parameters
        kind = like.dtype if dtype is None else dtype
        return torch.randn((2, *like.shape), generator=generator, dtype=kind).to(like.device)

    trained = {name: p.detach() for name, p in held.named.items() if p.requires_grad}
    start = {name: draw(p) for name, p in trained.items()}
    gradients = [{name: draw(p) for name, p in trained.items()} for _ in range(3)]
    device = next(iter(start.values())).device
    factors = torch.tensor([1.0, 0.7], dtype=torch.float64, device=device)
    return Sample(start, gradients, {(i, s): factors * number(held.groups[i][1], s) for i, s in dict.fromkeys(varying)})


def tried(one: Sample, step: Callable[..., tuple[Any, Any]]) -> Tensors:
    """The weights after three steps."""
    params, state = one.start, {}
    for gradient in one.gradients:
        given = dict(one.settings)
        for name, value in state.get("group", {}).items():
            group, setting = name.split(".", 1)
            given[int(group), setting] = value
        params, state = step(params, gradient, state, given)
    return params


def follows(held: Held, one: Sample) -> bool:
    """Return True if it asks for no number, which a trace would have to know (RAdam does)."""
    try:
        with FakeTensorMode() as mode:
            tried(Sample(*pytree.tree_map_only(Tensor, mode.from_tensor, tuple(one))), held.together)
    except Exception:
        return False
    return True


def learn(held: Held, one: Sample, settled: Collection[Key]) -> bool:
    """Find the kinds of slots and the settings that the optimizer changes, from two steps of one member.

    Args:
        held: The optimizer, which is told.
        one: Random weights and gradients.
        settled: Settings that are known to follow hyperparameters.

    Returns:
        True if it makes its slots in the first step.

    Raises:
        TaskError: If it cannot make a step, or keeps what no resumed training would have.
    """
    before, kept = dict(numbers(held.groups)), _attributes(held.optimizer)
    drawn = torch.get_rng_state()
    leaves = {name: p[0].clone() for name, p in one.start.items()}
    try:
        with held.holding(held.grouped(leaves), defaultdict(dict)) as optimizer:
            for gradient in one.gradients[:2]:
                for name, leaf in leaves.items():
                    leaf.grad = gradient[name][0].clone()
                optimizer.step()
            slots, after = optimizer.state, optimizer.param_groups
    except Exception as error:
        _check_kept(held.optimizer, kept, [key for key in held.optimizer.state if not isinstance(key, Tensor)], drawn)
        raise TaskError(
            f"{type(held.optimizer).__name__} cannot make a step: {type(error).__name__}: {error}",
            where=WHERE,
            remedy="luthier sets p.grad and calls optimizer.step(), as a plain loop does.",
        ) from error
    _check_kept(held.optimizer, kept, [key for key in slots if not isinstance(key, Tensor)], drawn)
    for leaf in leaves.values():
        for slot, value in slots.get(leaf, {}).items():
            if isinstance(value, Tensor):
                if value.ndim == 0 and leaf.ndim > 0:
                    held.kinds[slot] = Tensor
            elif isinstance(value, bool | int | float):
                held.kinds[slot] = type(value)
            elif value is not None:
                raise TaskError(
                    f"{type(held.optimizer).__name__} keeps a {type(value).__name__} in its state, {slot!r}",
                    where=WHERE,
                    remedy="Give an optimizer whose state is tensors and numbers: no other could be resumed.",
                )
    parts = [((), {k: v for k, v in group.items() if k != "params"}) for group in after]
    now = dict(numbers(parts))
    if any(before.get(key) != value for key, value in now.items()):  # others may follow in later steps
        for group, setting in (key for key in now if key not in settled):
            kind = type(raw(parts[group][1], setting))
            held.evolving[group, setting] = kind if kind is int else float
    return any(isinstance(value, Tensor) for leaf in leaves.values() for value in slots.get(leaf, {}).values())


def _check_kept(optimizer: torch.optim.Optimizer, kept: dict[str, Any], strange: list[Any], drawn: Tensor) -> None:
    """Refuse a step that is no function of weights, gradients, settings and the parameters' own state.

    One instance steps all members, and a resumed training begins with another one. Numbers in a class of the user's
    are left to :meth:`luthier.hidden.Code.checked`, which follows them: a count of steps may serve a log.
    """
    drew = not torch.equal(drawn, torch.get_rng_state())
    torch.set_rng_state(drawn)
    there = _attributes(optimizer)
    moved = [name for name in there if name not in kept or not _equal(kept[name], there[name])]
    if is_users(type(optimizer).__module__):
        moved = [name for name in moved if any(isinstance(each, Tensor) for each in there[name])]
    what = f"in its attribute {moved[0]!r}" if moved else f"in its state, under {strange[0]!r}" if strange else ""
    title = type(optimizer).__name__
    if what:
        raise TaskError(
            f"{title} keeps something of its own from step to step, {what}",
            where=WHERE,
            remedy="Keep it in the state of a parameter, or as a number in the parameter group: what is anywhere "
            "else members would share, and no resumed training would have.",
        )
    if drew:
        raise TaskError(
            f"{title} draws random numbers in its step, which would not come again in a stack or after a resume",
            where=WHERE,
            remedy="Draw in the loss or in forward, whose draws luthier keys by member and step.",
        )


def _attributes(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Copies of the numbers and tensors that an optimizer keeps outside its groups and its state, by name."""
    own = {n: v for n, v in vars(optimizer).items() if n not in ("param_groups", "state", "defaults")}
    return {
        name: [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for name, value in own.items()
        if (leaves := [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor | bool | int | float)])
    }


def _equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
        for a, b in zip(one, other, strict=True)
    )
