"""What a policy decides each number by: options with logits, bins with logits, or a Gaussian squashed to the bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.errors import MethodError
from luthier.space import Choice, Float, Int, Space

Kind = Literal["options", "bins", "gaussian"]

MOST_LEVELS = 4096  # of an Int that other names depend on: each level is an option of its own
SMALLEST, LARGEST = math.log(0.02), math.log(3.0)  # the deviation before squashing stays between these
START = 1.942  # the parameter at which the deviation is 1.6: the squashed density is nearly uniform
FARTHEST = 6.0  # the mean before squashing stays within this: a code of 0.0025 to 0.9975
LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)
EDGE = 2.0**-26  # noise stays this far off 0 and 1, where the Gaussian quantile is infinite
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(48)  # for the entropy of the squashed Gaussian


@dataclass(frozen=True)
class Head:
    """How one column of the space is decided.

    Args:
        column: Its place.
        label: The hyperparameter, with the element of a vector: ``"lr"``, ``"rates[1]"``.
        kind: ``"options"`` (a logit each), ``"bins"`` (of the code) or ``"gaussian"``.
        size: Number of options or bins; 1 for a Gaussian.
        codes: The code of each option, or the ends of the bins, one more than there are bins; none for a Gaussian.
        conditions: (column, options) pairs: active where each of these columns is active with one of those options.
    """

    column: int
    label: str
    kind: Kind
    size: int
    codes: tuple[float, ...]
    conditions: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for it."""
        return 2 if self.kind == "gaussian" else self.size

    @property
    def start(self) -> list[float]:
        """The outputs before learning: uniform, or nearly so."""
        return [0.0, START] if self.kind == "gaussian" else [0.0] * self.size


class Decided(NamedTuple):
    """One column of the decisions, (…, count) each."""

    action: Tensor
    code: Tensor
    log_prob: Tensor
    entropy: Tensor


def heads_of(space: Space, continuous: Literal["gaussian", "bins"], bins: int) -> tuple[Head, ...]:
    """One head a column.

    Raises:
        MethodError: If a setting is wrong, or a condition is on a number that has no options.
    """
    if continuous not in ("gaussian", "bins"):
        raise MethodError(f"continuous={continuous!r} is unknown", where="policy", remedy="Use 'gaussian' or 'bins'.")
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise MethodError(f"bins={bins!r} cannot be", where="policy", remedy="Give a whole number of at least 2.")
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
        if isinstance(domain, Float):
            ends = tuple(k / bins for k in range(bins + 1))
            gaussian_head = Head(place, label, "gaussian", 1, (), conditions)
            made.append(
                gaussian_head if continuous == "gaussian" else Head(place, label, "bins", bins, ends, conditions)
            )
        elif domain.levels <= bins or isinstance(domain, Choice) or name in parents:
            made.append(Head(place, label, "options", domain.levels, _codes(domain), conditions))
        else:
            ends = _ends(domain, bins)
            made.append(Head(place, label, "bins", len(ends) - 1, ends, conditions))
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
    if head.kind == "gaussian":
        mean, deviation = gaussian(raw)
        z = math.sqrt(2.0) * torch.erfinv(2 * noise - 1)
        u = mean + deviation * z
        u = u if pathwise else u.detach()
        return _real(raw, u, pathwise)
    probabilities = torch.softmax(raw.detach(), -1)
    ends = probabilities.cumsum(-1)
    index = (noise.unsqueeze(-1) >= ends[..., :-1]).sum(-1)
    inside = None
    if head.kind == "bins":  # where the noise lies within its bin is uniform again, and places the code there
        width = probabilities.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        begin = ends.gather(-1, index.unsqueeze(-1)).squeeze(-1) - width
        inside = ((noise - begin) / width).clamp(0.0, 1.0)
    return _discrete(head, raw, index, inside)


def judge(head: Head, raw: Tensor, action: Tensor, pathwise: bool) -> Decided:
    """A decision that is given, under the outputs ``raw``, (…, count, outputs)."""
    if head.kind != "gaussian":
        return _discrete(head, raw, action.round().long().clamp(0, head.size - 1), None)
    if pathwise:  # the value stays exactly what it was; the gradient is that of mean + deviation * z
        mean, deviation = gaussian(raw)
        z = ((action - mean) / deviation).detach()
        action = action.detach() + (mean - mean.detach()) + (deviation - deviation.detach()) * z
    return _real(raw, action, pathwise)


def middle(head: Head, raw: Tensor) -> Decided:
    """The most probable option, or the mean before squashing."""
    if head.kind == "gaussian":
        return _real(raw, gaussian(raw)[0].detach(), False)
    return _discrete(head, raw, raw.argmax(-1), None)


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


def _discrete(head: Head, raw: Tensor, index: Tensor, inside: Tensor | None) -> Decided:
    log_probs = torch.log_softmax(raw, -1)
    log_prob = log_probs.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    table = torch.as_tensor(head.codes, dtype=raw.dtype, device=raw.device)
    code = table[index]
    if head.kind == "bins":
        code = code + (table[index + 1] - code) * (0.5 if inside is None else inside)
    return Decided(index.to(raw.dtype), code, log_prob, entropy)


def _codes(domain: Int | Choice) -> tuple[float, ...]:
    values = domain.options if isinstance(domain, Choice) else range(domain.low, domain.high + 1)
    start, length = domain.stretch
    return tuple((number - start) / length for number in domain.numbers(list(values)))


def _ends(domain: Int, bins: int) -> tuple[float, ...]:
    """The ends of bins of nearly equal width in the code, none of which cuts through a whole number."""
    start, length = domain.stretch
    inner = [start + length * k / bins for k in range(1, bins)]
    halves = {math.floor(10.0**x if domain.log else x) + 0.5 for x in inner}
    places = [math.log10(x) if domain.log else x for x in sorted(halves) if domain.low < x < domain.high]
    return (0.0, *((x - start) / length for x in places), 1.0)


def _position(domain: Float | Int | Choice, value: object) -> int:
    if isinstance(domain, Choice):
        return domain.positions[value]  # type: ignore[index]
    return value - domain.low if isinstance(domain, Int) else 0  # type: ignore[operator]


def _check_parent(name: str, domain: Float | Int | Choice) -> None:
    if isinstance(domain, Float):
        what = f"other names are active at one value of {domain!r}, which a density gives no probability"
        raise MethodError(what, where=name, remedy="Make it an Int or a Choice.")
    if domain.levels > MOST_LEVELS:
        what = f"other names depend on {domain!r}, which has more than {MOST_LEVELS} values"
        raise MethodError(what, where=name, remedy="Use fewer values, or a Choice of ranges.")
