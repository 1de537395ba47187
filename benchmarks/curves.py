"""Methods that stop trainings early or lay them aside, on learning curves of real trainings, beside their peers.

    python benchmarks/curves.py                       # the tasks and seeds for reporting, all methods
    python benchmarks/curves.py --part choosing       # those on which settings were chosen
    python benchmarks/curves.py --methods freeze_thaw random --tasks taskset_1 --seeds 2
    SYNE_PYTHON=PYTHON python benchmarks/curves.py --methods "syne-tune dyhpo" --seeds 2 --until 25

All methods are luthier's and Optuna's. DyHPO and MOBSTER of Syne Tune are run when they are named, in an interpreter of
their own (benchmarks/peers/curves_peers.py). A study may take them minutes, most of it in its second half: --until ends
it at a part of its steps. Studies that the file has are not made again.

A study may spend as many steps as 20 whole trainings, one worker. Regret is that of the lowest validation value seen
when a part of the steps is spent: 0 is the best known value of the task, 1 the median of whole random trainings. In a
rank table the regrets of all methods on one task and seed are replaced by their places.

The tasks are TaskSet's real curves of recurrent networks (a pool of 1,000 configurations of Adam's eight
hyperparameters, 51 points; what a method proposes in the unit cube of their ranks gives way to the nearest that was not
tried yet, and the study is told that one; freeze_thaw and Syne Tune's methods are told the pool, as the methods of
their kind are in papers) and LCBench's (52 epochs, seven hyperparameters; the surrogate that YAHPO fitted to its real
curves). They are not part of this repository: LUTHIER_BENCH names the folder with ``tasks.py`` and ``mf.py`` that reads
them, by default ../shared/bench beside the checkout, and their checksums are in ``curves_split.json``, with the tasks
and seeds for choosing and for reporting.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  after the number of threads is set

import luthier as lt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("LUTHIER_BENCH", ROOT.parent / "shared" / "bench"))
SPLIT = json.loads((ROOT / "benchmarks" / "curves_split.json").read_text())
OUT = ROOT / "benchmarks" / "results" / "curves.json"
WHOLE = 20  # trainings whose steps a study may spend
PARTS = (25, 50, 100)  # per cent of them
WORST = 10.0  # TaskSet: a validation loss beyond it, or none, counts as this

METHODS: dict[str, Callable[[], Any]] = {
    "random": lt.propose.Random,
    "hyperband": lt.propose.Hyperband,
    "hyperband(gp, brackets=1)": lambda: lt.propose.Hyperband(inner="gp", brackets=1),
    "asha": lt.propose.ASHA,
    "asha(gp)": lambda: lt.propose.ASHA(inner="gp"),
    "asha, stopping": lambda: lt.propose.ASHA().stopping(),
    "hyperband, stopping": lambda: lt.propose.Hyperband().stopping(),
    "median": lt.propose.Median,
    "median(gp)": lambda: lt.propose.Median(inner="gp"),
    "gp": lt.propose.GaussianProcess,
    "freeze_thaw": lt.propose.FreezeThaw,
    "freeze_thaw, stopping": lambda: lt.propose.FreezeThaw().stopping(),
}
PEERS = [f"optuna {sampler} + {pruner}" for sampler in ("random", "tpe") for pruner in ("median", "asha", "hyperband")]
GUESTS = ["syne-tune dyhpo", "syne-tune mobster"]  # in an interpreter of their own


class Task:
    """Curves over a space.

    Args:
        name: Of the task.
        space: Of its configurations.
        steps: Of a whole training.
        curve: The validation value after each step of a configuration, (steps,), minimised.
        best: The lowest known.
        median: Of whole random trainings.
        pool: The only configurations that there are, (configurations, hyperparameters) in the unit cube; None where
            every one of the space has its curve.
    """

    def __init__(
        self,
        name: str,
        space: lt.Space,
        steps: int,
        curve: Callable[[dict], np.ndarray],
        best: float,
        median: float,
        pool: np.ndarray | None = None,
    ) -> None:
        self.name, self.space, self.steps, self.curve, self.best, self.median = name, space, steps, curve, best, median
        self.pool = pool

    def regret(self, value: float) -> float:
        """0 at the best known value, 1 at the median of random ones."""
        return (value - self.best) / (self.median - self.best)


@dataclass(frozen=True, eq=False)
class OfPool:
    """A proposer whose new configurations give way to the nearest of a pool that was not tried."""

    inner: Any
    pool: np.ndarray

    def bind(self, budget: lt.Budget) -> OfPool:
        return replace(self, inner=self.inner.bind(budget))

    def propose(self, history: lt.History, count: int, seeds: Any) -> list[lt.Job]:
        jobs, tried = self.inner.propose(history, count, seeds), [_point(job.config) for job in history.jobs]
        for place, job in enumerate(jobs):
            if job.parent is None:
                found = nearest(self.pool, _point(job.config), tried)
                tried.append(found)
                jobs[place] = replace(job, config=_config(found))
        return jobs

    def __getattr__(self, name: str) -> Any:  # parents, stop, and what else a method may have
        return getattr(self.inner, name)


def nearest(pool: np.ndarray, point: np.ndarray, tried: list[np.ndarray]) -> np.ndarray:
    """The row of the pool nearest to a point, without those that were tried."""
    distances = ((pool - point) ** 2).sum(axis=1)
    if tried:
        distances[(pool[:, None, :] == np.array(tried)[None]).all(axis=2).any(axis=1)] = np.inf
    return pool[int(distances.argmin())]


def _point(config: dict[str, Any]) -> np.ndarray:
    return np.array([config[f"x{i}"] for i in range(len(config))])


def _config(point: np.ndarray) -> dict[str, Any]:
    return {f"x{i}": float(value) for i, value in enumerate(point)}


def load(name: str) -> Task:
    """The task of this name, its file checked."""
    kind, _, which = name.partition("_")
    return _taskset(name, SPLIT["taskset"][which]) if kind == "taskset" else _lcbench(name, which)


def _checked(path: Path) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SPLIT["sha256"][path.name]:
        sys.exit(f"{path} is another file than the one that was measured: sha256 {found}")
    return path


def _data() -> Path:
    return Path(os.environ.get("PEERBENCH_DATA", FOLDER.parent / "data"))


def _taskset(name: str, file: str) -> Task:
    table = np.load(_checked(_data() / "dev" / "taskset" / file))
    values = table["valid"].astype(float)
    values = np.minimum(np.where(np.isfinite(values), values, WORST), WORST)
    order = table["X"].argsort(0).argsort(0)
    places = order / (len(order) - 1.0)
    space = lt.Space({f"x{i}": lt.Float(0.0, 1.0) for i in range(places.shape[1])})

    def curve(config: dict) -> np.ndarray:
        return values[int(((places - _point(config)) ** 2).sum(axis=1).argmin())]

    return Task(name, space, values.shape[1], curve, float(values.min()), float(np.median(values[:, -1])), places)


def _lcbench(name: str, instance: str) -> Task:
    _checked(_data() / "shared" / "yahpo" / "lcbench" / "model.onnx")
    task = importlib.import_module("mf").LcCurves(instance)
    kinds = {"float": lt.Float, "int": lt.Int}
    space = lt.Space({one.name: kinds[one.kind](one.low, one.high, log=one.log) for one in task.space})
    return Task(name, space, task.max, task.curve, task.best, task.med)


def ours(task: Task, method: str, seed: int) -> dict[str, Any]:
    """One study: the lowest value so far after each step, and the time that choosing took."""
    total, trace, lowest, spent = WHOLE * task.steps, list[float](), float("inf"), 0.0
    chosen = METHODS[method]()
    if task.pool is not None:
        told = isinstance(chosen, lt.propose.FreezeThaw)
        every = tuple(_config(point) for point in task.pool)
        chosen = replace(chosen, candidates=every) if told else OfPool(chosen, task.pool)
    study = lt.Study("curves", task.space, method=chosen, steps=task.steps, seed=seed)
    age: dict[int, int] = {}
    curves: dict[int, np.ndarray] = {}
    while len(trace) < total:
        begin = time.process_time()
        [job] = study.ask(1)
        spent += time.process_time() - begin
        curve = task.curve(dict(job.config)) if job.parent is None else curves[job.parent]
        done, stopped = 0 if job.parent is None else age[job.parent], False
        curves[job.number], end, value = curve, min(task.steps, done + job.steps), float("nan")
        while done < end and not stopped and len(trace) < total:
            value = float(curve[done])
            done, lowest = done + 1, min(lowest, value)
            trace.append(lowest)
            begin = time.process_time()
            stopped = study.report(job, done, loss=value) and done < end
            spent += time.process_time() - begin
        age[job.number] = done
        begin = time.process_time()
        study.tell(job, {"loss": value}, status="pruned" if stopped else None)
        spent += time.process_time() - begin
    started = sum(job.parent is None for job in study.history.jobs)
    return _row(task, method, seed, trace, started, spent)


def theirs(task: Task, peer: str, seed: int) -> dict[str, Any]:
    """The same with one of Optuna's samplers and pruners."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, sampler, _, pruner = peer.split()
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    pruners: dict[str, Callable[[], Any]] = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(1, task.steps, 3),
    }
    chosen = samplers[sampler](seed=seed)
    chosen = chosen if task.pool is None else _of_pool(chosen, task.pool)
    study = optuna.create_study(sampler=chosen, pruner=pruners[pruner](), study_name=f"{seed}")
    total, trace, lowest, spent, started = WHOLE * task.steps, list[float](), float("inf"), 0.0, 0
    while len(trace) < total:
        begin = time.process_time()
        trial, config, value = study.ask(), {}, float("nan")
        for name, domain in task.space.domains.items():
            suggest = trial.suggest_float if isinstance(domain, lt.Float) else trial.suggest_int
            config[name] = suggest(name, domain.low, domain.high, log=domain.log)  # type: ignore[union-attr,arg-type]
        spent, started = spent + time.process_time() - begin, started + 1
        for done, value in enumerate(task.curve(config).tolist(), 1):
            lowest = min(lowest, value)
            trace.append(lowest)
            begin = time.process_time()
            trial.report(value, done)
            stopped = trial.should_prune()
            spent += time.process_time() - begin
            if stopped or len(trace) >= total:
                break
        begin = time.process_time()
        study.tell(trial, value)
        spent += time.process_time() - begin
    return _row(task, peer, seed, trace, started, spent)


