"""A thread that renews a lease, so that a training which says nothing for long is not taken over."""

from __future__ import annotations

import threading
import weakref

from luthier.store import StudyStore


class Heartbeat:
    """A thread that renews a lease, so that a training which says nothing for long is not taken over.

    Args:
        study: Whose lease.
        every: Seconds between two renewals.
    """

    def __init__(self, study: StudyStore, every: float) -> None:
        self._ended = threading.Event()
        target = weakref.ref(study)
        weakref.finalize(study, self._ended.set)
        threading.Thread(target=_beat, args=(target, self._ended, every), name="luthier lease", daemon=True).start()

    def stop(self) -> None:
        """End the thread, at its next look."""
        self._ended.set()


def _beat(target: weakref.ref[StudyStore], ended: threading.Event, every: float) -> None:
    while not ended.wait(every):
        study = target()
        if study is None:
            return
        try:
            study.renew()
        except Exception:
            continue  # the next write of the loop meets the same trouble and tells the user
        del study
