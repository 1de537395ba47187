"""Followers: whatever reads a study while it goes on, such as a tracker, a live page or a user's own callback.

May import: jobs.

A follower is told of every event once, in the one order that the study has for everybody: ``tune(callbacks=[…])``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.jobs import Note
from luthier.lazy import lazy

if TYPE_CHECKING:
    from luthier.follow.lines import lines as CSV
    from luthier.follow.mlflow import mlflow as MLflow
    from luthier.follow.tensorboard import tensorboard as TensorBoard
    from luthier.follow.wandb import wandb as WandB
    from luthier.jobs import Event, History

__all__ = ["CSV", "Follower", "MLflow", "TensorBoard", "WandB", "replay"]

_PLACES = {  # each made of a package of its own
    "CSV": "lines:lines",
    "MLflow": "mlflow:mlflow",
    "TensorBoard": "tensorboard:tensorboard",
    "WandB": "wandb:wandb",
}
__getattr__, __dir__ = lazy(__name__, _PLACES)


class Follower:
    """The base of followers: subclass it and write what is needed; an object with the same methods will do as well.

    A follower that raises is named in a warning, once, and goes on to be called; it never stops the study.

    Examples:
        >>> import luthier as lt
        >>> class Counter(lt.follow.Follower):
        ...     ended = 0
        ...
        ...     def events(self, history, new):
        ...         self.ended += sum(isinstance(event, lt.Result) for event in new)
        >>> counter = Counter()
        >>> space = lt.Space(x=lt.Float(0, 1))
        >>> _ = lt.tune(lambda c: c["x"], space=space, trials=7, callbacks=[counter], progress=False)
        >>> counter.ended
        7
    """

    def started(self, study: Any) -> None:
        """Take the :class:`luthier.Study` before its first job is begun."""

    def events(self, history: History, new: Sequence[Event]) -> None:
        """Take what is new: jobs, reports and results.

        The first call brings all that a stored study holds already, so that what a follower knows depends on the
        events alone.

        Args:
            history: The study as it is now, the new events in it; to be read only.
            new: The events that no earlier call has brought, oldest first.
        """

    def finished(self, study: Any) -> None:
        """Take the study when the call ends, in whatever way: after its last job, at Ctrl-C, or on an error."""


def replay(study: Any, callbacks: Any, every: float | None = None) -> int:
    """Replay a stored study to followers, as ``tune(callbacks=…)`` would have told them of it.

    Args:
        study: A study from :meth:`luthier.Study.load`.
        callbacks: A follower, or several.
        every: Seconds between two looks for what is new, until Ctrl-C; None tells of what is there and ends.

    Returns:
        How many events they were told of.

    Examples:
        >>> import luthier as lt
        >>> store = lt.open_store()
        >>> space = lt.Space(x=lt.Float(0, 1))
        >>> _ = lt.tune(lambda c: c["x"], space=space, trials=5, store=store, name="s", progress=False)
        >>> lt.follow.replay(lt.Study.load("s", store), lt.follow.Follower())  # 5 jobs, 5 results, a note
        11
    """
    followers = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
    for one in followers:
        one.started(study)
    told = 0
    try:
        while True:
            history = study.history
            new = [event for event in history.log[told:] if not isinstance(event, Note)]
            told = len(history.log)
            for one in followers if new else ():
                one.events(history, new)
            if every is None:
                return told
            time.sleep(every)
    except KeyboardInterrupt:
        if every is None:
            raise
        return told
    finally:
        for one in followers:
            one.finished(study)
