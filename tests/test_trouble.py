"""Three kinds of trouble kept apart: the environment, a process that died under a job, an exception of the training."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier as lt
from luthier.errors import CheckpointError, StudyError
from luthier.jobs import Job, Lost
from luthier.store.checkpoints import Checkpoints
from luthier.study import again
from luthier.train import alone as train_alone
from luthier.train import keep
from luthier.train import stack as train_stack

SPACE = lt.Space(x=lt.Float(0.0, 1.0))
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(120)


def status_of(study: lt.Study) -> Counter[str]:
    return Counter(trial.status for trial in study.trials)


class Walk:
    """A Trainable."""

    def init(self, config: dict[str, Any], key: int) -> dict[str, Any]:
        return {"at": 1.0}

    def advance(self, state: Any, config: dict[str, Any], steps: int) -> Any:
        return {"at": state["at"] * (1 - 0.1 * config["x"]) ** steps}, {}

    def evaluate(self, state: Any) -> dict[str, float]:
        return {"loss": state["at"]}


def pbt(folder: Path, progress: bool = False) -> lt.Study:
    options: dict[str, Any] = {"trials": 4, "steps": 30, "store": folder / "a.db", "name": "s", "progress": progress}
    return lt.tune(Walk(), lt.propose.PBT(rounds=3), space=SPACE, **options)


# -- the environment: waited for, never counted, never a result -------------------------------------------------------


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "PAUSES", (0.01,))
    save, fails = Checkpoints.save, [7]

    def full(self: Checkpoints, *args: Any) -> str:
        fails[0] -= 1
        if fails[0] >= 0:
            raise CheckpointError("the disk is full", where="here", remedy="Wait.") from OSError()
        return save(self, *args)

    monkeypatch.setattr(Checkpoints, "save", full)
    study = pbt(tmp_path)
    assert fails[0] < 0 and {result.status for result in study.history.results if result} == {"ok"}
    assert len(study.history.arrival) == 12


def stacks(folder: Path, progress: bool = False) -> lt.Study:
    return lt.tune(digits(), trials=12, epochs=1, store=folder / "a.db", name="s", progress=progress)


@pytest.mark.parametrize("run", [pbt, stacks])
def test_a_full_disk_is_waited_for_as_long_as_a_database(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keep, "PAUSES", (0.01,))
    monkeypatch.setattr(again, "MISSING", 0.0)  # a file that is missing would end it
    save, until = Checkpoints.save, []

    def full(self: Checkpoints, *given: Any) -> str:
        until.append(time.monotonic() + 1.5)
        return _full() if time.monotonic() < until[0] else save(self, *given)

    monkeypatch.setattr(Checkpoints, "save", full)
    study = run(tmp_path, progress=True)
    assert time.monotonic() > until[0]
    assert Counter(result and result.status for result in study.history.results) == {"ok": 12}
    assert "will run again: here: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("run", [pbt, stacks])
def test_a_disk_that_stays_full_ends_the_call_and_fails_no_trial(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "PAUSES", (0.01,))
    monkeypatch.setattr("luthier.store.sql.SQL.outage", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", _full)
        with pytest.raises(StudyError, match=r"cannot be kept or read: .*the disk is full.*No trial has failed by it"):
            run(tmp_path)
    study = run(tmp_path)
    assert Counter(result and result.status for result in study.history.results) == {"ok": 12}


def _full(*args: Any) -> str:
    raise CheckpointError("the disk is full", where="here", remedy="Wait.") from OSError()


def test_a_parents_state_that_is_missing_ends_the_call_and_fails_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "PAUSES", (0.01,))
    monkeypatch.setattr(again, "MISSING", 0.2)

    def missing(self: Checkpoints, file: str) -> Any:
        raise CheckpointError("the checkpoint does not exist", where=file, remedy="Restore it.")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "load", missing)
        with pytest.raises(StudyError, match="the checkpoint does not exist"):
            pbt(tmp_path)
    assert Counter(result and result.status for result in pbt(tmp_path).history.results) == {"ok": 12}


LOCAL: Any = lt.execute.Local  # final for users; here what it does is wrapped


class Flaky(LOCAL):
    """Loses each job twice to a machine that goes away."""

    def submit(self, jobs: list[Job], parents: Any, partials: Any = None) -> None:
        self.times: Any = getattr(self, "times", Counter())
        self.gone = [Lost(job.number, "machine", "the node died") for job in jobs if self.times[job.number] < 5]
        self.times.update(job.number for job in jobs)
        lost = {one.number for one in self.gone}
        super().submit([job for job in jobs if job.number not in lost], parents)

    def collect(self, timeout: float | None) -> list[Any]:
        gone, self.gone = self.gone, []
        return gone or super().collect(timeout)


def test_a_machine_that_goes_away_is_charged_to_no_trial() -> None:
    executor = Flaky()
    study = lt.tune(lambda config: config["x"], space=SPACE, trials=4, executor=executor, progress=False)
    assert status_of(study) == {"ok": 4} and set(executor.times.values()) == {6}


def spoil(files: list[Path]) -> None:
    """Cut one file short, remove one, and change bytes in the middle of one; any others stay as they are."""
    files[0].write_bytes(files[0].read_bytes()[:100])
    if len(files) > 1:
        files[1].unlink()
        whole = files[2].read_bytes()
        files[2].write_bytes(whole[: len(whole) // 2] + b"damaged" + whole[len(whole) // 2 + 7 :])


def half_trained(folder: Path) -> list[Path]:
    """The newest state of each job on the way, by job."""
    found = {path.name.split("-")[1]: path for path in sorted(folder.rglob("partial-*.ckpt"), key=os.path.getmtime)}
    return [found[number] for number in sorted(found)]


def test_a_half_trained_state_that_is_damaged_costs_its_time_and_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)
    monkeypatch.setattr(train_stack, "PARTIAL_SECONDS", 0.0)
    options: dict[str, Any] = {"trials": 4, "epochs": 3, "name": "s", "progress": False}
    whole, reports, begun = lt.tune(digits(), **options), train_stack._reports, {}

    def interrupted(program: Any, adapter: Any, state: Any, rows: Any, *args: Any) -> Any:
        if args[1] > 57:  # in the second epoch
            raise KeyboardInterrupt
        return reports(program, adapter, state, rows, *args)

    def noted(program: Any, adapter: Any, state: Any, rows: Any, *args: Any) -> Any:
        for row in rows:
            begun.setdefault(row.job.number, args[1])
        return reports(program, adapter, state, rows, *args)

    monkeypatch.setattr(train_stack, "_reports", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lt.tune(digits(), store=tmp_path / "a.db", **options)
    files = half_trained(tmp_path)
    assert len(files) == 4
    spoil(files)
    monkeypatch.setattr(train_stack, "_reports", noted)
    study = lt.tune(digits(), store=tmp_path / "a.db", **options)
    assert [trial.status for trial in study.trials] == ["ok"] * 4
    assert [trial.metrics for trial in study.trials] == [trial.metrics for trial in whole.trials]
    assert begun[0] == begun[1] == begun[2] < begun[3], "three begin anew, and one goes on where it was"


def test_a_trainables_damaged_state_costs_its_time_and_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_alone, "PARTIAL_SECONDS", 0.0)
    advanced: list[int] = []

    class Reporting(Walk):
        report_every = 1

        def advance(self, state: Any, config: dict[str, Any], steps: int) -> Any:
            advanced.append(steps)
            if len(advanced) == 6:
                raise KeyboardInterrupt
            return super().advance(state, config, steps)

    options: dict[str, Any] = {"space": SPACE, "trials": 1, "steps": 8, "store": tmp_path / "a.db", "name": "s"}
    with pytest.raises(KeyboardInterrupt):
        lt.tune(Reporting(), progress=False, **options)
    spoil(half_trained(tmp_path))
    study = lt.tune(Reporting(), progress=False, **options)
    assert status_of(study) == {"ok": 1} and len(advanced) == 6 + 8, "from its beginning"


# -- a process that died under a job: counted -------------------------------------------------------------------------


def test_a_job_that_ends_its_worker_three_times_has_failed_and_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        with log.open("a") as out:
            out.write(f"{trial.number}\n")
        if trial.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return config["x"]

    study = lt.tune(train, space=SPACE, trials=8, workers=2, progress=False)
    assert status_of(study) == {"ok": 7, "failed": 1}
    assert "ended its worker 3 times, the last time: the worker process" in study.trials[1].error
    assert "SIGKILL" in study.trials[1].error
    begun = list(map(int, log.read_text().split()))
    # from the second time on after the others, one of which may still be on its way into its worker
    assert begun.count(1) == 3 and begun[-3:].count(1) == 2
    assert len(begun) == 10


@pytest.mark.parametrize("said", ["", "its process died", "SIGKILL.", " "])
def test_what_ended_a_worker_is_told_in_whole_sentences(said: str) -> None:
    """An executor of one's own may say nothing."""
    for why, deaths, begins in (("process", 3, 3), ("process", 1, 1), ("storage", 3, 1), ("file", 3, 1)):
        jobs = again.Again("s", deaths=deaths, outage=0.0)
        try:
            result = jobs.lost(Job(0, {}), Lost(0, why, said), begins)  # type: ignore[arg-type]
            time.sleep(0.01)
            result = result or jobs.lost(Job(0, {}), Lost(0, why, said), begins)  # type: ignore[arg-type]
            told = result.error if result else ""
        except StudyError as error:
            told = str(error).splitlines()[0]
        clean = said.strip().removesuffix(".")
        assert told and not re.search(r": *[.,]|: *$|\.\.|, the last time\.| \.", told), told
        assert clean in told and ("the last time" in told) == bool(clean and begins > 1), told


