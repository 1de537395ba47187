"""Results a second of the store, from 1 to 32 processes, and a thousand workers through kills, stops and restarts.

    export LUTHIER_TEST_POSTGRES=$(LUTHIER_POSTGRES_FSYNC=on scripts/postgres start)
    python benchmarks/store.py [--parts rates workers] [--seconds 4] [--trials 5000] [--output FILE]

*Rates*: each process takes jobs of four hyperparameters and brings results with ten reports each, one at a time and in
batches of 16 and 64, under a method that reads the whole history and under one that reads nothing; on PostgreSQL, which
has to wait for its disk (``fsync`` on), and on SQLite (WAL, ``synchronous=normal``). Counted are results within the
time, transactions a result (the owners count theirs), and the time of a call. Optuna's RDBStorage does the same on the
same server in the same run.

*Workers*: a thousand simulated workers in eight processes, whose trainings take 5 to 15 s and report ten times, on each
database; a process is killed, one is stopped beyond its lease, one gets SIGTERM, and PostgreSQL is restarted without
being asked to finish. Nothing may be lost or counted twice.

It asserts what the project promises (TARGETS). About 6 minutes in all on two quiet cores.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luthier as lt

SPACE = lt.Space(
    lr=lt.Float(1e-4, 1.0, log=True), x=lt.Float(0.0, 1.0), layers=lt.Int(1, 8), kind=lt.Choice(["a", "b", "c"])
)
GOALS = {"loss": "min"}
REPORTS = 10
LEASE = 10.0  # seconds, of the simulated workers
PROCESSES, WORKERS = 8, 1000
TARGETS = """
PostgreSQL, one at a time: 8 processes bring 250 results/s, and no number of processes fewer than one does
PostgreSQL, one at a time: at most 1.5 transactions a result
PostgreSQL, batches of 64, a method that reads nothing: 4 processes bring 3,000 results/s
SQLite: one process brings 1,000 results/s one at a time, 8 processes 5,000 in batches of 64
Workers: nothing lost, nothing twice, 85 % of the ideal rate with all faults
"""


def config(number: int) -> lt.Config:
    """A configuration that is a function of the job's number."""
    chance = random.Random(number)
    return {
        "lr": 10 ** chance.uniform(-4, 0),
        "x": chance.random(),
        "layers": chance.randint(1, 8),
        "kind": chance.choice("abc"),
    }


def proposer(trials: int) -> Callable[[int, int], list[lt.Job]]:
    """A method with so many trials."""
    return lambda first, count: [lt.Job(n, config(n), REPORTS) for n in range(first, min(trials, first + count))]


def result(number: int) -> lt.Result:
    return lt.Result(number, "ok", {"loss": config(number)["x"], "accuracy": 0.5}, REPORTS, {}, 1.25)


def reports(number: int) -> list[lt.Report]:
    return [lt.Report(number, step, {"loss": 1.0 / step}) for step in range(1, REPORTS + 1)]


def create(url: str, kind: str) -> str:
    """A new study."""
    name = f"{kind} {time.time()}"
    with lt.open_store(url) as store:
        store.create(name, {"objectives": GOALS, "space": SPACE.to_json(), "seed": 0})
    return name


def forked(work: Callable[[int], Any], count: int, folder: Path) -> list[Any]:
    """What ``work(place)`` returns in so many processes."""
    children = []
    for place in range(count):
        child = os.fork()
        if not child:
            try:
                (folder / f"{place}.json").write_text(json.dumps(work(place)))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), codes
    return [json.loads((folder / f"{place}.json").read_text()) for place in range(count)]


def owners_transactions(url: str, name: str) -> int:
    """The sum of the transactions that the owners of a study have counted."""
    query = "SELECT sum(batch) FROM luthier_owners WHERE study = (SELECT id FROM luthier_studies WHERE name = {})"
    if url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url) as connection:
            row = connection.execute(query.format("%s").encode(), [name]).fetchone()
    else:
        with sqlite3.connect(url) as connection:
            row = connection.execute(query.format("?"), [name]).fetchone()
    assert row is not None
    return int(row[0])


