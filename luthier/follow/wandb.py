"""Weights & Biases: a group of runs for a study, one per trial."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

from luthier.follow.background import Background
from luthier.follow.log import Log, LoggedTrial
from luthier.lazy import optional_import
from luthier.text import plain


def wandb(
    project: str = "luthier",
    folder: str | Path = ".",
    mode: Literal["online", "offline", "shared", "disabled"] | None = None,
    entity: str | None = None,
) -> Background:
    """A follower that writes a study to Weights & Biases: the study is a group, each trial a run in it.

    A run takes a second to begin and to end, so a trial's numbers go over at the end of each of its jobs, on a thread.
    Drivers that share the folder write each number once.

    Args:
        project: Name of the W&B project.
        folder: Folder in which its files go, below ``wandb/``.
        mode: ``"offline"`` needs no network and no account; by default what ``WANDB_MODE`` says.
        entity: User or team; by default the user's own.

    Raises:
        StudyError: If wandb is not installed.

    Examples:
        >>> import luthier as lt
        >>> lt.follow.WandB("digits", mode="offline")
        WandB('digits')
    """
    return Background(_WandB(project, folder, mode, entity))


@final
class _WandB(Log):
    def __init__(self, project: str, folder: str | Path, mode: Any, entity: str | None) -> None:
        super().__init__(folder)
        with optional_import("wandb", "WandB"):
            import wandb
        self._wandb, self._project, self._mode, self._entity = wandb, project, mode, entity
        self._waiting: dict[str, list[Any]] = {}  # a trial's number as text: [step, values], in order

    def __repr__(self) -> str:
        return f"WandB({self._project!r})"

    def open(self, state: Mapping[str, Any]) -> None:
        self._waiting = dict(state.get("waiting", {}))

    def begin(self, trial: LoggedTrial, at: float) -> None:
        self._waiting.setdefault(str(trial.number), [])

    def point(self, trial: LoggedTrial, step: int, values: Mapping[str, float], at: float) -> None:
        self._waiting.setdefault(str(trial.number), []).append([step, dict(values)])

    def end(self, trial: LoggedTrial, at: float) -> None:
        mark = f"{self.study} {self._identity(self._last[0] if self._last else ())} {trial.number}"
        run = self._wandb.init(
            project=self._project,
            entity=self._entity,
            dir=str(self._place),
            mode=self._mode,
            group=self.study,
            name=f"{self.study} {trial.number}",
            id=hashlib.blake2b(mark.encode(), digest_size=8).hexdigest(),
            resume="allow",
            reinit="create_new",
            config={**trial.config, "trial": trial.number},
            settings=self._wandb.Settings(silent=True, x_disable_stats=True, x_disable_meta=True, console="off"),
        )
        for step, values in self._waiting.pop(str(trial.number), []):
            run.log(values, step=step)
        run.summary["status"] = trial.status
        if trial.error:
            run.summary["error"] = plain(trial.error)[:5000]
        run.finish(exit_code=1 if trial.status == "failed" else 0)

    def flush(self) -> Mapping[str, Any]:
        return {"waiting": self._waiting}
