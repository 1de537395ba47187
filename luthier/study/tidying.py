"""Removing the checkpoints of a study of which it is certain that nobody will need them."""

from __future__ import annotations

import time
from collections.abc import Callable

from luthier.jobs import Event, History, Result
from luthier.store import StudyStore
from luthier.trials import best_jobs

GRACE = 2.0  # seconds for which any checkpoint is spared: results of the same stack may be on their way
SPARE = 30.0  # seconds for which a checkpoint that is no longer needed is spared while others work on the study
JANITOR = 60.0  # seconds of the lease on removing, which one owner has

Files = dict[str, set[int]]  # checkpoint: jobs whose state it holds


class Tidying:
    """Removal of the checkpoints that a study no longer needs, as seen by one owner.

    Only files that results name are removed, once nothing can continue them, by the one owner that has the lease on it,
    and from a history that is up to date: what nobody has named yet is never touched.

    Args:
        study: The study in its store.
        history: Its history.
        parents: The jobs that a later one may still continue from; None if none does.
    """

    def __init__(self, study: StudyStore, history: History, parents: Callable[[History], set[int]] | None) -> None:
        self._study, self._history, self._parents = study, history, parents
        self._condemned: dict[str, float] = {}
        self._removed: set[str] = set()

    def run(self, alone: bool, grace: float | None = None) -> None:
        """Remove what has not been needed for a while.

        Args:
            alone: True if nobody else works on the study.
            grace: Seconds for which a file that is no longer needed is spared.
        """
        if grace == 0.0:
            self._remove_strays()
        history, now = self._history, time.monotonic()
        keep = set(best_jobs(history)) | (set() if self._parents is None else set(self._parents(history)))
        running = (*history.pending.values(), *(history.jobs[number] for number in history.reopened))
        keep |= {job.parent for job in running if job.parent is not None}
        for file, numbers in history.fold("checkpoints", dict, _named).items():
            if numbers & keep:
                self._condemned.pop(file, None)
            elif file not in self._removed:
                self._condemned.setdefault(file, now)
        spare = grace if grace is not None else GRACE if alone else SPARE
        gone = [file for file, since in self._condemned.items() if now - since >= spare]
        if gone and self._study.janitor(JANITOR):
            self._study.checkpoints.remove(gone)
            self._removed.update(gone)
            for file in gone:
                del self._condemned[file]

    def _remove_strays(self) -> None:
        """Remove what owners that are gone have written and never named."""
        strays = self._study.strays()
        if not strays:
            return
        self._study.sync(self._history)  # whatever they had recorded before they were gone is known now
        named = self._history.fold("checkpoints", dict, _named)
        strays = [file for file in strays if file not in named]
        if strays and self._study.janitor(JANITOR):
            self._study.checkpoints.remove(strays)


def _named(files: Files, event: Event) -> Files:
    if isinstance(event, Result) and event.checkpoint is not None:
        files.setdefault(event.checkpoint[0], set()).add(event.number)
    return files
