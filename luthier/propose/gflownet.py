"""GFlowNet: many different good configurations, in proportion to how good they are (LaBash and Sepulveda).

As a proposer it learns a surrogate of the results in rounds and draws batches from a generative flow network over it.
By itself it turns any study into a sampler: ``GFlowNet(beta=10).fit(study).sample(1000)``. See docs/gflownet.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from scipy.special import log_ndtr

from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job
from luthier.propose.flow import Leaves, LogReward, Sampler, Settings, Tree, log_rewards
from luthier.propose.gaussian_process.design import sobol
from luthier.propose.gaussian_process.encoding import Encoding, Points, encoding_of, keys
from luthier.propose.gaussian_process.memory import observed
from luthier.propose.gaussian_process.threads import one_thread
from luthier.propose.generator import Generator, build, tree_of
from luthier.propose.process import Process, process_of
from luthier.propose.surrogate import Ensemble, Surrogate
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.space.distance import distances

MOST = 1_000  # results that the surrogate takes at most in a proposer
POOL = 2_048  # samples from which the jobs of a round are drawn
WALK = (0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.02, 0.02)  # deviations of the random walk, as parts of the range
GOOD = 2.0  # margins above the limit up to which a result is one from which others are to differ
PROPOSING, FITTED = 2.0, 10.0  # exp(entropy) of the target, in batches
TRIES = 100  # random configurations before all of a finite space are looked through

ONLINE = Settings(evaluations=3_000)
"""How a learnt sampler is trained in each round of a study: briefly, since it goes on from the round before."""


@dataclass(frozen=True)
class GFlowNet:
    """Bayesian optimisation that draws its batches in proportion to a reward, and a sampler for finished studies.

    As a proposer: the first configurations cover the space evenly. Then, whenever ``batch`` more results have come, a
    model is fitted to them, and configurations are drawn with probability in proportion to R(x)^beta, R the probability
    that x is nearly as good as the best result or better: one half of them from anywhere, the other half from what is
    different from all good results so far. Nothing is proposed twice; a finite space that was visited whole ends the
    study. Failed and diverged trainings count as the worst result. It takes one objective.

    Args:
        beta: Exponent of the target R^beta. None chooses it by the entropy of the target: exp(entropy), in leaves, is
            ``effective`` times ``batch``.
        batch: Results of a round, and jobs that may be running at once.
        initial: Results before the first round.
        margin: How much worse than the best result is still good, in standard deviations of the transformed results.
        effective: See ``beta``; None is 2 while proposing and 10 in :meth:`fit`.
        apart: The distance between configurations that count as different (see :mod:`luthier.space.distance`).
        bins: Most bins of a Float, an Int and an ordered Choice; None is as many as can be enumerated cheaply.
        model: What is fitted to the results while proposing: a Gaussian process, which is better on few results, or
            the ensemble. :meth:`fit` takes the ensemble.
        reward: What :meth:`fit` takes for R: ``"score"`` is exp of the expected result in its standard deviations;
            ``"metric"`` is the expected metric itself, which must be maximised and not negative (the paper's).
        sampler: ``"exact"`` by enumeration, ``"learnt"``; None is exact up to a million leaves.
        surrogate: How the ensemble is made.
        training: How a learnt sampler is trained; None is brief while proposing and thorough in :meth:`fit`.
        budget: Set by :meth:`bind`.

    Example:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> space = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
        >>> method = GFlowNet(batch=5)
        >>> history = simulate(
        ...     method, lambda c: (abs(c["x"]) - 3) ** 2 + c["y"] ** 2, space, Budget(trials=60), batch=5
        ... )
        >>> bool(history.values.min() < 0.5)
        True
        >>> best = method.fit(history).top(2, apart=0.3)  # there is one at x = 3 and one at x = -3
        >>> sorted(round(config["x"] / 3) for config in best)
        [-1, 1]

    References:
        LaBash and Sepulveda, "Generative flow networks for neural network hyperparameter tuning".
        Bengio et al., "Flow network based generative models for non-iterative diverse candidate generation", 2021.
        Jain et al., "Biological sequence design with GFlowNets", ICML 2022 (rounds of surrogate and sampler).
    """

    beta: float | None = None
    batch: int = 10
    initial: int = 10
    margin: float = 0.1
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
        budget, first = self.budget or Budget(), len(history)
        stop = first + min(count, self.batch - len(history.pending))
        stop = stop if budget.trials is None else min(stop, budget.trials)
        if stop <= first:
            return []
        with one_thread():
            return self._propose(history, first, stop, budget, seeds)

    def fit(self, study: Any, seed: int = 0) -> Generator:
        """The distribution over configurations that the results of a study imply, R^beta / Z.

        The reward is made of the surrogate's mean alone: what is unknown is not rewarded.

        Args:
            study: A study or a history; of several objectives the first counts.
            seed: Of the surrogate and of a learnt sampler.

        Raises:
            MethodError: If fewer than two results ended well, or the reward cannot be.
        """
        self._check_settings()
        history: History = getattr(study, "history", study)
        _check(history, several=True)
        key = Seeds(seed).key(0, "gflownet fit")
        sign = -1.0 if next(iter(history.objectives.values())) == "max" else 1.0
        if self.reward == "metric" and sign > 0:
            remedy = "Use reward='score', or maximise a metric that is not negative, such as the accuracy."
            raise MethodError("a metric that is minimised is no reward", where="GFlowNet.fit", remedy=remedy)
        with one_thread():
            ensemble = self.surrogate.fit(history, key)
            log_reward = scores(ensemble) if self.reward == "score" else metrics(ensemble, sign)
            settings = self.training or Settings()
            tree = tree_of(history.space, self.bins)
            effective = (self.effective or FITTED) * self.batch
            sampler, beta = build(tree, log_reward, self.beta, effective, settings, key, None, self.sampler)
        return Generator(sampler, ensemble, log_reward, beta, sign)

    def _propose(self, history: History, first: int, stop: int, budget: Budget, seeds: Seeds) -> list[Job]:
        encoding = encoding_of(history.space)
        known = self.batch * (len(history.arrival) // self.batch)
        found = self._round(history, known // self.batch, seeds) if known >= self.initial else None
        seen = set(keys(history.codes))
        late = sorted(set(range(first)) - set(history.arrival[:known]))  # what the round does not know
        near = Points(history.codes[late], history.mask[late])
        jobs = []
        for number in range(first, stop):
            code = sobol(encoding.width, number, seeds)
            if found is not None:
                pool = found.pools[number % len(found.pools)]
                least = self.apart if number % 2 else 0.0
                code = _draw(history.space, pool, seen, near, least, seeds.rng(number, "propose"))
            config = _settle(code, encoding, number, seen, seeds)
            if config is None:
                break
            jobs.append(Job(number, config, budget.steps_for(config)))
            point = encoding.points([config])
            seen.update(keys(point.codes))
            near = Points(np.concatenate([near.codes, point.codes]), np.concatenate([near.mask, point.mask]))
        return jobs

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
        model: Ensemble | Process
        if self.model == "gp":
            model = process_of(space, data.points, data.y)
        else:
            model = self.surrogate.fit_points(space, data.points.codes, data.points.mask, data.y, key)
        tree = tree_of(space, self.bins)
        before = None
        if (self.sampler == "learnt" or not tree.enumerable) and (number - 1) * self.batch >= self.initial:
            earlier = self._round(history, number - 1, seeds)
            before = None if earlier is None else (earlier.sampler, earlier.beta)
        limit = float(data.y.min()) + self.margin
        log_reward = nearly_best(model, limit)
        good = data.points.take(np.flatnonzero(data.y <= limit + GOOD * self.margin))
        elsewhere = apart_from(space, good, self.apart, scores(model))
        settings = self.training or ONLINE
        effective = (self.effective or PROPOSING) * self.batch
        sampler, beta = build(tree, log_reward, self.beta, effective, settings, key, before, self.sampler)
        rng = seeds.rng(number, "gflownet pool")
        pools = [_pool(tree, log_reward, sampler, beta, rng)]
        if self.sampler != "learnt" and tree.enumerable and np.isfinite(elsewhere(tree.all)).any():
            other, sharp = build(tree, elsewhere, self.beta, effective, settings, key, None, "exact")
            pools.append(_pool(tree, elsewhere, other, sharp, rng))
        cache[number] = Round(tree, sampler, beta, pools)
        cache.pop(number - 2, None)
        return cache[number]

    def _check_settings(self) -> None:
        for name in ("batch", "initial"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            self._expect(whole, name, "Give a whole number above zero.")
        self._expect(self.initial >= 2, "initial", "Give a whole number of at least 2.")
        self._expect(self.beta is None or 0 < self.beta < math.inf, "beta", "Give a number above zero, or None.")
        self._expect(0 <= self.margin < math.inf, "margin", "Give a number from 0 on.")
        self._expect(
            self.effective is None or 0 < self.effective < math.inf, "effective", "Give a number above zero, or None."
        )
        self._expect(0 <= self.apart < 1, "apart", "Give a number from 0 to below 1.")
        self._expect(self.reward in ("score", "metric"), "reward", "Give 'score' or 'metric'.")
        self._expect(self.model in ("gp", "ensemble"), "model", "Give 'gp' or 'ensemble'.")
        self._expect(self.sampler in ("exact", "learnt", None), "sampler", "Give 'exact', 'learnt' or None.")

    def _expect(self, fine: bool, name: str, remedy: str) -> None:
        if not fine:
            raise MethodError(f"{name}={getattr(self, name)!r} cannot be", where="method gflownet", remedy=remedy)


class Round(NamedTuple):
    """What is drawn from between one batch of results and the next.

    Args:
        tree: Of the space.
        sampler: Of R^beta / Z.
        beta: The exponent.
        pools: Samples of it, and samples that are apart from every good result so far, where the tree is enumerated.
    """

    tree: Tree
    sampler: Sampler
    beta: float
    pools: list[Points]


def nearly_best(model: Ensemble | Process, limit: float) -> LogReward:
    """log R, R the probability that a result is at most ``limit``."""

    def log_reward(leaves: Leaves) -> np.ndarray:
        mean, deviation = model.predict(leaves.codes, leaves.mask)
        return log_ndtr((limit - mean) / np.maximum(deviation, 1e-9))

    return log_reward


def apart_from(space: Space, good: Points, apart: float, log_reward: LogReward) -> LogReward:
    """log R, with R = 0 at and near configurations that are known to be good."""

    def elsewhere(leaves: Leaves) -> np.ndarray:
        gaps = distances(space, leaves.codes, leaves.mask, *good).min(axis=1, initial=np.inf)
        return np.where(gaps > apart, log_reward(leaves), -np.inf)

    return elsewhere


def scores(model: Ensemble | Process) -> LogReward:
    """log R, the expected result in standard deviations of the results, more is better."""

    def log_reward(leaves: Leaves) -> np.ndarray:
        return (model.centre - model.predict(leaves.codes, leaves.mask)[0]) / model.scale

    return log_reward


def metrics(ensemble: Ensemble, sign: float) -> LogReward:
    """log R, R the expected metric itself; it must not be negative."""

    def log_reward(leaves: Leaves) -> np.ndarray:
        return log_rewards(sign * ensemble.predict(leaves.codes, leaves.mask)[0])

    return log_reward


def _pool(tree: Tree, log_reward: LogReward, sampler: Sampler, beta: float, rng: np.random.Generator) -> Points:
    """Samples of R^beta / Z over the codes themselves, most of them different.

    The sampler is right at the centres of bins, and a learnt one nearly so: its samples are drawn again by their
    importance weights, and then each is moved by steps of a random walk that keep the target (Metropolis et al.).
    """
    leaves = sampler.sample(POOL, rng=rng)
    height = beta * log_reward(leaves)
    weights = height - sampler.log_mass(leaves)
    weights = np.exp(weights - weights.max())
    rows = rng.choice(POOL, POOL, p=weights / weights.sum())
    codes, mask, height = leaves.codes[rows], leaves.mask[rows], height[rows]
    floats = mask & np.array([column.kind == "float" for column in tree.space.columns])
    if not floats.any():
        return Points(codes, mask)
    for scale in WALK:
        step = scale * rng.normal(size=codes.shape) * floats * (rng.random(codes.shape) < 0.5)
        moved = np.abs(codes + step)
        moved = np.clip(1.0 - np.abs(1.0 - moved), 0.0, 1.0)  # reflected at both ends, as likely forth as back
        new = beta * log_reward(Leaves(moved, leaves.actions[rows]))
        accepted = np.log(rng.random(POOL)) < new - height
        codes, height = np.where(accepted[:, None], moved, codes), np.where(accepted, new, height)
    return Points(codes, mask)


def _draw(
    space: Space, pool: Points, seen: set[bytes], near: Points, apart: float, rng: np.random.Generator
) -> np.ndarray | None:
    """The code of a sample that was not seen, far enough from what is near if there is such a one."""
    names = keys(pool.codes)
    fresh = pool.take([row for row in rng.permutation(POOL) if names[row] not in seen])
    if not len(fresh.codes):
        return None
    if apart == 0:
        return fresh.codes[0]
    gaps = distances(space, *fresh, *near).min(axis=1, initial=np.inf)
    far = np.flatnonzero(gaps > apart)
    return fresh.codes[far[0] if len(far) else int(np.argmax(gaps))]


def _settle(code: np.ndarray | None, encoding: Encoding, number: int, seen: set[bytes], seeds: Seeds) -> Config | None:
    """The configuration at a code, or a random one where it was seen; None if all of a finite space were."""
    space = encoding.space
    if space.size is not None and len(seen) >= space.size:
        return None
    rng = seeds.rng(number, "unseen")
    drawn = space.decode(code[None]) if code is not None else []
    for config in [*drawn, *space.sample(rng, TRIES)]:
        if keys(encoding.points([config]).codes)[0] not in seen:
            return config
    if space.size is None:
        return space.sample(rng)
    combinations = encoding.combinations()
    begin = int(rng.integers(combinations.count))
    for i in range(combinations.count):
        config = combinations[(begin + i) % combinations.count]
        if keys(encoding.points([config]).codes)[0] not in seen:
            return config
    return None


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
