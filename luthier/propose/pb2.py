"""Population based bandits: population based training that explores by a Gaussian process (Parker-Holder et al., 2020).

The bound takes the standard deviation, as the paper has it: the authors' code and Ray Tune's add the variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from luthier.checks import real, require, whole
from luthier.errors import MethodError
from luthier.jobs import Budget, Event, History, Job, Report
from luthier.limits import levelled
from luthier.propose.gaussian_process.drift import Drifting
from luthier.propose.gaussian_process.fit import fit, start
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.posterior import Posterior, posterior
from luthier.propose.gaussian_process.search import maximise
from luthier.propose.lineages import check_mutate, end_of, movable, usable
from luthier.propose.pbt import explore
from luthier.propose.population import Population
from luthier.propose.threads import one_thread
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.space.encoder import Encoding, Points, encoding_of, join

WHERE = "method pb2"
FEWEST = 4  # changes of different size before there is a model
CLIPPED = 2.0  # standard deviations: one training that broke must not hide what the others say
LEADING = 5  # changes around whose hyperparameters the search begins
LARGEST = 1e150  # a loss beyond it counts as this
WIDEST = 128  # columns of a space
FACTORS, RESAMPLE = (0.8, 1.2), 0.25  # those of PBT, while there is no model


@dataclass(frozen=True)
class PB2:
    """Population based bandits.

    As :class:`luthier.propose.PBT`, but a copy takes the hyperparameters that a model believes best for the next round:
    a Gaussian process of how much the loss has changed in each round so far, by hyperparameters, time and the loss
    before. What was seen long ago counts less. A lower confidence bound of the change weighs what is known to work
    against what is not known, and takes in what the other members of the round are going to try.

    It moves the names in ``mutate``, of every kind of domain, on their scales; all other names stay with the weights.

    Args:
        rounds: Parts of a whole training; exploit and explore stand between them.
        exploit: ``"truncation"`` or ``"tournament"``, as for PBT.
        quantile: A fraction of the members, for truncation.
        exploration: c of the bound ``μ - √β σ`` with ``β = c log(0.4 n)`` after n changes.
        points: Changes that the model takes at most, the latest; its cost grows with their cube.
        mutate: Names that explore moves; None is all Floats.
        fresh: Trials that are kept back and started later on, as for PBT.
        asynchronous: Do not wait for the others at the end of a round, as for PBT.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> from luthier.testing.problems import decay
        >>> space = Space(lr=Float(1e-5, 1e2, log=True))
        >>> history = simulate(PB2(rounds=9), decay, space, Budget(trials=10, steps=90), stateful=True)
        >>> len(history), int(history.age.max())
        (90, 90)

    References:
        Parker-Holder, Nguyen and Roberts, "Provably efficient online hyperparameter optimization with population-based
        bandits", arXiv:2002.02518, NeurIPS 2020.
        Desautels, Krause and Burdick, "Parallelizing exploration-exploitation tradeoffs in Gaussian process bandit
        optimization", JMLR 2014 (the bound of a batch).
    """

    rounds: int = 10
    exploit: Literal["truncation", "tournament"] = "truncation"
    quantile: float = 0.2
    exploration: float = 0.2
    points: int = 200
    mutate: Sequence[str] | None = None
    fresh: int = 0
    asynchronous: bool = False
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    repeats: ClassVar[str] = "late"  # a population may be larger than the space

    def bind(self, budget: Budget) -> PB2:
        """The same method for ``budget.trials`` members that train for ``budget.epochs`` or ``budget.steps``.

        Raises:
            MethodError: If a setting is out of range, or the budget is too small or does not say the members.
        """
        require(self, WHERE, exploration=real(0, 100), points=whole(10))
        check_mutate(self.mutate, WHERE)
        bound = replace(self, budget=budget)
        bound._population().check()
        return bound

    @property
    def jobs(self) -> int:
        """Jobs of the whole study."""
        return self._population().jobs

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next rounds of the members that can go on.

        Raises:
            MethodError: If ``mutate`` does not fit the space, or the space is too wide for the model.
        """
        names, width = movable(history.space, self.mutate, WHERE), len(history.space.columns)
        if width > WIDEST:
            raise MethodError(
                f"the space has {width} columns",
                where=WHERE,
                remedy=f"It models up to {WIDEST}: use pbt, or tune wide vectors during the training.",
            )

        def move(donor: int, jobs: list[Job], rng: np.random.Generator) -> Config:
            with one_thread():
                return self._explore(history, donor, names, jobs, rng)

        return self._population().propose(history, count, seeds, move)

    def parents(self, history: History) -> set[int]:
        """The jobs that a member may still continue or copy."""
        return self._population().parents(history)

    def _population(self) -> Population:
        budget = self.budget or Budget()
        return Population(WHERE, budget, self.rounds, self.exploit, self.quantile, self.fresh, self.asynchronous)

    def _explore(
        self, history: History, donor: int, names: list[str], jobs: list[Job], rng: np.random.Generator
    ) -> Config:
        """Return the configuration that the copy of ``donor`` continues with."""
        encoding, config = encoding_of(history.space), end_of(history, donor)
        told, running = self._told(history, len(history) + len(jobs))
        model = self._model(history, told)
        if model is None:
            return explore(history.space, config, names, rng, FACTORS, RESAMPLE)
        others = [history.jobs[number] for number in running] + jobs
        process = imagined(model, features_of(history, encoding, others)) if others else model
        round_ = float(history.jobs[donor].tag["round"] + 1)
        bound = Bound(process, encoding, standing(history, donor), round_, beta(self.exploration, len(told)))
        origin = encoding.points([config])
        hold = Hold(encoding, names, origin, rng)
        leading = np.array(told)[np.argsort(model.means()[:, 0], kind="stable")[:LEADING]]
        best = hold(join(origin, Points(history.codes[leading], history.mask[leading])))
        tried = encoding.points([job.config for job in others]).codes if others else origin.codes[:0]
        code = maximise(bound, encoding, best, set(), tried, rng, hold)
        assert code is not None, "nothing was left out"
        return landed(history.space, code, config, names)

    def _told(self, history: History, number: int) -> tuple[list[int], list[int]]:
        """The jobs whose results count for job ``number``, and those that run beside it.

        Where members wait for each other, these are the rounds before its own, and the jobs of its own with lower
        numbers, whether these have ended or not: so the answer does not depend on how proposals were split over calls.
        """
        if self.asynchronous:
            told, running = list(history.arrival), list(history.pending)
        else:
            first = number - number % self._population().size  # of this round
            told = list(range(min(first, len(history))))
            running = list(range(first, len(history)))
        told = [n for n in told if "fresh" not in history.jobs[n].tag]  # has trained for longer than a round
        return told[-self.points :], running

    def _model(self, history: History, told: list[int]) -> Posterior | None:
        """The posterior of the changes in these jobs; None while they say too little."""
        kept: dict[tuple[int, ...], Posterior | None] = history.fold("pb2 model", dict, lambda state, event: state)
        key = tuple(told)
        if key not in kept:
            kept.clear()  # of the last round: a cache of one
            y = changes(history, told)
            if len(np.unique(y)) < FEWEST:
                kept[key] = None
            else:
                encoding = encoding_of(history.space)
                features = features_of(history, encoding, [history.jobs[number] for number in told])
                kernel = kernel_of(encoding)
                kept[key] = posterior(kernel, fit(kernel, features, y, start(kernel)), features, y)
        return kept[key]


