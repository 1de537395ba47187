"""Storage of studies: every job, report and result, written in whole transactions, with checkpoints beside them.

May import: jobs.

:func:`open_store` chooses by URL: memory, an SQLite file, PostgreSQL. All keep the same contract
(:class:`luthier.testing.stores.StoreContract` checks it):

- A study is a sequence of events (jobs, reports, results, notes) in one order for everybody. A
  :class:`~luthier.jobs.History` that is filled by :meth:`StudyStore.sync` alone shows a prefix of that sequence.
- A job that has not ended is held by one owner under a lease, or by nobody. When the lease ends, or the owner's process
  is found dead on this machine, another may claim it. Each begin is an attempt, and is counted unless it is given back.
- The first result of a job that has not ended counts, whoever brings it; no other does.
- What a method has returned for is stored: it survives a SIGKILL of the process. While the database is away, it is
  tried again; nothing is done twice by that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from luthier.errors import StoreError
from luthier.jobs import Event, History, Job, Note, Report, Result

if TYPE_CHECKING:
    from luthier.store.checkpoints import Checkpoints

LEASE = 60.0
OUTAGE = 600.0

Propose = Callable[[int, int], Sequence[Job]]
"""Makes at most so many new jobs (second argument), numbered from the first argument on."""


class Exchanged(NamedTuple):
    """Outcome of :meth:`StudyStore.exchange`.

    Args:
        accepted: The numbers of the results that count.
        jobs: Jobs for this owner, which it now holds.
        busy: True if others were proposing, so that more jobs may come.
        synced: True if the given history is up to date.
    """

    accepted: list[int]
    jobs: list[Job]
    busy: bool = False
    synced: bool = False


@dataclass(frozen=True)
class StudySummary:
    """One line about a study, kept up to date by the store so that listing reads no trial.

    Args:
        name: The study's name.
        jobs: Jobs that were asked for.
        done: Jobs that have ended, however they did.
        objective: The first objective in the settings, or None.
        best: The job with the best first objective among those that ended "ok", or None.
        best_value: Its value, in the user's own units and direction.
        created: Time at which the study was created, seconds since 1970.
        updated: Time at which it was last written to, seconds since 1970.
        damaged: Reason why the study cannot be read, or "" if it can.
    """

    name: str
    jobs: int
    done: int
    objective: str | None
    best: int | None
    best_value: float | None
    created: float
    updated: float
    damaged: str = ""


class StudyStore(Protocol):
    """One study as one owner (a driver process) sees it. Safe to call from several threads."""

    @property
    def checkpoints(self) -> Checkpoints:
        """The study's folder of checkpoints, to be written to by this owner."""
        ...

    @property
    def attempts(self) -> Mapping[int, int]:
        """The jobs that this owner holds, and the number of the attempt: 1 for the first."""
        ...

    @property
    def partials(self) -> Mapping[int, str | None]:
        """The checkpoint from which each job that this owner holds can go on, or None."""
        ...

    def append(self, jobs: Sequence[Job], history: History) -> bool:
        """Add jobs numbered from ``len(history)`` on, held by this owner.

        The history is not changed: the next :meth:`sync` brings the jobs, like everybody else's.

        Returns:
            False if another owner has used the first number meanwhile: sync, propose again.
        """
        ...

    def record(self, results: Sequence[Result], reports: Sequence[Report] = ()) -> list[int]:
        """Store reports and results, all of them in one transaction; reports come before results.

        Returns:
            The numbers of the results that were accepted: those of jobs that had not ended.
        """
        ...

    def exchange(
        self,
        results: Sequence[Result] = (),
        reports: Sequence[Report] = (),
        *,
        room: int = 0,
        propose: Propose | None = None,
        history: History | None = None,
    ) -> Exchanged:
        """:meth:`record`, and at most ``room`` new jobs in the same transaction where that can be.

        Args:
            results: Same as for :meth:`record`.
            reports: Same as for :meth:`record`.
            room: Jobs that this owner can take.
            propose: Makes new jobs. It is called under the study's lock (and once more where the transaction has to be
                repeated), so it has to be quick; slow methods use :meth:`turn` and :meth:`append`.
            history: A history that only the store fills, brought up to date before ``propose`` is called.
        """
        ...

    def claim(self, count: int) -> list[Job]:
        """Take over up to ``count`` unfinished jobs that nobody works on any more, lowest numbers first.

        These are jobs that were given back, whose owner's lease has ended, or whose owner's process is dead on this
        machine. Those that were lost before come last. One that was lost so thirty times gets a failed result: a driver
        is ended for many reasons that are not its job's.
        """
        ...

    def renew(self) -> None:
        """Extend this owner's lease from now, as all that writes does. A trouble of the database is raised at once."""
        ...

    def release(self, numbers: Sequence[int] | None = None, died: bool = False) -> None:
        """Give back unfinished jobs (all that this owner holds, if None), so that anybody may claim them at once.

        Args:
            numbers: The jobs.
            died: A worker has died under them: the attempt counts, and the third such one is a failed result. Else it
                is as if the attempt had not been.
        """
        ...

    def partial(self, number: int, file: str, steps: int) -> bool:
        """Name a checkpoint from which a job that this owner holds can go on, and remove the one before.

        Where ``steps`` is more than before, the attempts are counted anew.

        Returns:
            False if this owner does not hold the job any more; the file is removed then.
        """
        ...

    def note(self, notes: Sequence[Note]) -> None:
        """Say something of the study; ``"reopened"`` is said by :meth:`reopen`."""
        ...

    def reopen(self, numbers: Sequence[int]) -> list[int]:
        """Let jobs that ended otherwise than "ok" be tried again, from their first attempt on; anybody may claim them.

        Returns:
            The numbers of those that can be.
        """
        ...

    def sync(self, history: History) -> list[Event | Note]:
        """Bring a history that only the store fills up to date; the new events, in the store's order."""
        ...

    def turn(self, seconds: float) -> bool:
        """Try to take, or extend, the lease on proposing: False while another living owner has it."""
        ...

    def end_turn(self) -> None:
        """Give the lease on proposing back, if this owner has it."""
        ...

    def held(self) -> set[int]:
        """The unended jobs that a living owner holds, this one among them."""
        ...

    def strays(self) -> list[str]:
        """Checkpoints of owners that are certainly gone, so that nobody will name them any more, but not those from
        which an unfinished job can go on. Which of them results name, a history tells that is synced after this.
        """
        ...

    def janitor(self, seconds: float) -> bool:
        """Try to take, or extend, the lease on removing checkpoints: False while another owner has it."""
        ...


