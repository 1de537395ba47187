"""The distributions that a policy decides by: options with logits, or a Gaussian squashed to the bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.space import Choice, Domain, Space
from luthier.space.encoder import levels_of

OPTIONS = 32  # an Int of more levels is a Gaussian, rounded, unless other names depend on it
MOST_LEVELS = 4096  # of an Int that other names depend on: each level is an option of its own
SMALLEST, LARGEST = math.log(0.02), math.log(3.0)  # the deviation before squashing stays between these
START = 1.942  # the parameter at which the deviation is 1.6: the squashed density is nearly uniform
FARTHEST = 6.0  # the mean before squashing stays within this: a code of 0.0025 to 0.9975
LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)
EDGE = 2.0**-26  # noise stays this far off 0 and 1, where the Gaussian quantile is infinite
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(48)  # for the entropy of the squashed Gaussian


@dataclass(frozen=True)
class Head:
    """Rule by which one column of the space is decided.

    Args:
        column: Index of the column.
        label: The hyperparameter, with the element of a vector: ``"lr"``, ``"rates[1]"``.
        codes: The code of each option, each with a logit; none for a Gaussian.
        smooth: True if the reward has a derivative with respect to the value: for a Float, not for an Int (rounded).
        conditions: (column, options) pairs: active where each of these columns is active with one of those options.
    """

    column: int
    label: str
    codes: tuple[float, ...]
    smooth: bool
    conditions: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def gaussian(self) -> bool:
        """A Gaussian decides, not options."""
        return not self.codes

    @property
    def start(self) -> list[float]:
        """The outputs of the network before learning: uniform, or nearly so."""
        return [0.0, START] if self.gaussian else [0.0] * len(self.codes)


class Decided(NamedTuple):
    """One column of the decisions, (…, count) each."""

    action: Tensor
    code: Tensor
    log_prob: Tensor
    entropy: Tensor


def heads_of(space: Space) -> tuple[Head, ...]:
    """Return one head a column.

    Raises:
        MethodError: If a condition is on a number that has no options.
    """
    parents = {other for conditions in space.conditions.values() for other in conditions}
    first = {column.name: place for place, column in reversed(list(enumerate(space.columns)))}
    made: list[Head] = []
    for place, column in enumerate(space.columns):
        name, domain = column.name, space[column.name]
        conditions = tuple(
            (first[other], tuple(_position(space[other], value) for value in values))
            for other, values in space.conditions.get(name, {}).items()
        )
        if name in parents:
            _check_parent(name, domain)
        label = f"{name}[{column.index}]" if domain.width > 1 or getattr(domain, "shape", ()) else name
        codes: tuple[float, ...] = ()
        levels = levels_of(domain)
        if levels is not None and (isinstance(domain, Choice) or levels.count <= OPTIONS or name in parents):
            codes = tuple(levels.code(np.arange(levels.count)).tolist())
        made.append(Head(place, label, codes, domain.continuous, conditions))
    return tuple(made)


def draw(head: Head, raw: Tensor, noise: Tensor, pathwise: bool) -> Decided:
    """A decision by inversion: equal noise gives equal decisions.

    Args:
        head: The column.
        raw: Outputs of the network, (…, count, outputs).
        noise: (…, count), in (0, 1).
        pathwise: The code of a Gaussian keeps the gradient of its mean and deviation.
    """
    noise = noise.clamp(EDGE, 1 - EDGE)
    if head.gaussian:
        mean, deviation = gaussian(raw)
        z = math.sqrt(2.0) * torch.erfinv(2 * noise - 1)
        u = mean + deviation * z
        pathwise = pathwise and head.smooth
        return _real(raw, u if pathwise else u.detach(), pathwise)
    ends = torch.softmax(raw.detach(), -1).cumsum(-1)
    return _discrete(head, raw, (noise.unsqueeze(-1) >= ends[..., :-1]).sum(-1))


def judge(head: Head, raw: Tensor, action: Tensor, pathwise: bool) -> Decided:
    """A decision that is given, under the outputs ``raw``, (…, count, outputs)."""
    if not head.gaussian:
        return _discrete(head, raw, action.round().long().clamp(0, len(head.codes) - 1))
    pathwise = pathwise and head.smooth
    if pathwise:  # the value stays exactly what it was; the gradient is that of mean + deviation * z
        mean, deviation = gaussian(raw)
        z = ((action - mean) / deviation).detach()
        action = action.detach() + (mean - mean.detach()) + (deviation - deviation.detach()) * z
    return _real(raw, action, pathwise)


def middle(head: Head, raw: Tensor) -> Decided:
    """The most probable option, or the mean before squashing."""
    if head.gaussian:
        return _real(raw, gaussian(raw)[0].detach(), False)
    return _discrete(head, raw, raw.argmax(-1))


def gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation in the unconstrained space, (…, count) each, from (…, count, 2)."""
    mean = FARTHEST * torch.tanh(raw[..., 0] / FARTHEST)
    return mean, torch.exp(SMALLEST + (LARGEST - SMALLEST) * logistic(raw[..., 1]))


def logistic(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)). torch.sigmoid, softplus and ndtri round by an element's place in its tensor; exp does not."""
    return 1 / (1 + torch.exp(-x))


def log_stretch(u: Tensor) -> Tensor:
    """-log(dcode/du) where the code is the logistic function of u: what a density gains by the squashing."""
    return u.abs() + 2 * torch.log1p(torch.exp(-u.abs()))


def gaussian_entropy(mean: Tensor, deviation: Tensor) -> Tensor:
    """Differential entropy of sigmoid(N(mean, deviation²)), by Gauss-Hermite quadrature; 0 is the uniform density."""
    z = torch.as_tensor(_NODES, dtype=mean.dtype, device=mean.device)
    weight = torch.as_tensor(_WEIGHTS / _WEIGHTS.sum(), dtype=mean.dtype, device=mean.device)
    stretch = (log_stretch(mean.unsqueeze(-1) + deviation.unsqueeze(-1) * z) * weight).sum(-1)
    return 0.5 + LOG_SQRT_TAU + deviation.log() - stretch


def _real(raw: Tensor, u: Tensor, pathwise: bool) -> Decided:
    mean, deviation = gaussian(raw)
    if pathwise:
        log_prob = torch.zeros_like(u)
    else:  # log N(u; mean, deviation²) - log(dcode/du)
        log_prob = -0.5 * ((u - mean) / deviation).square() - deviation.log() - LOG_SQRT_TAU + log_stretch(u)
    return Decided(u, logistic(u), log_prob, gaussian_entropy(mean, deviation))


def _discrete(head: Head, raw: Tensor, index: Tensor) -> Decided:
    log_probs = torch.log_softmax(raw, -1)
    log_prob = log_probs.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    table = torch.as_tensor(head.codes, dtype=raw.dtype, device=raw.device)
    return Decided(index.to(raw.dtype), table[index], log_prob, entropy)


def _position(domain: Domain, value: object) -> int:
    return 0 if domain.continuous else domain.index(value)


def _check_parent(name: str, domain: Domain) -> None:
    if domain.levels is None:
        what = f"other names are active at one value of {domain!r}, which a density gives no probability"
        raise MethodError(what, where=name, remedy="Make it an Int or a Choice.")
    if domain.levels > MOST_LEVELS:
        what = f"other names depend on {domain!r}, which has more than {MOST_LEVELS} values"
        raise MethodError(what, where=name, remedy="Use fewer values, or a Choice of ranges.")