def test_one_that_ends_its_worker_once_is_none_the_worse(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def train(config: dict[str, Any]) -> float:
        if not mark.exists():
            mark.touch()
            os._exit(7)
        return config["x"]

    assert status_of(lt.tune(train, space=SPACE, trials=4, workers=2, progress=False)) == {"ok": 4}
    mark.unlink()
    with pytest.warns(FutureWarning, match="retries=0"):
        executor = lt.execute.Local(workers=2, retries=0)
    study = lt.tune(train, space=SPACE, trials=4, executor=executor, progress=False)
    assert status_of(study) == {"ok": 3, "failed": 1}


def digits(**options: Any) -> lt.TorchTask:
    given: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(1e-3, 0.3, log=True)),
        "model": lambda config: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        "data": lt.data.digits(),
        "loss": lt.losses.cross_entropy,
        "optimizer": lt.optim.sgd,
        "batch_size": 32,
    }
    return lt.TorchTask(**{**given, **options})


class Struck(LOCAL):
    """Its worker is killed once, in the middle of a stack."""

    def submit(self, jobs: list[Job], parents: Any, partials: Any = None) -> None:
        self.sizes = [*getattr(self, "sizes", []), len(jobs)]
        super().submit(jobs, parents, partials)

    def collect(self, timeout: float | None) -> list[Any]:
        for worker in self._pool:
            if len(worker.hand.left) > 1 and worker.hand.latest:
                worker.process.kill()
        return super().collect(0.05)


