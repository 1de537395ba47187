"""Schedules and their replay: what they are read from, what a replay is asked for, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import luthier as lt
from luthier.cli import app
from luthier.errors import ConfigError, MethodError
from luthier.jobs import Budget, History, Job, Report, Result
from luthier.propose import PBT, Replay
from luthier.schedule import Schedule, as_schedule
from luthier.seeds import Seeds
from luthier.space import Float, Space
from luthier.testing import simulate
from luthier.testing.problems import decay
from luthier.trials import schedule

RATE = Space(lr=Float(1e-5, 1e2, log=True))
ROWS = [(0, {"lr": 0.5}), (30, {"lr": 0.1})]


def found(seed: int = 0) -> tuple[History, Schedule]:
    history = simulate(PBT(rounds=3), decay, RATE, Budget(trials=10, steps=90), seed, stateful=True)
    assert history.best is not None
    return history, schedule(history, history.best, seed)


def test_a_replay_trains_what_was_found() -> None:
    history, way = found()
    assert way.steps == 90 and len(way) > 1 and way[0][0] == 0
    assert [part["job"] for part in way.parts] == sorted(part["job"] for part in way.parts)
    again = simulate(Replay(way), decay, RATE, Budget(trials=1, steps=90), stateful=True)
    assert history.best is not None and again.values[-1, 0] == history.values[history.best, 0]
    assert schedule(again, len(again) - 1, 0) == way, "a replay has the schedule that it replays"


def test_what_an_adapter_moves_is_in_the_schedule_from_report_to_report() -> None:
    history = History(RATE)
    history.add(Job(0, {"lr": 1.0}, 10))
    for step, rate in ((4, 2.0), (8, 2.0), (10, 4.0)):
        history.add(Report(0, step, {"loss": 1.0}, {"lr": rate}))
    history.add(Result(0, "ok", {"loss": 1.0}, 10, {"lr": 4.0}))
    history.add(Job(1, {"lr": 4.0}, 5, 0))
    history.add(Report(1, 15, {"loss": 1.0}, {"lr": 8.0}))
    history.add(Result(1, "ok", {"loss": 1.0}, 5, {"lr": 8.0}))
    way = schedule(history, 1)
    assert way == [(0, {"lr": 1.0}), (4, {"lr": 2.0}), (10, {"lr": 4.0}), (15, {"lr": 8.0})]
    assert [(part["job"], part["steps"]) for part in way.parts] == [(0, 4), (0, 6), (0, 5), (0, 0)]
    jobs = simulate(Replay(way), decay, RATE, Budget(trials=1), stateful=True).jobs
    assert [(job.config["lr"], job.steps) for job in jobs] == [(1.0, 4), (2.0, 6), (4.0, 5)]


def test_a_schedule_is_read_from_what_it_was_written_to(tmp_path: Path) -> None:
    _, way = found(seed=3)
    file = way.save(tmp_path / "way.json")
    for given in (way, way.to_json(), json.dumps(way.to_json()), file, str(file)):
        assert as_schedule(given) == way
    assert as_schedule(ROWS, steps=90) == ROWS and as_schedule(ROWS, steps=90).steps == 90
    assert as_schedule(json.dumps(ROWS), steps=90) == ROWS
    assert way != dataclasses.replace(way, seed=4)
    with pytest.raises(MethodError, match="cannot be written"):
        way.save(tmp_path / "absent" / "way.json")


class Decay:
    """A Trainable whose loss falls fastest under a rate near 1."""

    space = RATE

    def init(self, config: dict[str, Any], key: int) -> dict[str, Any]:
        return {"state": None}

    def advance(self, state: dict[str, Any], config: dict[str, Any], steps: int) -> tuple[dict[str, Any], dict]:
        loss, inner = decay(config, steps, state["state"])
        return {"state": inner, "loss": loss}, {}

    def evaluate(self, state: dict[str, Any]) -> dict[str, float]:
        return {"loss": state["loss"]}


def test_tune_takes_trials_steps_and_seed_from_the_schedule() -> None:
    study = lt.tune(Decay(), PBT(rounds=3), trials=6, steps=30, seed=7, progress=False)
    assert study.best is not None
    again = lt.tune(Decay(), schedule=study.best.schedule, progress=False)
    assert again.best is not None and again.best.metrics == study.best.metrics
    assert again.settings["seed"] == 7 and again.settings["budget"]["steps"] == 30
    free = dataclasses.replace(study.best.schedule, seed=None)
    assert lt.tune(Decay(), schedule=free, progress=False).settings["seed"] == 0
    assert lt.tune(Decay(), schedule=free, seed=9, progress=False).settings["seed"] == 9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "random"}, r"method='random' and a schedule were both given.*leave method out"),
        ({"trials": 4}, "trials=4, and the schedule has 1"),
        ({"steps": 91}, "steps=91, and the schedule has 90"),
        ({"epochs": 3}, "epochs=3, and the schedule says itself"),
        ({"seed": 1}, "seed=1, and the schedule was found with seed=0"),
        ({"schedule": ROWS}, r"its last row begins at step 30, and steps=None.*give steps="),
        ({"schedule": ROWS, "steps": 30}, "steps=30"),
        ({"schedule": [(5, {"lr": 0.5})], "steps": 30}, r"rows are at the steps \[5\]"),
        ({"schedule": [(0, {"lr": 0.5}), (0, {"lr": 0.1})], "steps": 30}, r"rows are at the steps \[0, 0\]"),
        ({"schedule": [{"lr": 0.5}], "steps": 30}, "not pairs of a step and a dict"),
        ({"schedule": "absent.json"}, "schedule absent.json: it cannot be read"),
        ({"schedule": "{"}, "it is not JSON"),
        ({"schedule": {"seed": 0, "parts": [{"config": {}}]}}, "it is no schedule"),
        ({"schedule": {"seed": 0, "parts": []}}, r"its parts have \[\] steps"),
        ({"schedule": {"parts": [{"steps": -1, "config": {}}, {"steps": 5, "config": {}}]}}, r"parts have \[-1, 5\]"),
        ({"schedule": 5}, "5 is a int"),
    ],
)
def test_what_cannot_be_replayed_is_refused(settings: dict[str, Any], words: str) -> None:
    given = {"schedule": found()[1], **settings}
    with pytest.raises(MethodError, match=words):
        lt.tune(Decay(), progress=False, **given)


def test_a_schedule_of_another_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="rate"):
        lt.tune(Decay(), schedule=[(0, {"rate": 0.5})], steps=5, progress=False)
    with pytest.raises(MethodError, match="is empty"):
        Replay(Schedule([])).bind(Budget())
    assert Replay(found()[1]).propose(History(RATE), 1, Seeds(0))[0].config == found()[1][0][1]


TASK = """
import luthier as lt
from luthier.testing.problems import decay

class Decay:
    space = lt.Space(lr=lt.Float(1e-5, 1e2, log=True))
    def init(self, config, key):
        return {"state": None}
    def advance(self, state, config, steps):
        loss, inner = decay(config, steps, state["state"])
        return {"state": inner, "loss": loss}, {}
    def evaluate(self, state):
        return {"loss": state["loss"]}

task = Decay()
"""


def test_the_command_line_writes_and_replays_a_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TASK)

    def call(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == code, done.output
        return done.output

    call("tune", "mine.py", "-m", "pbt", "-n", "4", "--steps", "30", "--seed", "2", "-q")
    call("export", "mine-pbt", "--format", "schedule", "-o", "way.json")
    call("tune", "mine.py", "--schedule", "way.json", "-q")
    best, again = (lt.Study.load(name, "luthier.db").best for name in ("mine-pbt", "mine-replay"))
    assert best is not None and again is not None
    assert best.metrics == again.metrics and as_schedule("way.json") == best.schedule
    assert "both given" in call("tune", "mine.py", "-m", "pbt", "--schedule", "way.json", code=2)
    assert "absent.json" in call("tune", "mine.py", "--schedule", "absent.json", code=2)
