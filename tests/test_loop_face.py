"""What tune() takes beside task, method and budget, and what a step is: the loop as users of other tools expect it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import luthier as lt
from luthier.errors import ArgumentError, ConfigError, LuthierError, MethodError, StudyError, TaskError
from luthier.task.call import Trial

SPACE = lt.Space(x=lt.Float(0.0, 1.0), layers=lt.Int(1, 4))


def value(config: dict[str, Any]) -> float:
    return config["x"]


def tune(task: Any = value, method: Any = "random", **changes: Any) -> lt.Study:
    return lt.tune(task, method, **{"space": SPACE, "trials": 6, "progress": False, **changes})


def reporting(first: int, count: int = 5, **more: Any) -> Any:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        for step in range(first, first + count):
            trial.report(np.int64(step), loss=np.float32(config["x"]), **more)
        return config["x"]

    return train


@pytest.mark.parametrize("first", [0, 1])
def test_reports_from_0_and_from_1_are_the_same_steps(first: int) -> None:
    study = tune(reporting(first), "median", trials=12)
    assert {trial.status for trial in study.trials} == {"ok", "pruned"}
    for trial in study.trials:
        steps = [report.step for report in study.history.reports[trial.number]]
        assert steps == list(range(1, len(steps) + 1)) and trial.steps == len(steps)
        assert (len(steps) == 5) == (trial.status == "ok")


@pytest.mark.parametrize("first", [0, 1])
def test_ask_and_tell_count_steps_done_too(first: int, tmp_path: Path) -> None:
    study = lt.Study("s", SPACE, trials=4, steps=3, store=tmp_path / "s.db")
    well, poor, silent, early = study.ask(4)
    for step in range(first, first + 3):
        study.report(well, step, loss=1.0, step=7.0)
    study.report(poor, first, loss=9.0)
    study.tell(well, 1.0)
    study.tell(poor, status="pruned")
    study.tell(silent, 2.0)
    study.tell(early, status="failed", error="out of luck")
    assert [trial.steps for trial in study.trials] == [3, 1, 3, 0]
    assert [dict(report.metrics) for report in study.history.reports[0]] == [{"loss": 1.0, "step": 7.0}] * 3
    with pytest.raises(TaskError, match=r"step must be an integer from 0 .*, got -1"):
        Trial(0, {}, 1, 1, lambda *_: False).report(-1, loss=1.0)


def test_a_metric_may_have_any_name() -> None:
    names = {"step": 1.0, "self": 2.0, "config": 3.0, "name": 4.0}
    study = tune(reporting(1, **names), trials=1)
    kept = study.history.reports[0][0].metrics
    assert {name: kept[name] for name in names} == names and set(kept) == {"loss", *names}


class Diary(lt.follow.Follower):
    """Keeps all it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.seen: list[Any] = []

    def started(self, study: lt.Study) -> None:
        self.calls.append(f"started {study.name}")

    def events(self, history: lt.History, new: Any) -> None:
        assert history.events[len(self.seen) :][: len(new)] == new
        self.seen += new

    def finished(self, study: lt.Study) -> None:
        self.calls.append(f"finished {study.name}")


class Raising:
    def started(self, study: lt.Study) -> None:
        raise RuntimeError("no network")

    def events(self, history: lt.History, new: Any) -> None:
        raise RuntimeError("still no network")


@pytest.mark.parametrize("workers", [None, 2])
def test_a_follower_is_told_of_every_event_once_and_in_order(workers: int | None, tmp_path: Path) -> None:
    diary = Diary()
    with pytest.warns(RuntimeWarning, match="no network") as caught:
        study = tune(reporting(0), callbacks=[Raising(), diary], workers=workers, name="s", store=tmp_path / "s.db")
    assert len([one for one in caught if "network" in str(one.message)]) == 1, "a follower is blamed once"
    assert diary.seen == study.history.events and diary.calls == ["started s", "finished s"]
    again = Diary()  # of a study that has ended it hears all the same
    tune(reporting(0), callbacks=again, name="s", store=tmp_path / "s.db")
    assert again.seen == diary.seen
    with pytest.raises(MethodError, match=r"a callback must have started.*got <function"):
        tune(callbacks=[value])


def test_a_follower_hears_the_end_of_a_study_that_fails() -> None:
    def broken(config: dict[str, Any]) -> float:
        raise OSError("no data/train.csv") if config["x"] >= 0 else AssertionError

    diary = Diary()
    with pytest.raises(StudyError, match=r"all 6 trials failed, the first with: OSError: no data/train\.csv") as caught:
        tune(broken, callbacks=[diary])
    assert diary.calls == ["started broken-random", "finished broken-random"]
    assert [trial.status for trial in caught.value.study.trials] == ["failed"] * 6
    with pytest.raises(StudyError, match="all 6 trials diverged, the first with loss=inf"):
        tune(lambda config: float("inf"))
    with pytest.raises(StudyError, match="2 trials failed in a row") as caught:
        tune(broken, max_failures=2)
    assert len(caught.value.study.trials) == 2


