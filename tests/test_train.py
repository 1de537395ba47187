"""Jobs of functions and Trainables become results, whatever the user's code does."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier as lt
from luthier.errors import CheckpointError
from luthier.jobs import Job, Lost, Report, Result
from luthier.seeds import Seeds
from luthier.space import Float, Space
from luthier.store.checkpoints import Checkpoints
from luthier.task import as_task
from luthier.train import Work, chunks, keep, run
from luthier.train.blob import pack, unpack

SPACE = Space(x=Float(-1.0, 1.0))


def run_one(given: Any, job: Job | None = None, on_reports: Any = None, parents: Any = None, **options: Any) -> Any:
    work = Work(as_task(given, SPACE), Seeds(0), **options)
    (result,) = run(work, [job or Job(0, {"x": 0.5})], parents or {}, on_reports or (lambda reports: set()))
    return result


def raising(error: BaseException):
    def function(config):
        raise error

    return function


def test_a_function_becomes_a_result() -> None:
    result = run_one(lambda config: config["x"] ** 2)
    assert result == Result(0, "ok", {"loss": 0.25}, 1, {}, result.seconds)
    assert 0 < result.seconds < 1
    seen: dict[str, Any] = {}

    def look(config, trial):
        seen.update(number=trial.number, seed=trial.seed, key=trial.key, steps=trial.steps, config=trial.config)
        config["x"] = 9.0  # its own copy
        return 0.0

    job = Job(7, {"x": 0.5}, steps=12)
    assert run_one(look, job).steps == 12 and job.config == {"x": 0.5}
    assert seen["number"] == 7 and seen["steps"] == 12 and seen["key"] == Seeds(0).key(7, "train")
    assert seen["seed"] == seen["key"] % 2**32 and np.random.RandomState(seen["seed"]) is not None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("bad rate"), "ValueError: bad rate at test_train.py:"),
        (MemoryError(), "MemoryError"),
        (SystemExit(3), "SystemExit: 3"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
)
def test_an_exception_is_a_failed_result(error: BaseException, said: str) -> None:
    result = run_one(raising(error))
    assert result.status == "failed" and result.steps == 0 and result.metrics == {}
    assert said in result.error and "in function" in result.error and "luthier/train/__init__.py" not in result.error


def test_ctrl_c_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_one(raising(KeyboardInterrupt()))


@pytest.mark.parametrize(
    ("returned", "status", "said"),
    [
        (float("nan"), "diverged", ""),
        ({"loss": float("-inf"), "more": 1.0}, "diverged", ""),
        ({"loss": 1.0, "more": float("nan")}, "ok", ""),
        (None, "failed", "None (NoneType) was returned"),
        ({"accuracy": 1.0}, "failed", "'loss' is not among the names returned (accuracy)"),
        ({"loss": "low"}, "failed", "loss='low' (str) is not a real number"),
    ],
)
def test_what_was_returned_decides(returned: Any, status: str, said: str) -> None:
    result = run_one(lambda config: returned)
    assert result.status == status and said in result.error


def test_reports_and_pruning_of_a_function() -> None:
    heard: list[Report] = []

    def function(config, trial):
        for epoch in range(1, 6):
            trial.report(epoch, loss=1 / epoch)
        return 0.0

    result = run_one(
        function,
        Job(3, {"x": 0.5}, steps=5),
        lambda reports: heard.extend(reports) or ({3} if len(heard) > 2 else set()),
    )
    assert (result.status, result.steps, result.metrics) == ("pruned", 3, {"loss": 1 / 3})
    assert heard == [Report(3, step, {"loss": 1 / step}) for step in (1, 2, 3)]

    def polite(config, trial):
        epoch = 0
        while not trial.should_stop:
            epoch += 1
            trial.report(epoch, loss=1 / epoch)
        return {"loss": 7.0}

    result = run_one(
        polite, Job(3, {"x": 0.5}, steps=9), lambda reports: {3} if reports and reports[0].step == 4 else set()
    )
    assert (result.status, result.steps, result.metrics) == ("pruned", 4, {"loss": 7.0})

    def failing(config, trial):
        trial.report(2, loss=0.5)
        raise ValueError

    assert run_one(failing, Job(0, {"x": 0.5}, steps=5)).steps == 2


def test_a_function_cannot_be_continued() -> None:
    result = run_one(lambda config: 0.0, Job(1, {"x": 0.5}, parent=0), parents={0: Result(0, "ok")})
    assert result.status == "failed"
    assert "cannot be continued" in result.error and "Trainable" in result.error


class Walk:
    """A Trainable with a state of many types and randomness of its own."""

    report_every = 4

    def init(self, config, key):
        rng = np.random.default_rng(key)
        return {"at": torch.zeros(2), "rng": rng.bit_generator.state, "path": (np.zeros(3), [0]), 5: b"\x00\xff"}

    def advance(self, state, config, steps):
        rng = np.random.default_rng()
        rng.bit_generator.state = state["rng"]
        for _ in range(steps):
            state["at"] = state["at"] * 0.9 + config["x"] * rng.normal()
            state["path"] = (state["path"][0] + 1, [*state["path"][1], len(state["path"][1])])
        state["rng"] = rng.bit_generator.state
        return state, {"speed": state["at"].norm()}

    def evaluate(self, state):
        assert state[5] == b"\x00\xff"
        return {"loss": state["at"].sum(), "length": len(state["path"][1]), "first": state["path"][0][0]}


def test_a_trainable_reports_in_its_rhythm() -> None:
    heard: list[Report] = []
    result = run_one(Walk(), Job(2, {"x": 0.5}, steps=10), lambda reports: heard.extend(reports) or set())
    assert [report.step for report in heard] == [4, 8, 10]
    assert result.status == "ok" and result.steps == 10 and result.metrics == heard[-1].metrics
    assert set(result.metrics) == {"speed", "loss", "length", "first"} and result.metrics["length"] == 11


def test_continuing_is_as_never_having_stopped(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"checkpoints": Checkpoints(tmp_path), "save": True}
    heard: list[Report] = []
    listen = lambda reports: heard.extend(reports) or set()  # noqa: E731
    whole = run_one(Walk(), Job(0, {"x": 0.5}, steps=14), **kept)
    first = run_one(Walk(), Job(0, {"x": 0.5}, steps=6), listen, **kept)
    second = run_one(Walk(), Job(1, {"x": 0.5}, steps=8, parent=0), listen, {0: first}, **kept)
    assert second.error == "" and second.metrics == whole.metrics and second.steps == 8
    assert [report.step for report in heard] == [4, 6, 8, 12, 14]
    assert first.checkpoint is not None and first.checkpoint[1] == 0
    lost = run_one(Walk(), Job(1, {"x": 0.5}, steps=8, parent=0), parents={0: Result(0, "ok")}, **kept)
    assert lost.status == "failed" and "state was not kept" in lost.error


def test_a_trainable_that_saves_by_itself(tmp_path: Path) -> None:
    class Own:
        def init(self, config, key):
            return object(), 0

        def advance(self, state, config, steps):
            return (state[0], state[1] + steps), None

        def evaluate(self, state):
            return {"loss": state[1]}

        def save(self, state):
            return {"count": state[1]}

        def load(self, blob):
            return object(), blob["count"]

    kept: dict[str, Any] = {"checkpoints": Checkpoints(tmp_path), "save": True}
    first = run_one(Own(), Job(0, {"x": 0.5}, steps=6), **kept)
    second = run_one(Own(), Job(1, {"x": 0.5}, steps=1, parent=0), parents={0: first}, **kept)
    assert second.metrics == {"loss": 7.0}
    del Own.save, Own.load
    result = run_one(Own(), Job(0, {"x": 0.5}, steps=6), **kept)
    assert result.status == "failed" and result.checkpoint is None
    assert (
        "the state of TrainableTask(Own)[0]: a object cannot be kept" in result.error and "save(state)" in result.error
    )


def test_a_trainable_stops_when_asked_or_not_finite() -> None:
    result = run_one(Walk(), Job(0, {"x": 0.5}, steps=10), lambda reports: {0})
    assert (result.status, result.steps) == ("pruned", 4) and "loss" in result.metrics

    class Breaks(Walk):
        def evaluate(self, state):
            return {"loss": float("inf") if len(state["path"][1]) > 5 else 0.0}

    result = run_one(Breaks(), Job(0, {"x": 0.5}, steps=20))
    assert (result.status, result.steps) == ("diverged", 8)

    class Raises(Walk):
        def advance(self, state, config, steps):
            if len(state["path"][1]) > 5:
                raise ValueError("too long")
            return Walk.advance(self, state, config, steps)

    result = run_one(Raises(), Job(0, {"x": 0.5}, steps=20))
    assert (result.status, result.steps) == ("failed", 8) and "ValueError: too long" in result.error

    class Forgets(Walk):
        def advance(self, state, config, steps):
            return state

    assert "Return two things: (state, metrics)" in run_one(Forgets()).error

    class Misses(Walk):
        def evaluate(self, state):
            return {"accuracy": 1.0}

    assert "'loss' is not among the names returned (speed, accuracy)" in run_one(Misses()).error


def test_a_disk_that_cannot_be_written_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "PAUSES", (0.0, 0.0))
    (tmp_path / "file").write_text("in the way")
    lost = run_one(Walk(), checkpoints=Checkpoints(tmp_path / "file"), save=True)
    assert isinstance(lost, Lost) and lost.why == "storage" and "cannot be written" in lost.error
    odd = run_one(Odd(), checkpoints=Checkpoints(tmp_path / "folder"), save=True)
    assert odd.status == "failed" and "a object cannot be kept" in odd.error  # the user's own, and no disk's


class Odd(Walk):
    def init(self, config, key):
        return {**super().init(config, key), "odd": object()}


def test_a_parents_state_that_is_gone_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "PAUSES", (0.0,))
    checkpoints = Checkpoints(tmp_path)
    first = run_one(Walk(), checkpoints=checkpoints, save=True)
    checkpoints.clear()
    lost = run_one(Walk(), Job(1, {"x": 0.5}, 1, parent=0), None, {0: first}, checkpoints=Checkpoints(tmp_path))
    assert isinstance(lost, Lost) and lost.why == "file" and "does not exist" in lost.error


def test_functions_and_trainables_are_chunks_of_one() -> None:
    jobs = [Job(n, {"x": 0.1}) for n in range(3)]
    assert chunks(Work(as_task(len, SPACE), Seeds(0)), jobs, {}, 64) == [[job] for job in jobs]


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    state = {
        "numbers": [1, 2.5, True, None, "text", 2**100, float("inf")],
        "tuple": (1, (2, [3])),
        "arrays": [np.arange(6).reshape(2, 3), np.array(True), np.zeros(2, ">f4"), np.arange(2, dtype=np.uint16)],
        "scalar": np.float64(0.5),
        "keys": {1: "a", (2, 3): "b"},
        "ordered": OrderedDict(w=torch.nn.Parameter(torch.ones(2))),
        "bytes": b"",
        "luthier.tuple": {"luthier.array": 3},
        "empty": [{}, (), []],
    }
    checkpoints = Checkpoints(tmp_path)
    back = unpack(checkpoints.load(checkpoints.save("state", pack(state, "state"), {}))[0])
    assert str(back).replace("dtype=float32", "dtype='>f4'") == str(
        {**state, "ordered": {"w": torch.ones(2)}, "arrays": [*state["arrays"]]}
    )
    assert type(back["scalar"]) is np.float64
    for odd in (object(), {1, 2}, np.array(["a"]), np.random.default_rng(0)):
        with pytest.raises(CheckpointError, match=r"state\['odd'\]\[0\]"):
            pack({"odd": [odd]}, "state")


def test_jobs_of_a_torch_task_share_chunks_and_fail_together() -> None:
    def model(config):
        if config["width"] == 3:
            raise ValueError("three is unlucky")
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, config["width"]), torch.nn.Linear(config["width"], 10)
        )

    space = lt.Space(lr=lt.Float(0.01, 0.1), width=lt.Choice([2, 3]))
    task = lt.TorchTask(space, model, lt.data.digits(), lt.losses.cross_entropy, batch_size=32)
    work = Work(as_task(task), Seeds(0))
    jobs = [Job(n, {"lr": 0.05, "width": 2}, steps=2) for n in range(5)]
    assert [[job.number for job in chunk] for chunk in chunks(work, jobs, {}, 2)] == [[0, 1], [2, 3], [4]]
    results = list(run(work, jobs[:2], {}, lambda reports: set()))
    assert [result.status for result in results] == ["ok", "ok"]
    unlucky = [Job(n, {"lr": 0.05, "width": 3}, steps=2) for n in range(2)]
    assert chunks(work, unlucky, {}, 2) == [[job] for job in unlucky]
    results = list(run(work, unlucky, {}, lambda reports: set()))
    assert [(result.number, result.status) for result in results] == [(0, "failed"), (1, "failed")]
    assert all("ValueError: three is unlucky" in result.error and "in model" in result.error for result in results)
