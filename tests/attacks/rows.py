"""Rows that somebody else has written, and names that were made to hurt."""

import json
import sqlite3
import sys
from pathlib import Path

from .kit import Ground, attack, until
from .truth import audit, everything, kept, query, results, tree

EVENT = "UPDATE luthier_events SET body = ? WHERE kind = 2 AND number = 3 AND study = 1"
THAT = "kind = 2 AND number = 3 AND study = 1"
ALL = "study, seq, kind, number, owner, attempt, at, body"
AGAIN = ALL.replace("seq", "seq + 100000")
DEEP = "[" * 100_000 + "]" * 100_000

DAMAGES: dict[str, tuple[str, tuple[object, ...]]] = {
    "body cut": (EVENT, ('{"status":"ok","met',)),
    "body empty": (EVENT, ("",)),
    "body is bytes": (EVENT, (b"\xff\xfe\x00",)),
    "body is a list": (EVENT, ("[1,2]",)),
    "body is deep": (EVENT, (DEEP,)),
    "metrics is deep": (EVENT, ('{"status":"ok","steps":3,"seconds":1,"metrics":' + DEEP + "}",)),
    "a number of 5,000 digits": (
        EVENT,
        ('{"status":"ok","metrics":{"loss":' + "9" * 5000 + '},"steps":3,"seconds":1}',),
    ),
    "loss is text": (EVENT, ('{"status":"ok","metrics":{"loss":"</script><img src=x>"},"steps":3,"seconds":1}',)),
    "loss is missing": (EVENT, ('{"status":"ok","metrics":{},"steps":3,"seconds":1}',)),
    "an unknown status": (EVENT, ('{"status":"fine","metrics":{"loss":1},"steps":3,"seconds":1}',)),
    "steps below 0": (EVENT, ('{"status":"ok","metrics":{"loss":1},"steps":-5,"seconds":-1}',)),
    "a kind of the future": ("UPDATE luthier_events SET kind = 99 WHERE kind = 2 AND number = 3 AND study = 1", ()),
    "a number below 0": ("UPDATE luthier_events SET number = -1 WHERE kind = 2 AND number = 3 AND study = 1", ()),
    "a number of 2^62": (f"UPDATE luthier_events SET number = 4611686018427387904 WHERE {THAT}", ()),
    "a row gone": ("DELETE FROM luthier_events WHERE kind = 0 AND number = 3 AND study = 1", ()),
    "a result twice": (
        f"INSERT INTO luthier_events ({ALL}) SELECT {AGAIN} FROM luthier_events WHERE {THAT}",
        (),
    ),
    "settings cut": ("UPDATE luthier_studies SET settings = '{\"space' WHERE id = 1", ()),
    "settings deep": ("UPDATE luthier_studies SET settings = ? WHERE id = 1", (DEEP,)),
    "counts wrong": ("UPDATE luthier_studies SET jobs = -7, done = 1e300, best = 99 WHERE id = 1", ()),
    "folder leads out": ("UPDATE luthier_studies SET folder = '../../victim' WHERE id = 1", ()),
    "folder is absolute": ("UPDATE luthier_studies SET folder = '/etc' WHERE id = 1", ()),
    "folder is empty": ("UPDATE luthier_studies SET folder = '' WHERE id = 1", ()),
    "version of the future": ("UPDATE luthier_schema SET version = 99", ()),
    "no version": ("DELETE FROM luthier_schema", ()),
    "name with escapes": ("UPDATE luthier_studies SET name = ? WHERE id = 1", ("\x1b]0;x\x07[red]\n../../x",)),
    "times are NaN": ("UPDATE luthier_events SET at = 'nan' WHERE study = 1", ()),
    "a huge owner": (
        "UPDATE luthier_owners SET pid = -1, host = 7, started = 'x', until = 'never' WHERE study = 1",
        (),
    ),
}


@attack(
    "27 damages of rows, each before show, studies, export, report and tune",
    "a named error or all well; never a traceback of another kind; the neighbour is listed, and untouched",
)
def damaged_rows(here: Ground) -> None:
    source = here.place / "a.db"
    here.study(source, pause=0.0).done()
    here.study(source, pause=0.0, name="neighbour", seed=5).done()
    neighbour = everything(source, "neighbour")
    base = sqlite3.connect(source)
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    driver = Path(__file__).with_name("look.py")
    broken = []
    for number, (title, (text, values)) in enumerate(DAMAGES.items()):
        store = here.place / f"d{number}.db"
        store.write_bytes(source.read_bytes())
        base = sqlite3.connect(store)
        base.execute(text, values)
        base.commit()
        base.close()
        said = here.start(sys.executable, driver, store, here.place / "r.html")
        try:
            code = said.wait(60)
            assert code == 0, f"exit code {code}: {said.text[-600:]}"
            assert everything(store, "neighbour") == neighbour, "the neighbour was touched"
        except AssertionError as error:
            broken.append(f"{title}: {error}")
    assert not broken, "\n    ".join(["", *broken])


