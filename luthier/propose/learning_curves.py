"""Learning curves of trials that are trained a rung at a time: what has been seen, and what runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from luthier.jobs import Budget, Event, History, Job, Report, Result
from luthier.propose.lineages import progress


@dataclass
class Curve:
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

    def note(self, part: float, value: float) -> None:
        """Add a point, or put its value in the place of the last one where it is no later."""
        if self.steps and part <= self.steps[-1] * 1.000001:
            self.values[-1] = value
        else:
            self.steps.append(part)
            self.values.append(value)

    @property
    def lowest(self) -> float:
        """The lowest finite value; infinity where there is none."""
        return min((value for value in self.values if math.isfinite(value)), default=math.inf)


@dataclass
class Memory:
    """All curves by the number of their first job, and the model's parameters.

    Args:
        root: The first job of each job's trial.
        running: Fraction at which each pending job will end.
        seen: Results and rungs reached so far.
        fitted: Number of these that the parameters were fitted to.
        theta: The parameters; None before the first fit.
    """

    curves: dict[int, Curve] = field(default_factory=dict)
    root: dict[int, int] = field(default_factory=dict)
    running: dict[int, float] = field(default_factory=dict)
    seen: int = 0
    fitted: int = 0
    theta: np.ndarray | None = None


@dataclass(frozen=True)
class Rungs:
    """The parts of a whole training at which trials are laid aside.

    Args:
        eta: Each is so many times as far as the one before.
        number: Number of rungs, the last of which is the whole.
        stops: True where trainings begin as if they were to run whole.
    """

    eta: int
    number: int
    stops: bool

    def part(self, rung: int) -> float:
        """The fraction of a whole training at a rung."""
        return float(self.eta) ** (rung + 1 - self.number)

    def target(self, done: float) -> float:
        """The fraction to which a job goes that begins at the fraction ``done``."""
        if self.stops:
            return 1.0
        return next((part for part in map(self.part, range(self.number)) if part > done * 1.001), 1.0)

    def time(self, part: float) -> float:
        """The model's time of a fraction of a training: 0 at the first rung, 1 at the end, logarithmic."""
        return 1.0 - math.log(max(part, 1e-9)) / math.log(self.part(0))

    def crossed(self, before: float, part: float, last: bool = True) -> bool:
        """True if a rung, the last one included or not, lies after ``before`` and not after ``part``."""
        return any(before < self.part(rung) <= part for rung in range(self.number - (not last)))


def followed(history: History, key: Hashable, budget: Budget, rungs: Rungs, refit: Callable[[Memory], None]) -> Memory:
    """All curves of a history.

    Args:
        history: The study so far.
        key: Names the method with its settings: the memory under it is kept between calls.
        budget: Length of a whole training.
        rungs: Places at which trainings are laid aside or stopped.
        refit: Called after each report and result; gives the model new parameters where it is time.
    """
    objective = next(iter(history.objectives))

    def update(memory: Memory, event: Event) -> Memory:
        number = event.number
        if isinstance(event, Job):
            root = number if event.parent is None else memory.root[event.parent]
            memory.root[number] = root
            curve = memory.curves.setdefault(root, Curve())
            curve.last, curve.open = number, False
            memory.running[root] = rungs.target(
                0.0 if event.parent is None else progress(history, budget)[event.parent]
            )
            return memory
        root = memory.root[number]
        curve = memory.curves[root]
        if isinstance(event, Report):
            if objective in event.metrics:
                part = event.step / budget.steps_for(history.jobs[number].config)
                before = curve.steps[-1] if curve.steps else 0.0
                memory.seen += rungs.stops and rungs.crossed(before, part)
                curve.note(part, history.objective_values(event.metrics)[0])
        else:
            _end(history, budget, curve, event, rungs.stops)
            memory.seen += 1
            memory.running.pop(root, None)
        refit(memory)
        return memory

    return history.fold(key, Memory, update)


def _end(history: History, budget: Budget, curve: Curve, result: Result, stops: bool) -> None:
    done, good = progress(history, budget)[result.number], result.status in ("ok", "pruned")
    value = float(history.values[result.number, 0]) if good else math.nan
    later = 0.0 if good or not curve.steps else 1.01 * curve.steps[-1]  # what it had come to before stays
    curve.note(max(done, later, 1e-6), value if math.isfinite(value) else math.nan)
    mine = result.number not in history.before
    curve.open = mine and not stops and good and math.isfinite(value) and done < 0.999
