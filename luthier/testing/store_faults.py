"""The part of the contract of stores that is about a database which comes and goes: nothing is lost, nothing twice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from luthier.jobs import History, Job, Note, Report
from luthier.seeds import Seeds
from luthier.store import Store, StudyStore
from luthier.testing.store_events import Connect, StoredEvents, assert_same, fresh, new_study, ok, synced

TRIALS = 40


@contextlib.contextmanager
def disturbed(store: Store, rng: np.random.Generator, part: float) -> Iterator[list[int]]:
    """A store, a ``part`` of whose transactions is cut off before the commit, and of whose commits the answer is lost.

    Yields the numbers of both so far. A store that has no database has no such faults.
    """
    database: Any = getattr(store, "_database", None)
    counts = [0, 0]
    if database is None:
        yield counts
        return
    from luthier.store.troubles import AwayError

    write = database.write

    @contextlib.contextmanager
    def faulty(everything: bool = False) -> Iterator[Any]:
        cut, lost = rng.random(2) < part
        with write(everything) as session:
            yield session
            if cut:
                counts[0] += 1
                raise AwayError("cut off before the commit", where="store", remedy="")
        if lost:
            counts[1] += 1
            database._drop()
            raise AwayError("the answer to the commit was lost", where="store", remedy="")

    database.write = faulty
    try:
        yield counts
    finally:
        del database.write


def propose(history: History) -> Callable[[int, int], list[Job]]:
    """A method that looks at all that is known: its proposals differ where anything else does."""

    def made(first: int, count: int) -> list[Job]:
        seen = [len(history.log), len(history.arrival), *history.values[:, 0][history.status > 0].tolist()]
        value = (sum((place + 1) * value for place, value in enumerate(seen)) * 0.618) % 1
        return [Job(number, {"x": value}, 5) for number in range(first, min(TRIALS, first + count))]

    return made


class StoredThroughFaults(StoredEvents):
    """Tests of transactions that have to be repeated; see :class:`luthier.testing.stores.StoreContract`."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Try again without a pause."""
        monkeypatch.setattr("luthier.store.connect.PAUSES", (0.0, 0.0))

    @pytest.mark.parametrize("together", [True, False])
    def test_a_study_ends_as_if_nothing_had_been_cut_or_lost(self, connect: Connect, together: bool) -> None:
        histories = []
        for part in (0.0, 0.33):
            store, rng = connect(), Seeds(int(together)).rng(0, "faults")
            study = new_study(store, f"study {part}")
            with disturbed(store, rng, part) as counts:
                histories.append(self._serial(study, together))
            assert min(counts) > 10 or part == 0.0 or not hasattr(store, "_database")
            assert_same(synced(connect().attach(f"study {part}", "reader")).log, histories[-1].log)
        assert_same(histories[1].log, histories[0].log)

    def _serial(self, study: StudyStore, together: bool) -> History:
        history = fresh()
        made = propose(history)
        jobs = study.exchange(room=1, propose=made, history=history).jobs
        while jobs:
            (job,) = jobs
            number = job.number
            assert study.attempts == {number: 1}
            if number % 5 == 1:
                assert study.partial(number, "unused.ckpt", number)
                study.note([Note("note", {"job": number})])
            if number % 5 == 2:
                study.release([number], died=True)
                assert study.claim(1) == [job] and study.attempts == {number: 2}
            reports = [Report(number, step, {"loss": job.config["x"] + step}) for step in range(1, 3)]
            results = [ok(number, job.config["x"])]
            if together:
                done = study.exchange(results, reports, room=1, propose=made, history=history)
                accepted, jobs = done.accepted, done.jobs
            else:
                accepted = study.record(results, reports)
                study.sync(history)
                new = made(len(history), 1)
                assert study.append(new, history)
                jobs = new
            study.sync(history)
            assert accepted == [number]
        assert history.arrival == list(range(TRIALS))
        return history

    def test_owners_share_a_study_through_faults(self, connect: Connect) -> None:
        new_study(connect())
        accepted: list[int] = []
        errors: list[BaseException] = []

        def work(place: int, store: Store) -> None:
            try:
                rng = Seeds(place).rng(0, "faults")
                with disturbed(store, rng, 0.1):
                    accepted.extend(self._share(store.attach("study", f"owner {place}"), rng))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(place, connect())) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        history = synced(connect().attach("study", "reader"))
        assert sorted(accepted) == sorted(history.arrival) == list(range(TRIALS)) and not history.pending
        assert [len(history.reports[number]) for number in range(TRIALS)] == [2] * TRIALS

    def _share(self, study: StudyStore, rng: np.random.Generator) -> list[int]:
        """One owner's part of the work; the numbers of its results that were accepted."""
        history, accepted, jobs = fresh(), [], []
        made = propose(history)
        while True:
            room = int(rng.choice([1, 1, 2, 5]))
            if not jobs:
                jobs = study.exchange(room=room, propose=made, history=history).jobs
            if not jobs:
                study.sync(history)
                if len(history.arrival) == TRIALS:
                    return accepted
                jobs = study.claim(room)
                continue
            reports = [Report(job.number, step, {"loss": 1.0}) for job in jobs for step in (1, 2)]
            results = [ok(job.number) for job in jobs]
            if rng.random() < 0.5:
                done = study.exchange(results, reports, room=room, propose=made, history=history)
                assert done.accepted == [job.number for job in jobs], "nobody else holds them"
                accepted, jobs = accepted + done.accepted, done.jobs
            else:
                accepted, jobs = accepted + study.record(results, reports), []
