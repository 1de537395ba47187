"""Full, small and slow disks: real file systems of a few hundred kB, filled up at each write."""

import os
import resource
import sqlite3
import sys
import time
from pathlib import Path

from .kit import APP, Ground, attack, fill, shell, until
from .truth import audit, everything, kept, query, results, tree


@attack(
    "SQLite on a tmpfs of 2 MB that is filled up in the middle of a study, room again after 8 s",
    "waited for and said; then on, the same numbers",
)
def database_disk_full(here: Ground) -> None:
    disk = here.tmpfs("2m")
    victim = here.study(disk / "a.db", trials=30)
    here.until_ended(5, victim)
    filler = fill(disk)
    began = len(here.logged("begin"))
    time.sleep(8)
    assert victim.running, f"it did not wait: {victim.text[-600:]}"
    stood = results(disk / "a.db")
    assert len(here.logged("begin")) - began < 28, "it went on without recording"
    filler.unlink()
    victim.done()
    kept(stood, audit(here, disk / "a.db", trials=30, begun=31))
    assert "full" in victim.text or "space" in victim.text.lower(), f"nothing was said: {victim.text[-500:]}"


@attack(
    "the same, and the disk stays full: outage=3",
    "an error that names the full disk; with room, the same call completes",
)
def database_disk_stays_full(here: Ground) -> None:
    disk = here.tmpfs("2m")
    victim = here.study(disk / "a.db", trials=30, outage=3)
    here.until_ended(5, victim)
    filler = fill(disk)
    victim.refused(40, "full")
    stood = results(disk / "a.db")
    filler.unlink()
    here.study(disk / "a.db", trials=30).done()
    kept(stood, audit(here, disk / "a.db", trials=30))


@attack(
    "a tmpfs that has 0, 4, 8, … kB left when the study begins, so that each write in turn fails (outage=1)",
    "each time an error or all done, never a torn file; with room, the same call completes with the same numbers",
)
def disk_full_at_each_write(here: Ground) -> None:
    disk = here.tmpfs("8m")
    for pages in range(0, 76, 4):
        folder = disk / f"p{pages}"
        folder.mkdir()
        filler = fill(disk, leave=pages * 4096)
        here.log.write_text("")
        victim = here.study(folder / "a.db", trials=40, pause=0.0, outage=0.5)
        code = victim.wait(60)
        said = victim.text
        assert code >= 0, f"{pages} pages: signal {-code}"
        assert code or "LEFT IN GOOD ORDER" in said, said[-300:]
        assert victim.ours or not code, f"{pages} pages: {said[-700:]}"
        filler.unlink()
        stood = results(folder / "a.db")
        here.study(folder / "a.db", trials=40, pause=0.0).done()
        kept(stood, audit(here, folder / "a.db", trials=40))
        shell("rm", "-r", folder)


@attack(
    "a reader that never ends its transaction, so that the WAL grows until the disk is full",
    "waited for; when the reader is gone and there is room, on, the same numbers",
)
def wal_disk_full(here: Ground) -> None:
    disk = here.tmpfs("700k")
    here.study(disk / "a.db", name="first", trials=3).done()
    reader = sqlite3.connect(disk / "a.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM luthier_events").fetchall()
    victim = here.study(disk / "a.db", trials=150, pause=0.001)
    until(lambda: os.statvfs(disk).f_bavail == 0 or not victim.running, 40, "a full disk")
    time.sleep(3)
    assert victim.running, victim.text[-600:]
    reader.execute("COMMIT")
    reader.close()
    shell("mount", "-o", "remount,size=16m", disk)
    victim.done()
    audit(here, disk / "a.db", trials=150, begun=151)


@attack(
    "checkpoints on a disk of their own that is full for 6 s, in the middle of pbt",
    "waited for, no trial failed, the same numbers",
)
def checkpoint_disk_full(here: Ground) -> None:
    disk = here.tmpfs("2m")
    how = {"task": "walk", "method": "pbt", "trials": 4, "floats": 8000}
    victim = here.study(here.place / "a.db", pause=0.1, checkpoints=str(disk / "c"), **how)
    until(lambda: len(results(here.place / "a.db")) > 6, 40, "some results")
    filler = fill(disk)
    time.sleep(6)
    assert victim.running, f"it did not wait: {victim.text[-600:]}"
    filler.unlink()
    victim.done()
    audit(here, here.place / "a.db", **how)