def test_a_study_stops_where_the_user_has_enough(tmp_path: Path) -> None:
    study = tune(trials=500, stop=lt.stop.Target(0.02))
    values = [trial.metrics["loss"] for trial in study.trials]
    assert values[-1] <= 0.02 < min(values[:-1])
    study = tune(trials=500, metric="gain", mode="max", stop=[lt.stop.Target(0.9)])
    assert study.best.metrics["gain"] >= 0.9 and len(study.trials) < 500
    kept: dict[str, Any] = {"trials": 500, "stop": lt.stop.NoImprovement(trials=8), "store": tmp_path / "s.db"}
    study = tune(**kept)
    values = [trial.metrics["loss"] for trial in study.trials]
    assert int(np.argmin(values)) == len(values) - 9
    assert len(tune(**kept).trials) == len(values), "the same call again has had enough as well"
    assert len(tune(trials=500, stop=lambda study: len(study.trials) >= 7).trials) == 7
    running = tune(reporting(0, 50), trials=500, workers=2, stop=lambda study: len(study.trials) >= 7)
    assert 7 <= len(running.trials) <= 8 and not running.history.pending
    for wrong in (0.1, {"loss": 0.1}, lt.stop.Target, [None]):
        with pytest.raises(MethodError, match="a condition to stop must be a function of the study"):
            tune(stop=wrong)
    with pytest.raises(StudyError, match="raised ZeroDivisionError"):
        tune(stop=lambda study: 1 / 0)
    with pytest.raises(StudyError, match="metric must be an objective of the study, got 'los'"):
        tune(stop=lt.stop.Target(0.1, "los"))
    for make, words in ((lambda: lt.stop.NoImprovement(0), "≥ 1, got 0"), (lambda: lt.stop.Target("x"), "got 'x'")):
        with pytest.raises(MethodError, match=words):
            make()


def test_a_study_may_start_with_the_defaults() -> None:
    space = lt.Space(x=lt.Float(0, 1, default=0.25), layers=lt.Int(1, 4))
    assert tune(space=space, start="default").trials[0].config["x"] == 0.25
    assert [trial.config["x"] for trial in tune(space=space, start=[{"x": 0.5}, "default"]).trials[:2]] == [0.5, 0.25]
    with pytest.raises(LuthierError, match="default"):
        tune(start="default")
    with pytest.raises(ConfigError, match="must be a configuration, got 'best'"):
        tune(start="best")


def test_a_script_with_known_configurations_may_be_run_again(tmp_path: Path) -> None:
    known: list[Any] = [{"x": 0.5, "layers": 2}, {"layers": 3}, {"x": 0.5, "layers": 2}]
    runs = [tune(store=tmp_path / "s.db", start=known) for _ in range(3)]
    configs = [trial.config for trial in runs[-1].trials]
    assert len(configs) == 6 and configs == [trial.config for trial in runs[0].trials]
    assert configs[0] == configs[2] == known[0] and configs[1]["layers"] == 3
    assert configs.count(known[0]) == 2, "twice in the list is twice, and no more often"
    study = lt.Study("asked", SPACE, trials=6, store=tmp_path / "s.db")
    assert [study.enqueue(known[0]), study.enqueue(known[0])] == [0, 1]
    study = lt.Study("asked", SPACE, trials=6, store=tmp_path / "s.db")
    assert [study.enqueue(known[0]), study.enqueue(known[0]), study.enqueue({"x": 0.1, "layers": 1})] == [0, 1, 2]
    nested = lt.Space(kind=lt.Choice(["sgd", "adam"]), momentum=lt.Float(0, 1, when={"kind": "sgd"}))
    assert tune(lambda c: 1.0, space=nested, start={"momentum": 0.5}).trials[0].config == {
        "kind": "sgd",
        "momentum": 0.5,
    }


