"""Limits of memory, files, processes and processor time."""

import os
import resource
from pathlib import Path

from .kit import CannotRunError, Ground, attack, need
from .truth import audit, query, results

HUNGRY = "import numpy; write(what='eat'); block = numpy.ones(400 << 17); write(what='ate')"


def cgroup(here: Ground, megabytes: int) -> Path:
    """A control group with so much memory; return the file that a process's id is written to."""
    need(root=True)
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    top, limit = (old, "memory.limit_in_bytes") if (old / "memory.limit_in_bytes").exists() else (new, "memory.max")
    group = top / f"luthier-attack-{os.getpid()}-{here.place.name[-6:]}"
    try:
        group.mkdir()
        here.undo.callback(group.rmdir)
        (group / limit).write_text(str(megabytes << 20))
    except OSError as error:
        raise CannotRunError(f"no control group for memory: {error}") from None
    return group / "cgroup.procs"


def failed_but(rows: list, number: int, trials: int) -> None:
    """Check that one trial has failed and all others are ok."""
    statuses = {row[0]: row[1] for row in rows}
    assert len(rows) == trials == len(statuses), f"{len(rows)} results of {trials} trials"
    bad = {key: status for key, status in statuses.items() if (status != "ok") != (key == number)}
    assert not bad, f"not only trial {number} has failed: {bad}"


@attack(
    "a control group of 900 MB, two workers; a trial takes memory until the kernel kills its worker",
    "that trial is tried three times, then has failed; the others are ok",
)
def worker_out_of_memory(here: Ground) -> None:
    procs = cgroup(here, 900)
    eat = "import numpy; write(what='eat'); blocks = [numpy.ones(200 << 17) for _ in range(20)]"
    enter = lambda: procs.write_text(str(os.getpid()))  # noqa: E731
    victim = here.study(here.place / "a.db", trials=10, workers=2, bad={"4": eat}, how={"preexec_fn": enter})
    victim.wait(150)
    failed_but(results(here.place / "a.db"), 4, 10)
    assert len(here.logged("eat")) == 3, f"tried {len(here.logged('eat'))} times"


@attack(
    "ulimit -v of 6 GB: an allocation fails in the objective, with one worker and with two",
    "that trial has failed with MemoryError, the others are ok",
)
def address_space(here: Ground) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # noqa: E731
    for workers in (1, 2):
        store = here.place / f"{workers}.db"
        victim = here.study(
            store, trials=6, workers=workers, bad={"2": "bytearray(8 << 30)"}, how={"preexec_fn": limit}
        )
        victim.done(90)
        failed_but(results(store), 2, 6)
        said = query(store, "SELECT body FROM luthier_events WHERE kind = 2 AND number = 2")[0][0]
        assert "MemoryError" in said, said


@attack(
    "the driver itself is killed by the kernel for want of memory, at one trial",
    "each further start gets further; the poison trial has failed in the end, the others are ok",
)
def driver_out_of_memory(here: Ground) -> None:
    eat = "import numpy; write(what='eat'); blocks = [numpy.ones(200 << 17) for _ in range(20)]"
    for _ in range(6):
        procs = cgroup(here, 700)
        enter = lambda: procs.write_text(str(os.getpid()))  # noqa: B023, E731
        victim = here.study(here.place / "a.db", trials=8, bad={"2": eat}, how={"preexec_fn": enter})
        code = victim.wait(60)
        here.undo.close()
        if code == 0:
            break
    failed_but(results(here.place / "a.db"), 2, 8)
    assert len(here.logged("eat")) <= 3, f"tried {len(here.logged('eat'))} times"


@attack("ulimit -n 40, 150 trials with two workers, and 150 with one", "the same numbers: no file is left open")
def few_files(here: Ground) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))  # noqa: E731
    for workers in (1, 2):
        here.log.write_text("")
        victim = here.study(
            here.place / f"{workers}.db", trials=150, pause=0.0, workers=workers, how={"preexec_fn": limit}
        )
        victim.done(90)
        audit(here, here.place / f"{workers}.db", trials=150)


@attack(
    "ulimit -n 12, ulimit -u 0 with workers", "the same numbers, or an error of luthier's own that says what is short"
)
def nothing_to_open(here: Ground) -> None:
    files = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))  # noqa: E731
    processes = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "prlimit", "--nproc=3"]
    (here.place / "w").mkdir()
    (here.place / "w").chmod(0o777)
    for number, (before, limit) in enumerate((([], files), (processes, None))):
        store = here.place / "w" / f"{number}.db"
        here.log.write_text("")
        victim = here.study(store, before=before, workers=2, how={"preexec_fn": limit}, outage=2, env={"HOME": None})
        if victim.wait(60):
            assert victim.ours, victim.text[-900:]
        else:
            audit(here, store)


@attack(
    "ulimit -t 3: the kernel ends the driver by SIGXCPU after 3 s of computing, again and again",
    "each start gets further; the same numbers",
)
def processor_time(here: Ground) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (3, 4))  # noqa: E731
    burn = "end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    for _ in range(8):
        victim = here.study(here.place / "a.db", pause=0.0, bad={"all": burn}, how={"preexec_fn": limit})
        if victim.wait(60) == 0:
            break
    audit(here, here.place / "a.db", begun=20)
