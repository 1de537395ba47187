"""The learnt GFlowNet sampler: which settings, and beside torchgfn 2.4.1 on the same tree.

    python -m venv peer && peer/bin/pip install torchgfn==2.4.1
    python benchmarks/gflownet.py --peer peer/bin/python           # some minutes on one core

The tree has three levels of 16 actions; the reward is 0.001 plus eight Gaussian bumps, different for each seed. The
distance is the sum over all 4,096 leaves of |P - R/Z|, by enumeration: 0 is perfect, uniform sampling has about 1.4. A
reward evaluation is a way drawn in training, also where its leaf is met again. CPU time is that of the process, with
one thread, without the time in which distances are computed.

torchgfn needs NumPy 1, so it has an interpreter of its own: --peer, or the environment variable TORCHGFN_PYTHON. It is
run as it comes (trajectory balance, lr 1e-3, 32 ways at a time), and with what helps luthier most: log Z begun at the
mean reward, lr 3e-3 falling as a cosine, epsilon 0.1, and four batches of its replay buffer for each new one. What is
promised: where torchgfn ends, luthier is, on average over the seeds, in at most half of its CPU time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import luthier as lt

flow = importlib.import_module("luthier.propose.flow")
PAPER = importlib.import_module("luthier.propose.flow.training_settings").PAPER
OBJECTIVES = importlib.import_module("luthier.propose.flow.objectives").OBJECTIVES

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "gflownet.json"
DEPTH, WIDTH, BOUND = 3, 16, 0.5
PLAIN: dict[str, Any] = {
    "batch": 32,
    "lr": 1e-3,
    "log_z_lr": 0.1,
    "init_log_z": False,
    "cosine": False,
    "epsilon": 0.0,
    "replay": 0,
    "replay_batch": 32,
}
PEERS = {
    "torchgfn as it comes": PLAIN,
    "torchgfn tuned": PLAIN | {"lr": 3e-3, "init_log_z": True, "cosine": True, "epsilon": 0.1, "replay": 4},
}


def bumps(seed: int) -> Callable[[Any], np.ndarray]:
    """The log reward of one seed."""
    rng = np.random.default_rng(seed)
    centres, heights = (rng.integers(0, WIDTH, (8, DEPTH)) + 0.5) / WIDTH, rng.uniform(0.35, 0.8, 8)

    def log_reward(leaves: Any) -> np.ndarray:
        squares = ((leaves.codes[:, None] - centres) ** 2).sum(axis=2)
        return np.log(1e-3 + np.exp(-squares / (2 * 0.085**2)) @ heights)

    return log_reward


def ours(settings: Any, tree: Any, seed: int, curve: bool = False) -> dict[str, Any]:
    """One training; with its curve, the distance after every round."""
    reward = bumps(seed)
    truth = flow.exact(tree, reward)
    looks: list[dict[str, float]] = []
    spent, begin = 0.0, time.process_time()

    def look(sampler: Any) -> None:
        nonlocal spent, begin
        spent += time.process_time() - begin
        looks.append({"cpu": spent, "l1": flow.distance(sampler, truth), "log_z": sampler.log_z - truth.log_z})
        begin = time.process_time()

    sampler = flow.learn(tree, reward, settings, key=seed, progress=look if curve else None)
    if not curve:
        look(sampler)
    return {**looks[-1], "distinct": sampler.distinct, "curve": looks if curve else []}


def peer(python: str, settings: dict[str, Any], tree: Any, seed: int, evaluations: int) -> dict[str, Any]:
    """One training of torchgfn in its own interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        rewards = str(Path(folder) / "rewards.npy")
        np.save(rewards, bumps(seed)(tree.all))
        job = settings | {"depth": DEPTH, "width": WIDTH, "rewards": rewards, "seed": seed, "evaluations": evaluations}
        command = [python, str(HERE / "gflownet_torchgfn.py"), json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found["curve"][-1], **found}


def variants(evaluations: int) -> dict[str, Any]:
    """The settings that are compared."""
    ours_ = flow.Settings(evaluations=evaluations)
    found = {"the paper's": replace(PAPER, evaluations=evaluations), "default": ours_}
    for policy in ("shared", "experts"):
        for objective in OBJECTIVES:
            found[f"{objective}, {policy}"] = replace(ours_, objective=objective, policy=policy)
    changes: dict[str, dict[str, Any]] = {
        "no replay": {"states": 0},
        "temperature 1": {"temperature": 1.0},
        "equal weights": {"prioritised": 0.0},
        "no prior flows": {"prior": False},
        "lr 3e-3": {"lr": 3e-3},
        "updates 5": {"updates": 5},
        "one hidden layer": {"layers": 1},
    }
    return found | {name: replace(ours_, **change) for name, change in changes.items()}


def table(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds."""
    line: dict[str, Any] = {"what": name, "seeds": len(rows)}
    for key in ("l1", "log_z", "cpu"):
        values = [row[key] for row in rows]
        line[key] = statistics.mean(values)
        line[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    print(
        f"{name:38} L1 {line['l1']:.3f} ± {line['l1_sd']:.3f}   log Z {line['log_z']:+.3f}   "
        f"{line['cpu']:.2f} ± {line['cpu_sd']:.2f} CPU s",
        flush=True,
    )
    return line


def until(curve: list[dict[str, float]], l1: float) -> float:
    """CPU seconds until the distance is at most ``l1``; infinite where it never is."""
    return next((one["cpu"] for one in curve if one["l1"] <= l1), float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=os.environ.get("TORCHGFN_PYTHON"), help="the interpreter with torchgfn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tree = flow.Tree(lt.Space({name: lt.Float(0.0, 1.0) for name in "abc"}), bins=WIDTH)
    seeds = range(arguments.seeds)
    result: dict[str, Any] = {
        "command": f"python benchmarks/gflownet.py --seeds {arguments.seeds} --evaluations {arguments.evaluations}",
        "machine": lt.environment(),
        "peer": [],
        "settings": [],
    }

    def save() -> None:
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    if arguments.peer:
        mine = [ours(flow.Settings(evaluations=arguments.evaluations), tree, seed, curve=True) for seed in seeds]
        result["peer"].append(table("luthier", mine))
        for name, settings in PEERS.items():
            rows = [peer(arguments.peer, settings, tree, seed, arguments.evaluations) for seed in seeds]
            line = table(name, rows)
            reached = [until(one["curve"], other["l1"]) for one, other in zip(mine, rows, strict=True)]
            line["luthier_cpu_to_the_same"] = statistics.mean(reached)
            line["times_less_cpu"] = line["cpu"] / statistics.mean(reached)
            print(f"{'':38} luthier is there after {statistics.mean(reached):.2f} CPU s", flush=True)
            result["peer"].append(line)
            save()
            assert statistics.mean(reached) <= BOUND * line["cpu"], f"{name}: {reached}"
    for name, settings in variants(arguments.evaluations).items():
        result["settings"].append(table(name, [ours(settings, tree, seed) for seed in seeds]))
        save()
    default = next(line for line in result["settings"] if line["what"] == "default")
    assert default["l1"] <= 0.08, default


if __name__ == "__main__":
    main()
