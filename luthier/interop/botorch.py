"""BoTorch's expected hypervolume improvement as a proposer: what ``method="gp"`` is where there are several objectives.

The one file that imports BoTorch. The space, the start, the search for the highest acquisition and what counts as seen
are those of ``luthier/propose/gaussian_process/``; the models and the acquisition are BoTorch's.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from luthier.errors import MethodError
from luthier.jobs import OK, PRUNED, Event, History, Job, Result
from luthier.lazy import optional_import
from luthier.pareto import best_first, non_dominated
from luthier.propose.gaussian_process.search import maximise
from luthier.propose.gaussian_process.sequential import one_by_one, running, upcoming
from luthier.propose.gaussian_process.transform import transform
from luthier.propose.gp import Modelled
from luthier.propose.threads import one_thread, one_torch_thread
from luthier.seeds import Seeds
from luthier.space.encoder import Encoding, Points, encoding_of

_INSTEAD = "; or use genetic, which needs nothing, or nsga2."
with optional_import("BoTorch", "method gp with several objectives", MethodError, _INSTEAD), warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what they use of torch
    from botorch.acquisition.multi_objective import qNoisyExpectedHypervolumeImprovement
    from botorch.exceptions import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import ExactMarginalLogLikelihood

WIDEST = 128  # columns of a space
SAMPLES = 64  # of the posterior, over which the improvement is averaged
LEADING = 5  # results around which the search for the next configuration begins
FEWEST = 2  # finite results before there is a model
STEPS = 30  # of a fit at most; more cost time and change little
MARGIN = 0.1  # the reference point lies so much of the front's range beyond its worst


@final
@dataclass(frozen=True)
class HypervolumeImprovement(Modelled):
    """Bayesian optimisation of several objectives: the noisy expected hypervolume improvement, by BoTorch.

    A Gaussian process is fitted to each objective, and the next configuration is where the hypervolume that the results
    dominate is expected to grow most. Numbers are their place in their range and integers are snapped to their values;
    unordered options are one-hot; inactive names lie in the middle. Candidates are real configurations, so nothing is
    rounded afterwards. Jobs that are running count as BoTorch's pending points. A configuration is never proposed
    twice; a finite space that has been visited whole ends the study.

    Failed and diverged trainings count as the worst result in every objective. ``tune(task, method="gp", metric=[…])``
    takes this; of one objective it is :class:`luthier.propose.GaussianProcess`.

    Args:
        initial: Configurations of a shifted Sobol sequence before the models are asked.
        batch: Jobs that may be running at once; more wait.
        points: Results that the models take at most: of more, the best half of ``points`` and the latest.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.jobs import Budget
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> history = simulate(
        ...     HypervolumeImprovement(),
        ...     lambda c: {"near": c["x"] ** 2 + c["y"] ** 2, "far": (c["x"] - 1) ** 2 + c["y"] ** 2},
        ...     Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0)),
        ...     Budget(trials=20),
        ...     objectives={"near": "min", "far": "min"},
        ... )
        >>> bool(history.values.sum(axis=1).min() < 0.7)  # 0.5 is the least
        True

    References:
        Daulton, Balandat and Bakshy, "Parallel Bayesian optimization of multiple noisy objectives with expected
        hypervolume improvement", NeurIPS 2021.
    """

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations, as long as at most ``batch`` jobs are running.

        Raises:
            MethodError: If the study has one objective or too wide a space.
        """
        _check(history)
        numbers = upcoming(history, count, self.batch, self.budget)
        if not numbers:
            return []
        with one_thread(), _own_torch():
            modelled = numbers[-1] >= self.initial and len(encoding_of(history.space).groups) > 0
            fitted = _model(history, self.points) if modelled else None

            def choose(number: int, seen: set[bytes], near: Points, rng: np.random.Generator) -> np.ndarray | None:
                if fitted is None or number < self.initial:
                    return None
                return _improve(fitted, encoding_of(history.space), seen, near, rng)

            return one_by_one(history, numbers, choose, running(history), self.budget, seeds)


