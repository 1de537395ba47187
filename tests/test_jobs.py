"""Budget and History: what is recorded, how it is derived, what is refused."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from luthier.errors import StudyError
from luthier.jobs import DIVERGED, FAILED, OK, PENDING, PRUNED, Budget, Event, History, Job, Report, Result, Status
from luthier.space import Choice, Float, Space

SPACE = Space(lr=Float(1e-4, 1.0, log=True), kind=Choice(["a", "b"]), x=Float(0, 1, when={"kind": "b"}))


def history_of(*events: Event, **objectives: str) -> History:
    history = History(SPACE, objectives or None)
    for event in events:
        history.add(event)
    return history


def job(number: int, steps: int = 1, parent: int | None = None) -> Job:
    return Job(number, {"lr": 0.01, "kind": "a"}, steps, parent)


@pytest.mark.parametrize(
    ("budget", "part", "steps"),
    [
        (Budget(), 1.0, 1),
        (Budget(steps=30), 1.0, 30),
        (Budget(steps=30), 1 / 3, 10),
        (Budget(steps=3), 0.01, 1),
        (Budget(epochs=2.5, epoch_steps=lambda config: 100 if config["lr"] < 1 else 1), 1.0, 250),
        (Budget(epochs=2, epoch_steps=lambda config: 50), 0.5, 50),
    ],
)
def test_steps_of_a_trial(budget: Budget, part: float, steps: int) -> None:
    assert budget.steps_for({"lr": 0.1}, part) == steps


def test_a_result_fills_the_row_of_its_job() -> None:
    history = history_of(job(0, 5), job(1), Result(1, "ok", {"loss": 2.0}, 1), Result(0, "failed", error="boom"))
    assert history.status.tolist() == [FAILED, OK]
    assert math.isnan(history.values[0, 0])
    assert history.values[1, 0] == 2.0
    assert history.arrival == [1, 0]
    assert history.best == 1
    assert not history.pending
    assert history.steps.tolist() == [0, 1]


def test_pending_jobs_are_known() -> None:
    history = history_of(job(0), job(1), Result(0, "ok", {"loss": 1.0}, 1))
    assert history.pending == {1: job(1)}
    assert history.status.tolist() == [OK, PENDING]
    assert len(history) == 2


def test_objectives_to_maximise_are_negated_inside() -> None:
    history = history_of(
        job(0), job(1), Result(0, "ok", {"accuracy": 0.9, "cost": 3}), Result(1, "ok", {"accuracy": 0.8}),
        accuracy="max", cost="min",
    )  # fmt: skip
    assert history.values[0].tolist() == [-0.9, 3.0]
    assert math.isnan(history.values[1, 1])
    assert history.best == 0


def test_the_best_is_finite_and_ended_well() -> None:
    history = history_of(*(job(n) for n in range(6)))
    ends: list[tuple[Status, float]] = [
        ("diverged", 0.1),
        ("pruned", 0.2),
        ("ok", math.nan),
        ("ok", -math.inf),
        ("ok", 0.5),
        ("ok", 0.5),
    ]
    for n, (status, value) in enumerate(ends):
        history.add(Result(n, status, {"loss": value}))
    assert history.status.tolist() == [DIVERGED, PRUNED, OK, OK, OK, OK]
    assert history.best == 4  # the first of equals


def test_age_is_counted_over_the_lineage_in_steps_really_done() -> None:
    history = history_of(job(0, 10), Result(0, "ok", {"loss": 1.0}, 10), job(1, 5, 0), job(2, 5, 0))
    assert history.age.tolist() == [10, 15, 15]
    history.add(Result(1, "pruned", {"loss": 1.0}, 2))
    history.add(job(3, 4, 1))
    assert history.age.tolist() == [10, 12, 15, 16]
    assert history.steps.tolist() == [10, 2, 5, 4]
    assert history.parent.tolist() == [-1, 0, 0, 1]


def test_final_hyperparameters_are_those_at_the_end() -> None:
    history = history_of(job(0), Result(0, "ok", {"loss": 1.0}, 1, {"lr": 0.5}), job(1))
    assert history.final(0) == {"lr": 0.5, "kind": "a"}
    assert history.final(1) == {"lr": 0.01, "kind": "a"}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (job(3), "the next one is 2"),
        (job(1), "the next one is 2"),
        (job(2, parent=2), "parent=2 does not exist"),
        (job(2, parent=-1), "parent=-1 does not exist"),
        (Result(0, "ok"), "has ended already"),
        (Result(2, "ok"), "does not exist"),
        (Report(0, 1, {}), "has ended already"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(event: Event, message: str) -> None:
    history = history_of(job(0), job(1), Result(0, "ok", {"loss": 1.0}, 1))
    with pytest.raises(StudyError, match=message):
        history.add(event)
    assert len(history.events) == 3
    assert len(history) == 2
    assert history.pending == {1: job(1)}


def test_reports_are_kept_by_job() -> None:
    history = history_of(job(0), Report(0, 1, {"loss": 2.0}), Report(0, 2, {"loss": 1.0}))
    assert [report.step for report in history.reports[0]] == [1, 2]


def test_columns_cannot_be_written() -> None:
    history = history_of(job(0))
    for column in (history.codes, history.mask, history.values, history.status, history.parent, history.age):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_codes_do_not_depend_on_when_they_are_asked_for() -> None:
    configs = SPACE.sample(np.random.default_rng(0), 300)
    history = History(SPACE)
    for n, config in enumerate(configs):
        history.add(Job(n, config))
        if n % 7 == 0:
            assert len(history.codes) == n + 1
    codes, mask = SPACE.encode(configs)
    assert history.codes.tobytes() == codes.tobytes()
    assert history.mask.tolist() == mask.tolist()


def test_a_fold_visits_each_event_once_and_can_be_dropped() -> None:
    def update(seen: list[int], event: Event) -> list[int]:
        return [*seen, event.number]

    history = history_of(job(0), job(1))
    assert history.fold("seen", list, update) == [0, 1]
    history.add(Result(1, "ok", {"loss": 1.0}))
    kept = history.fold("seen", list, update)
    again = history.fold("another key", list, update)
    assert kept == again == [0, 1, 1]

    def never(state: list[int], event: Event) -> list[int]:
        raise AssertionError("an event was visited twice")

    assert history.fold("seen", list, never) == kept


def test_appending_costs_the_same_at_any_length() -> None:
    configs = SPACE.sample(np.random.default_rng(0), 20_000)
    history = History(SPACE)
    times = []
    for n, config in enumerate(configs):
        if n % 2_000 == 0:
            times.append(time.process_time())
        history.add(Job(n, config))
        history.add(Result(n, "ok", {"loss": 1.0}, 1))
    costs = np.diff([*times, time.process_time()]) / 2_000
    assert np.median(costs) < 100e-6
    assert np.median(costs[5:]) < 3 * np.median(costs[:5])
