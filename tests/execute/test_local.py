"""Local: what an argument may be, what can be sent, how worker processes start, die and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier as lt
from luthier.errors import ExecutionError, MethodError, TaskError
from luthier.execute import Executor, Local
from luthier.jobs import Job, Lost, Report, Result
from luthier.seeds import Seeds
from luthier.space import Float, Space
from luthier.task import as_task, load_task
from luthier.testing.executors import collect_all, facts
from luthier.train import Work
from tests.networks import digits_task

SPACE = Space(x=Float(-1.0, 1.0))
ROOT = Path(__file__).parents[2]


def work_on(task: Any, **options: Any) -> Work:
    return Work(as_task(task, SPACE), Seeds(0), **options)


def jobs_at(*values: float, steps: int = 1) -> list[Job]:
    return [Job(number, {"x": x}, steps=steps) for number, x in enumerate(values)]


Start = Callable[..., Local]


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a file leaves its folder on sys.path: not beyond the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts executors, of two workers unless told otherwise, and closes them after the test."""
    made: list[Local] = []

    def begin(work: Work, on_reports: Any = None, **settings: Any) -> Local:
        made.append(Local(**{"workers": 2, **settings}))
        made[-1].start(work, on_reports or (lambda reports: set()))
        return made[-1]

    yield begin
    for executor in made:
        executor.close(wait=False)


def script(folder: Path, text: str) -> Path:
    file = folder / "script.py"
    file.write_text(textwrap.dedent(text))
    return file


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and nobody has asked how


def wait_until(done: Any, seconds: float) -> float:
    begun = time.monotonic()
    while not done():
        assert time.monotonic() - begun < seconds, "it took too long"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.mark.parametrize(
    "settings",
    [{"workers": 0}, {"workers": 1.5}, {"workers": True}, {"width": 0}, {"width": "wide"}, {"threads": 0}],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(MethodError, match=f"Local: {name} must be an integer"):
        Local(**settings)


def test_the_old_argument_for_dead_workers_warns_and_counts() -> None:
    with pytest.warns(FutureWarning, match="three times in all"):
        assert Local(retries=2).deaths == 3
    with pytest.raises(MethodError, match="retries must be an integer ≥ 0, got -1"):
        Local(retries=-1)
    assert Local().deaths is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"devices": "cpu"}, "devices must be a list of names, got 'cpu'"),
        ({"devices": []}, "devices must be a list of names"),
        ({"devices": ["cpu", "cpu"]}, "1 workers use 2"),
        ({"devices": ["cpu"], "device": "cpu"}, "both given"),
    ],
)
def test_devices_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        Local(**settings)


