"""Ray on a real cluster: a head and two nodes on this machine, each with processes of its own."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier as lt
from luthier.errors import ExecutionError, MethodError, TaskError
from luthier.seeds import Seeds
from luthier.store.checkpoints import Checkpoints
from luthier.train import Work
from tests.networks import digits_task

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from luthier.execute.ray import Ray  # noqa: E402
from luthier.testing.executors import ExecutorContract  # noqa: E402

# A cluster takes several seconds to start and half a gigabyte.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.xdist_group("ray")]
SPACE = lt.Space(x=lt.Float(-1.0, 1.0))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module", autouse=True)
def connected(cluster: Any) -> None:
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)


class TestRay(ExecutorContract):
    def make(self) -> Any:
        return Ray()


def jobs_of(study: lt.Study) -> list[tuple[Any, ...]]:
    """All that must not depend on where a job ran."""
    history = study.history
    return [
        (dict(job.config), job.parent, job.steps, result and (result.status, dict(result.metrics)))
        for job, result in zip(history.jobs, history.results, strict=True)
    ]


@pytest.mark.parametrize(
    "method",
    [lt.propose.Random(), lt.propose.PBT(rounds=4), lt.propose.Hyperband(rungs=3, eta=2)],
    ids=["random", "pbt", "hyperband"],
)
def test_a_cluster_gives_what_two_local_workers_give(method: Any, tmp_path: Path) -> None:
    def tuned(executor: Any, folder: str) -> list[tuple[Any, ...]]:
        store = tmp_path / folder / "study.db"
        study = lt.tune(digits_task(), method, trials=4, steps=20, store=store, executor=executor, progress=False)
        return jobs_of(study)

    assert tuned(Ray(width=2), "ray") == tuned(lt.execute.Local(workers=2, width=2), "local")


def test_a_task_that_no_other_machine_has(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, the module and the data beside it are gone once the task is packed."""
    (tmp_path / "beside.py").write_text("def twice(x):\n    return 2 * x\n")
    file = tmp_path / "mine.py"
    file.write_text(
        textwrap.dedent("""
            import pathlib
            import beside
            import luthier as lt

            TABLE = pathlib.Path(__file__).with_name("table.txt").read_text()  # read here, not there

            class Scale:
                def __call__(self, x):
                    from beside import twice
                    return twice(x) * float(TABLE)

            def objective(config):
                return Scale()(config["x"])

            space = lt.Space(x=lt.Float(0.0, 1.0))
        """)
    )
    (tmp_path / "table.txt").write_text("10")
    monkeypatch.syspath_prepend(str(tmp_path))
    from luthier.task import load_task

    task, executor = load_task(file), Ray()
    connect = executor._connect

    def without_files() -> None:
        for each in tmp_path.glob("*.*"):
            each.unlink()
        connect()

    monkeypatch.setattr(executor, "_connect", without_files)
    study = lt.tune(task, trials=4, executor=executor, progress=False)
    assert [result and result.error for result in study.history.results] == [""] * 4
    assert [r and r.metrics["loss"] for r in study.history.results] == [20 * j.config["x"] for j in study.history.jobs]


def test_a_lost_machine_costs_no_trial_and_a_new_one_is_used(cluster: Any) -> None:
    def slow(config: dict, trial: lt.Trial) -> float:
        for step in range(1, 16):
            time.sleep(0.1)
            trial.report(step, loss=config["x"])
        return config["x"]

    extra = cluster.add_node(num_cpus=1)
    executor = Ray()
    ended: list[lt.Study] = []
    work = threading.Thread(  # nodes can be added from the main thread alone
        target=lambda: ended.append(lt.tune(slow, space=SPACE, trials=24, executor=executor, progress=False))
    )
    work.start()
    while sum(bool(place.hand.left) for place in executor._places) < 3:
        time.sleep(0.05)
    cluster.remove_node(extra, allow_graceful=False)
    seats = [3]
    added: list[Any] = []
    while work.is_alive():
        seats.append(sum(place.loaded for place in executor._places) or seats[-1])  # none: it is ending
        if seats[-1] == 2 and not added:
            added.append(cluster.add_node(num_cpus=1))
        time.sleep(0.1)
    cluster.remove_node(added[0])
    (study,) = ended
    assert [result and result.status for result in study.history.results] == ["ok"] * 24
    assert len({tuple(job.config.items()) for job in study.history.jobs}) == 24
    assert min(seats) == 2 and seats[-1] == 3


def test_a_job_that_ends_its_process_fails_alone(cluster: Any) -> None:
    def deadly(config: dict) -> float:
        if config["x"] < -0.5:
            os._exit(3)
        return config["x"]

    study = lt.tune(deadly, lt.propose.Grid(points=5), space=SPACE, executor=Ray(), progress=False)
    low, *others = study.history.results
    assert low is not None and low.status == "failed" and "ended its worker 3 times" in low.error
    assert [result and result.status for result in others] == ["ok"] * 4


