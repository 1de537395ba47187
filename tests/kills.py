"""Drivers of small studies, ended by signals at random moments: each study ends as if nothing had been done to it.

    python tests/kills.py [--kills 20] [--signals KILL TERM] [--methods random gp …] [--drivers 1 2 3 4 5]

For each method and each signal a study is run by one driver after another. Each is ended at a random moment (during its
start, or once it has written a few rows more), until there were so many; the last one may go to its end, and a study
that ends before is followed by another. Jobs, curves, results and the best job's state are compared, to the bit, with
those of a study that ran undisturbed. (A job that was lost with five drivers lets others go first: the studies are long
enough for the kills to fall on many jobs.) Half-way states are saved at each measurement. The drivers are forks, so
that a start costs what luthier's own start does.

Then as many drivers as are named share a study, in an SQLite file and in PostgreSQL (LUTHIER_TEST_POSTGRES); they are
killed, and others take their places, until there were so many kills. Every trial must have been counted exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_studies import CASES, SPACE, Training, best_state, run

import luthier as lt
from luthier.jobs import History
from luthier.train import alone, stack

PAUSE = 0.004  # seconds of a step of a training that would take no time


def forked(action: Callable[[], Any]) -> int:
    """The process that runs ``action``."""
    child = os.fork()
    if not child:
        code = 1
        try:
            alone.PARTIAL_SECONDS = stack.PARTIAL_SECONDS = 0.0
            Training.pause = PAUSE
            action()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def rows(store: Path) -> int:
    """The rows of the log so far; 0 while there is none."""
    if not store.exists():
        return 0
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT count(*) FROM luthier_events").fetchone()[0]
    return 0


def ended_by(method: str, store: Path, number: int, more: int, after: float) -> bool:
    """Run a driver, and end it by a signal so many seconds after so many rows more; False if it was done before."""
    before, child = rows(store), forked(lambda: run(method, store))
    while rows(store) - before < more:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    time.sleep(after)
    os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (-number, 128 + number, 0), f"{method}: the driver ended with {code}"
    return code != 0


def facts(history: History) -> list[str]:
    """All of a study that no clock and no attempt has a part in, job by job."""
    said = [f"best {history.best} {history.values.tobytes().hex()}"]
    for job, one in zip(history.jobs, history.results, strict=True):
        result = one and (one.status, one.metrics, one.steps, one.final, one.error)
        said.append(f"{job} {result} {history.reports.get(job.number)}")
    return said


def survives(method: str, number: int, kills: int, folder: Path, chance: random.Random) -> int:
    """Assert that a study ends the same, or several, until so many drivers were ended; how many studies there were."""
    whole, begun = folder / f"{method}-whole.db", time.monotonic()
    if not whole.exists():
        assert os.waitpid(forked(lambda: run(method, whole)), 0)[1] == 0
    start, most = (time.monotonic() - begun) / 4, max(1, rows(whole) // (kills + 1))
    count, studies = 0, 0
    while count < kills:
        store, studies = folder / f"{method}-{number}-{studies}.db", studies + 1
        while count < kills:
            more = chance.randint(0, most)
            if not ended_by(method, store, number, more, chance.uniform(0.0, 0.02 if more else start)):
                break
            count += 1
        assert os.waitpid(forked(lambda place=store: run(method, place)), 0)[1] == 0
        ends, expected = lt.Study.load(method, store), lt.Study.load(method, whole)
        found, wanted = facts(ends.history), facts(expected.history)
        differ = [f"{one} is not {other}" for one, other in zip(found, wanted, strict=False) if one != other]
        assert found == wanted, f"{method}: {len(found)} facts and {len(wanted)}; {differ[:3]}"
        assert ends.history.arrival == expected.history.arrival, method
        assert best_state(ends) == best_state(expected), f"{method}: the weights differ"
    return studies


def exactly_once(url: str, drivers: int, kills: int, chance: random.Random) -> None:
    """Assert that a study of several drivers that are killed has every result once."""
    trials, method, name = 25 * (kills + 2), lt.propose.Random(), f"together {time.time()}"

    def drive() -> None:
        options: dict[str, Any] = {"trials": trials, "steps": 2, "name": name, "store": url, "progress": False}
        lt.tune(Training(), method, space=SPACE, seed=3, **options)

    alive = [forked(drive) for _ in range(drivers)]
    for _ in range(kills):
        time.sleep(chance.uniform(0.05, 0.4))
        victim = alive.pop(chance.randrange(len(alive)))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        alive.append(forked(drive))
    assert [os.waitpid(child, 0)[1] for child in alive] == [0] * drivers
    history = lt.Study.load(name, url).history
    results = [event.number for event in history.events if isinstance(event, lt.Result)]
    assert sorted(results) == sorted(history.arrival) == list(range(trials)), "lost, or twice"
    assert {result and result.status for result in history.results} == {"ok"} and not history.pending


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signals", nargs="+", default=["KILL", "TERM"], choices=["KILL", "TERM", "HUP"])
    parser.add_argument("--methods", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--drivers", nargs="*", type=int, default=[1, 2, 3, 4, 5])
    arguments, chance = parser.parse_args(), random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        for method in arguments.methods:
            for name in arguments.signals:
                begun = time.monotonic()
                studies = survives(method, signal.Signals[f"SIG{name}"], arguments.kills, Path(folder), chance)
                took, kills = time.monotonic() - begun, f"{arguments.kills} x SIG{name}"
                print(f"{method:14}{kills:13} {studies} studies, the same to the bit ({took:.0f} s)", flush=True)
        places = {"SQLite": f"{folder}/together.db", "PostgreSQL": os.environ.get("LUTHIER_TEST_POSTGRES", "")}
        for place, url in places.items():
            for drivers in arguments.drivers if url else ():
                exactly_once(url, drivers, arguments.kills, chance)
                print(f"{place}, {drivers} drivers, {arguments.kills} kills: every trial exactly once", flush=True)


if __name__ == "__main__":
    main()