@pytest.mark.slow
def test_a_stack_that_ended_its_worker_is_trained_member_by_member() -> None:
    executor = Struck(2, width=4)
    options: dict[str, Any] = {"trials": 4, "epochs": 30, "progress": False}
    study = lt.tune(digits(evaluate_every=0.1), executor=executor, **options)
    whole = lt.tune(digits(evaluate_every=0.1), **options)
    assert executor.sizes[0] == 4 and set(executor.sizes[1:]) == {1}
    assert [trial.metrics for trial in study.trials] == [trial.metrics for trial in whole.trials]


# -- an exception of the training: a result of its own trial ----------------------------------------------------------


def test_an_exception_ends_one_member_and_never_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)
    whole = lt.tune(digits(), trials=5, epochs=3, progress=False)
    reports = train_stack._reports

    def failing(program: Any, adapter: Any, state: Any, rows: Any, *args: Any) -> Any:
        if any(row.job.number == 3 for row in rows) and args[1] > 57:  # in the second epoch
            raise torch.OutOfMemoryError("CUDA out of memory")
        return reports(program, adapter, state, rows, *args)

    monkeypatch.setattr(train_stack, "_reports", failing)
    study = lt.tune(digits(), trials=5, epochs=3, progress=False)
    assert status_of(study) == {"ok": 4, "failed": 1} and "CUDA out of memory" in study.trials[3].error
    for mine, expected in zip(study.trials, whole.trials, strict=True):
        assert mine.number == 3 or (mine.metrics, mine.steps) == (expected.metrics, expected.steps)
    assert [report.step for report in study.history.reports[4]] == [report.step for report in whole.history.reports[4]]


