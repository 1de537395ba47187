"""A PostgreSQL server that restarts, dies, refuses, fills up, is locked, or has lost its tables."""

import os
import signal
import subprocess
import time

from .kit import Ground, attack, need, shell, until
from .server import server
from .truth import audit, everything, kept, query, results


@attack(
    "pg_ctl restart -m fast, and -m immediate (as a crash), in the middle of two drivers",
    "waited for; each trial once, the same numbers",
)
def postgres_restarted(here: Ground) -> None:
    with server() as pg:
        url = pg.url(pg.database())
        pair = [here.study(url, trials=60, pause=0.05, checkpoints=str(here.place)) for _ in range(2)]
        for number, how in enumerate(("fast", "immediate")):
            here.until_ended(10 + 20 * number, pair[0])
            pg.stop(how)
            time.sleep(2)
            pg.start()
        for victim in pair:
            victim.done()
        audit(here, url, trials=60, begun=60)


@attack("kill -9 of the postmaster and of every backend, down for 8 s", "waited for; the same numbers")
def postmaster_killed(here: Ground) -> None:
    with server() as pg:
        url = pg.url(pg.database())
        victim = here.study(url, trials=40, checkpoints=str(here.place))
        here.until_ended(8, victim)
        os.kill(pg.pid, signal.SIGKILL)
        time.sleep(8)
        (pg.data / "postmaster.pid").unlink(missing_ok=True)
        pg.start()
        victim.done()
        audit(here, url, trials=40, begun=40)


