"""Executors: where jobs run. They take jobs and give results, in whatever order the jobs end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from luthier.execute.local import Local
from luthier.lazy import lazy

if TYPE_CHECKING:
    from luthier.execute.group import Group
    from luthier.execute.ray import Ray
    from luthier.jobs import Job, Report, Result
    from luthier.train import Work

__all__ = ["Executor", "Group", "Local", "Ray"]

# an optional package that takes half a second to import, among others
__getattr__ = lazy(__name__, {"Ray": "ray", "Group": "group"})


@runtime_checkable
class Executor(Protocol):
    """Runs jobs. One study at a time: ``start``, then ``submit`` and ``collect`` in any order, then ``close``."""

    @property
    def capacity(self) -> int:
        """Jobs that may be running or queued at once; valid after :meth:`start`."""
        ...

    def start(self, work: Work, on_reports: Callable[[list[Report]], set[int]]) -> None:
        """Take a study's work.

        Args:
            work: What is trained and how.
            on_reports: Called inside :meth:`collect` with reports as they arrive; the numbers it returns are asked
                to stop (``"pruned"``).
        """
        ...

    def submit(self, jobs: list[Job], parents: Mapping[int, Result]) -> None:
        """Queue jobs.

        Args:
            jobs: The jobs.
            parents: The results of the jobs that these continue from (their checkpoints), by number.
        """
        ...

    def collect(self, timeout: float | None) -> list[Result]:
        """Results that have come; blocks until there is at least one, or until the timeout.

        Args:
            timeout: Seconds to wait; None waits without limit. Where jobs run in this process it is not looked at.

        Returns:
            The results; empty after the timeout, and at once where no job is left.
        """
        ...

    def close(self, wait: bool = True) -> None:
        """End the workers, whatever they do; may be called twice.

        Args:
            wait: Let workers end by themselves where they do so soon, instead of killing them at once.
        """
        ...
