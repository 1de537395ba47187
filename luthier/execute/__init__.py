"""Executors: where jobs run. They take jobs and give results, in whatever order the jobs end.

May import: train.

An executor judges nothing. Each job that it was given comes back once, in one of two ways:

- a :class:`~luthier.jobs.Result`: the training ended, in whatever way; an exception of the user's code is one too;
- a :class:`~luthier.jobs.Lost`: it did not end, and why. A machine that went away, a disk in trouble and a process that
  died under a job are no results. The study's loop decides what comes of the job: it runs again at once, after a pause,
  or alone after the others; after its third process it has failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from luthier.execute.local import Local
from luthier.lazy import lazy
from luthier.train import Work, chunks, run
from luthier.train.halt import guard

if TYPE_CHECKING:
    from luthier.execute.group import Group
    from luthier.execute.ray import Ray
    from luthier.jobs import Job, Lost, Result
    from luthier.train import Ask

__all__ = ["Executor", "Group", "Local", "Ray", "Work", "chunks", "guard", "run"]

# an optional package that takes half a second to import, among others
__getattr__, __dir__ = lazy(__name__, {"Ray": "ray", "Group": "group"})


@runtime_checkable
class Executor(Protocol):
    """Runs jobs. One study at a time: ``start``, then ``submit`` and ``collect`` in any order, then ``close``.

    Examples:
        >>> isinstance(Local(workers=2), Executor)
        True
    """

    @property
    def capacity(self) -> int:
        """Jobs that may be running or queued at once; valid after :meth:`start`. It may change; 0 is "wait"."""
        ...

    def start(self, work: Work, on_reports: Ask) -> None:
        """Take a study's work.

        Args:
            work: Task to train, and its settings.
            on_reports: Called inside :meth:`collect` with reports, and states saved on the way, as they arrive; the
                numbers it returns are asked to stop (``"pruned"``).
        """
        ...

    def submit(self, jobs: list[Job], parents: Mapping[int, Result], partials: Mapping[int, str] | None = None) -> None:
        """Queue jobs. Those of one call may share a worker; those of two do not.

        Args:
            jobs: The jobs.
            parents: The results of the jobs that these continue from (their checkpoints), by number; their seconds
                are those of the whole lineage.
            partials: States that earlier attempts at these jobs have left, by number.
        """
        ...

    def collect(self, timeout: float | None) -> list[Result | Lost]:
        """Return the results that have come back; block until there is at least one, or until the timeout.

        Args:
            timeout: Seconds to wait; None waits without limit. Ignored where jobs run in this process.

        Returns:
            Results and lost jobs; nothing after the timeout, and at once where no job is left.
        """
        ...

    def give_back(self, seconds: float) -> list[Result | Lost]:
        """Stop all running jobs, at their next report or wherever they are, and hand back every job held here.

        Args:
            seconds: Time that running jobs get to save their state; then their workers are terminated.

        Returns:
            Results of the jobs that had ended by themselves, and the rest as lost, ``"asked"``.
        """
        ...

    def close(self, wait: bool = True) -> None:
        """End the workers, whatever they do; may be called twice.

        Args:
            wait: Let workers end by themselves where they do so soon, instead of killing them at once.
        """
        ...