def rate(url: str, processes: int, batch: int, reads: bool, seconds: float, folder: Path) -> dict[str, float]:
    """Results a second of so many processes on one study."""
    name = create(url, "rate")
    start = time.time() + 0.5 + 0.05 * processes

    def work(place: int) -> dict[str, Any]:
        history = lt.History(SPACE, GOALS) if reads else None
        made, calls, counted, total = proposer(10**9), [], 0, 0
        with lt.open_store(url) as store:
            study = store.attach(name, f"process {place}")
            time.sleep(max(0.0, start - time.time()))
            jobs: list[lt.Job] = []
            while time.time() < start + seconds:
                clock = time.perf_counter()
                if jobs:
                    ended = [result(job.number) for job in jobs]
                    said = [report for job in jobs for report in reports(job.number)]
                    done = study.exchange(ended, said, room=batch, propose=made, history=history)
                    assert len(done.accepted) == len(jobs)
                    total += len(jobs)
                    counted += len(jobs) if time.time() < start + seconds else 0
                    calls.append(time.perf_counter() - clock)
                    jobs = done.jobs
                else:
                    jobs = study.exchange(room=batch, propose=made, history=history).jobs
        return {"counted": counted, "total": total, "calls": calls}

    found = forked(work, processes, folder)
    calls = sorted(seconds for one in found for seconds in one["calls"])
    total = sum(one["total"] for one in found)
    history = lt.Study.load(name, url).history
    assert len(history.arrival) == len(set(history.arrival)) == total
    assert sum(map(len, history.reports.values())) == REPORTS * total
    return {
        "results_per_second": sum(one["counted"] for one in found) / seconds,
        "transactions_per_result": owners_transactions(url, name) / total,
        "call_ms_p50": 1e3 * calls[len(calls) // 2],
        "call_ms_p99": 1e3 * calls[int(0.99 * len(calls))],
    }


def optuna_rate(url: str, processes: int, seconds: float, folder: Path) -> dict[str, float]:
    """The same by Optuna's RDBStorage, one at a time."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place_of = url if url.startswith("postgresql") else f"sqlite:///{url}.optuna"
    place_of = place_of.replace("postgresql://", "postgresql+psycopg://")
    name = f"optuna {time.time()}"
    storage = optuna.storages.RDBStorage(place_of)
    optuna.create_study(storage=storage, study_name=name)
    storage.engine.dispose()
    start = time.time() + 2.0 + 0.05 * processes

    def work(place: int) -> int:
        sampler = optuna.samplers.RandomSampler(seed=place)
        study, counted = optuna.load_study(storage=place_of, study_name=name, sampler=sampler), 0
        time.sleep(max(0.0, start - time.time()))
        while time.time() < start + seconds:
            trial = study.ask()
            value = trial.suggest_float("x", 0, 1)
            trial.suggest_float("lr", 1e-4, 1, log=True)
            trial.suggest_int("layers", 1, 8)
            trial.suggest_categorical("kind", ["a", "b", "c"])
            for step in range(1, REPORTS + 1):
                trial.report(1.0 / step, step)
            study.tell(trial, value)
            counted += time.time() < start + seconds
        return counted

    return {"results_per_second": sum(forked(work, processes, folder)) / seconds}


# -- a thousand workers ------------------------------------------------------------------------------------------------


def driver(url: str, name: str, tag: str, trials: int, folder: Path) -> None:
    """One process with its share of the workers, until the study is over or SIGTERM comes."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    chance, history, made = random.Random(tag), lt.History(SPACE, GOALS), proposer(trials)
    due: list[tuple[float, int, int, float]] = []  # when a worker speaks next, its job, its report, its length
    room, said, calls, flush, look = WORKERS // PROCESSES, [], [], 0.0, 0.0
    with lt.open_store(url, lease=LEASE) as store, (folder / f"{tag}.log").open("a", buffering=1) as log:
        study = store.attach(name, tag)
        while not stopped:
            ended, now = [], time.time()
            while due and due[0][0] <= now:
                at, number, step, length = heapq.heappop(due)
                if step <= REPORTS:
                    said.append(lt.Report(number, step, {"loss": 1.0 / step}))
                    heapq.heappush(due, (at + length / (REPORTS + 1), number, step + 1, length))
                else:
                    ended.append(result(number))
            room += len(ended)
            jobs: list[lt.Job] = []
            if ended or (said and now >= flush):
                clock = time.perf_counter()
                done = study.exchange(ended, said, room=room, propose=made, history=history)
                calls.append(time.perf_counter() - clock)
                said, flush, jobs = [], now + 1.0, done.jobs
                for number in done.accepted:
                    log.write(f"{number}\n")
            elif room and now >= look:
                look = now + 0.2
                jobs = study.claim(room) or study.exchange(room=room, propose=made, history=history).jobs
                if not jobs and not due:
                    study.sync(history)
                    if len(history.arrival) == trials:
                        break
            room -= len(jobs)
            for job in jobs:
                length = chance.uniform(5.0, 15.0)
                heapq.heappush(due, (time.time() + length / (REPORTS + 1), job.number, 1, length))
            time.sleep(0.02)
        if stopped:
            study.record([], said)
            study.release()
    calls = sorted(calls) or [0.0]  # one that came too late for any work
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"p50_ms": 1e3 * calls[len(calls) // 2], "p99_ms": 1e3 * calls[int(0.99 * len(calls))], "memory_mb": memory}
    (folder / f"{tag}.json").write_text(json.dumps(found))


def workers(url: str, trials: int, folder: Path) -> dict[str, float]:
    """All workers through all faults; figures of the end."""
    name = create(url, "workers")
    for old in folder.iterdir():
        old.unlink()

    def start(tag: str) -> int:
        child = os.fork()
        if not child:
            try:
                driver(url, name, tag, trials, folder)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return child

    begun, alive = time.time(), {f"d{place}": start(f"d{place}") for place in range(PROCESSES)}
    plan = [(10, "kill"), (12, "again"), (15, "stop"), (20, "restart"), (32, "continue"), (35, "terminate")]
    while alive:
        time.sleep(0.25)
        while plan and time.time() - begun >= plan[0][0]:
            what = plan.pop(0)[1]
            if what == "kill" and "d0" in alive:
                os.kill(alive["d0"], signal.SIGKILL)
                os.waitpid(alive.pop("d0"), 0)
            elif what == "again":
                alive["d0 again"] = start("d0 again")
            elif what in ("stop", "continue") and "d1" in alive:
                os.kill(alive["d1"], signal.SIGSTOP if what == "stop" else signal.SIGCONT)
            elif what == "restart" and url.startswith("postgresql"):
                subprocess.run(["scripts/postgres", "restart"], check=True, stdout=subprocess.DEVNULL)
            elif what == "terminate" and "d2" in alive:
                os.kill(alive["d2"], signal.SIGTERM)
                alive["d2 again"] = start("d2 again")
        for tag, child in list(alive.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del alive[tag]
                assert not status, f"{tag} ended with {status}"
    history = lt.Study.load(name, url).history
    accepted = [int(line) for file in folder.glob("*.log") for line in file.read_text().split()]
    assert sorted(history.arrival) == list(range(trials)), "lost, or twice"
    assert len(accepted) == len(set(accepted)) and set(accepted) <= set(history.arrival)
    assert all(len(history.reports[number]) == REPORTS for number in range(trials))
    ends = sorted(history.ended.tolist())
    middle = [at for at in ends if ends[0] + 5 < at < ends[-1] - 15]
    told = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return {
        "seconds": time.time() - begun,
        "part_of_ideal": len(middle) / (ends[-1] - ends[0] - 20) / (WORKERS / 10),
        "p50_ms": statistics.median(one["p50_ms"] for one in told),
        "p99_ms": max(one["p99_ms"] for one in told),
        "memory_mb": max(one["memory_mb"] for one in told),
        "transactions_per_result": owners_transactions(url, name) / trials,
    }


# -- all of it ---------------------------------------------------------------------------------------------------------


def missed(found: dict[str, Any]) -> list[str]:
    """The promises that were not kept."""

    def of(*key: object) -> dict[str, float]:
        return found.get(" ".join(map(str, key)), {})

    wrong = []
    for key, least in (
        (("PostgreSQL", 8, 1, "reads"), 250),
        (("PostgreSQL", 4, 64, "free"), 3000),
        (("SQLite", 1, 1, "reads"), 1000),
        (("SQLite", 8, 64, "free"), 5000),
    ):
        if of(*key) and of(*key)["results_per_second"] < least:
            wrong.append(f"{key}: {of(*key)['results_per_second']:.0f} results/s, not {least}")
    one = of("PostgreSQL", 1, 1, "reads")
    for key, figures in found.items():
        if one and key.startswith("PostgreSQL") and key.endswith(" 1 reads"):
            if figures["results_per_second"] < one["results_per_second"]:
                wrong.append(f"{key}: slower than one process")
            if figures["transactions_per_result"] > 1.5:
                wrong.append(f"{key}: {figures['transactions_per_result']:.2f} transactions a result")
        if key.endswith("workers") and figures["part_of_ideal"] < 0.85:
            wrong.append(f"{key}: {figures['part_of_ideal']:.2f} of the ideal")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["rates", "workers"], choices=["rates", "workers"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--trials", type=int, default=5000, help="of the thousand workers")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/store.json"))
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ["LUTHIER_CHECKPOINTS"] = str(home / "checkpoints")
        out = home / "out"
        out.mkdir()
        places = {"SQLite": str(home / "store.db")}
        if server := os.environ.get("LUTHIER_TEST_POSTGRES"):
            import psycopg

            with psycopg.connect(server) as connection:
                (fsync,) = connection.execute("SHOW fsync").fetchone() or ("",)
            if fsync != "on":
                sys.exit("the server does not wait for its disk: start it with LUTHIER_POSTGRES_FSYNC=on")
            places["PostgreSQL"] = server
        for place, url in places.items():
            cases = [(p, b, kind) for kind in ("reads", "free") for b in (1, 16, 64) for p in arguments.processes]
            for processes, batch, kind in cases if "rates" in arguments.parts else ():
                figures = rate(url, processes, batch, kind == "reads", arguments.seconds, out)
                show(found, f"{place} {processes} {batch} {kind}", figures)
            for processes in (1, 8) if "rates" in arguments.parts else ():
                show(found, f"{place} {processes} Optuna", optuna_rate(url, processes, arguments.seconds, out))
            if "workers" in arguments.parts:
                show(found, f"{place} workers", workers(url, arguments.trials, out))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": lt.environment(), "results": found}, indent=2) + "\n")
    if wrong := missed(found):
        raise SystemExit("not as promised: " + "; ".join(wrong))


def show(found: dict[str, Any], name: str, figures: dict[str, float]) -> None:
    found[name] = {key: round(value, 3) for key, value in figures.items()}
    print(f"{name:26}", "  ".join(f"{key} {value:.2f}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