def guests(peer: str, pairs: list[tuple[Task, int]], until: int, python: str) -> Iterator[dict[str, Any]]:
    """The same with a peer that has an interpreter of its own: it decides, and is given the curves that it asks for."""
    script = str(Path(__file__).resolve().parent / "peers" / "curves_peers.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([python, script, peer], text=True, bufsize=1, env=environment, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None

        def said(line: Any) -> dict[str, Any]:
            process.stdin.write(json.dumps(line) + "\n")
            answer = process.stdout.readline()
            return json.loads(answer) if answer else sys.exit(f"{python} could not run {peer}: see {script}")

        for task, seed in pairs:
            domains = [[name, type(d).__name__, d.low, d.high, d.log] for name, d in task.space.domains.items()]
            pool = None if task.pool is None else [_config(point) for point in task.pool]
            total = WHOLE * task.steps * until // 100
            study = {"domains": domains, "pool": pool, "steps": task.steps, "total": total, "seed": seed}
            answer = said(study)
            while "config" in answer:
                answer = said(task.curve(answer["config"]).tolist())
            yield _row(task, peer, seed, answer["trace"], answer["started"], answer["cpu"], until)


def _of_pool(inner: Any, pool: np.ndarray) -> Any:
    """A sampler of Optuna that gives the nearest of a pool that was not tried; its inner one sees that too."""
    from optuna.samplers import BaseSampler
    from optuna.search_space import IntersectionSearchSpace

    names = [f"x{i}" for i in range(pool.shape[1])]
    tried: list[np.ndarray] = []

    class OfPoolSampler(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return IntersectionSearchSpace().calculate(study)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            if not search_space:
                return {}
            drawn = {name: inner.sample_independent(study, trial, name, search_space[name]) for name in names}
            tried.append(nearest(pool, _point(drawn), tried))
            return _config(tried[-1])

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            if param_name == names[0]:  # of the first trial, before there is a search space
                drawn = {name: inner.sample_independent(study, trial, name, param_distribution) for name in names}
                tried.append(nearest(pool, _point(drawn), tried))
            return float(tried[-1][names.index(param_name)])

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            inner.after_trial(study, trial, state, values)

    return OfPoolSampler()


def _row(
    task: Task, method: str, seed: int, trace: list[float], started: int, cpu: float, until: int = 100
) -> dict[str, Any]:
    total = WHOLE * task.steps
    regrets = {str(part): task.regret(trace[total * part // 100 - 1]) for part in PARTS if part <= until}
    return {"task": task.name, "method": method, "seed": seed, **regrets, "started": started, "cpu": cpu}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a method and kind of task: mean over tasks and seeds, standard deviation over seeds, mean rank."""
    lines = []
    ends: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        ends.setdefault((row["task"], row["seed"]), []).append(row["100"])
    for kind in dict.fromkeys(row["task"].partition("_")[0] for row in rows):
        of_kind = [row for row in rows if row["task"].startswith(kind)]
        for method in dict.fromkeys(row["method"] for row in of_kind):
            runs = [row for row in of_kind if row["method"] == method]
            line: dict[str, Any] = {"kind": kind, "method": method, "runs": len(runs)}
            seeds = dict.fromkeys(row["seed"] for row in runs)
            for part in map(str, PARTS):
                means = [statistics.fmean(row[part] for row in runs if row["seed"] == seed) for seed in seeds]
                line[part] = statistics.fmean(means)
                line[f"{part} sd"] = statistics.stdev(means) if len(means) > 1 else 0.0
            beaten = [ends[row["task"], row["seed"]] for row in runs]
            line["rank"] = statistics.fmean(
                1 + sum(one < row["100"] for one in group) + 0.5 * (sum(one == row["100"] for one in group) - 1)
                for row, group in zip(runs, beaten, strict=True)
            )
            line["started"] = statistics.fmean(row["started"] for row in runs)
            line["cpu"] = statistics.fmean(row["cpu"] for row in runs)
            lines.append(line)
    return lines


def paired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Syne Tune's methods beside freeze_thaw, on the studies that both have; the standard error is over them."""
    ours = {(row["task"], row["seed"]): row for row in rows if row["method"] == "freeze_thaw"}
    lines: list[dict[str, Any]] = []
    for kind in dict.fromkeys(row["task"].partition("_")[0] for row in rows):
        for peer in GUESTS:
            runs = [row for row in rows if row["method"] == peer and row["task"].startswith(kind)]
            for part in map(str, PARTS):
                both = [(row[part], ours[row["task"], row["seed"]][part]) for row in runs if part in row]
                if len(both) > 1:
                    differences = [one - other for one, other in both]
                    line: dict[str, Any] = {"kind": kind, "peer": peer, "part": int(part), "studies": len(both)}
                    line["theirs"], line["freeze_thaw"] = map(statistics.fmean, zip(*both, strict=True))
                    line["difference"] = statistics.fmean(differences)
                    line["standard error"] = statistics.stdev(differences) / len(both) ** 0.5
                    line["below"] = sum(one < 0 for one in differences)
                    lines.append(line)
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table."""
    head = "".join(f"{part} %".rjust(16) for part in PARTS)
    print(f"{'':9}{'method':28}{'runs':>5}{head}{'rank':>7}{'started':>9}{'CPU s':>8}")
    for line in lines:
        cells = "".join(f"{line[f'{p}']:.3f} ± {line[f'{p} sd']:.3f}".rjust(16) for p in PARTS)
        print(
            f"{line['kind']:9}{line['method']:28}{line['runs']:>5}{cells}{line['rank']:>7.2f}{line['started']:>9.1f}"
            f"{line['cpu']:>8.2f}"
        )


def kept(file: Path, part: str) -> list[dict[str, Any]]:
    """The runs of an earlier call, which are not made again."""
    found = json.loads(file.read_text()) if file.exists() else {}
    return found["runs"] if found.get("part") == part else []


def keep(file: Path, part: str, rows: list[dict[str, Any]]) -> None:
    """Write the runs so far, and their summary."""
    before = json.loads(file.read_text()) if file.exists() else {}
    command = " ".join(["python", "benchmarks/curves.py", *sys.argv[1:]])
    found = {
        "commands": list(dict.fromkeys([*before.get("commands", []), command])),
        "machine": lt.environment("optuna"),
        "part": part,
        "summary": summary([row for row in rows if row["method"] not in GUESTS]),
        "paired": paired(rows),
        "runs": rows,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Run the studies that are missing, print the table, write JSON as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["choosing", "reporting"], default="reporting")
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *PEERS])
    parser.add_argument("--tasks", nargs="+", help="these of the part alone")
    parser.add_argument("--seeds", type=int, help="so many of the part's")
    parser.add_argument("--until", type=int, choices=PARTS, default=100, help="per cent of a study of Syne Tune's")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if not (FOLDER / "mf.py").exists():
        print(f"skipped: there are no learning curves; set LUTHIER_BENCH to the folder that holds mf.py ({FOLDER})")
        sys.exit(1 if "LUTHIER_BENCH" in os.environ else 0)
    sys.path.insert(0, str(FOLDER))
    warnings.filterwarnings("ignore", module="optuna")
    part = SPLIT[arguments.part]
    tasks = [load(name) for name in part["tasks"] if arguments.tasks is None or name in arguments.tasks]
    rows = kept(arguments.out, arguments.part)
    done = {(row["task"], row["method"], row["seed"]) for row in rows}
    seeds = part["seeds"][: arguments.seeds]
    for peer in (name for name in arguments.methods if name in GUESTS):
        far = {(row["task"], row["seed"]) for row in rows if row["method"] == peer and str(arguments.until) in row}
        pairs = [(task, seed) for seed in seeds for task in tasks if (task.name, seed) not in far]
        for row in guests(peer, pairs, arguments.until, os.environ.get("SYNE_PYTHON", sys.executable)):
            study = (row["task"], row["method"], row["seed"])
            rows = [one for one in rows if (one["task"], one["method"], one["seed"]) != study] + [row]
            keep(arguments.out, arguments.part, rows)
    others = [name for name in arguments.methods if name not in GUESTS]
    for seed in seeds if others else ():
        for task in tasks:
            missing = [name for name in others if (task.name, name, seed) not in done]
            rows += [(theirs if name in PEERS else ours)(task, name, seed) for name in missing]
            keep(arguments.out, arguments.part, rows)
        print(f"seed {seed}: done", file=sys.stderr, flush=True)
    show(summary([row for row in rows if row["method"] not in GUESTS]))
    for line in paired(rows):
        means = f"{line['peer']} {line['theirs']:.3f}, freeze_thaw {line['freeze_thaw']:.3f}"
        difference = f"{line['difference']:+.3f} ± {line['standard error']:.3f}, below in {line['below']}"
        print(f"{line['kind']} at {line['part']} %, {line['studies']} studies: {means}, difference {difference}")


if __name__ == "__main__":
    main()