@attack(
    "checkpoints on a disk with 0, 8, 16, … kB left (outage=1) under pbt",
    "no trial is failed by it; with room, the same numbers, no debris",
)
def checkpoint_disk_full_at_each_write(here: Ground) -> None:
    disk = here.tmpfs("1m")
    how = {"task": "walk", "method": "pbt", "trials": 4, "floats": 2000}
    for count in range(0, 160, 16):
        store, folder = here.place / f"{count}.db", disk / f"c{count}"
        filler = fill(disk, leave=count * 1024)
        victim = here.study(store, checkpoints=str(folder), outage=0.5, **how)
        code = victim.wait(90)
        assert code >= 0 and (victim.ours or not code), victim.text[-900:]
        failed = [row for row in results(store) if row[1] != "ok"] if store.exists() else []
        assert not failed, f"a full disk failed trials: {failed[:3]}"
        filler.unlink(missing_ok=True)
        here.study(store, checkpoints=str(folder), **how).done()
        audit(here, store, **how)
        debris = [
            path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".ckpt", ".json"))
        ]
        assert not debris, f"left behind: {debris}"
        shell("rm", "-r", folder)


@attack(
    "a tmpfs with so few inodes that SQLite can make no WAL beside the database",
    "an error that names it; with inodes, the same call completes",
)
def no_inodes(here: Ground) -> None:
    for inodes in (2, 3, 4, 5):
        disk = here.tmpfs("4m", f"i{inodes}", f",nr_inodes={inodes}")
        here.log.write_text("")
        victim = here.study(disk / "a.db", outage=1)
        if victim.wait(40):
            assert victim.ours, f"{inodes} inodes: {victim.text[-700:]}"
        shell("mount", "-o", "remount,nr_inodes=1000", disk)
        here.study(disk / "a.db").done()
        audit(here, disk / "a.db")


@attack(
    "ulimit -f: no file may grow beyond 64 kB",
    "an error of luthier's own, what is recorded stays; without the limit, the same call completes",
)
def file_size_limit(here: Ground) -> None:
    store = here.place / "a.db"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # noqa: E731
    victim = here.study(store, trials=200, pause=0.0, outage=2, how={"preexec_fn": limit})
    victim.refused(40)
    stood = results(store)
    here.study(store, trials=200, pause=0.0).done()
    kept(stood, audit(here, store, trials=200))


@attack(
    "report, export, backup and copy onto a full disk, over a file that was there",
    "an error; the old file is whole, nothing is left beside it, the source is untouched",
)
def outputs_on_a_full_disk(here: Ground) -> None:
    source = here.place / "a.db"
    how = {"task": "walk", "method": "pbt", "trials": 4, "floats": 4000}
    here.study(source, **how).done()
    before, files = everything(source, "s"), tree(here.place / "a.db.checkpoints")
    disk = here.tmpfs("256k")
    pairs = [("report", "r.html"), ("export", "e.csv"), ("backup", "b.db"), ("copy", "c.db")]
    for command, target in pairs:
        old = b"the file that was there\n" * 100
        if command not in ("copy", "backup"):
            (disk / target).write_bytes(old)
        (disk / "keep").write_bytes(b"x")
        filler = fill(disk)
        names = {path.name for path in disk.rglob("*")}
        if command == "copy":
            said = here.luthier("copy", "s", "--store", source, "--to", disk / target)
        elif command == "backup":
            said = here.luthier("backup", "--store", source, "--output", disk / target)
        else:
            said = here.luthier(command, "s", "--store", source, "--output", disk / target)
        assert said.popen.returncode not in (0, None), f"{command} ended with 0: {said.text[-300:]}"
        assert "Traceback" not in said.text, f"{command}: {said.text[-900:]}"
        if command not in ("copy", "backup"):
            assert (disk / target).read_bytes() == old, f"{command} damaged the file that was there"
        filler.unlink()
        more = {path.name for path in disk.rglob("*")} - names
        if command == "copy":
            shell("mount", "-o", "remount,size=4m", disk)
            again = here.luthier("copy", "s", "--store", source, "--to", disk / target)
            assert again.popen.returncode == 0, f"with room, copy does not work: {again.text[-500:]}"
            assert results(disk / target) == results(source), "the copy differs"
        else:
            assert not more, f"{command} left {more}"
    assert everything(source, "s") == before and tree(here.place / "a.db.checkpoints") == files, (
        "the source was touched"
    )


