"""What every store must do, as a pytest class: subclass it and give it a way to open your store."""

from __future__ import annotations

import math
import pickle
import time
from typing import Any

import pytest

from luthier.errors import StoreError
from luthier.jobs import History, Report, Result
from luthier.seeds import Seeds
from luthier.testing.store_events import Connect, StoredEvents, assert_same, fresh, jobs, new_study, ok, synced
from luthier.trials import front

NAN, INF = math.nan, math.inf


class StoreContract(StoredEvents):
    """Tests of a :class:`luthier.store.Store`.

    A subclass has a fixture ``connect``: a callable that takes ``lease`` (seconds) and returns the store, open; all its
    calls in one test reach the same studies. The subclass closes them.

    Example:
        >>> import contextlib
        >>> from luthier.store import open_store
        >>> class TestMine(StoreContract):
        ...     @pytest.fixture
        ...     def connect(self, tmp_path):
        ...         with contextlib.ExitStack() as stack:
        ...             yield lambda lease=60.0: stack.enter_context(open_store(tmp_path / "mine.db", lease=lease))
    """

    # -- leases ------------------------------------------------------------------------------------------------------

    def test_a_job_is_claimed_when_its_lease_has_ended(self, connect: Connect) -> None:
        one, two = new_study(connect(lease=0.4)), connect(lease=0.4).attach("study", "two")
        one.append(jobs(0, 4), fresh())
        one.record([ok(1)])
        assert two.claim(9) == [] == one.claim(9)
        time.sleep(0.6)
        assert one.claim(9) == [], "its own jobs are not new to it"
        two.renew()
        assert two.claim(2) == [jobs(0, 4)[0], jobs(0, 4)[2]]
        assert two.claim(9) == [jobs(0, 4)[3]]
        assert two.claim(9) == []
        assert one.record([ok(0, 9.0)], [Report(0, 1, {})]) == [], "a stale owner tells in vain"
        assert two.record([ok(0, 1.0)]) == [0]
        assert one.record([ok(0, 9.0)]) == []
        assert synced(one).results[0] == ok(0, 1.0)

    def test_a_job_whose_lease_has_ended_is_still_told_if_nobody_took_it(self, connect: Connect) -> None:
        study = new_study(connect(lease=0.05))
        study.append(jobs(0, 1), fresh())
        time.sleep(0.1)
        assert study.record([ok(0)]) == [0]

    def test_a_renewed_lease_keeps_the_jobs(self, connect: Connect) -> None:
        one, two = new_study(connect(lease=0.6)), connect(lease=0.6).attach("study", "two")
        one.append(jobs(0, 12), fresh())
        for number in range(8):
            time.sleep(0.2)
            two.renew()
            if number % 2:
                one.renew()
            else:
                one.record([ok(number)])  # writing renews as well
            assert two.claim(9) == []

    def test_released_jobs_are_free_at_once(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        one.append(jobs(0, 5), fresh())
        one.record([ok(0)])
        one.release([0, 2])
        assert two.claim(9) == [jobs(0, 5)[2]]
        one.release()
        assert two.claim(1) == [jobs(0, 5)[1]]
        assert one.claim(9) == jobs(0, 5)[3:]
        assert one.record([ok(1), ok(2), ok(3)]) == [3]
        assert two.record([ok(1), ok(2), ok(4)]) == [1, 2]
        assert one.record([ok(4)]) == [4]

    def test_one_owner_has_the_turn(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        assert one.turn(60) and one.turn(60)
        assert not two.turn(60)
        two.end_turn()
        assert not two.turn(60), "only its holder ends a turn"
        one.end_turn()
        assert two.turn(0.1)
        assert not one.turn(60)
        time.sleep(0.2)
        assert one.turn(60)
        assert not two.turn(60)

    # -- syncing -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    def test_histories_agree_however_they_were_synced(self, connect: Connect, seed: int) -> None:
        owners = [new_study(connect()), *(connect().attach("study", f"owner {k}") for k in range(2))]
        histories = [fresh() for _ in owners]
        rng = Seeds(seed).rng(0, "contract")
        for _ in range(300):
            which = int(rng.integers(3))
            owner, history, action = owners[which], histories[which], int(rng.integers(6))
            if action == 0:
                owner.append(jobs(len(history), len(history) + int(rng.integers(1, 4))), history)
            elif action <= 2:
                owner.sync(history)
            elif history.pending:
                numbers = [int(n) for n in rng.choice(list(history.pending), size=3)]
                reports = [Report(n, int(rng.integers(9)), {"loss": float(rng.normal())}) for n in numbers]
                owner.record([ok(n, float(rng.normal())) for n in numbers[: int(rng.integers(3))]], reports)
        for owner, history in zip(owners, histories, strict=True):
            owner.sync(history)
        complete = synced(connect().attach("study", "reader"))
        assert len(complete) > 10 and len(complete.arrival) > 10 and complete.reports
        for history in histories:
            assert_same(history.events, complete.events)
            assert history.arrival == complete.arrival
            assert history.best == complete.best
            assert sorted(history.pending) == sorted(complete.pending)
            assert (history.values == complete.values)[complete.status == 1].all()

    def test_several_objectives_come_back_in_order_and_direction(self, connect: Connect) -> None:
        goals = {"loss": "min", "accuracy": "max", "area": "min"}
        values = [(0.5, 0.8, 3.0), (0.4, 0.7, 3.0), (0.5, 0.7, 2.0), (0.6, 0.8, 3.0), (0.4, NAN, 0.0)]
        written, one = History(fresh().space, goals), new_study(connect(), settings={"objectives": goals})
        one.append(jobs(0, len(values)), written)
        one.record([Result(n, "ok", dict(zip(goals, row, strict=True))) for n, row in enumerate(values)])
        one.sync(written)
        stored = connect().settings("study")["objectives"]
        assert list(stored.items()) == list(goals.items()), "the first objective ranks, so the order counts"
        read = History(fresh().space, stored)
        connect().attach("study", "reader").sync(read)
        assert front(read) == front(written) == [1, 0, 2]
        assert read.values[0].tolist() == [0.5, -0.8, 3.0]

    # -- studies -----------------------------------------------------------------------------------------------------

    def test_settings_are_those_of_the_first(self, connect: Connect) -> None:
        settings = {"seed": 1, "low": -INF, "odd": NAN, "$x": {"$float": 1}, "text": "größe\0", "pair": (1, 2)}
        stored = settings | {"pair": [1, 2]}
        store = connect()
        assert repr(store.create("größe 1/2", settings)) == repr(stored)
        assert repr(store.create("größe 1/2", {"seed": 2})) == repr(stored)
        assert repr(connect().settings("größe 1/2")) == repr(stored)
        store.update_settings("größe 1/2", {"seed": 3})
        assert connect().settings("größe 1/2") == {"seed": 3}
        with pytest.raises(StoreError, match="settings"):
            store.create("other", {"f": print})

    def test_an_unknown_study_is_an_error(self, connect: Connect) -> None:
        store = connect()
        store.create("there", {})
        for use in (
            lambda: store.settings("gone"),
            lambda: store.update_settings("gone", {}),
            lambda: store.delete("gone"),
            lambda: store.attach("gone", "me"),
        ):
            with pytest.raises(StoreError, match=r"no study named 'gone'.*'there'"):
                use()

    @pytest.mark.parametrize("name", ["", " ", "a\0b", "a\nb", "\ud800", None, 3])
    def test_a_name_is_printable_text(self, connect: Connect, name: Any) -> None:
        with pytest.raises(StoreError, match="cannot name a study"):
            connect().create(name, {})

    def test_studies_are_listed_with_their_best(self, connect: Connect) -> None:
        store = connect()
        assert store.studies() == []
        start = time.time()
        up = new_study(store, "up", {"objectives": {"accuracy": "max"}})
        down = new_study(store, "down", {"objectives": {"loss": "min", "accuracy": "max"}})
        new_study(store, "none", {})
        up.append(jobs(0, 6), fresh())
        down.append(jobs(0, 6), fresh())
        for number, value in enumerate([0.5, NAN, 0.9, INF, 0.9]):
            up.record([Result(number, "ok", {"accuracy": value, "loss": 0.0})])
            down.record([Result(number, "ok", {"accuracy": 0.0, "loss": -value})])
        up.record([Result(5, "pruned", {"accuracy": 2.0})])
        first, second, third = store.studies()
        assert (first.name, first.jobs, first.done) == ("up", 6, 6)
        assert (first.objective, first.best, first.best_value) == ("accuracy", 2, 0.9)
        assert (second.name, second.jobs, second.done) == ("down", 6, 5)
        assert (second.objective, second.best, second.best_value) == ("loss", 2, -0.9)
        assert (third.name, third.jobs, third.objective, third.best) == ("none", 0, None, None)
        assert start - 1 < first.created <= first.updated < time.time() + 1

    def test_studies_do_not_mix(self, connect: Connect) -> None:
        store = connect()
        one, two = new_study(store, "one"), new_study(store, "two")
        one.append(jobs(0, 3), fresh())
        two.append(jobs(0, 2), fresh())
        one.record([ok(0)], [Report(0, 1, {})])
        one.release()
        assert one.turn(60) and two.turn(60)
        assert two.claim(9) == []
        assert (len(synced(one).events), len(synced(two).events)) == (5, 2)

    def test_a_deleted_study_is_gone(self, connect: Connect) -> None:
        store = connect()
        study, other = new_study(store), new_study(store, "other")
        study.append(jobs(0, 2), fresh())
        other.append(jobs(0, 2), fresh())
        study.checkpoints.save("state", {"n": 1})
        kept = other.checkpoints.save("state", {"n": 2})
        store.delete("study")
        assert [summary.name for summary in store.studies()] == ["other"]
        for use in (
            lambda: study.sync(fresh()),
            lambda: study.append(jobs(0, 1), fresh()),
            lambda: study.record([ok(0)]),
            lambda: study.claim(1),
            lambda: study.turn(1),
        ):
            with pytest.raises(StoreError, match="study"):
                use()
        again = new_study(store)
        assert again.sync(fresh()) == [] and again.checkpoints.files() == []
        assert other.checkpoints.load(kept) == ({"n": 2}, {})
        assert len(synced(other)) == 2
        with pytest.raises(StoreError, match="study"):
            study.append(jobs(0, 1), fresh())

    def test_checkpoints_belong_to_a_study_and_can_be_sent(self, connect: Connect) -> None:
        store = connect()
        one, two = new_study(store, "a/b"), new_study(store, "a_b")
        file = one.checkpoints.save("state", {"n": [1, 2.5, None]}, {"jobs": [3]})
        assert one.checkpoints.files() == [file] and two.checkpoints.files() == []
        sent = pickle.loads(pickle.dumps(one.checkpoints))
        assert sent.load(file) == ({"n": [1, 2.5, None]}, {"jobs": [3]})
        assert connect().attach("a/b", "reader").checkpoints.files() == [file]

    def test_closing_gives_the_jobs_back(self, connect: Connect) -> None:
        store = connect()
        study = new_study(store)
        study.append(jobs(0, 2), fresh())
        assert study.turn(60)
        with store:
            pass
        store.close()
        two = connect().attach("study", "two")
        assert two.claim(9) == jobs(0, 2)
        assert two.turn(60)
