"""Trackers, read back by the readers of their own packages."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import luthier as lt
from luthier.cli import app
from luthier.follow.background import Background
from luthier.follow.log import Log
from luthier.jobs import Report, Result
from luthier.trials import trials_of

SPACE = lt.Space(lr=lt.Float(1e-3, 1.0, log=True), layers=lt.Int(1, 4), act=lt.Choice(["relu", "[tanh]"]))


def train(config: dict[str, Any], trial: Any) -> dict[str, float]:
    for epoch in range(1, 4):
        trial.report(epoch, loss=config["lr"] / epoch, accuracy=0.1 * epoch)
        if trial.number == 2 and epoch == 2:
            raise ValueError("=cmd [/data]")
    return {"loss": config["lr"] / 3, "extra": 7.0}


class Numbers(lt.Trainable):
    """A state that moves by its own rate, so that PBT has something to continue."""

    space = lt.Space(rate=lt.Float(0.1, 1.0))

    def init(self, config: Any, seed: Any) -> float:
        return 1.0

    def advance(self, state: float, config: Any, steps: int) -> Any:
        state *= (1 - 0.1 * config["rate"]) ** steps
        return state, {"loss": state}


def points(study: lt.Study) -> dict[int, dict[str, list[tuple[int, float]]]]:
    """What a log of a study has to hold, from its history alone: trial, name, (step, value)."""
    history, found = study.history, {}
    trial_of = {number: trial.number for trial in trials_of(history) for number in trial.jobs}
    for event in history.events:
        if isinstance(event, Report | Result):
            step = event.step if isinstance(event, Report) else int(history.age[event.number])
            for name, value in event.metrics.items():
                curve = found.setdefault(trial_of[event.number], {}).setdefault(name, [])
                if (step, value) not in curve:
                    curve.append((step, value))
    return found


def run(callbacks: Any, store: Any = None, **more: Any) -> lt.Study:
    return lt.tune(train, space=SPACE, trials=5, name="a/b", store=store, callbacks=callbacks, progress=False, **more)


# -- TensorBoard -----------------------------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[int, dict[str, list[tuple[int, float]]]]:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for path in sorted(folder.iterdir()):
        read = module.EventAccumulator(str(path), size_guidance={"scalars": 0})
        read.Reload()
        found[int(path.name.removeprefix("trial-"))] = {
            tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]
        }
    return found


def hparams(folder: Path) -> tuple[Any, list[Any]]:
    """The columns that TensorBoard's table has, and its rows."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_multiplexer
    from tensorboard.plugins.hparams import metadata

    read = event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder))
    read.Reload()
    experiments, rows = [], []
    for tags in read.PluginRunToTagToContent("hparams").values():
        for tag, content in tags.items():
            if tag == metadata.EXPERIMENT_TAG:
                experiments.append(metadata.parse_experiment_plugin_data(content))
            if tag == metadata.SESSION_START_INFO_TAG:
                rows.append(metadata.parse_session_start_info_plugin_data(content))
    return experiments, rows


def same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, curve in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in curve], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in curve], rel=1e-6), name


def test_tensorboard_has_every_number_once_and_the_table(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    left = tmp_path / "a%2Fb" / "trial-0000" / "events.out.tfevents.luthier"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"by a writer that was killed before it noted anything")
    study = run(lt.follow.TensorBoard(tmp_path))
    wanted = points(study)
    found = scalars(tmp_path / "a%2Fb")
    assert found.keys() == wanted.keys()
    for trial, curves in wanted.items():
        same(found[trial], curves)
    experiments, rows = hparams(tmp_path)
    for one in experiments:  # TensorBoard takes the columns of the first run that it meets
        assert [info.name for info in one.hparam_infos] == list(SPACE.names)
        assert [info.name.tag for info in one.metric_infos] == ["loss"]
    assert len(experiments) == len(rows) == 5
    found_rows = sorted((row.hparams["lr"].number_value, row.hparams["act"].string_value) for row in rows)
    assert found_rows == sorted((trial.config["lr"], trial.config["act"]) for trial in study.trials)


