"""Objectives that misbehave in their own process or in a worker: luthier's business is to survive them."""

import json
import time
from typing import Any

from .kit import Ground, Process, attack
from .truth import audit, kept, query, results


def misbehave(here: Ground, text: str, workers: int, number: str = "3", trials: int = 8, **more: Any) -> Process:
    """A study in which one trial does what the text says just before it returns."""
    here.log.write_text("")
    store = here.place / f"{abs(hash((text, workers))) % 10**8}.db"
    return here.study(store, trials=trials, workers=workers, pause=0.02, bad={number: text}, name="s", **more)


def harmless(
    here: Ground, texts: list[str], workers: tuple[int, ...] = (1, 2), seconds: float = 40, **more: Any
) -> None:
    """Check that what an objective does leaves no trace: all trials ok, the same numbers."""
    broken = []
    for text in texts:
        for count in workers:
            victim = misbehave(here, text, count, **more)
            store = _store(victim)
            try:
                victim.done(seconds)
                audit(here, store, trials=8)
            except AssertionError as error:
                broken.append(f"{text!r} with {count} worker(s): {str(error)[-500:]}")
                victim.kill()
    assert not broken, "\n    ".join(["", *broken])


def _store(victim: Process) -> str:
    return json.loads(victim.popen.args[-1])["store"]  # type: ignore[index]


def fails_alone(here: Ground, texts: list[str], workers: tuple[int, ...] = (1, 2), status: str = "failed") -> None:
    """Check that what an objective does costs its own trial and no other."""
    broken = []
    for text in texts:
        for count in workers:
            victim = misbehave(here, text, count)
            store = _store(victim)
            try:
                victim.done(40)
                rows = results(store)
                numbers = [row[0] for row in rows]
                assert sorted(numbers) == list(range(8)), f"results of {numbers}"
                bad = {row[0]: row[1] for row in rows if (row[1] != "ok") != (row[0] == 3)}
                assert not bad, f"{bad}"
                for command in ("show", "export"):
                    said = here.luthier(command, "s", "--store", store)
                    assert said.popen.returncode == 0, f"{command}: {said.text[-300:]}"
            except AssertionError as error:
                broken.append(f"{text!r} with {count} worker(s): {str(error)[-500:]}")
                victim.kill()
    assert not broken, "\n    ".join(["", *broken])


@attack(
    "os.fork(): a child that ends at once, one that sleeps on, one that returns into luthier as its parent does",
    "each trial once; the same numbers",
)
def forks(here: Ground) -> None:
    harmless(here, ["os.fork() or os._exit(0)", "os.fork() or (time.sleep(3), os._exit(0))"])
    for workers in (1, 2):
        victim = misbehave(here, "os.fork()", workers)
        victim.wait(40)
        time.sleep(3)
        rows = results(_store(victim))
        numbers = [row[0] for row in rows]
        assert sorted(numbers) == list(range(8)), (
            f"{workers} workers, results of {sorted(numbers)}: {victim.text[-400:]}"
        )
        assert query(_store(victim), "PRAGMA integrity_check") == [("ok",)]
        kept(rows, results(_store(victim)))


@attack(
    "chdir to a folder that is removed, umask 0777, os.environ.clear(), a recursion limit of 200, handlers reset, …",
    "the same numbers",
)
def changes_the_process(here: Ground) -> None:
    harmless(
        here,
        [
            "import tempfile, shutil; d = tempfile.mkdtemp(); os.chdir(d); shutil.rmtree(d)",
            "os.umask(0o777)",
            "os.close(0)",
            "os.environ.clear()",
            "import sys; sys.setrecursionlimit(200)",
            "import sys; sys.path.clear()",
            "import gc; gc.disable()",
            "from signal import *; [signal(s, SIG_DFL) for s in (SIGTERM, SIGINT, SIGHUP)]",
            "import logging; logging.disable()",
            "import warnings; warnings.simplefilter('error')",
        ],
    )