@attack(
    "checkpoint names and folders in rows that lead out (../../victim, /abs), then resume, delete",
    "nothing outside is read or removed",
)
def paths_in_rows(here: Ground) -> None:
    how = {"task": "walk", "method": "pbt", "trials": 4}
    outside = here.place / "victim"
    outside.mkdir()
    (outside / "luthier.json").write_text("{}")
    (outside / "precious.ckpt").write_text("mine")
    (here.place / "precious.ckpt").write_text("mine")
    before = tree(outside)
    for number, evil in enumerate(
        ("../../precious.ckpt", str(outside / "precious.ckpt"), "../../victim/precious.ckpt")
    ):
        store = here.place / f"{number}.db"
        victim = here.study(store, pause=0.05, **how)
        until(lambda: len(results(store)) > 9)  # noqa: B023
        victim.kill()
        base = sqlite3.connect(store)
        for key, text in base.execute("SELECT id, body FROM luthier_events WHERE kind = 2").fetchall():
            body = json.loads(text)
            body["checkpoint"] = [evil, 0]
            base.execute("UPDATE luthier_events SET body = ? WHERE id = ?", (json.dumps(body), key))
        base.commit()
        base.close()
        victim = here.study(store, outage=2, **how)
        if victim.wait(40):
            assert victim.ours, victim.text[-700:]
        here.luthier("delete", "s", "--store", store, "--yes")
    for number, evil in enumerate(("../victim", "../../victim", str(outside), ".", "..", ""), 10):
        store = here.place / f"{number}.db"
        here.study(store, **how).done()
        base = sqlite3.connect(store)
        base.execute("UPDATE luthier_studies SET folder = ?", (evil.replace("../victim", f"../{outside.name}"),))
        base.commit()
        base.close()
        said = here.luthier("delete", "s", "--store", store, "--yes")
        assert "Traceback" not in said.text, f"{evil!r}: {said.text[-500:]}"
    assert tree(outside) == before and (here.place / "precious.ckpt").read_text() == "mine", (
        "removed or written outside"
    )


NAMES = [
    "../../x",
    "/etc/passwd",
    "a\nb",
    "'; DROP TABLE luthier_studies; --",
    "%s%n",
    "-rf",
    "--help",
    ".",
    "..",
    " ",
    "CON",
    "x" * 300,
    "a\x1b[31mb",
    "Ωμέγα 🎻",
    "é",
    "e\u0301",
    "A",
    "a",
    "[red]x[/red]",
    "<script>",
    "=1+1",
    "a/b/c",
    "\u202egnp",
    "a\tb",
    "$HOME",
    "`id`",
    "*",
    "~",
    "a\\b",
]


