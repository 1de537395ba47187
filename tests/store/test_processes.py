"""Real processes on one study: every job is done exactly once, also when one of them is killed holding jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.jobs import History, Job, Result
from luthier.space import Float, Space
from luthier.store import open_store
from luthier.store.liveness import ProcessIdentity, this_process

WORKER = Path(__file__).parent / "worker.py"
TOTAL = 400


def start(
    url: str, log: Path, lease: float, *, total: int = TOTAL, hold: bool = False, machine: str = ""
) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [url, str(log), str(total), str(lease), "0.001", "hold" if hold else "", machine]
    return subprocess.Popen([sys.executable, str(WORKER), *arguments], env=environment)


def wait_for(log: Path, line: str, process: subprocess.Popen, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not (log.exists() and line in log.read_text().splitlines()):
        assert process.poll() is None, f"the worker ended with {process.returncode}"
        assert time.monotonic() < end, f"{line!r} did not come"
        time.sleep(0.02)


def noted(log: Path, word: str) -> list[int]:
    lines = [line.split() for line in log.read_text().splitlines()]
    return [int(line[1]) for line in lines if line[0] == word]


def finish_with_one_killed(url: str, folder: Path, lease: float, machines: bool = False) -> None:
    """Four workers finish the study; one is killed while it holds jobs."""
    with open_store(url, checkpoints=folder / "checkpoints") as store:
        store.create("shared", {"objectives": {"loss": "min"}})
    logs = [folder / f"worker-{k}.log" for k in range(4)]
    processes = [start(url, log, lease, hold=log is logs[0], machine=log.stem if machines else "") for log in logs]
    try:
        for log, process in zip(logs, processes, strict=True):
            wait_for(log, "ready", process)
        (folder / "go").touch()
        wait_for(logs[0], "holding", processes[0])
        processes[0].kill()
        processes[0].wait()
        for process in processes[1:]:
            assert process.wait(timeout=120) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    with open_store(url, checkpoints=folder / "checkpoints") as store:
        store.attach("shared", "reader").sync(history)
        (summary,) = store.studies()
    assert len(history) == summary.jobs == summary.done == TOTAL
    assert sorted(history.arrival) == list(range(TOTAL)), "none lost, none twice"
    assert [job.config["x"] for job in history.jobs] == [n / TOTAL for n in range(TOTAL)]
    assert all(history.reports[n][-3:] == history.reports[n] for n in range(TOTAL)), "reports only from who told"
    done = [number for log in logs for number in noted(log, "done")]
    assert len(done) == len(set(done)), "no result was accepted from two owners"
    assert set(range(TOTAL)) - set(done) == set(), "every accepted result was noted"
    lost = set(noted(logs[0], "held")) - set(noted(logs[0], "done"))
    assert lost and lost <= {number for log in logs[1:] for number in noted(log, "done")}
    assert all(noted(log, "done") for log in logs[1:]), "each of them took part"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/shared.db"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_known_by_its_start_as_the_kernel_has_it() -> None:
    fields = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
    assert this_process().started == fields[19]  # starttime, the 22nd of proc(5)


def test_400_jobs_are_done_once_by_four_processes_and_a_dead_one_is_noticed_at_once(url: str, tmp_path: Path) -> None:
    finish_with_one_killed(url, tmp_path, lease=3600.0)  # nobody waits for the lease: the process is gone


def test_400_jobs_are_done_once_when_only_the_lease_tells_of_a_death(url: str, tmp_path: Path) -> None:
    finish_with_one_killed(url, tmp_path, lease=1.0, machines=True)


def test_a_killed_driver_s_jobs_are_resumed_at_once(url: str, tmp_path: Path) -> None:
    with open_store(url, checkpoints=tmp_path) as store:
        store.create("shared", {})
    log = tmp_path / "worker.log"
    (tmp_path / "go").touch()
    victim = start(url, log, 3600.0, total=8, hold=True)
    try:
        wait_for(log, "holding", victim)
        with open_store(url, checkpoints=tmp_path) as store:
            study = store.attach("shared", "resumed")
            assert study.claim(9) == [], "while it lives its jobs are its own"
            os.kill(victim.pid, signal.SIGSTOP)
            assert study.claim(9) == [], "a stopped process is not dead"
            victim.kill()
            end = time.monotonic() + 10
            while not (jobs := study.claim(9)):
                assert time.monotonic() < end
                time.sleep(0.01)
            assert [job.number for job in jobs] == noted(log, "held")[-len(jobs) :]
            assert study.record([Result(job.number, "ok", {"loss": 0.0}, 1) for job in jobs]) == [
                j.number for j in jobs
            ]
    finally:
        victim.kill()
        victim.wait()


def test_a_dead_holder_s_turn_passes_on_at_once(url: str, tmp_path: Path) -> None:
    with open_store(url, checkpoints=tmp_path) as store:
        store.create("shared", {})
        code = (
            "import os, sys; from luthier.store import open_store\n"
            f"study = open_store({url!r}, checkpoints='x').attach('shared', 'dies')\n"
            "assert study.turn(3600); print('has the turn', flush=True); sys.stdin.read()"
        )
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
            assert holder.stdout and holder.stdout.readline() == b"has the turn\n"
            study = store.attach("shared", "waits")
            assert not study.turn(60)
            holder.kill()
            holder.wait()
            assert study.turn(60)


def test_a_fork_uses_a_connection_of_its_own(url: str, tmp_path: Path) -> None:
    history = History(Space(x=Float(0, 1)), {"loss": "min"})
    with open_store(url, checkpoints=tmp_path) as store:
        store.create("shared", {})
        study = store.attach("shared", "parent")
        study.append([Job(0, {}), Job(1, {})], history)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                accepted = study.record([Result(0, "ok", {"loss": 1.0})])
                store._database.close()
                code = 0 if accepted == [0] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert study.record([Result(0, "ok"), Result(1, "ok")]) == [1]
        study.sync(history)
        assert history.arrival == [0, 1]


def test_a_process_is_known_by_its_start_as_well() -> None:
    here = this_process()
    assert not here.dead
    assert ProcessIdentity(here.host, here.pid, "1").dead, "the id was given to a later process"
    assert not ProcessIdentity("elsewhere", 1, "1").dead, "of another machine nothing is known"
    assert not ProcessIdentity(here.host, here.pid, "").dead, "where no start was seen, only the id counts"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    process = ProcessIdentity(here.host, child.pid, started)
    assert not process.dead
    child.kill()
    end = time.monotonic() + 10
    while not process.dead:  # also while it is a zombie
        assert time.monotonic() < end
        time.sleep(0.005)
    child.communicate()
    assert process.dead
