"""Optuna's trials as the events of a history: in order of time, with results and reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from luthier.interop.optuna.library import optuna
from luthier.jobs import Report, Result, Status

FrozenTrial = optuna.trial.FrozenTrial
TrialState = optuna.trial.TrialState

NOTE = "luthier:result"  # what is kept with an exported trial and Optuna has no place for


def starts_and_ends(trials: Sequence[FrozenTrial]) -> Iterator[tuple[int, bool]]:
    """Yield each start (False) and end (True) of a trial, in order of time; trials start in the order given.

    A trial that ended before another one started ends first, so that adding trials later gives the same order.
    """
    ends = sorted(
        (one.datetime_complete, index)
        for index, one in enumerate(trials)
        if one.state.is_finished() and one.datetime_complete is not None
    )
    done = 0
    for index, trial in enumerate(trials):
        start = trial.datetime_start
        while done < len(ends) and ends[done][1] < index and (start is None or ends[done][0] <= start):
            yield ends[done][1], True
            done += 1
        yield index, False
    for _, index in ends[done:]:
        yield index, True


def result_of(number: int, trial: FrozenTrial, names: Sequence[str]) -> Result:
    """Outcome of a finished trial, as the result of job ``number``.

    Args:
        number: The job.
        trial: The trial.
        names: Names of the objectives.
    """
    noted = trial.user_attrs.get(NOTE, {})
    values = [math.nan if value is None else float(value) for value in trial.values or ()]
    metrics = {name: float(value) for name, value in noted.get("metrics", {}).items()}  # "nan" is written as text
    metrics |= dict(zip(names, values, strict=False))
    status: Status = "failed"
    if trial.state == TrialState.COMPLETE:
        status = "ok" if all(map(math.isfinite, values)) else "diverged"
    elif trial.state == TrialState.PRUNED:
        status = "pruned"
    return Result(
        number,
        noted.get("status", status),
        metrics,
        noted.get("steps", 1),
        noted.get("final", {}),
        noted.get("seconds", trial.duration.total_seconds() if trial.duration is not None else 0.0),
        noted.get("error", ""),
    )


def reports_of(number: int, trial: FrozenTrial, name: str) -> list[Report]:
    """Reports that a trial made while it ran."""
    return [Report(number, step, {name: value}) for step, value in sorted(trial.intermediate_values.items())]
