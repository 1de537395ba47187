"""Folders and files: shared, moved, copied, linked, deleted, replaced, truncated, read-only, of another user."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
import time

from .kit import APP, Ground, attack, need, shell, until
from .truth import audit, everything, kept, reference, results, tree

PBT = {"task": "walk", "method": "pbt", "trials": 4}


@attack(
    "two stores and two studies of one name in each, all at once, with one LUTHIER_CHECKPOINTS and one checkpoints=",
    "each ends with its own numbers",
)
def one_checkpoint_folder(here: Ground) -> None:
    shared = here.place / "shared"
    running = []
    for folder in ("a", "b"):
        (here.place / folder).mkdir()
        for seed in (3, 4):
            how = {"checkpoints": str(shared)} if folder == "a" else {}
            running.append(
                (
                    folder,
                    seed,
                    here.study(
                        here.place / folder / "x.db",
                        name=f"s{seed}",
                        seed=seed,
                        pause=0.02,
                        env={"LUTHIER_CHECKPOINTS": str(shared)},
                        **how,
                        **PBT,
                    ),
                )
            )
    for folder, seed, victim in running:
        victim.done(90)
        audit(here, here.place / folder / "x.db", name=f"s{seed}", seed=seed, **PBT)


@attack(
    "a study killed in the middle; its folder is moved, a link with the old name left; gone on by new and by old path",
    "the same numbers",
)
def moved_folder(here: Ground) -> None:
    (here.place / "old").mkdir()
    victim = here.study(here.place / "old" / "a.db", pause=0.05, **PBT)
    until(lambda: len(results(here.place / "old" / "a.db")) > 5)
    victim.kill()
    stood = results(here.place / "old" / "a.db")
    (here.place / "old").rename(here.place / "new")
    (here.place / "old").symlink_to(here.place / "new")
    victim = here.study(here.place / "old" / "a.db", pause=0.05, **PBT)
    until(lambda: len(results(here.place / "new" / "a.db")) > len(stood) + 4)
    victim.kill()
    here.study(here.place / "new" / "a.db", **PBT).done()
    kept(stood, audit(here, here.place / "new" / "a.db", **PBT))


@attack(
    "a killed pbt study copied by cp -r; both copies go on at once, each with its checkpoints beside it",
    "both end with the same numbers",
)
def copied_folder(here: Ground) -> None:
    (here.place / "a").mkdir()
    victim = here.study(here.place / "a" / "a.db", pause=0.05, **PBT)
    until(lambda: len(results(here.place / "a" / "a.db")) > 5)
    victim.kill()
    shell("cp", "-r", here.place / "a", here.place / "b")
    pair = [here.study(here.place / folder / "a.db", pause=0.02, **PBT) for folder in "ab"]
    for folder, victim in zip("ab", pair, strict=True):
        victim.done()
        audit(here, here.place / folder / "a.db", **PBT)


@attack(
    "a killed pbt study whose database alone is copied (cp), both copies with one LUTHIER_CHECKPOINTS, gone on at once",
    "each ends with the same numbers, or one is refused by name; never other numbers",
)
def copied_database(here: Ground) -> None:
    env = {"LUTHIER_CHECKPOINTS": str(here.place / "shared")}
    how = {"checkpoints": str(here.place / "shared")}
    victim = here.study(here.place / "a.db", pause=0.05, env=env, **PBT, **how)
    until(lambda: len(results(here.place / "a.db")) > 5)
    victim.kill()
    for tail in ("", "-wal"):
        shutil.copy(here.place / f"a.db{tail}", here.place / f"b.db{tail}")
    pair = [
        here.study(here.place / f"{name}.db", pause=0.03 * (1 + number), env=env, **PBT, **how)
        for number, name in enumerate("ab")
    ]
    for name, victim in zip("ab", pair, strict=True):
        if victim.wait(60):
            assert victim.ours, victim.text[-700:]
        bad = [row for row in results(here.place / f"{name}.db") if row[1] != "ok"]
        assert not bad, f"{name}: {bad[:3]}"
        wanted = reference(**PBT)
        differ = [row for row in results(here.place / f"{name}.db") if row != wanted[row[0]]]
        assert not differ, f"{name}: other numbers: {differ[:2]}"
        if not victim.popen.returncode:
            audit(here, here.place / f"{name}.db", **PBT)
    assert not all(victim.popen.returncode for victim in pair), "neither could go on"


@attack(
    "a database with two names (a hard link), a driver on each at once", "refused, or exactly once; the file is whole"
)
def hard_link(here: Ground) -> None:
    here.study(here.place / "a.db", trials=2).done()
    os.link(here.place / "a.db", here.place / "b.db")
    pair = [here.study(here.place / f"{name}.db", trials=40, pause=0.02) for name in "ab"]
    codes = [victim.wait(60) for victim in pair]
    for victim, code in zip(pair, codes, strict=True):
        assert not code or victim.ours, victim.text[-700:]
    (here.place / "b.db").unlink()
    here.study(here.place / "a.db", trials=40).done()
    audit(here, here.place / "a.db", trials=40)


@attack(
    "a database reached by its path, by a link, by a link to its folder and by a relative path, four drivers at once",
    "one study, each trial once, one checkpoint folder",
)
def by_many_paths(here: Ground) -> None:
    (here.place / "real").mkdir()
    (here.place / "folder").symlink_to("real")
    (here.place / "link.db").symlink_to("real/a.db")
    how = {"trials": 24, "pause": 0.05}
    drivers = [
        here.study(path, how={"cwd": here.place / "real"}, **how)
        for path in (here.place / "real" / "a.db", here.place / "folder" / "a.db", "a.db", here.place / "link.db")
    ]
    for driver in drivers:
        driver.done()
    audit(here, here.place / "real" / "a.db", trials=24, begun=24)
    assert not (here.place / "link.db.checkpoints").exists(), "a second folder for checkpoints"


@attack(
    "rm of the database, its WAL and -shm while a study runs",
    "an error within seconds, nothing written anew",
)
def deleted(here: Ground) -> None:
    victim = here.study(here.place / "a.db", trials=100, outage=5)
    here.until_ended(4, victim)
    for path in here.place.glob("a.db*"):
        if path.is_file():
            path.unlink()
    victim.refused(30, "a.db")
    assert not (here.place / "a.db").exists(), "it made a new database and said nothing"


@attack(
    "mv of another study's database over the one that runs",
    "an error within seconds, the other study untouched",
)
def replaced(here: Ground) -> None:
    here.study(here.place / "b.db", name="s", seed=9, trials=5).done()
    before = everything(here.place / "b.db", "s")
    victim = here.study(here.place / "a.db", trials=100, outage=5)
    here.until_ended(4, victim)
    (here.place / "b.db").replace(here.place / "a.db")
    victim.refused(30, "a.db")
    for tail in ("-wal", "-shm"):
        (here.place / f"a.db{tail}").unlink(missing_ok=True)
    assert everything(here.place / "a.db", "s") == before, "the other study was written to"


@attack(
    "the database written over in place (cp other.db a.db) while a study runs", "an error; no result in the other study"
)
def overwritten(here: Ground) -> None:
    here.study(here.place / "b.db", name="s", seed=9, trials=5).done()
    before = everything(here.place / "b.db", "s")
    victim = here.study(here.place / "a.db", trials=100, outage=5)
    here.until_ended(4, victim)
    shutil.copyfile(here.place / "b.db", here.place / "a.db")
    victim.refused(30)
    shutil.copyfile(here.place / "a.db", here.place / "c.db")
    assert everything(here.place / "c.db", "s") == before, "the other study was written to"


@attack(
    "truncate -s 0, and to half, of the database while a study runs",
    "an error within seconds, never done as if all were well",
)
def truncated(here: Ground) -> None:
    for size in (0, 20000):
        store = here.place / f"t{size}.db"
        here.log.write_text("")
        victim = here.study(store, trials=60, outage=5)
        here.until_ended(4, victim)
        os.truncate(store, size)
        code = victim.wait(60)
        assert code > 0 or len(results(store)) == 60, f"cut to {size} bytes: it ended with {code}: {victim.text[-300:]}"
        assert not code or victim.ours, f"cut to {size} bytes: {victim.text[-700:]}"


@attack(
    "the folder and the database lose w for 6 s in the middle, the driver is another user (nobody)",
    "waited for; the same numbers",
)
def write_right_lost(here: Ground) -> None:
    need("setpriv", root=True)
    folder = here.place / "f"
    folder.mkdir()
    folder.chmod(0o777)
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    victim = here.study(folder / "a.db", trials=40, before=as_nobody, env={"HOME": None})
    here.until_ended(4, victim)
    for path in [folder, *folder.glob("a.db*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    time.sleep(6)
    for path in [folder, *folder.glob("a.db*")]:
        path.chmod(path.stat().st_mode | 0o666)
    victim.done()
    audit(here, folder / "a.db", trials=40)


@attack(
    "the checkpoint folder loses w for 6 s in the middle of pbt, the driver is nobody",
    "waited for; no trial failed, the same numbers",
)
def checkpoint_right_lost(here: Ground) -> None:
    need("setpriv", root=True)
    folder = here.place / "f"
    folder.mkdir()
    folder.chmod(0o777)
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    victim = here.study(folder / "a.db", before=as_nobody, env={"HOME": None}, pause=0.1, **PBT)
    until(lambda: len(results(folder / "a.db")) > 5)
    inner = [path for path in (folder / "a.db.checkpoints").rglob("*") if path.is_dir()]
    for path in inner:
        path.chmod(0o555)
    time.sleep(6)
    for path in inner:
        path.chmod(0o755)
    victim.done()
    audit(here, folder / "a.db", **PBT)


@attack(
    "rm -r of the checkpoint folder in the middle of pbt",
    "an error that names the file, or the same numbers; no trial failed, none with other numbers",
)
def checkpoints_deleted(here: Ground) -> None:
    victim = here.study(here.place / "a.db", pause=0.1, outage=3, **PBT)
    until(lambda: len(results(here.place / "a.db")) > 8)
    shutil.rmtree(here.place / "a.db.checkpoints", ignore_errors=True)
    code = victim.wait(60)
    assert not code or victim.ours, victim.text[-700:]
    bad = [row[:2] for row in results(here.place / "a.db") if row[1] != "ok"]
    assert not bad, f"the environment failed trials: {bad}"
    wanted = reference(**PBT)
    differ = [row for row in results(here.place / "a.db") if row != wanted[row[0]]]
    assert not differ, f"other numbers: {differ[:2]}"


@attack(
    "checkpoints exchanged between two killed studies (mv, names kept), and one cut to half",
    "refused by name or trained anew; never other numbers",
)
def checkpoints_exchanged(here: Ground) -> None:
    for seed in (3, 4):
        victim = here.study(here.place / f"{seed}.db", seed=seed, pause=0.1, **PBT)
        until(lambda: len(results(here.place / f"{seed}.db")) > 8)  # noqa: B023
        victim.kill()
    mine, theirs = (sorted((here.place / f"{seed}.db.checkpoints").rglob("*.ckpt")) for seed in (3, 4))
    for one, other in zip(mine, theirs, strict=False):
        shutil.copyfile(other, one)
    victim = here.study(here.place / "3.db", outage=3, **PBT)
    code = victim.wait(60)
    assert not code or victim.ours, victim.text[-700:]
    rows, wanted = results(here.place / "3.db"), reference(**PBT)
    differ = [row for row in rows if row != wanted[row[0]]]
    assert not differ, f"other numbers: {differ[:2]}"
    before = tree(here.place / "3.db.checkpoints")
    here.study(here.place / "4.db", seed=4, **PBT).done()
    audit(here, here.place / "4.db", seed=4, **PBT)
    assert tree(here.place / "3.db.checkpoints") == before, "files of the other study were touched"


@attack(
    "a study left by SIGKILL with its WAL, looked at through a read-only mount",
    "show, studies, export, report, load work; tune is refused at once",
)
def read_only_mount(here: Ground) -> None:
    need("mount", root=True)
    (here.place / "rw").mkdir()
    (here.place / "ro").mkdir()
    victim = here.study(here.place / "rw" / "a.db", trials=40)
    here.until_ended(8, victim)
    victim.kill()
    stood = results(here.place / "rw" / "a.db")
    shell("mount", "--bind", here.place / "rw", here.place / "ro")
    here.undo.callback(lambda: shell("umount", "-l", here.place / "ro", check=False))
    shell("mount", "-o", "remount,bind,ro", here.place / "ro")
    before = tree(here.place / "rw")
    for command in (["show", "s"], ["studies"], ["export", "s"], ["report", "s", "--output", here.place / "r.html"]):
        said = here.luthier(*command, "--store", here.place / "ro" / "a.db")
        assert said.popen.returncode == 0, f"{command[0]}: {said.text[-500:]}"
    exported = here.luthier("export", "s", "--store", here.place / "ro" / "a.db").text
    assert exported.count("ok") >= len(stood), f"export shows less than the {len(stood)} results: {exported[:300]}"
    backup = here.luthier("backup", "--store", here.place / "ro" / "a.db", "--output", here.place / "b.db")
    assert backup.popen.returncode == 0, f"backup: {backup.text[-400:]}"
    kept(stood, results(here.place / "b.db"))
    began = time.monotonic()
    here.study(here.place / "ro" / "a.db", trials=40).refused(30)
    assert time.monotonic() - began < 20, "refused only after a long wait"
    assert tree(here.place / "rw") == before, "something was written"


@attack(
    "--store is a folder, a FIFO, a socket, /dev/null, /dev/full, /dev/zero, a text, another program's SQLite",
    "each an error of luthier's own within 20 s, the thing untouched; an empty file is taken",
)
def no_database(here: Ground) -> None:
    (here.place / "folder").mkdir()
    os.mkfifo(here.place / "fifo")
    (here.place / "text").write_text("some notes of mine\n" * 400)
    (here.place / "short").write_text("notes\n")
    other = sqlite3.connect(here.place / "other.sqlite")
    other.execute("CREATE TABLE accounts (id INTEGER, owner TEXT)")
    other.execute("INSERT INTO accounts VALUES (1, 'me')")
    other.commit()
    other.close()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(here.place / "socket"))
    here.undo.callback(listening.close)
    broken = []
    for name in ("folder", "fifo", "text", "short", "other.sqlite", "socket", "/dev/null", "/dev/full", "/dev/zero"):
        path = here.place / name
        content = path.read_bytes() if path.is_file() else None
        victim = here.study(path, outage=2)
        try:
            victim.refused(20)
        except AssertionError as error:
            if not (name == "other.sqlite" and victim.popen.returncode == 0):
                broken.append(f"tune on {name}: {error}")
            victim.kill()
        said = here.start(sys.executable, "-c", APP, "show", "s", "--store", path)
        try:
            code = said.wait(20)
            if code == 0 or "Traceback" in said.text:
                if name != "other.sqlite":
                    broken.append(f"show on {name}: exit code {code}: {said.text[-300:]}")
        except AssertionError as error:
            broken.append(f"show on {name}: {error}")
            said.kill()
        if content is not None and name != "other.sqlite" and path.read_bytes() != content:
            broken.append(f"{name} was written to")
        if content is None and name in ("folder", "fifo", "socket"):
            extra = [one.name for one in here.place.glob(f"{name}-*")] + [
                one.name for one in (here.place / "folder").glob("*")
            ]
            if extra:
                broken.append(f"{name}: {extra} made")
    kept([(1, "me")], sqlite3.connect(here.place / "other.sqlite").execute("SELECT * FROM accounts").fetchall())  # type: ignore[arg-type]
    (here.place / "empty.db").touch()
    here.study(here.place / "empty.db").done()
    assert not broken, "\n    ".join(["", *broken])


@attack(
    "23 paths: blanks, newlines, %41, ü, ?, #, quotes, [b], *, ~, not UTF-8, very long, 60 folders deep",
    "that very file, beside it its checkpoints; what is not UTF-8 is refused by name",
)
def hostile_paths(here: Ground) -> None:
    names = [
        *("a b.db", "a\nb.db", "100%.db", "%41.db", "ü-Ω-🎻.db", "a?b=c.db", "a#b.db", "it's.db", 'q".db', "a\\b.db"),
        *("a;b.db", "-a.db", "*.db", "~.db", "~root.db", "x" * 200 + ".db", "/".join(["d"] * 60) + "/a.db", "a:b.db"),
        *("[b]a[/b].db", "a\tb.db", " .db", "..db", "bad\udcff.db"),
    ]
    script = here.place / "paths.py"
    script.write_text(
        "import json, os, sys\nimport luthier as lt\n"
        "class W:\n"
        "    def init(self, config, key): return {'x': float(key % 97)}\n"
        "    def advance(self, state, config, steps): return {'x': state['x'] * config['x']}, {}\n"
        "    def evaluate(self, state): return {'loss': state['x']}\n"
        "how = {'space': lt.Space(x=lt.Float(0.1, 1.0)), 'trials': 2, 'steps': 10, 'name': 's', 'progress': False}\n"
        "for number, name in enumerate(json.loads(sys.argv[2])):\n"
        "    os.chdir(f'{sys.argv[1]}/n{number}')\n"
        "    try:\n"
        "        lt.tune(W(), 'pbt', store=name, **how)\n"
        "        assert len(lt.Study.load('s', name).trials) == len(lt.Study.load('s', os.path.abspath(name)).trials)\n"
        "    except lt.LuthierError as error:\n"
        "        print('REFUSED', number, error)\n"
        "print('LEFT IN GOOD ORDER')\n"
    )
    for number in range(len(names)):
        (here.place / f"n{number}").mkdir()
    refused = here.start(sys.executable, script, here.place, json.dumps(names)).done(120).text
    wanted = None
    for number, name in enumerate(names):
        folder = here.place / f"n{number}"
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        if f"REFUSED {number} " in refused:
            assert name == "bad\udcff.db" and not found, f"{name!r}: {refused}"
            continue
        own = [one for one in found if not one.startswith(f"{name}.checkpoints/")]
        assert own == [name] and len(found) > 1, f"{name!r}: files {found}"
        rows = results(folder / name)
        wanted = wanted or rows
        assert rows == wanted and len(rows) == 20, f"{name!r}: {len(rows)} results"
    shown = here.luthier("show", "s", "--store=-a.db", cwd=here.place / f"n{names.index('-a.db')}")
    assert shown.popen.returncode == 0, shown.text[-300:]


@attack(
    "a relative --store, and the working folder is moved and another put in its place in the middle",
    "the study goes on in its own file",
)
def relative_path(here: Ground) -> None:
    (here.place / "w").mkdir()
    victim = here.study("a.db", trials=40, how={"cwd": here.place / "w"})
    here.until_ended(4, victim)
    (here.place / "w").rename(here.place / "v")
    (here.place / "w").mkdir()
    code = victim.wait(30)
    if code:
        assert victim.ours, victim.text[-700:]
    assert not (here.place / "w" / "a.db").exists() or not results(here.place / "w" / "a.db"), "written to another file"
    here.study("a.db", trials=40, how={"cwd": here.place / "v"}).done()
    audit(here, here.place / "v" / "a.db", trials=40)


@attack(
    "links planted where report, export and backup will write",
    "what the links point to is untouched",
)
def planted_links(here: Ground) -> None:
    victims = here.place / "victims"
    victims.mkdir()
    for name in ("r.html", "e.csv"):
        (victims / name).write_text("mine")
        (here.place / name).symlink_to(victims / name)
    (victims / "b.db").write_text("mine")
    (here.place / "b.db").symlink_to(victims / "b.db")
    how = {"task": "walk", "method": "pbt", "trials": 4, "steps": 10}
    here.study(here.place / "a.db", **how).done()
    said = [
        here.luthier("report", "s", "--store", here.place / "a.db", "--output", here.place / "r.html"),
        here.luthier("export", "s", "--store", here.place / "a.db", "--output", here.place / "e.csv"),
        here.luthier("backup", "--store", here.place / "a.db", "--output", here.place / "b.db"),
    ]
    for one in said:
        assert "Traceback" not in one.text, one.text[-500:]
    changed = [path.name for path in victims.iterdir() if path.read_text() != "mine"]
    assert not changed, f"written through a link: {changed}"


@attack(
    "a checkpoint replaced by a link to a victim's file, then the study goes on and is deleted",
    "the victim's file stays",
)
def planted_checkpoint(here: Ground) -> None:
    precious = here.place / "precious.txt"
    precious.write_text("mine")
    (here.place / "dir").mkdir()
    (here.place / "dir" / "x").write_text("mine")
    victim = here.study(here.place / "a.db", pause=0.1, **PBT)
    until(lambda: len(results(here.place / "a.db")) > 8)
    victim.kill()
    files = sorted((here.place / "a.db.checkpoints").rglob("*.ckpt"))
    (files[0].parent / "job-0-o9-aaaaaaaaaaaa.ckpt").symlink_to(precious)
    (files[0].parent / "trial-0").symlink_to(here.place / "dir")
    here.study(here.place / "a.db", **PBT).done()
    audit(here, here.place / "a.db", **PBT)
    said = here.luthier("delete", "s", "--store", here.place / "a.db", "--yes")
    assert "Traceback" not in said.text, said.text[-400:]
    assert precious.read_text() == "mine" and (here.place / "dir" / "x").read_text() == "mine", "removed through a link"


@attack(
    "SIGSTOP for a driver, its database copied away and back (cp -p, mv), SIGCONT",
    "an error, or on with the same numbers; never a result lost in silence",
)
def swapped_while_stopped(here: Ground) -> None:
    victim = here.study(here.place / "a.db", trials=40, outage=5)
    here.until_ended(4, victim)
    victim.signal(signal.SIGSTOP)
    time.sleep(0.2)
    shutil.copy2(here.place / "a.db", here.place / "c.db")
    (here.place / "c.db").replace(here.place / "a.db")
    victim.signal(signal.SIGCONT)
    code = victim.wait(60)
    if code == 0:
        audit(here, here.place / "a.db", trials=40)
    else:
        assert victim.ours, victim.text[-500:]
