"""Members that train side by side in rounds, the poor ones going on from the good ones: what PBT and PB2 share."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, final

import numpy as np

from luthier.checks import one_of, real, require, whole
from luthier.errors import MethodError
from luthier.jobs import Budget, Event, History, Job, Report
from luthier.propose.lineages import check_parts, end_of, progress, steps_to, usable
from luthier.seeds import Seeds
from luthier.space import Config, Space

Explore = Callable[[int, list[Job], np.random.Generator], Config]
"""(job whose state is copied, jobs proposed before this one in the same call, source of chance) to the configuration
under which the copy goes on."""


@dataclass
class _Members:
    """Positions of the members.

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


@final
@dataclass(frozen=True)
class Population:
    """Members and their rounds; the method itself explores the copies.

    Args:
        where: The method, for errors.
        budget: ``trials`` members, which train for ``epochs`` or ``steps``.
        rounds, exploit, quantile, fresh, asynchronous: See :class:`luthier.propose.PBT`.
    """

    where: str
    budget: Budget
    rounds: int
    exploit: Literal["truncation", "tournament"]
    quantile: float
    fresh: int
    asynchronous: bool

    def check(self) -> None:
        """Refuse settings that are out of range.

        Raises:
            MethodError: Naming one, or the budget, which is too small or does not say the members.
        """
        require(self, self.where, rounds=whole(2), quantile=real(0.01, 0.5), fresh=whole(0))
        require(self, self.where, exploit=one_of("truncation", "tournament"))
        check_parts(self.budget, self.rounds, self.where)
        if self.budget.trials is None or self.budget.trials - self.fresh < 2:
            raise MethodError(
                f"trials={self.budget.trials} with fresh={self.fresh} are not two members that start together",
                where=self.where,
                remedy="Give trials=, the number of members: 16, for example.",
            )

    @property
    def size(self) -> int:
        """Members that train at a time."""
        return (self.budget.trials or 16) - self.fresh

    @property
    def jobs(self) -> int:
        """Jobs of the whole study."""
        return self.size * self.rounds

    def propose(self, history: History, count: int, seeds: Seeds, explore: Explore) -> list[Job]:
        """The next rounds of the members that can go on, at most ``count`` of them."""
        members, size, first = self._members(history), self.size, len(history)
        ready = iter(list(members.ready)) if self.asynchronous else None
        jobs: list[Job] = []
        fresh = members.fresh
        while len(jobs) < count and first + len(jobs) < self.jobs:
            number = first + len(jobs)
            if number < size:
                jobs.append(self._start(history.space, number, number, 0, seeds))
                continue
            own = next(ready, None) if ready is not None else number - size
            if own is None or (ready is None and members.ended[number // size - 1] < size):
                break
            job = self._go_on(history, members, own, jobs, fresh, seeds, explore)
            if job is None:  # nobody has come far enough to be copied
                continue
            fresh += "fresh" in job.tag
            jobs.append(job)
        return jobs

    def parents(self, history: History) -> set[int]:
        """The jobs that a member may still continue or copy."""
        members, size = self._members(history), self.size
        open_rounds = [r for r in (self._round(history, n) for n in members.latest.values()) if r < self.rounds - 1]
        if len(history) >= self.jobs or not open_rounds:
            return set()
        least = min(open_rounds)
        while least > 0 and not members.ranked[least]:
            least -= 1
        most = size if self.exploit == "tournament" else ceil(self.quantile * size)
        keep = {number for ranked in members.ranked[least:-1] for _, number in ranked[:most]}
        return keep | {number for number in members.latest.values() if self._round(history, number) < self.rounds - 1}

    def _start(self, space: Space, number: int, slot: int, round_: int, seeds: Seeds) -> Job:
        """A member of its own, trained up to the end of ``round_``."""
        config = space.sample(seeds.rng(number, "propose"))
        tag = {"slot": slot, "round": round_} | ({"fresh": True} if round_ else {})
        return Job(number, config, self._steps(config, round_, 0.0), None, tag)

    def _steps(self, config: Config, round_: int, done: float) -> int:
        return steps_to((round_ + 1) / self.rounds, done, config, self.budget)

    def _go_on(
        self,
        history: History,
        members: _Members,
        own: int,
        jobs: list[Job],
        fresh: int,
        seeds: Seeds,
        explore: Explore,
    ) -> Job | None:
        """The next round of the member whose last job is ``own``; None where it has to wait."""
        number = len(history) + len(jobs)
        tag = {"slot": int(history.jobs[own].tag["slot"]), "round": self._round(history, own) + 1}
        rng = seeds.rng(number, "propose")
        donor = self._donor(history, members, own, rng)
        if donor is None and self.asynchronous and history.pending:
            return None
        if donor is None or (donor != own and fresh < self.fresh * tag["round"] // (self.rounds - 1)):
            return self._start(history.space, number, tag["slot"], tag["round"], seeds)
        config = end_of(history, donor) if donor == own else explore(donor, jobs, rng)
        done = progress(history, self.budget)[donor]
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

        return history.fold(("population", self.rounds), start, update)
