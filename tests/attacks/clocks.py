"""Clocks that are wrong, and clocks that jump (clock.c preloaded into one of the processes)."""

import os
import signal
import time
from pathlib import Path

from .hosts import container
from .kit import Ground, attack, need, shell
from .server import server
from .truth import audit, query, results


def clock(here: Ground, seconds: int) -> dict[str, str | None]:
    """The environment of a process whose wall clock is wrong by so much; its monotonic clock is right."""
    need("cc")
    library = here.place / "clock.so"
    if not library.exists():
        shell("cc", "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("clock.c"), "-ldl")
    file = here.place / f"clock{seconds}"
    file.write_text(str(seconds))
    return {"LD_PRELOAD": str(library), "ATTACK_CLOCK": str(file)}


@attack(
    "two drivers on SQLite that cannot see each other, the clock of one an hour ahead, then an hour behind",
    "each trial recorded once, the same numbers; it may be trained twice, for leases go by the clock",
)
def an_hour_off(here: Ground) -> None:
    for shift in (3600, -3600):
        store = here.place / f"a{shift}.db"
        here.log.write_text("")
        pair = [
            here.study(store, before=container(f"n{k}"), trials=30, pause=0.15, env=clock(here, shift) if k else None)
            for k in range(2)
        ]
        for victim in pair:
            victim.done()
        audit(here, store, trials=30, begun=None)


@attack(
    "the same on one PostgreSQL",
    "each trial begun once; the same numbers",
)
def an_hour_off_postgres(here: Ground) -> None:
    with server() as pg:
        for shift in (3600, -3600):
            url = pg.url(pg.database())
            here.log.write_text("")
            pair = [
                here.study(
                    url,
                    before=container(f"n{k}"),
                    trials=30,
                    pause=0.15,
                    checkpoints=str(here.place / "c"),
                    env=clock(here, shift) if k else None,
                )
                for k in range(2)
            ]
            for victim in pair:
                victim.done()
            audit(here, url, trials=30, begun=30)


@attack(
    "a driver whose clock is an hour ahead is killed with a job in hand, unseen by the next one (lease=6)",
    "the job is free after seconds, not an hour later; the same numbers",
)
def ahead_and_killed(here: Ground) -> None:
    with server() as pg:
        for store in (pg.url(pg.database()), here.place / "a.db"):
            here.log.write_text("")
            how = {"pause": 0.1, "lease": 6, "checkpoints": str(here.place / "c")}
            victim = here.study(store, before=container("n0"), env=clock(here, 3600), **how)
            here.until_ended(3)
            victim.kill()
            here.study(store, before=container("n1"), **how).done(60)
            audit(here, store, begun=13)


@attack(
    "the clock jumps by an hour to a year, there and back, every second; seconds= and trial_seconds= are set",
    "the same numbers; seconds= counts real seconds; no trial is over its time",
)
def jumping_clock(here: Ground) -> None:
    env = clock(here, 0)
    file = Path(str(env["ATTACK_CLOCK"]))
    victim = here.study(here.place / "a.db", trials=60, pause=0.05, seconds=60, trial_seconds=20, env=env)
    here.until_ended(3, victim)
    for shift in (3600, 0, -7200, 0, 30 * 86400, 0, -30 * 86400, 366 * 86400):
        file.write_text(str(shift))
        time.sleep(0.8)
    victim.done(60)
    rows = audit(here, here.place / "a.db", trials=60, begun=60)
    assert len(rows) == 60
    stored = query(here.place / "a.db", "SELECT body FROM luthier_events WHERE kind = 2")
    assert len(stored) == 60


@attack(
    "the clock goes an hour back, and the study is gone on, shown, listed, reported",
    "everything works",
)
def older_than_its_past(here: Ground) -> None:
    store = here.place / "a.db"
    victim = here.study(store, env=clock(here, 3600))
    here.until_ended(5, victim)
    victim.kill()
    stood = results(store)
    for command in (["show", "s"], ["studies"], ["report", "s", "--output", here.place / "r.html"]):
        said = here.luthier(*command, "--store", store)
        assert said.popen.returncode == 0, said.text[-500:]
    here.study(store).done()
    assert results(store)[: len(stood)] == stood
    audit(here, store, begun=13)


@attack("the year 1970, 2038 and 2100 on the clock", "the same numbers")
def far_years(here: Ground) -> None:
    for year, then in ((1970, 86400), (2038, 1 << 31), (2100, 4102444800)):
        here.log.write_text("")
        store = here.place / f"{year}.db"
        here.study(store, env=clock(here, then - int(time.time()))).done()
        audit(here, store, begun=12)


@attack(
    "SIGSTOP for 12 s, longer than the lease of 5 s, of one of two drivers on SQLite; SIGCONT",
    "its job is done once, whoever brings it; it goes on",
)
def stopped_beyond_its_lease(here: Ground) -> None:
    store = here.place / "a.db"
    how = {"trials": 40, "pause": 0.1, "lease": 5}
    first = here.study(store, before=container("n0"), **how)
    second = here.study(store, before=container("n1"), **how)
    here.until_ended(6)
    os.killpg(first.popen.pid, signal.SIGSTOP)
    time.sleep(12)
    os.killpg(first.popen.pid, signal.SIGCONT)
    first.done()
    second.done()
    audit(here, store, trials=40, begun=42)


@attack(
    "two drivers of one machine, both clocks jump by an hour there and back every 2 s",
    "each trial recorded once, the same numbers; a job in hand at a jump may be trained twice",
)
def jumping_together(here: Ground) -> None:
    env = clock(here, 0)
    pair = [here.study(here.place / "a.db", trials=40, pause=0.15, env=env) for _ in range(2)]
    here.until_ended(3)
    for shift in (3600, 0, -3600, 0, 3600):
        Path(str(env["ATTACK_CLOCK"])).write_text(str(shift))
        time.sleep(2)
    for victim in pair:
        victim.done()
    audit(here, here.place / "a.db", trials=40, begun=48)
