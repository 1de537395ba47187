"""GFlowNet: many different good configurations, in proportion to how good they are (LaBash and Sepulveda).

As a proposer it learns a surrogate of the results in rounds, and searches from samples of a generative flow network.
By itself it turns any study into a sampler: ``GFlowNet(beta=10).fit(study).sample(1000)``. See docs/gflownet.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from luthier.checks import maybe, one_of, real, require, whole
from luthier.errors import MethodError
from luthier.jobs import OK, PRUNED, Budget, History, Job
from luthier.limits import levelled
from luthier.propose.flow import Leaves, LogReward, Settings, log_rewards
from luthier.propose.flow.training_settings import PAPER
from luthier.propose.gaussian_process.fold import Observed, observed
from luthier.propose.gaussian_process.sequential import one_by_one, upcoming
from luthier.propose.gaussian_process.transform import LARGEST
from luthier.propose.generator import Generator, build, teller, tree_of
from luthier.propose.process_surrogate import FittedProcess, process_of
from luthier.propose.rounds import Known, Making, Round, round_of
from luthier.propose.surrogate import Ensemble, Surrogate
from luthier.propose.threads import one_thread
from luthier.seeds import Seeds
from luthier.space import Space
from luthier.space.encoder import Points

MOST = 1_000  # results that the surrogate takes at most in a proposer
LEAVES, FEWEST = 2**15, 2  # of a proposer's tree: the search after it makes up for few bins
TINY = 1e-12  # above zero
UNTIL = 0.6  # part of the budget after which every job is for a different configuration
CLOSE = 1.0  # standard deviation of the transformed results: nearly as good is never farther from the best
PROPOSING, FITTED = 2.0, 10.0  # exp(entropy) of the target, in batches

ONLINE = Settings(evaluations=3_000)
"""Training settings of a learnt sampler in each round of a study: brief, since it continues from the round before."""


@dataclass(frozen=True)
class GFlowNet:
    """Bayesian optimisation for many different good configurations, and a sampler for finished studies.

    As a proposer: the first configurations cover the space evenly. Then, whenever ``batch`` more results have come, a
    model is fitted to them. In the first three fifths of the budget a job goes where the expected improvement on the
    best result is highest, as long as it is worth a job. All others go where one more good configuration is most likely
    that is different from the good ones so far: configurations are drawn in proportion to R(x)^beta, R the probability
    of being nearly as good as the best, and a local search goes on from there. Nothing is proposed twice; a finite
    space that was visited whole ends the study. Failed and diverged training runs count as the worst result. It takes
    one objective.

    Args:
        beta: Exponent of the target R^beta. None chooses it by the entropy of the target: exp(entropy), in leaves, is
            ``effective`` times ``batch``.
        batch: Number of results in a round, and of jobs that may be running at once.
        initial: Number of results before the first round.
        within: Margin below the best result that still counts as good, as a fraction of the distance from it to the
            median of the first ``initial`` results.
        effective: See ``beta``; None is 2 while proposing and 10 in :meth:`fit`.
        apart: The distance between configurations that count as different (see :mod:`luthier.space.distance`).
        bins: Most bins of a Float, an Int and an ordered Choice; None is as many as can be enumerated cheaply.
        model: Model fitted to the results while proposing: a Gaussian process, which is better on few results, or
            the ensemble. :meth:`fit` takes the ensemble.
        reward: R of :meth:`fit`: ``"score"`` is exp of the expected result, less one deviation of the
            expectation, in standard deviations of the results; ``"metric"`` is the expected metric itself, which must
            be maximised and not negative (the paper's).
        sampler: ``"exact"`` by enumeration, ``"learnt"``; None is exact up to a million leaves.
        surrogate: Settings of the ensemble.
        training: Training settings of a learnt sampler; None is brief while proposing and thorough in :meth:`fit`.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> space = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
        >>> method = GFlowNet()
        >>> history = simulate(
        ...     method, lambda c: (abs(c["x"]) - 3) ** 2 + c["y"] ** 2, space, Budget(trials=60), batch=10
        ... )
        >>> bool(history.values.min() < 0.5)
        True
        >>> good = [job.config["x"] for job, value in zip(history.jobs, history.values[:, 0]) if value < 0.5]
        >>> sorted({round(x / 3) for x in good})  # there is one at x = 3 and one at x = -3
        [-1, 1]

    References:
        LaBash and Sepulveda, "Generative flow networks for neural network hyperparameter tuning".
        Bengio et al., "Flow network based generative models for non-iterative diverse candidate generation", 2021.
        Jain et al., "Biological sequence design with GFlowNets", ICML 2022 (rounds of surrogate and sampler).
    """

    beta: float | None = None
    batch: int = 10
    initial: int = 10
    within: float = 0.02
    effective: float | None = None
    apart: float = 0.1
    bins: int | None = None
    model: Literal["gp", "ensemble"] = "gp"
    reward: Literal["score", "metric"] = "score"
    sampler: Literal["exact", "learnt"] | None = None
    surrogate: Surrogate = field(default_factory=Surrogate)
    training: Settings | None = None
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True
    learns_known: ClassVar[bool] = True

    @classmethod
    def paper(cls, **settings: Any) -> GFlowNet:
        """The system as printed: one network as the reward, and a flow network of experts that learns to sample it.

        The flow network is trained by flow matching on 10,000 trajectories, at beta = 1. Its equation 2 adds the
        outflow of a state to its inflow; here it is subtracted, which makes it a flow. For :meth:`fit` to a study of a
        metric that is maximised and not negative, such as the accuracy. As a proposer it is trained anew in each round.

        Args:
            **settings: Other settings, such as ``bins``; the paper's own may be given too.

        Examples:
            >>> GFlowNet.paper(bins=28).training.objective
            'plain_flow_matching'
        """
        printed: dict[str, Any] = {"beta": 1.0, "model": "ensemble", "reward": "metric", "sampler": "learnt"}
        return cls(**printed | {"surrogate": Surrogate(members=1), "training": PAPER} | settings)

    def bind(self, budget: Budget) -> GFlowNet:
        """The same search, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If a setting cannot be.
        """
        self._check_settings()
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations, as long as at most ``batch`` jobs are running.

        Raises:
            MethodError: If the study has several objectives, or the space has no column.
        """
        _check(history, several=False)
        numbers = upcoming(history, count, self.batch, self.budget)
        if not numbers:
            return []
        with one_thread():
            return self._propose(history, numbers, seeds)

    def fit(self, study: Any, seed: int = 0, progress: bool = True) -> Generator:
        """The distribution over configurations that the results of a study imply, R^beta / Z.

        What is unknown is not rewarded: the default reward is made of the surrogate's mean less one deviation.

        Args:
            study: A study or a history; the first of several objectives counts.
            seed: Seed of the surrogate and of a learnt sampler.
            progress: If true, training that takes more than a few seconds reports its progress on stderr.

        Raises:
            MethodError: If fewer than two results ended well, or the reward is impossible.
        """
        self._check_settings()
        history = getattr(study, "history", study)
        if not isinstance(history, History):
            remedy = "Give a study or its history: GFlowNet().fit(study)."
            raise MethodError(f"{study!r} is not a study", where="GFlowNet.fit", remedy=remedy)
        _check(history, several=True)
        key = Seeds(seed).key(0, "gflownet fit")
        sign = -1.0 if next(iter(history.objectives.values())) == "max" else 1.0
        if self.reward == "metric" and sign > 0:
            remedy = "Use reward='score', or maximise a metric that is not negative, such as the accuracy."
            raise MethodError("a metric that is minimised is no reward", where="GFlowNet.fit", remedy=remedy)
        if self.reward == "metric" and (worst := _finite(history).max(initial=0.0)) > 0:
            remedy = "Use reward='score', which takes any metric."
            raise MethodError(f"a metric of {-worst:.6g} is no reward", where="GFlowNet.fit", remedy=remedy)
        with one_thread():
            ensemble = self.surrogate.fit(history, key)
            log_reward = scores(ensemble) if self.reward == "score" else metrics(ensemble)
            settings = self.training or Settings()
            tree = tree_of(history.space, self.bins)
            effective = (self.effective or FITTED) * self.batch
            told = teller(self.beta) if progress else None
            sampler, beta = build(tree, log_reward, self.beta, effective, settings, key, None, self.sampler, told)
        return Generator(sampler, ensemble, log_reward, beta, sign)

    def _propose(self, history: History, numbers: range, seeds: Seeds) -> list[Job]:
        known = self.batch * (len(history.arrival) // self.batch)
        found = self._round(history, known // self.batch, seeds) if known >= self.initial else None
        late = sorted(set(range(len(history))) - set(history.arrival[:known]))  # what the round does not know

        def choose(number: int, seen: set[bytes], near: Points, rng: np.random.Generator) -> np.ndarray | None:
            better = _improving(number, self.budget or Budget(), len(history.before))
            return None if found is None else found.draw(better, seen, near, rng)

        near = Points(history.codes[late], history.mask[late])
        return one_by_one(history, numbers, choose, near, self.budget, seeds)

    def _round(self, history: History, number: int, seeds: Seeds) -> Round | None:
        """The sampler after ``number`` times ``batch`` results, or None where fewer than two of them are finite.

        A learnt sampler begins with that of the round before, so the rounds are a chain; what is kept of it may be
        dropped, and is then computed again.
        """
        cache: dict[int, Round | None] = history.fold(("gflownet", self, seeds), dict, lambda state, event: state)
        if number in cache:
            return cache[number]
        space = history.space
        data = observed(history, number * self.batch, MOST)
        if data is None:
            return None
        key = seeds.key(number, "gflownet round")
        model: Ensemble | FittedProcess
        if self.model == "gp":
            model = process_of(space, data.points, data.y)
        else:
            model = self.surrogate.fit_points(space, data.points.codes, data.points.mask, data.y, key)
        tree = tree_of(space, self.bins, LEAVES, FEWEST)
        before = None
        if (self.sampler == "learnt" or not tree.enumerable) and (number - 1) * self.batch >= self.initial:
            earlier = self._round(history, number - 1, seeds)
            before = None if earlier is None else earlier.places.learnt
        effective, settings = (self.effective or PROPOSING) * self.batch, self.training or ONLINE
        making = Making(tree, self.beta, effective, settings, self.sampler, self.apart, key, before)
        limit = min(good_until(history, data, self.initial, self.within), float(data.y.min()) + CLOSE)
        cache[number] = round_of(making, model, Known(data.points, data.y, limit), seeds.rng(number, "gflownet pool"))
        cache.pop(number - 2, None)
        return cache[number]

    def _check_settings(self) -> None:
        where = "method gflownet"
        require(
            self,
            where,
            batch=whole(1),
            initial=whole(2),
            beta=maybe(real(TINY)),
            effective=maybe(real(TINY)),
            within=real(0),
            apart=real(0, 1),
            bins=maybe(whole(1)),
            reward=one_of("score", "metric"),
            model=one_of("gp", "ensemble"),
            sampler=one_of("exact", "learnt", None),
        )
        for name, kind in (("surrogate", Surrogate), ("training", Settings)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name == "training"):
                remedy = f"Give a {kind.__module__}.{kind.__name__}."
                raise MethodError(f"{name}={value!r} cannot be", where=where, remedy=remedy)


def good_until(history: History, data: Observed, first: int, within: float) -> float:
    """The transformed value up to which a result is nearly as good as the best.

    Args:
        history: The study.
        data: Its results, transformed.
        first: Results of which the median is taken.
        within: Part of the distance from the best result to that median.
    """
    usable = (history.status == OK) | (history.status == PRUNED)
    values = np.clip(levelled(np.where(usable, history.values[:, 0], np.nan)), -LARGEST, LARGEST)
    told = values[data.numbers]
    order = np.argsort(told)[: np.isfinite(told).sum()]  # those that are not finite come last
    early = values[history.arrival[:first]]
    early = early[np.isfinite(early)]
    best = told[order[0]]
    typical = float(np.median(early)) if len(early) else told[order[-1]]
    return float(np.interp(best + within * (typical - best), told[order], data.y[order]))


def scores(ensemble: Ensemble) -> LogReward:
    """log R, in standard deviations of the results: what is expected less one deviation of it, more is better."""

    def log_reward(leaves: Leaves) -> np.ndarray:
        mean, deviation = ensemble.predict(leaves.codes, leaves.mask)
        return (ensemble.centre - (mean + deviation)) / ensemble.scale

    return log_reward


def metrics(ensemble: Ensemble) -> LogReward:
    """log R, R the expected metric itself, which is maximised; 0 where less is expected, as it never was."""

    def log_reward(leaves: Leaves) -> np.ndarray:
        return log_rewards(np.maximum(-ensemble.predict(leaves.codes, leaves.mask)[0], 0.0))

    return log_reward


def _improving(number: int, budget: Budget, before: int) -> bool:
    """True if a job may look for a better configuration, rather than a different one; ``before`` jobs were given."""
    return budget.trials is None or number - before < UNTIL * (budget.trials - before)


def _finite(history: History) -> np.ndarray:
    """Finite values of the first objective, minimised, of what ended well within the limits."""
    values = history.values[history.good, 0]
    return values[np.isfinite(values)]


def _check(history: History, several: bool) -> None:
    if len(history.objectives) > 1 and not several:
        raise MethodError(
            f"there are {len(history.objectives)} objectives, {', '.join(history.objectives)}",
            where="method gflownet",
            remedy="It models one objective: give one metric, or use another method.",
        )
    space: Space = history.space
    if not space.columns:
        raise MethodError("the space is empty", where="method gflownet", remedy="Give a hyperparameter at least.")
