"""Signals at random moments, to drivers, to workers and to both."""

import os
import random
import signal
import time
from pathlib import Path

from .kit import Ground, attack, until
from .server import server
from .truth import audit, kept, results


def killed(
    here: Ground, store: object, times: int, number: int = signal.SIGKILL, group: bool = True, **spec: object
) -> None:
    """Start a study again and again, and end it at random moments; then let it end."""
    rng = random.Random(times * 1000 + number)
    stood = []
    ended = 0
    while ended < times:
        victim = here.study(store, **spec)
        try:
            time.sleep(0.3 + rng.random() * 1.5)
            if not victim.running:
                break
            victim.signal(number)
            victim.wait(20)
            if group:
                victim.kill()
            ended += 1
        finally:
            now = results(store)
            kept(stood, now)
            stood = now
    here.study(store, **spec).done(90)
    kept(stood, results(store))


@attack(
    "SIGKILL at ten random moments: random, serial",
    "the same numbers, bit for bit; at most ten trainings more",
)
def random_killed(here: Ground) -> None:
    killed(here, here.place / "a.db", 10, trials=24, pause=0.08)
    audit(here, here.place / "a.db", trials=24, begun=34)


@attack("SIGKILL at eight random moments: gp, serial", "the same numbers, bit for bit")
def gp_killed(here: Ground) -> None:
    killed(here, here.place / "a.db", 8, trials=16, pause=0.08, method="gp")
    audit(here, here.place / "a.db", trials=16, method="gp", begun=24)


@attack(
    "SIGKILL at eight random moments: pbt with states, serial",
    "the same numbers, bit for bit",
)
def pbt_killed(here: Ground) -> None:
    how = {"task": "walk", "method": "pbt", "trials": 4}
    killed(here, here.place / "a.db", 8, pause=0.1, **how)
    audit(here, here.place / "a.db", **how)


@attack("SIGTERM at eight random moments: hyperband with states, serial", "the same numbers, bit for bit")
def hyperband_terminated(here: Ground) -> None:
    how = {"task": "walk", "method": "hyperband", "trials": 30, "steps": 27}
    killed(here, here.place / "a.db", 8, signal.SIGTERM, pause=0.05, **how)
    audit(here, here.place / "a.db", **how)


@attack(
    "nine signals, from SIGHUP to SIGSEGV, in turn to a driver with two workers",
    "after each the next call goes on; the same numbers, no worker is left alive",
)
def every_signal(here: Ground) -> None:
    store = here.place / "a.db"
    signals = [
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGABRT,
        signal.SIGSEGV,
        signal.SIGUSR1,
        signal.SIGALRM,
        signal.SIGPIPE,
    ]
    stood: list = []
    for number, which in enumerate(signals):
        victim = here.study(store, trials=60, pause=0.15, workers=2)
        here.until_ended(2 + 3 * number, victim)
        victim.signal(which)
        if which is signal.SIGPIPE:
            time.sleep(0.5)
            victim.signal(signal.SIGKILL)
        victim.wait(20)
        until(lambda: not _family(victim.popen.pid), 8, f"the end of the workers after {which.name}")  # noqa: B023
        now = results(store)
        kept(stood, now)
        stood = now
    here.study(store, trials=60, pause=0.0, workers=2).done(60)
    audit(here, store, trials=60)


def _family(session: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@attack(
    "SIGKILL for a random worker of two, eight times",
    "no trial is failed by one kill; the same numbers; the driver goes on",
)
def workers_killed(here: Ground) -> None:
    rng = random.Random(5)
    victim = here.study(here.place / "a.db", trials=40, pause=0.15, workers=2)
    here.until_ended(3, victim)
    for _ in range(8):
        workers = [line["pid"] for line in here.logged("begin")][-2:]
        try:
            os.kill(rng.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            pass
        time.sleep(0.9)
    victim.done(90)
    audit(here, here.place / "a.db", trials=40, begun=52)


@attack(
    "SIGKILL for the driver alone, while two workers train",
    "the workers end by themselves within 10 s; the same numbers",
)
def orphans(here: Ground) -> None:
    victim = here.study(here.place / "a.db", trials=20, pause=0.3, workers=2)
    here.until_ended(3, victim)
    victim.signal(signal.SIGKILL)
    victim.wait()
    until(lambda: not _family(victim.popen.pid), 12, "the end of the workers")
    here.study(here.place / "a.db", trials=20, pause=0.0, workers=2).done()
    audit(here, here.place / "a.db", trials=20)


@attack(
    "four drivers on PostgreSQL, one random one killed and started anew six times",
    "the same numbers, each once",
)
def drivers_killed(here: Ground) -> None:
    rng = random.Random(7)
    with server() as pg:
        url = pg.url(pg.database())
        how = {"trials": 80, "pause": 0.1, "checkpoints": str(here.place / "c"), "lease": 10}
        drivers = [here.study(url, **how) for _ in range(3)]
        for k in range(6):
            here.until_ended(4 + 8 * k)
            victim = rng.randrange(3)
            drivers[victim].kill()
            drivers[victim] = here.study(url, **how)
        for driver in drivers:
            driver.done(90)
        audit(here, url, trials=80, begun=86)


@attack("SIGTERM, and a second one 50 ms later", "ended at once; the next call goes on to the same numbers")
def terminated_twice(here: Ground) -> None:
    victim = here.study(here.place / "a.db", trials=20, pause=0.3, workers=2)
    here.until_ended(3, victim)
    victim.signal(signal.SIGTERM)
    time.sleep(0.05)
    victim.signal(signal.SIGTERM)
    began = time.monotonic()
    victim.wait(12)
    assert time.monotonic() - began < 8
    until(lambda: not _family(victim.popen.pid), 8, "the end of the workers")
    here.study(here.place / "a.db", trials=20, pause=0.0).done()
    audit(here, here.place / "a.db", trials=20)


@attack(
    "strace -e inject kills a pbt driver at its n-th pwrite64, rename or fsync",
    "the same numbers, bit for bit",
)
def killed_at_each_system_call(here: Ground) -> None:
    from .kit import need

    need("strace")
    how = {"task": "walk", "method": "pbt", "trials": 4, "steps": 10, "floats": 50}
    moments = (
        [("pwrite64", n) for n in (1, 3, 8, 20, 45, 90)]
        + [("rename,renameat,renameat2", n) for n in (1, 2, 5)]
        + [("fdatasync,fsync", n) for n in (1, 2, 4)]
    )
    for number, (calls, moment) in enumerate(moments):
        store = here.place / f"{number}.db"
        before = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"trace={calls}",
            "-e",
            f"inject={calls}:signal=KILL:when={moment}",
        ]
        first = here.study(store, before=before, **how)
        first.wait(60)
        if not store.exists():
            continue
        stood = results(store)
        here.study(store, **how).done()
        kept(stood, audit(here, store, **how))
