"""Studies to Optuna, for its dashboard and plots, and Optuna's studies to histories."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from luthier.errors import StudyError
from luthier.interop.optuna.library import experimental, optuna, quiet
from luthier.interop.optuna.parameters import Parameter, distributions, parameters, values
from luthier.interop.optuna.timeline import NOTE, FrozenTrial, TrialState, reports_of, result_of, starts_and_ends
from luthier.jobs import History, Job, Result
from luthier.limits import excesses
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
        storage: Destination, as for ``optuna.create_study``: ``"sqlite:///optuna.db"``; None keeps it in memory.
        name: Its name there; by default the study's.

    Returns:
        The new Optuna study.

    Raises:
        StudyError: If the storage has a study of this name.

    Examples:
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
        system_attrs=_constraints(history, result),
        intermediate_values=reports if len(history.objectives) == 1 else {},
    )


def _constraints(history: History, result: Result | None) -> dict[str, Any]:
    """The excess over each limit, as Optuna keeps constraints: a study's best trial is one that violates none."""
    if result is None or not history.limits:
        return {}
    return {"constraints": list(excesses(history.limits, result.metrics, result.status == "ok").values())}


def _note(job: Job, result: Result | None) -> dict[str, Any]:
    """Facts that Optuna has no place for; numbers that JSON cannot hold are text."""
    note: dict[str, Any] = {"asked": job.steps}
    if job.parent is not None:
        note["parent"] = job.parent
    if result is not None:
        metrics = {key: value if math.isfinite(value) else str(value) for key, value in result.metrics.items()}
        note |= {"status": result.status, "steps": result.steps, "seconds": result.seconds, "metrics": metrics}
        note |= {"final": dict(result.final)} if result.final else {}
        note |= {"error": result.error} if result.error else {}
    return note


def from_optuna(study: optuna.Study, space: Space | None = None) -> History:
    """Return the finished trials of an Optuna study as a history.

    Trials that lack a name which is active in the space are left out: those that failed before all of their parameters
    were asked for.

    Args:
        study: The Optuna study.
        space: The space that its trials were drawn from; an exported study knows it.

    Returns:
        A history, whose ``space`` and ``objectives`` are the study's.

    Raises:
        StudyError: If the space is not known, or no trial has all of its names.
        ConfigError: If a value is outside its domain.

    Examples:
        >>> import optuna
        >>> from luthier import Float, Space
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=5)
        >>> len(from_optuna(study, Space(x=Float(-5.0, 5.0))))
        5
    """
    trials = [one for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    described = study.user_attrs.get(SPACE)
    if space is None:
        if described is None:
            remedy = "Give it: from_optuna(study, lt.Space(lr=lt.Float(1e-4, 1.0, log=True), …))."
            raise StudyError("it does not say its space", where=f"study {study.study_name!r}", remedy=remedy)
        space = Space.from_json(described)
    modes = ["max" if one == optuna.study.StudyDirection.MAXIMIZE else "min" for one in study.directions]
    names = study.metric_names or (["value"] if len(modes) == 1 else [f"value_{i}" for i in range(len(modes))])
    found = parameters(space, False)
    pairs = [(one, config) for one in trials if (config := _config(one, found, described is None)) is not None]
    if trials and not pairs:
        remedy = (
            f"The names of the space are {', '.join(space.names)}, and those of a trial {', '.join(trials[0].params)}."
        )
        raise StudyError("no trial has all names of the space", where=f"study {study.study_name!r}", remedy=remedy)
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


def _config(trial: FrozenTrial, found: tuple[Parameter, ...], foreign: bool) -> Config | None:
    """The configuration of a trial, of a study that luthier has not written if ``foreign``; None if an active name has
    no value.
    """
    config: Config = {}
    for one in found:
        if one.active(config):
            if one.key not in trial.params:
                return None
            # where luthier draws the place of a value, another program has drawn the value itself
            other = foreign or trial.distributions[one.key] != one.distribution
            one.put(config, trial.params[one.key], other)
    return config
