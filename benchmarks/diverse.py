"""Methods that look for several good configurations which differ, by the mean of the best that are far apart.

    python benchmarks/diverse.py                   # the problems and seeds for reporting
    python benchmarks/diverse.py --part choosing   # those on which the method and its settings were chosen

100 evaluations in batches of 5. Of the results a set is read off greedily: the best, then again and again the best that
is farther than a distance from all before it (Maus et al., 2023, ROBOT). Its score is the mean regret of the set: 0 is
the best known value of the problem, 1 the median of random configurations. Distance is the root mean square over the
columns of the difference of codes, 0.1 a tenth of the box. `diverse` and `gflownet` are told 0.1 or 0.2, and `diverse`
10 configurations, their defaults but for the 0.2; all results are read with other distances and
smaller sets too. A set that is short of configurations counts each missing one as regret 1. "good" counts
configurations farther than 0.1 apart within 0.02 of regret of the best, that of the run ("own") and that of all
methods on the problem and seed ("common").

`peaks6` and `peaks8` are formulas of six and eight dimensions with eight modes of nearly equal height, in other places
under each seed. The others are tables and surrogates of real trainings, read as tuning.py reads them (LUTHIER_BENCH),
of six and more dimensions; hartmann6 is a formula. The split is in ``diverse_split.json``. CPU time is that of asking
and telling alone. Runs are written as they end, and what the file holds is not run again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  after the number of threads is set
import torch  # noqa: E402
from tuning import FOLDER, ROOT, to_space  # noqa: E402

import luthier as lt  # noqa: E402

first_apart = importlib.import_module("luthier.space.distance").first_apart
SPLIT = json.loads((ROOT / "benchmarks" / "diverse_split.json").read_text())
OUT = ROOT / "benchmarks" / "results" / "diverse.json"
TRIALS, BATCH = 100, 5
READINGS = ((10, 0.1), (10, 0.2), (5, 0.2), (5, 0.3))  # configurations in the set, and how far apart
SCORES = [f"{count} at {apart}" for count, apart in READINGS]
WITHIN, APART = 0.02, 0.1  # of the old count
MODES, WIDTH = 8, 0.15  # of the peaks

METHODS: dict[str, Callable[[], Any]] = {
    "diverse": lambda: lt.propose.Diverse(batch=BATCH),
    "diverse, apart=0.2": lambda: lt.propose.Diverse(batch=BATCH, apart=0.2),
    "gflownet": lambda: lt.propose.GFlowNet(batch=BATCH),
    "gflownet, apart=0.2": lambda: lt.propose.GFlowNet(batch=BATCH, apart=0.2),
    "gp": lambda: lt.propose.GaussianProcess(batch=BATCH),
    "tpe": lambda: lt.METHODS["tpe"].load()(),
    "random": lt.propose.Random,
}


class Problem:
    """A function over a space.

    Args:
        space: Its space.
        value: What a method is told of a configuration, minimised.
        regret: 0 at the best known configuration, 1 at the median of random ones.
    """

    def __init__(
        self, space: lt.Space, value: Callable[[dict[str, Any]], float], regret: Callable[[dict[str, Any]], float]
    ) -> None:
        self.space, self.value, self.regret = space, value, regret


def load(name: str, seed: int) -> Problem:
    """The problem of this name, as it is under this seed."""
    if name.startswith("peaks"):
        return peaks(int(name.removeprefix("peaks")), seed)
    task = importlib.import_module("tasks").get(name)
    task.reset(seed)
    space, original = to_space(task.space)

    def named(config: dict[str, Any]) -> dict[str, Any]:
        return {original[key]: value for key, value in config.items()}

    return Problem(space, lambda c: task.f(named(c)), lambda c: float(task.regret(task.true(named(c)))))


def peaks(width: int, seed: int) -> Problem:
    """Eight modes of heights from 0.9 to 1 in the unit cube, on a slope toward them from far away."""
    rng = np.random.default_rng([width, seed])
    centres, heights = rng.uniform(0.1, 0.9, (MODES, width)), np.linspace(1.0, 0.9, MODES)
    space = lt.Space({f"x{i}": lt.Float(0.0, 1.0) for i in range(width)})

    def values(points: np.ndarray) -> np.ndarray:
        squared = ((points[:, None, :] - centres) ** 2).mean(axis=2) / WIDTH**2
        return 1.0 - (heights / (1.0 + squared)).max(axis=1)

    def value(config: dict[str, Any]) -> float:
        return float(values(np.array([[config[f"x{i}"] for i in range(width)]]))[0])

    best, middle = float(values(centres).min()), float(np.median(values(rng.random((20_000, width)))))
    return Problem(space, value, lambda config: (value(config) - best) / (middle - best))


def run(name: str, method: str, seed: int) -> dict[str, Any]:
    """One study: its scores, and what the common count needs."""
    problem = load(name, seed)
    study = lt.Study("diverse", problem.space, method=METHODS[method](), trials=TRIALS, seed=seed)
    spent, regrets = 0.0, list[float]()
    while True:
        begin = time.process_time()
        jobs = study.ask(BATCH)
        spent += time.process_time() - begin
        if not jobs:
            break
        regrets += [problem.regret(job.config) for job in jobs]
        told = [(job, {"loss": problem.value(job.config)}) for job in jobs]
        begin = time.process_time()
        study.tell_many(told)
        spent += time.process_time() - begin
    found, history = np.array(regrets), study.history
    row: dict[str, Any] = {"problem": name, "method": method, "seed": seed, "best": float(found.min())}
    order = np.argsort(found, kind="stable")
    codes, mask = history.codes[order], history.mask[order]
    for score, (count, apart) in zip(SCORES, READINGS, strict=True):
        values = found[order[first_apart(history.space, codes, mask, apart, count)]].tolist()
        row[score] = statistics.fmean(values + [1.0] * (count - len(values)))
    apart_ones = {
        limit: len(first_apart(history.space, *(x[found[order] <= limit] for x in (codes, mask)), APART))
        for limit in (float(one) for one in sorted(set(found[found <= 1.0] + 0.0)))
    }
    return row | {"cpu": spent, "counts": apart_ones}


def good(rows: list[dict[str, Any]]) -> None:
    """Count different good ones in the runs of one problem and seed, and drop what is not written."""
    common = min(row["best"] for row in rows)
    for row in rows:
        for whose, best in (("own", row["best"]), ("common", common)):
            limits = [limit for limit in row["counts"] if limit <= best + WITHIN]
            row[f"good, {whose}"] = row["counts"][max(limits)] if limits else 0
    for row in rows:
        del row["counts"]


COLUMNS = ["best", *SCORES, "good, own", "good, common", "cpu"]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a method: mean over problems and seeds, standard deviation over seeds of the mean over problems."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        line: dict[str, Any] = {"method": method, "runs": len(mine)}
        for name in COLUMNS:
            means = [statistics.fmean(r[name] for r in mine if r["seed"] == s) for s in {r["seed"] for r in mine}]
            line[name], line[f"{name} sd"] = statistics.fmean(means), statistics.stdev(means) if means[1:] else 0.0
        line["by problem"] = {
            problem: {name: statistics.fmean(r[name] for r in mine if r["problem"] == problem) for name in COLUMNS}
            for problem in dict.fromkeys(row["problem"] for row in mine)
        }
        lines.append(line)
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table, and the headline of each problem."""
    print(f"{'':28}" + "".join(name.rjust(16) for name in COLUMNS))
    for line in lines:
        print(f"{line['method']:28}" + "".join(f"{line[n]:.3f} ± {line[f'{n} sd']:.3f}".rjust(16) for n in COLUMNS))
    for problem in lines[0]["by problem"] if lines else ():
        for line in lines:
            by = line["by problem"].get(problem, {})
            print(f"  {problem:26}{line['method']:12}" + "".join(f"{by.get(n, np.nan):9.3f}" for n in COLUMNS))