def landed(space: Space, code: np.ndarray, config: Config, names: Sequence[str]) -> Config:
    """The configuration at a code, in which every name that does not move has exactly the value that it had."""
    found = space.decode(code[None])[0]
    return {name: value if name in names or name not in config else config[name] for name, value in found.items()}


def kernel_of(encoding: Encoding) -> Drifting:
    """Kernel over the hyperparameters and the loss before, with a lengthscale each, and over time."""
    context = len(set(encoding.groups.tolist()))
    return Drifting(Kernel(np.append(encoding.groups, context), encoding.warped))


def features_of(history: History, encoding: Encoding, jobs: Sequence[Job]) -> np.ndarray:
    """Hyperparameters, the standing of the parent, and the round of jobs, (jobs, features)."""
    points = encoding.points([job.config for job in jobs])
    before = [0.0 if job.parent is None else standing(history, job.parent) for job in jobs]
    rounds = [float(job.tag["round"]) for job in jobs]
    return np.column_stack([encoding.features(points), before, rounds])


def standing(history: History, number: int) -> float:
    """Return a job's loss relative to those that ended its round well: in standard deviations, clipped, times 1/4."""
    losses = [*_losses(history)[history.jobs[number].tag["round"]], float(history.values[number, 0])]
    *known, own = levelled(np.array(losses))
    return 0.25 * float(standardised(np.array(known), np.array([own]))[0])


