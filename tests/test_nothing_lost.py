"""Drivers killed with SIGKILL at random moments: what was recorded stays, and the end is as if none had been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.jobs import Result
from luthier.study.study import Study

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")

DRIVER = """
import os, sys, time
import luthier as lt

store, log, trials, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
space = lt.Space(x=lt.Float(-1.0, 1.0), lr=lt.Float(1e-4, 1.0, log=True), layers=lt.Int(1, 4))


def note(*words):
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, words)) + "\\n").encode())
    os.close(file)


def objective(config, trial):
    note("start", os.getpid(), trial.number)
    loss = config["x"] ** 2 + config["layers"] + (trial.seed % 1000) / 1000
    for step in range(5):
        time.sleep(0.001)
        trial.report(step, loss=loss + 1 / (step + 1))
    if trial.number % 7 == 3:
        raise ValueError(f"trial {trial.number} is not wanted")
    return {"loss": loss, "steps": step}


if __name__ == "__main__":
    lt.tune(objective, space=space, trials=trials, store=store, name="killed", seed=11, progress=False,
            executor=lt.execute.Local(workers=workers))
"""

BY_HAND = """
import os, sys, time
import luthier as lt

study = lt.Study("by hand", lt.Space(x=lt.Float(0.0, 1.0)), trials=int(sys.argv[3]), store=sys.argv[1], seed=4)
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while jobs := study.ask(3):
    for job in jobs:
        time.sleep(0.002)
        study.tell(job, job.config["x"])
        os.write(log, f"told {os.getpid()} {job.number}\\n".encode())
