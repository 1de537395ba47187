"""A surrogate of the results: an ensemble of small networks that knows its error and what it is unsure of.

All networks of an ensemble are trained at once, as one stack with the members first. Beside those that know every
result, others know all but one part of them: what they say of that part is the held-out error, and it calibrates the
ensemble's uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luthier.checks import real, require, whole
from luthier.errors import MethodError
from luthier.limits import levelled
from luthier.propose.networks import Networks, outputs, train
from luthier.seeds import Seeds
from luthier.space import Space
from luthier.space.encoder import Points, encoding_of

if TYPE_CHECKING:
    from luthier.jobs import History

FEWEST = 2  # finite values before there is anything to fit
MANY = 400  # values from which on one fifth is held out once, instead of each fifth in turn
PARTS = 5
CHUNK = 32_768  # rows predicted at once

LARGEST = 1e100  # results beyond it count as it: their squares must not overflow


@dataclass(frozen=True)
class Surrogate:
    """Settings with which an ensemble is made.

    Every member is a small network added to another, random one that is never trained, so that members agree where
    there are results and differ elsewhere.

    Args:
        members: Networks that know every result.
        width: Units of each of the two hidden layers.
        steps: Steps of Adam.
        lr: Its first learning rate; it falls to zero along a cosine.
        decay: Weight decay, as in AdamW.

    Examples:
        >>> from luthier.space import Float
        >>> space = Space(x=Float(0.0, 1.0))
        >>> x = np.linspace(0.0, 1.0, 40)[:, None]
        >>> found = Surrogate().fit_points(space, x, np.ones_like(x, dtype=bool), np.sin(6 * x[:, 0]), key=0)
        >>> mean, deviation = found.predict(np.array([[0.5]]), np.ones((1, 1), dtype=bool))
        >>> bool(abs(mean[0] - np.sin(3.0)) < 0.1), found.rmse < 0.1
        (True, True)

    References:
        Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation using deep
        ensembles", NeurIPS 2017. Osband, Aslanides and Cassirer, "Randomized prior functions for deep reinforcement
        learning", NeurIPS 2018. LaBash and Sepulveda use one network as the reward of their sampler.
    """

    members: int = 5
    width: int = 48
    steps: int = 300
    lr: float = 0.01
    decay: float = 0.3

    def __post_init__(self) -> None:
        count = whole(1)
        require(self, "Surrogate", members=count, width=count, steps=count, lr=real(above=0), decay=real(0))

    def fit(self, history: History, key: int = 0) -> Ensemble:
        """The ensemble of a study's first objective, minimised; jobs that failed, diverged or were pruned are left out.

        Raises:
            MethodError: If fewer than two results are finite.
        """
        ended = np.array([n for n in history.arrival if history.results[n].status == "ok"], dtype=np.int64)  # type: ignore[union-attr]
        values = levelled(history.values[ended, 0])
        return self.fit_points(history.space, history.codes[ended], history.mask[ended], values, key)

    def fit_points(self, space: Space, codes: np.ndarray, mask: np.ndarray, values: np.ndarray, key: int) -> Ensemble:
        """The ensemble of given values.

        Args:
            space: The search space.
            codes: (n, columns) configurations, as :meth:`luthier.Space.encode` has them.
            mask: (n, columns) bool, which columns are active.
            values: (n,); rows that are not finite are left out.
            key: Key of all randomness.

        Raises:
            MethodError: If fewer than two values are finite.
        """
        usable = np.isfinite(values)
        if usable.sum() < FEWEST:
            raise MethodError(
                f"{usable.sum()} of {len(values)} values are finite",
                where="Surrogate.fit",
                remedy="Give at least two results that ended well.",
            )
        x, y = inputs(space, codes[usable], mask[usable]), values[usable].astype(np.float64).clip(-LARGEST, LARGEST)
        centre, scale = float(y.mean()), float(y.std())
        scale = scale if scale > 1e-12 * max(1.0, abs(centre)) else 1.0
        target = (y - centre) / scale
        rng = Seeds(key).rng(0, "surrogate")
        hidden = _parts(len(y), rng)  # (parts, n)
        known = np.concatenate([np.ones((self.members, len(y)), dtype=bool), np.repeat(~hidden, self.members, axis=0)])
        layers, prior = train(x, target, known, rng, width=self.width, steps=self.steps, lr=self.lr, decay=self.decay)
        everything = outputs(layers, prior, x)  # (all members, n)
        mean, spread = _held_out(everything[self.members :], hidden, self.members)
        tested = np.isfinite(mean)
        factor, floor = calibrate(target[tested] - mean[tested], spread[tested])
        keep = slice(0, self.members)
        return Ensemble(
            space,
            [(weight[keep].clone(), bias[keep].clone()) for weight, bias in layers],
            [(weight[keep].clone(), bias[keep].clone()) for weight, bias in prior],
            centre,
            scale,
            factor,
            floor,
            residuals=scale * (target[tested] - mean[tested]),
            deviations=scale * np.sqrt((factor * spread[tested]) ** 2 + floor**2),
        )


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A fitted surrogate.

    Args:
        space: The search space.
        layers: The trained networks.
        prior: The fixed ones.
        centre: Mean of the values.
        scale: Their standard deviation.
        factor: Factor on the members' spread (calibrated on held-out values).
        floor: Deviation that is left where all members agree, in units of ``scale``.
        residuals: (tested,) held-out values less the predictions of members that did not know them.
        deviations: (tested,) the predicted deviations there.
    """

    space: Space
    layers: Networks
    prior: Networks
    centre: float
    scale: float
    factor: float
    floor: float
    residuals: np.ndarray
    deviations: np.ndarray

    @property
    def rmse(self) -> float:
        """Root mean square of the held-out errors, in the units of the values; NaN where nothing was held out."""
        return float(np.sqrt(np.mean(self.residuals**2))) if len(self.residuals) else float("nan")

    def coverage(self, deviations: float = 1.0) -> float:
        """The fraction of held-out values within so many predicted deviations: of normal errors 0.683 within one."""
        return float(np.mean(np.abs(self.residuals) <= deviations * self.deviations))

    def predict(self, codes: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a result at each configuration, (n,) each, in the units of the values."""
        means, spreads = [], []
        for begin in range(0, len(codes), CHUNK):
            rows = slice(begin, begin + CHUNK)
            found = outputs(self.layers, self.prior, inputs(self.space, codes[rows], mask[rows]))
            means.append(found.mean(axis=0))
            spreads.append(found.std(axis=0))
        mean, spread = np.concatenate(means or [np.zeros(0)]), np.concatenate(spreads or [np.zeros(0)])
        deviation = np.sqrt((self.factor * spread) ** 2 + self.floor**2)
        return self.centre + self.scale * mean, self.scale * deviation


def inputs(space: Space, codes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a network's inputs, (n, features): numbers by their codes, options one-hot, and which names are active."""
    encoding = encoding_of(space)
    if not len(encoding.groups):
        return np.zeros((len(codes), 1))  # a space of constants
    conditional = [i for i, column in enumerate(space.columns) if space.conditions.get(column.name)]
    centred = np.where(mask, codes, 0.5)
    parts = [2.0 * encoding.features(Points(centred, mask)) - 1.0, mask[:, conditional].astype(np.float64)]
    return np.concatenate(parts, axis=1)


def calibrate(residuals: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """The factor c and the floor t under which held-out errors are likeliest: error ~ N(0, (c spread)² + t²).

    Args:
        residuals: (tested,) errors on values that the members did not know.
        spread: (tested,) standard deviation of the members there.
    """
    if len(residuals) == 0 or not np.any(residuals):
        return 1.0, 0.0
    size = float(np.sqrt(np.mean(residuals**2)))
    factors, floors = np.geomspace(0.1, 10.0, 31), size * np.concatenate([[1e-3], np.geomspace(0.05, 1.5, 20)])
    variance = (factors[:, None, None] * spread) ** 2 + floors[:, None] ** 2  # (factors, floors, tested)
    likelihood = -0.5 * (np.log(variance) + residuals**2 / variance).sum(axis=-1)
    best = np.unravel_index(np.argmax(likelihood), likelihood.shape)
    return float(factors[best[0]]), float(floors[best[1]])


def _parts(count: int, rng: np.random.Generator) -> np.ndarray:
    """(parts, count) bool: what is held out from whom. Each value once where there are few, a fifth of them else."""
    part = rng.permutation(count) % PARTS
    wanted = 1 if count >= MANY else min(PARTS, count)
    return np.stack([part == i for i in range(wanted)])


def _held_out(outputs: np.ndarray, hidden: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread for each value of the members that did not know it, (n,); NaN where all knew it."""
    mean, spread = np.full(hidden.shape[1], np.nan), np.full(hidden.shape[1], np.nan)
    for i, part in enumerate(hidden):
        mine = outputs[i * members : (i + 1) * members, part]
        mean[part], spread[part] = mine.mean(axis=0), mine.std(axis=0)
    return mean, spread
