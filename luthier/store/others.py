"""The other owners of a study as one of them sees them: who is dead, who is silent, whose turn it is."""

from __future__ import annotations

import time
from typing import Any

from luthier.store import statements as sql
from luthier.store.liveness import ProcessIdentity
from luthier.store.session import Session
from luthier.store.sql_log import EventLog

TURN = 600.0  # seconds that no proposal takes


class Others:
    """Owners besides the one whose log this is.

    Args:
        log: The study's log in the hand of the owner that looks.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._seen: dict[int | str, tuple[float | None, float]] = {}  # leases, and since when they are as they are

    def lost(self, session: Session) -> tuple[list[int], list[int]]:
        """Owners that hold jobs and are lost: those whose processes are dead here, those whose leases have ended."""
        dead, silent, known = [], [], {}
        for row in session.all(sql.holders, self._log.owner):
            if row.pid is not None and _dead(row, known):
                dead.append(row.owner)
            elif row.expired or self._unmoved(row.owner, row.until):
                if time.monotonic() - self._log.database.broken > self._log.lease:  # else theirs may be away as well
                    silent.append(row.owner)
        return dead, silent

    def alive(self, session: Session) -> set[int]:
        """All owners that may still write."""
        rows, known = session.all(sql.owner_rows, self._log.study), {}
        return {row.id for row in rows if not row.silent and not _dead(row, known)}

    def may_turn(self, session: Session) -> bool:
        """True if no other living owner has the turn."""
        row = session.first(sql.turn_holder, self._log.study)
        if row is None:
            raise self._log.gone()
        dead = row.pid is not None and _dead(row, {})
        late = row.expired or self._unmoved("turn", row.turn_until, TURN)
        return bool(late) or row.turn_owner == self._log.id or dead

    def _unmoved(self, who: int | str, until: float | None, least: float = 0.0) -> bool:
        """True if nobody has renewed a lease for two leases, as seen from here: its end is from a clock that was ahead.

        The living renew every few seconds; a clock that was put back by an hour holds nobody up for an hour.
        """
        now = time.monotonic()
        seen, since = self._seen.get(who, (None, now))
        self._seen[who] = (until, now if seen != until else since)
        return now - self._seen[who][1] > max(2 * self._log.lease, least)


def _dead(row: Any, known: dict[ProcessIdentity, bool]) -> bool:
    """Return True if the process of a row's owner is dead; ``known`` caches the answers within one query."""
    process = ProcessIdentity(row.host, row.pid, row.started)
    if process not in known:
        known[process] = process.dead
    return known[process]
