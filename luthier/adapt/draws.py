"""Hyperparameters side by side as unconstrained numbers, and draws of them around a place or everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from luthier.adapt import unconstrained
from luthier.optim.common import Tensors
from luthier.space import Float
from luthier.stack import Noise
from luthier.task.program import Program, State

Domains = Mapping[str, Float]
AWAY = 3 << 22  # site of the weights that are looked at beside a network's first ones
ROWS = 64  # training examples on which a hyperparameter must make a difference


def free(domains: Domains, hyper: Mapping[str, Tensor]) -> Tensor:
    """The unconstrained numbers that stand for ``hyper``, (members, numbers)."""
    return together({name: unconstrained.free(domain, hyper[name]) for name, domain in domains.items()})


def values(domains: Domains, points: Tensor) -> dict[str, Tensor]:
    """The hyperparameters by name at ``points``, (members, numbers)."""
    return {name: unconstrained.value(domains[name], part) for name, part in apart(domains, points).items()}


def apart(domains: Domains, points: Tensor) -> dict[str, Tensor]:
    """``points``, (members, numbers), by name: (members,), or (members, d) of a vector."""
    parts = points.split([domain.width for domain in domains.values()], dim=1)
    return {
        name: part if domain.shape else part.squeeze(1)
        for (name, domain), part in zip(domains.items(), parts, strict=True)
    }


def together(parts: Mapping[str, Tensor]) -> Tensor:
    """Join the parts that :func:`apart` has separated, (members, numbers)."""
    return torch.cat([part.reshape(len(part), -1) for part in parts.values()], dim=1)


def count(domains: Domains) -> int:
    """Numbers of one member."""
    return sum(domain.width for domain in domains.values())


def bounds(domains: Domains, like: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of each number, (numbers,)."""
    ends = [end for domain in domains.values() for end in [unconstrained.limits(domain)] * domain.width]
    low, high = like.new_tensor(ends).unbind(1)
    return low, high


def around(domains: Domains, place: Tensor, width: Tensor | float, noise: Tensor) -> Tensor:
    """``place`` + ``width`` · ``noise``, held within the bounds, (members, samples, numbers).

    Args:
        domains: Domains of the hyperparameters.
        place: (members, numbers).
        width: One for all, or (members, numbers).
        noise: (members, samples, numbers).
    """
    width = width.unsqueeze(1) if isinstance(width, Tensor) else width
    return (place.unsqueeze(1) + noise * width).clamp(*bounds(domains, place))


def everywhere(domains: Domains, uniform: Tensor) -> Tensor:
    """Points whose values are spread as those of the space are, from numbers in [0, 1] of any shape (…, numbers)."""
    low, high = bounds(domains, uniform)
    parts = (low + (high - low) * uniform).split([domain.width for domain in domains.values()], dim=-1)
    shares = uniform.split([domain.width for domain in domains.values()], dim=-1)
    found = [
        part if domain.log else unconstrained.free(domain, domain.low + (domain.high - domain.low) * share)
        for domain, part, share in zip(domains.values(), parts, shares, strict=True)
    ]
    return torch.cat(found, dim=-1)


def noise(state: State, site: int, samples: int, numbers: int, *, uniform: bool = False) -> Tensor:
    """Draws of the step at hand, (members, samples, numbers), of an even number in pairs of opposites."""
    paired = samples % 2 == 0
    shape = (samples // 2 if paired else samples, numbers)
    source = Noise(state["key"], state["t"])
    dtype = next(iter(state["params"].values())).dtype
    if uniform:
        draw = source.uniform(site, shape, dtype=dtype)
        return torch.cat((draw, 1 - draw), 1) if paired else draw
    draw = source.normal(site, shape, dtype=dtype)
    return torch.cat((draw, -draw), 1) if paired else draw


def one_at_a_time(state: State, numbers: int, chosen: int | None = None) -> Tensor:
    """Numbers by 1 up and down while all others stay, (members, 2 · chosen, numbers).

    Args:
        state: The stack at the step at hand.
        numbers: Their count.
        chosen: Number of them at a step, which take turns; None is all.
    """
    like = next(iter(state["params"].values()))
    if chosen is None or chosen >= numbers:
        steps = torch.eye(numbers, dtype=like.dtype, device=like.device).expand(len(like), -1, -1)
    else:
        places = torch.arange(numbers, device=like.device)
        turns = (state["t"].unsqueeze(1) * chosen + places[:chosen]) % numbers  # (members, chosen)
        steps = (turns.unsqueeze(2) == places).to(like.dtype)
    return torch.cat((steps, -steps), 1)


def entering(task: Program, state: State) -> set[str]:
    """Numbers of the space that change the training loss when they change, smoothly or not.

    Weights that start at zero may hide it, so that others are looked at too.

    Args:
        task: The step that is trained.
        state: A stack of one of it.
    """
    batch = task.sources.example(rows=ROWS)
    domains = {name: domain for name, domain in task.task.space.domains.items() if isinstance(domain, Float)}

    source = Noise(state["key"], state["t"])
    draws = {
        name: source.normal(AWAY + i, param.shape[1:], dtype=param.dtype)
        for i, (name, param) in enumerate(state["params"].items())
    }
    away = {name: param + 0.1 * draws[name] for name, param in state["params"].items()}

    @torch.no_grad()
    def loss(params: Tensors, hyper: Mapping[str, Tensor]) -> Tensor:
        return task.losses(params, state["buffers"], dict(hyper), batch, source)[0]

    def differs(name: str, params: Tensors) -> bool:
        low, high = unconstrained.limits(domains[name])
        ends = [unconstrained.value(domains[name], torch.full_like(state["hyper"][name], end)) for end in (low, high)]
        one, other = (loss(params, {**state["hyper"], name: end}) for end in ends)
        return not torch.equal(one, other) and not (one.isnan() & other.isnan()).all()

    names = domains.keys() & state["hyper"].keys()
    return {name for name in names if any(differs(name, params) for params in (state["params"], away))}
