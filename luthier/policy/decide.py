"""Deciding column by column: the part that all policies share, over whatever network gives the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.policy.heads import Decided, Head, draw, gaussian, heads_of, judge, logistic, middle
from luthier.space import Config, Float, Space

Memory = Any
Params = dict[str, Tensor]
"""The parameters of a policy by name; each may have further axes in front (members)."""
Pick = Callable[[Head, Tensor], Decided]  # outputs (…, count, outputs) -> the decision


class Decisions(NamedTuple):
    """Decisions of a policy, one row per configuration; further axes may come first.

    Args:
        actions: The decision itself, (count, columns): the index of an option, or a real number before it is
            squashed to its bounds; 0 where inactive. All that :meth:`Policy.evaluate` needs.
        codes: The same in the unit cube, as :meth:`luthier.Space.decode` reads it, (count, columns); 0.5 where
            inactive. After :meth:`Policy.rsample` it carries the gradient of the real numbers.
        active: Mask of the active columns, (count, columns) bool.
        log_prob: Logarithm of the probability (of real numbers: of the density of the code), (count,). After
            :meth:`Policy.rsample` that of the other decisions alone, for the gradient of real numbers goes
            through ``codes``.
        entropy: Sum of the entropies of the distributions that each row's active decisions came from, (count,), in
            nats; its mean estimates the entropy of the whole policy. Of a real number it is relative to the uniform
            distribution over its domain, and so at most 0.
    """

    actions: Tensor
    codes: Tensor
    active: Tensor
    log_prob: Tensor
    entropy: Tensor


class ColumnNetwork(Protocol):
    """Source of the outputs, one column after another."""

    def start(self) -> Memory:
        """The memory before the first decision."""
        ...

    def outputs(self, head: Head, memory: Memory) -> tuple[Tensor, Memory]:
        """The outputs of a column, (…, count, outputs), and the memory with which they were made."""
        ...

    def remember(self, head: Head, memory: Memory, action: Tensor, code: Tensor) -> Memory:
        """The memory after a decision, (…, count) each."""
        ...

    def keep(self, active: Tensor, new: Memory, old: Memory) -> Memory:
        """The new memory where the column was active, the old one elsewhere."""
        ...


@dataclass(frozen=True)
class Plan:
    """The names that a policy decides, and how.

    Args:
        space: Space of these names alone.
        heads: One head per column.
    """

    space: Space
    heads: tuple[Head, ...]

    @property
    def columns(self) -> int:
        return len(self.heads)

    def actions(self, configs: Sequence[Config], dtype: torch.dtype) -> Tensor:
        """The actions of configurations, (count, columns)."""
        codes, mask = self.space.encode(list(configs))
        table = np.zeros_like(codes)
        for head in self.heads:
            code = codes[:, head.column]
            if head.gaussian:
                inside = code.clip(1e-6, 1 - 1e-6)
                table[:, head.column] = np.log(inside) - np.log1p(-inside)
            else:
                ends = (np.array(head.codes)[1:] + np.array(head.codes)[:-1]) / 2
                table[:, head.column] = np.searchsorted(ends, code)
        table[~mask] = 0.0
        return torch.as_tensor(table, dtype=dtype)

    def configs(self, decisions: Decisions) -> list[Config]:
        """The configurations at the codes; leading axes are flattened."""
        codes = decisions.codes.detach().reshape(-1, self.columns)
        return self.space.decode(codes.to("cpu", torch.float64).numpy())

    def values(self, decisions: Decisions) -> dict[str, Tensor]:
        """The Floats in their own units; where inactive, the middle of the domain."""
        found: dict[str, Tensor] = {}
        place = 0
        for name, domain in self.space.domains.items():
            if isinstance(domain, Float) and domain.continuous:
                start, length = domain.stretch
                number = start + length * decisions.codes[..., place : place + domain.width]
                value = torch.exp(number * math.log(10.0)) if domain.log else number
                value = value.clamp(domain.low, domain.high)
                found[name] = value if domain.shape else value.squeeze(-1)
            place += domain.width
        return found


def plan_of(space: Space, names: Sequence[str] | None) -> Plan:
    """The plan for the names given, or for all.

    Raises:
        MethodError: If a name is not in the space, or depends on one that is left out.
    """
    if names is not None:
        for name in names:
            if name not in space:
                remedy = f"The names are {', '.join(space.names)}."
                raise MethodError("it is not in the space", where=name, remedy=remedy)
            missing = [other for other in space.conditions.get(name, {}) if other not in names]
            if missing:
                what = f"its condition is on {missing[0]!r}, which is not among the names"
                raise MethodError(what, where=name, remedy=f"Let the policy decide {missing[0]!r} too.")
        space = Space({name: domain for name, domain in space.domains.items() if name in names})
    if not len(space):
        raise MethodError("there is nothing to decide", where="policy", remedy="Give at least one name.")
    return Plan(space, heads_of(space))


def sampling(noise: Tensor, pathwise: bool) -> Pick:
    """Decide by noise, (…, count, columns)."""
    return lambda head, raw: draw(head, raw, noise[..., head.column], pathwise)


def judging(actions: Tensor, pathwise: bool) -> Pick:
    """Take the decisions given, (…, count, columns)."""
    return lambda head, raw: judge(head, raw, actions[..., head.column], pathwise)


def run(plan: Plan, network: ColumnNetwork, pick: Pick, seen: list[tuple[Tensor, Tensor]] | None = None) -> Decisions:
    """All columns in turn.

    Args:
        plan: Names to decide.
        network: Source of the outputs.
        pick: Function that turns outputs into a decision.
        seen: List to which (outputs, active) of every column is appended.
    """
    memory = network.start()
    chosen: list[Decided] = []
    active: list[Tensor] = []
    for head in plan.heads:
        raw, after = network.outputs(head, memory)
        one = pick(head, raw)
        on = torch.ones_like(one.action, dtype=torch.bool)
        for parent, options in head.conditions:
            on = on & active[parent] & torch.stack([chosen[parent].action == option for option in options]).any(0)
        if head.conditions:
            rest = Decided(*(torch.full_like(x, filler) for x, filler in zip(one, (0.0, 0.5, 0.0, 0.0), strict=True)))
            one = Decided(*(torch.where(on, x, y) for x, y in zip(one, rest, strict=True)))
        after = network.remember(head, after, one.action, one.code)
        memory = network.keep(on, after, memory) if head.conditions else after
        chosen.append(one)
        active.append(on)
        if seen is not None:
            seen.append((raw, on))
    action, code, log_prob, entropy = (torch.stack(parts, -1) for parts in zip(*chosen, strict=True))
    return Decisions(action, code, torch.stack(active, -1), log_prob.sum(-1), entropy.sum(-1))


def best(plan: Plan, network: ColumnNetwork) -> Decisions:
    """The most probable option of each column in turn."""
    return run(plan, network, middle)


def spread(plan: Plan, network: ColumnNetwork, actions: Tensor) -> Tensor:
    """Half the distance between the codes one standard deviation above and below the mean, (…, count, columns)."""
    seen: list[tuple[Tensor, Tensor]] = []
    run(plan, network, judging(actions, False), seen)
    widths = []
    for head, (raw, on) in zip(plan.heads, seen, strict=True):
        width = torch.zeros_like(raw[..., 0])
        if head.gaussian:
            mean, deviation = gaussian(raw)
            width = torch.where(on, (logistic(mean + deviation) - logistic(mean - deviation)) / 2, 0.0)
        widths.append(width)
    return torch.stack(widths, -1)


def shares(plan: Plan, network: ColumnNetwork, noise: Tensor) -> dict[str, Mapping[str, object]]:
    """Return each name's distribution, averaged over samples; see :meth:`luthier.policy.Policy.probabilities`."""
    seen: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        run(plan, network, sampling(noise, False), seen)
    found: dict[str, Mapping[str, object]] = {}
    for head, (raw, on) in zip(plan.heads, seen, strict=True):
        rows = raw[on] if bool(on.any()) else raw
        facts: dict[str, object] = {"active": float(on.double().mean())}
        if head.gaussian:
            mean, deviation = gaussian(rows)
            spread = (deviation.square().mean() + mean.var(unbiased=False)).sqrt()
            places = torch.stack((mean.mean(), mean.mean() - spread, mean.mean() + spread))
            values = _values_at(plan, head, logistic(places).tolist())
            facts |= dict(zip(("mean", "low", "high"), values, strict=True))
        else:
            facts |= {
                "options": _values_at(plan, head, head.codes),
                "probabilities": torch.softmax(rows, -1).mean(0).tolist(),
            }
        found[head.label] = facts
    return found


def _values_at(plan: Plan, head: Head, codes: Sequence[float]) -> list[Any]:
    name = plan.space.columns[head.column].name
    start, length = plan.space[name].stretch
    return list(plan.space[name].values([start + length * code for code in codes]))
