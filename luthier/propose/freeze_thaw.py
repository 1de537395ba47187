"""Freeze-thaw Bayesian optimisation: trainings are laid aside and taken up again, whichever promises most at its end.

A Gaussian process over configurations and steps is fitted to all learning curves so far. The next step goes to the
training, begun or not, whose value at full length is expected to improve most on the best (Swersky et al., 2014).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from luthier.errors import MethodError
from luthier.jobs import Budget, Event, History, Job, Report, Result
from luthier.propose.gaussian_process.acquisition import WORLDS, log_expected_improvement
from luthier.propose.gaussian_process.curve_kernel import Curves
from luthier.propose.gaussian_process.design import sobol
from luthier.propose.gaussian_process.fit import fit, start
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.posterior import Posterior, posterior
from luthier.propose.gaussian_process.search import maximise
from luthier.propose.gaussian_process.transform import transform
from luthier.propose.lineages import check_number, check_rungs, end_of, progress, steps_to
from luthier.propose.threads import one_thread
from luthier.seeds import Seeds
from luthier.space import Config
from luthier.space.encoder import Encoding, Points, encoding_of, keys

WHERE = "method freeze_thaw"
WIDEST = 128  # columns of a space
PARTS = (1.0, 0.5, 0.25, 0.125)  # of a curve, as far as it goes: the points that the model takes of it
GROWTH = 1.15  # a fit stays good until so many times more has been seen
LEADING = 5  # trials around which the search for a new configuration begins
FRESH = -1.0  # the curve of a configuration that has none


@dataclass
class _Curve:
    """Progress of one trial.

    Args:
        steps: Fractions of a whole training at which there is a value, rising.
        values: The values there, minimised; NaN where there is none.
        last: Its last job.
        open: True if it can go on: its last job has ended well and its training is not complete.
    """

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    last: int = 0
    open: bool = False


@dataclass
class _Memory:
    """All curves by the number of their first job, and the model's parameters.

    Args:
        root: The first job of each job's trial.
        running: Fraction at which each pending job will end.
        seen: Results and rungs reached so far.
        fitted: Number of these that the parameters were fitted to.
        theta: The parameters; None before the first fit.
    """

    curves: dict[int, _Curve] = field(default_factory=dict)
    root: dict[int, int] = field(default_factory=dict)
    running: dict[int, float] = field(default_factory=dict)
    seen: int = 0
    fitted: int = 0
    theta: np.ndarray | None = None


@dataclass(frozen=True)
class FreezeThaw:
    """Freeze-thaw Bayesian optimisation.

    Every training is advanced by one rung at a time: to the smallest part of a whole one, then ``eta`` times as far,
    and so on. Which is advanced, or whether a new one is begun, the model decides: the log expected improvement of the
    value *at full length* over the best value so far, for partial and fresh configurations alike. Jobs that are running
    count by imagined results.

    ``trials`` are configurations started. The study ends when all were started and the one that the model believes best
    is trained whole. A function cannot be laid aside: it is stopped at the first rung at which a new configuration
    promises more (:meth:`stopping`).

    Args:
        initial: Configurations that cover the space evenly before the model chooses.
        eta: Each rung is so many times as far as the one before.
        rungs: Stages from the shortest training, eta ** (1 - rungs) of a whole one, to that, at most: there are fewer
            where the steps have no room for so many.
        batch: Jobs that may be running at once.
        points: Points of curves that the model takes at most, the best.
        candidates: The only configurations that there are, such as those of a table of measurements; None is all of the
            space. Each is begun once.
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
    candidates: tuple[Config, ...] | None = field(default=None, repr=False, compare=False)
    stops: bool = False
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    learns_known: ClassVar[bool] = True
    stops_early: ClassVar[bool] = True

    def bind(self, budget: Budget) -> FreezeThaw:
        """The same method for ``budget.trials`` configurations, the best trained for ``budget.epochs`` or ``steps``.

        Raises:
            MethodError: If a setting is out of range, or there are fewer than ``eta`` steps.
        """
        for name, least in (("initial", 2), ("batch", 1), ("points", 20)):
            check_number(name, getattr(self, name), least, math.inf, WHERE, whole=True)
        rungs = check_rungs(self.eta, self.rungs, budget, WHERE)
        return replace(self, rungs=rungs, budget=budget)

    def stopping(self) -> FreezeThaw:
        """The form for what cannot be continued: a function is stopped where a new configuration promises more."""
        return replace(self, stops=True)

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
        """True if a new configuration promises more than the running job ``number``, at a rung that it has reached."""
        if not self.stops or not self._reached(history, number):
            return False
        memory = self._memory(history)
        if memory.theta is None:
            return False
        with one_thread():
            others = {root: to for root, to in memory.running.items() if root != number}
            model = self._model(history, memory, others, np.random.default_rng(number))
            rng = np.random.default_rng(number)
            _, fresh = self._fresh(history, memory, model, [], rng)
            features = _features(encoding_of(history.space), _of(history, [number]), 1.0, [float(number)])
            return fresh > _improvement(model, features)[0]

    def _next(
        self,
        history: History,
        memory: _Memory,
        number: int,
        started: int,
        running: dict[int, float],
        jobs: list[Job],
        seeds: Seeds,
    ) -> Job | None:
        """The job of this number, beside those that run and those just chosen; None where there is none now."""
        budget, rng = self.budget or Budget(), seeds.rng(number, "propose")
        more = budget.trials is None or started < budget.trials
        if memory.theta is None or started < self.initial:
            if not more:
                return self._finish(history, memory, running, number)
            left = None if self.candidates is None else self._left(history, jobs)
            if left is None and self.candidates is not None:
                return self._finish(history, memory, running, number)
            encoding = encoding_of(history.space)
            drawn = sobol(encoding.width, number, seeds) if left is None else left.codes[rng.integers(len(left.codes))]
            return self._begin(number, history.space.decode(drawn[None])[0])
        beside = {root: to for root, to in running.items() if root in memory.curves}
        new = [job for job in jobs if job.parent is None]
        model = self._model(history, memory, beside, rng, new)
        waiting = [root for root, curve in memory.curves.items() if curve.open and root not in running]
        best, gain = None, -math.inf
        if waiting:
            features = _features(encoding_of(history.space), _of(history, waiting), 1.0, [float(r) for r in waiting])
            gains = _improvement(model, features)
            best, gain = waiting[int(np.argmax(gains))], float(gains.max())
        if more:
            code, fresh = self._fresh(history, memory, model, new, rng)
            if code is not None and fresh > gain:
                return self._begin(number, history.space.decode(code[None])[0])
            more = code is not None
        if best is None or (not more and self._decided(history, memory, model)):
            return None
        return self._go_on(history, memory, best, number)

    def _finish(self, history: History, memory: _Memory, running: dict[int, float], number: int) -> Job | None:
        """Without a model, and without a trial left: the best of what is open goes on to its end."""
        free = [root for root, curve in memory.curves.items() if curve.open and root not in running]
        ready = [(memory.curves[root].values[-1], root) for root in free]
        whole = any(not c.open and c.steps and c.steps[-1] > 0.999 for c in memory.curves.values())
        if self.stops or not ready or whole or history.pending:
            return None
        return self._go_on(history, memory, min(ready)[1], number)

    def _decided(self, history: History, memory: _Memory, model: Posterior) -> bool:
        """True if the trial that the model believes best is trained as far as it can be."""
        roots = [root for root, curve in memory.curves.items() if curve.steps]
        features = _features(encoding_of(history.space), _of(history, roots), 1.0, [float(root) for root in roots])
        means = model.predict(features)[0].mean(axis=1)
        return not memory.curves[roots[int(np.argmin(means))]].open

    def _begin(self, number: int, config: Config) -> Job:
        budget = self.budget or Budget()
        part = 1.0 if self.stops else self._rung(0)
        return Job(number, config, steps_to(part, 0.0, config, budget))

    def _go_on(self, history: History, memory: _Memory, root: int, number: int) -> Job:
        budget, parent = self.budget or Budget(), memory.curves[root].last
        config, done = end_of(history, parent), progress(history, budget)[parent]
        return Job(number, config, steps_to(self._target(history, parent), done, config, budget), parent)

    def _rung(self, rung: int) -> float:
        return float(self.eta) ** (rung + 1 - self.rungs)

    def _target(self, history: History, parent: int | None) -> float:
        """The fraction of a whole training to which a job that continues ``parent`` goes."""
        if self.stops:
            return 1.0
        done = 0.0 if parent is None else progress(history, self.budget or Budget())[parent]
        return next((part for part in map(self._rung, range(self.rungs)) if part > done * 1.001), 1.0)

    def _reached(self, history: History, number: int) -> bool:
        """True if the last report of a job is the first at or past a rung."""
        whole = (self.budget or Budget()).steps_for(history.jobs[number].config)
        parts = [report.step / whole for report in history.reports.get(number, ())[-2:]]
        before = parts[0] if len(parts) > 1 else 0.0
        return bool(parts) and any(before < self._rung(rung) <= parts[-1] for rung in range(self.rungs - 1))

    def _time(self, part: float) -> float:
        """The model's time of a fraction of a training: 0 at the first rung, 1 at the end, logarithmic."""
        return 1.0 - math.log(max(part, 1e-9)) / math.log(self._rung(0))

    def _fresh(
        self, history: History, memory: _Memory, model: Posterior, new: list[Job], rng: np.random.Generator
    ) -> tuple[np.ndarray | None, float]:
        """The code of a new configuration that promises most, and its log expected improvement."""
        encoding = encoding_of(history.space)
        ranked = sorted(memory.curves, key=lambda root: _lowest(memory.curves[root]))[:LEADING]
        begun = encoding.points([job.config for job in new]) if new else _of(history, [])
        seen = {*keys(history.codes), *keys(begun.codes)}

        def acquisition(points: Points) -> np.ndarray:
            return _improvement(model, _features(encoding, points, 1.0, np.full(len(points.codes), FRESH)))

        if self.candidates is None:
            code = maximise(acquisition, encoding, _of(history, ranked), seen, begun.codes, rng)
        else:
            left = self._left(history, new)
            code = None if left is None else left.codes[int(np.argmax(acquisition(left)))]
        return code, -math.inf if code is None else float(acquisition(encoding.complete(code[None].copy()))[0])

    def _left(self, history: History, new: list[Job]) -> Points | None:
        """The candidates that were not begun; None where all were."""
        assert self.candidates is not None, "there are candidates"
        encoding = encoding_of(history.space)
        begun = {*keys(history.codes), *(keys(encoding.points([job.config for job in new]).codes) if new else ())}
        points = encoding.points(list(self.candidates))
        rows = [row for row, key in enumerate(keys(points.codes)) if key not in begun]
        return points.take(rows) if rows else None

    def _model(
        self,
        history: History,
        memory: _Memory,
        running: dict[int, float],
        rng: np.random.Generator,
        new: list[Job] | None = None,
    ) -> Posterior:
        """The process given all curves, and imagined ends of what is running."""
        assert memory.theta is not None, "there is a fit"
        encoding = encoding_of(history.space)
        features, y = self._data(history, memory)
        process = posterior(_kernel(encoding), memory.theta, features, y)
        parts = []
        if running:
            roots = list(running)
            times = np.array([self._time(running[root]) for root in roots])
            parts.append(_features(encoding, _of(history, roots), times, [float(root) for root in roots]))
        if new:
            points = encoding.points([job.config for job in new])
            time = self._time(1.0 if self.stops else self._rung(0))
            parts.append(_features(encoding, points, time, [float(job.number) for job in new]))
        if not parts:
            return process
        ahead = np.concatenate(parts)
        return process.imagine(ahead, rng.normal(size=(len(ahead), WORLDS)))

    def _data(self, history: History, memory: _Memory) -> tuple[np.ndarray, np.ndarray]:
        """Features, (n, features), and transformed values, (n,), of the points that the model takes of the curves."""
        roots, times, values = [], [], []
        best = min(memory.curves, key=lambda root: _lowest(memory.curves[root]))
        for root, curve in memory.curves.items():
            if not curve.steps:
                continue
            end = curve.steps[-1]
            places = {max(0, bisect_right(curve.steps, part * end * 1.001) - 1) for part in PARTS}
            if root == best:
                places.add(int(np.nanargmin(curve.values)))
            for place in sorted(places):
                roots.append(root)
                times.append(self._time(curve.steps[place]))
                values.append(curve.values[place])
        y = transform(np.array(values))
        kept = np.sort(np.argsort(y, kind="stable")[: self.points])
        points = _of(history, [roots[i] for i in kept])
        features = _features(encoding_of(history.space), points, np.array(times)[kept], [float(roots[i]) for i in kept])
        return features, y[kept]

    def _memory(self, history: History) -> _Memory:
        budget = self.budget or Budget()
        objective = next(iter(history.objectives))

        def update(memory: _Memory, event: Event) -> _Memory:
            number = event.number
            if isinstance(event, Job):
                root = number if event.parent is None else memory.root[event.parent]
                memory.root[number] = root
                curve = memory.curves.setdefault(root, _Curve())
                curve.last, curve.open = number, False
                memory.running[root] = self._target(history, event.parent)
                return memory
            root = memory.root[number]
            curve, whole = memory.curves[root], budget.steps_for(history.jobs[number].config)
            if isinstance(event, Report):
                if objective in event.metrics:
                    reached = self.stops and self._rungs_at(curve, event.step / whole)
                    _note(curve, event.step / whole, history.objective_values(event.metrics)[0])
                    memory.seen += bool(reached)
            else:
                self._end(history, memory, curve, event)
                memory.running.pop(root, None)
            self._refit(history, memory)
            return memory

        return history.fold(("freeze-thaw", replace(self, budget=None), budget.steps, budget.epochs), _Memory, update)

    def _rungs_at(self, curve: _Curve, part: float) -> bool:
        before = curve.steps[-1] if curve.steps else 0.0
        return any(before < self._rung(rung) <= part for rung in range(self.rungs))

    def _end(self, history: History, memory: _Memory, curve: _Curve, result: Result) -> None:
        budget = self.budget or Budget()
        done, good = progress(history, budget)[result.number], result.status in ("ok", "pruned")
        value = float(history.values[result.number, 0]) if good else math.nan
        later = 0.0 if good or not curve.steps else 1.01 * curve.steps[-1]  # what it had come to before stays
        _note(curve, max(done, later, 1e-6), value if math.isfinite(value) else math.nan)
        mine = result.number not in history.before
        curve.open = mine and not self.stops and good and math.isfinite(value) and done < 0.999
        memory.seen += 1

    def _refit(self, history: History, memory: _Memory) -> None:
        """A new fit where enough has been seen since the last one."""
        finite = sum(math.isfinite(_lowest(curve)) for curve in memory.curves.values())
        if memory.seen < max(self.initial, GROWTH * memory.fitted) or memory.seen == memory.fitted or finite < 2:
            return
        kernel = _kernel(encoding_of(history.space))
        with one_thread():
            features, y = self._data(history, memory)
            memory.theta = fit(kernel, features, y, start(kernel) if memory.theta is None else memory.theta)
        memory.fitted = memory.seen


