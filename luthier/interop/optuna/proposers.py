"""Optuna's samplers as proposers: TPE, NSGA-II, and any other.

A sampler is made anew for every job, seeded with the job's number, and reads a mirror of the history: Optuna's results
in order of arrival, then what is running. So it keeps nothing that a resumed study would not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from luthier.checks import checked, maybe, real, require, whole
from luthier.errors import MethodError
from luthier.interop.optuna.asking import Asker
from luthier.interop.optuna.library import optuna
from luthier.jobs import Budget, History, Job
from luthier.seeds import Seeds

Factory = Callable[..., Any]  # factory(seed=int) -> optuna.samplers.BaseSampler


@dataclass(frozen=True)
class Sampler:
    """Any of Optuna's samplers as a proposer.

    Args:
        factory: Makes the sampler: called as ``factory(seed=…)`` for every job. A class such as
            ``optuna.samplers.GPSampler``, a ``functools.partial`` of one, or ``lambda seed: …``. One whose seed gives
            the whole sequence must always have the same: ``lambda seed: optuna.samplers.QMCSampler(seed=0)``.
        flat: Let the sampler draw every name in every trial, inactive ones too, for a sampler that needs equal names
            in all trials; what was drawn for inactive names is kept in the job's tag and never used.
        batch: Jobs that may be running at once; more wait for results to learn from.
        budget: Set by :meth:`bind`.

    Examples:
        >>> import functools, optuna
        >>> from luthier import Float, Space
        >>> from luthier.testing import simulate
        >>> method = Sampler(functools.partial(optuna.samplers.TPESampler, n_startup_trials=5))
        >>> history = simulate(method, lambda c: c["x"] ** 2, Space(x=Float(-5.0, 5.0)), Budget(trials=30))
        >>> bool(history.values.min() < 0.1)
        True
    """

    factory: Factory
    flat: bool = False
    batch: int = 8
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True
    learns_known: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Sampler:
        """The same, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If the factory cannot be called with a seed, makes no sampler, or one that keeps pickles.
        """
        checked("batch", self.batch, whole(1), where="Optuna's sampler")
        try:
            made = self.factory(seed=0)  # once with Optuna's own warnings, if it has any
        except TypeError as error:
            what = f"factory={self.factory!r} cannot be called as factory(seed=0) ({error})"
            remedy = "Give what makes a sampler, not one: Sampler(optuna.samplers.GPSampler)."
            raise MethodError(what, where="Optuna's sampler", remedy=remedy) from error
        if not isinstance(made, optuna.samplers.BaseSampler):
            remedy = "It must make an optuna.samplers.BaseSampler."
            raise MethodError(f"factory={self.factory!r} made {made!r}", where="Optuna's sampler", remedy=remedy)
        if isinstance(made, optuna.samplers.CmaEsSampler):  # whoever can write to a database could run code by a pickle
            what = f"{type(made).__name__} keeps its state as a pickle, which luthier neither stores nor reads"
            raise MethodError(what, where="Optuna's sampler", remedy="Use the method cmaes.")
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations; none once the budget's trials have been started.

        Raises:
            MethodError: If the sampler cannot handle several objectives.
        """
        return Asker(self, self.factory, self.flat, self.batch).propose(self.budget, history, count, seeds)


@dataclass(frozen=True)
class TPE:
    """The tree-structured Parzen estimator: configurations that are likely among the good results and not the others.

    Handles every kind of name, conditions, several objectives and running jobs. Diverged trainings count as worse than
    every result; failed ones are ignored.

    Args:
        startup: Results before the first configuration that is not random.
        candidates: Configurations that are drawn and compared for each job.
        multivariate: Model all names together, or each by itself; by default together unless there are several
            objectives.
        batch: Jobs that may be running at once; more wait for results to learn from.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier import Float, Space
        >>> from luthier.testing import simulate
        >>> space = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
        >>> history = simulate(TPE(), lambda c: c["x"] ** 2 + c["y"] ** 2, space, Budget(trials=60))
        >>> bool(history.values.min() < 1)
        True

    References:
        Bergstra, Bardenet, Bengio and Kégl, "Algorithms for hyper-parameter optimization", NeurIPS 2011.
        Falkner, Klein and Hutter, "BOHB", ICML 2018 (the multivariate form).
    """

    startup: int = 10
    candidates: int = 24
    multivariate: bool | None = None
    batch: int = 8
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True
    learns_known: ClassVar[bool] = True

    def bind(self, budget: Budget) -> TPE:
        """The same, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If a setting cannot be.
        """
        bound, count = replace(self, budget=budget), whole(1)
        require(bound, "method tpe", startup=count, candidates=count, batch=count)
        return bound

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations; none once the budget's trials have been started."""
        multivariate = len(history.objectives) == 1 if self.multivariate is None else self.multivariate
        group = multivariate and bool(history.space.conditions)  # one model for each set of names that occur together

        def factory(seed: int) -> Any:
            return optuna.samplers.TPESampler(
                n_startup_trials=self.startup,
                n_ei_candidates=self.candidates,
                multivariate=multivariate,
                group=group,
                constant_liar=True,
                seed=seed,
            )

        return Asker(self, factory, False, self.batch).propose(self.budget, history, count, seeds)


@dataclass(frozen=True)
class NSGA2:
    """NSGA-II: a genetic algorithm for several objectives, which keeps the configurations that no other beats in all.

    Inactive names are carried along as silent genes. Failed and diverged trainings are replaced.

    Args:
        population: Configurations of a generation.
        crossover: Probability that a configuration is crossed from two parents.
        mutation: Probability that a name is drawn anew; 1 / names by default.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier import Float, Space
        >>> from luthier.testing import simulate
        >>> history = simulate(
        ...     NSGA2(population=10),
        ...     lambda c: {"near": abs(c["x"]), "far": abs(c["x"] - 1)},
        ...     Space(x=Float(-5.0, 5.0)),
        ...     Budget(trials=60),
        ...     objectives={"near": "min", "far": "min"},
        ... )
        >>> bool(history.values[50:].sum(axis=1).mean() < history.values[:10].sum(axis=1).mean())
        True

    References:
        Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.
    """

    population: int = 50
    crossover: float = 0.9
    mutation: float | None = None
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = True

    def bind(self, budget: Budget) -> NSGA2:
        """The same, ending after ``budget.trials`` configurations.

        Raises:
            MethodError: If a setting cannot be.
        """
        bound = replace(self, budget=budget)
        require(bound, "method nsga2", population=whole(2), crossover=real(0, 1), mutation=maybe(real(0, 1)))
        return bound

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Up to ``count`` new configurations; none once the budget's trials have been started."""

        def factory(seed: int) -> Any:
            return optuna.samplers.NSGAIISampler(
                population_size=self.population, crossover_prob=self.crossover, mutation_prob=self.mutation, seed=seed
            )

        return Asker(self, factory, True, self.population).propose(self.budget, history, count, seeds)
