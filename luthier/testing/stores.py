"""Contract of every store, as a pytest class: subclass it and give it a way to open your store."""

from __future__ import annotations

import math
import pickle
import time
from typing import Any

import pytest

from luthier.errors import StoreError, StudyError
from luthier.jobs import Foreign, History, Job, Note, Report, Result
from luthier.seeds import Seeds
from luthier.testing.store_events import Connect, assert_same, fresh, jobs, new_study, ok, synced
from luthier.testing.store_faults import StoredThroughFaults
from luthier.trials import front

NAN, INF = math.nan, math.inf


class StoreContract(StoredThroughFaults):
    """Tests of a :class:`luthier.store.Store`.

    A subclass has a fixture ``connect``: a callable that takes ``lease`` (seconds) and returns the store, open; all its
    calls in one test reach the same studies. The subclass closes them.

    Examples:
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
        assert (one.attempts, two.attempts) in (({0: 1, 2: 1, 3: 1}, {0: 2, 2: 2, 3: 2}), ({}, {0: 2, 2: 2, 3: 2}))
        assert one.record([ok(0, 9.0)], [Report(0, 1, {})]) == [0], "whoever is first"
        assert two.record([ok(0, 1.0)]) == []
        assert synced(two).results[0] == ok(0, 9.0)

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
        assert one.held() == two.held() == {1, 3, 4}, "of what has not ended"
        assert two.claim(9) == [jobs(0, 5)[2]]
        one.release()
        assert two.claim(1) == [jobs(0, 5)[1]]
        assert one.claim(9) == jobs(0, 5)[3:]
        assert set(one.attempts.values()) == set(two.attempts.values()) == {1}, "what is given back is not counted"
        assert one.record([ok(3), ok(4)]) == [3, 4]
        assert two.record([ok(1), ok(2), ok(4)]) == [1, 2]

    def test_a_lease_is_longer_for_a_job_that_outlasted_one(self, connect: Connect) -> None:
        one, two, three = (connect(lease=0.3).attach("study", label) for label in self._three(connect))
        one.append(jobs(0, 1), fresh())
        time.sleep(0.4)
        assert two.claim(1) == jobs(0, 1) and two.attempts == {0: 2}
        two.renew()
        time.sleep(0.5)
        assert three.claim(1) == [], "four times as long"
        assert two.partial(0, two.checkpoints.save("partial", {}), 1), "it holds the job"
        assert two.record([ok(0)]) == [0]

    def _three(self, connect: Connect) -> list[str]:
        connect(lease=0.3).create("study", {})
        return ["one", "two", "three"]

    def test_what_ends_three_processes_fails(self, connect: Connect) -> None:
        study, other = new_study(connect()), connect().attach("study", "other")
        study.append(jobs(0, 3), fresh())
        study.release([1], died=True)
        assert study.claim(1) == jobs(1, 2) and study.attempts == {0: 1, 1: 2, 2: 1}
        study.release([0, 1], died=True)
        assert other.claim(9) == [jobs(0, 1)[0], jobs(1, 2)[0]][: len(other.attempts)]
        if 1 not in other.attempts:
            pytest.fail("the last attempt is due")
        assert other.attempts == {0: 2, 1: 3}
        other.release([1], died=True)
        assert other.claim(9) == []
        history = synced(study)
        assert history.arrival == [1] and history.results[1] is not None
        assert history.results[1].status == "failed" and "3 times" in history.results[1].error
        assert other.record([ok(1)]) == [], "that is its result"

    def test_a_driver_that_is_lost_is_no_fault_of_its_jobs_until_that_never_ends(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("luthier.store.sql_study.PAUSE", 0.0)
        for module in ("sql_study", "memory"):
            monkeypatch.setattr(f"luthier.store.{module}.LOSSES", 6)
        connect(lease=0.005).create("study", {})
        owners = [connect(lease=0.005).attach("study", label) for label in ("one", "two")]
        owners[0].append(jobs(0, 1), fresh())
        for begins in range(2, 7):
            time.sleep(0.1)  # the longest of these leases is 0.08 s
            assert owners[begins % 2 - 1].claim(1) == jobs(0, 1), "it was ended from outside, for all that is known"
            assert owners[begins % 2 - 1].attempts == {0: begins}
        time.sleep(0.1)
        assert owners[0].claim(1) == owners[1].claim(1) == []
        (result,) = synced(owners[0]).results
        assert result is not None and result.status == "failed" and "6 times" in result.error

    def test_a_partial_state_is_found_by_who_goes_on_and_counts_if_it_is_further(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        one.append(jobs(0, 2), fresh())
        first, second = (one.checkpoints.save("partial", {"n": n}) for n in range(2))
        assert one.partial(0, first, 10) and one.partials[0] == first
        one.release([0], died=True)
        assert two.claim(1) == jobs(0, 1) and two.attempts == {0: 2} and two.partials == {0: first}
        assert not one.partial(0, second, 99), "it is another's now"
        assert one.checkpoints.files() == [first]
        same = two.checkpoints.save("partial", {"n": 3})
        assert two.partial(0, same, 10) and two.attempts == {0: 2}, "no further than before"
        further = two.checkpoints.save("partial", {"n": 4})
        assert two.partial(0, further, 11) and two.attempts == {0: 1}
        assert two.checkpoints.files() == [further], "the one before goes"
        two.record([ok(0)])
        two.sync(fresh())
        assert two.checkpoints.files() == []

    def test_a_failed_job_is_tried_again_when_the_user_says_so(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        one.append(jobs(0, 4), fresh())
        bad = [Result(number, "failed", error="no file") for number in (0, 2)]
        one.record([*bad, ok(1)], [Report(2, 1, {"loss": 3.0})])
        assert one.reopen([0, 1, 2, 3, 9]) == [0, 2], "what is good or running is left alone"
        assert one.reopen([0]) == [], "once"
        before = synced(one)
        assert before.reopened == {0: [], 2: []} and before.results[2] == bad[1] and list(before.pending) == [3]
        assert two.claim(9) == [jobs(0, 1)[0], jobs(2, 3)[0]] and two.attempts == {0: 1, 2: 1}
        assert two.record([ok(2, 0.1)], [Report(2, 1, {"loss": 0.2}), Report(2, 2, {"loss": 0.1})]) == [2]
        one.sync(before)
        after = synced(two)
        for history in (before, after):
            assert history.arrival == [0, 2, 1] and history.best == 2 and history.reopened == {0: []}
            assert [event for event in history.events if event.number == 2] == [
                jobs(2, 3)[0], Report(2, 1, {"loss": 0.2}), Report(2, 2, {"loss": 0.1}), ok(2, 0.1),
            ]  # fmt: skip
            assert history.reports[2][-1].step == 2 and history.values[2, 0] == 0.1
        assert_same(before.events, after.events)
        assert before.log == after.log and len(after.log) == len(after.times) == 13
        (summary,) = connect().studies()
        assert (summary.jobs, summary.done, summary.best) == (4, 2, 2)

    def test_notes_are_seen_by_everybody(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        one.note([Note("enqueued", {"config": {"x": 0.25}}), Note("enqueued", {"config": {"x": (1, [2])}})])
        one.append([Job(0, {"x": 0.25}, tag={"enqueued": 0})], fresh())
        two.note([Note("foreign", {"config": {"x": 0.75}, "metrics": {"loss": NAN, "n": 3}})])
        two.note([Note("stop", {"reason": "größe"}), Note("fingerprint", {"text": "a", "first": 1}), Note("note", {})])
        two.note([Note("method", {"before": {"proposer": None}, "now": {"proposer": {"class": "GaussianProcess"}}})])
        for history in (synced(one), synced(two)):
            assert (
                history.enqueued == [{"x": 0.25}, {"x": (1, [2])}]
                and history.waiting == [1]
                and history.given == {0: 0}
            )
            assert repr(history.foreign) == repr([Foreign({"x": 0.75}, {"loss": NAN, "n": 3.0})])
            assert history.stops == ["größe"] and history.fingerprints == [(1, "a")] and len(history.notes) == 7
            [change] = history.methods
            assert (change.first, change.place, change.now["proposer"]["class"]) == (1, 7, "GaussianProcess")
            assert history.events == [Job(0, {"x": 0.25}, tag={"enqueued": 0})]
        with pytest.raises(StudyError, match="stop"):
            one.note([Note("stop", {"reason": print})])

    def test_results_and_new_jobs_are_exchanged(self, connect: Connect) -> None:
        study, other, history = new_study(connect()), connect().attach("study", "other"), fresh()
        seen: list[tuple[int, int]] = []

        def propose(first: int, count: int) -> list[Job]:
            seen.append((len(history), len(history.arrival)))
            return jobs(first, min(6, first + count))

        assert study.exchange(room=2, propose=propose, history=history)[:3] == ([], jobs(0, 2), False)
        other.append(jobs(2, 3), synced(other))
        reports = [Report(0, 1, {"loss": 2.0})]
        assert study.exchange([ok(0)], reports, room=1, propose=propose, history=history).jobs == jobs(3, 4)
        assert seen == [(0, 0), (3, 1)], "the method sees all that is known"
        other.release()
        assert study.exchange([ok(3)], room=3, propose=propose, history=history).jobs == jobs(2, 3), (
            "what is free first"
        )
        assert study.exchange(room=9, propose=propose, history=history).jobs == jobs(4, 6)
        assert study.exchange(room=9, propose=propose, history=history)[:3] == ([], [], False)
        assert sorted(study.attempts) == [1, 2, 4, 5] and set(study.attempts.values()) == {1}
        study.sync(history)
        assert_same(history.events, synced(other).events)
        assert other.turn(60)
        assert study.exchange([ok(1)], room=1, propose=propose, history=history)[:3] == ([1], [], True)
        other.end_turn()

        def broken(first: int, count: int) -> list[Job]:
            raise ValueError("a mistake in the method")

        with pytest.raises(ValueError, match="a mistake"):
            study.exchange([ok(2)], room=1, propose=broken, history=history)
        assert synced(other).arrival == [0, 3, 1, 2], "its results are recorded all the same"

    def test_one_owner_removes_files(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        assert one.janitor(60) and one.janitor(0.1) and not two.janitor(60)
        time.sleep(0.2)
        assert two.janitor(60) and not one.janitor(60)

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
