"""Methods of luthier on real tuning problems, beside the stored results of their peers on the same problems.

    python benchmarks/tuning.py                                    # gp, 8 seeds, one at a time and 8 at a time
    python benchmarks/tuning.py --methods gp random --seeds 4 --suite dev_extra --batches 1
    python benchmarks/tuning.py --part reporting --methods gp random optuna-gp
    python benchmarks/tuning.py --part reporting --methods hebo --trials 50 --hebo PYTHON

--part takes problems and seeds of tuning_split.json, one job at a time, and adds to what results/tuning_peers.json has
already, study by study. Its peers run in benchmarks/peers/tuning_peers.py; HEBO in an interpreter of its own, --hebo or
HEBO_PYTHON.

The problems are tables of real training runs and surrogates fitted to such, in a folder that is not part of this
repository: LUTHIER_BENCH, by default ../shared/bench beside the checkout. Regret is 0 at the best known configuration
and 1 at the median of random ones. CPU time is that of asking and telling alone, with one thread.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import luthier as lt  # noqa: E402  after the number of threads is set

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("LUTHIER_BENCH", ROOT.parent / "shared" / "bench"))
OUT = ROOT / "benchmarks" / "results" / "tuning.json"
OUT_OF_PART = OUT.with_name("tuning_peers.json")
SPLIT = json.loads((ROOT / "benchmarks" / "tuning_split.json").read_text())
PEERS = ("hebo", "optuna-gp")
BUDGETS = (25, 50, 100, 300)
BOUND = 0.75  # of the best peer's mean regret, asserted for gp on the whole suite
CPU_BOUND = 2.0  # seconds in 100 evaluations
DESIGN = 8  # evaluations before the first proposal of a model: where the reduction of regret is counted from


def to_space(parameters: list[Any]) -> tuple[lt.Space, dict[str, str]]:
    """The search space of a task, and the task's name of each hyperparameter."""
    names = {p.name: p.name.replace(".", "_") for p in parameters}
    domains: dict[str, Any] = {}
    for p in parameters:
        when = {names[p.cond[0]]: list(p.cond[1])} if p.cond else None
        if p.kind == "float":
            domain: Any = lt.Float(p.low, p.high, log=p.log, when=when)
        elif p.kind == "int":
            domain = lt.Int(p.low, p.high, log=p.log, when=when)
        else:
            domain = lt.Choice(list(p.choices), ordered=p.kind == "ord", when=when)
        domains[names[p.name]] = domain
    return lt.Space(domains), {new: old for old, new in names.items()}


def run(task: Any, method: str, seed: int, trials: int, batch: int) -> dict[str, Any]:
    """One study: the regret of the best result so far after each evaluation, and the time that choosing took."""
    task.reset(seed)
    space, original = to_space(task.space)
    study = lt.Study("benchmark", space, method=method, trials=trials, seed=seed)
    spent, lowest, regret, regrets = 0.0, float("inf"), float("nan"), []
    while True:
        begin = time.process_time()
        jobs = study.ask(batch)
        spent += time.process_time() - begin
        if not jobs:
            break
        for job in jobs:
            config = {original[name]: value for name, value in job.config.items()}
            value = task.f(config)
            if value < lowest:  # chosen by what was seen, judged by the truth
                lowest, regret = value, task.regret(task.true(config))
            regrets.append(regret)
            begin = time.process_time()
            study.tell(job, {"loss": value})
            spent += time.process_time() - begin
    row: dict[str, Any] = {"task": task.name, "method": method, "batch": batch, "seed": seed, "cpu": spent}
    row |= {str(n): regrets[min(n, len(regrets)) - 1] for n in (DESIGN, *BUDGETS) if n <= trials}
    row["end"], row["evaluations"] = regrets[-1], len(regrets)
    suggest = getattr(lt.METHODS[method].load()(), "suggest", None)
    if suggest is not None:
        believed = {original[name]: value for name, value in suggest(study.history).items()}
        row["suggested"] = task.regret(task.true(believed))
    return row


def peers(suite: str, tasks: list[str]) -> list[dict[str, Any]]:
    """The stored runs of other libraries, as rows of :func:`run`."""
    file = FOLDER / "results" / f"{suite}.csv"
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        stored = [row for row in csv.DictReader(lines) if row["task"] in tasks and not row["error"]]
    found = []
    for row in stored:
        values = {n: float(row[f"regret{n}"]) for n in ("50", "100") if row[f"regret{n}"]}
        cpu = float(row["overhead_cpu_s100"]) if row["overhead_cpu_s100"] else float("nan")
        found.append(
            {"task": row["task"], "method": row["opt"], "batch": 1, "seed": int(row["seed"]), "cpu": cpu} | values
        )
    return found


