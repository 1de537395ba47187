"""The log of a study in a database, and transactions on it that happen once.

Each transaction of an owner passes a *gate*: one statement that renews the lease and counts the owner's transactions.
Where the count says that this one is in already (its commit's answer was lost), it is not done again. So any
transaction may be repeated, and is, while the database is away.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from luthier.errors import StoreError, StudyError
from luthier.jobs import Event, History, Note, Report, Result
from luthier.store import encoding, rows
from luthier.store import statements as sql
from luthier.store.connect import Database
from luthier.store.counts import Leader, not_filled_by_sync
from luthier.store.liveness import this_process
from luthier.store.rows import Packed
from luthier.store.session import Session

Value = TypeVar("Value")


class Nothing(Exception):  # noqa: N818
    """Nothing is to be written: the transaction is undone, which costs no flush, and has this value."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Done(Exception):  # noqa: N818
    """An earlier try of this transaction was committed."""


class _NoOwner(Exception):  # noqa: N818
    """The owner's row is gone."""


class Read(NamedTuple):
    """A row of the log as it is read: its place, its time, its events."""

    seq: int
    at: float
    events: Sequence[Event | Note]


@dataclass
class Counts:
    """The study's row while it is locked, counted on in memory."""

    base: int  # rows of the log that had their places before
    events: int
    jobs: int
    done: int
    best: Leader
    turn_owner: int | None
    turn_until: float | None
    now: float
    changed: bool = False
    new: list[Read] = field(default_factory=list)  # rows that this transaction has put into order


@dataclass
class Transaction:
    """State of a running transaction."""

    session: Session
    now: float | None = None  # the database's clock, once the gate is passed

    @property
    def gated(self) -> bool:
        return self.now is not None


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Inside, no search for garbage: while many events are made, all of which stay, it takes half of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


