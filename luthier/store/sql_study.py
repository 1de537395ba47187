"""One study in a database: the queue of unended jobs, and what its owners do with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from luthier.jobs import Event, History, Job, Note, Report, Result
from luthier.store import Exchanged, Propose, encoding, rows
from luthier.store import statements as sql
from luthier.store.checkpoints import Checkpoints, writer_of
from luthier.store.connect import Database
from luthier.store.counts import DEATHS, LOSSES, SUSPECT, Leader, check_jobs, died
from luthier.store.holdings import Holdings
from luthier.store.others import Others
from luthier.store.session import Session
from luthier.store.sql_log import Counts, EventLog, Nothing, Transaction

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
Value = TypeVar("Value")

PAUSE = 2.0  # seconds, times the attempts, before a job is claimed again whose owner was lost a second time
LAST = 2**63 - 1  # place after all others


class _Exchange(NamedTuple):
    """The part of one owner in an exchange: its news and its wishes.

    Args:
        reports: Packed reports.
        results: Packed results, by job.
        room: Jobs that it can take.
        propose: Makes new jobs.
        history: Its history, to be brought up to date.
        known: Jobs that it knows it holds.
    """

    reports: list[rows.Packed]
    results: dict[int, rows.Packed]
    room: int
    propose: Propose | None
    history: History | None
    known: set[int]

    @property
    def writes(self) -> bool:
        return bool(self.reports or self.results)


def _alone(
    method: Callable[Concatenate[SQLStudy, Given], Returned],
) -> Callable[Concatenate[SQLStudy, Given], Returned]:
    """One thread at a time, so that what the database and this object say of the jobs held is never apart."""

    @wraps(method)
    def locked(self: SQLStudy, *given: Given.args, **named: Given.kwargs) -> Returned:
        with self._database.lock:
            return method(self, *given, **named)

    return locked


class SQLStudy:
    """One owner's view of a study in a database; see :class:`luthier.store.StudyStore`."""

    def __init__(
        self,
        database: Database,
        name: str,
        study: int,
        label: str | None,
        lease: float,
        best: Leader,
        checkpoints: Checkpoints,
    ) -> None:
        self._database, self._lease = database, lease
        self._log = EventLog(database, name, study, label, lease, best)
        self._study = self._log.study
        self._hold, self._others = Holdings(), Others(self._log)
        self._provisional = False  # whether a history shows events that have no place in the order yet
        self._wished = 0  # the process whose last exchange has left a wish for jobs behind
        self._behind = False  # whether others had written since the last exchange: there will be more
        self._refused: Exception | None = None  # what a method has raised while it proposed
        self._checkpoints = checkpoints

    @property
    def attempts(self) -> dict[int, int]:
        return self._hold.attempts

    @property
    def partials(self) -> dict[int, str | None]:
        return self._hold.partials

    @property
    def checkpoints(self) -> Checkpoints:
        return self._checkpoints.written_by(self._log.id)

    # -- jobs, results and reports ------------------------------------------------------------------------------------

    @_alone
    def append(self, jobs: Sequence[Job], history: History) -> bool:
        check_jobs(jobs, len(history))
        kept = [encoding.normal(job) for job in jobs]

        def body(tx: Transaction) -> bool:
            counts = self._log.locked(tx.session)
            if counts.jobs != len(history) or not kept:
                raise Nothing(counts.jobs == len(history))
            self._gate(tx)
            self._insert(tx, counts, kept, [self._log.id] * len(kept))
            self._close(tx, counts)
            return True

        numbers = {job.number for job in kept}
        return self._once(body, lambda session: numbers <= {job.number for job in self._adopt(session, set())})

    def record(self, results: Sequence[Result], reports: Sequence[Report] = ()) -> list[int]:
        return self.exchange(results, reports).accepted

    @_alone
    def exchange(
        self,
        results: Sequence[Result] = (),
        reports: Sequence[Report] = (),
        *,
        room: int = 0,
        propose: Propose | None = None,
        history: History | None = None,
    ) -> Exchanged:
        new_reports = rows.packed_reports([encoding.normal(report) for report in reports])
        new_results: dict[int, rows.Packed] = {}
        for result in results:
            new_results.setdefault(result.number, rows.packed(encoding.normal(result)))
        aside = self._hold.take_aside(room)
        room = room - len(aside) if propose is not None else 0
        if not new_reports and not new_results and not room:
            return Exchanged([], aside)
        given = _Exchange(new_reports, new_results, room, propose, history, self._hold.known(aside))
        wished, self._wished = self._wished == os.getpid(), 0
        if wished and not given.writes and (found := self._database.again(lambda tries: self._adopted(given.known))):
            return Exchanged([], aside + found)  # the wish has come true: there is no lock to wait for
        place = 0 if history is None else history.cursor[0]
        if history is not None and self._behind:
            self._read_ahead(history)
        begun = (0, 0) if history is None else (history.cursor[0], len(history.log))

        def recover(session: Session) -> Exchanged:
            mine = session.all(sql.my_results, self._log.owner | self._numbers(new_results)) if new_results else []
            found = {row.number for row in mine}
            return Exchanged([n for n in new_results if n in found], self._adopt(session, given.known))

        def undo() -> None:  # what came to nothing may be ordered otherwise
            nonlocal begun
            if history is not None and begun != (history.cursor[0], len(history.log)):
                history.clear()
                begun = (0, 0)

        done = self._once(lambda tx: self._exchanged(tx, given, place), recover, undo)
        self._ended(new_results)
        if self._refused is not None:  # the method failed: what was to be recorded is, all the same
            error, self._refused = self._refused, None
            raise error
        return done._replace(jobs=aside + done.jobs)

    def _exchanged(self, tx: Transaction, given: _Exchange, place: int) -> Exchanged:
        """Record what an owner brings, and serve it; ``place`` are the rows that its history has read before."""
        accepted: list[int] = []
        if given.writes:
            self._gate(tx)
            counts = self._log.lock(tx.session) if self._database.sqlite else None
            accepted = self._end(tx, given.reports, given.results, counts)
            if counts is None and (given.room or given.history is not None):
                counts = self._log.lock(tx.session, wait=False)
            if counts is None:  # another has the study's row: it, or the next, orders these and serves the wish
                if given.room:
                    tx.session.run(sql.wish, self._log.owner | {"b_wants": given.room})
                    self._wished = os.getpid()
                return Exchanged(accepted, [], given.room > 0)
        else:  # whoever had the row before may have served this owner
            counts = self._log.locked(tx.session)
            if found := [] if self._database.sqlite else self._adopt(tx.session, given.known):
                raise Nothing(Exchanged([], found))
        self._behind = place < counts.base
        jobs, busy = self._serve(tx, counts, given.room, given.propose, given.history)
        done = Exchanged(accepted, jobs, busy, given.history is not None)
        if not tx.gated and not counts.changed:
            raise Nothing(done)  # a history that was only read forward stays as it is
        self._gate(tx)
        if given.history is None:
            self._close(tx, counts)
        else:  # it has read what this transaction writes: nothing is kept for the next sync
            self._log.set(tx.session, counts)
            self._log.clear_own()
        return done

    @_alone
    def note(self, notes: Sequence[Note]) -> None:
        made = [(rows.packed(encoding.normal(note)), 0) for note in notes]

        def body(tx: Transaction) -> None:
            self._gate(tx)
            counts = self._log.locked(tx.session) if self._database.sqlite else None
            self._log.add(tx, made, counts)
            if counts is not None:
                self._close(tx, counts)

        self._once(body, lambda session: None)

    @_alone
    def reopen(self, numbers: Sequence[int]) -> list[int]:
        wanted = self._study | self._numbers(set(numbers))

        def body(tx: Transaction) -> list[int]:
            counts = self._log.locked(tx.session)
            self._gate(tx)
            self._log.stamp(tx.session, counts)
            unended = {row.number for row in tx.session.all(sql.queued_jobs, wanted)}
            places = {row.number: row.event for row in tx.session.all(sql.job_places, wanted)}
            latest: dict[int, Any] = {}
            for row in tx.session.all(sql.results_of, wanted):
                (latest[row.number],) = self._log.read_row(row).events
            found = [n for n in sorted(places) if n not in unended and n in latest and latest[n].status != "ok"]
            self._log.add(tx, [(rows.packed(Note("reopened", {"number": n})), 0) for n in found], counts)
            queued = [{"b_number": n, "b_event": places[n], "b_owner": None, "b_attempts": 0} for n in found]
            tx.session.run_all(sql.put_jobs, [self._study | row | {"b_now": tx.now} for row in queued])
            counts.done -= len(found)
            self._close(tx, counts)
            return found

        return self._once(body, lambda session: [row.number for row in session.all(sql.queued_jobs, wanted)])

    # -- who holds what -----------------------------------------------------------------------------------------------

    @_alone
    def claim(self, count: int) -> list[Job]:
        jobs = self._hold.take_aside(count)
        count -= len(jobs)
        if not count or not self._database.again(lambda tries: self._may_claim()):  # the usual answer, without a lock
            return jobs
        known = self._hold.known(jobs)

        def body(tx: Transaction) -> list[Job]:
            self._gate(tx)
            for owners, pause in zip(self._others.lost(tx.session), (0.0, PAUSE), strict=True):
                if owners:
                    values = self._study | self._numbers(owners) | {"b_pause": pause}
                    self._freed(tx, tx.session.all(sql.free_of_owners, values), LOSSES)
            return self._taken(tx.session, tx.session.all(sql.claim_jobs, self._log.owner | {"b_count": count}))

        jobs += self._once(body, lambda session: self._adopt(session, known))
        return sorted(jobs, key=lambda job: (self.attempts.get(job.number, 0) > SUSPECT, job.number))

    @_alone
    def renew(self) -> None:
        values = {"b_owner": self._log.id, "b_lease": self._hold.lease(self._lease)}
        with self._database.write() as session:
            session.run(sql.renew_owner, values)

    @_alone
    def release(self, numbers: Sequence[int] | None = None, died: bool = False) -> None:
        values = self._log.owner | self._numbers(() if numbers is None else numbers) | {"b_pause": 0.0}

        def body(tx: Transaction) -> None:
            self._gate(tx)
            if died:
                self._freed(tx, tx.session.all(sql.free_as_died, values), DEATHS)
            else:  # all: also what others have put aside without its knowing
                tx.session.run(sql.release_all if numbers is None else sql.release_some, values)

        self._once(body, lambda session: None)
        self._hold.aside = [job for job in self._hold.aside if numbers is not None and job.number not in numbers]
        self._hold.let_go(list(self.attempts) if numbers is None else numbers)

    @_alone
    def partial(self, number: int, file: str, steps: int) -> bool:
        values = self._log.owner | {"b_number": number, "b_file": file, "b_steps": steps}

        def body(tx: Transaction) -> int | None:
            self._gate(tx)
            row = tx.session.first(sql.set_partial, values)
            return None if row is None else row.attempts

        def recover(session: Session) -> int | None:
            held = {row.number: row for row in session.all(sql.held_jobs, self._log.owner)}
            return held[number].attempts if number in held and held[number].partial == file else None

        attempts, old = self._once(body, recover), self.partials.get(number)
        if attempts is None:  # another holds the job, or it has ended: nobody will name this file
            self._checkpoints.remove([file])
            return False
        self._hold.hold(number, attempts, file)
        if old is not None and old != file:
            self._checkpoints.remove([old])
        return True

    # -- reading, and the leases of a study ---------------------------------------------------------------------------

    @_alone
    def sync(self, history: History) -> list[Event | Note]:
        if files := self._hold.take_freed():
            self._checkpoints.remove(files)
        row = self._database.again(lambda tries: self._count())
        if self._log.label is None and not self._database.sqlite:
            return self._look(history, row)
        if row.more and not self._database.sqlite:
            last = self._once(self._stamp_all, lambda session: self._count().events)
        else:
            last = row.events
        new = self._database.again(lambda tries: self._new(history.cursor[0], last))
        self._log.clear_own()
        return self._log.advance(history, new, last)

    def _look(self, history: History, row: Any) -> list[Event | Note]:
        """:meth:`sync` of a reader: what has no place in the order yet comes last, and is read again the next time."""
        if self._provisional:
            history.clear()
        new = self._database.again(lambda tries: self._new(history.cursor[0], row.events))
        added = self._log.advance(history, new, row.events)
        late = self._database.again(lambda tries: self._unordered()) if row.more else []
        self._provisional = bool(late)
        for read in late:
            added += self._log.add_events(history, read)
        history.cursor = (row.events, len(history.log))
        return added

    @_alone
    def turn(self, seconds: float) -> bool:
        def take(tries: int) -> bool:
            with self._database.read() as session:
                if not self._others.may_turn(session):  # without a lock
                    return False
            with self._database.write() as session:
                self._log.locked(session)
                if not self._others.may_turn(session):
                    return False
                session.run(sql.take_turn, self._log.owner | {"b_seconds": seconds})
                return True

        return self._database.again(take)

    @_alone
    def end_turn(self) -> None:
        self._database.again(lambda tries: self._run(sql.end_turn, self._log.owner))

    @_alone
    def janitor(self, seconds: float) -> bool:
        values = self._log.owner | {"b_seconds": seconds}
        return bool(self._database.again(lambda tries: self._run(sql.take_janitor, values)))

    @_alone
    def held(self) -> set[int]:
        def look(tries: int) -> set[int]:
            with self._database.read() as session:
                lost = {owner for owners in self._others.lost(session) for owner in owners}
                return {row.number for row in session.all(sql.held_by, self._study) if row.owner not in lost}

        return self._database.again(look)

    @_alone
    def strays(self) -> list[str]:
        files = {file: owner for file in self._checkpoints.files() if (owner := writer_of(file)) is not None}

        def look(tries: int) -> tuple[set[int], set[str]]:
            with self._database.read() as session:
                return self._others.alive(session), {
                    row.partial for row in session.all(sql.named_partials, self._study)
                }

        alive, named = self._database.again(look)
        return [file for file, owner in files.items() if owner not in alive and file not in named]

    def leave(self) -> None:
        """Give everything back: this owner will not write again."""
        if self._log.label is None:
            return
        self.release()
        self.end_turn()

    # -- inside of a transaction --------------------------------------------------------------------------------------

    def _once(
        self,
        body: Callable[[Transaction], Value],
        recover: Callable[[Session], Value],
        again: Callable[[], None] | None = None,
    ) -> Value:
        """:meth:`EventLog.once`, and whatever others have put aside for this owner meanwhile."""
        before = self._hold.copy()

        def undo() -> None:
            self._hold.restore(before)
            self._refused, self._log.given_seen = None, -1  # what was put aside is looked for again
            if again is not None:
                again()

        try:
            value = self._log.once(body, recover, undo)
        except BaseException:
            undo()
            raise
        if self._log.news():
            self._hold.aside += self._database.again(lambda tries: self._adopted(self._hold.known()))
        return value

    def _gate(self, tx: Transaction) -> None:
        self._log.gate(tx, self._hold.lease(self._lease))

    def _close(self, tx: Transaction, counts: Counts) -> None:
        self._log.set(tx.session, counts)
        self._log.wrote(counts)

    def _serve(
        self, tx: Transaction, counts: Counts, room: int, propose: Propose | None, history: History | None
    ) -> tuple[list[Job], bool]:
        """Under the study's row: bring a history up to date, propose for this owner and for those who wait."""
        others_turn = counts.turn_owner not in (None, self._log.id) and not self._others.may_turn(tx.session)
        if history is not None:
            self._log.stamp(tx.session, counts)
            self._log.advance(history, self._log.fresh(tx.session, counts, history), counts.events)
        if not room:
            return [], others_turn
        if tx.session.first(sql.any_free, self._study) is not None:
            self._gate(tx)
            return self._taken(tx.session, tx.session.all(sql.claim_jobs, self._log.owner | {"b_count": room})), False
        if others_turn or propose is None:
            return [], others_turn
        demand = [] if self._database.sqlite else tx.session.all(sql.waiting_owners, self._log.owner)
        try:
            made = [encoding.normal(job) for job in propose(counts.jobs, room + sum(row.wants for row in demand))]
            check_jobs(made, counts.jobs)
        except Exception as error:
            self._refused = error
            return [], False
        if not made:
            return [], False
        self._gate(tx)
        owners = [self._log.id] * room + [row.id for row in demand for _ in range(row.wants)]
        self._insert(tx, counts, made, owners)
        for owner in sorted(set(owners[room : len(made)])):
            tx.session.run(sql.serve_owner, {"b_served": owner})
        if history is not None:
            self._log.advance(history, self._log.fresh(tx.session, counts, history), counts.events)
        return made[:room], False

    def _insert(self, tx: Transaction, counts: Counts, jobs: Sequence[Job], owners: Sequence[int]) -> None:
        """Add jobs to the log and to the queue, held by these owners, whose last ones may get nothing."""
        places = self._log.add(tx, [(rows.packed(job), 0) for job in jobs], counts)
        counts.jobs += len(jobs)
        made = [
            {"b_number": job.number, "b_event": place, "b_owner": owner, "b_attempts": 1, "b_now": tx.now}
            for job, place, owner in zip(jobs, places, owners, strict=False)
        ]
        tx.session.run_all(sql.put_jobs, [self._study | row for row in made])
        for job, owner in zip(jobs, owners, strict=False):
            if owner == self._log.id:
                self._hold.hold(job.number, 1, None)

    def _end(
        self, tx: Transaction, reports: list[rows.Packed], results: dict[int, rows.Packed], counts: Counts | None
    ) -> list[int]:
        """Add reports, then the results of jobs that had not ended; their numbers."""
        ended = tx.session.all(sql.end_jobs, self._study | self._numbers(results)) if results else []
        attempts = {row.number: row.attempts for row in ended}
        accepted = [number for number in results if number in attempts]
        made = [(row, 0) for row in reports] + [(results[number], attempts[number]) for number in accepted]
        self._log.add(tx, made, counts)
        self._hold.freed += [row.partial for row in ended if row.partial is not None]
        return accepted

    def _freed(self, tx: Transaction, freed: Sequence[Any], most: int) -> None:
        """End the jobs among those freed that have ended too many processes."""
        poison = {row.number: rows.packed(died(row.number, most)) for row in freed if row.attempts >= most}
        if poison:
            counts = self._log.locked(tx.session) if self._database.sqlite else None
            self._end(tx, [], poison, counts)
            if counts is not None:
                self._close(tx, counts)

    def _taken(self, session: Session, found: Sequence[Any]) -> list[Job]:
        """The jobs of rows of the queue, which this owner now holds."""
        if not found:
            return []
        events = session.all(sql.job_events, self._study | self._numbers(row.number for row in found))
        return self._held(found, {row.seq: row for row in events})

    def _adopt(self, session: Session, known: set[int]) -> list[Job]:
        """The jobs that the database says this owner holds, without those that it knows of."""
        held = session.all(sql.held_jobs, self._log.owner)
        if held:
            self._log.given = self._log.given_seen = held[0].given
        new = [row for row in held if row.number not in known]
        return self._held(new, {row.seq: row for row in new})

    def _held(self, found: Sequence[Any], events: Mapping[int, Any]) -> list[Job]:
        """Note that this owner holds the jobs of rows of the queue; they are made from these rows of the log."""
        for row in found:
            self._hold.hold(row.number, row.attempts, row.partial)
        jobs = [self._log.read_row(events[row.event]).events[0] for row in found]
        return sorted(jobs, key=lambda job: job.number)  # type: ignore[return-value,union-attr]

    # -- small reads --------------------------------------------------------------------------------------------------

    def _adopted(self, known: set[int]) -> list[Job]:
        with self._database.read() as session:
            return self._adopt(session, known)

    def _may_claim(self) -> bool:
        with self._database.read() as session:
            if session.first(sql.count_events, self._study) is None:
                raise self._log.gone()
            return session.first(sql.any_free, self._study) is not None or any(self._others.lost(session))

    def _count(self) -> Any:
        with self._database.read() as session:
            row = session.first(sql.count_events, self._study)
        if row is None:
            raise self._log.gone()
        return row

    def _stamp_all(self, tx: Transaction) -> int:
        counts = self._log.locked(tx.session)
        self._gate(tx)
        self._log.stamp(tx.session, counts)
        self._close(tx, counts)
        return counts.events

    def _read_ahead(self, history: History) -> None:
        """Bring a history nearly up to date before a transaction, which nobody has to wait for."""
        new = self._database.again(lambda tries: self._new(history.cursor[0], LAST))
        self._log.advance(history, new, new[-1].seq if new else history.cursor[0])

    def _new(self, place: int, last: int) -> list[Any]:
        with self._database.read() as session:
            return self._log.read(session, place, last)

    def _unordered(self) -> list[Any]:
        with self._database.read() as session:
            return [self._log.read_row(row) for row in session.all(sql.unordered_events, self._study)]

    def _run(self, statement: Any, values: dict[str, Any]) -> int:
        with self._database.write() as session:
            return session.run(statement, values)

    # -- beside it ----------------------------------------------------------------------------------------------------

    def _numbers(self, values: Any) -> dict[str, str]:
        return {"b_numbers": sql.numbers(values, self._database.sqlite)}

    def _ended(self, numbers: Any) -> None:
        self._hold.let_go(numbers)
        for number in numbers:
            self._log.forget(number)
