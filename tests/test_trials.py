"""What is read from a history: trials as chains of jobs, schedules, the front, and plain rows."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from luthier.jobs import Budget, History, Job, Result
from luthier.seeds import Seeds
from luthier.space import Choice, Float, Int, Space
from luthier.study.export import rows_to_csv, rows_to_json
from luthier.study.study import Study
from luthier.trials import front

SPACE = Space(x=Float(-1.0, 1.0), lr=Float(1e-4, 1.0, log=True), layers=Int(1, 4))


@dataclass(frozen=True)
class Halving:
    """Continues the better half of its first four trials under lr 0.5; the first of them twice."""

    budget: Budget = field(default_factory=Budget, repr=False)
    extendable: ClassVar[bool] = False

    def bind(self, budget: Budget) -> Halving:
        return Halving(budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        first = len(history)
        if first < 4:
            fresh = range(first, min(4, first + count))
            return [Job(n, history.space.sample(seeds.rng(n, "propose")), 2, None, {"slot": n}) for n in fresh]
        if history.pending and min(history.pending) < 4:
            return []
        best, second = (int(number) for number in history.values[:4, 0].argsort()[:2])
        rest = [(best, best), (second, second), (best, 7)][first - 4 :][:count]
        return [
            Job(first + i, {**history.final(parent), "lr": 0.5}, 3, parent, {"slot": slot})
            for i, (parent, slot) in enumerate(rest)
        ]


def test_continued_jobs_are_one_trial_with_a_schedule() -> None:
    study = Study("chains", SPACE, method=Halving())
    while jobs := study.ask(4):
        for job in jobs:
            study.tell(job, -float(job.number))
    records = study.trials
    assert len(records) == 5 and len(study.history) == 7
    assert [record.jobs for record in records] == [(0,), (1,), (2, 5), (3, 4), (6,)]
    assert [record.parent for record in records] == [None, None, None, None, 3]  # a copy of trial 3, in another slot
    longest = [record for record in records if len(record.jobs) == 2]
    assert all(record.steps == 5 for record in longest)
    best = study.best
    assert best is not None
    start = study.history.jobs[best.number].parent
    assert start is not None
    assert best.schedule == [(0, study.history.jobs[start].config), (2, {**best.config, "lr": 0.5})]


def test_several_objectives_have_a_front() -> None:
    study = Study("front", SPACE, metric=["loss", "size"], mode=["min", "max"], trials=5)
    pairs = [(1.0, 1.0), (2.0, 5.0), (3.0, 4.0), (0.5, 0.5)]
    for job, (loss, size) in zip(study.ask(4), pairs, strict=True):
        study.tell(job, {"loss": loss, "size": size})
    assert [point.number for point in study.front] == [3, 0, 1], "the best by the first objective first"
    with pytest.warns(FutureWarning, match=r"is study\.front"):
        assert study.best is not None and study.best == study.front[0] and study.best.value == 0.5
    study.tell(study.ask(1)[0], {"loss": 0.5, "size": 5.0})
    assert [(one.number, one.metrics["size"]) for one in study.front] == [(4, 5.0)]


def test_the_front_is_that_of_all_whenever_it_is_read() -> None:
    rng = np.random.default_rng(0)
    objectives = {"a": "min", "b": "max", "c": "min"}
    read, unread = History(SPACE, objectives), History(SPACE, objectives)
    for number, row in enumerate(rng.integers(0, 8, (200, 3)).astype(float)):
        status = "ok" if number % 7 else "failed"
        values = {"a": row[0], "b": row[1], "c": row[2] if number % 11 else math.nan}
        for history in (read, unread):
            history.add(Job(number, SPACE.sample(rng)))
            history.add(Result(number, status, values))
        front(read)
    good = [n for n in range(200) if n % 7 and n % 11]
    beaten = [
        any((read.values[m] <= read.values[n]).all() and (read.values[m] < read.values[n]).any() for m in good)
        for n in good
    ]
    expected = sorted((n for n, lost in zip(good, beaten, strict=True) if not lost), key=lambda n: read.values[n, 0])
    assert front(read) == front(unread) == expected and 2 < len(expected) < 100


def test_rows_for_csv_json_and_pandas() -> None:
    space = Space(x=Float(0.0, 1.0), v=Float(0.0, 1.0, shape=(2,)), kind=Choice(["a", "b"]))
    study = Study("rows", space, trials=3)
    a, b, _ = study.ask(3)
    study.tell(a, {"loss": 1.0, "accuracy": 0.5}, final={**a.config, "x": 0.25})
    study.tell(b, {"loss": math.nan})
    rows = study.to_records()
    assert [row["status"] for row in rows] == ["ok", "diverged", "running"]
    assert rows[0]["final.x"] == 0.25 and "final.kind" not in rows[0]
    read = list(csv.DictReader(io.StringIO(rows_to_csv(study.to_records()))))
    assert float(read[0]["config.x"]) == a.config["x"] and json.loads(read[0]["config.v"]) == a.config["v"]
    assert read[1]["metrics.accuracy"] == ""
    assert json.loads(rows_to_json(study.to_records()))[1]["metrics.loss"] == "nan"
    frame = study.to_pandas()
    assert frame["metrics.loss"][0] == 1.0 and list(frame["number"]) == [0, 1, 2]