@attack(
    "the objective redirects or closes sys.stdout and sys.stderr, or their file descriptors",
    "the same numbers; the study goes on",
)
def closes_its_output(here: Ground) -> None:
    broken = []
    for text in (
        "import sys; sys.stdout.close()",
        "import sys; sys.stderr.close()",
        "import sys; sys.stdout = sys.stderr = None",
        "os.close(1); os.close(2)",
    ):
        for count in (1, 2):
            victim = misbehave(here, text, count)
            try:
                victim.wait(40)
                audit(here, _store(victim), trials=8)
            except AssertionError as error:
                broken.append(f"{text!r} with {count} worker(s): {str(error)[-400:]} {victim.text[-300:]}")
    assert not broken, "\n    ".join(["", *broken])


@attack(
    "seeds and modes of random, numpy and torch (dtype, grad, threads, seterr) are changed under gp",
    "the same numbers",
)
def changes_the_libraries(here: Ground) -> None:
    broken = []
    for text in (
        "import random, numpy, torch; random.seed(0); numpy.random.seed(0); torch.manual_seed(0)",
        "import torch; torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)",
        "import torch; torch.use_deterministic_algorithms(True); torch.set_num_threads(2)",
        "import numpy; numpy.seterr(all='raise'); numpy.set_printoptions(precision=1)",
        "import decimal, locale; decimal.getcontext().prec = 2; locale.setlocale(locale.LC_ALL, 'C')",
    ):
        victim = misbehave(here, text, 1, method="gp", trials=12)
        try:
            victim.done(60)
            audit(here, _store(victim), method="gp", trials=12)
        except AssertionError as error:
            broken.append(f"{text!r}: {str(error)[-500:]}")
    assert not broken, "\n    ".join(["", *broken])


@attack(
    "the objective closes every file descriptor from 3 on",
    "in the driver the same numbers or an error, then on; in a worker that trial alone has failed",
)
def closes_every_file(here: Ground) -> None:
    victim = misbehave(here, "os.closerange(3, 1024)", 1, outage=3)
    store = _store(victim)
    code = victim.wait(40)
    assert code >= 0 and (not code or victim.ours), f"exit code {code}: {victim.text[-900:]}"
    stood = results(store)
    if code:
        here.study(store, trials=8).done(40)
    kept(stood, audit(here, store, trials=8))
    fails_alone(here, ["os.closerange(3, 1024)"], workers=(2,))  # the worker cannot be heard any longer


@attack(
    "os._exit(0), os._exit(1), os.abort(), a segmentation fault, SIGKILL for itself, with two workers",
    "that trial is tried three times and has failed; the others are ok",
)
def ends_its_worker(here: Ground) -> None:
    broken = []
    for text in (
        "os._exit(0)",
        "os._exit(1)",
        "os.abort()",
        "import ctypes; ctypes.string_at(0)",
        "os.kill(os.getpid(), 9)",
    ):
        victim = misbehave(here, f"write(what='die'); {text}", 2)
        try:
            victim.done(60)
            rows = results(_store(victim))
            assert [row[0] for row in rows] == list(range(8)), f"results of {[row[0] for row in rows]}"
            bad = {row[0]: row[1] for row in rows if (row[1] != "ok") != (row[0] == 3)}
            assert not bad, bad
            assert len(here.logged("die")) == 3, f"tried {len(here.logged('die'))} times"
        except AssertionError as error:
            broken.append(f"{text!r}: {str(error)[-500:]}")
    assert not broken, "\n    ".join(["", *broken])


