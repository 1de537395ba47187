"""The first half of the contract of stores: what is appended and recorded comes back, once and exactly."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from luthier.errors import StoreError, StudyError
from luthier.jobs import Event, History, Job, Note, Report, Result
from luthier.space import Float, Space
from luthier.store import Store, StudyStore

Connect = Callable[..., Store]

NAN, INF = math.nan, math.inf
SETTINGS = {"objectives": {"loss": "min", "accuracy": "max"}, "seed": 3}
LONG = [0.1 * k for k in range(500)] + [NAN, -INF, -0.0, 5e-324]
MIXED = {"none": None, "yes": True, "n": 1, "x": 0.1, "text": "größe \U0001f9ee \n\0\ud800", "list": [1, 2.5, None]}

JOBS = [
    Job(0, {}),
    Job(1, {"lr": 1e-4, "layers": 3, "kind": "adam", "nesterov": True, "norm": None}, 12, 0, {"rung": 2, "slot": [1]}),
    Job(2, {"ä name": "ein Wert", "": 0, "tiny": 5e-324, "big": 2**80}, 2**40, 1, {"deep": {"a": [{"b": NAN}, -INF]}}),
    Job(3, {"short": LONG[:64], "l2": LONG[:65], "all": LONG, "x": 0.5}, 7),
    Job(4, {"$float": "nan", "$f8": LONG, "x": 1.0}, 7, 0, {"$dict": {"$float": [1], "plain": "$float"}}),
    Job(5, MIXED, 0, 4, MIXED),
]
RESULTS = [
    Result(4, "diverged", {"loss": NAN, "accuracy": -INF, "$loss": INF}, 3, {"lr": INF, "wd": -0.0}, NAN),
    Result(0, "ok", {"loss": 0.1 + 0.2, "größe": 1e300, "zero": -0.0}, 5, {}, 1.5, "", ("stack-0.ckpt", 12)),
    Result(2, "failed", {}, 0, {}, 0.0, "ValueError: 'größe' \n\0 \ud800 \"quoted\""),
    Result(3, "pruned", {"loss": 1.0}, 2, {"all": LONG, "kept": [NAN, 1.0]}, INF),
]
REPORTS = [
    Report(3, 10, {"loss": NAN, "größe": INF}),
    Report(0, 1, {}, {"lr": 0.1, "kind": "sgd", "$x": -INF, "short": [0.1, NAN]}),
    Report(3, 20, {"loss": 0.5}, {"mask": [0.25 * k for k in range(300)], "lr": 0.1}),
]


# -- helpers -------------------------------------------------------------------------------------------------------


def fresh() -> History:
    """An empty history over one number."""
    return History(Space(x=Float(0, 1)), {"loss": "min"})


def synced(study: StudyStore) -> History:
    """A history with all that the study holds."""
    history = fresh()
    study.sync(history)
    return history


def new_study(store: Store, name: str = "study", settings: Any = SETTINGS) -> StudyStore:
    """A study that did not exist, attached."""
    store.create(name, settings)
    return store.attach(name, "one")


def jobs(start: int, stop: int) -> list[Job]:
    """The jobs ``start`` to ``stop - 1``, each with a value of its own."""
    return [Job(number, {"x": number / 64}, number + 1) for number in range(start, stop)]


def ok(number: int, loss: float = 0.5) -> Result:
    """A good result of a job."""
    return Result(number, "ok", {"loss": loss}, number + 1)


def assert_same(found: Sequence[Event | Note], expected: Sequence[Event | Note]) -> None:
    """Equal in every value and its type, NaN and the sign of zero included."""
    assert list(map(repr, found)) == list(map(repr, expected))


class StoredEvents:
    """Tests of appending, recording and reading; see :class:`luthier.testing.stores.StoreContract`."""

    @pytest.fixture
    def connect(self) -> Connect:
        raise NotImplementedError("give the fixture connect in the subclass")

    # -- what was stored comes back ----------------------------------------------------------------------------------

    def test_jobs_reports_and_results_come_back_exactly(self, connect: Connect) -> None:
        study = new_study(connect())
        assert study.append(JOBS, fresh())
        assert study.record(RESULTS[:2], REPORTS) == [4, 0]
        assert study.record(RESULTS[2:]) == [2, 3]
        expected = [*JOBS, *REPORTS, *RESULTS]
        assert_same(synced(study).events, expected)
        assert_same(synced(connect().attach("study", "reader")).events, expected)

    def test_what_is_not_plain_is_stored_as_it_is_read(self, connect: Connect) -> None:
        import numpy as np

        study, history = new_study(connect()), fresh()
        config = {"x": np.float64(0.1), "n": np.int64(3), "pair": (1, 2), "v": np.arange(3.0)}
        study.append([Job(0, config, int(np.int64(4)), None, {"t": (1, (2,))})], history)
        study.record([Result(0, "ok", {"loss": np.float32(0.5), "n": 3, "yes": True})])  # type: ignore[dict-item]
        expected = [
            Job(0, {"x": 0.1, "n": 3, "pair": (1, 2), "v": [0.0, 1.0, 2.0]}, 4, None, {"t": [1, [2]]}),
            Result(0, "ok", {"loss": 0.5, "n": 3.0, "yes": 1.0}),
        ]
        study.sync(history)
        assert_same(history.events, expected)
        assert_same(synced(connect().attach("study", "reader")).events, expected)

    def test_vectors_of_reports_are_float32_and_thinned(self, connect: Connect) -> None:
        study = new_study(connect())
        study.append(jobs(0, 2), fresh())
        vector = [0.1 * k for k in range(100)]
        for step in range(450):
            study.record([], [Report(0, step, {"loss": float(step)}, {"v": [*vector, float(step)], "lr": 0.1})])
        study.record([], [Report(1, 0, {}, {"v": [1e300] * 100})])
        history = synced(connect().attach("study", "reader"))
        reports = history.reports[0]
        assert [report.metrics["loss"] for report in reports] == [float(step) for step in range(450)]
        assert all(report.hyperparameters["lr"] == 0.1 for report in reports)
        kept = [report for report in reports if "v" in report.hyperparameters]
        assert [report.step for report in kept] == list(range(0, 450, 4))
        assert kept[5].hyperparameters["v"][:100] == pytest.approx(vector, rel=1e-7)
        assert kept[5].hyperparameters["v"][100] == 20.0
        assert history.reports[1][0].hyperparameters["v"] == [INF] * 100

    @pytest.mark.parametrize(
        "event",
        [
            Job(0, {"f": print}),
            Job(0, {}, tag={1: 2}),  # type: ignore[dict-item]
            Job(0, {}, steps=-1),
            Job(0, {}, parent=0),
            Job(0, {}, steps=1.5),  # type: ignore[arg-type]
            Report(0, 0, {"loss": "low"}),  # type: ignore[dict-item]
            Report(0, 2**70, {}),
            Report(0, 0, {}, {"v": {1}}),
            Result(0, "good", {}),  # type: ignore[arg-type]
            Result(0, "ok", {"loss": None}),  # type: ignore[dict-item]
            Result(0, "ok", {"loss": 10**400}),
        ],
        ids=str,
    )
    def test_what_cannot_be_stored_is_named_and_changes_nothing(self, connect: Connect, event: Any) -> None:
        study = new_study(connect())
        if not isinstance(event, Job):
            study.append(jobs(0, 1), fresh())
        before = synced(study).events
        with pytest.raises(StudyError, match="job 0"):
            if isinstance(event, Job):
                study.append([event], fresh())
            else:
                study.record(*([event], []) if isinstance(event, Result) else ([], [event]))
        assert synced(study).events == before

    # -- appending ---------------------------------------------------------------------------------------------------

    def test_one_of_two_that_append_is_first(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        mine, theirs = fresh(), fresh()
        assert one.append(jobs(0, 3), mine)
        assert not two.append(jobs(0, 2), theirs)
        assert len(mine) == 0, "append leaves the history to sync"
        assert two.sync(theirs) == jobs(0, 3)
        assert two.append(jobs(3, 5), theirs)
        assert not one.append(jobs(0, 1), mine)
        assert one.sync(mine) == jobs(0, 5)
        assert two.sync(theirs) == jobs(3, 5)
        assert one.sync(mine) == two.sync(theirs) == []
        assert one.append([], mine) and one.sync(mine) == []

    def test_jobs_are_numbered_without_gaps(self, connect: Connect) -> None:
        study = new_study(connect())
        for wrong in (jobs(1, 2), [*jobs(0, 2), Job(3, {})]):
            with pytest.raises(StudyError, match="the next one is"):
                study.append(wrong, fresh())
        assert study.sync(fresh()) == []

    def test_only_sync_fills_a_history(self, connect: Connect) -> None:
        study, history = new_study(connect()), fresh()
        history.add(Job(0, {}))
        with pytest.raises(StoreError, match="sync alone"):
            study.sync(history)

    # -- recording ---------------------------------------------------------------------------------------------------

    def test_the_first_result_counts_whoever_brings_it(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        one.append(jobs(0, 3), fresh())
        assert two.record([ok(0)], [Report(0, 1, {})]) == [0], "a result is a result"
        assert one.record([ok(0, 0.25)], [Report(0, 2, {})]) == []
        assert one.record([ok(1, 0.5), ok(1, 0.25), ok(7)], [Report(1, 1, {})]) == [1]
        assert one.record([ok(1), ok(2)], [Report(1, 2, {}), Report(2, 2, {})]) == [2]
        assert one.record([]) == []
        expected = [*jobs(0, 3), Report(0, 1, {}), ok(0), Report(1, 1, {}), ok(1, 0.5), Report(2, 2, {}), ok(2)]
        for study in (one, two, connect().attach("study", "three")):
            assert_same(synced(study).events, expected)

    def test_events_have_times(self, connect: Connect) -> None:
        study, history, begun = new_study(connect()), fresh(), time.time()
        study.append(jobs(0, 2), history)
        study.record([ok(1)], [Report(0, 1, {})])
        study.sync(history)
        assert len(history.times) == len(history.log) == 4 and history.times == sorted(history.times)
        assert all(begun - 1 < at < time.time() + 1 for at in history.times)
        assert history.asked[0] == history.times[0] and history.ended[1] == history.times[3]
        assert math.isnan(history.ended[0])

    def test_results_come_in_the_order_of_arrival(self, connect: Connect) -> None:
        one, two = new_study(connect()), connect().attach("study", "two")
        one.append(jobs(0, 4), fresh())
        two.append(jobs(4, 8), synced(two))
        for study, numbers in ((two, [6, 4]), (one, [3]), (two, [7]), (one, [1, 0, 2]), (two, [5])):
            assert study.record([ok(number) for number in numbers]) == numbers
        for study in (one, two, connect().attach("study", "three")):
            assert synced(study).arrival == [6, 4, 3, 7, 1, 0, 2, 5]

    def test_threads_share_one_owner(self, connect: Connect) -> None:
        study = new_study(connect())
        study.append(jobs(0, 40), fresh())
        accepted: list[int] = []

        def work(numbers: Sequence[int]) -> None:
            for number in numbers:
                accepted.extend(study.record([ok(number)], [Report(number, 1, {"loss": 1.0})]))

        threads = [threading.Thread(target=work, args=(range(40),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history = synced(study)
        assert sorted(accepted) == sorted(history.arrival) == list(range(40))
        assert len(history.pending) == 0
