"""Drivers that cannot see each other: hosts, containers, other users, a network that is cut."""

import contextlib
import os
import sys
import time

from .kit import APP, Ground, attack, need, shell, until
from .server import server
from .truth import audit, reference, results


def container(name: str) -> list[str]:
    """What stands before a command to run it under a host name and with process ids of its own."""
    need("unshare", root=True)
    return [
        "unshare",
        "--uts",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
        f'hostname {name}; exec "$@"',
        "sh",
    ]


_networks = [0]


def network(here: Ground) -> tuple[str, str, str]:
    """A network namespace with one cable to here: its name, the cable's end here, and the address here."""
    need("ip", root=True)
    _networks[0] += 1
    number = 1 + (os.getpid() * 7 + _networks[0]) % 250
    name, cable = f"attack{number}", f"atk{number}"
    shell("ip", "netns", "add", name)
    here.undo.callback(lambda: shell("ip", "netns", "delete", name, check=False))
    shell("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
    here.undo.callback(lambda: shell("ip", "link", "delete", cable, check=False))
    shell("ip", "address", "add", f"10.213.{number}.1/24", "dev", cable)
    shell("ip", "link", "set", cable, "up")
    shell("ip", "-n", name, "address", "add", f"10.213.{number}.2/24", "dev", "eth0")
    shell("ip", "-n", name, "link", "set", "eth0", "up")
    shell("ip", "-n", name, "link", "set", "lo", "up")
    return name, cable, f"10.213.{number}.1"


def host(here: Ground, name: str) -> tuple[list[str], str, str]:
    """A host of its own: what stands before a command, the cable, and the server's address seen from there."""
    inside, cable, address = network(here)
    return ["ip", "netns", "exec", inside, *container(name)], cable, address


@attack(
    "two hosts (network, uts and pid namespaces, so equal process ids) and one PostgreSQL",
    "each trial begun once, the same numbers",
)
def two_hosts(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        how = {"trials": 40, "pause": 0.05, "checkpoints": str(here.place / "c")}
        pair = []
        for k in range(2):
            before, _, address = host(here, f"node{k}")
            pair.append(here.study(pg.url(name, address), before=before, **how))
        for victim in pair:
            victim.done()
        audit(here, pg.url(name), trials=40, begun=40)
        hosts = {line["pid"] for line in here.logged()}
        assert len(hosts) <= 2


@attack(
    "two containers with one host name and equal process ids; one is killed by SIGKILL while it holds a job (lease=8)",
    "nobody's job is taken before its lease ends, then it is; the same numbers",
)
def twin_containers(here: Ground) -> None:
    with server() as pg:
        url = pg.url(pg.database())
        before = container("twin")
        how = {"trials": 30, "pause": 0.4, "lease": 8, "checkpoints": str(here.place / "c")}
        first = here.study(url, before=before, **how)
        second = here.study(url, before=before, **how)
        here.until_ended(6)
        first.kill()
        second.done(90)
        audit(here, url, trials=30, begun=31)


@attack(
    "a container killed by SIGKILL; another, whose driver has the very process id of the dead one, goes on (lease=8)",
    "the dead one's job is not taken for one of its own; the same numbers",
)
def process_id_again(here: Ground) -> None:
    before = container("twin")
    store = here.place / "a.db"
    for count in (3, 6, 9):
        victim = here.study(store, before=before, pause=0.1, lease=8)
        here.until_ended(count)
        victim.kill()
    here.study(store, before=before, pause=0.1, lease=8).done()
    audit(here, store, begun=15)


@attack(
    "ip link down for 20 s in the middle of a driver's work on PostgreSQL",
    "waited for; the same numbers, each trial begun once",
)
def network_cut(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        before, cable, address = host(here, "far")
        victim = here.study(pg.url(name, address), before=before, trials=40, checkpoints=str(here.place / "c"))
        here.until_ended(6, victim)
        shell("ip", "link", "set", cable, "down")
        time.sleep(20)
        shell("ip", "link", "set", cable, "up")
        victim.done(90)
        audit(here, pg.url(name), trials=40, begun=41)


@attack(
    "iptables DROP of every packet of one of two drivers for 20 s, in the middle of transactions (lease=10)",
    "the other takes over, each trial counts once, the same numbers; both end in good order",
)
def packets_dropped(here: Ground) -> None:
    need("iptables", root=True)
    with server() as pg:
        name = pg.database()
        before, cable, address = host(here, "far")
        how = {"trials": 60, "pause": 0.15, "lease": 10, "checkpoints": str(here.place / "c")}
        far = here.study(pg.url(name, address), before=before, **how)
        near = here.study(pg.url(name), **how)
        here.until_ended(8)
        rules = [[chain, flag, cable, "-j", "DROP"] for chain, flag in (("INPUT", "-i"), ("OUTPUT", "-o"))]
        with contextlib.ExitStack() as undo:
            for rule in rules:
                shell("iptables", "-I", *rule)
                undo.callback(shell, "iptables", "-D", *rule)
            time.sleep(20)
        near.done(120)
        far.done(120)
        audit(here, pg.url(name), trials=60, begun=63)


@attack(
    "the network is cut for good after some trials (outage=10)",
    "an error within half a minute that names the database; the next call goes on",
)
def network_gone(here: Ground) -> None:
    with server() as pg:
        name = pg.database()
        before, cable, address = host(here, "far")
        victim = here.study(
            pg.url(name, address), before=before, trials=40, outage=10, checkpoints=str(here.place / "c")
        )
        here.until_ended(6, victim)
        stood = results(pg.url(name))
        shell("ip", "link", "set", cable, "down")
        victim.refused(60)
        here.study(pg.url(name), trials=40, checkpoints=str(here.place / "c"), lease=60).done(100)
        rows = audit(here, pg.url(name), trials=40)
        assert all(row in rows for row in stood)


@attack(
    "two users on one SQLite file (umask 0, group folder), /proc mounted hidepid=2, one is killed",
    "each trial once; no trial begun again but the killed one's",
)
def hidden_processes(here: Ground) -> None:
    need("unshare", "setpriv", root=True)
    folder = here.place / "f"
    folder.mkdir()
    folder.chmod(0o777)

    def user(number: int) -> list[str]:
        inside = 'umask 0; mount -t proc -o hidepid=2 proc /proc; exec "$@"'
        rights = ["setpriv", "--reuid", str(number), "--regid", "100", "--clear-groups"]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh", *rights]

    how = {"trials": 30, "pause": 0.1, "lease": 8, "env": {"HOME": None}}
    first = here.study(folder / "a.db", before=user(12345), **how)
    here.until_ended(1, first)
    for path in folder.glob("a.db*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    second = here.study(folder / "a.db", before=user(23456), **how)
    here.until_ended(8)
    first.kill()
    second.done(60)
    audit(here, folder / "a.db", trials=30, begun=31)


@attack(
    "another user's database and checkpoints (mode 644, root's), pbt gone on by nobody",
    "refused at once, by name; nothing changed",
)
def another_users_files(here: Ground) -> None:
    need("setpriv", root=True)
    how = {"task": "walk", "method": "pbt", "trials": 4}
    victim = here.study(here.place / "a.db", pause=0.05, **how)
    until(lambda: len(results(here.place / "a.db")) > 5)
    victim.kill()
    stood = results(here.place / "a.db")
    began = time.monotonic()
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    here.study(here.place / "a.db", before=as_nobody, env={"HOME": None}, **how).refused(40)
    assert time.monotonic() - began < 25, "refused only after a long wait"
    assert results(here.place / "a.db") == stood
    shown = here.start(
        *as_nobody, sys.executable, "-c", APP, "show", "s", "--store", here.place / "a.db", env={"HOME": None}
    )
    assert shown.wait(30) == 0, f"show: {shown.text[-400:]}"
    wanted = reference(**how)
    assert all(row == wanted[row[0]] for row in stood)
