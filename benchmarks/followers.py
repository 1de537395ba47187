"""What followers cost: time on the training thread a report, and processor time in all.

    python benchmarks/followers.py [--trials 20] [--reports 200] [--repeats 3] [--output FILE]

A study of functions that report three numbers at a time, trained in the process of the study, once without a follower
and once with each: TensorBoard, MLflow on SQLite, W&B offline, CSV. Each case runs in a process of its own. Given a
report are the wall time inside the follower's calls, which the training waits for, and the processor time of the
training thread beside that of the study without a follower; then the processor time of all threads and children beside
it, and the seconds that the end of the study waits for what is left to write. The first two are held to LIMIT.
W&B's own service is a process that outlives its parent: its time counts where the system tells it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luthier as lt

LIMIT = 0.2  # ms a report on the training thread
SPACE = lt.Space(lr=lt.Float(1e-4, 1.0, log=True), layers=lt.Int(1, 8), act=lt.Choice(["relu", "tanh"]))
CASES: dict[str, Callable[[Path], Any]] = {
    "none": lambda folder: None,
    "CSV": lambda folder: lt.follow.CSV(folder / "study.csv"),
    "TensorBoard": lambda folder: lt.follow.TensorBoard(folder / "runs"),
    "MLflow": lambda folder: lt.follow.MLflow(f"sqlite:///{folder}/mlflow.db"),
    "W&B": lambda folder: lt.follow.WandB(folder=folder, mode="offline"),
}


class Clock(lt.follow.Follower):
    """Times the calls of another follower."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls, self.seconds, self.end = inner, 0, 0.0, 0.0

    def started(self, study: Any) -> None:
        self.inner.started(study)

    def events(self, history: Any, new: Any) -> None:
        begun = time.perf_counter()
        self.inner.events(history, new)
        self.seconds += time.perf_counter() - begun
        self.calls += 1

    def finished(self, study: Any) -> None:
        begun = time.perf_counter()
        self.inner.finished(study)
        self.end = time.perf_counter() - begun


def case(name: str, trials: int, reports: int) -> dict[str, float]:
    """One study, in this process."""

    def train(config: lt.Config, trial: lt.Trial) -> float:
        for step in range(1, reports + 1):
            trial.report(step, loss=config["lr"] / step, accuracy=1 - 1 / step, norm=float(step))
        return config["lr"]

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        follower = CASES[name](Path(folder))
        clock = Clock(follower) if follower is not None else None
        warnings.simplefilter("error", RuntimeWarning)  # a follower that fails costs nothing
        wall, processor, thread = time.perf_counter(), time.process_time(), time.thread_time()
        lt.tune(train, space=SPACE, trials=trials, seed=0, callbacks=clock, progress=False)
        return {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
            "thread": time.thread_time() - thread,
            "inside": clock.seconds if clock else 0.0,
            "end": clock.end if clock else 0.0,
        }


def measured(name: str, trials: int, reports: int) -> dict[str, float]:
    """One study in a process of its own, with the processor time of that process and its children."""
    command = [sys.executable, str(Path(__file__).resolve()), "--case", name]
    command += ["--trials", str(trials), "--reports", str(reports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} failed")
    return {**json.loads(said.splitlines()[-1]), "in all": used.ru_utime + used.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--reports", type=int, default=200, help="of each trial")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/followers.json"))
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(case(arguments.case, arguments.trials, arguments.reports)))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    for _ in range(arguments.repeats):
        for name, found in runs.items():
            found.append(measured(name, arguments.trials, arguments.reports))
    count = arguments.trials * arguments.reports
    middle = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]} for name, found in runs.items()
    }
    alone = middle.pop("none")
    rows = {
        name: {
            "ms a report inside its calls": round(1e3 * row["inside"] / count, 4),
            "ms a report of the training thread's processor": round(1e3 * (row["thread"] - alone["thread"]) / count, 4),
            "ms a report of processor in all": round(1e3 * (row["in all"] - alone["in all"]) / count, 4),
            "s of processor in all": round(row["in all"] - alone["in all"], 2),
            "s at the end of the study": round(row["end"], 2),
        }
        for name, row in middle.items()
    }
    for name, row in rows.items():
        print(name, row, flush=True)
    about = {"trials": arguments.trials, "reports": count, "repeats": arguments.repeats}
    machine = {**lt.environment("tensorboard", "mlflow-skinny", "wandb"), **about}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    above = {f"{name}, {key}": row[key] for name, row in rows.items() for key in list(row)[:2] if row[key] > LIMIT}
    raise SystemExit(f"above {LIMIT} ms: {above}" if above else 0)


if __name__ == "__main__":
    main()