def test_a_member_that_cannot_begin_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)
    begin = train_stack.begin

    def failing(work: Any, program: Any, adapter: Any, job: Job, saved: Any) -> Any:
        if job.number == 0:
            raise ValueError("no beginning")
        return begin(work, program, adapter, job, saved)

    monkeypatch.setattr(train_stack, "begin", failing)
    study = lt.tune(digits(), trials=3, epochs=1, progress=False)
    assert [trial.status for trial in study.trials] == ["failed", "ok", "ok"]
    assert "no beginning" in study.trials[0].error


# -- signals ----------------------------------------------------------------------------------------------------------

DRIVER = """
import os, signal, sys, time
import luthier as lt
{head}
def train(config, trial):
    try:
        print("begun\\n", end="", flush=True)  # one write: two workers share the pipe
        {body}
    finally:
        print("closed", flush=True)
    return config["x"]
try:
    lt.tune(train, space=lt.Space(x=lt.Float(0, 1)), trials=4, store=sys.argv[1], name="s", workers={workers})
finally:
    print("after", signal.getsignal(signal.SIGTERM) == {handler}, flush=True)
"""
SLEEP = "time.sleep(60)"
SAYS = "for step in range(6000): trial.report(step, loss=0.0); time.sleep(0.01)"
STUBBORN = """
        while True:
            try: time.sleep(60)
            except BaseException: pass"""


