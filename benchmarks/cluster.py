"""What a study costs on a Ray cluster, beside Ray Tune on a cluster of the same shape, and what its driver bears.

    python benchmarks/cluster.py [--parts start speed driver tune] [--repeats 3] [--tune PYTHON] [--output FILE]

All on one machine: a cluster is a head without CPUs and two nodes with one CPU each, all in processes of their own.

*start*: a program of one call, from the start of its interpreter to its end: ``lt.tune`` with 64 trivial trials and
``lt.execute.Ray()``, which finds no cluster and starts Ray on this machine. *speed*: on a running cluster, 64 trivial
trials and population based training of 16 members over 20 rounds (the trainings of benchmarks/pbt.py), each with the
start of its seats; ``Local(workers=2)`` beside it; the cost of a job and of a report as the slope from few to many.

*driver*: many virtual trainings, which wait instead of computing and report ten times, on seats that share the CPUs.
Trainings of a larger cluster would take nothing from this machine's processor, so what counts is the driver's own: its
processor time a result (whose reciprocal is the most that it can take), by the number of seats, and its memory. The
rate is bounded here by the seats, which share two cores with it. It measures the driver alone, not a cluster.

*tune*: Ray Tune with the same trials (benchmarks/peers/ray_pbt.py), by default and at its best, in the interpreter
``--tune`` (or the variable RAY_PYTHON), which has ``ray[tune]==2.60.0`` and is given a cluster of the same shape.

It asserts TARGETS. About 2 minutes without Ray Tune, which takes 6 more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import luthier as lt

os.environ |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
SPACE = lt.Space(x=lt.Float(-1.0, 1.0))
TRIVIAL, MEMBERS, ROUNDS = 64, 16, 20
TARGETS = {"64 trivial trials": 3.0, "64 trivial trials with the start of Ray": 12.0, "PBT, 16 x 20": 15.0}
PROGRAM = """
import luthier as lt
space = lt.Space(x=lt.Float(-1.0, 1.0))
study = lt.tune(lambda config: config["x"], space=space, trials=64, executor=lt.execute.Ray(), progress=False)
assert [trial.status for trial in study.trials] == ["ok"] * 64, study
"""


class Tiny(lt.Trainable):
    """The training of two numbers."""

    space = lt.Space(lr=lt.Float(1e-3, 1.0, log=True), momentum=lt.Float(0.0, 0.9))

    def init(self, config: dict[str, Any], key: int) -> dict[str, float]:
        return {"weight": 1.0, "velocity": 0.0}

    def advance(self, state: dict[str, float], config: dict[str, Any], steps: int) -> tuple[dict[str, float], dict]:
        for _ in range(steps):
            state["velocity"] = config["momentum"] * state["velocity"] - config["lr"] * state["weight"]
            state["weight"] += state["velocity"]
        return state, {}

    def evaluate(self, state: dict[str, float]) -> dict[str, float]:
        return {"loss": state["weight"] ** 2}


def reporting(reports: int, seconds: float = 0.0) -> Callable[[lt.Config, lt.Trial], float]:
    """A training that reports so often and takes so long, without computing."""

    def train(config: lt.Config, trial: lt.Trial) -> float:
        for step in range(1, reports + 1):
            time.sleep(seconds / reports)
            trial.report(step, loss=config["x"])
        return config["x"]

    return train


@contextlib.contextmanager
def cluster() -> Iterator[float]:
    """A cluster of a head and two nodes, to which this process is connected; gives the seconds of its start."""
    import ray
    from ray.cluster_utils import Cluster

    begun = time.perf_counter()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    ray.init(address=made.address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield time.perf_counter() - begun
    finally:
        ray.shutdown()
        made.shutdown()


def tuned(task: Any, executor: Any, method: Any = "random", **more: Any) -> float:
    """Seconds of one study, every trial of which has ended well."""
    begun = time.perf_counter()
    space = {} if isinstance(task, lt.Trainable) else {"space": SPACE}
    study = lt.tune(task, method, executor=executor, seed=0, progress=False, **space, **more)
    seconds = time.perf_counter() - begun
    history = study.history
    jobs = more["trials"] * (ROUNDS if isinstance(task, lt.Trainable) else 1)
    assert [result is not None and result.status for result in history.results] == ["ok"] * jobs, study
    return seconds


def started() -> dict[str, Any]:
    """Seconds of a whole program that starts Ray."""
    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # where no other cluster has left its address
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**environment, "RAY_TMPDIR": place})
    seconds = time.perf_counter() - begun
    shutil.rmtree(place, ignore_errors=True)
    return {"64 trivial trials with the start of Ray": seconds}


def speed() -> dict[str, Any]:
    """Seconds of studies on a running cluster and in local workers, milliseconds of a job and of a report."""
    found: dict[str, Any] = {}
    for suffix, executor in (("", lt.execute.Ray), (", Local(2)", lambda: lt.execute.Local(workers=2))):
        few = tuned(reporting(0), executor(), trials=TRIVIAL)
        found[f"64 trivial trials{suffix}"] = few
        pbt: Any = lt.METHODS["pbt"].load()
        found[f"PBT, 16 x 20{suffix}"] = tuned(Tiny(), executor(), pbt(rounds=ROUNDS), trials=MEMBERS, steps=ROUNDS)
        many = tuned(reporting(0), executor(), trials=TRIVIAL + 1000)
        found[f"a job, ms{suffix}"] = many - few  # for a thousand of them
        told = tuned(reporting(500), executor(), trials=TRIVIAL)
        found[f"a report, ms{suffix}"] = (told - few) / (TRIVIAL * 500) * 1e3
    return found


def driven(seats: int, trials: int) -> dict[str, float]:
    """What the driver takes for so many virtual trainings on so many seats."""
    first: list[float] = []

    class Clock(lt.follow.Follower):
        def events(self, history: Any, new: Any) -> None:
            if not first and any(isinstance(event, lt.Result) for event in new):
                first.extend((time.perf_counter(), time.process_time(), len(history.arrival)))

    executor = lt.execute.Ray(workers=seats, cpus=2 / seats)
    before = memory()
    tuned(reporting(10, seconds=0.1), executor, trials=trials, callbacks=[Clock()])
    begun, processor, ended = first
    wall, processor, ended = time.perf_counter() - begun, time.process_time() - processor, trials - ended
    return {
        "seats": seats,
        "trials": trials,
        "results a second here": round(ended / wall, 1),
        "processor ms of the driver a result, with its ten reports": round(1e3 * processor / ended, 3),
        "results a second that one core of a driver can take": round(ended / processor),
        "memory of the driver at the end, MB": round(memory()),
        "of these for the study, kB a trial": round(1e3 * (memory() - before) / trials, 1),
    }


def memory() -> float:
    """Megabytes that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def of_tune(python: str, work: str, mode: str) -> Any:
    """Seconds that Ray Tune takes, or why it was not measured."""
    if subprocess.run([python, "-c", "import ray.tune"], capture_output=True, check=False).returncode:
        return f"not measured: {python} has no Ray Tune: pip install 'ray[tune]==2.60.0', or --tune PYTHON"
    count, rounds = (TRIVIAL, 1) if work == "trivial" else (MEMBERS, ROUNDS)
    script = Path(__file__).resolve().parent / "peers" / "ray_pbt.py"
    command = [python, str(script), str(count), str(rounds), "1", mode, work, "cluster"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def middle(runs: list[dict[str, float]]) -> dict[str, Any]:
    """The median of each figure, and its range."""
    rows = {name: [run[name] for run in runs] for name in runs[0]}
    return {
        name: {"median": round(statistics.median(row), 3), "range": [round(min(row), 3), round(max(row), 3)]}
        for name, row in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["start", "speed", "driver", "tune"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seats", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--trials", type=int, default=100, help="virtual trainings of each seat")
    rows = [f"{work}, {mode}" for work in ("trivial", "pbt") for mode in ("default", "best")]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, help="of Ray Tune")
    parser.add_argument("--tune", default=os.environ.get("RAY_PYTHON", sys.executable))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cluster.json"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of Ray's
    warnings.filterwarnings("ignore", category=ResourceWarning)
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)

    def note(part: str, found: Any) -> None:
        kept.setdefault("machine", {})[part] = lt.environment("ray")
        kept[part] = found
        arguments.output.write_text(json.dumps(kept, indent=2) + "\n")
        print(part, json.dumps(found, indent=2), flush=True)

    if "start" in arguments.parts:
        note("start", middle([started() for _ in range(arguments.repeats)]))
    if {"speed", "driver"} & set(arguments.parts):
        with cluster() as seconds:
            print(f"the cluster has started in {seconds:.1f} s", flush=True)
            if "speed" in arguments.parts:
                note("speed", middle([speed() for _ in range(arguments.repeats)]))
            if "driver" in arguments.parts:
                note("driver", [driven(seats, arguments.trials * seats) for seats in arguments.seats])
    if "tune" in arguments.parts:
        for row in arguments.rows:
            note("tune", {**kept.get("tune", {}), row: of_tune(arguments.tune, *row.split(", "))})
    figures = {**kept.get("start", {}), **kept.get("speed", {})}
    missed = {
        name: figures[name]["median"]
        for name, most in TARGETS.items()
        if name in figures and figures[name]["median"] > most
    }
    raise SystemExit(f"above target: {missed}" if missed else 0)


if __name__ == "__main__":
    main()
