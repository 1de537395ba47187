"""What the study itself costs, beside Optuna doing the same work in the same run.

    python benchmarks/overhead.py [--repeats 3] [--trials 1000] [--output benchmarks/results/overhead.json]

Work: 1,000 trials of random search over 5 parameters, 10 reports each, an objective that costs nothing. Ours: ask, ten
reports, tell through ``lt.Study``, in memory, in SQLite one trial at a time, and in SQLite in batches of 64; and 64
calls of a trivial function through ``lt.tune``. Optuna: ``study.ask``, five ``suggest_float``, ten ``report`` and
``should_prune``, ``study.tell``, in memory, in its journal file and in SQLite (there 100 trials, its time being flat).
Wall time, the median over the repeats; ours and Optuna's alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import optuna

import luthier as lt

NAMES = ("a", "b", "c", "d", "e")
REPORTS = 10
SPACE = lt.Space({name: lt.Float(0.0, 1.0) for name in NAMES})
TARGETS = {"memory": 0.2, "SQLite, one at a time": 2.0, "SQLite, batches of 64": 0.3, "64 trivial calls, s": 0.15}


def ours(trials: int, store: Path | None, batch: int = 1) -> float:
    """Milliseconds a trial."""
    clock = time.perf_counter()
    with lt.Study("overhead", SPACE, store=store, seed=0, trials=trials) as study:
        while jobs := study.ask(batch):
            for job in jobs:
                for step in range(REPORTS):
                    study.report(job, step, loss=job.config["a"])
            study.tell_many((job, {"loss": job.config["a"]}) for job in jobs)
        assert len(study.trials) == trials
        return (time.perf_counter() - clock) / trials * 1e3


def trivial_calls() -> float:
    """Seconds of 64 calls through tune."""
    clock = time.perf_counter()
    lt.tune(lambda config: config["a"], space=SPACE, trials=64, seed=0, progress=False)
    return time.perf_counter() - clock


def optunas(trials: int, storage: object) -> float:
    """Milliseconds a trial of Optuna."""
    clock = time.perf_counter()
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))  # type: ignore[arg-type]
    for _ in range(trials):
        trial = study.ask()
        values = [trial.suggest_float(name, 0.0, 1.0) for name in NAMES]
        for step in range(REPORTS):
            trial.report(values[0], step)
            trial.should_prune()
        study.tell(trial, values[0])
    return (time.perf_counter() - clock) / trials * 1e3


def journal(folder: Path) -> object:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overhead.json"))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials, few = arguments.trials, max(10, arguments.trials // 10)
    cases: dict[str, Callable[[Path], float]] = {
        "memory": lambda folder: ours(trials, None),
        "Optuna, memory": lambda folder: optunas(trials, None),
        "SQLite, one at a time": lambda folder: ours(trials, folder / "ours.db"),
        "SQLite, batches of 64": lambda folder: ours(trials, folder / "batches.db", 64),
        "Optuna, journal file": lambda folder: optunas(trials, journal(folder)),
        "Optuna, SQLite": lambda folder: optunas(few, f"sqlite:///{folder}/optuna.db"),
        "64 trivial calls, s": lambda folder: trivial_calls(),
    }
    trivial_calls()  # imports are not counted
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(arguments.repeats):
        for name, case in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(case(Path(folder)))
    results = {
        name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        for name, values in found.items()
    }
    for name, result in results.items():
        target = f" (at most {TARGETS[name]})" if name in TARGETS else ""
        print(f"{name:24} {result['median']:8.3f}  [{result['lowest']:.3f} to {result['highest']:.3f}]{target}")
    machine = {**lt.environment("optuna"), "trials": trials}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    missed = {name: results[name]["median"] for name, most in TARGETS.items() if results[name]["median"] > most}
    raise SystemExit(f"above target: {missed}" if missed else 0)


if __name__ == "__main__":
    main()
