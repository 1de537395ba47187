"""The model's parameters after each result: a fold over a study's events, so that a resumed study finds the same.

A fit begins at the optimum of the fit before it, which makes it several times faster and moves its answer a little. So
the fits form a chain, and the chain must not depend on which process asked when: there is one fit for every job that
was proposed on new results, in the order of the events. A process that opens a stored study computes the same chain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from luthier.jobs import OK, PRUNED, Event, History, Job, Result
from luthier.limits import PENALTY
from luthier.propose.gaussian_process.fit import fit, start
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.limited import ENDED, Output, Within, bounded, chosen
from luthier.propose.gaussian_process.posterior import Posterior, posterior
from luthier.propose.gaussian_process.transform import transform
from luthier.space.encoder import Points, encoding_of

FEWEST = 2  # finite results before there is a model
PATIENCE = 50  # a fit stays good until the results have grown by 1 / PATIENCE


@dataclass
class Chain:
    """The fits up to some event.

    Args:
        theta: Parameters of the last fit, of each output by its name.
        fitted: Results that it knew; 0 while there is none.
        arrived: Results so far.
        ahead: A fit that was made before the event it belongs to came, for so many results: a proposal fits before its
            job is an event.
    """

    theta: dict[str, np.ndarray] = field(default_factory=dict)
    fitted: int = 0
    arrived: int = 0
    ahead: tuple[int, dict[str, np.ndarray]] | None = None


@dataclass(frozen=True)
class Model:
    """The posterior after all results, and what it was computed from.

    Args:
        posterior: Given the results.
        numbers: (n,) job numbers of the results.
        points: (n) their configurations.
        merit: (n,) their values as methods rank them.
        limits: The limited metrics, given their results.
    """

    posterior: Posterior
    numbers: np.ndarray
    points: Points
    merit: np.ndarray
    limits: tuple[Within, ...] = ()

    def leading(self) -> np.ndarray:
        """The rows from the best on: by their means within the limits, then by their violation."""
        means = self.posterior.means()[:, 0]
        return np.argsort(np.where(self.inside, means, self.merit) if self.limits else means, kind="stable")

    @property
    def inside(self) -> np.ndarray:
        """Mask of the results within the limits, (n,) bool."""
        return self.merit < PENALTY


@dataclass(frozen=True)
class Observed:
    """Results as arrays.

    Args:
        numbers: (n,) job numbers.
        points: (n) configurations.
        y: (n,) transformed values.
    """

    numbers: np.ndarray
    points: Points
    y: np.ndarray


def kernel_of(history: History, name: str) -> Kernel:
    """The kernel of one output, by its name.

    That of a limited metric has no warps: with them a few results are explained too well, and the model becomes sure
    that nothing else lies within the limits where there is another island of it. Where trainings end without metrics
    the boundary is a step, which warps describe.
    """
    encoding = encoding_of(history.space)
    return Kernel(encoding.groups, encoding.warped if name in ("", ENDED) else encoding.warped[:0])


def observed(history: History, arrived: int, most: int) -> Observed | None:
    """The first ``arrived`` results, or None while fewer than two are finite.

    What failed or diverged counts as the worst result. Of more than ``most`` results, the better half of ``most`` and
    the latest.
    """
    numbers = np.array(history.arrival[:arrived], dtype=np.int64)
    status, values = history.status[numbers], history.values[numbers, 0]
    values = np.where((status == OK) | (status == PRUNED), values, np.nan)
    codes, mask = history.codes[numbers], history.mask[numbers]
    if np.isfinite(values).sum() < FEWEST:
        return None
    y = transform(values)
    if len(values) > most:
        kept = chosen(y, most)
        numbers, y = numbers[kept], transform(values[kept])
        codes, mask = codes[kept], mask[kept]
    return Observed(numbers, Points(codes, mask), y)


def outputs(history: History, arrived: int, most: int) -> list[Output]:
    """All that is modelled of the first ``arrived`` results, the objective first; none while there are too few.

    Where there are limits the objective is learnt as it was measured, outside too.
    """
    if not history.limits:
        data = observed(history, arrived, most)
        return [] if data is None else [Output("", data.numbers, data.points, data.y)]
    numbers = np.array(history.arrival[:arrived], dtype=np.int64)
    limited = bounded(history, numbers, most)
    numbers = numbers[np.isin(history.status[numbers], (OK, PRUNED))]
    codes, mask = history.codes[numbers], history.mask[numbers]
    measured, merit = history.measured[numbers, 0], history.values[numbers, 0]
    rows = np.flatnonzero(np.isfinite(measured))
    if len(rows) < FEWEST:
        return []
    rows = rows[chosen(merit[rows], most)]
    y = transform(measured[rows])
    return [Output("", numbers[rows], Points(codes[rows], mask[rows]), y, merit=merit[rows]), *limited]


def model(history: History, first: int, most: int) -> Model | None:
    """The model after all results of a study, or None while there are too few.

    Args:
        history: The study.
        first: Jobs below this number are not the model's proposals, and no fit belongs to them.
        most: Results that the model takes at most.
    """

    def update(chain: Chain, event: Event) -> Chain:
        if isinstance(event, Result):
            chain.arrived += 1
        elif isinstance(event, Job) and event.number >= first and event.number not in history.before:
            chain.theta, chain.fitted = current(history, chain, most)
            chain.ahead = None
        return chain

    chain = history.fold(("gaussian process", first, most), Chain, update)
    found = outputs(history, chain.arrived, most)
    if not found:
        return None
    theta, fitted = current(history, chain, most)
    if fitted > chain.fitted:
        chain.ahead = (fitted, theta)
    encoding = encoding_of(history.space)

    def given(one: Output) -> Posterior:  # an output that is new since the last fit has its first parameters
        kernel = kernel_of(history, one.name)
        own = theta[one.name] if one.name in theta else start(kernel)
        return posterior(kernel, own, encoding.features(one.points), one.y)

    objective, *limited = found
    limits = tuple(Within(given(one), one.low, one.high) for one in limited)
    return Model(given(objective), objective.numbers, objective.points, objective.merit, limits)


def current(history: History, chain: Chain, most: int) -> tuple[dict[str, np.ndarray], int]:
    """The parameters to use after ``chain.arrived`` results, and how many results they were fitted to."""
    arrived, theta = chain.arrived, chain.theta
    if theta and arrived - chain.fitted < max(1, arrived // PATIENCE):
        return theta, chain.fitted
    if chain.ahead is not None and chain.ahead[0] == arrived:
        return chain.ahead[1], arrived
    found = outputs(history, arrived, most)
    if not found:
        return theta, chain.fitted
    encoding, fits = encoding_of(history.space), dict[str, np.ndarray]()
    for one in found:
        kernel = kernel_of(history, one.name)
        fits[one.name] = fit(kernel, encoding.features(one.points), one.y, theta.get(one.name, start(kernel)))
    return fits, arrived
