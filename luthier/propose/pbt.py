"""Population based training: members train side by side, the poor ones copy the good ones (Jaderberg et al., 2017)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import ClassVar, Literal

import numpy as np

from luthier.errors import MethodError
from luthier.jobs import Budget, Event, History, Job, Report
from luthier.propose.lineages import check_number, check_parts, end_of, movable, progress, steps_to, usable
from luthier.seeds import Seeds
from luthier.space import Config, Space

WHERE = "method pbt"


@dataclass
class _Members:
    """Where the members are.

    Args:
        ranked: For each round, (value, job number) of what ended well in it, best first.
        ended: For each round, its jobs with any result.
        latest: The last job of each slot.
        ready: Ended jobs whose slots have not gone on, in order of arrival.
        fresh: Members that were started after the first round.
    """

    ranked: list[list[tuple[float, int]]]
    ended: list[int]
    latest: dict[int, int] = field(default_factory=dict)
    ready: dict[int, None] = field(default_factory=dict)
    fresh: int = 0


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

    Example:
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

    def bind(self, budget: Budget) -> PBT:
        """The same method for ``budget.trials`` members that train for ``budget.epochs`` or ``budget.steps``.

        Raises:
            MethodError: If a setting is out of range, or the budget is too small or does not say the members.
        """
        check_number("rounds", self.rounds, 2, inf, WHERE, whole=True)
        check_number("quantile", self.quantile, 0.01, 0.5, WHERE)
        check_number("resample", self.resample, 0.0, 1.0, WHERE)
        check_number("fresh", self.fresh, 0, inf, WHERE, whole=True)
        if self.exploit not in ("truncation", "tournament"):
            remedy = "Use 'truncation' or 'tournament'."
            raise MethodError(f"exploit={self.exploit!r} is unknown", where=WHERE, remedy=remedy)
        if isinstance(self.mutate, str) or not len(self.factors):
            raise MethodError(
                f"mutate={self.mutate!r}, factors={self.factors!r}",
                where=WHERE,
                remedy="Give lists: mutate=['lr'], factors=[0.8, 1.2].",
            )
        for factor in self.factors:
            check_number("factors", factor, 1e-6, 1e6, WHERE)
        check_parts(budget, self.rounds, WHERE)
        if budget.trials is None or budget.trials - self.fresh < 2:
            raise MethodError(
                f"trials={budget.trials} with fresh={self.fresh} are not two members that start together",
                where=WHERE,
                remedy="Give trials=, the number of members: 16, for example.",
            )
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next rounds of the members that can go on.

        Raises:
            MethodError: If ``mutate`` does not fit the space.
        """
        names = movable(history.space, self.mutate, WHERE)
        members, size, first = self._members(history), self._size, len(history)
        ready = iter(list(members.ready)) if self.asynchronous else None
        jobs: list[Job] = []
        fresh = members.fresh
        while len(jobs) < count and first + len(jobs) < size * self.rounds:
            number = first + len(jobs)
            if number < size:
                jobs.append(self._start(history.space, number, number, 0, seeds))
                continue
            own = next(ready, None) if ready is not None else number - size
            if own is None or (ready is None and members.ended[number // size - 1] < size):
                break
            job = self._go_on(history, members, own, number, names, fresh, seeds)
            if job is None:  # nobody has come far enough to be copied
                continue
            fresh += "fresh" in job.tag
            jobs.append(job)
        return jobs

    def parents(self, history: History) -> set[int]:
        """The jobs that a member may still continue or copy."""
        members, size = self._members(history), self._size
        open_rounds = [r for r in (self._round(history, n) for n in members.latest.values()) if r < self.rounds - 1]
        if len(history) >= size * self.rounds or not open_rounds:
            return set()
        least = min(open_rounds)
        while least > 0 and not members.ranked[least]:
            least -= 1
        most = size if self.exploit == "tournament" else ceil(self.quantile * size)
        keep = {number for ranked in members.ranked[least:-1] for _, number in ranked[:most]}
        return keep | {number for number in members.latest.values() if self._round(history, number) < self.rounds - 1}

    @property
    def _size(self) -> int:
        """Members that train at a time."""
        return ((self.budget or Budget()).trials or 16) - self.fresh

    def _start(self, space: Space, number: int, slot: int, round_: int, seeds: Seeds) -> Job:
        """A member of its own, trained up to the end of ``round_``."""
        config = space.sample(seeds.rng(number, "propose"))
        tag = {"slot": slot, "round": round_} | ({"fresh": True} if round_ else {})
        return Job(number, config, self._steps(config, round_, 0.0), None, tag)

    def _steps(self, config: Config, round_: int, done: float) -> int:
        return steps_to((round_ + 1) / self.rounds, done, config, self.budget or Budget())

    def _go_on(
        self, history: History, members: _Members, own: int, number: int, names: list[str], fresh: int, seeds: Seeds
    ) -> Job | None:
        """The next round of the member whose last job is ``own``; None where it has to wait."""
        tag = {"slot": int(history.jobs[own].tag["slot"]), "round": self._round(history, own) + 1}
        rng = seeds.rng(number, "propose")
        donor = self._donor(history, members, own, rng)
        if donor is None and self.asynchronous and history.pending:
            return None
        if donor is None or (donor != own and fresh < self.fresh * tag["round"] // (self.rounds - 1)):
            return self._start(history.space, number, tag["slot"], tag["round"], seeds)
        config = end_of(history, donor)
        if donor != own:
            config = explore(history.space, config, names, rng, self.factors, self.resample)
        done = progress(history, self.budget or Budget())[donor]
        return Job(number, config, self._steps(config, tag["round"], done), donor, tag)

    def _donor(self, history: History, members: _Members, own: int, rng: np.random.Generator) -> int | None:
        """The job whose state goes on in the place of ``own``; None where there is none."""
        round_ = self._round(history, own)
        while round_ > 0 and not members.ranked[round_]:
            round_ -= 1
        ranked = members.ranked[round_]
        if not ranked:
            return None
        alive = usable(history, own)
        place = bisect_left(ranked, (float(history.values[own, 0]), own)) if alive else len(ranked)
        if self.exploit == "tournament":
            others = [p for p in range(len(ranked)) if p != place]
            rival = others[int(rng.integers(len(others)))] if others else place
            return ranked[min(place, rival) if alive else rival][1]
        top = min(ceil(self.quantile * len(ranked)), len(ranked) // 2)
        if alive and place < len(ranked) - top:
            return own
        return ranked[int(rng.integers(max(1, top)))][1]

    def _round(self, history: History, number: int) -> int:
        return int(history.jobs[number].tag["round"])

    def _members(self, history: History) -> _Members:
        def start() -> _Members:
            return _Members([[] for _ in range(self.rounds)], [0] * self.rounds)

        def update(members: _Members, event: Event) -> _Members:
            if isinstance(event, Job):
                slot = int(event.tag["slot"])
                members.ready.pop(members.latest.get(slot, -1), None)
                members.latest[slot] = event.number
                members.fresh += "fresh" in event.tag
            elif not isinstance(event, Report):
                round_ = self._round(history, event.number)
                members.ended[round_] += 1
                if round_ < self.rounds - 1:
                    members.ready[event.number] = None
                if usable(history, event.number):
                    insort(members.ranked[round_], (float(history.values[event.number, 0]), event.number))
            return members

        return history.fold(("pbt", self.rounds), start, update)


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
        space: What it stays inside.
        config: A configuration of the space.
        names: The names to move, where they are active.
        rng: The source of chance.
        factors: Numbers are multiplied by one of these and clipped to their domain.
        resample: Probability of drawing a value anew.
    """
    moved = space.perturb(config, rng, factors=factors)
    drawn = space.complete({name: value for name, value in config.items() if name not in names}, rng)
    new = dict(config)
    for name, chance in zip(names, rng.random(len(names)).tolist(), strict=True):
        if name in config:
            new[name] = (drawn if chance < resample else moved).get(name, config[name])
    return space.complete(new, rng)