def changes(history: History, numbers: Sequence[int]) -> np.ndarray:
    """Return the change of the loss in each job, standardised within its round and clipped, (jobs,); lower is better.

    Within its round, since all training runs slow down, and the bound compares hyperparameters for one and the same
    time. The first round has no loss before it, but there one initial network is as good as another. A job that failed
    or diverged counts as the worst of its round.
    """
    rounds = np.array([history.jobs[n].tag["round"] for n in numbers])
    parents = [history.jobs[n].parent for n in numbers]
    values = levelled(history.values[:, 0])
    before = np.array([0.0 if p is None else values[p] for p in parents])
    good = np.array([usable(history, n) for n in numbers])
    raw = np.clip(np.where(good, values[list(numbers)], np.nan), -LARGEST, LARGEST) - before
    y = np.full(len(rounds), CLIPPED)
    for round_ in np.unique(rounds[good]):
        here = good & (rounds == round_)
        y[here] = standardised(raw[here], raw[here])
    return y


def standardised(sample: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values`` in standard deviations from the mean of ``sample``, clipped; 0 where the sample is constant."""
    size = max(float(np.max(np.abs(sample))), 1e-300)  # so that squares of huge values do not overflow
    deviation = float(np.std(sample / size))
    if deviation < 1e-12:
        return np.zeros(len(values))
    return np.clip((values / size - np.mean(sample / size)) / deviation, -CLIPPED, CLIPPED)


def beta(exploration: float, count: int) -> float:
    """``c log(0.4 n)``, and none below zero."""
    return exploration * max(0.0, float(np.log(0.4 * max(1, count))))


def imagined(process: Posterior, running: np.ndarray) -> Posterior:
    """The process where running jobs end as it expects them to: its mean is as before, its deviation is not."""
    return process.imagine(running, np.zeros((len(running), 1)))


@dataclass(frozen=True)
class Bound:
    """Minus the lower confidence bound ``μ - √β σ`` of the change under a configuration."""

    process: Posterior
    encoding: Encoding
    context: float
    time: float
    beta: float

    def __call__(self, points: Points) -> np.ndarray:
        features = self.encoding.features(points)
        fixed = np.tile([self.context, self.time], (len(features), 1))
        mean, deviation = self.process.predict(np.concatenate([features, fixed], axis=1))
        return self.beta**0.5 * deviation - mean[:, 0]


@dataclass(frozen=True)
class Hold:
    """Puts the columns of all names that do not move back to where the copied job had them.

    A name that it did not have, since its conditions did not hold, goes with the names that switch it on.
    """

    encoding: Encoding
    names: Sequence[str]
    origin: Points
    rng: np.random.Generator

    def __call__(self, points: Points) -> Points:
        stays = np.array([column.name not in self.names for column in self.encoding.space.columns])
        fixed = stays & self.origin.mask[0]
        codes = np.where(fixed, self.origin.codes, points.codes)
        return self.encoding.complete(codes, points.mask | fixed, self.rng.random(codes.shape))


def _losses(history: History) -> dict[int, list[float]]:
    """The losses of each round that ended well so far, in order of arrival."""

    def update(losses: dict[int, list[float]], event: Event) -> dict[int, list[float]]:
        if not isinstance(event, Job | Report) and usable(history, event.number):
            round_ = history.jobs[event.number].tag["round"]
            losses.setdefault(round_, []).append(float(history.values[event.number, 0]))
        return losses

    return history.fold("pb2 losses", dict, update)