@attack(
    "the output of show, studies, export and tune goes to /dev/full",
    "exit code 1 with a line that says why, and no traceback",
)
def standard_output_full(here: Ground) -> None:
    source = here.place / "a.db"
    here.study(source).done()
    for command in (["show", "s"], ["studies"], ["export", "s"], ["methods"]):
        with Path("/dev/full").open("wb") as full:
            where = [] if command == ["methods"] else ["--store", source]
            said = here.luthier(*command, *where, stdout=full)
        assert said.popen.returncode not in (0, None), f"{command}: ended with 0: {said.text}"
        assert "Traceback" not in said.text, f"{command}: {said.text[-500:]}"


@attack(
    "what tune says (2>&1) goes to a full disk, and into a pipe whose reader has gone",
    "the study goes on to its end: what is shown is not what is promised",
)
def progress_to_a_full_disk(here: Ground) -> None:
    for number, end in enumerate(('exec "$@" 2>/dev/full', '{ "$@"; } 2>&1 | sleep 1')):
        store = here.place / f"{number}.db"
        here.log.write_text("")
        victim = here.study(store, trials=30, before=["bash", "-c", end, "bash"])
        victim.wait(40)
        until(lambda: len(results(store)) == 30, 20, "the end of the study")  # noqa: B023
        audit(here, store, trials=30)


@attack(
    "a backup taken again and again while two drivers write, then restored elsewhere and gone on with",
    "each is a consistent study; it goes on to the same numbers",
)
def backup_under_load(here: Ground) -> None:
    source = here.place / "a.db"
    first = here.study(source, trials=40)
    second = here.study(source, trials=40)
    here.until_ended(4)
    for number in range(2):
        said = here.luthier("backup", "--store", source, "--output", here.place / f"b{number}.db")
        assert said.popen.returncode == 0, said.text[-500:]
    first.done()
    second.done()
    audit(here, source, trials=40, begun=40)
    here.study(here.place / "b0.db", trials=40).done()
    audit(here, here.place / "b0.db", trials=40)


@attack(
    "SIGKILL for copy and backup at ten moments",
    "the target is absent, or refused, or whole; the same command then works",
)
def copies_killed(here: Ground) -> None:
    source = here.place / "a.db"
    how = {"task": "walk", "method": "pbt", "trials": 6, "floats": 20000}
    here.study(source, **how).done()
    want = results(source)
    for number in range(10):
        command = ["copy", "s", "--to"] if number % 2 else ["backup", "--output"]
        target = here.place / f"t{number}.db"

        run = here.start(sys.executable, "-c", APP, *command, target, "--store", source)
        time.sleep(0.25 + 0.06 * number)
        run.kill()
        if target.exists() and query(target, "SELECT 1 FROM sqlite_master WHERE name = 'luthier_studies'"):
            got = results(target)
            assert got in ([], want), (
                f"{command[0]} killed: half a study stands there, {len(got)} of {len(want)} results"
            )
        again = here.luthier(*command, target, "--store", source)
        if again.popen.returncode:
            assert "Traceback" not in again.text, again.text[-500:]
            shown = here.luthier("show", "s", "--store", target)
            assert shown.popen.returncode == 0, f"{command[0]} neither works again nor is done: {again.text[-300:]}"
        assert results(target) == want
