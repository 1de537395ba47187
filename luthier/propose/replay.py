"""Replay: train again under a schedule of hyperparameters, such as another study has found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from luthier.errors import MethodError
from luthier.jobs import OK, PRUNED, REPEATS, Budget, History, Job
from luthier.schedule import Schedule
from luthier.seeds import Seeds

WHERE = "method replay"


@dataclass(frozen=True)
class Replay:
    """One training under a schedule, part after part, with nobody to compete; ``tune(task, schedule=…)`` makes it.

    What was moved between jobs (by population based training, a genetic search with inheritance, hyperband …) replays
    exactly: on the same machine's CPU the weights are the same bit for bit. Each part takes the initial weights and the
    noise of the job that it repeats (``tag["repeats"]``), and the study's seed, from which the order of the data
    follows, must be the same.

    What an adapter moved during a job replays approximately: its values are known where the job reported, and each
    stands until the next report, while the adapter moved on at every step. The finer the task's ``evaluate_every`` was,
    the nearer the replay.

    Under another task, other data or another seed it is simply that schedule.

    Args:
        schedule: The values over the steps, and where they come from.
        budget: Set by :meth:`bind`.

    Examples:
        >>> from luthier.space import Float, Space
        >>> schedule = Schedule([{"steps": 5, "config": {"lr": 0.1}}, {"steps": 5, "config": {"lr": 0.01}}])
        >>> history = History(Space(lr=Float(1e-3, 1.0, log=True)))
        >>> Replay(schedule).propose(history, 8, Seeds(0))
        [Job(number=0, config={'lr': 0.1}, steps=5, parent=None, tag={})]
    """

    schedule: Schedule
    budget: Budget | None = field(default=None, repr=False)
    extendable: ClassVar[bool] = False
    repeats: ClassVar[str] = "always"

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.schedule.steps

    def bind(self, budget: Budget) -> Replay:
        """The same schedule.

        Raises:
            MethodError: If it is empty, or the budget asks for another training than this one.
        """
        if not self.steps:
            raise MethodError("the schedule is empty", where=WHERE, remedy="Give at least one part.")
        for name, value, own in (("trials", budget.trials, 1), ("steps", budget.steps, self.steps)):
            if value not in (None, own):
                what = f"{name}={value}, and the schedule has {own}"
                raise MethodError(what, where=WHERE, remedy=f"Give {name}={own}, or leave it out of tune().")
        if budget.epochs is not None:
            what = f"epochs={budget.epochs}, and the schedule says itself how long it is: {self.steps} steps"
            raise MethodError(what, where=WHERE, remedy=f"Give steps={self.steps}, or leave both out of tune().")
        return replace(self, budget=budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """The next part, when the one before it has ended well.

        Raises:
            MethodError: If the study has another seed than the schedule.
            ConfigError: If a configuration does not fit the study's space.
        """
        seed, parts = self.schedule.seed, [part for part in self.schedule.parts if part["steps"]]
        if seed not in (None, seeds.study):
            raise MethodError(
                f"the study has seed={seeds.study}, and the schedule was found with seed={seed}",
                where=WHERE,
                remedy=f"Give seed={seed}; or take the seed out of the schedule (dataclasses.replace(schedule, "
                "seed=None)), and the weights will differ.",
            )
        number = len(history)
        if number == len(parts) or (number and history.status[number - 1] not in (OK, PRUNED)):
            return []
        part = parts[number]
        config = history.space.check(part["config"])
        tag = {} if part.get("job") is None else {REPEATS: part["job"]}
        return [Job(number, config, part["steps"], number - 1 if number else None, tag)]

    def parents(self, history: History) -> set[int]:
        """The last job: the next part continues it, and at the end it is what was asked for."""
        return {len(history) - 1} if len(history) else set()
