"""Genetic search: generations of configurations by selection, crossover and mutation.

The paper is "Evolving hyperparameters" (2024, ``papers/genetic``); :meth:`Genetic.paper` on :data:`PAPER_SPACE` is its
setting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from luthier.checks import maybe, one_of, real, require, whole
from luthier.errors import MethodError
from luthier.jobs import OK, Budget, Event, History, Job, Report
from luthier.pareto import best_first, ranks
from luthier.propose.lineages import end_of, movable
from luthier.seeds import Seeds
from luthier.space import Config, Float, Space

PAPER_SPACE = Space(lr=Float(1e-4, 1.0), momentum=Float(0.0, 0.9), weight_decay=Float(0.0, 0.1))
"""The ranges of the paper (its section 5), all uniform. On a log scale lr and weight_decay are found sooner."""


@dataclass
class _Memory:
    """Outcome of each generation so far. Jobs are named by number, best first."""

    good: list[list[int]] = field(default_factory=list)  # of each generation that has ended: those that can be parents
    ended: list[int] = field(default_factory=list)  # jobs with any result
    elites: list[list[int]] = field(default_factory=list)  # the best of all generations up to this one
    arrived: list[list[int]] = field(default_factory=list)  # what ended well, as it came
    seen: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Genetic:
    """Genetic search.

    The first generation is drawn from the space. Of each generation that has ended, the better half are parents; a
    child takes each hyperparameter from one of two parents at random (uniform crossover), and with a small probability
    draws it anew from its domain (mutation). Where fewer than two trainings ended well, the next generation is drawn
    from the space again. ``trials`` are population x generations; a last, smaller generation takes what is left.

    Weights can be inherited too: then a child continues the training of a parent, or of the best, for the whole
    ``epochs`` of the budget, and the hyperparameters of one lineage form a schedule. Weights fit only the network they
    were trained in. So an inheriting child takes all names outside ``mutate`` from the very job whose weights it
    inherits, and crossover and mutation touch the names in ``mutate`` alone.

    Of several objectives, "better" is as in NSGA-II: first by non-dominated rank, then by crowding distance, the
    loneliest first. Without inheritance, the best of all generations survive then, as many as a population has, and the
    better half of these are the parents, for a front needs more than a few to be spread out (``elite=0``: none does).

    Args:
        population: Configurations of a generation.
        generations: Their number; by default as many as ``trials`` allow.
        mutation: Probability of mutating each hyperparameter, which is to draw it anew.
        nudge: Share of the mutations that move a value a little instead (a tenth of its range; to a neighbour, where
            options are ordered). The paper has none; 0.5 finds the bottom of a smooth valley sooner.
        elite: So many of the best survive. Without inheritance they stay among the parents, and nothing is trained
            twice; with it they train on, unchanged, in the next generation. 0 can lose the best, as the paper does.
        inherit: Weights of a child: ``"none"`` starts them afresh, ``"parent"`` goes on from its first parent,
            ``"best"`` from the best of the last generation (of several objectives: from any of its front).
        mutate: With inheritance, the names that may change under weights that go on; None is all Floats.
        distinct: Without inheritance: a child that equals an earlier configuration draws one hyperparameter anew.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Int
        >>> from luthier.testing import simulate
        >>> space = Space(x=Float(-5.0, 5.0), n=Int(1, 9))
        >>> history = simulate(Genetic(), lambda c: c["x"] ** 2 + abs(c["n"] - 4), space, Budget(trials=100))
        >>> len(history), round(history.values.min().item(), 3)
        (100, 0.048)

    References:
        "Evolving hyperparameters: genetic algorithms for dynamic neural network optimization", section 4.
        Syswerda, "Uniform crossover in genetic algorithms", ICGA 1989.
        Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.
    """

    population: int = 10
    generations: int | None = None
    mutation: float = 0.2
    nudge: float = 0.0
    elite: int = 2
    inherit: Literal["none", "parent", "best"] = "none"
    mutate: Sequence[str] | None = None
    distinct: bool = True
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True

    @staticmethod
    def paper() -> Genetic:
        """The paper's algorithm with the sizes of its run 1: 10 individuals, 3 generations, mutation 0.2, no elite."""
        return Genetic(population=10, generations=3, mutation=0.2, elite=0, distinct=False)

    def bind(self, budget: Budget) -> Genetic:
        """The same search, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If a setting is out of range, or population x generations are not the trials.
        """
        where = "method genetic"
        require(self, where, population=whole(2), mutation=real(0, 1), nudge=real(0, 1), generations=maybe(whole(1)))
        require(self, where, elite=whole(0, self.population - 1), inherit=one_of("none", "parent", "best"))
        if self.generations is not None:
            trials = self.population * self.generations
            if budget.trials not in (None, trials):
                raise MethodError(
                    f"trials={budget.trials} is not population x generations = {trials}",
                    where=where,
                    remedy="Give that number of trials, or leave generations out.",
                )
            budget = replace(budget, trials=trials)
        return replace(self, budget=budget)

    @property
    def learns_known(self) -> bool | None:
        """True if trials from elsewhere can be generations: they have no weights to inherit, and are not of a plan."""
        return True if self.inherit == "none" and self.generations is None else None

    @property
    def parents(self) -> Callable[[History], set[int]] | None:
        """``parents(history)``: the jobs whose weights may still be inherited. None without inheritance, since the
        search can then tune what cannot be continued."""
        return None if self.inherit == "none" else self._inheritable

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next individuals of the first generation that is not full; none while the one before it is running.

        Raises:
            MethodError: If ``mutate`` does not fit the space.
        """
        budget, memory = self.budget or Budget(), self._memory(history)
        moving = None if self.inherit == "none" else movable(history.space, self.mutate, "method genetic")
        first = len(history)
        stop = first + count if budget.trials is None else min(first + count, budget.trials)
        jobs: list[Job] = []
        for number in range(first, stop):
            generation, place = divmod(number, self.population)
            if generation and not self._complete(memory, generation - 1):
                break
            rng, tag = seeds.rng(number, "propose"), {"generation": generation}
            last = memory.good[generation - 1] if generation else []
            if moving is None:
                config, source = self._child(history, memory, generation, jobs, rng), None
            elif len(last) < 2:
                config, source = history.space.sample(rng), None
            elif place < self.elite and place < len(last):
                source = last[place]
                config = end_of(history, source)
            else:
                config, source = self._heir(history, last, moving, rng)
            jobs.append(Job(number, config, budget.steps_for(config), source, tag))
        return jobs

    def _child(
        self, history: History, memory: _Memory, generation: int, jobs: list[Job], rng: np.random.Generator
    ) -> Config:
        """A configuration with weights of its own."""
        space = history.space
        pool = self._pool(history, memory, generation)
        if len(pool) < 2:
            return space.sample(rng)
        a, b = (end_of(history, number) for number in _couple(pool, rng))
        child = self._breed(space, space.names, a, b, {}, rng)
        if self.distinct and (_text(child) in memory.seen or any(job.config == child for job in jobs)):
            name = list(child)[int(rng.integers(len(child)))]
            child = space.complete({n: v for n, v in child.items() if n != name}, rng)
        return child

    def _heir(
        self, history: History, last: list[int], moving: list[str], rng: np.random.Generator
    ) -> tuple[Config, int]:
        """A configuration, and the job whose weights go on under it."""
        first, second = _couple(_half(last), rng)
        source = first if self.inherit == "parent" else _one_of_the_best(history, last, rng)
        a, b, kept = end_of(history, first), end_of(history, second), end_of(history, source)
        static = {name: value for name, value in kept.items() if name not in moving}
        return self._breed(history.space, moving, a, b, static, rng), source

    def _breed(
        self, space: Space, names: Sequence[str], a: Config, b: Config, static: Config, rng: np.random.Generator
    ) -> Config:
        """``static``, and each of ``names`` from ``a`` or ``b``, mutated by chance; the rest is drawn."""
        sides, mutated, nudged = rng.random((3, len(names))) < np.array([[0.5], [self.mutation], [self.nudge]])
        genes = dict(static)
        for name, side, drawn in zip(names, sides, mutated & ~nudged, strict=True):
            near, far = (a, b) if side else (b, a)
            if not drawn and (name in near or name in far):
                genes[name] = near[name] if name in near else far[name]
        complete = space.fill if static else space.complete  # weights go on under what is static: it stays as it is
        child = complete(genes, rng)
        to_nudge = [name for name, both in zip(names, mutated & nudged, strict=True) if both and name in child]
        if to_nudge:
            moved = space.perturb(child, rng)
            child = complete({**child, **{n: moved[n] for n in to_nudge if n in moved}}, rng)
        return child

    def _pool(self, history: History, memory: _Memory, generation: int) -> list[int]:
        """The parents of a generation: the better half of the one before, and the elite of those before that."""
        if generation == 0:
            return []
        if len(history.objectives) > 1 and self.elite:
            return _half(memory.elites[generation - 1])
        pool = _half(memory.good[generation - 1])
        return pool + [n for n in memory.elites[generation - 2] if n not in pool] if generation > 1 else pool

    def _complete(self, memory: _Memory, generation: int) -> bool:
        return len(memory.ended) > generation and memory.ended[generation] == self.population

    def _memory(self, history: History) -> _Memory:
        def update(memory: _Memory, event: Event) -> _Memory:
            if isinstance(event, Job):
                if event.number % self.population == 0:
                    memory.arrived.append([])
                    memory.ended.append(0)
                memory.seen.add(_text(event.config))
            elif not isinstance(event, Report):
                generation = event.number // self.population
                memory.ended[generation] += 1
                if history.status[event.number] == OK and np.isfinite(history.values[event.number]).all():
                    memory.arrived[generation].append(event.number)
                while len(memory.good) < len(memory.ended) and self._complete(memory, len(memory.good)):
                    good = _best_first(history, memory.arrived[len(memory.good)])
                    before = memory.elites[-1] if memory.elites else []
                    memory.good.append(good)
                    memory.elites.append(_best_first(history, [*before, *good])[: self._survivors(history)])
            return memory

        return history.fold(("genetic", self.population, self.elite), _Memory, update)

    def _inheritable(self, history: History) -> set[int]:
        memory, trials = self._memory(history), (self.budget or Budget()).trials
        now = len(history) // self.population  # the generation of the next job
        if trials is not None and len(history) >= trials:
            return set()
        return {number for arrived in memory.arrived[max(0, now - 1) :] for number in arrived}

    def _survivors(self, history: History) -> int:
        several = len(history.objectives) > 1 and self.elite > 0
        return self.population if several else self.elite


def _best_first(history: History, numbers: list[int]) -> list[int]:
    """Jobs that ended well by their value, or by rank and crowding distance where there are several objectives."""
    numbers = sorted(numbers)
    if len(history.objectives) == 1:
        return sorted(numbers, key=lambda number: float(history.values[number, 0]))
    return [numbers[i] for i in best_first(history.values[numbers]).tolist()]


def _half(numbers: list[int]) -> list[int]:
    """The better half, at least two."""
    return numbers[: max(2, (len(numbers) + 1) // 2)]


def _couple(pool: list[int], rng: np.random.Generator) -> list[int]:
    """Two different parents."""
    places = rng.choice(len(pool), 2, replace=False).tolist()
    return [pool[i] for i in places]


def _one_of_the_best(history: History, last: list[int], rng: np.random.Generator) -> int:
    """The best, or any of the front."""
    if len(history.objectives) == 1:
        return last[0]
    front = np.flatnonzero(ranks(history.values[last]) == 0)
    return last[int(rng.choice(front))]


def _text(config: Config) -> str:
    return json.dumps(config, sort_keys=True)