def drive(folder: Path, body: str, workers: int = 1, head: str = "", handler: str = "signal.SIG_DFL") -> Any:
    """A driver whose first trial has begun."""
    (folder / "driver.py").write_text(DRIVER.format(body=body, workers=workers, head=head, handler=handler))
    command = [sys.executable, str(folder / "driver.py"), str(folder / "a.db")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


ALL = [(name, body, workers) for name in ("SIGTERM", "SIGHUP") for body in (SLEEP, SAYS) for workers in (1, 2)]
FAST = (0, 3)  # the others are slow


@pytest.mark.parametrize(
    ("name", "body", "workers"),
    [pytest.param(*one, marks=() if n in FAST else pytest.mark.slow) for n, one in enumerate(ALL)],
)
def test_a_signal_gives_back_what_runs(tmp_path: Path, name: str, body: str, workers: int) -> None:
    process, number = drive(tmp_path, body, workers), getattr(signal, name)
    process.send_signal(number)
    begun = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 128 + number, err
    assert "closed" in out and "after True" in out
    assert f"ended by {name}; 0 finished jobs are recorded" in err and "Traceback" not in err
    study = lt.Study.load("s", tmp_path / "a.db")
    assert study.history.pending and not study.history.arrival


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = drive(tmp_path, STUBBORN)
    process.terminate()
    time.sleep(1.0)
    assert process.poll() is None  # it swallows all that is raised
    process.terminate()
    assert process.wait(timeout=5) == 128 + signal.SIGTERM
    process.communicate()


def test_a_handler_of_the_program_is_called_when_all_is_recorded(tmp_path: Path) -> None:
    head = (
        "def mine(number, frame):\n    print('mine', flush=True)\n    sys.exit(5)\nsignal.signal(signal.SIGTERM, mine)"
    )
    process = drive(tmp_path, SAYS, head=head, handler="mine")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert out.split()[:2] == ["closed", "mine"] and "after True" in out


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    body = "os.kill(os.getpid(), signal.SIGHUP)"
    process = drive(tmp_path, body, head="signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(lt.Study.load("s", tmp_path / "a.db").history.arrival) == 4


@pytest.mark.slow
def test_a_signal_is_heard_while_another_keeps_the_database_locked(tmp_path: Path) -> None:
    process = drive(tmp_path, SAYS)
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(2.0)  # it has something to write by now, and waits
        begun = time.monotonic()
        process.terminate()
        _, err = process.communicate(timeout=40)
        assert time.monotonic() - begun < 12 and process.returncode == 128 + signal.SIGTERM, err
    finally:
        holder.close()
        process.kill()


# -- time -------------------------------------------------------------------------------------------------------------


def silent(config: dict[str, Any]) -> float:
    time.sleep(60)
    return config["x"]


def stubborn(config: dict[str, Any]) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < 30:
        try:
            time.sleep(60)
        except BaseException:
            pass
    return config["x"]


def test_an_exception_of_pythons_own_machinery_is_a_result_too() -> None:
    def train(config: dict[str, Any]) -> float:
        if config["x"] < 0.5:
            raise GeneratorExit("out of a generator")
        return config["x"]

    study = lt.tune(train, lt.propose.Grid(points=3), space=lt.Space(x=lt.Float(0.0, 1.0)), progress=False)
    assert status_of(study) == {"failed": 1, "ok": 2}


@pytest.mark.parametrize(
    ("task", "workers"), [(silent, 1), (silent, 2), pytest.param(stubborn, 2, marks=pytest.mark.slow)]
)
def test_time_binds_whatever_a_trial_does(task: Any, workers: int, tmp_path: Path) -> None:
    begun = time.monotonic()
    options: dict[str, Any] = {"space": SPACE, "store": tmp_path / "a.db", "name": "s", "progress": False}
    study = lt.tune(task, seconds=1, trials=3, workers=workers, **options)
    assert time.monotonic() - begun < 11
    assert not study.history.arrival and len(study.history.pending) == workers  # not judged
    with pytest.warns(RuntimeWarning, match="code has changed"):
        study = lt.tune(lambda config: config["x"], trials=3, **options)
    assert status_of(study) == {"ok": 3}


def test_time_binds_in_a_thread_too() -> None:
    import threading

    def spin(config: dict[str, Any]) -> float:
        while True:
            time.sleep(0.01)

    studies: list[lt.Study] = []
    thread = threading.Thread(
        target=lambda: studies.append(lt.tune(spin, space=SPACE, seconds=0.5, progress=False)), daemon=True
    )
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and not studies[0].history.arrival


@pytest.mark.parametrize(
    ("task", "workers"), [(silent, 1), (silent, 2), pytest.param(stubborn, 2, marks=pytest.mark.slow)]
)
def test_a_trial_that_says_nothing_within_its_time_has_failed(task: Any, workers: int) -> None:
    begun = time.monotonic()

    def train(config: dict[str, Any], trial: lt.Trial) -> float:
        if trial.number == 0:
            return task(config)
        if trial.number == 1:
            trial.report(1, loss=7.0)
            return task(config)
        return config["x"]

    study = lt.tune(train, space=SPACE, trials=4, trial_seconds=0.5, workers=workers, progress=False)
    assert time.monotonic() - begun < 40
    assert [trial.status for trial in study.trials] == ["failed", "pruned", "ok", "ok"]
    assert "over its time: it reported nothing within trial_seconds=0.5" in study.trials[0].error
    assert study.trials[1].metrics == {"loss": 7.0}


def test_a_stack_given_back_goes_on_where_it_was(tmp_path: Path) -> None:
    def slow(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return outputs.sum()

    task, store = digits(metrics={"slow": slow}, evaluate_every=0.1), tmp_path / "a.db"
    options: dict[str, Any] = {"trials": 2, "epochs": 10, "name": "s", "progress": False}
    begun = time.monotonic()
    study = lt.tune(task, store=store, seconds=0.7, **options)
    assert time.monotonic() - begun < 11
    reports = {number: list(found) for number, found in study.history.reports.items()}
    assert reports and not study.history.arrival
    again = lt.tune(task, store=store, **options)
    whole = lt.tune(task, **options)
    assert [trial.metrics for trial in again.trials] == [trial.metrics for trial in whole.trials]
    assert again.history.reports == whole.history.reports
    assert all(again.history.reports[number][: len(found)] == found for number, found in reports.items())


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True])
def test_times_that_cannot_be(value: Any) -> None:
    with pytest.raises(lt.LuthierError, match="trial_seconds must be"):
        lt.tune(lambda config: 0.0, space=SPACE, trials=1, trial_seconds=value)