def theirs(peer: str, pairs: list[tuple[str, int]], trials: int, python: str) -> Iterator[dict[str, Any]]:
    """Rows of a peer on pairs of a task and a seed, as they come from the interpreter that has it."""
    script = str(Path(__file__).resolve().parent / "peers" / "tuning_peers.py")
    environment = {
        name: value for name, value in os.environ.items() if python == sys.executable or name != "PYTHONPATH"
    }
    command = [python, script, peer, str(trials), str(FOLDER)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("".join(f"{task} {seed}\n" for task, seed in pairs))
        process.stdin.close()
        yield from (json.loads(line) for line in process.stdout if line.startswith("{"))
    if process.returncode:
        sys.exit(f"{python} could not run {peer}: see {script}")


def split_part(arguments: argparse.Namespace, problems: Any) -> None:
    """Run what is missing of a part of the split, print the table, write JSON after each study."""
    part, file = SPLIT[arguments.part], arguments.out or OUT_OF_PART
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"commands": [], "runs": []}
    kept |= {"part": arguments.part, "machine": lt.environment("optuna")}
    command = " ".join(["python", "benchmarks/tuning.py", *sys.argv[1:]])
    kept["commands"] = list(dict.fromkeys([*kept["commands"], command]))  # it may be stopped, and goes on
    tasks = arguments.tasks or part["tasks"]
    seeds = [seed for seed in part["seeds"] if seed >= arguments.first_seed][: arguments.seeds]
    for method in arguments.methods:
        done = {(r["task"], r["seed"]) for r in kept["runs"] if r["method"] == method}
        pairs = [(task, seed) for seed in seeds for task in tasks if (task, seed) not in done]
        python = arguments.hebo if method == "hebo" else sys.executable
        made: Iterator[dict[str, Any]] = (
            theirs(method, pairs, arguments.trials, python)
            if method in PEERS
            else (run(problems.get(task), method, seed, arguments.trials, 1) for task, seed in pairs)
        )
        for row in made:
            kept["runs"].append(row)
            kept["summary"] = summary(kept["runs"], part["tasks"])
            kept["pairs"] = paired(kept["runs"])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{method}: done", file=sys.stderr, flush=True)
    show(kept["summary"])
    for line in kept["pairs"]:
        print(
            f"gp beside {line['peer']}, after {line['after']}: {line['gp']:.4f} and {line['theirs']:.4f}, difference "
            f"{line['difference']:+.4f} ± {line['standard error']:.4f} (standard error, {line['studies']} pairs)"
        )


def paired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """gp beside each other method on the problems and seeds that both have; the standard error is over the pairs."""
    lines = []
    ours = {(r["task"], r["seed"]): r for r in rows if r["method"] == "gp"}
    for peer in dict.fromkeys(r["method"] for r in rows if r["method"] != "gp"):
        runs = [r for r in rows if r["method"] == peer and (r["task"], r["seed"]) in ours]
        for n in map(str, BUDGETS):
            both = [(ours[r["task"], r["seed"]][n], r[n]) for r in runs if n in r and n in ours[r["task"], r["seed"]]]
            if len(both) > 1:
                differences = [mine - yours for mine, yours in both]
                means = [statistics.fmean(values) for values in zip(*both, strict=True)]
                error = statistics.stdev(differences) / len(both) ** 0.5
                line = {"peer": peer, "after": int(n), "studies": len(both), "gp": means[0], "theirs": means[1]}
                lines.append({**line, "difference": statistics.fmean(differences), "standard error": error})
    return lines


