"""The command line, in this process and once for real."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import luthier as lt
from luthier.cli import app
from luthier.cli.options import named_method
from luthier.errors import MethodError
from luthier.study.methods import METHODS, settings_of
from luthier.study.study import Study

ROOT = Path(__file__).parents[1]
TASK = """
import luthier as lt

space = lt.Space(x=lt.Float(-1.0, 1.0), layers=lt.Int(1, 3))


def objective(config):
    if config["layers"] == 3:
        raise ValueError("too deep")
    return config["x"] ** 2 + config["layers"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LUTHIER_STORE", raising=False)
    (tmp_path / "mine.py").write_text(TASK)
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    """What the command printed, both streams; its exit code is checked."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_standard_output_is_one_line(here: Path) -> None:
    run("tune", "mine.py", "--trials", "6", "--store", "s.db")
    for command in ("show mine-random --store s.db", "export mine-random --store s.db", "methods"):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "luthier", *command.split()],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert (done.returncode, done.stderr) == (1, "standard output cannot be written (No space left on device)\n")


def test_tune_show_studies_export_and_report(here: Path) -> None:
    told = run("tune", "mine.py", "--trials", "12", "--store", "s.db")
    assert "mine-random" in told and "loss" in told and "luthier report mine-random --store s.db" in told
    study = Study.load("mine-random", here / "s.db")
    best = study.best
    assert best is not None and f"{best.metrics['loss']:.6g}" in told

    assert run("tune", "mine.py", "--trials", "12", "--store", "s.db", "--quiet").startswith("mine-random: job")
    assert len(Study.load("mine-random", here / "s.db").trials) == 12

    listed = run("studies", "--store", "s.db")
    assert "mine-random" in listed and "12" in listed
    shown = run("show", "mine-random", "--store", "s.db", "--last", "12")
    assert "12 trials:" in shown and "Random" in shown and "ValueError: too deep" in shown

    several = run("show", "mine-random", "--store", "s.db", "--last", "0", "--diverse", "3", "--within", "0.9")
    lines = several.partition("within 0.9 of the best")[2].splitlines()
    found = [int(line.split()[1]) for line in lines if line.startswith("│")]
    assert found == [one.number for one in study.diverse(3, within=0.9)] and len(found) > 1

    rows = list(csv.DictReader(run("export", "mine-random", "--store", "s.db").splitlines()))
    assert len(rows) == 12 and float(rows[best.number]["metrics.loss"]) == best.metrics["loss"]
    run("export", "mine-random", "--store", "s.db", "--format", "json", "--output", "rows.json")
    assert json.loads((here / "rows.json").read_text())[best.number]["config.x"] == best.config["x"]

    assert str(here / "mine-random.html") in run("report", "mine-random", "--store", "s.db")
    assert "too deep" in (here / "mine-random.html").read_text()


def test_settings_of_the_proposer_that_comes_with_an_adapter() -> None:
    found = named_method("enas", {"draws": 3, "search": 0.25, "response": "identity"}, 1)
    assert (found.proposer.draws, found.proposer.search, found.adapter.response) == (3, 0.25, "identity")
    assert {"draws", "response"} <= {*settings_of("enas")} and "draws" not in settings_of("enas", alone=False)
    with pytest.raises(MethodError, match="drows") as error:
        named_method("enas", {"drows": 3}, 1)
    assert "draws" in error.value.remedy and "response" in error.value.remedy
    with pytest.raises(MethodError, match="no setting"):
        named_method("random+enas", {"draws": 3}, 1)


def test_settings_of_the_method_and_of_the_objective(here: Path) -> None:
    run("tune", "mine.py", "-m", "grid", "--set", "points=2", "--set", "shuffle=true", "--store", "s.db", "--name", "g")
    study = Study.load("g", here / "s.db")
    assert len(study.trials) == 4
    assert study.settings["method"]["proposer"] == {"class": "Grid", "points": 2, "shuffle": True}
    run("tune", "mine.py", "-n", "5", "--metric", "cost", "--mode", "max", "--seed", "4", "--name", "m", "-q")
    study = Study.load("m", here / "luthier.db")  # the default store
    assert study.history.objectives == {"cost": "max"} and study.settings["seed"] == 4


def test_several_objectives_are_tuned_and_shown_as_a_set(here: Path) -> None:
    (here / "two.py").write_text(
        "import luthier as lt\n\nspace = lt.Space(x=lt.Float(-1.0, 1.0))\n\n\n"
        "def objective(config):\n    return {'loss': config['x'] ** 2, 'gain': config['x']}\n"
    )
    given = ["--metric", "loss, gain", "--mode", "min,max", "--trials", "24", "--store", "s.db"]
    told = run("tune", "two.py", "--method", "genetic", "--set", "population=6", *given)
    study = Study.load("two-genetic", here / "s.db")
    assert study.history.objectives == {"loss": "min", "gain": "max"} and len(study.front) > 1
    for text in (told, run("show", "two-genetic", "--store", "s.db", "--last", "0")):
        assert f"{len(study.front)} in the Pareto set" in text
        for one in study.front:
            assert f"{one.metrics['gain']:.6g}" in text
    assert "down" in run("tune", "two.py", "--metric", "loss,gain", "--mode", "min,down", "--store", "s.db", code=2)
    run("export", "two-genetic", "--store", "s.db", "--format", "schedule", "--output", "first.json")
    run("report", "two-genetic", "--store", "s.db")
    assert "Trade-off between the objectives" in (here / "two-genetic.html").read_text()


def test_the_store_may_come_from_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_STORE", str(here / "env.db"))
    run("tune", "mine.py", "-n", "3", "-q")
    assert "mine-random" in run("studies")
    assert (here / "env.db").is_file()


def test_a_study_in_memory_is_not_offered_for_a_report(here: Path) -> None:
    told = run("tune", "mine.py", "-n", "3", "--store", ":memory:")
    assert "loss" in told and "luthier report" not in told
    assert not list(here.glob("*.db"))


def test_methods_lists_the_table_and_every_row_is_real() -> None:
    told = run("methods")
    for method in METHODS.values():
        assert method.name in told
        assert (ROOT / method.file).is_file() and (not method.example or (ROOT / method.example).is_file())
        kind = method.load()
        assert callable(getattr(kind, "propose" if method.kind == "between" else "step"))
        assert (kind.__module__.replace(".", "/") + ".py") == method.file


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tune", "mine.py", "--method", "randm", "--trials", "3"], 2, ["randm", "random"]),
        (["tune", "absent.py", "--trials", "3"], 2, ["absent.py", "no such file"]),
        (["tune", "mine.py"], 2, ["trials"]),
        (["tune", "mine.py", "--trials", "0"], 2, ["--trials"]),
        (["tune", "mine.py", "--trials", "ten"], 2, ["--trials", "integer"]),
        (["tune", "mine.py", "--trails", "3"], 2, ["--trails"]),
        (["tune", "mine.py", "--trials", "3", "--mode", "up"], 2, ["--mode", "up"]),
        (["tune", "mine.py", "-m", "grid", "--set", "points"], 2, ["points", "KEY=VALUE"]),
        (["tune", "mine.py", "-m", "grid", "--set", "pionts=3"], 2, ["pionts", "points"]),
        (["tune", "mine.py", "-n", "3", "--metric", "accuracy"], 1, ["accuracy", "mode"]),
        (["show", "mine", "--store", "absent.db"], 1, ["absent.db"]),
        (["show", "mine", "--store", "mine.py"], 1, ["mine.py"]),
        (["export", "mine", "--format", "xml"], 2, ["--format", "xml"]),
        (["fly"], 2, ["fly"]),
        (["tune", "mine.py", "--gpus", "1"], 2, ["--executor ray"]),
    ],
)
def test_wrong_use_is_one_line_and_an_exit_code(here: Path, arguments: list[str], code: int, words: list[str]) -> None:
    told = run(*arguments, code=code)
    assert all(word in told for word in words), told
    assert "Traceback" not in told


def test_an_unknown_study_names_those_that_are_there(here: Path) -> None:
    run("tune", "mine.py", "-n", "3", "-q")
    assert "mine-random" in run("show", "other", code=1)


def test_a_study_in_which_every_trial_failed_is_a_failure(here: Path) -> None:
    (here / "broken.py").write_text(TASK.replace("== 3", "> 0"))
    told = run("tune", "broken.py", "-n", "4", code=1)
    assert "all 4 trials failed" in told and "too deep" in told
    assert len(Study.load("broken-random", here / "luthier.db").trials) == 4


def test_help_teaches_with_examples() -> None:
    assert "luthier tune examples/fashion_mnist.py --trials 16 --epochs 5" in run("tune", "--help")
    assert all(name in run("--help") for name in ("tune", "methods", "studies", "show", "report", "export"))
    assert run("--version").startswith("luthier ")


def test_the_real_command(here: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "luthier", "tune", "mine.py"]
    done = subprocess.run(
        [*command, "-n", "6", "--workers", "2"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "loss" in done.stdout and "mine-random: 6/6 done" in done.stderr
    wrong = subprocess.run(
        [*command, "-n", "6", "--seed", "1"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 1 and "stored 0, given 1" in wrong.stderr and len(wrong.stderr.splitlines()) == 1
    (here / "mine.py").write_text(TASK.replace("** 2", "** 4"))
    said = subprocess.run([*command, "-n", "6"], env=environment, capture_output=True, text=True, timeout=60).stderr
    assert said.startswith("study 'mine-random': the task's code has changed") and len(said.splitlines()) == 2, said

    (here / "slow.py").write_text(
        TASK.replace("    if", "    print('called', flush=True)\n    __import__('time').sleep(0.2)\n    if")
    )
    command = [sys.executable, "-m", "luthier", "tune", "slow.py", "-n", "500"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["called\n"] * 2
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "goes on from there" in errors and "Traceback" not in errors


def test_a_method_tells_its_settings_and_a_pair_takes_those_of_both(here: Path) -> None:
    told = " ".join(run("methods", "pbt").split())
    assert "rounds" in told and "10" in told and "Parts of a whole training" in told and "(0.8, 1.2)" in told
    assert "no method 'nope'" in run("methods", "nope", code=2)
    for name in METHODS:
        assert all(meaning for _, meaning in settings_of(name).values()), name
    pair = named_method("grid+hypergradient", {"points": 2, "hypergradient.hyper_lr": 0.5}, 1)
    assert (pair[0].points, pair[1].hyper_lr) == (2, 0.5) and named_method("gp", {}, 1) == "gp"
    for text, settings, message in (
        ("grid+hypergradient", {"nothing": 1}, "is no setting.*The settings are grid: points"),
        ("grid+nope", {}, "there is no method 'grid.nope'"),
        ("grid+gp+pbt", {}, "there is no method"),
    ):
        with pytest.raises(MethodError, match=message):
            named_method(text, settings, 1)
    (here / "net.py").write_text(
        "import torch, luthier as lt\n\n\n"
        "def part(rows, drawn=torch.Generator().manual_seed(0)):\n"
        "    return lt.Split(torch.randn(rows, 3, generator=drawn), torch.randn(rows, 1, generator=drawn))\n\n\n"
        "task = lt.TorchTask(space=lt.Space(lr=lt.Float(1e-3, 0.1, log=True)), model=lambda c: torch.nn.Linear(3, 1),\n"
        "    data=lt.Splits(part(40), part(20), part(20)), loss=lt.losses.mean_squared_error,\n"
        "    optimizer=lt.optim.SGD(), batch_size=20)\n"
    )
    run(
        "tune",
        "net.py",
        "-m",
        "random+hypergradient",
        "-n",
        "2",
        "--steps",
        "5",
        "--store",
        "s.db",
        "--name",
        "p",
        "-q",
    )
    study = Study.load("p", here / "s.db")
    assert study.settings["method"]["adapter"]["class"] == "Hypergradient" and len(study.trials) == 2


def test_known_configurations_come_first_and_a_study_ends_when_it_is_good_enough(here: Path) -> None:
    given = ["--store", "s.db", "--trials", "40", "-q"]
    run("tune", "mine.py", *given, "--name", "a", "--start", '{"x": 0.5, "layers": 2}', "--start", '{"x": 0.25}')
    study = Study.load("a", here / "s.db")
    assert study.trials[0].config == {"x": 0.5, "layers": 2} and study.trials[1].config["x"] == 0.25
    run("tune", "mine.py", *given, "--name", "b", "--start", '{"x": 0.0, "layers": 1}', "--target", "1.0")
    assert len(Study.load("b", here / "s.db").trials) == 1
    run("tune", "mine.py", *given, "--name", "c", "--start", '{"x": 0.0, "layers": 1}', "--patience", "3")
    assert 1 < len(Study.load("c", here / "s.db").trials) < 12
    assert "is not JSON" in run("tune", "mine.py", *given, "--start", "{x}", code=2)


def test_a_trial_has_a_limit_of_time(here: Path) -> None:
    (here / "slow.py").write_text(
        "import time\n\nimport luthier as lt\n\nspace = lt.Space(x=lt.Float(0.0, 1.0))\n\n\n"
        "def objective(config, trial):\n    for epoch in range(100):\n        trial.report(epoch, loss=1.0)\n"
        "        time.sleep(0.1 if trial.number else 0.0)\n    return 1.0\n"
    )
    run("tune", "slow.py", "-n", "2", "--trial-seconds", "1", "--store", "s.db", "--name", "s", "-q")
    assert [trial.status for trial in Study.load("s", here / "s.db").trials] == ["ok", "pruned"]


def test_a_study_is_sampled(here: Path) -> None:
    """luthier sample prints what GFlowNet().fit(study).sample() gives, with what is expected of it."""
    space = lt.Space(x=lt.Float(0.0, 1.0), kind=lt.Choice(["a", "b"]))
    study = lt.Study("seen", space, metric="accuracy", mode="max", method="random", trials=40, store="s.db")
    while jobs := study.ask(10):
        for job in jobs:
            study.tell(
                job, {"accuracy": 1.0 - abs(job.config["x"] - 0.7) * (1.0 if job.config["kind"] == "a" else 0.1)}
            )
    arguments = ("sample", "seen", "--store", "s.db", "--count", "20")
    rows = list(csv.DictReader(run(*arguments, "--set", "beta=10", "--seed", "3").splitlines()))
    fitted = lt.propose.GFlowNet(beta=10).fit(study, seed=3)
    wanted = fitted.sample(20, seed=3)
    assert [{"x": float(row["config.x"]), "kind": row["config.kind"]} for row in rows] == wanted
    assert [float(row["expected.accuracy"]) for row in rows] == fitted.predict(wanted)[0].tolist()
    run(*arguments, "--set", "bins=5", "--paper", "--format", "json", "--output", "rows.json")
    printed = lt.propose.GFlowNet.paper(bins=5).fit(study)
    assert [row["config.x"] for row in json.loads((here / "rows.json").read_text())] == [
        config["x"] for config in printed.sample(20)
    ]
    assert "betta" in run(*arguments, "--set", "betta=1", code=2)
    assert "csv or json" in run(*arguments, "--format", "schedule", code=2)
