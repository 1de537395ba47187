"""Followers of a study that is in a store already, finished or still running in other processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from luthier.jobs import Note


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
