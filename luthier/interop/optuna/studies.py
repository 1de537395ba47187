"""Studies to Optuna, for its dashboard and plots, and Optuna's studies to histories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from luthier.errors import StudyError
from luthier.interop.optuna.inference import infer_space, nearest
from luthier.interop.optuna.library import experimental, optuna, quiet
from luthier.interop.optuna.parameters import Parameter, distributions, parameters, values
from luthier.interop.optuna.timeline import NOTE, FrozenTrial, TrialState, reports_of, result_of, starts_and_ends
from luthier.jobs import History, Job, Result
from luthier.space import Config, Space
from luthier.study.study import Study

SPACE = "luthier:space"  # attribute of an exported study
_STATES = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL}


def to_optuna(study: Study | History, *, storage: Any = None, name: str | None = None) -> optuna.Study:
    """A copy of a study as one of Optuna's: for optuna-dashboard, its plots and its importances.

    Every job is a trial. Conditional names are parameters of the trials where they were active, elements of vectors are
    parameters ``rates[0]``, ``rates[1]``, …; reports are intermediate values. Optuna has no state for a divergence: it
    is a failed trial there. What else is known (status, seconds, parent, other metrics, the error) is in the user
    attribute ``luthier:result``. Trials carry their real durations, one after another from now on.

    Args:
        study: A study, or its history.
        storage: Where to, as for ``optuna.create_study``: ``"sqlite:///optuna.db"``; None keeps it in memory.
        name: Its name there; by default the study's.

    Returns:
        The new Optuna study.

    Raises:
        StudyError: If the storage has a study of this name.

    Example:
        >>> import luthier as lt
        >>> done = lt.tune(lambda c: c["x"] ** 2, space=lt.Space(x=lt.Float(-1, 1)), trials=8, progress=False)
        >>> copy = to_optuna(done)
        >>> copy.best_value == done.best.metrics["loss"], len(copy.trials)
        (True, 8)
    """
    history = study.history if isinstance(study, Study) else study
    name = name if name is not None or not isinstance(study, Study) else study.name
    ways = {"min": optuna.study.StudyDirection.MINIMIZE, "max": optuna.study.StudyDirection.MAXIMIZE}
    directions = [ways[mode] for mode in history.objectives.values()]
    with quiet():
        try:
            copy = optuna.create_study(storage=storage, study_name=name, directions=directions)
        except optuna.exceptions.DuplicatedStudyError as error:
            remedy = "Give another name=, or remove it by optuna.delete_study."
            raise StudyError(f"there is a study {name!r} already", where=f"{storage!r}", remedy=remedy) from error
        with experimental():
            copy.set_metric_names(list(history.objectives))
        copy.set_user_attr(SPACE, history.space.to_json())
        copy.add_trials(_trials(history))
    return copy


def _trials(history: History) -> list[FrozenTrial]:
    """The jobs as trials, in order of number."""
    found = parameters(history.space, False)
    now = datetime.now()
    spans: dict[int, tuple[datetime, datetime | None]] = {}
    for number in history.arrival:
        result = history.results[number]
        assert result is not None
        start = now
        now += timedelta(seconds=result.seconds, microseconds=1)
        spans[number] = start, now
    return [_trial(history, job, found, *spans.get(job.number, (now, None))) for job in history.jobs]


def _trial(
    history: History, job: Job, found: tuple[Parameter, ...], start: datetime, end: datetime | None
) -> FrozenTrial:
    result = history.results[job.number]
    metric = next(iter(history.objectives))
    reports = {one.step: one.metrics[metric] for one in history.reports.get(job.number, ()) if metric in one.metrics}
    params = values(job.config, found)
    told = [math.nan] if result is None else [result.metrics.get(one, math.nan) for one in history.objectives]
    state = TrialState.RUNNING if result is None else _STATES.get(result.status, TrialState.FAIL)
    finite = all(map(math.isfinite, told))
    if state == TrialState.COMPLETE and not finite:
        state = TrialState.FAIL
    return FrozenTrial(
        number=job.number,
        trial_id=job.number,
        state=state,
        value=None,
        values=told if finite and state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        datetime_start=start,
        datetime_complete=end,
        params=params,
        distributions=distributions(params, found),
        user_attrs={NOTE: _note(job, result)},
        system_attrs={},
        intermediate_values=reports if len(history.objectives) == 1 else {},
    )


def _note(job: Job, result: Result | None) -> dict[str, Any]:
    """What Optuna has no place for; numbers that are not JSON as text."""
    note: dict[str, Any] = {"asked": job.steps}
    if job.parent is not None:
        note["parent"] = job.parent
    if result is not None:
        metrics = {key: value if math.isfinite(value) else str(value) for key, value in result.metrics.items()}
        note |= {"status": result.status, "steps": result.steps, "seconds": result.seconds, "metrics": metrics}
        note |= {"final": dict(result.final)} if result.final else {}
        note |= {"error": result.error} if result.error else {}
    return note


def from_optuna(study: optuna.Study) -> History:
    """The finished trials of an Optuna study as a history, with the space that they were drawn from.

    An exported study gives its space back exactly. Of any other, the space is read from the trials: a name that only
    some of them have is conditional on an earlier name that has discrete values and says which; a range with steps
    becomes an ordered choice. Failed trials that ended before all their parameters were asked for are left out.

    Args:
        study: The Optuna study.

    Returns:
        A history, whose ``space`` and ``objectives`` are the study's.

    Raises:
        StudyError: If there is no finished trial, a distribution has changed, or nothing says when a name is active.
        SpaceError: If a name or an option cannot be one of luthier's.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=5)
        >>> history = from_optuna(study)
        >>> history.space, len(history)
        (Space(x=Float(-5.0, 5.0)), 5)
    """
    trials = [one for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    described = study.user_attrs.get(SPACE)
    space = infer_space(trials, study.study_name) if described is None else Space.from_json(described)
    modes = ["max" if one == optuna.study.StudyDirection.MAXIMIZE else "min" for one in study.directions]
    names = study.metric_names or (["value"] if len(modes) == 1 else [f"value_{i}" for i in range(len(modes))])
    found = parameters(space, False)
    pairs = [(one, config) for one in trials if (config := _config(one.params, found)) is not None]
    trials = [one for one, _ in pairs]
    place = {one.number: index for index, one in enumerate(trials)}
    history = History(space, dict(zip(names, modes, strict=True)))
    for index, ended in starts_and_ends(trials):
        note = trials[index].user_attrs.get(NOTE, {})
        if not ended:
            parent = place.get(note.get("parent", -1))
            history.add(Job(index, space.check(pairs[index][1]), note.get("asked", 1), parent))
        else:
            for report in reports_of(index, trials[index], names[0]):
                history.add(report)
            history.add(result_of(index, trials[index], names))
    return history


def _config(params: Mapping[str, Any], found: tuple[Parameter, ...]) -> Config | None:
    """The configuration of a trial; None if an active name has no value."""
    config: Config = {}
    for one in found:
        if one.active(config):
            if one.key not in params:
                return None
            one.put(config, nearest(one.domain, params[one.key]))
    return config
