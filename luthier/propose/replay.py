"""Replay: train again under a schedule of hyperparameters that another study has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from luthier.errors import MethodError
from luthier.jobs import OK, PRUNED, Budget, History, Job
from luthier.seeds import Seeds
from luthier.trials import lineage

WHERE = "method replay"


@dataclass(frozen=True)
class Replay:
    """One training under a schedule: the jobs of a lineage, one after the other, with nobody to compete.

    On the same machine it gives the same weights bit for bit: each job takes the place of the one that it repeats (its
    initial weights and its noise are those of ``tag["repeats"]``), and the study's seed, from which the order of the
    data follows, must be the same. Under another task, other data or another seed it is simply that schedule.

    Args:
        parts: The jobs in order, ``{"job": number, "steps": steps, "config": {…}}`` each. ``"job"`` may be left out.
        seed: The seed of the study in which the schedule was found; None takes any.
        budget: Set by :meth:`bind`.

    Example:
        >>> from luthier.space import Float, Space
        >>> parts = [{"steps": 5, "config": {"lr": 0.1}}, {"steps": 5, "config": {"lr": 0.01}}]
        >>> history = History(Space(lr=Float(1e-3, 1.0, log=True)))
        >>> Replay(parts).propose(history, 8, Seeds(0))
        [Job(number=0, config={'lr': 0.1}, steps=5, parent=None, tag={})]
    """

    parts: Sequence[Mapping[str, Any]]
    seed: int | None = None
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False

    @staticmethod
    def of(history: History, number: int, seed: int | None = None) -> Replay:
        """The way on which job ``number`` of a study came to be.

        Args:
            history: The study.
            number: A finished job, such as ``study.best.number``.
            seed: The study's seed, ``study.settings["seed"]``; None does not ask for the same weights.
        """
        jobs = [history.jobs[link] for link in lineage(history, number)]
        parts = [
            {"job": job.number, "steps": int(history.steps[job.number]), "config": dict(job.config)} for job in jobs
        ]
        return Replay(parts, seed)

    def to_json(self) -> dict[str, Any]:
        """The schedule as JSON; :meth:`from_json` reads it."""
        return {"seed": self.seed, "parts": [dict(part) for part in self.parts]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Replay:
        """The schedule that :meth:`to_json` wrote.

        Raises:
            MethodError: If ``data`` is not such a schedule.
        """
        try:
            parts = [{**part, "steps": int(part["steps"]), "config": dict(part["config"])} for part in data["parts"]]
            return Replay(parts, data.get("seed"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"it is no schedule ({type(error).__name__}: {error})"
            raise MethodError(what, where=WHERE, remedy="It must be what Replay.to_json() wrote.") from error

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return sum(part["steps"] for part in self.parts)

    def bind(self, budget: Budget) -> Replay:
        """The same schedule.

        Raises:
            MethodError: If it is empty, or the budget asks for another number of steps.
        """
        if not self.parts:
            raise MethodError("the schedule is empty", where=WHERE, remedy="Give at least one part.")
        if budget.steps not in (None, self.steps):
            raise MethodError(
                f"steps={budget.steps}, and the schedule has {self.steps}",
                where=WHERE,
                remedy=f"Give steps={self.steps}, which is Replay.steps.",
            )
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next part, when the one before it has ended well.

        Raises:
            MethodError: If the study has another seed than the schedule, or a configuration does not fit its space.
        """
        if self.seed not in (None, seeds.study):
            raise MethodError(
                f"the study has seed={seeds.study}, and the schedule was found with seed={self.seed}",
                where=WHERE,
                remedy=f"Give seed={self.seed}; or leave the seed out of the schedule, and the weights will differ.",
            )
        number = len(history)
        if number == len(self.parts) or (number and history.status[number - 1] not in (OK, PRUNED)):
            return []
        part = self.parts[number]
        config = history.space.check(part["config"])
        tag = {"repeats": part["job"]} if "job" in part else {}
        return [Job(number, config, part["steps"], number - 1 if number else None, tag)]

    def parents(self, history: History) -> set[int]:
        """The last job: the next part continues it, and at the end it is what was asked for."""
        return {len(history) - 1} if len(history) else set()