@attack(
    "the same with one worker, which is the driver's own process, started again until it ends",
    "every start gets further; in the end that trial has failed, the others are ok",
)
def ends_its_driver(here: Ground) -> None:
    store = here.place / "a.db"
    how = {"trials": 8, "pause": 0.02, "bad": {"3": "write(what='die'); os._exit(0)"}}
    for _ in range(7):
        victim = here.study(store, **how)
        victim.wait(40)
        if "LEFT IN GOOD ORDER" in victim.text:
            break
    rows = results(store)
    assert [row[0] for row in rows] == list(range(8)), f"results of {[row[0] for row in rows]}"
    bad = {row[0]: row[1] for row in rows if (row[1] != "ok") != (row[0] == 3)}
    assert not bad, bad
    assert len(here.logged("die")) == 3, f"tried {len(here.logged('die'))} times"


@attack(
    "seventeen exceptions: no text, 5 MB of text, surrogates, SystemExit, GeneratorExit, unpicklable, ENOSPC, …",
    "that trial has failed, the others are ok; show and export work",
)
def raises(here: Ground) -> None:
    fails_alone(
        here,
        [
            "class E(Exception):\n    def __str__(self): raise ValueError('no')\n    __repr__ = __str__\nraise E()",
            "raise ValueError('\\udcff \\x00 \\x1b[31m [bold] =1+1')",
            "raise ValueError('x' * 5_000_000)",
            "f = lambda: f()\nglobals().update(f=f)\nf()",
            "raise SystemExit(0)",
            "raise SystemExit('bye')",
            "raise GeneratorExit",
            "raise BaseException('base')",
            "raise ValueError(os, lambda: 0, open('/dev/null'))",
            "raise ExceptionGroup('many', [ValueError(1), TypeError(2)])",
            "raise StopIteration(3)",
            "raise OSError(28, 'No space left on device', '/mine')",
            "raise MemoryError",
            "raise TimeoutError",
            "raise EOFError",
            "raise BrokenPipeError",
            "raise ConnectionResetError",
        ],
    )


@attack(
    "threads left behind: sleepers, a hundred daemons, one that reports after the end, one that raises",
    "the same numbers; the call ends",
)
def leaves_threads(here: Ground) -> None:
    late = "import threading; threading.Timer(0.05, lambda: trial.report(50, loss=0.0)).start()"
    harmless(
        here,
        [
            "from threading import *; [Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(100)]",
            "import threading; threading.Timer(0.05, lambda: 1 / 0).start()",
            "import threading; threading.Thread(target=time.sleep, args=(4,)).start()",
            late,
        ],
    )


@attack(
    "SIGALRM is left ticking; the objective installs its own handlers; it sends SIGINT to its driver",
    "the same numbers with the next call",
)
def leaves_alarms(here: Ground) -> None:
    for text in ("import signal; signal.alarm(1)", "import signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(1)"):
        for workers in (1, 2):
            victim = misbehave(here, text, workers)
            store = _store(victim)
            victim.wait(40)
            here.study(store, trials=8).done(40)
            audit(here, store, trials=8)


@attack(
    "the objective changes its configuration, keeps it and changes it later; it deletes its trial's folder",
    "the database has what was proposed",
)
def changes_its_configuration(here: Ground) -> None:
    harmless(
        here,
        [
            "config.clear()",
            "config['x'] = 99.0; config['extra'] = object()",
            "import shutil; (trial.folder / 'f').write_text('x'); shutil.rmtree(trial.folder.parent)",
            "trial.note(a='x' * 10_000_000)",
            "trial.note(a=float('nan'), b=[1, {'c': 'ü\\udcff'}])",
        ],
        workers=(1,),
    )


@attack(
    "the objective opens the study's own database with sqlite3 and holds a write lock for 8 s",
    "waited for; the same numbers",
)
def locks_the_database(here: Ground) -> None:
    text = (
        "import sqlite3, threading\n"
        "base = sqlite3.connect(spec['store'], isolation_level=None, check_same_thread=False)\n"
        "base.execute('BEGIN IMMEDIATE')\n"
        "threading.Timer(8, lambda: base.execute('ROLLBACK')).start()"
    )
    harmless(here, [text])
