"""What population based training costs beside the training itself: 16 members, 20 rounds of a tiny step each.

    python benchmarks/pbt.py [--repeats 3] [--ray PYTHON] [--output benchmarks/results/pbt.json]

A "round" is one step of all 16 members. Each row runs ``lt.tune`` on a training of one step a round, so that nearly all
of the time is luthier's own: proposing, recording, saving states and handing them to those who copy them. The study is
kept in memory, in an SQLite file in /dev/shm (where there is one), or in one on the disk, where a state is on the disk
before its result counts, so that a slow disk shows. Given are milliseconds a round: processor time in all, with the
training; processor time beside what the same members take without population based training, measured after every
step; and wall time beside the training (as the training itself, or the results' own clock, measured it). The limit is
held for processor time, which does not depend on what else runs.

With an interpreter that has Ray (this one, or ``--ray``, or the variable RAY_PYTHON), Ray Tune's
PopulationBasedTraining runs beside it on the Trainable's training, once, since it takes minutes: see
benchmarks/peers/ray_pbt.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import luthier as lt

MEMBERS, ROUNDS, LIMIT = 16, 20, 10.0
HELD = "TorchTask"  # the rows that are held to the limit
MEMORY = Path("/dev/shm")
SPACE = lt.Space(lr=lt.Float(1e-3, 1.0, log=True), momentum=lt.Float(0.0, 0.9))


class Tiny:
    """A training of two numbers, which also notes how long it took."""

    space = SPACE

    def __init__(self) -> None:
        self.seconds = 0.0

    def init(self, config: dict[str, Any], key: int) -> dict[str, float]:
        return {"weight": 1.0, "velocity": 0.0}

    def advance(self, state: dict[str, float], config: dict[str, Any], steps: int) -> tuple[dict[str, float], dict]:
        clock = time.perf_counter()
        for _ in range(steps):
            state["velocity"] = config["momentum"] * state["velocity"] - config["lr"] * state["weight"]
            state["weight"] += state["velocity"]
        self.seconds += time.perf_counter() - clock
        return state, {}

    def evaluate(self, state: dict[str, float]) -> dict[str, float]:
        return {"loss": state["weight"] ** 2}


def torch_task() -> lt.TorchTask:
    """A network with two inputs and 13 weights on 256 points."""
    inputs = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    split = lt.data.Split(inputs, (inputs.sum(1, keepdim=True) > 0).float())
    return lt.TorchTask(
        space=SPACE,
        model=lambda config: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Sigmoid()),
        data=lt.data.Splits(train=split, valid=split, test=split),
        loss=lt.losses.binary_cross_entropy,
        batch_size=64,
        evaluate_every=0.25,  # one step
    )


def plain(task: Any) -> float:
    """Processor milliseconds a step of the same members, trained side by side with nobody copied."""
    clock = time.process_time()
    lt.tune(task, "random", trials=MEMBERS, steps=ROUNDS, seed=0, progress=False)
    return 1e3 * (time.process_time() - clock) / ROUNDS


def measure(task: Any, asynchronous: bool, place: str | Path | None) -> tuple[float, float]:
    """Milliseconds of one round: processor time in all, and wall time beside the training.

    Args:
        task: What is trained.
        asynchronous: Whether members wait for each other.
        place: The folder under which the store is; None keeps the study in memory.
    """
    pbt: Any = lt.METHODS["pbt"].load()
    before = task.seconds if isinstance(task, Tiny) else 0.0
    with tempfile.TemporaryDirectory(dir=place) as folder:
        clock, processor = time.perf_counter(), time.process_time()
        study = lt.tune(
            task,
            method=pbt(rounds=ROUNDS, asynchronous=asynchronous),
            trials=MEMBERS,
            steps=ROUNDS,
            store=None if place is None else Path(folder) / "pbt.db",
            name="pbt",
            seed=0,
            progress=False,
        )
        seconds, processor = time.perf_counter() - clock, time.process_time() - processor
    assert (study.history.status == 1).all() and len(study.history) == MEMBERS * ROUNDS
    if isinstance(task, Tiny):
        trained = task.seconds - before
    else:
        trained = sum(result.seconds for result in study.history.results if result is not None)
    return 1e3 * processor / ROUNDS, 1e3 * (seconds - trained) / ROUNDS


def of_ray(python: str, mode: str, limit: float) -> Any:
    """What Ray Tune takes in one of the modes of peers/ray_pbt.py, or why it was not measured."""
    script = Path(__file__).resolve().parent / "peers" / "ray_pbt.py"
    if subprocess.run([python, "-c", "import ray.tune"], capture_output=True, check=False).returncode:
        return f"not measured: {python} has no Ray Tune: pip install 'ray[tune]==2.60.0', or --ray PYTHON"
    command = [python, str(script), str(MEMBERS), str(ROUNDS), "1", mode]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"not ended after {limit:.0f} s"
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ray", default=os.environ.get("RAY_PYTHON", sys.executable))
    parser.add_argument("--ray-seconds", type=float, default=1_800.0, help="after which a mode of Ray Tune is ended")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/pbt.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    places: dict[str, str | Path | None] = {"in memory": None, "SQLite on the disk": tempfile.gettempdir()}
    if MEMORY.is_dir():
        places["SQLite in /dev/shm"] = MEMORY
    for name, task in (("TorchTask", torch_task()), ("Trainable", Tiny())):
        plain(task)
        alone = statistics.median(plain(task) for _ in range(arguments.repeats))
        for asynchronous, place in itertools.product((False, True), places):
            measure(task, asynchronous, places[place])  # imports and the choice of the width are paid once a process
            runs = [measure(task, asynchronous, places[place]) for _ in range(arguments.repeats)]
            row = f"{name}, {'asynchronous' if asynchronous else 'synchronous'}, {place}"
            processor, wall = zip(*runs, strict=True)
            results[row] = {
                "processor milliseconds a round": round(statistics.median(processor), 2),
                "beside the training": round(statistics.median(processor) - alone, 2),
                "wall milliseconds a round beside the training": round(statistics.median(wall), 2),
                "lowest and highest wall": [round(min(wall), 2), round(max(wall), 2)],
            }
            print(row, results[row], flush=True)
    machine = {**lt.environment(), "repeats": arguments.repeats}
    ray: dict[str, Any] = {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for mode in (None, "best", "default"):
        if mode is not None:
            ray[mode] = of_ray(arguments.ray, mode, arguments.ray_seconds)
            print("Ray Tune,", mode, ray[mode], flush=True)
        kept = {"machine": machine, "rows": results, "Ray Tune": ray}
        arguments.output.write_text(json.dumps(kept, indent=2) + "\n")
    above = {row: found["beside the training"] for row, found in results.items() if row.startswith(HELD)}
    above = {row: milliseconds for row, milliseconds in above.items() if milliseconds > LIMIT}
    raise SystemExit(f"above {LIMIT} ms a round: {above}" if above else 0)


if __name__ == "__main__":
    main()
