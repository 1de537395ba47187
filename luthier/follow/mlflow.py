"""MLflow: a study is a run, and each of its trials a run below it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from luthier.follow.background import Background
from luthier.follow.log import Log, LoggedTrial
from luthier.lazy import optional_import
from luthier.text import plain, without_secrets

BATCH = 1000  # numbers that MLflow takes at once
STATUS = {"ok": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "diverged": "FAILED"}


def mlflow(uri: str | None = None, experiment: str | None = None) -> Background:
    """A follower that writes a study to MLflow: a run for the study, and below it one run per trial.

    Numbers go over in one batch at the end of each job, for a single one takes 30 ms and more. It works on a thread.
    Drivers on one machine write each number once. Of drivers on several machines give it to one, or write the study
    afterwards: ``luthier follow STUDY --to mlflow``.

    Args:
        uri: Address of the tracking server or folder; ``MLFLOW_TRACKING_URI`` by default, else a file ``mlflow.db``
            here (such a file needs the packages sqlalchemy and alembic, which mlflow-skinny leaves out).
        experiment: Its name in MLflow; by default the study's.

    Raises:
        StudyError: If mlflow (or mlflow-skinny) is not installed.

    Examples:
        >>> import luthier as lt
        >>> lt.follow.MLflow("http://me:secret@tracking:5000")
        MLflow('http://me:***@tracking:5000')
    """
    return Background(_MLflow(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db", experiment))


@final
class _MLflow(Log):
    def __init__(self, uri: str, experiment: str | None) -> None:
        mark = hashlib.blake2b(f"{uri} {experiment}".encode(), digest_size=8).hexdigest()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        super().__init__(cache / "luthier" / "follow" / mark)
        with optional_import("mlflow", "MLflow"):
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        self._uri, self._experiment, self._kind, self._param = uri, experiment, Metric, Param
        self._make_client: Any = MlflowClient
        self._client: Any = None
        self._runs: dict[str, str] = {}  # a trial's number as text: its run
        self._parent = self._place_id = ""
        self._waiting: dict[int, list[Any]] = {}

    def __repr__(self) -> str:
        return f"MLflow({without_secrets(self._uri)!r})"

    def open(self, state: Mapping[str, Any]) -> None:
        self._client = client = self._make_client(self._uri)
        if state:
            self._place_id, self._parent, self._runs = state["experiment"], state["parent"], dict(state["runs"])
            self._waiting = {
                int(number): [self._kind(*one) for one in waiting] for number, waiting in state["waiting"].items()
            }
            return
        name = self._experiment or self.study
        found = client.get_experiment_by_name(name)
        self._place_id = found.experiment_id if found else client.create_experiment(name)
        self._parent = client.create_run(self._place_id, run_name=self.study).info.run_id

    def begin(self, trial: LoggedTrial, at: float) -> None:
        if str(trial.number) in self._runs:
            self._client.update_run(self._runs[str(trial.number)], status="RUNNING")
            return
        tags = {"mlflow.parentRunId": self._parent, "luthier.study": self.study, "luthier.trial": str(trial.number)}
        run = self._client.create_run(
            self._place_id, start_time=round(at * 1000), tags=tags, run_name=f"trial {trial.number}"
        )
        self._runs[str(trial.number)] = run.info.run_id
        params = [self._param(_name(name), plain(value)[:6000]) for name, value in trial.config.items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(run.info.run_id, params=params[first : first + 100])

    def point(self, trial: LoggedTrial, step: int, values: Mapping[str, float], at: float) -> None:
        made = [self._kind(_name(name), value, round(at * 1000), step) for name, value in values.items()]
        self._waiting.setdefault(trial.number, []).extend(made)
        if len(self._waiting[trial.number]) >= BATCH:
            self._send(trial.number)

    def end(self, trial: LoggedTrial, at: float) -> None:
        self._send(trial.number)
        run = self._runs[str(trial.number)]
        if trial.error:
            self._client.set_tag(run, "luthier.error", plain(trial.error)[:5000])
        self._client.set_terminated(run, STATUS[trial.status], end_time=round(at * 1000))

    def flush(self) -> Mapping[str, Any]:
        if self._client is None:
            return {}
        waiting = {
            number: [(one.key, one.value, one.timestamp, one.step) for one in made]
            for number, made in self._waiting.items()
        }
        return {"experiment": self._place_id, "parent": self._parent, "runs": self._runs, "waiting": waiting}

    def close(self) -> None:
        if self._client is not None:
            self._client.set_terminated(self._parent)
            self._client = None

    def _send(self, number: int) -> None:
        made = self._waiting.pop(number, [])
        for first in range(0, len(made), BATCH):
            self._client.log_batch(self._runs[str(number)], metrics=made[first : first + BATCH])


def _name(name: str) -> str:
    """The name as MLflow takes it."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]
