"""The GFlowNet as a proposer on real tuning problems, beside TPE and gp: the best found, and how many different ones.

    python benchmarks/gflownet_online.py                         # 8 problems, 3 seeds, 100 evaluations in batches of 10
    python benchmarks/gflownet_online.py --tasks nb201_cifar10 --seeds 1 --first-seed 100

The problems are those of tuning.py, found in the same folder (LUTHIER_BENCH). Regret is 0 at the best known
configuration and 1 at the median of random ones. "Different ones" are evaluated configurations whose regret is within
0.02 of the best (of its own run; and of the best run of all methods on that problem and seed), any two of them farther
apart than 10 % of the box: the root mean square over the columns of the difference of their codes, as
``luthier.space.distance`` has it; taken greedily from the best on. CPU time is that of asking and telling alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  after the number of threads is set
import torch  # noqa: E402
from tuning import FOLDER, ROOT, to_space  # noqa: E402

import luthier as lt  # noqa: E402

first_apart = importlib.import_module("luthier.space.distance").first_apart
OUT = ROOT / "benchmarks" / "results" / "gflownet_online.json"
TRIALS, BATCH = 100, 10
WITHIN, APART = 0.02, 0.1
RATIO = 2.0  # of different good configurations, gflownet to each other method: asserted

METHODS: dict[str, Any] = {
    "gflownet": lambda: lt.propose.GFlowNet(batch=BATCH),
    "gp": lambda: lt.propose.GaussianProcess(batch=BATCH),
    "tpe": lambda: lt.METHODS["tpe"].load()(),
    "random": lambda: lt.propose.Random(),
}


def run(task: Any, method: str, seed: int) -> dict[str, Any]:
    """One study: regrets of all evaluations, their codes, and the time that choosing took."""
    task.reset(seed)
    space, original = to_space(task.space)
    study = lt.Study("benchmark", space, method=METHODS[method](), trials=TRIALS, seed=seed)
    spent, values, regrets = 0.0, [], []
    while True:
        begin = time.process_time()
        jobs = study.ask(BATCH)
        spent += time.process_time() - begin
        if not jobs:
            break
        found = []
        for job in jobs:
            config = {original[name]: value for name, value in job.config.items()}
            values.append(task.f(config))
            regrets.append(float(task.regret(task.true(config))))
            found.append((job, {"loss": values[-1]}))
        begin = time.process_time()
        study.tell_many(found)
        spent += time.process_time() - begin
    best = np.minimum.accumulate(regrets)
    history = study.history
    row = {"task": task.name, "method": method, "seed": seed, "cpu": spent, "50": best[49], "100": best[-1]}
    return row | {"regrets": np.array(regrets), "space": space, "codes": history.codes, "mask": history.mask}


def different(row: dict[str, Any], limit: float) -> int:
    """How many evaluated configurations have at most this regret and are far from one another."""
    order = np.argsort(row["regrets"], kind="stable")
    good = order[row["regrets"][order] <= limit]
    return len(first_apart(row["space"], row["codes"][good], row["mask"][good], APART))


def count(rows: list[dict[str, Any]]) -> None:
    """Count different good configurations in the runs of one problem and seed, and drop what is not written."""
    for row in rows:
        row["own"] = different(row, float(row["100"]) + WITHIN)
        row["common"] = different(row, min(float(r["100"]) for r in rows) + WITHIN)
    for row in rows:
        for name in ("regrets", "space", "codes", "mask"):
            del row[name]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a method: mean over tasks and seeds, standard deviation over seeds of the mean over tasks."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        line: dict[str, Any] = {"method": method, "seeds": len({row["seed"] for row in mine})}
        for name in ("50", "100", "own", "common", "cpu"):
            means = [statistics.fmean(r[name] for r in mine if r["seed"] == s) for s in {r["seed"] for r in mine}]
            line[name] = statistics.fmean(means)
            line[f"{name} sd"] = statistics.stdev(means) if len(means) > 1 else 0.0
        line["by task"] = {
            task: {n: statistics.fmean(r[n] for r in mine if r["task"] == task) for n in ("100", "own", "common")}
            for task in dict.fromkeys(row["task"] for row in mine)
        }
        lines.append(line)
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Print the tables."""
    for line in lines:
        cells = "  ".join(f"{n} {line[n]:.4f} ± {line[f'{n} sd']:.4f}" for n in ("50", "100", "own", "common", "cpu"))
        print(f"{line['method']:10} {cells}")
        for task, by in line["by task"].items():
            print(f"    {task:26} regret {by['100']:.4f}  different: own {by['own']:.1f}, common {by['common']:.1f}")


def main() -> None:
    """Run the studies, print, write JSON, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["gflownet", "gp", "tpe", "random"], choices=list(METHODS))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--settings", default="{}", help="of GFlowNet, as JSON, to try others")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--anew", action="store_true", help="drop the runs that are in the file already")
    arguments = parser.parse_args()
    if not (FOLDER / "tasks.py").exists():
        print(f"skipped: there are no tuning problems in {FOLDER}; set LUTHIER_BENCH to the folder that holds tasks.py")
        sys.exit(1 if "LUTHIER_BENCH" in os.environ else 0)
    torch.set_num_threads(1)
    settings = {"batch": BATCH} | json.loads(arguments.settings)
    METHODS["gflownet"] = lambda: lt.propose.GFlowNet(**settings)
    sys.path.insert(0, str(FOLDER))
    problems = importlib.import_module("tasks")
    tasks = arguments.tasks or [name for name in problems.SUITES["dev"] if not name.startswith("live")]
    out = arguments.out or OUT
    rows = json.loads(out.read_text())["runs"] if out.exists() and not arguments.anew else []
    done = {(row["task"], row["seed"]) for row in rows}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name in (name for name in tasks if (name, seed) not in done):
            latest = [run(problems.get(name), method, seed) for method in arguments.methods]
            count(latest)
            rows += latest
            last = ", ".join(f"{r['method']} {r['100']:.3f} ({r['cpu']:.1f} s)" for r in latest)
            print(f"seed {seed}, {name}: {last}", file=sys.stderr, flush=True)
    lines = summary(rows)
    show(lines)
    by_name = {line["method"]: line for line in lines}
    promised = {
        f"{kind}: at least {RATIO} x the different ones of {other}": by_name["gflownet"][kind]
        >= RATIO * by_name[other][kind]
        for other in ("gp", "tpe")
        for kind in ("own", "common")
        if {"gflownet", other} <= set(by_name)
    }
    for text, holds in promised.items():
        print(f"{'holds' if holds else 'BROKEN'}: {text}")
    found = {
        "command": "python benchmarks/gflownet_online.py",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "promised": promised,
        "summary": lines,
        "runs": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
