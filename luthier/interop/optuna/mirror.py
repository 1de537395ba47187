"""A study's history as Optuna's samplers see it: a storage in memory whose last trials can be forgotten."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Any

from luthier.interop.optuna.library import optuna

FrozenTrial = optuna.trial.FrozenTrial
TrialState = optuna.trial.TrialState

_NEVER = datetime(2000, 1, 1)  # no sampler looks at the time; the same in every run


class Mirror(optuna.storages.BaseStorage):
    """The storage of one Optuna study.

    Its trials are those that have ended, in order of arrival, which stay; and after them those that are running or were
    only just asked for, which :meth:`forget` takes away together with what a sampler has noted since. Optuna's own
    storages can take nothing back, and a trial that was asked for and never run would change all later proposals.
    """

    def __init__(self) -> None:
        self.ended: list[FrozenTrial] = []
        self.running: list[FrozenTrial] = []
        self.attributes: dict[str, Any] = {}  # what samplers have noted of the study, in jobs that exist
        self.noted: dict[str, Any] = {}  # these and what was noted since
        self._directions: list[optuna.study.StudyDirection] = []

    def end(self, trial: FrozenTrial) -> None:
        """Add a trial that has ended; there must be no running ones."""
        assert not self.running, "a trial that ended comes before those that run"
        self.ended.append(self._numbered(trial))

    def run(self, trial: FrozenTrial) -> None:
        """Add a running trial, until the next :meth:`forget`."""
        self.running.append(self._numbered(trial))

    def replace_last(self, trial: FrozenTrial) -> None:
        """Put ``trial`` in the place of the running trial that came last."""
        self.running.pop()
        self.run(trial)

    def keep(self, noted: Mapping[str, Any]) -> None:
        """Keep what a sampler has noted of the study with a job that now exists."""
        self.attributes = self.noted = {**self.attributes, **noted}

    def forget(self) -> None:
        """Take away all running trials, and what was noted of the study since the last job."""
        self.running.clear()
        self.noted = self.attributes

    def _numbered(self, trial: FrozenTrial) -> FrozenTrial:
        trial.number = trial._trial_id = len(self.ended) + len(self.running)
        return trial

    def _change(self, trial_id: int, **changes: Any) -> None:
        place = trial_id - len(self.ended)
        self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)
        changed = copy.copy(self.running[place])  # lists that were given out before keep the old one
        for name, value in changes.items():
            setattr(changed, name, value)
        self.running[place] = changed

    # -- what Optuna asks of a storage ------------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[optuna.study.StudyDirection], study_name: str | None = None) -> int:
        self._directions = list(directions)
        return 0

    def delete_study(self, study_id: int) -> None:
        self.ended.clear()
        self.attributes = {}
        self.forget()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.set_study_system_attr(study_id, f"user:{key}", value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.noted = {**self.noted, key: value}

    def get_study_id_from_name(self, study_name: str) -> int:
        return 0

    def get_study_name_from_id(self, study_id: int) -> str:
        return "luthier"

    def get_study_directions(self, study_id: int) -> list[optuna.study.StudyDirection]:
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return {key[5:]: value for key, value in self.noted.items() if key.startswith("user:")}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.noted

    def get_all_studies(self) -> list[Any]:
        return []  # the mirror is no study of the user's, to be listed

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self.run(copy.copy(template_trial) if template_trial is not None else frozen(TrialState.RUNNING, {}, {}))
        return self.running[-1]._trial_id

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: Any) -> None:
        trial = self.get_trial(trial_id)
        value = distribution.to_external_repr(param_value_internal)
        self._change(
            trial_id,
            params={**trial.params, param_name: value},
            distributions={**trial.distributions, param_name: distribution},
        )

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self._change(trial_id, state=state, **({} if values is None else {"values": values}))
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        steps = self.get_trial(trial_id).intermediate_values
        self._change(trial_id, intermediate_values={**steps, step: intermediate_value})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._change(trial_id, user_attrs={**self.get_trial(trial_id).user_attrs, key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._change(trial_id, system_attrs={**self.get_trial(trial_id).system_attrs, key: value})

    def get_trial(self, trial_id: int) -> FrozenTrial:
        place = trial_id - len(self.ended)
        return self.ended[trial_id] if place < 0 else self.running[place]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states == (TrialState.WAITING,):
            return []
        trials = [*self.ended, *self.running]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


def frozen(
    state: TrialState,
    params: dict[str, Any],
    distributions: dict[str, Any],
    system_attrs: dict[str, Any] | None = None,
    values: Sequence[float] | None = None,
    intermediate: dict[int, float] | None = None,
) -> FrozenTrial:
    """A trial that no storage has yet."""
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=None,
        values=values,
        datetime_start=_NEVER,
        datetime_complete=_NEVER if state.is_finished() else None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs=system_attrs or {},
        intermediate_values=intermediate or {},
    )