class EventLog:
    """A study's log in the hand of one owner.

    Args:
        database: The database that holds it.
        name: The study.
        study: Its id.
        label: The owner, for people; None for a reader, who writes nothing.
        lease: Seconds of its lease.
        best: Tracker of the study's best job.
    """

    def __init__(
        self, database: Database, name: str, study: int, label: str | None, lease: float, best: Leader
    ) -> None:
        self.database, self.name, self.label, self.lease, self.best = database, name, label, lease, best
        self.study = {"b_study": study}
        self._own: list[Read] = []  # what this owner wrote last, without gaps, to be read by nobody but it
        self.enter()

    def enter(self) -> None:
        """Become a new owner: at first, after a fork, and where the owner's row is gone."""
        self.process = os.getpid()
        self.batch, self._unsure = 0, False
        self.given = self.given_seen = 0  # how often others have put jobs aside: now, and at the last look
        self._positions: dict[int, int] = {}  # job: its reports with long vectors so far
        self.id, self.owner = -1, self.study | {"b_owner": -1}
        if self.label is None:
            return
        process = this_process()
        values = self.study | {
            "b_label": self.label,
            "b_host": process.host,
            "b_pid": process.pid,
            "b_started": process.started,
            "b_lease": self.lease,
        }

        def add(tries: int) -> int:  # where an answer was lost there is an owner more, who holds nothing
            with self.database.write() as session:
                session.run(sql.forget_owners, self.study)
                return session.all(sql.add_owner, values)[0].id

        self.id = self.database.again(add)
        self.owner = self.study | {"b_owner": self.id}

    def once(
        self,
        body: Callable[[Transaction], Value],
        recover: Callable[[Session], Value],
        again: Callable[[], None] | None = None,
    ) -> Value:
        """``body`` in one transaction that is committed once, however often it has to be tried.

        Args:
            body: Function to run. It passes the gate before it writes, or raises Nothing.
            recover: Finds the value where an earlier try turns out to be in.
            again: Called before each further try.
        """
        if os.getpid() != self.process:
            self.enter()
        if self._unsure:  # the last transaction was given up, and its answer may have been lost
            try:
                self.batch, self._unsure = self.database.again(lambda tries: self._last_batch()), False
            except _NoOwner:
                self.enter()
        self.batch += 1

        def one(tries: int) -> Value:
            if tries:
                self._own = []
                self._positions.clear()
                if again is not None:
                    again()
            try:
                with self.database.write() as session:
                    return body(Transaction(session))
            except _Done:
                with self.database.read() as session:
                    return recover(session)
            except Nothing as nothing:
                if (
                    tries and self._last_batch() == self.batch
                ):  # an earlier try is in: that is why there is nothing to do
                    with self.database.read() as session:
                        return recover(session)
                self.batch -= 1
                return nothing.value
            except _NoOwner:  # forgotten after a day of silence
                self.enter()
                self.batch = 1
                return one(tries)

        try:
            return self.database.again(one)
        except BaseException:
            self._own, self._unsure = [], True
            raise

    def gate(self, tx: Transaction, lease: float | None = None) -> None:
        """Pass the gate of this transaction, once; before any other of its writes."""
        if tx.gated:
            return
        values = {"b_lease": self.lease if lease is None else lease, "b_batch": self.batch}
        row = tx.session.first(sql.gate, {"b_owner": self.id} | values)
        if row is None:
            if self._last_batch(tx.session) != self.batch:
                raise StoreError(
                    "two processes write in the name of one owner",
                    where=self.where(),
                    remedy="A store is not shared by copying its object: open it in each process.",
                )
            raise _Done
        tx.now, self.given = row.now, row.given

    def news(self) -> bool:
        """Return True if others have put jobs aside for this owner since the last call."""
        before, self.given_seen = self.given_seen, self.given
        return before != self.given

    def _last_batch(self, session: Session | None = None) -> int:
        if session is None:
            with self.database.read() as opened:
                return self._last_batch(opened)
        row = session.first(sql.last_batch, {"b_owner": self.id})
        if row is None:
            raise _NoOwner if session.first(sql.count_events, self.study) is not None else self.gone()
        return row.batch

    # -- the study's row ----------------------------------------------------------------------------------------------

    def lock(self, session: Session, wait: bool = True) -> Counts | None:
        """Lock the study's row; None if another holds it, and it is not waited for."""
        row = session.first(sql.lock_study if wait else sql.lock_study_if_free, self.study)
        if row is None:
            if wait or self.database.sqlite:
                raise self.gone()
            return None  # or the study is being deleted: the owner's row, which this transaction holds, is still there
        best = replace(self.best, number=row.best, value=row.best_value)
        return Counts(row.events, row.events, row.jobs, row.done, best, row.turn_owner, row.turn_until, row.now)

    def locked(self, session: Session) -> Counts:
        """The study's row, waited for."""
        counts = self.lock(session)
        assert counts is not None
        return counts

    def set(self, session: Session, counts: Counts) -> None:
        """Write the study's row back, where it has changed."""
        if counts.changed:
            values = {"b_events": counts.events, "b_jobs": counts.jobs, "b_done": counts.done, "b_now": counts.now}
            best = {"b_best": counts.best.number, "b_best_value": counts.best.value}
            session.run(sql.set_study, self.study | values | best)

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(self, tx: Transaction, made: Sequence[tuple[Packed, int]], counts: Counts | None) -> list[int]:
        """Add rows to the log, each with the number of its attempt; their places, where the study's row is held.

        In SQLite it always is. Without it the rows wait for whoever orders them.
        """
        values: list[dict[str, Any]] = []
        for row, attempt in made:
            seq = None
            kept = self._thinned(tx, row) if row.long else row
            if counts is not None:
                counts.events += 1
                counts.changed = True
                seq = counts.events
                assert tx.now is not None
                counts.new.append(Read(seq, tx.now, kept.events))
                for event in kept.events:
                    self._count(counts, event)
            values.append(
                self.owner
                | {"b_seq": seq, "b_kind": row.kind, "b_number": row.number, "b_attempt": attempt, "b_now": tx.now}
                | {"b_body": row.body, "b_vectors": kept.vectors}
                | {"b_position": self._positions[row.number] - 1 if kept.long and row.number is not None else None}
            )
        tx.session.run_all(sql.add_events, values)
        return [row["b_seq"] for row in values]

    def _count(self, counts: Counts, event: Event | Note) -> None:
        if isinstance(event, Result):
            counts.done += 1
            counts.best.see(event)

    def _thinned(self, tx: Transaction, row: Packed) -> Packed:
        """A report with long vectors as it is kept: with them, or without; older ones may lose theirs."""
        number, report = row.number, row.events[0]
        assert number is not None and isinstance(report, Report)
        if number not in self._positions:  # an earlier owner may have kept some
            last = tx.session.all(sql.next_position, self.study | {"b_number": number})[0].last
            self._positions[number] = 0 if last is None else last + encoding.stride(last + 1)
        position = self._positions[number]
        self._positions[number] += 1
        stride = encoding.stride(position + 1)
        if stride != encoding.stride(position):
            tx.session.run(sql.thin_reports, self.study | {"b_number": number, "b_stride": stride})
        return row._replace(vectors=None, events=[encoding.thinned(report)], long=False) if position % stride else row

    def forget(self, number: int) -> None:
        """Let go of what is kept for a job that has ended."""
        self._positions.pop(number, None)

    # -- reading ------------------------------------------------------------------------------------------------------

    def stamp(self, session: Session, counts: Counts) -> None:
        """Give the rows that have no place yet their places, under the study's row."""
        if self.database.sqlite:
            return
        found = session.all(sql.stamp_events, self.study | {"b_base": counts.events})
        for row in sorted(found, key=lambda row: row.seq):
            read = self.read_row(row)
            counts.events, counts.changed = row.seq, True
            counts.new.append(read)
            for event in read.events:
                self._count(counts, event)

    def read(self, session: Session, first: int, last: int) -> list[Read]:
        """The rows after place ``first`` up to ``last``."""
        if self._own and self._own[0].seq <= first + 1 and self._own[-1].seq == last:
            return self._own[first + 1 - self._own[0].seq :]
        with _collector_off():
            found = session.all(sql.new_events, self.study | {"b_from": first, "b_to": last})
            return [self.read_row(row) for row in found]

    def fresh(self, session: Session, counts: Counts, history: History) -> list[Read]:
        """The rows that a history lacks, under the study's row."""
        place = history.cursor[0]
        older = self.read(session, place, counts.base) if place < counts.base else []
        return [*older, *(read for read in counts.new if read.seq > place)]

    def read_row(self, row: Any) -> Read:
        """A row with its events."""
        events = rows.read(rows.unpacked, row, self.where("luthier_events"))
        at = row.at if isinstance(row.at, int | float) else math.nan  # NULL before schema 2
        return Read(row.seq, at, events)

    def wrote(self, counts: Counts) -> None:
        """Keep what a transaction has put into order, until the next sync."""
        if self._own and counts.new and counts.new[0].seq != self._own[-1].seq + 1:
            self._own = []
        self._own += counts.new

    def advance(self, history: History, new: Iterable[Read], last: int) -> list[Event | Note]:
        """Add rows to a history, and return what was added."""
        place, events = history.cursor
        if len(history.log) != events:
            raise not_filled_by_sync(place + 1, last, self.where())
        added: list[Event | Note] = []
        for read in new:
            if read.seq != place + 1:
                break
            place = read.seq
            added += self.add_events(history, read)
        history.cursor = (place, len(history.log))
        if place != last:
            raise not_filled_by_sync(place + 1, last, self.where())
        return added

    def add_events(self, history: History, read: Read) -> list[Event | Note]:
        """Add the events of a row to a history, without those that came too late, and return what was added."""
        pending, reopened, jobs = history.pending, history.reopened, len(history)
        added = [
            event
            for event in read.events
            if not isinstance(event, Report)
            or event.number in pending
            or event.number in reopened
            or not 0 <= event.number < jobs  # else it comes after its job's result, from one who did not know
        ]
        try:
            if added and isinstance(added[0], Report):  # a row has one kind of events
                history.add_reports(added, read.at)  # type: ignore[arg-type]
            else:
                for event in added:
                    history.add(event, read.at)
        except StudyError as error:
            remedy = "Rows were changed by hand or by another program: restore a backup, or delete the study."
            raise StoreError(str(error), where=self.where(), remedy=remedy) from error
        return added

    def clear_own(self) -> None:
        """Forget what was kept for the next sync."""
        self._own = []

    # -- beside it ----------------------------------------------------------------------------------------------------

    def where(self, table: str = "") -> str:
        """The study, and a table, as messages name them."""
        return f"{self.database.where}, {f'table {table}, ' if table else ''}study {self.name!r}"

    def gone(self) -> StoreError:
        """The error for a study that was deleted."""
        return StoreError("the study was deleted", where=self.where(), remedy="Create it again to go on.")