@attack(
    "29 names of studies: paths, SQL, options, escapes, markup, A and a, é composed and decomposed, 300 letters",
    "each is taken as it is, or refused by name; all are listed and shown; checkpoints stay in their folder",
)
def hostile_names(here: Ground) -> None:
    store = here.place / "a.db"
    script = here.place / "many.py"
    script.write_text(
        "import json, sys\nimport luthier as lt\n"
        "class W:\n"
        "    def init(self, config, key): return {'x': float(key % 97)}\n"
        "    def advance(self, state, config, steps): return {'x': state['x'] * config['x']}, {}\n"
        "    def evaluate(self, state): return {'loss': state['x']}\n"
        "space = lt.Space(x=lt.Float(0.1, 1.0))\n"
        "for seed, name in enumerate(json.loads(sys.argv[2])):\n"
        "    try:\n"
        "        how = {'trials': 2, 'steps': 10, 'seed': seed, 'store': sys.argv[1], 'name': name}\n"
        "        lt.tune(W(), 'pbt', space=space, progress=False, **how)\n"
        "    except lt.LuthierError as error:\n"
        "        print('REFUSED', repr(name), str(error)[:80])\n"
        "print('LEFT IN GOOD ORDER')\n"
    )
    here.start(sys.executable, script, store, json.dumps(NAMES)).done(120)
    refused = here.place.joinpath("said-1.txt").read_text()
    names = [row[0] for row in query(store, "SELECT name FROM luthier_studies")]
    assert len(names) == len(set(names)) and all(repr(name) in refused or name in names for name in NAMES), names
    counts = query(store, "SELECT count(*) FROM luthier_events WHERE kind = 2 GROUP BY study")
    assert {count for (count,) in counts} == {20}, counts
    listed = here.luthier("studies", "--store", store)
    assert listed.popen.returncode == 0 and "\x1b[31m" not in listed.text, listed.text[-300:]
    inside = {path.name for path in here.place.iterdir()} - {"log.jsonl", "many.py", "said-1.txt", "said-2.txt"}
    assert inside <= {"a.db", "a.db.checkpoints", "a.db-wal", "a.db-shm"}, inside
    folders = [path for path in (here.place / "a.db.checkpoints").iterdir()]
    assert len(folders) == len(names), f"{len(folders)} folders for {len(names)} studies"
    before = {name: everything(store, name.replace("'", "''")) for name in names if name != "A"}
    said = here.luthier("delete", "--store", store, "--yes", "--", "A")
    assert said.popen.returncode == 0, said.text
    after = {name: everything(store, name.replace("'", "''")) for name in names if name != "A"}
    assert before == after, "a deletion touched another study"
    assert len(list((here.place / "a.db.checkpoints").iterdir())) == len(names) - 1


@attack(
    "a configuration 64 levels deep, 200 hyperparameters, options that are nested lists",
    "the objective gets exactly what was declared; show, export, report and resume work",
)
def deep_configurations(here: Ground) -> None:
    script = here.place / "deep.py"
    script.write_text(
        "import json, sys\nimport luthier as lt\n"
        "inner = lt.Float(0.0, 1.0)\n"
        "for level in range(64): inner = {f'level{level}': inner}\n"
        "options = [[1, [2.5, [None, True]]], [[[]]], 'text\\n=1+1', ()]\n"
        "wide = {f'h{k}': lt.Float(0.0, 1.0) for k in range(200)}\n"
        "space = lt.Space(**{'deep': inner, 'c': lt.Choice(options), 'größe': lt.Int(1, 3), **wide})\n"
        "seen = []\n"
        "def train(config):\n"
        "    value = config['deep']\n"
        "    for level in reversed(range(64)): value = value[f'level{level}']\n"
        "    assert config['c'] in options, config['c']\n"
        "    assert len(config) == 203\n"
        "    seen.append(value)\n"
        "    return value\n"
        "for trials in (3, 6):\n"
        "    study = lt.tune(train, space=space, trials=trials, store=sys.argv[1], name='s', progress=False)\n"
        "assert [trial.metrics['loss'] for trial in study.trials] == seen and len(seen) == 6, seen\n"
        "print('LEFT IN GOOD ORDER')\n"
    )
    here.start(sys.executable, script, here.place / "a.db").done(60)
    for command in (
        ["show", "s"],
        ["export", "s", "--output", here.place / "e.csv"],
        ["export", "s", "--format", "json", "--output", here.place / "e.json"],
        ["report", "s", "--output", here.place / "r.html"],
    ):
        said = here.luthier(*command, "--store", here.place / "a.db", seconds=90)
        assert said.popen.returncode == 0, f"{command}: {said.text[-500:]}"
    assert len(json.loads((here.place / "e.json").read_text())) == 6
    kept(results(here.place / "a.db"), results(here.place / "a.db"))


@attack(
    "another program writes into luthier's SQLite file: a table, an index, VACUUM, journal_mode=DELETE",
    "the same numbers; the other table is kept",
)
def a_lodger_in_the_database(here: Ground) -> None:
    store = here.place / "a.db"
    victim = here.study(store, trials=40)
    here.until_ended(4, victim)
    base = sqlite3.connect(store, timeout=20, isolation_level=None)
    base.execute("CREATE TABLE mine (x)")
    base.execute("INSERT INTO mine VALUES (1)")
    base.execute("CREATE INDEX mine_at ON luthier_events (at)")
    base.execute("PRAGMA user_version = 77")
    for text in ("VACUUM", "PRAGMA journal_mode = DELETE", "PRAGMA wal_checkpoint(TRUNCATE)", "ANALYZE"):
        try:
            base.execute(text)
        except sqlite3.OperationalError:
            pass
    victim.done()
    base.close()
    audit(here, store, trials=40, begun=40)
    assert query(store, "SELECT x FROM mine") == [(1,)]
