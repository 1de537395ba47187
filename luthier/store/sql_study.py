"""One study in a database: compare-and-append, leases, and reading what is new."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from luthier.errors import StoreError, StudyError
from luthier.jobs import Event, History, Job, Report, Result
from luthier.store import codec, rows
from luthier.store import statements as sql
from luthier.store.checkpoints import Checkpoints
from luthier.store.connect import Database, Session
from luthier.store.process import Process
from luthier.store.summary import Best, check_jobs, not_filled_by_sync

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


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
    """One owner's view of a study in a database; see :class:`luthier.store.StudyStore`.

    What this owner wrote last is kept until the next sync, which reads nothing back if nobody else wrote meanwhile.
    """

    def __init__(
        self, database: Database, name: str, study: int, owner: int, lease: float, best: Best, checkpoints: Checkpoints
    ) -> None:
        self.checkpoints = checkpoints
        self._database, self._name, self._lease, self._best = database, name, lease, best
        self._study = {"b_study": study}
        self._owner = {"b_study": study, "b_owner": owner}
        self._held: set[int] = set()
        self._own: list[Event] = []  # what this owner wrote, as events number self._own_from + 1, …
        self._own_from = 0
        self._renewed = time.monotonic()

    @_alone
    def append(self, jobs: Sequence[Job], history: History) -> bool:
        check_jobs(jobs, len(history))
        kept = [codec.normal(job) for job in jobs]
        made = [rows.job_row(job) | self._owner for job in kept]
        with self._database.write() as session:
            row = self._lock(session)
            if row.jobs != len(history):
                return False
            for event, values in enumerate(made, row.events + 1):
                values["b_event"] = event
            if made:
                session.run_all(sql.add_jobs, made)
                self._finish(session, row, len(made), jobs=len(made))
        self._wrote(row.events, kept)
        self._held.update(job.number for job in kept)
        return True

    @_alone
    def record(self, results: Sequence[Result], reports: Sequence[Report] = ()) -> list[int]:
        new_reports = [codec.normal(report) for report in reports]
        new_results = [codec.normal(result) for result in results]
        if not new_reports and not new_results:
            return []
        with self._database.write() as session:
            row = self._lock(session)
            held = {job.number: job.snapshots for job in session.all(sql.held_jobs, self._owner)}
            accepted: dict[int, Result] = {}
            for result in new_results:
                if result.number in held:
                    accepted.setdefault(result.number, result)
            written = self._write_reports(session, [r for r in new_reports if r.number in held], held, row.events)
            made = [rows.result_row(result) | self._study for result in accepted.values()]
            for event, values in enumerate(made, row.events + len(written) + 1):
                values["b_event"] = event
            session.run_all(sql.end_job, made)
            written += accepted.values()
            if written:
                best = self._seen(row, accepted.values())
                self._finish(session, row, len(written), done=len(accepted), best=best)
        self._wrote(row.events, written)
        self._held.difference_update(accepted)
        return list(accepted)

    @_alone
    def claim(self, count: int) -> list[Job]:
        with self._database.read() as session:
            if session.first(sql.count_events, self._study) is None:
                raise self._gone()
            if not self._free(session):  # the usual answer, without a lock
                return []
        with self._database.write() as session:
            self._lock(session)
            numbers = self._free(session)[:count]
            taken = [session.first(sql.one_job, self._study | {"b_number": number}) for number in numbers]
            jobs = [rows.read(rows.job, row, self._where("luthier_jobs")) for row in taken]
            session.run_all(sql.take_job, [self._owner | {"b_number": number} for number in numbers])
            self._renew(session)
        self._held.update(numbers)
        return jobs

    def renew(self) -> None:
        with self._database.write() as session:
            self._renew(session)

    @_alone
    def release(self, numbers: Sequence[int] | None = None) -> None:
        with self._database.write() as session:
            self._lock(session)
            if numbers is None:
                session.run(sql.release_all, self._owner)
            else:
                session.run_all(sql.release_one, [self._owner | {"b_number": number} for number in numbers])
        self._held.difference_update(list(self._held) if numbers is None else numbers)

    @_alone
    def sync(self, history: History) -> list[Event]:
        known = len(history.events)
        with self._database.read() as session:
            row = session.first(sql.count_events, self._study)
            if row is None:
                raise self._gone()
            last = row.events
            if last == self._own_from + len(self._own) and known >= self._own_from:
                new = self._own[known - self._own_from :]
            else:
                new = self._read(session, history, last)
        if known + len(new) != last:
            raise not_filled_by_sync(known + len(new) + 1, last, self._where())
        self._own, self._own_from = [], last
        try:
            for event in new:
                history.add(event)
        except StudyError as error:
            remedy = "Rows were changed by hand or by another program: restore a backup, or delete the study."
            raise StoreError(str(error), where=self._where(), remedy=remedy) from error
        return new

    def turn(self, seconds: float) -> bool:
        with self._database.read() as session:
            if not self._may_turn(session):  # without a lock
                return False
        with self._database.write() as session:
            self._lock(session)
            if not self._may_turn(session):
                return False
            session.run(sql.take_turn, self._owner | {"b_seconds": seconds})
            return True

    def end_turn(self) -> None:
        with self._database.write() as session:
            session.run(sql.end_turn, self._owner)

    def leave(self) -> None:
        """Give everything back: this owner will not write again."""
        self.release()
        self.end_turn()

    # -- inside of a transaction ------------------------------------------------------------------------------------

    def _lock(self, session: Session) -> Any:
        row = session.first(sql.lock_study, self._study)
        if row is None:
            raise self._gone()
        return row

    def _finish(
        self, session: Session, row: Any, events: int, jobs: int = 0, done: int = 0, best: Best | None = None
    ) -> None:
        values = {
            "b_events": row.events + events,
            "b_jobs": row.jobs + jobs,
            "b_done": row.done + done,
            "b_best": best.number if best else row.best,
            "b_best_value": best.value if best else row.best_value,
            "b_now": row.now,
        }
        session.run(sql.set_study, self._study | values)
        if time.monotonic() - self._renewed > self._lease / 4:
            self._renew(session)

    def _write_reports(
        self, session: Session, reports: list[Report], snapshots: dict[int, int], events: int
    ) -> list[Event]:
        """Write reports as events number ``events`` + 1, …; the events as they will be read back."""
        made, written, counted, wider = [], [], set(), {}
        for event, report in enumerate(reports, events + 1):
            values = rows.report_row(report)
            values["b_study"], values["b_event"] = self._study["b_study"], event
            if values["b_vectors"] is not None:
                number, position = report.number, snapshots[report.number]
                snapshots[number] = position + 1
                counted.add(number)
                stride = codec.stride(position + 1)
                if stride != codec.stride(position):
                    wider[number] = stride
                if position % stride:
                    values["b_vectors"], report = None, codec.thinned(report)
                else:
                    values["b_position"] = position
            made.append(values)
            written.append(report)
        session.run_all(sql.add_reports, made)
        for number in counted:
            session.run(sql.set_snapshots, self._study | {"b_number": number, "b_snapshots": snapshots[number]})
        for number, stride in wider.items():
            session.run(sql.thin_reports, self._study | {"b_number": number, "b_stride": stride})
        return written

    def _renew(self, session: Session) -> None:
        session.run(sql.renew_owner, {"b_owner": self._owner["b_owner"], "b_lease": self._lease})
        self._renewed = time.monotonic()

    def _free(self, session: Session) -> list[int]:
        """Unfinished jobs that nobody works on, the lowest first."""
        free, dead = [], {}
        for row in session.all(sql.unfinished_jobs, self._study):
            if row.owner == self._owner["b_owner"]:
                if row.number not in self._held:  # appended by a commit whose answer was lost
                    free.append(row.number)
            elif row.expired or _dead(row, dead):
                free.append(row.number)
        return free

    def _may_turn(self, session: Session) -> bool:
        row = session.first(sql.turn_holder, self._study)
        if row is None:
            raise self._gone()
        return bool(row.expired) or row.turn_owner == self._owner["b_owner"] or _dead(row, {})

    def _read(self, session: Session, history: History, last: int) -> list[Event]:
        span = self._study | {"b_from": len(history.events), "b_to": last}
        found: list[tuple[int, Event]] = []
        where = self._where("luthier_jobs")
        for row in session.all(sql.new_jobs, self._study | {"b_number": len(history), "b_to": last}):
            found.append((row.event, rows.read(rows.job, row, where)))
        for row in session.all(sql.new_results, span):
            found.append((row.event, rows.read(rows.result, row, where)))
        where = self._where("luthier_reports")
        for row in session.all(sql.new_reports, span):
            found.append((row.event, rows.read(rows.report, row, where)))
        found.sort(key=lambda pair: pair[0])
        return [event for _, event in found]

    # -- beside it --------------------------------------------------------------------------------------------------

    def _wrote(self, before: int, events: Sequence[Event]) -> None:
        if before != self._own_from + len(self._own):  # another owner wrote between
            self._own, self._own_from = [], before
        self._own.extend(events)

    def _seen(self, row: Any, results: Iterable[Result]) -> Best:
        best = Best(self._best.objective, self._best.mode, row.best, row.best_value)
        for result in results:
            best.see(result)
        return best

    def _where(self, table: str = "") -> str:
        return f"{self._database.where}, {f'table {table}, ' if table else ''}study {self._name!r}"

    def _gone(self) -> StoreError:
        return StoreError("the study was deleted", where=self._where(), remedy="Create it again to go on.")


def _dead(row: Any, known: dict[Process, bool]) -> bool:
    """Whether the process of a row's owner is dead; ``known`` remembers within one question."""
    if row.pid is None:
        return False
    process = Process(row.host, row.pid, row.started)
    if process not in known:
        known[process] = process.dead
    return known[process]
