"""CMA-ES as a proposer, by the package cmaes (Hansen and Ostermeier 2001; Nomura and Shibata 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from luthier.checks import maybe, require, whole
from luthier.errors import MethodError
from luthier.jobs import Budget, Event, History, Job, Result
from luthier.lazy import optional_import
from luthier.propose.door import REPLACED
from luthier.propose.gaussian_process.sequential import upcoming
from luthier.seeds import Seeds
from luthier.space import Config, Space

with optional_import("cmaes", "method cmaes", MethodError):
    from cmaes import CMA, get_warm_start_mgd

START = 1 / 6  # of the unit cube: the deviation at first, so that three of them reach its faces
TAG = "cmaes"
TRIES = 30  # draws of which the first that the constraint allows is taken


@dataclass
class _Memory:
    """The distribution after all results so far.

    Args:
        optimizer: The package's optimizer.
        generation: Number of times it has been told.
        told: Points of this generation and their values.
        drawn: The generation and the point of each running job of this method.
        known: Points and values that were there before its first job; they say where it begins.
        begun: It has proposed a job.
    """

    optimizer: CMA
    generation: int = 0
    told: list[tuple[np.ndarray, float]] = field(default_factory=list)
    drawn: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)
    known: list[tuple[np.ndarray, float]] = field(default_factory=list)
    begun: bool = False


@dataclass(frozen=True)
class CMAES:
    """CMA-ES: a normal distribution whose mean and covariance follow the better half of each generation.

    Strong on continuous names that depend on each other, over some hundred trials. Integers are rounded, ordered
    choices are their place, inactive names are carried along as silent genes; other choices are drawn at random.
    Failed, pruned and diverged trainings are replaced. The distribution is computed again from the history: a job's tag
    has the point that was drawn for it, before rounding, and its generation. Where results were known before, it begins
    as the normal distribution of the best tenth of them.

    Args:
        population: Configurations of a generation, and jobs that may be running at once; ``4 + 3 log(numbers)`` by
            default.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier import Float, Space
        >>> from luthier.testing import simulate
        >>> space = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
        >>> history = simulate(CMAES(), lambda c: (c["x"] - c["y"]) ** 2 + c["y"] ** 2, space, Budget(trials=100))
        >>> bool(history.values.min() < 0.1)
        True

    References:
        Hansen and Ostermeier, "Completely derandomized self-adaptation in evolution strategies", 2001.
        Nomura, Watanabe, Akimoto, Ozaki and Onishi, "Warm starting CMA-ES for hyperparameter optimization", AAAI 2021.
        Nomura and Shibata, "cmaes: a simple yet practical Python library for CMA-ES", 2024.
    """

    population: int | None = None
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True
    learns_known: ClassVar[bool] = True

    def bind(self, budget: Budget) -> CMAES:
        """Return the same, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If the population is below 4: the better half of fewer has no covariance.
        """
        bound = replace(self, budget=budget)
        require(bound, "method cmaes", population=maybe(whole(4)))
        return bound

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Return up to ``count`` new configurations; none once the budget's trials have been started.

        Raises:
            MethodError: If the study has several objectives, or the space no numbers.
        """
        columns = _numbers(history.space)
        if len(history.objectives) > 1:
            what = f"it takes one objective, and the study has {', '.join(history.objectives)}"
            raise MethodError(what, where="method cmaes", remedy="Give one metric, or use tpe, nsga2 or genetic.")
        if not len(columns):
            remedy = "Use another method, such as tpe."
            raise MethodError("the space has no numbers that vary", where="method cmaes", remedy=remedy)
        size = self.population or 4 + int(3 * math.log(len(columns)))
        numbers = upcoming(history, count, size, self.budget)
        if not numbers:
            return []
        memory = self._memory(history, size, columns, seeds)
        return [self._job(memory, history.space, columns, number, seeds) for number in numbers]

    def _memory(self, history: History, size: int, columns: np.ndarray, seeds: Seeds) -> _Memory:
        width = max(len(columns), 2)  # the package knows no single number: a second one goes along, and is not read

        def start() -> _Memory:
            return _Memory(_optimizer(size, np.full(width, 0.5), START))

        def update(memory: _Memory, event: Event) -> _Memory:
            if event.number in history.before:
                if isinstance(event, Result) and not memory.begun:
                    _learn(memory, history, event, columns, size)
            elif isinstance(event, Job):
                memory.begun = True
                tag = None if REPLACED in event.tag else event.tag.get(TAG)
                point = _read(tag, len(memory.optimizer.mean))
                if point is not None:
                    memory.drawn[event.number] = point
            elif isinstance(event, Result) and event.number in memory.drawn:
                generation, point = memory.drawn.pop(event.number)
                value = history.values[event.number, 0]
                if generation == memory.generation and event.status == "ok" and math.isfinite(value):
                    memory.told.append((point, float(value)))
                if len(memory.told) == size:
                    memory.optimizer.tell(memory.told)
                    memory.told, memory.generation = [], memory.generation + 1
            return memory

        return history.fold((TAG, size, seeds.study), start, update)

    def _job(self, memory: _Memory, space: Space, columns: np.ndarray, number: int, seeds: Seeds) -> Job:
        rng = seeds.rng(number, "propose")
        config, point = _draw(memory, space, columns, rng)
        for _ in range(TRIES):
            if space.feasible(config):
                break
            config, point = _draw(memory, space, columns, rng)
        tag = {TAG: {"generation": memory.generation, "point": point.tolist()}}
        return Job(number, config, (self.budget or Budget()).steps_for(config), tag=tag)