"""


class Drivers:
    """Starts a script as a process, and kills it at a moment of choice.

    Args:
        folder: For the script, the store and the log.
        script: Its text.
        trials: Its budget.
        workers: Its worker processes.
        name: Of the store and the log.
    """

    def __init__(self, folder: Path, script: str, trials: int, workers: int = 1, name: str = "killed") -> None:
        self.script, self.store, self.log = folder / "driver.py", folder / f"{name}.db", folder / f"{name}.txt"
        self.script.write_text(script)
        self.log.touch()
        self.arguments = [str(self.store), str(self.log), str(trials), str(workers)]

    def start(self) -> subprocess.Popen[bytes]:
        """A driver that is at work."""
        return subprocess.Popen(
            [sys.executable, str(self.script), *self.arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    def killed_after(self, seconds: float) -> bool:
        """Run a driver and kill it ``seconds`` after its first line; False if it ended before by itself."""
        before, driver = len(self.lines()), self.start()
        while len(self.lines()) == before and driver.poll() is None:
            time.sleep(0.002)
        time.sleep(seconds)
        driver.kill()
        return driver.wait() == -signal.SIGKILL

    def finish(self) -> None:
        """Run a driver to its end."""
        assert self.start().wait(timeout=60) == 0

    def lines(self) -> list[list[str]]:
        """What was noted, whole lines only."""
        return [line.split() for line in self.log.read_text().split("\n")[:-1]]


def outcome(results: list[Result | None]) -> list[tuple[Any, ...]]:
    """All of the results that a clock has no part in."""
    return [(r.number, r.status, r.metrics, r.steps, r.final, r.error) for r in results if r is not None]


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_change_nothing(tmp_path: Path) -> None:
    chance = random.Random(20)
    whole, drivers = Drivers(tmp_path, DRIVER, 400, name="whole"), Drivers(tmp_path, DRIVER, 400)
    whole.finish()
    finished: set[int] = set()  # jobs whose results were recorded before the latest kill
    kills = 0
    while kills < 20:
        before = len(drivers.lines())
        assert drivers.killed_after(chance.uniform(0.0, 0.12)), f"it ended after {kills} kills: more trials are needed"
        kills += 1
        started = [int(number) for _, _, number in drivers.lines()[before:]]
        assert not finished & set(started), "a job whose result was recorded ran again"
        stored = Study.load("killed", drivers.store).history
        # the objective is called for a job only when the result of the one before it has been recorded
        assert set(started[:-1]) <= set(stored.arrival), "a recorded result is gone"
        assert finished <= set(stored.arrival), "a recorded result is gone"
        finished = set(stored.arrival)
        assert len(stored.arrival) == len(finished)
    assert 20 < len(finished) < 400
    drivers.finish()

    ends, expected = (Study.load("killed", folder.store).history for folder in (drivers, whole))
    assert [job.config for job in ends.jobs] == [job.config for job in expected.jobs]
    assert outcome(ends.results) == outcome(expected.results)
    assert ends.values.tobytes() == expected.values.tobytes() and ends.best == expected.best
    assert ends.arrival == expected.arrival == list(range(400))
    runs = [int(number) for _, _, number in drivers.lines()]
    repeated = len(runs) - len(set(runs))
    assert set(runs) == set(range(400)) and repeated <= kills  # only what was in flight started again


@pytest.mark.slow
def test_twenty_sigterms_lose_nothing_and_change_nothing(tmp_path: Path) -> None:
    chance = random.Random(15)
    whole, drivers = Drivers(tmp_path, DRIVER, 120, name="whole"), Drivers(tmp_path, DRIVER, 120)
    whole.finish()
    for _ in range(20):
        before, driver = len(drivers.lines()), drivers.start()
        while len(drivers.lines()) == before and driver.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.03))
        driver.terminate()
        assert driver.wait(timeout=20) == 128 + signal.SIGTERM, "it ended before: more trials are needed"
        stored = Study.load("killed", drivers.store).history
        assert stored.arrival == list(range(len(stored.arrival)))
    drivers.finish()
    ends, expected = (Study.load("killed", folder.store).history for folder in (drivers, whole))
    assert [job.config for job in ends.jobs] == [job.config for job in expected.jobs]
    assert outcome(ends.results) == outcome(expected.results)
    assert ends.values.tobytes() == expected.values.tobytes() and ends.arrival == expected.arrival == list(range(120))


@pytest.mark.slow
def test_kills_with_two_workers_leave_no_orphans(tmp_path: Path) -> None:
    chance = random.Random(5)
    drivers = Drivers(tmp_path, DRIVER, 400, workers=2)
    finished: set[int] = set()
    for _ in range(4):
        before = len(drivers.lines())
        assert drivers.killed_after(chance.uniform(0.0, 0.3))
        noted = drivers.lines()[before:]
        assert not finished & {int(number) for _, _, number in noted}
        workers = {int(pid) for _, pid, _ in noted}
        deadline = time.monotonic() + 10
        while alive := [pid for pid in workers if _is_ours(pid)]:
            assert time.monotonic() < deadline, f"the workers {alive} outlive their driver"
            time.sleep(0.05)
        stored = Study.load("killed", drivers.store).history
        assert finished <= set(stored.arrival)
        finished = set(stored.arrival)
    drivers.arguments[2] = str(len(Study.load("killed", drivers.store).history) + 20)
    drivers.finish()
    ended = Study.load("killed", drivers.store).history
    assert sorted(ended.arrival) == list(range(len(ended))) and not ended.pending


def test_what_tell_returned_for_is_there(tmp_path: Path) -> None:
    chance = random.Random(3)
    drivers = Drivers(tmp_path, BY_HAND, 300)
    for _ in range(4):
        assert drivers.killed_after(chance.uniform(0.0, 0.1))
        told = [int(number) for _, _, number in drivers.lines()]
        assert len(told) == len(set(told))
        assert set(told) <= set(Study.load("by hand", drivers.store).history.arrival)
    drivers.finish()
    ended = Study.load("by hand", drivers.store).history
    assert sorted(ended.arrival) == list(range(300))
    # a result may have been recorded in the instant before a kill, and its line not written
    assert len(set(range(300)) - {int(number) for _, _, number in drivers.lines()}) <= 4


def test_three_drivers_share_a_study_and_one_of_them_dies(tmp_path: Path) -> None:
    drivers = Drivers(tmp_path, DRIVER, 600)
    first, *others = (drivers.start() for _ in range(3))
    deadline = time.monotonic() + 30
    while len({pid for _, pid, _ in drivers.lines()}) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    first.kill()
    first.wait()
    assert [driver.wait(timeout=60) for driver in others] == [0, 0]
    ended = Study.load("killed", drivers.store).history
    assert sorted(ended.arrival) == list(range(600)) and not ended.pending
    runs = [int(number) for _, _, number in drivers.lines()]
    assert set(runs) == set(range(600)) and len(runs) <= 601  # the dead driver's last job, once more
    assert len({pid for _, pid, _ in drivers.lines()}) == 3


def _is_ours(pid: int) -> bool:
    """Whether the process runs, and is a worker of luthier."""
    try:
        return b"luthier" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