def summary(rows: list[dict[str, Any]], tasks: list[str]) -> list[dict[str, Any]]:
    """One line a method: the mean over tasks and seeds, and the standard deviation over seeds of that over tasks."""
    lines = []
    for method, batch in dict.fromkeys((row["method"], row["batch"]) for row in rows):
        runs = [row for row in rows if (row["method"], row["batch"]) == (method, batch)]
        line: dict[str, Any] = {"method": method, "batch": batch}
        line["seeds"] = len({row["seed"] for row in runs})
        line["cpu"] = statistics.fmean(row["cpu"] for row in runs)
        for n in (*map(str, (DESIGN, *BUDGETS)), "end", "suggested"):
            of_seed = {
                seed: [row[n] for row in runs if row["seed"] == seed and n in row] for seed in {r["seed"] for r in runs}
            }
            means = [statistics.fmean(values) for values in of_seed.values() if len(values) == len(tasks)]
            if means:
                line[n] = statistics.fmean(means)
                line[f"{n} sd"] = statistics.stdev(means) if len(means) > 1 else 0.0
        line["by task"] = {
            task: {
                n: statistics.fmean(r[n] for r in runs if r["task"] == task)
                for n in ("50", "100", "end")
                if any(r["task"] == task for r in runs) and all(n in r for r in runs if r["task"] == task)
            }
            for task in tasks
        }
        lines.append(line)
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table."""
    after = "".join(f"{f'after {n}':>18}" for n in (25, 50, 100))
    print(f"{'method':22}{'at once':>8}{'seeds':>6}{after}{'suggested':>11}{'CPU s':>8}")
    for line in lines:
        cells = [
            f"{line[n]:.4f} ± {line[f'{n} sd']:.4f}" if n in line else ""
            for n in ("25", "50", "100" if "100" in line else "end")
        ]
        suggested = f"{line['suggested']:.4f}" if "suggested" in line else ""
        print(
            f"{line['method']:22}{line['batch']:>8}{line['seeds']:>6}{cells[0]:>18}{cells[1]:>18}{cells[2]:>18}{suggested:>11}"
            f"{line['cpu']:>8.2f}"
        )


def checks(lines: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, bool]:
    """What is promised of gp on the whole suite, and whether it holds."""
    found: dict[str, bool] = {}
    ours = {line["batch"]: line for line in lines if line["method"] == "gp"}
    for n in ("50", "100"):
        best = min((line[n] for line in others if n in line and line["seeds"] > 1), default=None)
        if 1 in ours and n in ours[1] and best is not None:
            found[f"regret after {n} at most {BOUND} x {best:.4f}"] = ours[1][n] <= BOUND * best
    if 1 in ours and "100" in ours[1]:
        found[f"CPU s in {ours[1]['evaluations']} evaluations at most {CPU_BOUND}"] = ours[1]["cpu"] <= CPU_BOUND
    if 1 in ours and 8 in ours:
        reductions = {batch: ours[batch][str(DESIGN)] - ours[batch]["end"] for batch in (1, 8)}
        lost = 1.0 - reductions[8] / reductions[1]
        found[f"8 at once lose {lost:.1%} of the reduction of regret, at most 20 %"] = lost <= 0.2
    return found


def main() -> None:
    """Run the studies, print the table beside the peers, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["gp"], help="names of `luthier methods`")
    parser.add_argument("--suite", default="dev")
    parser.add_argument("--part", choices=["choosing", "reporting"], help="of tuning_split.json, instead of a suite")
    parser.add_argument("--tasks", nargs="+", help="these alone")
    parser.add_argument(
        "--hebo", default=os.environ.get("HEBO_PYTHON", sys.executable), help="the interpreter with HEBO"
    )
    parser.add_argument("--seeds", type=int, help="by default 8 of a suite, all of a part")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="jobs at once; above 1, 12 rounds")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not (FOLDER / "tasks.py").exists():
        print(f"skipped: there are no tuning problems in {FOLDER}; set LUTHIER_BENCH to the folder that holds tasks.py")
        sys.exit(1 if "LUTHIER_BENCH" in os.environ else 0)
    sys.path.insert(0, str(FOLDER))
    problems = importlib.import_module("tasks")
    if arguments.part:
        split_part(arguments, problems)
        return
    tasks = arguments.tasks or [name for name in problems.SUITES[arguments.suite] if not name.startswith("live")]
    rows = []
    for seed in range(arguments.first_seed, arguments.first_seed + (arguments.seeds or 8)):
        for name in tasks:
            for method in arguments.methods:
                for batch in arguments.batches:
                    trials = arguments.trials if batch == 1 else 12 * batch
                    rows.append(run(problems.get(name), method, seed, trials, batch))
        print(f"seed {seed}: done", file=sys.stderr, flush=True)
    lines, others = summary(rows, tasks), summary(peers(arguments.suite, tasks), tasks)
    for line in lines:
        line["evaluations"] = max(
            r["evaluations"] for r in rows if (r["method"], r["batch"]) == (line["method"], line["batch"])
        )
    show(lines + others)
    promised = checks(lines, others) if arguments.tasks is None and arguments.suite == "dev" else {}
    for text, holds in promised.items():
        print(f"{'holds' if holds else 'BROKEN'}: {text}")
    found = {
        "command": " ".join(["python", "benchmarks/tuning.py", *sys.argv[1:]]),
        "machine": lt.environment("optuna"),
        "suite": arguments.suite,
        "promised": promised,
        "summary": lines,
        "peers": others,
        "runs": rows,
    }
    file = arguments.out or OUT
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    if not all(promised.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