@pytest.mark.parametrize(
    ("start", "error", "words"),
    [
        ([{"x": 7.0}], ConfigError, "x"),
        ([{"lr": 7.0}], ConfigError, "lr"),
        ([0.5], ConfigError, r"start\[0\] must be a configuration, got 0.5"),
        (3, ConfigError, "start must be configurations, got 3"),
        ([{}] * 7, StudyError, "7 configurations came for trials=6"),
    ],
)
def test_configurations_that_cannot_start(start: Any, error: type[LuthierError], words: str) -> None:
    with pytest.raises(error, match=words):
        tune(start=start)
    with pytest.raises(MethodError, match="visits fixed points"):
        tune(method="grid", start=[{}])
    with pytest.raises(ConfigError, match="no values of the other names make active"):
        space = lt.Space(kind=lt.Choice(["a", "b"]), x=lt.Float(0, 1, when={"kind": "a"}))
        tune(space=space, start=[{"kind": "b", "x": 0.5}])


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"n_trials": 3}, "Here it is called trials"),
        ({"direction": "maximize"}, "Here it is called mode. It is 'min' or 'max'"),
        ({"timeout": 60}, "Here it is called seconds"),
        ({"n_jobs": 2}, "Here it is called workers"),
        ({"max_epochs": 2}, "Here it is called epochs"),
        ({"sampler": None}, "Here it is called method"),
        ({"storage": "s.db"}, "Here it is called store"),
        ({"trails": 3}, "Here it is called trials"),
        ({"qqq": 3}, "Its arguments are task, method"),
    ],
)
def test_the_names_of_other_tools_are_answered_by_ours(given: dict[str, Any], ours: str) -> None:
    with pytest.raises(ArgumentError, match=ours):
        lt.tune(value, **given)
    assert issubclass(ArgumentError, TypeError)


def test_the_names_for_type_checkers_are_those_of_the_table() -> None:
    from luthier.study.methods import MethodName

    assert get_args(MethodName) == tuple(lt.METHODS)
    assert {"Random", "GaussianProcess", "Proposer"} <= set(dir(lt.propose))
    study = tune()
    assert all("\n" not in repr(one) and len(repr(one)) < 300 for one in (study, study.best, study.trials[0]))


def test_numbers_of_numpy_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three: Any = np.int64(3)
    assert tune(trials=np.array(3), progress=np.False_).name == "value-random"
    assert capsys.readouterr().err == ""  # np.False_ is False
    study = tune(trials=three, seed=three, epochs=np.float32(2), max_failures=three, store=tmp_path / "s.db")
    assert len(study.trials) == 3 and study.settings["budget"]["trials"] == 3
    asked = lt.Study("s", SPACE, trials=three, seed=three)
    jobs = asked.ask(three)
    asked.tell(np.int64(jobs[1].number), 1.0)  # type: ignore[arg-type]
    jobs[0].config["x"] = 7.0
    assert asked.history.jobs[0].config["x"] != 7.0 and asked.history.results[1] is not None


def test_every_function_of_the_front_answers() -> None:
    with pytest.raises(ArgumentError, match=r"Study: there is no argument 'direction'.*called mode"):
        lt.Study("s", SPACE, direction="max")  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match=r"compare: there is no argument 'n_trials'.*called trials"):
        lt.compare(value, ["random", "grid"], n_trials=3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match=r"too many positional arguments.*by name: \w+, \w+, \w+, \w+, …"):
        lt.tune(value, "random", 20)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="missing a required argument: 'task'"):
        lt.tune()  # type: ignore[call-arg]
    with pytest.raises(MethodError, match=r"workers=2 and executor=.* were both given"):
        tune(workers=2, executor=lt.execute.Local())
    with pytest.raises(MethodError, match="workers"):
        tune(workers=0)


def test_reports_without_the_objective_are_mentioned_once_where_they_would_decide() -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        trial.report(1, val_loss=config["x"])
        return config["x"]

    with pytest.warns(RuntimeWarning, match="reported val_loss and never the objective 'loss'") as caught:
        tune(train, "median")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tune(train)


def test_a_function_that_reports_nothing_is_told_that_nothing_can_be_stopped() -> None:
    with pytest.warns(RuntimeWarning, match=r"trial 0 reported nothing.*trial\.report\(epoch, loss=…\)") as caught:
        tune(value, "asha", steps=9)
    assert [one.filename for one in caught] == [__file__], "where the user has called"


def test_what_an_enqueued_configuration_leaves_out_is_drawn_once(tmp_path: Path) -> None:
    space = lt.Space(x=lt.Float(0, 1), kind=lt.Choice(["a", "b"]), y=lt.Float(0, 1, when={"kind": "a"}))
    for _ in range(2):  # the script is run again
        with lt.Study("s", space, store=tmp_path / "a.db", trials=5) as study:
            assert [study.enqueue(one) for one in ({"x": 0.25}, {"x": 0.25}, {"y": 0.5})] == [0, 1, 2]
    study = tune(value, space=space, store=tmp_path / "a.db", name="s", trials=5)
    first, second, third = (trial.config for trial in study.trials[:3])
    assert first["x"] == second["x"] == 0.25 and first != second
    assert third["kind"] == "a" and third["y"] == 0.5
    with pytest.raises(lt.errors.ConfigError, match=r"enqueue\[0\] has y=0\.5, which no values"):
        lt.Study("t", space).enqueue({"y": 0.5, "kind": "b"})


