"""Conditions under which a study stops before its budget is spent, for ``tune(stop=…)``.

A condition is any function of the :class:`luthier.Study` that says True when it is enough. It is asked whenever results
have come. Then nothing new is begun, and what is running is asked to stop at its next report and is kept as pruned, as
when ``seconds`` are over; the same call later asks again and begins nothing where the condition still holds.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luthier.errors import MethodError, StudyError
from luthier.trials import best_jobs

__all__ = ["NoImprovement", "Target"]


@dataclass(frozen=True)
class Target:
    """Stop when a result is as good as this, or better.

    Args:
        value: In the user's own units and direction.
        metric: The objective meant; the first by default.

    Raises:
        MethodError: If the value is not a number.

    Examples:
        >>> import luthier as lt
        >>> space = lt.Space(x=lt.Float(0, 1))
        >>> study = lt.tune(lambda c: c["x"], space=space, trials=1000, stop=lt.stop.Target(0.1), progress=False)
        >>> len(study.trials) < 100, study.best.metrics["loss"] <= 0.1
        (True, True)
    """

    value: float
    metric: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, numbers.Real) or math.isnan(self.value):
            remedy = "Give the value that is good enough: lt.stop.Target(0.95)."
            raise MethodError(f"value must be a number, got {self.value!r}", where="lt.stop.Target", remedy=remedy)

    def __call__(self, study: Any) -> bool:
        """Return True if a finished job has reached the value."""
        history = study.history
        names = list(history.objectives)
        name = names[0] if self.metric is None else self.metric
        if name not in names:
            raise StudyError(
                f"metric must be an objective of the study, got {name!r}",
                where="lt.stop.Target",
                remedy=f"Its objectives are {', '.join(names)}.",
            )
        column = history.values[history.good, names.index(name)]
        wanted = -self.value if history.objectives[name] == "max" else self.value
        return bool((column <= wanted).any())  # inside, all are minimised; NaN is below nothing


@dataclass(frozen=True)
class NoImprovement:
    """Stop when so many results in a row have brought no better one.

    Of several objectives an improvement is any result that the Pareto front has kept.

    Args:
        trials: The results after the best; a training that is continued counts at each of its ends.

    Raises:
        MethodError: If it is not a positive whole number.

    Examples:
        >>> import luthier as lt
        >>> space = lt.Space(x=lt.Float(0, 1))
        >>> stop = lt.stop.NoImprovement(trials=10)
        >>> study = lt.tune(lambda c: c["x"], space=space, trials=1000, stop=stop, progress=False)
        >>> len(study.trials) == study.best.number + 11
        True
    """

    trials: int

    def __post_init__(self) -> None:
        if isinstance(self.trials, bool) or not isinstance(self.trials, numbers.Integral) or self.trials < 1:
            remedy = "Give the results to wait for a better one: lt.stop.NoImprovement(trials=30)."
            raise MethodError(
                f"trials must be an integer ≥ 1, got {self.trials!r}", where="lt.stop.NoImprovement", remedy=remedy
            )

    def __call__(self, study: Any) -> bool:
        """Return True if the last results brought nothing better."""
        history = study.history
        recent = history.arrival[-self.trials :]
        return len(history.arrival) > self.trials and not set(recent) & set(best_jobs(history))


def check_conditions(stop: Any) -> list[Callable[[Any], Any]]:
    """The conditions that a user gave, as a list.

    Raises:
        MethodError: If one of them is no function of a study.
    """
    given = [] if stop is None else list(stop) if isinstance(stop, list | tuple) else [stop]
    for one in given:
        if isinstance(one, type) or not callable(one):
            raise MethodError(
                f"a condition to stop must be a function of the study, got {one!r}",
                where="stop",
                remedy="Give lt.stop.Target(0.95), lt.stop.NoImprovement(trials=30), or lambda study: ….",
            )
    return given


def met(conditions: list[Callable[[Any], Any]], study: Any) -> bool:
    """Return True if any of the conditions holds.

    Raises:
        StudyError: If a condition raises.
    """
    for condition in conditions:
        try:
            holds = bool(condition(study))
        except StudyError:
            raise
        except Exception as error:
            raise StudyError(
                f"the condition {condition!r} raised {type(error).__name__}: {error}",
                where=f"study {study.name!r}, stop",
                remedy="Mend it and run again: what is recorded stays.",
            ) from error
        if holds:
            return True
    return False