def test_a_cluster_without_room_is_waited_for(cluster: Any) -> None:
    executor = Ray(resources={"late": 1.0})
    ended: list[lt.Study] = []
    work = threading.Thread(
        target=lambda: ended.append(
            lt.tune(lambda config: config["x"], space=SPACE, trials=3, executor=executor, progress=False)
        )
    )
    work.start()
    work.join(3.0)
    assert work.is_alive() and executor.capacity == 0
    node = cluster.add_node(num_cpus=1, resources={"late": 1.0})
    work.join()
    assert [result and result.status for result in ended[0].history.results] == ["ok"] * 3
    cluster.remove_node(node)


def test_what_cannot_work_is_said_at_the_call(cluster: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(TaskError, match="cannot be sent"):
        lt.tune(lambda config: lock.locked(), space=SPACE, trials=2, executor=Ray(), progress=False)
    wrong: Any
    for wrong in ({"workers": 0}, {"cpus": -1}, {"cpus": 0}, {"gpus": float("nan")}, {"width": "wide"}):
        with pytest.raises(MethodError, match=f"{next(iter(wrong))} must be"):
            Ray(**wrong)


def test_seats_have_what_was_asked_for(cluster: Any) -> None:
    """Four seats share a GPU, two share four CPUs; none of them imports torch for a function."""

    def train(config: dict) -> dict[str, float]:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        time.sleep(0.5)  # so that each seat gets one
        return {"loss": 0.0, "gpu": float(visible or -1), "seat": os.getpid(), "torch": "torch" in sys.modules}

    node = cluster.add_node(num_cpus=4, num_gpus=1, resources={"wide": 4.0})
    for settings, seats, gpu in (
        ({"gpus": 0.25, "cpus": 0}, 4, 0.0),
        ({"cpus": 2, "resources": {"wide": 0.1}}, 2, -1.0),
    ):
        executor: Any = Ray(**settings)
        study = lt.tune(train, space=SPACE, trials=12, executor=executor, checkpoints=True, progress=False)
        found = [result.metrics for result in study.history.results if result]
        assert len(found) == 12 and len({each["seat"] for each in found}) == seats
        assert {each["gpu"] for each in found} == {gpu} and not any(each["torch"] for each in found)
    cluster.remove_node(node)


def test_a_cluster_that_was_killed_is_not_waited_for_and_a_signal_gives_jobs_back(tmp_path: Path) -> None:
    """A program that finds the address of a cluster long gone starts its own; SIGTERM ends it as it does elsewhere."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import time
            import luthier as lt

            def train(config, trial):
                for step in range(1, 1200):
                    trial.report(step, loss=config["x"])
                    time.sleep(0.05)
                return config["x"]

            space = lt.Space(x=lt.Float(0.0, 1.0))
            executor = lt.execute.Ray(workers=1)
            lt.tune(train, space=space, trials=8, store="a.db", name="s", executor=executor, progress=False)
        """)
    )
    place = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # a path of a socket must be short
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place / "ray").mkdir()
    (place / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    begun = time.monotonic()
    driver = subprocess.Popen(
        [sys.executable, str(script)], cwd=tmp_path, env={**environment, "RAY_TMPDIR": str(place)}
    )
    try:
        while not ((tmp_path / "a.db").exists() and lt.Study.load("s", tmp_path / "a.db").history.reports):
            assert driver.poll() is None and time.monotonic() - begun < 60  # Ray itself tries the old one for 200 s
            time.sleep(0.2)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(30) == 128 + signal.SIGTERM
    finally:
        driver.kill()
        driver.wait()
        shutil.rmtree(place, ignore_errors=True)


def test_the_folder_of_checkpoints_must_be_seen_by_every_seat(cluster: Any, tmp_path: Path) -> None:
    class Blind(Checkpoints):
        def load(self, file: str) -> Any:
            raise FileNotFoundError(file)

    executor = Ray()
    with pytest.raises(ExecutionError, match="folder of the checkpoints"):
        executor.start(Work(digits_task(), Seeds(0), checkpoints=Blind(tmp_path)), lambda reports: set())
    assert not list(tmp_path.glob("*.ckpt"))


def test_the_command_line_trains_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import luthier as lt\nspace = lt.Space(x=lt.Float(0.0, 1.0))\ndef objective(config):\n    return config['x']\n"
    )
    command = [sys.executable, "-m", "luthier", "tune", "mine.py", "-n", "4", "--executor", "ray"]
    run = subprocess.run(
        [*command, "--address", cluster.address], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert len(lt.Study.load("mine-random", tmp_path / "luthier.db").trials) == 4
