"""Freeze-thaw Bayesian optimisation: trainings are laid aside and taken up again, whichever promises most at its end.

A Gaussian process over configurations and steps is fitted to all learning curves so far. The next step goes to the
training, begun or not, whose value at full length is expected to improve most on the best (Swersky et al., 2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from luthier.errors import MethodError
from luthier.jobs import REPEATS, Budget, History, Job
from luthier.propose.gaussian_process.curve_model import CurveModel
from luthier.propose.gaussian_process.design import sobol
from luthier.propose.gaussian_process.posterior import Posterior
from luthier.propose.last_trial import is_last, sound, unfinished
from luthier.propose.learning_curves import Memory, Rungs, followed
from luthier.propose.lineages import check_number, check_rungs, end_of, progress, steps_to
from luthier.propose.listed import Listed, check_list, listed, some
from luthier.propose.threads import one_thread
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.space.encoder import encoding_of, keys

WHERE = "method freeze_thaw"
WIDEST = 128  # columns of a space
GROWTH = 1.15  # a fit stays good until so many times more has been seen


@dataclass(frozen=True)
class FreezeThaw:
    """Freeze-thaw Bayesian optimisation.

    Every training is advanced by one rung at a time: to the smallest part of a whole one, then ``eta`` times as far,
    and so on. Which is advanced, or whether a new one is begun, the model decides: the log expected improvement of the
    value *at full length* over the best value so far, for partial and fresh configurations alike. Jobs that are running
    count by imagined results.

    ``trials`` are configurations started. The study ends when all were started and the one that the model believes best
    is trained whole.

    A function cannot be laid aside: it is stopped at the first rung at which a new configuration promises more
    (:meth:`stopping`), unless the model believes that it ends best of all. The last trial that ``trials`` or
    ``total_steps`` leave room for waits for all others, and is that believed best, begun again with the noise that it
    had and run whole, where it was stopped. Where neither of them is given, nobody knows which trial is the last.

    Args:
        initial: Configurations that cover the space evenly before the model chooses.
        eta: Each rung is so many times as far as the one before.
        rungs: Stages from the shortest training, eta ** (1 - rungs) of a whole one, to that, at most: there are fewer
            where the steps have no room for so many.
        batch: Jobs that may be running at once.
        points: Points of curves that the model takes at most, the best.
        candidates: The only configurations that there are, such as those of a table of measurements, whole; None is all
            of the space. Each is begun once, with the very values that are given.
        stops: Trainings begin as if they were to run whole, and are stopped instead of laid aside.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.testing import simulate
        >>> from luthier.testing.problems import decay
        >>> space = Space(lr=Float(1e-5, 1e2, log=True))
        >>> history = simulate(FreezeThaw(), decay, space, Budget(trials=12, steps=27), stateful=True, report_every=1)
        >>> int(history.steps.sum()) < 12 * 27 / 2, bool(history.values[history.best, 0] < 0.1)
        (True, True)

    References:
        Swersky, Snoek and Adams, "Freeze-thaw Bayesian optimization", arXiv:1406.3896, 2014.
        Rakotoarison et al., "In-context freeze-thaw Bayesian optimization", ICML 2024 (improvement over all curves).
    """

    initial: int = 8
    eta: int = 3
    rungs: int = 4
    batch: int = 8
    points: int = 600
    candidates: Sequence[Config] | None = field(default=None, repr=False, compare=False)
    stops: bool = False
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    learns_known: ClassVar[bool] = True
    stops_early: ClassVar[bool] = True

    def bind(self, budget: Budget) -> FreezeThaw:
        """The same method for ``budget.trials`` configurations, the best trained for ``budget.epochs`` or ``steps``.

        Raises:
            MethodError: If a setting is out of range, there are fewer than ``eta`` steps, or no candidates.
        """
        if self.candidates is not None:
            check_list("candidates", self.candidates, WHERE)
        for name, least in (("initial", 2), ("batch", 1), ("points", 20)):
            check_number(name, getattr(self, name), least, math.inf, WHERE, whole=True)
        rungs = check_rungs(self.eta, self.rungs, budget, WHERE)
        return replace(self, rungs=rungs, budget=budget)

    def stopping(self) -> FreezeThaw:
        """The form for what cannot be continued."""
        return replace(self, stops=True)

    @property
    def begins(self) -> Callable[[Space, int, np.random.Generator], list[Config]] | None:
        """``begins(space, count, rng)``: some of the candidates, all checked; None where it may begin anything."""
        return None if self.candidates is None else partial(some, "candidates", self.candidates, WHERE)

    @property
    def parents(self) -> Callable[[History], set[int]]:
        """``parents(history)``: the last jobs of all trainings that may go on. Where it only stops there are none."""
        if self.stops:
            raise AttributeError("parents")
        return lambda history: {curve.last for curve in self._memory(history).curves.values() if curve.open}

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next rungs of trainings, or new ones.

        Raises:
            MethodError: If the study has several objectives or too wide a space.
        """
        _check(history)
        memory = self._memory(history)
        running, started, jobs = dict(memory.running), len(memory.curves), list[Job]()
        with one_thread():
            for number in range(len(history), len(history) + min(count, self.batch - len(history.pending))):
                job = self._next(history, memory, number, started, running, jobs, seeds)
                if job is None:
                    break
                jobs.append(job)
                started += job.parent is None
                root = number if job.parent is None else memory.root[job.parent]
                running[root] = self._target(history, job.parent)
        return jobs

    def stop(self, history: History, number: int) -> bool:
        """True if a new configuration promises more than the running job ``number``, at a rung that it has reached.

        What the model believes best at full length goes on, and so does what was begun again to be run whole.
        """
        if not self.stops or REPEATS in history.jobs[number].tag or not self._reached(history, number):
            return False
        memory = self._memory(history)
        if memory.theta is None:
            return False
        with one_thread():
            others = {root: to for root, to in memory.running.items() if root != number}
            model = self._model(history, memory)
            process = model.given(others, np.random.default_rng(number))
            _, fresh = self._fresh(model, process, [], np.random.default_rng(number))
            return fresh > model.gains(process, [number])[0] and model.believed(process, sound(memory)) != number

    def _next(
        self,
        history: History,
        memory: Memory,
        number: int,
        started: int,
        running: dict[int, float],
        jobs: list[Job],
        seeds: Seeds,
    ) -> Job | None:
        """The job of this number, beside those that run and those just chosen; None where there is none now."""
        budget, rng = self.budget or Budget(), seeds.rng(number, "propose")
        if self.stops and memory.theta is not None and is_last(history, budget, started, jobs):
            if history.pending or jobs:
                return None
            again = self._again(history, memory, number)
            if again is not None:
                return again
        more = budget.trials is None or started < budget.trials
        if memory.theta is None or started < self.initial:
            if not more:
                return self._finish(history, memory, running, number)
            if self.candidates is None:
                code = sobol(encoding_of(history.space).width, number, seeds)
                return self._begin(number, history.space.decode(code[None])[0])
            left = self._left(history, jobs)
            if left is None and self.stops:
                return None if jobs else self._again(history, memory, number)
            if left is None:
                return self._finish(history, memory, running, number)
            return self._begin(number, left.configs[rng.integers(len(left.configs))])
        new = [job for job in jobs if job.parent is None]
        model = self._model(history, memory)
        process = model.given({root: to for root, to in running.items() if root in memory.curves}, rng, new)
        waiting = [root for root, curve in memory.curves.items() if curve.open and root not in running]
        best, gain = None, -math.inf
        if waiting:
            gains = model.gains(process, waiting)
            best, gain = waiting[int(np.argmax(gains))], float(gains.max())
        if more:
            config, fresh = self._fresh(model, process, new, rng)
            if config is not None and fresh > gain:
                return self._begin(number, config)
            more = config is not None
            if self.stops:  # nothing is left to begin
                return None if jobs else self._again(history, memory, number)
        if best is None or (not more and self._decided(model, process)):
            return None
        return self._go_on(history, memory, best, number)

    def _finish(self, history: History, memory: Memory, running: dict[int, float], number: int) -> Job | None:
        """Without a model, and without a trial left: the best of what is open goes on to its end."""
        free = [root for root, curve in memory.curves.items() if curve.open and root not in running]
        ready = [(memory.curves[root].values[-1], root) for root in free]
        whole = any(not c.open and c.steps and c.steps[-1] > 0.999 for c in memory.curves.values())
        if self.stops or not ready or whole or history.pending:
            return None
        return self._go_on(history, memory, min(ready)[1], number)

    def _decided(self, model: CurveModel, process: Posterior) -> bool:
        """True if the trial that the model believes best is trained as far as it can be."""
        roots = [root for root, curve in model.memory.curves.items() if curve.steps]
        return not model.memory.curves[model.believed(process, roots)].open

    def _again(self, history: History, memory: Memory, number: int) -> Job | None:
        """The trial that the model believes best, from its beginning and with its noise, where it was stopped."""
        if memory.theta is None or history.pending:
            return None
        stopped = unfinished(self._model(history, memory))
        if stopped is None:
            return None
        return replace(self._begin(number, dict(history.jobs[stopped].config)), tag={REPEATS: stopped})

    def _begin(self, number: int, config: Config) -> Job:
        return Job(number, config, steps_to(self._rungs.target(0.0), 0.0, config, self.budget or Budget()))

    def _go_on(self, history: History, memory: Memory, root: int, number: int) -> Job:
        budget, parent = self.budget or Budget(), memory.curves[root].last
        config, done = end_of(history, parent), progress(history, budget)[parent]
        return Job(number, config, steps_to(self._target(history, parent), done, config, budget), parent)

    @property
    def _rungs(self) -> Rungs:
        return Rungs(self.eta, self.rungs, self.stops)

    def _target(self, history: History, parent: int | None) -> float:
        """The fraction of a whole training to which a job that continues ``parent`` goes."""
        return self._rungs.target(0.0 if parent is None else progress(history, self.budget or Budget())[parent])

    def _reached(self, history: History, number: int) -> bool:
        """True if the last report of a job is the first at or past a rung."""
        whole = (self.budget or Budget()).steps_for(history.jobs[number].config)
        parts = [report.step / whole for report in history.reports.get(number, ())[-2:]]
        before = parts[0] if len(parts) > 1 else 0.0
        return bool(parts) and self._rungs.crossed(before, parts[-1], last=False)

    def _fresh(
        self, model: CurveModel, process: Posterior, new: list[Job], rng: np.random.Generator
    ) -> tuple[Config | None, float]:
        """A new configuration that promises most, and its log expected improvement."""
        encoding, history = model.encoding, model.history
        if self.candidates is None:
            begun = encoding.points([job.config for job in new]) if new else model.points_of([])
            seen = {*keys(history.codes), *keys(begun.codes)}
            code = model.anywhere(process, seen, begun.codes, rng)
            if code is None:
                return None, -math.inf
            config, point = history.space.decode(code[None])[0], encoding.complete(code[None].copy())
        else:
            left = self._left(history, new)
            if left is None:
                return None, -math.inf
            row = int(np.argmax(model.fresh_gains(process, left.points)))
            config, point = left.configs[row], left.points.take([row])
        return config, float(model.fresh_gains(process, point)[0])

    def _left(self, history: History, new: Sequence[Job]) -> Listed | None:
        """The candidates that were not begun; None where all were."""
        assert self.candidates is not None, "there are candidates"
        return listed("candidates", self.candidates, history, WHERE).left(history, new)

    def _model(self, history: History, memory: Memory) -> CurveModel:
        return CurveModel(history, memory, self._rungs, self.points)

    def _memory(self, history: History) -> Memory:
        budget = self.budget or Budget()
        key = ("freeze-thaw", replace(self, budget=None), budget.steps, budget.epochs)
        return followed(history, key, budget, self._rungs, lambda memory: self._refit(history, memory))

    def _refit(self, history: History, memory: Memory) -> None:
        """A new fit where enough has been seen since the last one."""
        finite = sum(math.isfinite(curve.lowest) for curve in memory.curves.values())
        if memory.seen < max(self.initial, GROWTH * memory.fitted) or memory.seen == memory.fitted or finite < 2:
            return
        self._model(history, memory).refit()


def _check(history: History) -> None:
    if len(history.objectives) > 1:
        what = f"it takes one objective, and the study has {', '.join(history.objectives)}"
        raise MethodError(what, where=WHERE, remedy="Give one metric, or use nsga2 or genetic.")
    width = len(history.space.columns)
    if not 1 <= width <= WIDEST:
        remedy = f"It models 1 to {WIDEST}; wide vectors are tuned during the training, by hypergradients."
        raise MethodError(f"the space has {width} columns", where=WHERE, remedy=remedy)
