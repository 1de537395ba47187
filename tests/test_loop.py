"""The loop of tune(): it ends, or says what it waits for."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

import luthier as lt
from luthier.errors import StudyError
from luthier.jobs import Job
from luthier.study import loop

SPACE = lt.Space(x=lt.Float(0.0, 1.0))
pytestmark = pytest.mark.timeout(60)


def status_of(study: lt.Study) -> Counter[str]:
    return Counter(trial.status for trial in study.trials)


def tune(task: Any, method: Any = "random", trials: int | None = 5, **options: Any) -> lt.Study:
    return lt.tune(task, method, space=SPACE, trials=trials, **{"progress": False, **options})


def test_epochs_that_count_from_zero_are_pruned_at_zero() -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        for epoch in range(10):
            trial.report(epoch, loss=config["x"])
        return config["x"]

    found = status_of(tune(train, "median", trials=20))
    assert set(found) == {"ok", "pruned"} and found.total() == 20


@pytest.mark.parametrize("workers", [1, 2])
def test_pruned_before_a_report_is_a_result(workers: int) -> None:
    def train(config: dict[str, Any]) -> float:
        raise lt.Pruned

    study = tune(train, executor=lt.execute.Local(workers=workers))
    assert status_of(study) == {"pruned": 5} and study.best is None


@pytest.mark.parametrize("step", [-1, 2**62, 1.0, True, None])
def test_a_step_that_cannot_be_fails_its_own_trial(step: Any) -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        trial.report(step if trial.number == 1 else 2**62 - 1, loss=config["x"])
        return config["x"]

    study = tune(train, "median")
    assert status_of(study) == {"ok": 4, "failed": 1}
    assert f"step must be an integer from 0 to 2**62, got {step}" in study.trials[1].error


class Late(lt.execute.Local):
    """Has room for a job only from its third look on."""

    looks = 0

    @property
    def capacity(self) -> int:
        self.looks += 1
        return 0 if self.looks < 3 else 1


def test_an_executor_without_room_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(tune(lambda config: config["x"], executor=Late(), progress=None)) == {"ok": 5}
    assert capsys.readouterr().err.count("no room for a job; waiting until it has") == 1


class Never(lt.execute.Local):
    capacity = 0


def test_time_ends_the_wait_for_room() -> None:
    begun = time.monotonic()
    assert not tune(lambda config: config["x"], executor=Never(), seconds=0.3).trials
    assert time.monotonic() - begun < 5


class Forgetful(lt.execute.Local):
    """Loses every second job."""

    def submit(self, jobs: list[Job], parents: Any) -> None:
        super().submit([job for job in jobs if job.number % 2 == 0], parents)


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_an_executor_lost_are_named(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "DENIED", 0.2)
    with pytest.raises(StudyError, match=r"has no job left, and jobs? 1.* have not come back"):
        tune(lambda config: config["x"], executor=Forgetful(workers=workers))


def test_a_job_held_by_hand_is_said_to_be_waited_for(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "a.db"
    with lt.Study("s", SPACE, trials=3, store=store) as study:
        (job,) = study.ask()
        monkeypatch.setattr(loop, "LONELY", 0.1)
        tune(lambda config: config["x"], trials=3, store=store, name="s", seconds=0.5, progress=None)
        assert capsys.readouterr().err.count(f"waiting for job {job.number}, which this process does not hold") == 1
        study.tell(job, 1.0)
    assert status_of(tune(lambda config: config["x"], trials=3, store=store, name="s")) == {"ok": 3}