@attack(
    "pg_terminate_backend for every session, every 50 ms for 6 s",
    "the same numbers, each trial once",
)
def sessions_terminated(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        victim = here.study(pg.url(name), trials=60, checkpoints=str(here.place))
        here.until_ended(3, victim)
        text = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
        for _ in range(60):
            pg.sql("postgres", text)
            time.sleep(0.05)
        victim.done()
        audit(here, pg.url(name), trials=60, begun=60)


@attack("default_transaction_read_only = on for 6 s, in the middle", "waited for; the same numbers")
def postgres_read_only(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        victim = here.study(pg.url(name), trials=40, checkpoints=str(here.place))
        here.until_ended(5, victim)
        pg.sql("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
        pg.sql("postgres", end)
        time.sleep(6)
        assert victim.running, f"it did not wait: {victim.text[-500:]}"
        pg.sql("postgres", f"ALTER DATABASE {name} RESET default_transaction_read_only")
        pg.sql("postgres", end)
        victim.done()
        audit(here, pg.url(name), trials=40, begun=41)


@attack("all tables locked by LOCK TABLE … ACCESS EXCLUSIVE in psql for 12 s", "waited for; the same numbers")
def tables_locked(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        victim = here.study(pg.url(name), trials=40, checkpoints=str(here.place))
        here.until_ended(5, victim)
        text = "BEGIN; LOCK TABLE luthier_events, luthier_queue, luthier_studies; SELECT pg_sleep(12); COMMIT"
        subprocess.run(["psql", "-X", "-q", pg.url(name), "-c", text], capture_output=True, timeout=40)
        victim.done()
        audit(here, pg.url(name), trials=40, begun=40)


@attack(
    "the server has no connection left for 6 s when a driver starts, and when one reconnects",
    "waited for; the same numbers",
)
def connections_used_up(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        pg.sql("postgres", f"ALTER DATABASE {name} CONNECTION LIMIT 1")
        pg.sql("postgres", "DROP ROLE IF EXISTS plain")
        pg.sql("postgres", "CREATE ROLE plain LOGIN")
        pg.sql("postgres", f"ALTER DATABASE {name} OWNER TO plain")
        url = pg.url(name).replace("luthier@", "plain@")
        holder = subprocess.Popen(["psql", "-X", url, "-c", "SELECT pg_sleep(6)"], stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        victim = here.study(url, checkpoints=str(here.place))
        holder.wait(20)
        victim.done()
        pg.sql("postgres", f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        audit(here, pg.url(name), begun=12)


@attack("the events in a tablespace on a tmpfs that is full for 6 s", "waited for; the same numbers")
def tablespace_full(here: Ground) -> None:
    need("mount", root=True)
    with server() as pg:
        name = pg.database()
        disk = here.tmpfs("3m", options="")
        (disk / "space").mkdir()
        shell("chown", "postgres", disk / "space")
        here.study(pg.url(name), trials=2, name="first", checkpoints=str(here.place)).done()
        pg.sql(name, f"CREATE TABLESPACE small LOCATION '{disk / 'space'}'")
        try:
            pg.sql(name, "ALTER TABLE luthier_events SET TABLESPACE small")
            victim = here.study(pg.url(name), trials=150, pause=0.01, checkpoints=str(here.place))
            here.until_ended(3, victim)
            with (disk / "filler").open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"\0" * 4096)
                except OSError:
                    pass
            time.sleep(6)
            (disk / "filler").unlink()
            victim.done()
            audit(here, pg.url(name), trials=150, begun=151)
        finally:
            pg.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")
            pg.sql("postgres", "DROP TABLESPACE small")


@attack(
    "DROP TABLE luthier_events in the middle; DELETE of the study's row; DROP DATABASE",
    "an error of luthier's own within seconds, nothing made anew",
)
def tables_dropped(here: Ground) -> None:
    with server() as pg:
        for text in ("DROP TABLE luthier_events", "DELETE FROM luthier_studies", "database"):
            here.log.write_text("")
            name = pg.database()
            victim = here.study(pg.url(name), trials=100, outage=5, checkpoints=str(here.place))
            here.until_ended(4, victim)
            if text == "database":
                pg.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")
            else:
                pg.sql(name, text)
            victim.refused(40)
            if "DELETE" in text:
                assert not query(pg.url(name), "SELECT id FROM luthier_studies"), "made anew"


@attack(
    "a role with SELECT only: show, studies, export, report; tune",
    "readers work; tune is refused at once, by name",
)
def select_only(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        here.study(pg.url(name), checkpoints=str(here.place / "c")).done()
        before = everything(pg.url(name), "s")
        pg.sql("postgres", "DROP ROLE IF EXISTS reader")
        pg.sql("postgres", "CREATE ROLE reader LOGIN")
        pg.sql(name, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        url = pg.url(name).replace("luthier@", "reader@")
        for command in (
            ["show", "s"],
            ["studies"],
            ["export", "s"],
            ["report", "s", "--output", here.place / "r.html"],
        ):
            said = here.luthier(*command, "--store", url)
            assert said.popen.returncode == 0, f"{command[0]}: {said.text[-400:]}"
        began = time.monotonic()
        here.study(url, trials=20).refused(30)
        assert time.monotonic() - began < 20, "refused only after a long wait"
        assert everything(pg.url(name), "s") == before
        pg.sql(name, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM reader")


@attack(
    "copy of a half-done SQLite study to PostgreSQL while its driver runs; both go on", "both end with the same numbers"
)
def copied_to_postgres(here: Ground) -> None:
    how = {"task": "walk", "method": "pbt", "trials": 4}
    with server() as pg:
        url = pg.url(pg.database())
        victim = here.study(here.place / "a.db", pause=0.1, **how)
        until(lambda: len(results(here.place / "a.db")) > 10)
        env = {"LUTHIER_CHECKPOINTS": str(here.place / "c")}
        said = here.luthier("copy", "s", "--store", here.place / "a.db", "--to", url, env=env)
        assert said.popen.returncode == 0, said.text[-500:]
        stood = results(url)
        assert stood, "an empty copy"
        here.study(url, env=env, **how).done()
        kept(stood, audit(here, url, **how))
        victim.done()
        audit(here, here.place / "a.db", **how)


@attack(
    "two drivers that create the same study at one moment, four times, every second with different seeds",
    "one study; the other joins or is refused by name",
)
def created_at_once(here: Ground) -> None:
    with server() as pg:
        for number in range(4):
            url = pg.url(pg.database())
            here.log.write_text("")
            other = number % 2
            pair = [here.study(url, seed=3 + other * k, pause=0.02, checkpoints=str(here.place)) for k in range(2)]
            codes = [victim.wait(40) for victim in pair]
            for victim, code in zip(pair, codes, strict=True):
                assert not code or victim.ours, victim.text[-600:]
            assert codes.count(0) == (1 if other else 2), f"{codes}: {pair[0].text[-300:]} {pair[1].text[-300:]}"
            won = codes.index(0)
            audit(here, url, seed=3 + other * won, begun=12)