def test_the_old_spelling_of_write_report_warns(tmp_path: Path) -> None:
    study = tune()
    with pytest.warns(FutureWarning, match=r"is now study\.write_report"):
        old = study.report(tmp_path / "old.html")
    assert old.read_text() == study.write_report(tmp_path / "new.html").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_knows_itself_and_keeps_files_and_notes(workers: int, tmp_path: Path) -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        (trial.folder / "weights.txt").write_text(f"{trial.study} {trial.number} {config['x']}")
        trial.note(weights=trial.folder / "weights.txt", shape=(3, np.int64(4)))
        trial.note(shape=[5], text="=1+1")
        if trial.number == 2:
            raise OSError("too late")
        return config["x"]

    store = tmp_path / "s.db"
    tune(train, workers=workers, store=store, name="s")
    study = lt.Study.load("s", store)
    for trial in study.trials:
        assert trial.notes["shape"] == [5] and trial.notes["text"] == "=1+1"
        kept = Path(trial.notes["weights"])
        assert kept.read_text() == f"s {trial.number} {trial.config['x']}" and tmp_path in kept.parents
    assert study.trials[2].status == "failed" and study.to_records()[2]["notes.shape"] == [5]
    again = tune(train, workers=workers, store=store, name="s")
    assert all(Path(trial.notes["weights"]).exists() for trial in again.trials), "a finished study keeps them"
    with pytest.raises(TaskError, match="trial 0 has no folder"):
        _ = Trial(0, {}, 1, 1, lambda *_: False).folder
    with pytest.raises(TaskError, match="cannot be kept as a note"):
        Trial(0, {}, 1, 1, lambda *_: False).note(model=object())


@pytest.mark.filterwarnings("ignore:.*reported nothing")
@pytest.mark.parametrize("method", ["random", "gp", "genetic", "gflownet", "median", "grid"])
def test_a_space_visited_whole_ends_the_study(method: str) -> None:
    space = lt.Space(a=lt.Int(1, 3), b=lt.Choice(["x", "y", "z"]), constraint=lambda c: c["a"] < 3 or c["b"] != "z")
    study = lt.tune(lambda config: config["a"], method, space=space, progress=False)
    assert len({str(trial.config) for trial in study.trials}) == len(study.trials) == 8 and study.over


def test_what_is_public_shows_itself_on_one_line(tmp_path: Path) -> None:
    space = lt.Space(lr=lt.Float(1e-4, 1.0, log=True), act=lt.Choice(["a", "b"]), constraint=lambda config: True)
    with lt.Study("s", space, trials=3, store=tmp_path / "s.db") as study:
        for job in study.ask(3):
            study.tell(job, job.config["lr"])
        made = [study, study.history, study.best, study.trials, study.trials[0], study.best.schedule, space]
        made += [*study.history.events, *space.domains.values(), lt.open_store(tmp_path / "s.db"), lt.Budget(trials=3)]
    for method in lt.study.methods.METHODS.values():
        try:
            made.append(method.load()())
        except MethodError:  # its package is not installed
            continue
    for name in lt.__all__:
        made.append(getattr(lt, name))
    for one in made:
        assert "\n" not in repr(one) and " object at 0x" not in repr(one), repr(one)
    assert repr(study.history) == f"History(3 jobs, 0 running, best {study.history.best})"


def test_a_function_that_only_reports_has_its_last_values_as_its_result() -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> None:
        for epoch in range(4):
            trial.report(epoch, loss=config["x"] / (epoch + 1), rate=epoch)

    space = lt.Space(x=lt.Float(0.0, 1.0))
    study = lt.tune(train, space=space, trials=3, progress=False)
    for trial in study.trials:
        assert trial.status == "ok" and trial.metrics == {"loss": trial.config["x"] / 4, "rate": 3.0}
    with pytest.raises(StudyError, match=r"None \(NoneType\) was returned"):
        lt.tune(train, space=space, trials=3, metric="accuracy", mode="max", progress=False)


def test_failures_are_raised_where_the_others_were_pruned() -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        if trial.number % 2:
            raise lt.Pruned
        raise ValueError("no data")

    space = lt.Space(x=lt.Float(0.0, 1.0))
    with pytest.raises(StudyError, match=r"no trial ended well: 2 were pruned and 2 failed, the first with.*no data"):
        lt.tune(train, space=space, trials=4, progress=False)

    def pruned(config: dict[str, Any]) -> float:
        raise lt.Pruned

    assert lt.tune(pruned, space=space, trials=3, progress=False).best is None