def test_workers_are_spread_over_devices(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")

    def function(config, trial):
        time.sleep(0.3)  # both workers get a job
        return float(os.environ["CUDA_VISIBLE_DEVICES"])

    executor = start(work_on(function), devices=["cuda:0", "cuda:1"])
    wait_until(lambda: all(worker.loaded for worker in executor._pool) or executor.collect(0.1), 60)
    executor.submit(jobs_at(0.1, 0.2), {})
    seen = {result.metrics["loss"] for result in collect_all(executor, 2)}
    executor.close()
    assert seen == {3.0, 5.0}
    executor = start(work_on(lambda config: float(os.environ["OMP_NUM_THREADS"])), threads=2)
    executor.submit(jobs_at(0.1), {})
    assert collect_all(executor, 1)[0].metrics == {"loss": 2.0}


def test_use_out_of_order(start: Start) -> None:
    executor = Local()
    assert isinstance(executor, Executor)
    executor.close()
    for use in (lambda: executor.submit([], {}), lambda: executor.collect(0.0)):
        with pytest.raises(ExecutionError, match="Call start first"):
            use()
    executor.start(work_on(lambda config: 0.0), lambda reports: set())
    with pytest.raises(ExecutionError, match="another study"):
        executor.start(work_on(lambda config: 0.0), lambda reports: set())


def test_capacity(start: Start) -> None:
    function, network = work_on(lambda config: 0.0), Work(digits_task(), Seeds(0))
    for settings, of_function, of_network in [
        ({}, 1, 256),
        ({"width": 8}, 1, 8),
        ({"workers": 2, "width": 8}, 2, 16),
    ]:
        executor = Local(**settings)
        assert executor.capacity >= 1
        for work, expected in ((function, of_function), (network, of_network)):
            executor.start(work, lambda reports: set())
            assert executor.capacity == expected
            executor.close(wait=False)


def test_lambdas_and_closures_go_to_workers_and_need_no_torch_there(start: Start) -> None:
    offset = 2.0

    def function(config, trial):
        return {"loss": config["x"] + offset, "torch": float("torch" in sys.modules), "process": os.getpid()}

    executor = start(work_on(function))
    begun = time.monotonic()
    executor.submit(jobs_at(*(n / 64 for n in range(64))), {})
    results = collect_all(executor, 64)
    assert time.monotonic() - begun < 5.0  # a worker that imported torch 64 times, or once a job, would take longer
    executor.close()
    assert [result.metrics["loss"] for result in results] == [2 + n / 64 for n in range(64)]
    assert {result.metrics["torch"] for result in results} == {0.0}
    assert os.getpid() not in {result.metrics["process"] for result in results}


def test_a_worker_has_what_the_script_has_set(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(config):
        import torch

        return {
            "loss": float(sys.argv[1]),
            "bits": torch.ones(1).element_size() * 8.0,
            "depth": sys.getrecursionlimit(),
        }

    monkeypatch.setattr(sys, "argv", ["train.py", "0.5"])
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 1)
    torch.set_default_dtype(torch.float64)
    try:
        executor = start(work_on(function), workers=2)
    finally:
        torch.set_default_dtype(torch.float32)
        sys.setrecursionlimit(before)
    executor.submit(jobs_at(0.0), {})
    (result,) = collect_all(executor, 1)
    assert result.metrics == {"loss": 0.5, "bits": 64.0, "depth": before + 1.0}


def test_what_cannot_be_sent_is_named(start: Start) -> None:
    lock = threading.Lock()

    class Holder:
        def __init__(self) -> None:
            self.parts = {"fine": 1, "lock": lock}

        def __call__(self, config):
            return 0.0

    def closure(config):
        return float(lock.locked())

    for task, where in [(Holder(), "task.function.parts['lock']"), (closure, "task.function, variable lock")]:
        executor = Local(workers=2)
        with pytest.raises(TaskError) as caught:
            executor.start(work_on(task), lambda reports: set())
        assert caught.value.where == where
        assert "cannot pickle" in str(caught.value) and "Local(workers=1)" in str(caught.value)
        executor.close()


def test_a_task_from_a_file_is_loaded_by_path_in_workers(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shared_part.py").write_text("def double(x):\n    return 2 * x\n")
    file = tmp_path / "my_task.py"
    file.write_text(
        textwrap.dedent(
            """
            import threading
            from shared_part import double
            from luthier.space import Float, Space
            lock = threading.Lock()  # cannot be pickled, and need not be
            space = Space(x=Float(-1.0, 1.0))
            class Kept:
                pass
            def helper(config):
                with lock:
                    return double(config["x"])
            task = lambda config: helper(config)
            """
        )
    )
    executor = start(Work(load_task(file), Seeds(0)))
    executor.submit(jobs_at(0.25, 0.5), {})
    assert [result.metrics["loss"] for result in collect_all(executor, 2)] == [0.5, 1.0]
    executor.close()
    helper = sys.modules[load_task(file).function.__module__].helper  # type: ignore[union-attr]
    executor = start(work_on(helper))  # a part of the file: by name, in the file that is loaded for it
    executor.submit(jobs_at(0.25), {})
    assert collect_all(executor, 1)[0].metrics == {"loss": 0.5}
    executor.close()


def test_a_task_that_cannot_be_loaded_in_a_worker(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "moody.py"
    file.write_text("from luthier.space import *\nspace = Space(x=Float(0.0, 1.0))\ntask = lambda config: 0.0\n")
    task = load_task(file)
    file.write_text("1 / 0\n")
    executor = start(Work(task, Seeds(0)))
    executor.submit(jobs_at(0.5), {})
    with pytest.raises(ExecutionError, match=r"ZeroDivisionError: .* at moody\.py:1"):
        collect_all(executor, 1)
    executor.close()


class DeadOnArrival:
    """Ends the process in which it is unpickled."""

    def __call__(self, config):
        return 0.0

    def __reduce__(self):
        return os._exit, (9,)


def test_a_worker_that_dies_while_it_loads_is_not_replaced_for_ever(start: Start) -> None:
    executor = start(work_on(DeadOnArrival()))
    executor.submit(jobs_at(0.5), {})
    with pytest.raises(ExecutionError, match="exit code 9 before it had its work"):
        collect_all(executor, 1)
    executor.close()


def test_members_of_a_stack_that_ended_keep_their_results(start: Start) -> None:
    task = digits_task(space=lt.Space(lr=lt.Float(1e-3, 1.0)), evaluate_every=0.25)
    heard: list[int] = []

    def on_reports(reports: list[Report]) -> set[int]:
        heard.extend(report.number for report in reports)
        if heard.count(1) == 2:  # by then, job 0 of the same chunk has ended
            for worker in executor._pool:
                if 1 in worker.hand.left:
                    worker.process.kill()
        return set()

    executor = start(Work(task, Seeds(0)), on_reports, width=2)
    executor.submit([Job(n, {"lr": 0.1}, steps=20_000 if n == 1 else 8) for n in range(4)], {})
    ended, killed, *_ = collect_all(executor, 4)
    assert (ended.number, ended.status, killed.number, killed.why) == (0, "ok", 1, "process")
    assert "SIGKILL" in killed.error


def test_a_stack_is_split_over_the_workers_and_gives_the_same_numbers(start: Start) -> None:
    task = digits_task()
    jobs = [Job(n, config, steps=4) for n, config in enumerate(task.space.sample(Seeds(0).rng(0, "test"), 6))]
    found = []
    for settings in ({"workers": 1}, {"workers": 2, "width": 2}):
        executor = start(Work(task, Seeds(0)), **settings)
        executor.submit(jobs, {})
        found.append(facts(collect_all(executor, 6)))
        executor.close()
    assert found[0] == found[1]
    assert {status for _, status, *_ in found[0]} == {"ok"}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_study_is_not_the_jobs(start: Start, workers: int) -> None:
    def on_reports(reports: list[Report]) -> set[int]:
        if reports and reports[0].number == 1:
            raise ValueError("the store is full")
        return set()

    def function(config, trial):
        trial.report(1, loss=config["x"])
        return config["x"]

    executor = start(work_on(function), on_reports, workers=workers)
    numbers, raised = [], 0
    executor.submit(jobs_at(0.0, 0.1, 0.2), {})
    for _ in range(20):
        try:
            numbers += [
                result.number
                for result in executor.collect(0.2)
                if isinstance(result, Result) and result.status == "ok"
            ]
        except ValueError as error:
            assert str(error) == "the store is full"
            raised += 1
    executor.close()
    assert raised == 1 and {0, 2} <= set(numbers)


def test_a_worker_that_is_killed_from_outside_is_replaced(start: Start) -> None:
    executor = start(work_on(lambda config: float(os.getpid())))
    executor.submit(jobs_at(0.1, 0.2, 0.3, 0.4), {})
    before = {int(result.metrics["loss"]) for result in collect_all(executor, 4)}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    executor.submit(jobs_at(0.1, 0.2), {})
    after = collect_all(executor, 2)
    executor.close()
    lived = {int(result.metrics["loss"]) for result in after if isinstance(result, Result)}
    assert all(lost.why == "process" and "SIGKILL" in lost.error for lost in after if isinstance(lost, Lost))
    assert not lived & before


def test_close_ends_busy_workers_within_two_seconds(start: Start) -> None:
    heard: list[int] = []
    executor = start(
        work_on(lambda config, trial: trial.report(os.getpid(), loss=0.0) or time.sleep(60) or 0.0),
        lambda reports: heard.extend(report.step for report in reports) or set(),
    )
    executor.submit(jobs_at(0.1, 0.2), {})
    wait_until(lambda: executor.collect(0.1) or len(heard) == 2, 20)
    assert all(is_alive(pid) for pid in heard)
    begun = time.monotonic()
    executor.close()
    assert time.monotonic() - begun < 2.0
    assert not any(is_alive(pid) for pid in heard)


SLEEPERS = """
    import os, signal, sys, time

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    from luthier.execute import Local
    from luthier.jobs import Job
    from luthier.seeds import Seeds
    from luthier.space import Float, Space
    from luthier.task import as_task
    from luthier.train import Work

    def sleeper(config, trial):  # in __main__, without a guard: it goes by value
        trial.report(os.getpid(), loss=0.0)
        {sleep}
        return 0.0

    def on_reports(reports):
        print(*(report.step for report in reports), flush=True)
        return set()

    executor = Local(workers=2)
    executor.start(Work(as_task(sleeper, Space(x=Float(0, 1))), Seeds(0)), on_reports)
    executor.submit([Job(0, {{"x": 0.5}}), Job(1, {{"x": 0.5}})], {{}})
    try:
        results = []
        while len(results) < 2:
            results += executor.collect(None)
        print(*(result.status for result in results))
    except KeyboardInterrupt:
        begun = time.monotonic()
        executor.close()
        print("closed", time.monotonic() - begun)
        sys.exit(0)
    executor.close()
"""


def driver(folder: Path, sleep: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A script that has started two workers, and the workers' process ids."""
    command = [sys.executable, str(script(folder, SLEEPERS.format(sleep=sleep)))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    pids: list[int] = []
    while len(pids) < 2:
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        pids += map(int, line.split())
    return process, pids


@pytest.mark.parametrize("sleep", ["time.sleep(60)", "while True: pass"])
def test_no_worker_outlives_a_driver_that_is_killed(tmp_path: Path, sleep: str) -> None:
    process, pids = driver(tmp_path, sleep)
    with process:
        assert all(is_alive(pid) for pid in pids)
        process.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in pids), 5)


def test_ctrl_c_is_the_drivers(tmp_path: Path) -> None:
    process, pids = driver(tmp_path, "time.sleep(60)")
    for pid in (*pids, process.pid):  # a terminal sends it to all of them
        os.kill(pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    word, seconds = out.split()
    assert word == "closed" and float(seconds) < 2.0
    assert not any(is_alive(pid) for pid in pids)


SAVES = """
    import multiprocessing, pickle
    import luthier as lt

    class Net:
        pass

    def twice(x):
        return 2 * x

    def train(config):
        saved = type(pickle.loads(pickle.dumps(Net()))) is Net
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return {"loss": config["x"], "saved": saved, "twice": pool.map(twice, [3])[0]}

    study = lt.tune(train, space=lt.Space(x=lt.Float(0, 1)), trials=2, workers=2, progress=False)
    print(*(trial.metrics[name] for trial in study.trials for name in ("saved", "twice")))
"""


def test_what_a_script_defines_has_its_name_in_a_worker_too(tmp_path: Path) -> None:
    command = [sys.executable, str(script(tmp_path, SAVES))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.stdout.split(), done.stderr) == (["1.0", "6.0"] * 2, "")


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    process, pids = driver(tmp_path, "pass")
    assert process.stdout is not None and process.stderr is not None
    with process:  # communicate() would lose what readline() has read ahead
        out, err = process.stdout.read(), process.stderr.read()
    assert (process.returncode, out.split(), err) == (0, ["ok", "ok"], "")
    assert not any(is_alive(pid) for pid in pids)