@dataclass
class _Model:
    """A Gaussian process of each objective.

    Args:
        model: BoTorch's, of the negated results: it maximises.
        points: (n) the configurations of the results, best first.
        features: (n, features).
        reference: (objectives,) the worst negated values that count.
    """

    model: Any
    points: Points
    features: torch.Tensor
    reference: list[float]


@dataclass
class _Kept:
    """The model after so many results, for the next proposal that knows no more."""

    arrived: int = 0
    made: tuple[int, _Model | None] | None = None


def _model(history: History, most: int) -> _Model | None:
    """The model of all results so far, or None while fewer than two are finite."""

    def update(kept: _Kept, event: Event) -> _Kept:
        kept.arrived += isinstance(event, Result)
        return kept

    kept = history.fold(("hypervolume improvement", most), _Kept, update)
    if kept.made is None or kept.made[0] != kept.arrived:
        kept.made = kept.arrived, _fit(history, most)
    return kept.made[1]


def _fit(history: History, most: int) -> _Model | None:
    numbers = np.array(history.arrival, dtype=np.int64)
    good = np.isin(history.status[numbers], (OK, PRUNED))[:, None]
    values = np.where(good, history.values[numbers], np.nan)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    if np.isfinite(values[:, 0]).sum() < FEWEST:
        return None
    y = np.stack([transform(column) for column in values.T], axis=1)
    order = best_first(y)
    if len(order) > most:
        best, rest = order[: most // 2], np.sort(order[most // 2 :])
        order = np.concatenate([best, rest[-(most - most // 2) :]])
        y = np.stack([transform(column) for column in values[order].T], axis=1)
    else:
        y = y[order]
    points = Points(history.codes[numbers[order]], history.mask[numbers[order]])
    features = torch.from_numpy(encoding_of(history.space).features(points))
    goals = torch.from_numpy(-y)
    models = [SingleTaskGP(features, column[:, None], outcome_transform=None) for column in goals.T]
    for one in models:
        with contextlib.suppress(ModelFittingError):  # then it has the parameters that the priors favour
            likelihood = ExactMarginalLogLikelihood(one.likelihood, one)
            fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": STEPS}})
    front = y[non_dominated(y)]
    worst = front.max(axis=0)
    span = np.maximum(worst - front.min(axis=0), 1e-3)
    return _Model(ModelListGP(*models).eval(), points, features, (-(worst + MARGIN * span)).tolist())


def _improve(
    fitted: _Model, encoding: Encoding, seen: set[bytes], running: Points, rng: np.random.Generator
) -> np.ndarray | None:
    """The code of the highest expected hypervolume improvement, given the running jobs."""
    seed = int(rng.integers(2**31))
    torch.manual_seed(seed)
    # Not its logarithm, whose smoothing serves gradients, which are not taken here: that takes 1.6 times as long even
    # in C++, which BoTorch compiles on first use, under a lock that outlives a killed process and stops all others.
    improvement = qNoisyExpectedHypervolumeImprovement(
        fitted.model,
        fitted.reference,
        fitted.features,
        sampler=SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed),
        X_pending=torch.from_numpy(encoding.features(running)) if len(running.codes) else None,
        prune_baseline=True,
    )

    def acquisition(points: Points) -> np.ndarray:
        with torch.no_grad():
            values = improvement(torch.from_numpy(encoding.features(points))[:, None, :])
        return np.nan_to_num(values.numpy(), nan=-np.inf)

    return maximise(acquisition, encoding, fitted.points.take(slice(LEADING)), seen, running.codes, rng)


@contextlib.contextmanager
def _own_torch() -> Iterator[None]:
    """One thread, generators of one's own and no warnings, all given back at the end."""
    with one_torch_thread(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def _check(history: History) -> None:
    if len(history.objectives) == 1:
        raise MethodError(
            f"there is one objective, {next(iter(history.objectives))}",
            where="hypervolume improvement",
            remedy="Use luthier.propose.GaussianProcess, or method='gp', which takes the one that fits.",
        )
    width = len(history.space.columns)
    if not 1 <= width <= WIDEST:
        raise MethodError(
            f"the space has {width} columns",
            where="method gp",
            remedy=f"It models 1 to {WIDEST}; wide vectors are tuned during the training, by hypergradients.",
        )
