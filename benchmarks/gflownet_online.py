"""The GFlowNet as a proposer on real tuning problems, beside TPE and gp: the best found, and how many different ones.

    python benchmarks/gflownet_online.py                    # 8 problems, 10 seeds, 100 evaluations in batches of 10
    python benchmarks/gflownet_online.py --ceiling          # and how many different good ones there are at all
    python benchmarks/gflownet_online.py --suite dev_extra  # 9 further problems
    python benchmarks/gflownet_online.py --tasks nb201_cifar10 --seeds 1 --first-seed 100 --out one.json

The problems are those of tuning.py, found in the same folder (LUTHIER_BENCH). Regret is 0 at the best known
configuration and 1 at the median of random ones. "Different ones" are evaluated configurations that are within 2 % of
the best, any two of them farther apart than 10 % of the box: the root mean square over the columns of the difference of
their codes, as ``luthier.space.distance`` has it; taken greedily from the best on. "Within 2 %" is read in three ways:

- regret: at most 0.02 more regret than the best;
- score: an accuracy of at least 0.98 times the best accuracy (where the problem has none, as loss);
- loss: a loss (an error rate where the problem has an accuracy) of at most 1.02 times the best.

and "the best" in two: "own" is the best of the same run, "common" that of all methods on that problem and seed.
CPU time is that of asking and telling alone. Runs are written as they end, and what the file holds is not run again.

The ceiling is what someone who knows the whole table, or the surrogate from 100,000 random configurations and a search
around the best of them, could have placed: for each run, different ones within 0.02 of regret of the best it found.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
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
perturb = importlib.import_module("luthier.propose.gaussian_process.candidates").perturb
encodings = importlib.import_module("luthier.space.encoder")
OUT = {
    "dev": ROOT / "benchmarks" / "results" / "gflownet_online.json",
    "dev_extra": ROOT / "benchmarks" / "results" / "gflownet_online_extra.json",
}
TRIALS, BATCH = 100, 10
WITHIN, APART = 0.02, 0.1
RATIO = 2.0  # of different good configurations, gflownet to each other method: looked for under every reading
READINGS = ("regret", "score", "loss")
COUNTS = [f"{reading}, {whose}" for reading in READINGS for whose in ("own", "common")]
RANDOM, WORST = 100_000, 0.3  # the ceiling: random configurations of a surrogate, and the regret up to which it counts
LEADERS, CHILDREN, SCALES = 3_000, 10, (0.2, 0.1, 0.05, 0.1, 0.05)  # of the search around them

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
    everything = {"values": np.array(values), "regrets": np.array(regrets)}
    return row | everything | {"space": space, "codes": history.codes, "mask": history.mask}


def best_score(task: Any) -> float | None:
    """The value that an accuracy is subtracted from to be minimised, 100 or 1; None where the problem has a loss."""
    if task.family in ("fcnet", "toy"):
        return None
    return 100.0 if importlib.import_module("tasks").norms()[task.name]["worst"] > 1 else 1.0


def good(row: dict[str, Any], best: dict[str, float], reading: str, top: float | None) -> np.ndarray:
    """Which evaluations are within 2 % of the best, (evaluations,) bool."""
    if reading == "regret":
        return row["regrets"] <= best["regrets"] + WITHIN
    if reading == "score" and top is not None:
        return top - row["values"] >= (1 - WITHIN) * (top - best["values"])
    return row["values"] <= best["values"] + WITHIN * abs(best["values"])


def different(row: dict[str, Any], fine: np.ndarray) -> int:
    """How many of these evaluated configurations are far from one another."""
    order = np.argsort(row["regrets"], kind="stable")
    order = order[fine[order]]
    return len(first_apart(row["space"], row["codes"][order], row["mask"][order], APART))


def count(rows: list[dict[str, Any]], top: float | None) -> None:
    """Count different good configurations in the runs of one problem and seed, and drop what is not written."""
    common = {name: min(float(row[name].min()) for row in rows) for name in ("regrets", "values")}
    for row in rows:
        own = {name: float(row[name].min()) for name in ("regrets", "values")}
        for reading in READINGS:
            row[f"{reading}, own"] = different(row, good(row, own, reading, top))
            row[f"{reading}, common"] = different(row, good(row, common, reading, top))
    for row in rows:
        for name in ("values", "regrets", "space", "codes", "mask"):
            del row[name]


def surface(task: Any) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """A problem's space, its good configurations with the best first, their regrets, and those of random ones, sorted.

    Of a table all configurations are known; of a surrogate random ones and those found around the best.
    """
    space, original = to_space(task.space)
    encoding = encodings.encoding_of(space)

    def regrets(points: Any) -> np.ndarray:
        configs = [{original[n]: v for n, v in c.items()} for c in space.decode(points.codes)]
        return np.array([task.regret(value) for value in task.batch(configs)])

    finite = space.size is not None
    rng = np.random.default_rng(0)
    points = encoding.all_points if finite else encoding.sample(rng, RANDOM)
    found = anywhere = regrets(points)
    for scale in () if finite else SCALES:
        leaders = points.take(np.argsort(found, kind="stable")[:LEADERS])
        near = perturb(encoding, leaders, CHILDREN, scale, rng)
        points, found = encodings.join(points, near), np.concatenate([found, regrets(near)])
    order = np.argsort(found, kind="stable")
    order = order[found[order] <= WORST]
    return space, points.take(order), found[order], np.sort(anywhere)


def ceiling(task: Any, runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What there is within 0.02 of the best known, and on average within 0.02 of the best of each method's runs.

    "different" is how many configurations, "share" their part of the box, and "not doubled" the part of the runs in
    which there are fewer than twice as many as the run found.
    """
    space, points, regrets, anywhere = surface(task)

    def exist(best: float) -> int:
        return len(first_apart(space, *points.take(regrets <= best + WITHIN), APART, TRIALS))

    def share(best: float) -> float:
        return float(np.searchsorted(anywhere, best + WITHIN, side="right") / len(anywhere))

    found = {"best known": {"different": float(exist(0.0)), "share": share(0.0)}}
    for method in dict.fromkeys(row["method"] for row in runs):
        mine = [(float(row["100"]), row["regret, own"]) for row in runs if row["method"] == method]
        found[method] = {
            "different": statistics.fmean(exist(best) for best, _ in mine),
            "share": statistics.fmean(share(best) for best, _ in mine),
            "not doubled": statistics.fmean(RATIO * number > exist(best) for best, number in mine),
        }
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a method: mean over tasks and seeds, standard deviation over seeds of the mean over tasks."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        line: dict[str, Any] = {"method": method, "seeds": len({row["seed"] for row in mine})}
        for name in ("50", "100", *COUNTS, "cpu"):
            means = [statistics.fmean(r[name] for r in mine if r["seed"] == s) for s in {r["seed"] for r in mine}]
            line[name] = statistics.fmean(means)
            line[f"{name} sd"] = statistics.stdev(means) if len(means) > 1 else 0.0
        line["by task"] = {
            task: {n: statistics.fmean(r[n] for r in mine if r["task"] == task) for n in ("100", *COUNTS)}
            for task in dict.fromkeys(row["task"] for row in mine)
        }
        lines.append(line)
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Print the tables."""
    for line in lines:
        cells = (f"{n} {line[n]:.3f} ± {line[f'{n} sd']:.3f}" for n in ("50", "100", "cpu"))
        print(f"{line['method']:10} regret after {', '.join(cells)}")
        print("    " + "; ".join(f"{n} {line[n]:.2f} ± {line[f'{n} sd']:.2f}" for n in COUNTS))
        for task, by in line["by task"].items():
            counts = ", ".join(f"{by[n]:.1f}" for n in COUNTS)
            print(f"    {task:26} regret {by['100']:.4f}  different: {counts}")


def promises(lines: list[dict[str, Any]]) -> dict[str, bool]:
    """What is looked for, and whether it holds."""
    by_name = {line["method"]: line for line in lines}
    found: dict[str, bool] = {}
    for other in ("tpe", "gp"):
        if {"gflownet", other} <= set(by_name):
            mine, its = by_name["gflownet"], by_name[other]
            found[f"regret after 100 at most that of {other}"] = mine["100"] <= its["100"]
            found |= {f"{RATIO:g} x the different ones of {other}: {n}": mine[n] >= RATIO * its[n] for n in COUNTS}
    return found


def main() -> None:
    """Run the studies, print, write JSON, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["gflownet", "gp", "tpe", "random"], choices=list(METHODS))
    parser.add_argument("--suite", choices=list(OUT), default="dev")
    parser.add_argument("--tasks", nargs="+", help="problems by name, instead of all of the suite")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--settings", default="{}", help="of GFlowNet, as JSON, to try others")
    parser.add_argument("--ceiling", action="store_true", help="also how many different good ones there are at all")
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
    tasks = arguments.tasks or [name for name in problems.SUITES[arguments.suite] if not name.startswith("live")]
    out = arguments.out or OUT[arguments.suite]
    rows = json.loads(out.read_text())["runs"] if out.exists() and not arguments.anew else []
    done = {(row["task"], row["seed"]) for row in rows}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name in (name for name in tasks if (name, seed) not in done):
            latest = [run(problems.get(name), method, seed) for method in arguments.methods]
            count(latest, best_score(problems.get(name)))
            rows += latest
            last = ", ".join(f"{r['method']} {r['100']:.3f} ({r['cpu']:.1f} s)" for r in latest)
            print(f"seed {seed}, {name}: {last}", file=sys.stderr, flush=True)
            write(out, rows, {})
    found = {}
    for name in tasks if arguments.ceiling else ():
        found[name] = ceiling(problems.get(name), [row for row in rows if row["task"] == name])
    for name, by in found.items():
        cells = (f"{whose} {one['different']:.1f} ({one['share']:.2%})" for whose, one in by.items())
        print(f"ceiling of {name}: " + ", ".join(cells))
    lines = summary(rows)
    show(lines)
    for text, holds in promises(lines).items():
        print(f"{'holds' if holds else 'does not hold'}: {text}")
    write(out, rows, found)


def write(out: Path, rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Write what has been found so far; a ceiling that was computed before is kept."""
    kept = json.loads(out.read_text()).get("ceiling", {}) if out.exists() else {}
    lines = summary(rows)
    written = {
        "command": " ".join(["python benchmarks/gflownet_online.py", *sys.argv[1:]]),
        "machine": lt.environment("optuna"),
        "holds": promises(lines),
        "ceiling": kept | found,
        "summary": lines,
        "runs": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