def write(out: Path, part: str, rows: list[dict[str, Any]]) -> None:
    """Write what has been found so far."""
    written = {
        "command": " ".join(["python benchmarks/diverse.py", *sys.argv[1:]]),
        "machine": lt.environment("optuna"),
        "part": part,
        "summary": summary(rows),
        "runs": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(written, indent=1) + "\n")


def main() -> None:
    """Run the studies, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["choosing", "reporting"], default="reporting")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--problems", nargs="+", help="these of the part alone")
    parser.add_argument("--seeds", type=int, help="so many of the part's")
    parser.add_argument("--settings", default="{}", help="of Diverse, as JSON, to try others")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if not (FOLDER / "tasks.py").exists():
        print(f"skipped: there are no tuning problems in {FOLDER}; set LUTHIER_BENCH to the folder that holds tasks.py")
        sys.exit(1 if "LUTHIER_BENCH" in os.environ else 0)
    torch.set_num_threads(1)
    sys.path.insert(0, str(FOLDER))
    METHODS["diverse"] = lambda: lt.propose.Diverse(**{"batch": BATCH} | json.loads(arguments.settings))
    part = SPLIT[arguments.part]
    problems = [one for one in part["problems"] if arguments.problems is None or one in arguments.problems]
    held = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows = held["runs"] if held.get("part") == arguments.part else []
    done = {(row["problem"], row["seed"]) for row in rows}
    for seed in part["seeds"][: arguments.seeds]:
        for problem in (one for one in problems if (one, seed) not in done):
            latest = [run(problem, method, seed) for method in arguments.methods]
            good(latest)
            rows += latest
            write(arguments.out, arguments.part, rows)
            last = ", ".join(f"{r['method']} {r[SCORES[0]]:.3f} ({r['cpu']:.1f} s)" for r in latest)
            print(f"seed {seed}, {problem}: {last}", file=sys.stderr, flush=True)
    show(summary(rows))


if __name__ == "__main__":
    main()