class Store(Protocol):
    """A place with any number of studies. Also a context manager that closes at its end."""

    @property
    def url(self) -> str:
        """Full form of the URL given to :func:`open_store`. It may hold a password: do not print it."""
        ...

    @property
    def outage(self) -> float:
        """Seconds for which a database that is away and a disk that is full are waited for."""
        ...

    @property
    def away(self) -> str | None:
        """Description of the problem while the database is unreachable, and None while it is reachable."""
        ...

    def when_away(self, tell: Callable[[str | None], None] | None) -> None:
        """Have ``tell`` called with what :attr:`away` says: whenever a try has failed, and when one succeeds again."""
        ...

    def create(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Create a study, or leave the one of that name as it is.

        Args:
            name: Any text that is not empty.
            settings: JSON (NaN and infinity allowed). If it has ``"objectives"``, a mapping of names to "min" or
                "max", the store keeps the best job by the first of them for :meth:`studies`.

        Returns:
            The settings that are stored now: the caller compares.
        """
        ...

    def settings(self, name: str) -> dict[str, Any]:
        """The settings of a study.

        Raises:
            StoreError: If there is no study of that name.
        """
        ...

    def update_settings(self, name: str, settings: Mapping[str, Any]) -> None:
        """Replace the settings of a study."""
        ...

    def studies(self) -> list[StudySummary]:
        """All studies, in the order in which they were created."""
        ...

    def delete(self, name: str) -> None:
        """Remove a study with everything in it, its checkpoints too. Whoever still works on it gets a StoreError."""
        ...

    def attach(self, name: str, owner: str | None) -> StudyStore:
        """Work on a study. Each call makes a new owner, whatever its label: what another owner holds is not shared.

        Args:
            name: A study that exists.
            owner: A label for people to read, such as ``"driver"``; None only to read: nothing is written, and only
                :meth:`StudyStore.sync` and ``checkpoints`` may be used.
        """
        ...

    def close(self) -> None:
        """Give back what this process holds and let go of files and connections. May be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_store(
    url: str | Path | None = None,
    *,
    lease: float = LEASE,
    checkpoints: str | Path | None = None,
    read_only: bool = False,
    outage: float = OUTAGE,
) -> Store:
    """Open a store, creating it where there is none.

    Args:
        url: None or ``":memory:"`` for memory; a path or ``sqlite:///path`` for an SQLite file (its folder is created;
            ``?synchronous=full`` survives power loss too, at the price of a slower commit, ``?timeout=60`` is how long
            to wait for another writer, seconds); ``postgresql://user:password@host/database`` for PostgreSQL.
        lease: Seconds after which an owner that has not renewed loses its jobs to whoever claims them.
        checkpoints: Folder or fsspec URL under which each study gets a folder. Without it: the one that was given when
            the database was made; else beside an SQLite file (``fashion.db`` has ``fashion.db.checkpoints/``); for
            PostgreSQL a folder of the database's own in ``$LUTHIER_CHECKPOINTS``, else in
            ``~/.local/share/luthier/checkpoints/`` (several machines need a folder that they share), which the
            database keeps; for memory a temporary folder that goes with the store.
        read_only: Only look at what is there: neither the right to write nor a place to write to is needed, and
            nothing is made.
        outage: Seconds for which everything is tried again while the database is away or locked, or a disk is full.

    Raises:
        StoreError: If the URL is of no known kind, or the database cannot be opened or is not luthier's.

    Examples:
        >>> with open_store() as store:
        ...     store.create("study", {"objectives": {"loss": "min"}})
        {'objectives': {'loss': 'min'}}
    """
    if not isinstance(url, str | PathLike | None):
        remedy = 'Give "mine.db", "postgresql://…", or what lt.open_store returned.'
        raise StoreError(f"store must be a path, a URL or a store, got {url!r}", where="store", remedy=remedy)
    text = None if url is None else str(url)
    if text in (None, ":memory:", "memory://", "sqlite://", "sqlite:///:memory:"):
        from luthier.store.memory import Memory

        return Memory(lease=lease, checkpoints=checkpoints)
    from luthier.store.sql import SQL  # SQLAlchemy takes a quarter of a second to import

    given = url if isinstance(url, Path) else text
    return SQL(given, lease=lease, checkpoints=checkpoints, read_only=read_only, outage=outage)
