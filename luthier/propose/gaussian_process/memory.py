"""The model's parameters after each result: a fold over a study's events, so that a resumed study finds the same.

A fit begins at the optimum of the fit before it, which makes it several times faster and moves its answer a little. So
the fits form a chain, and the chain must not depend on which process asked when: there is one fit for every job that
was proposed on new results, in the order of the events. A process that opens a stored study computes the same chain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from luthier.jobs import OK, PRUNED, Event, History, Job, Result
from luthier.propose.gaussian_process.fit import fit, start
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.posterior import Posterior, posterior
from luthier.propose.gaussian_process.transform import transform
from luthier.space.encoder import Points, encoding_of

FEWEST = 2  # finite results before there is a model
PATIENCE = 50  # a fit stays good until the results have grown by 1 / PATIENCE


@dataclass
class Chain:
    """The fits up to some event.

    Args:
        theta: Parameters of the last fit.
        fitted: Results that it knew; 0 while there is none.
        arrived: Results so far.
        ahead: A fit that was made before the event it belongs to came, for so many results: a proposal fits before its
            job is an event.
    """

    theta: np.ndarray | None = None
    fitted: int = 0
    arrived: int = 0
    ahead: tuple[int, np.ndarray] | None = None


@dataclass(frozen=True)
class Model:
    """The posterior after all results, and what it was computed from.

    Args:
        posterior: Given the results.
        numbers: (n,) job numbers of the results; below 0 for results from elsewhere.
        points: (n) their configurations.
    """

    posterior: Posterior
    numbers: np.ndarray
    points: Points


@dataclass(frozen=True)
class Data:
    """Results as arrays.

    Args:
        numbers: (n,) job numbers; below 0 for results from elsewhere.
        points: (n) configurations.
        y: (n,) transformed values.
    """

    numbers: np.ndarray
    points: Points
    y: np.ndarray


def kernel_of(history: History) -> Kernel:
    """The kernel of a study's space."""
    encoding = encoding_of(history.space)
    return Kernel(encoding.groups, encoding.warped)


def observed(history: History, arrived: int, most: int) -> Data | None:
    """The first ``arrived`` results, or None while fewer than two are finite.

    What failed or diverged counts as the worst result. Results from elsewhere come before them. Of more than ``most``
    results, the better half of ``most`` and the latest.
    """
    numbers = np.array(history.arrival[:arrived], dtype=np.int64)
    status, values = history.status[numbers], history.values[numbers, 0]
    values = np.where((status == OK) | (status == PRUNED), values, np.nan)
    codes, mask = history.codes[numbers], history.mask[numbers]
    if history.foreign:
        known = history.foreign_table()
        numbers = np.append(-1 - np.arange(len(history.foreign)), numbers)
        codes, mask = np.concatenate([known[0], codes]), np.concatenate([known[1], mask])
        values = np.append(known[2][:, 0], values)
    if np.isfinite(values).sum() < FEWEST:
        return None
    y = transform(values)
    if len(values) > most:
        kept = np.zeros(len(values), dtype=bool)
        kept[np.argsort(y, kind="stable")[: most // 2]] = True
        latest = np.flatnonzero(~kept)[-(most - most // 2) :]
        kept[latest] = True
        numbers, y = numbers[kept], transform(values[kept])
        codes, mask = codes[kept], mask[kept]
    return Data(numbers, Points(codes, mask), y)


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
        elif isinstance(event, Job) and event.number >= first:
            chain.theta, chain.fitted = current(history, chain, most)
            chain.ahead = None
        return chain

    chain = history.fold(("gaussian process", first, most), Chain, update)
    data = observed(history, chain.arrived, most)
    if data is None:
        return None
    theta, fitted = current(history, chain, most)
    assert theta is not None
    if fitted > chain.fitted:
        chain.ahead = (fitted, theta)
    features = encoding_of(history.space).features(data.points)
    return Model(posterior(kernel_of(history), theta, features, data.y), data.numbers, data.points)


def current(history: History, chain: Chain, most: int) -> tuple[np.ndarray | None, int]:
    """The parameters to use after ``chain.arrived`` results, and how many results they were fitted to."""
    arrived, theta = chain.arrived, chain.theta
    if theta is not None and arrived - chain.fitted < max(1, arrived // PATIENCE):
        return theta, chain.fitted
    if chain.ahead is not None and chain.ahead[0] == arrived:
        return chain.ahead[1], arrived
    data = observed(history, arrived, most)
    if data is None:
        return theta, chain.fitted
    kernel = kernel_of(history)
    features = encoding_of(history.space).features(data.points)
    return fit(kernel, features, data.y, start(kernel) if theta is None else theta), arrived