def _kernel(encoding: Encoding) -> Curves:
    return Curves(Kernel(encoding.groups, encoding.warped))


def _of(history: History, numbers: list[int]) -> Points:
    return Points(history.codes[numbers], history.mask[numbers])


def _features(encoding: Encoding, points: Points, times: Any, curves: Any) -> np.ndarray:
    """Features that the kernel compares, (points, features): configuration, time and number of the curve."""
    found = np.empty((len(points.codes), 2))
    found[:, 0], found[:, 1] = times, curves
    return np.concatenate([encoding.features(points), found], axis=1)


def _improvement(model: Posterior, features: np.ndarray) -> np.ndarray:
    mean, deviation = model.predict(features)
    return log_expected_improvement(mean, deviation, model.incumbents())


def _note(curve: _Curve, part: float, value: float) -> None:
    """Add a point, or put its value in the place of the last one where it is no later."""
    if curve.steps and part <= curve.steps[-1] * 1.000001:
        curve.values[-1] = value
    else:
        curve.steps.append(part)
        curve.values.append(value)


def _lowest(curve: _Curve) -> float:
    return min((value for value in curve.values if math.isfinite(value)), default=math.inf)


def _check(history: History) -> None:
    if len(history.objectives) > 1:
        what = f"it takes one objective, and the study has {', '.join(history.objectives)}"
        raise MethodError(what, where=WHERE, remedy="Give one metric, or use nsga2 or genetic.")
    width = len(history.space.columns)
    if not 1 <= width <= WIDEST:
        remedy = f"It models 1 to {WIDEST}; wide vectors are tuned during the training, by hypergradients."
        raise MethodError(f"the space has {width} columns", where=WHERE, remedy=remedy)
