"""Population based training: members train side by side, the poor ones copy the good ones (Jaderberg et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np

from luthier.checks import checked, real, require
from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job
from luthier.propose.lineages import check_mutate, end_of, movable
from luthier.propose.population import Population
from luthier.seeds import Seeds
from luthier.space import Config, Space

WHERE = "method pbt"


@dataclass(frozen=True)
class PBT:
    """Population based training.

    ``trials`` members train for the ``epochs`` (or steps) of the budget, in equal rounds. After each round a poor
    member copies a good one (*exploit*: weights, optimizer state, step counter and hyperparameters together) and moves
    the hyperparameters that it copied (*explore*), always inside their domains; a member that copies nothing goes on as
    if nothing had been. What comes out is a schedule of hyperparameters, ``study.best.schedule``, more than a
    configuration.

    Static hyperparameters: weights fit only the network they were trained in, and this method does not see the network.
    So explore moves only the names in ``mutate``, and a copy takes all others as they are. Name no hyperparameter there
    that changes the shape of a weight: such a training fails. Members started later (``fresh``) are drawn from the
    whole space, and bring other values of the rest.

    A member that failed or diverged copies another one. Where a whole round was lost, its members go back to the last
    round that was not.

    Args:
        rounds: Parts of a whole training; exploit and explore stand between them.
        exploit: ``"truncation"``: the worst ``quantile`` copy one of the best ``quantile``; ``"tournament"``: each
            member copies a random other one if that is better.
        quantile: A fraction of the members, for truncation.
        factors: Explore multiplies a number by one of these; options move to a neighbour, or to any where unordered.
        resample: Probability of drawing a value anew instead, for each of the names.
        mutate: Names that explore moves; None is all Floats.
        fresh: So many of the trials are kept back, and started with weights and hyperparameters of their own later on,
            each in the place of a member that would have copied another. They train at once for as long as the others
            have. The autotune paper adds such members for diversity; Jaderberg et al. do not, so the default is 0.
        asynchronous: Do not wait for the others at the end of a round: a member is compared with those that have ended
            the same round before it. For workers of unequal speed; the result then depends on who was first.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Float
        >>> from luthier.testing import simulate
        >>> from luthier.testing.problems import decay
        >>> space = Space(lr=Float(1e-5, 1e2, log=True))
        >>> history = simulate(PBT(rounds=9), decay, space, Budget(trials=10, steps=90), stateful=True)
        >>> len(history), int(history.age.max())
        (90, 90)

    References:
        Jaderberg et al., "Population based training of neural networks", arXiv:1711.09846, 2017.
        The autotune paper, sections 4.5 and 7.5.
    """

    rounds: int = 10
    exploit: Literal["truncation", "tournament"] = "truncation"
    quantile: float = 0.2
    factors: Sequence[float] = (0.8, 1.2)
    resample: float = 0.25
    mutate: Sequence[str] | None = None
    fresh: int = 0
    asynchronous: bool = False
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    repeats: ClassVar[str] = "late"  # a population may be larger than the space

    def bind(self, budget: Budget) -> PBT:
        """The same method for ``budget.trials`` members that train for ``budget.epochs`` or ``budget.steps``.

        Raises:
            MethodError: If a setting is out of range, or the budget is too small or does not say the members.
        """
        require(self, WHERE, resample=real(0, 1))
        check_mutate(self.mutate, WHERE)
        if not len(self.factors):
            remedy = "Give a list: factors=[0.8, 1.2]."
            raise MethodError(f"factors={self.factors!r}", where=WHERE, remedy=remedy)
        for factor in self.factors:
            checked("factors", factor, real(1e-6, 1e6), where=WHERE)
        bound = replace(self, budget=budget)
        bound._population().check()
        return bound

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next rounds of the members that can go on.

        Raises:
            MethodError: If ``mutate`` does not fit the space.
        """
        space, names = history.space, movable(history.space, self.mutate, WHERE)

        def move(donor: int, jobs: list[Job], rng: np.random.Generator) -> Config:
            return explore(space, end_of(history, donor), names, rng, self.factors, self.resample)

        return self._population().propose(history, count, seeds, move)

    def parents(self, history: History) -> set[int]:
        """The jobs that a member may still continue or copy."""
        return self._population().parents(history)

    @property
    def jobs(self) -> int:
        """Jobs of the whole study."""
        return self._population().jobs

    def _population(self) -> Population:
        budget = self.budget or Budget()
        return Population(WHERE, budget, self.rounds, self.exploit, self.quantile, self.fresh, self.asynchronous)


def explore(
    space: Space,
    config: Config,
    names: Sequence[str],
    rng: np.random.Generator,
    factors: Sequence[float],
    resample: float,
) -> Config:
    """A configuration in which ``names`` were moved by a factor, or drawn anew; all others stay.

    Args:
        space: Space that it stays inside.
        config: A configuration of the space.
        names: The names to move, where they are active.
        rng: The source of chance.
        factors: Numbers are multiplied by one of these and clipped to their domain.
        resample: Probability of drawing a value anew.
    """
    moved = space.perturb(config, rng, factors=factors)
    drawn = space.fill({name: value for name, value in config.items() if name not in names}, rng)
    new = dict(config)
    for name, chance in zip(names, rng.random(len(names)).tolist(), strict=True):
        if name in config:
            new[name] = (drawn if chance < resample else moved).get(name, config[name])
    return space.fill(new, rng)
