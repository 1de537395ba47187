"""Where luthier is started: no stdin, no HOME, no place for temporary files, other locales, closed pipes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from .kit import APP, ROOT, Ground, attack, need
from .truth import audit, reference, results


@attack(
    "stdin, stdout and stderr closed (<&- >&- 2>&-), each alone and all, with one worker and with two",
    "the same numbers",
)
def closed_streams(here: Ground) -> None:
    broken = []
    for closing in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        for workers in (1, 2):
            store = here.place / f"{len(broken)}{workers}{abs(hash(closing))}.db"
            here.log.write_text("")
            victim = here.study(store, trials=6, workers=workers, before=["sh", "-c", f'exec "$@" {closing}', "sh"])
            code = victim.wait(40)
            try:
                assert code == 0, f"exit code {code}: {victim.text[-400:]}"
                audit(here, store, trials=6)
            except AssertionError as error:
                broken.append(f"{closing} with {workers}: {error}")
    assert not broken, "\n    ".join(["", *broken])


@attack(
    "luthier show, studies, export, methods, tune | head -1",
    "no traceback; the study of tune goes on to its end or is interrupted by name",
)
def broken_pipes(here: Ground) -> None:
    here.study(here.place / "a.db", trials=60, pause=0.0).done()
    python = f"{sys.executable} -c '{APP}'"
    for command in (
        f"show s --last 60 --store {here.place}/a.db",
        f"studies --store {here.place}/a.db",
        f"export s --store {here.place}/a.db",
        "methods",
    ):
        done = subprocess.run(
            ["bash", "-c", f"{python} {command} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, (
            f"{command}: {done.stderr[-500:]}"
        )
        assert done.returncode in (0, 1, -13, 141), f"{command}: exit code {done.returncode}"
    reader, writer = os.pipe()
    victim = here.study(here.place / "b.db", how={"stdout": writer})
    os.close(writer)
    here.until_ended(3, victim)
    os.close(reader)
    victim.wait(40)
    stood = results(here.place / "b.db")
    here.log.touch()
    here.study(here.place / "b.db").done()
    assert results(here.place / "b.db")[: len(stood)] == stood
    assert [row[:3] for row in results(here.place / "b.db")] == [row[:3] for row in reference()]


@attack(
    "env -i: no HOME, no PATH, no USER; HOME=/nonexistent; a user without an entry in /etc/passwd",
    "the same numbers",
)
def no_home(here: Ground) -> None:
    need("setpriv", root=True)
    (here.place / "w").mkdir()
    (here.place / "w").chmod(0o777)
    bare: dict[str, str | None] = dict.fromkeys(os.environ)
    stranger = ["/usr/bin/setpriv", "--reuid", "12345", "--regid", "54321", "--clear-groups"]
    for number, (env, before) in enumerate(
        (
            ({**bare, "PYTHONPATH": str(ROOT)}, []),
            ({"HOME": "/nonexistent"}, []),
            ({**bare, "PYTHONPATH": str(ROOT)}, stranger),
        )
    ):
        for workers in (1,) if before else (1, 2):  # a stranger may start no interpreter that lies in root's home
            store = here.place / "w" / f"{number}{workers}.db"
            here.log.write_text("")
            here.study(store, trials=6, workers=workers, env=env, before=before).done(40)
            audit(here, store, trials=6)


@attack(
    "a mount namespace in which /tmp, /var/tmp, /dev/shm and the working folder are read-only",
    "the same numbers, with one worker and with two; report and export too",
)
def no_temporary_files(here: Ground) -> None:
    need("unshare", "mount", root=True)
    disk = here.tmpfs("40m", "work")
    here.log = disk / "log.jsonl"
    here.log.touch()
    inner = Path("/mnt")
    read_only = "for d in /tmp /var/tmp /dev/shm; do mount --bind $d $d && mount -o remount,bind,ro $d; done"
    inside = f'mount --bind {disk} {inner}; {read_only}; cd /usr; exec "$@"'
    before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh"]
    for workers in (1, 2):
        here.log.write_text("")
        how = {"trials": 6, "workers": workers, "log": str(inner / "log.jsonl")}
        here.study(inner / f"{workers}.db", before=before, **how).done(40)
        audit(here, disk / f"{workers}.db", trials=6)
    for command in (["show", "s"], ["report", "s", "--output", inner / "r.html"], ["export", "s"]):
        said = here.start(*before, sys.executable, "-c", APP, *command, "--store", inner / "1.db")
        assert said.wait(40) == 0, f"{command[0]}: {said.text[-500:]}"


@attack(
    "LC_ALL=C, an unknown locale, PYTHONIOENCODING=ascii, COLUMNS=1, with a study, a path and an error in Greek",
    "the same numbers; show, export and report print or escape; a path that the locale cannot name is refused",
)
def plain_locale(here: Ground) -> None:
    store = here.place / "Ω.db"
    bad = {"2": "raise ValueError('Ωμέγα')"}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    here.study(store, name="Ωμέγα", env=ascii_only).refused(30, "UTF-8")
    here.log.write_text("")
    here.study(store, name="Ωμέγα", bad=bad, env={"LC_ALL": "C"}).done()
    stood = results(store, "Ωμέγα")
    assert [row[:3] for row in stood if row[0] != 2] == [row[:3] for row in reference() if row[0] != 2]
    for env in (
        {"LC_ALL": "C"},
        {"LC_ALL": "xx_YY.foo"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C.UTF-8", "COLUMNS": "1", "TERM": "dumb"},
        {"COLUMNS": "0", "NO_COLOR": "1"},
    ):
        for command in (
            ["show", "Ωμέγα"],
            ["studies"],
            ["export", "Ωμέγα"],
            ["report", "Ωμέγα", "--output", here.place / "ρ.html"],
            ["methods"],
        ):
            where = [] if command == ["methods"] else ["--store", store]
            said = here.luthier(*command, *where, env=env)
            assert said.popen.returncode == 0 and "Traceback" not in said.text, (
                f"{env} {command[0]}: {said.text[-500:]}"
            )


@attack(
    "python -O, -OO, -W error, -X dev, PYTHONMALLOC=debug",
    "the same numbers",
)
def other_interpreters(here: Ground) -> None:
    for number, env in enumerate(
        (
            {"PYTHONOPTIMIZE": "1"},
            {"PYTHONOPTIMIZE": "2"},
            {"PYTHONWARNINGS": "error"},
            {"PYTHONDEVMODE": "1"},
            {"PYTHONMALLOC": "debug", "PYTHONHASHSEED": "7"},
        )
    ):
        for workers in (1, 2):
            here.log.write_text("")
            store = here.place / f"{number}{workers}.db"
            try:
                here.study(store, trials=6, workers=workers, env=env).done(60)
            except AssertionError as error:
                raise AssertionError(f"{env}, {workers} workers: {error}") from None
            audit(here, store, trials=6)


@attack(
    "the working folder is removed before the start (cd d; rmdir d)",
    "the same numbers",
)
def no_working_folder(here: Ground) -> None:
    for workers in (1, 2):
        here.log.write_text("")
        folder = here.place / f"gone{workers}"
        folder.mkdir()
        before = ["sh", "-c", f'cd {folder} && rmdir {folder} && exec "$@"', "sh"]
        here.study(here.place / f"{workers}.db", trials=6, workers=workers, before=before).done(40)
        audit(here, here.place / f"{workers}.db", trials=6)


@attack(
    "started under nohup, with SIGINT, SIGTERM, SIGHUP and SIGCHLD ignored or blocked by the parent",
    "the same numbers; a SIGTERM that is not ignored still ends it",
)
def inherited_signals(here: Ground) -> None:
    ignored = [signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]

    def inherit() -> None:
        for which in ignored:
            signal.signal(which, signal.SIG_IGN)

    for workers in (1, 2):
        here.log.write_text("")
        here.study(here.place / f"{workers}.db", trials=6, workers=workers, how={"preexec_fn": inherit}).done(40)
        audit(here, here.place / f"{workers}.db", trials=6)
    here.log.write_text("")
    victim = here.study(here.place / "t.db", trials=50, workers=2, before=["nohup"])
    here.until_ended(4, victim)
    victim.signal(signal.SIGHUP)
    victim.signal(signal.SIGTERM)
    victim.wait(15)
    here.study(here.place / "t.db", trials=50, pause=0.0).done()
    audit(here, here.place / "t.db", trials=50)


@attack(
    "no /proc at all (a mount namespace with an empty folder over it)",
    "the same numbers with two drivers; a killed driver's job comes back when its lease ends",
)
def no_proc(here: Ground) -> None:
    need("unshare", "mount", root=True)
    inside = 'mount -t tmpfs none /proc; exec "$@"'
    before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh"]
    how = {"trials": 20, "pause": 0.1, "lease": 6, "before": before}
    first = here.study(here.place / "a.db", **how)
    second = here.study(here.place / "a.db", workers=2, **how)
    here.until_ended(5)
    first.kill()
    second.done(60)
    audit(here, here.place / "a.db", trials=20, begun=21)
