"""How a running study shows itself."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import luthier as lt
from luthier.jobs import Budget, History, Job, Report, Result
from luthier.study.loop import expected
from luthier.study.pace import Pace
from luthier.study.progress import LiveLine, PlainLines, Tick, duration, line
from luthier.tables import new_table
from luthier.testing.adapters import digits_task

ROOT = Path(__file__).parents[1]
SPACE = lt.Space(x=lt.Float(-1.0, 1.0))


def bowl(config: dict[str, Any]) -> float:
    return config["x"] ** 2


def test_progress_is_a_line_now_and_then_and_one_at_the_end() -> None:
    stream = io.StringIO()
    plain = PlainLines("mine", stream, every=0.0)
    tick = Tick(done=3, running=1, total=10, fresh=3, best=0.125, metric="loss", troubled=1)
    plain.show(tick)
    plain.close(tick)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("mine: 3/10 done · 1 running · 1 failed or diverged · best loss 0.125 · ")
    assert [duration(s) for s in (0.4, 59.5, 60.6, 3700)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]


def test_the_live_line_is_drawn_at_most_four_times_a_second() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    live = LiveLine("mine", stream)
    shown = 0
    for done in range(50):
        if live.wants(time.monotonic()):
            live.show(Tick(done, 1, 50, done, 0.5, "loss"))
            shown += 1
    live.close(Tick(50, 0, 50, 50, 0.25, "loss"))
    assert shown == 1
    assert "50/50 done" in stream.getvalue() and "best loss 0.25" in stream.getvalue()


def test_what_is_said_before_the_first_progress_is_shown_too() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    shower = LiveLine("s", stream)
    shower.say("24 networks train as one stack")
    shower.show(Tick(1, 0, 2, 1, 0.5, "loss"))
    shower.close(Tick(2, 0, 2, 2, 0.5, "loss"))
    assert stream.getvalue().count("24 networks train as one stack") == 1
    assert stream.getvalue().index("24 networks") < stream.getvalue().index("1/2 done")


class Gone(io.StringIO):
    """A terminal that takes nothing."""

    def __init__(self, error: type[Exception], tty: bool) -> None:
        super().__init__()
        self.error, self.tty = error, tty

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("error", [OSError, BrokenPipeError, ValueError])
def test_what_cannot_be_shown_ends_no_study(error: type[Exception], tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Gone(error, tty))
    assert len(lt.tune(bowl, space=SPACE, trials=3).trials) == 3


@pytest.mark.parametrize("text", ["sys.stderr.close()", "sys.stderr = None", "os.close(2)"])
def test_an_objective_that_closes_stderr_ends_no_study(text: str) -> None:
    code = f"import os, sys, luthier as lt\ndef train(config):\n    {text}\n    return config['x']\n"
    code += "space = lt.Space(x=lt.Float(0, 1))\nprint(len(lt.tune(train, space=space, trials=3).trials))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "3\n", done.stderr


def test_progress_goes_to_stderr_and_false_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    lt.tune(bowl, space=SPACE, trials=3, progress=False)
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    lt.tune(bowl, space=SPACE, trials=3)
    told = capsys.readouterr()
    assert told.out == "" and "bowl-random: 3/3 done" in told.err and "best loss" in told.err


def test_a_line_says_how_far_the_running_jobs_are() -> None:
    tick = Tick(
        5, 2, 10, 5, 0.25, "loss", pruned=3, furthest="epoch 3 of 20", latest=0.5, rate=1200.0, left=75.0, waiting=1
    )
    expected = "5/10 done · 2 running · 1 to go on with · 3 pruned · epoch 3 of 20 · loss 0.5 now, best loss 0.25"
    assert line(tick, 10.0) == f"{expected} · 1,200 steps/s · 1 min 15 s left"


def test_the_pace_of_jobs_by_their_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    history = History(SPACE, {"loss": "min"})
    for number in range(4):
        history.add(Job(number, {"x": 0.5}, steps=100))
    pace = Pace(history, Budget(trials=4, steps=100), 4)
    assert pace.left() is None and pace.furthest() == ""
    now[0] = 110.0
    pace.heard([Report(0, 50, {"loss": 1.0}), Report(1, 30, {"loss": 2.0})])
    assert (pace.furthest(), pace.rate(), pace.part()) == ("step 50 of 100", 8.0, 0.2)
    assert pace.left() == pytest.approx(40.0)  # a fifth took ten seconds
    history.add(Result(0, "ok", {"loss": 1.0}, 100))
    pace.ended([Result(0, "ok", {"loss": 1.0}, 100)])
    assert pace.part() == pytest.approx(1.3 / 4) and pace.furthest() == "step 30 of 100"


def test_time_left_is_right_within_a_factor_of_two_after_the_first_tenth() -> None:
    said: list[tuple[float, str]] = []

    class Notes(PlainLines):
        def show(self, tick: Tick) -> None:
            if tick.left is not None:
                said.append((time.monotonic(), str(tick.left)))

    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        for step in range(1, 21):
            time.sleep(0.01)
            trial.report(step, loss=config["x"])
        return config["x"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("luthier.study.loop.choose", lambda progress, name: Notes(name, io.StringIO(), every=0.05))
        begun = time.monotonic()
        lt.tune(train, space=SPACE, trials=10, steps=20)
    ended = time.monotonic()
    later = [(ended - at, float(left)) for at, left in said if 0.1 < (at - begun) / (ended - begun) < 0.9]
    assert len(later) > 5
    assert sum(0.5 < left / truth < 2.0 for truth, left in later) >= 0.9 * len(later)


@pytest.mark.slow
def test_time_left_of_stacks_functions_and_populations_as_a_terminal_shows_it() -> None:
    """A short form of what benchmarks/progress.py measures."""
    script = Path(__file__).parents[1] / "benchmarks" / "progress.py"
    done = subprocess.run([sys.executable, script, "--scale", "0.4"], capture_output=True, text=True, timeout=300)
    right = [int(share) for share in re.findall(r"(\d+)% \|$", done.stdout, re.MULTILINE)]
    assert len(right) == 3 and min(right) >= 50, f"other tests may run beside it: {done.stdout}{done.stderr}"


def test_the_time_left_forgets_how_long_the_beginning_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("luthier.study.pace.time.monotonic", lambda: clock[0])
    history = History(SPACE)
    history.add(Job(0, {"x": 0.0}, 100))
    pace = Pace(history, Budget(1, steps=100), 1)
    for step in range(1, 41):
        clock[0] = 20.0 + step  # twenty seconds until the first step, then one a second
        pace.heard([Report(0, step, {"loss": 1.0})])
        left = pace.left()
    assert left == pytest.approx(60.0)


def test_the_jobs_of_a_population_are_known() -> None:
    with lt.Study(space=SPACE, method=lt.propose.PBT(rounds=4), trials=6, steps=8) as study:
        assert expected(study._ledger, 6) == 24, "six members in four rounds"
    with lt.Study(space=SPACE, method="asha", trials=6, steps=9) as study:
        assert expected(study._ledger, 6) is None, "nobody knows how many it will continue"
    with lt.Study(space=lt.Space(n=lt.Int(1, 7))) as study:
        assert expected(study._ledger, None) == 7, "a space that is visited whole"


def test_the_first_failure_is_said_while_the_study_runs_and_nothing_runs_after_it(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        if trial.number in (1, 2):
            raise ValueError(f"no such file {trial.number}")
        if trial.number == 3:
            raise KeyboardInterrupt
        return config["x"]

    with caplog.at_level("INFO", logger="luthier"), pytest.raises(KeyboardInterrupt):
        lt.tune(train, space=SPACE, trials=6)
    err = capsys.readouterr().err
    assert err.count("failed: ValueError: no such file 1") == 1 and "no such file 2" not in err
    assert "running" not in err.splitlines()[-1] and "1 to go on with" in err.splitlines()[-1]
    assert [record.message for record in caplog.records if "job 2 failed" in record.message]


def test_a_running_trial_is_told_by_its_last_report_and_one_that_nobody_runs_waits(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    with lt.Study("s", SPACE, store=store, trials=4, steps=10) as study:
        first, second = study.ask(2)
        study.report(first, 4, loss=0.25)
        study._ledger.flush()
        seen = lt.Study.load("s", store)
        trial, other = seen.trials
        assert (trial.status, trial.steps, dict(trial.metrics)) == ("running", 4, {"loss": 0.25}), "done, not planned"
        assert (other.status, other.steps) == ("running", 0) and time.time() - 60 < (trial.since or 0.0) <= time.time()
        assert [one.status for one in study.trials] == ["running", "running"]
        study.tell(second, 1.0)
    assert [one.status for one in seen.trials] == ["waiting", "ok"] and seen.trials[0].since is None
    page = seen.write_report(tmp_path / "page.html").read_text()
    assert [row["steps"] for row in seen.to_records()] == [4, 10] and seen.to_records()[0]["age"] == 4
    assert [row["status"] for row in seen.to_records()] == list(seen.to_pandas()["status"]) == ["waiting", "ok"]
    body = page[: page.index('<script type="application/json"')].partition("</head>")[2]
    assert ">waiting<" in body and ">running<" not in body
    with lt.Study("m", SPACE, trials=2) as memory:
        memory.ask()
        assert memory.trials[0].status == "running"


def test_moves_of_an_adapter_are_told_and_numbers_of_a_table_stand_at_the_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lt.tune(digits_task(), "hypergradient", trials=1, steps=40, progress=True)
    told = [text for text in capsys.readouterr().err.splitlines() if "job 0 · step" in text]
    assert told and all("lr " in text and "hypergradient " in text for text in told), told
    table = new_table("studies", "name", "jobs", right=["jobs"])
    assert [column.justify for column in table.columns] == ["left", "right"]


def test_after_a_crash_nothing_says_running(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, sys, luthier as lt\n"
        "def train(config, trial):\n"
        "    trial.report(1, loss=1.0)\n"
        "    if trial.number == 1: os.kill(os.getpid(), 9)\n"
        "    return 1.0\n"
        "lt.tune(train, space=lt.Space(x=lt.Float(0, 1)), trials=4, store=sys.argv[1], name='s', progress=False)\n"
    )
    store = str(tmp_path / "s.db")
    assert subprocess.run([sys.executable, script, store]).returncode == -9
    assert [one.status for one in lt.Study.load("s", store).trials] == ["ok", "waiting"]
    shown = subprocess.run(
        [sys.executable, "-m", "luthier", "show", "s", "--store", store], capture_output=True, text=True
    )
    assert "waiting" in shown.stdout and "running" not in shown.stdout
    for form in ("csv", "json"):
        command = [sys.executable, "-m", "luthier", "export", "s", "--store", store, "--format", form]
        rows = subprocess.run(command, capture_output=True, text=True).stdout
        assert rows.count("waiting") == 1 and "running" not in rows
