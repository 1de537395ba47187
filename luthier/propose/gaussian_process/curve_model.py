"""The process over learning curves: what it takes of them, its fit, and what configurations promise at their end."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from luthier.jobs import History, Job
from luthier.propose.gaussian_process.acquisition import WORLDS, log_expected_improvement
from luthier.propose.gaussian_process.curve_kernel import Curves
from luthier.propose.gaussian_process.fit import fit, start
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.posterior import Posterior, posterior
from luthier.propose.gaussian_process.search import maximise
from luthier.propose.gaussian_process.transform import transform
from luthier.propose.learning_curves import Memory, Rungs
from luthier.propose.threads import one_thread
from luthier.space.encoder import Encoding, Points, encoding_of

PARTS = (1.0, 0.5, 0.25, 0.125)  # of a curve, as far as it goes: the points that the model takes of it
LEADING = 5  # trials around which the search for a new configuration begins
FRESH = -1.0  # the curve of a configuration that has none


class CurveModel(NamedTuple):
    """Parts of a model of all curves.

    Args:
        history: The study so far.
        memory: Its curves, and the model's parameters.
        rungs: The parts of a training, for the scale of time.
        points: Points of curves that the model takes at most, the best.
    """

    history: History
    memory: Memory
    rungs: Rungs
    points: int

    @property
    def encoding(self) -> Encoding:
        """The encoding of the study's space."""
        return encoding_of(self.history.space)

    def refit(self) -> None:
        """New parameters, from those that there are."""
        kernel, theta = _kernel(self.encoding), self.memory.theta
        with one_thread():
            features, y = self._data()
            self.memory.theta = fit(kernel, features, y, start(kernel) if theta is None else theta)
        self.memory.fitted = self.memory.seen

    def given(self, running: dict[int, float], rng: np.random.Generator, new: list[Job] | None = None) -> Posterior:
        """The process given all curves, and imagined ends of what is running.

        Args:
            running: By first job, the fraction at which what runs of a trial will end.
            rng: Draws the imagined ends.
            new: Trials begun just now.
        """
        assert self.memory.theta is not None, "there is a fit"
        features, y = self._data()
        process = posterior(_kernel(self.encoding), self.memory.theta, features, y)
        parts = []
        if running:
            times = np.array([self.rungs.time(part) for part in running.values()])
            parts.append(self._features(self.points_of(list(running)), times, [float(root) for root in running]))
        if new:
            points = self.encoding.points([job.config for job in new])
            time = self.rungs.time(self.rungs.target(0.0))
            parts.append(self._features(points, time, [float(job.number) for job in new]))
        if not parts:
            return process
        ahead = np.concatenate(parts)
        return process.imagine(ahead, rng.normal(size=(len(ahead), WORLDS)))

    def gains(self, process: Posterior, roots: list[int]) -> np.ndarray:
        """Log expected improvement of trials at full length, (trials,)."""
        return _improvement(process, self._at_end(roots))

    def believed(self, process: Posterior, roots: list[int]) -> int:
        """The trial whose expected value at full length is lowest."""
        return roots[int(np.argmin(process.predict(self._at_end(roots))[0].mean(axis=1)))]

    def fresh_gains(self, process: Posterior, points: Points) -> np.ndarray:
        """Log expected improvement of new configurations at full length, (points,)."""
        return _improvement(process, self._features(points, 1.0, np.full(len(points.codes), FRESH)))

    def anywhere(
        self, process: Posterior, seen: set[Any], begun: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | None:
        """The code of the new configuration that promises most; None where there is none left.

        Args:
            process: The model.
            seen: Keys of what has been begun.
            begun: Codes of what was begun just now.
            rng: Draws where to look.
        """
        curves = self.memory.curves
        ranked = sorted(curves, key=lambda root: curves[root].lowest)[:LEADING]
        acquisition = partial(self.fresh_gains, process)
        return maximise(acquisition, self.encoding, self.points_of(ranked), seen, begun, rng)

    def points_of(self, numbers: list[int]) -> Points:
        """Configurations of jobs."""
        return Points(self.history.codes[numbers], self.history.mask[numbers])

    def _at_end(self, roots: list[int]) -> np.ndarray:
        return self._features(self.points_of(roots), 1.0, [float(root) for root in roots])

    def _features(self, points: Points, times: Any, curves: Any) -> np.ndarray:
        """Features that the kernel compares, (points, features): configuration, time and number of the curve."""
        found = np.empty((len(points.codes), 2))
        found[:, 0], found[:, 1] = times, curves
        return np.concatenate([self.encoding.features(points), found], axis=1)

    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        """Features, (n, features), and transformed values, (n,), of the points that the model takes of the curves."""
        roots, times, values = [], [], []
        curves = self.memory.curves
        best = min(curves, key=lambda root: curves[root].lowest)
        for root, curve in curves.items():
            if not curve.steps:
                continue
            end = curve.steps[-1]
            places = {max(0, bisect_right(curve.steps, part * end * 1.001) - 1) for part in PARTS}
            if root == best:
                places.add(int(np.nanargmin(curve.values)))
            for place in sorted(places):
                roots.append(root)
                times.append(self.rungs.time(curve.steps[place]))
                values.append(curve.values[place])
        y = transform(np.array(values))
        kept = np.sort(np.argsort(y, kind="stable")[: self.points])
        points = self.points_of([roots[i] for i in kept])
        return self._features(points, np.array(times)[kept], [float(roots[i]) for i in kept]), y[kept]


def _kernel(encoding: Encoding) -> Curves:
    return Curves(Kernel(encoding.groups, encoding.warped))


def _improvement(process: Posterior, features: np.ndarray) -> np.ndarray:
    mean, deviation = process.predict(features)
    return log_expected_improvement(mean, deviation, process.incumbents())
