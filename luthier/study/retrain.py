"""The best trials trained again under other seeds: the best of many noisy results is lucky, and this says how much."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from luthier.checks import checked, whole
from luthier.errors import StudyError
from luthier.space import Config
from luthier.task import as_task, level

if TYPE_CHECKING:
    from luthier.study.study import Study


@dataclass(frozen=True)
class Retrained:
    """One trial and what it gave under other seeds.

    Args:
        number: The trial's job in the study.
        config: Its configuration.
        value: The objective in the study, by which it was chosen.
        values: The objective under each of the other seeds, NaN where a training failed.
        studies: The studies in which it was trained again, one a seed.
    """

    number: int
    config: Config
    value: float
    values: tuple[float, ...]
    studies: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def mean(self) -> float:
        """The mean under the other seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """The standard deviation under the other seeds; NaN of one alone."""
        return statistics.stdev(self.values) if len(self.values) > 1 else float("nan")

    def __str__(self) -> str:
        return f"job {self.number}: {self.mean:.6g} ± {self.sd:.2g} ({self.value:.6g} when it was chosen)"


def retrain(study: Study, task: Any, count: int, seeds: int | Sequence[int], settings: dict[str, Any]) -> list[Any]:
    """See :meth:`luthier.Study.retrain`."""
    from luthier.study.tuning import tune  # which makes studies

    count = checked("count", count, whole(1), where="retrain", error=StudyError)
    known, history = study.settings, study.history
    chosen = _seeds(seeds, int(known["seed"]))
    numbers = _best(study, count)
    goals = history.objectives
    given = as_task(task, None if getattr(task, "space", None) is not None else history.space)
    found: list[Retrained] = []
    for number in numbers:
        best = study._record(history, number)
        if len(best.schedule) > 1:
            more: dict[str, Any] = {"schedule": replace(best.schedule, seed=None)}  # other weights are what is wanted
        else:
            asked = {name: known["budget"].get(name) for name in ("epochs", "steps")}
            more = asked if level(given) == "function" else {"steps": int(history.age[number])}
            more |= {"start": [best.config], "trials": 1}
        runs = [
            tune(
                given,
                metric=list(goals),
                mode=list(goals.values()),
                limits=history.limits,
                store=study._store,
                name=f"{study.name}/retrain/{number}/{seed}",
                seed=seed,
                **{"progress": False, **more, **settings},
            )
            for seed in chosen
        ]
        values = tuple(float("nan") if (one := run.best) is None else one.value for run in runs)
        found.append(Retrained(number, best.config, best.value, values, tuple(runs)))
    return sorted(found, key=lambda one: one.mean * (-1 if next(iter(goals.values())) == "max" else 1))


def _best(study: Study, count: int) -> list[int]:
    """The jobs with the best values, of each trial the best alone.

    Raises:
        StudyError: If no job ended well.
    """
    history = study.history
    ranked = [int(n) for n in history.values[:, 0].argsort(kind="stable") if history.good[n]]
    trial_of = {number: trial.number for trial in study.trials for number in trial.jobs}
    kept: dict[int, int] = {}
    for number in ranked:
        kept.setdefault(trial_of[number], number)
    if not kept:
        remedy = "Tune first: there is nothing to train again."
        raise StudyError("no job ended well", where=f"study {study.name!r}, retrain", remedy=remedy)
    return list(kept.values())[:count]


def _seeds(seeds: int | Sequence[int], own: int) -> list[int]:
    """The other seeds: so many after the study's own, or those that were named."""
    if isinstance(seeds, Sequence) and not isinstance(seeds, str) and seeds:
        return [checked("seeds", seed, whole(), where="retrain", error=StudyError) for seed in seeds]
    return [own + 1 + i for i in range(checked("seeds", seeds, whole(1), where="retrain", error=StudyError))]