def _optimizer(size: int, mean: np.ndarray, sigma: float, cov: np.ndarray | None = None) -> CMA:
    bounds = np.tile([0.0, 1.0], (len(mean), 1))
    return CMA(mean, sigma, cov=cov, bounds=bounds, population_size=size, seed=0)


def _learn(memory: _Memory, history: History, result: Result, columns: np.ndarray, size: int) -> None:
    """Let the distribution begin where the best results lie that were known before."""
    value = float(history.values[result.number, 0])
    if result.status == "ok" and math.isfinite(value):
        point = np.full(len(memory.optimizer.mean), 0.5)
        point[: len(columns)] = history.codes[result.number][columns]
        memory.known.append((point, value))
    if len(memory.known) >= size:
        best = max(1, len(memory.known) // 10)
        mean, sigma, cov = get_warm_start_mgd(memory.known, gamma=(best + 0.5) / len(memory.known))  # it rounds down
        memory.optimizer = _optimizer(size, mean, sigma, cov)


def _draw(memory: _Memory, space: Space, columns: np.ndarray, rng: np.random.Generator) -> tuple[Config, np.ndarray]:
    """Return a configuration, and the point at which the distribution was drawn for it."""
    memory.optimizer.reseed_rng(int(rng.integers(2**31)))
    point = memory.optimizer.ask()
    codes = rng.random(len(space.columns))  # options that have no order are drawn at random
    codes[columns] = point[: len(columns)]
    return space.decode(codes[None])[0], point


def _numbers(space: Space) -> np.ndarray:
    """Return the columns that have an order and more than one value."""
    return np.array(
        [place for place, one in enumerate(space.columns) if one.kind != "categorical" and one.levels != 1], dtype=int
    )


def _read(tag: Any, width: int) -> tuple[int, np.ndarray] | None:
    """Return the generation and the point of a job's tag; None of what is no such tag."""
    if not isinstance(tag, Mapping):
        return None
    generation, point = tag.get("generation"), tag.get("point")
    fits = isinstance(point, list) and len(point) == width and all(isinstance(x, float) and 0 <= x <= 1 for x in point)
    return (generation, np.array(point)) if fits and isinstance(generation, int) else None