def test_a_trial_of_several_jobs_is_one_run_with_its_schedule(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    study = lt.tune(
        Numbers(),
        lt.propose.PBT(rounds=4),
        trials=4,
        steps=20,
        name="pbt",
        callbacks=lt.follow.TensorBoard(tmp_path),
        progress=False,
    )
    found, records = scalars(tmp_path / "pbt"), study.trials
    assert sorted(found) == [trial.number for trial in records] and len(study.history) > len(records)
    for trial in records:
        curve = found[trial.number]["hyperparameters/rate"]
        history = study.history
        begins = [
            (0 if history.jobs[n].parent is None else int(history.age[history.jobs[n].parent]), history.jobs[n].config)
            for n in trial.jobs
        ]
        assert [step for step, _ in curve] == [step for step, _ in begins]
        assert [value for _, value in curve] == pytest.approx([config["rate"] for _, config in begins], rel=1e-6)
        same({"loss": found[trial.number]["loss"]}, {"loss": points(study)[trial.number]["loss"]})


def test_a_log_is_taken_over_where_it_stands_and_nothing_is_in_it_twice(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    store = lt.open_store()
    study = run((), store)
    history, wanted = study.history, points(study)
    first, second, third = (lt.follow.TensorBoard(tmp_path).inner for _ in range(3))

    class Part:  # the history as it was after so many events
        def __init__(self, count: int) -> None:
            self.log, self.times = history.log[:count], history.times[:count]

    for follower in (first, second, third):
        follower.started(study)
    middle = len(history.log) // 2
    first.events(Part(middle), ())
    second.events(Part(middle), ())  # another driver has the lock
    assert second._lock is None
    first._note()
    first.events(Part(middle + 4), ())  # these are in the files, and were not noted: the driver is killed
    for stream in first._streams.values():
        stream.close()
    first._lock.close()
    second.events(Part(middle + 6), ())
    second.finished(study)
    third.events(history, ())
    third.finished(study)
    found = scalars(tmp_path / "a%2Fb")
    for trial, curves in wanted.items():
        same(found[trial], curves)
    assert lt.follow.replay(lt.Study.load("a/b", store), lt.follow.TensorBoard(tmp_path)) == len(history.log)
    assert scalars(tmp_path / "a%2Fb") == found


def test_the_log_of_another_study_is_not_gone_on_with(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(lt.follow.TensorBoard(tmp_path))
    with pytest.warns(RuntimeWarning, match="the log of another study named 'a/b'"):
        study = run(lt.follow.TensorBoard(tmp_path), seed=5)
    assert len(study.trials) == 5


# -- CSV, MLflow, W&B ------------------------------------------------------------------------------------------------


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_csv_has_a_line_for_each_number(tmp_path: Path) -> None:
    study = run(lt.follow.CSV(tmp_path / "log.csv"))
    rows = table(tmp_path / "log.csv")
    found: dict[int, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        if "/" not in row["name"] and row["name"] not in ("status", "error"):
            curve = found.setdefault(int(row["trial"]), {}).setdefault(row["name"], [])
            curve.append((int(row["step"]), float(row["value"])))
    assert found == points(study)
    status = {int(row["trial"]): row["value"] for row in rows if row["name"] == "status"}
    assert status == {trial.number: trial.status for trial in study.trials}
    [error] = [row["value"] for row in rows if row["name"] == "error"]
    assert "=cmd [/data]" in error
    assert all(abs(float(row["time"]) - time.time()) < 600 for row in rows)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
def test_mlflow_has_a_run_for_each_trial_below_that_of_the_study(tmp_path: Path, monkeypatch: Any) -> None:
    module = pytest.importorskip("mlflow")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store = lt.open_store()
    study = run((), store)
    for _ in range(2):  # the second finds all there
        lt.follow.replay(study, lt.follow.MLflow(uri))
    client = module.MlflowClient(uri)
    experiment = client.get_experiment_by_name("a/b")
    runs = {run.data.tags.get("luthier.trial"): run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 6
    parent = runs.pop(None)
    for trial in study.trials:
        run_ = runs[str(trial.number)]
        assert run_.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run_.data.params == {name: str(value) for name, value in trial.config.items()}
        assert run_.info.status == ("FAILED" if trial.number == 2 else "FINISHED")
        for name, curve in points(study)[trial.number].items():
            found = sorted((one.step, one.value) for one in client.get_metric_history(run_.info.run_id, name))
            assert found == curve
    assert "[/data]" in runs["2"].data.tags["luthier.error"]


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file in the format of LevelDB's log, after W&B's own 7 bytes at its start."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (left := -place % 32768) and left < 7:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_wandb_has_a_run_for_each_trial_in_its_offline_files(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    study = run(lt.follow.WandB(folder=tmp_path, mode="offline"))
    from wandb.proto import wandb_internal_pb2

    found: dict[int, dict[str, list[tuple[int, float]]]] = {}
    for path in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        rows, config = [], {}
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                rows.append(
                    {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                )
            if record.WhichOneof("record_type") == "run":
                assert record.run.run_group == "a/b"
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        curves = found.setdefault(config["trial"], {})
        for row in rows:
            for name, value in row.items():
                if not name.startswith("_"):
                    curves.setdefault(name, []).append((row["_step"], value))
    assert found == points(study)


# -- trouble ---------------------------------------------------------------------------------------------------------


class Trouble(lt.follow.Follower):
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __repr__(self) -> str:
        return "Trouble()"

    def events(self, history: Any, new: Any) -> None:
        if not self.seconds:
            raise OSError("the tracker is away")
        time.sleep(self.seconds)


def test_a_tracker_that_fails_or_hangs_does_not_stop_the_study(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.warns(RuntimeWarning) as warned:
        study = run([Background(Trouble()), Background(Trouble(60.0), patience=0.2)])
    assert len(study.trials) == 5 and time.monotonic() - begun < 30
    texts = sorted(str(one.message) for one in warned)
    assert len(texts) == 2 and "the tracker is away" in texts[0] and "was not ready" in texts[1]


def test_a_stored_study_is_followed_by_the_command(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    study = run((), tmp_path / "a.db")
    given = ["follow", "a/b", "--store", str(tmp_path / "a.db")]
    result = CliRunner().invoke(app, [*given, "--to", "tensorboard", "--output", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    for trial, curves in points(study).items():
        same(scalars(tmp_path / "runs" / "a%2Fb")[trial], curves)
    result = CliRunner().invoke(app, [*given, "--to", "csv", "--output", str(tmp_path / "log.csv")])
    assert result.exit_code == 0 and len(table(tmp_path / "log.csv")) > 20, result.output
    result = CliRunner().invoke(app, [*given, "--to", "nothing"])
    assert result.exit_code == 2 and "tensorboard" in result.output
    assert math.isfinite(study.best.metrics["loss"]) and issubclass(type(lt.follow.CSV(tmp_path / "x").inner), Log)
