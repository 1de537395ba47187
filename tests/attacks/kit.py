"""What attacks are made of: a register of them, the place where one runs, and the processes under attack."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VICTIM = Path(__file__).with_name("victim.py")
PATIENCE = float(os.environ.get("ATTACKS_PATIENCE", "3"))  # times the seconds that an idle machine would need
APP = "from luthier.cli import app; app()"


class CannotRunError(Exception):
    """The attack needs a right or a tool that is not here."""


@dataclass(frozen=True)
class Attack:
    """One attack: its family and name, how it is made, what a user would expect, and the function that does it."""

    family: str
    name: str
    made: str
    expects: str
    run: Callable[["Ground"], None]


ATTACKS: dict[str, Attack] = {}


def attack(made: str, expects: str) -> Callable[[Callable[["Ground"], None]], Callable[["Ground"], None]]:
    """Register a function as an attack."""

    def register(function: Callable[["Ground"], None]) -> Callable[["Ground"], None]:
        name = function.__name__.strip("_")
        family = function.__module__.rpartition(".")[2]
        assert name not in ATTACKS, name
        ATTACKS[name] = Attack(family, name, made, expects, function)
        return function

    return register


def need(*tools: str, root: bool = False) -> None:
    """Say that the attack cannot run here where a tool is missing or the user is not root."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise CannotRunError(f"needs {', '.join(missing)}")
    if root and os.geteuid() != 0:
        raise CannotRunError("needs root")


def shell(*command: Any, check: bool = True, timeout: float = 60, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a tool of the system and return what it said."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", timeout=timeout, **how
    )
    if check and done.returncode:
        raise CannotRunError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done


def until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "") -> None:
    """Wait until a condition holds; that it never does is a failure."""
    end = time.monotonic() + PATIENCE * seconds
    while not condition():
        assert time.monotonic() < end, f"{what or 'what was waited for'} did not happen within {seconds:.0f} s"
        time.sleep(0.02)


class Process:
    """A process of its own session, with all that it says in one file."""

    def __init__(self, command: Sequence[Any], said: Path, env: Mapping[str, str | None], **how: Any) -> None:
        whole = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for key, value in env.items():
            whole.pop(key, None)
            if value is not None:
                whole[key] = value
        self.said = said
        how.setdefault("stdin", subprocess.DEVNULL)
        how.setdefault("cwd", "/")
        with said.open("wb") as file:
            how.setdefault("stdout", file)
            self.popen = subprocess.Popen(
                [str(part) for part in command], stderr=file, start_new_session=True, env=whole, **how
            )

    @property
    def text(self) -> str:
        return self.said.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for the process and all that it has started in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def wait(self, seconds: float = 60.0) -> int:
        """The exit code; a process that does not end has failed its user."""
        try:
            return self.popen.wait(PATIENCE * seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"a process had not ended after {seconds:.0f} s; it said: {self.text[-600:]}"
            ) from None

    @property
    def ours(self) -> bool:
        """True if what it ended with is an error of luthier's own and no stranger's."""
        return "Traceback" not in self.text or bool(re.search(r"^luthier\.[\w.]+: ", self.text, re.MULTILINE))

    def done(self, seconds: float = 60.0) -> "Process":
        """Check that the process ends with all done."""
        code = self.wait(seconds)
        assert code == 0 and "LEFT IN GOOD ORDER" in self.text, f"exit code {code}: {self.text[-900:]}"
        return self

    def refused(self, seconds: float = 60.0, *words: str) -> "Process":
        """Check that the process ends with an error of luthier's own, which has these words."""
        code = self.wait(seconds)
        assert code != 0, f"it ended as if all were well: {self.text[-600:]}"
        assert code > 0, f"signal {-code}: {self.text[-600:]}"
        assert self.ours, f"not luthier's own error: {self.text[-900:]}"
        for word in words:
            assert word.lower() in self.text.lower(), f"no word of {word!r}: {self.text[-900:]}"
        return self


@dataclass
class Ground:
    """The place of one attack: a folder, and what has to be undone after it."""

    place: Path
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    counter: int = 0

    def __post_init__(self) -> None:
        self.log = self.place / "log.jsonl"
        self.log.touch()
        self.log.chmod(0o666)
        self.place.chmod(0o755)

    def start(self, *command: Any, env: Mapping[str, str | None] | None = None, **how: Any) -> Process:
        """Start a process that ends with the attack at the latest."""
        self.counter += 1
        process = Process(command, self.place / f"said-{self.counter}.txt", env or {}, **how)
        self.undo.callback(process.kill)
        return process

    def study(
        self,
        store: Path | str,
        *,
        before: Sequence[Any] = (),
        env: Mapping[str, str | None] | None = None,
        how: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> Process:
        """Start the victim on a store; ``before`` stands before Python, as in ``faketime +1h python …``."""
        spec = {"store": str(store), "log": str(self.log), **spec}
        return self.start(*before, sys.executable, VICTIM, json.dumps(spec), env=env, **(how or {}))

    def luthier(self, *arguments: Any, seconds: float = 60.0, env: Any = None, **how: Any) -> Process:
        """Run the command line to its end."""
        process = self.start(sys.executable, "-c", APP, *arguments, env=env, **how)
        process.wait(seconds)
        return process

    def tmpfs(self, size: str, name: str = "small", options: str = "") -> Path:
        """A real file system of a few kB or MB."""
        need("mount", root=True)
        folder = self.place / name
        folder.mkdir()
        shell("mount", "-t", "tmpfs", "-o", f"size={size},mode=777{options}", "luthier-attack", folder)
        self.undo.callback(lambda: shell("umount", "-l", folder, check=False))
        return folder

    def logged(self, what: str = "end", **match: Any) -> list[dict[str, Any]]:
        """What the objective's own log says."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["what"] == what and all(line[key] == match[key] for key in match)]

    def until_ended(self, count: int, process: Process | None = None, seconds: float = 40.0) -> None:
        """Wait until so many trainings have ended."""

        def enough() -> bool:
            if process is not None and not process.running and len(self.logged()) < count:
                raise AssertionError(f"the victim ended early: {process.text[-900:]}")
            return len(self.logged()) >= count

        until(enough, seconds, f"the end of {count} trainings")


def fill(folder: Path, leave: int = 0) -> Path:
    """Write a file until nothing more fits, then give back as many bytes as are to be left."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 512, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return path


@contextlib.contextmanager
def ground(name: str) -> Iterator[Ground]:
    """A fresh folder for an attack, of which nothing is left."""
    place = Path(tempfile.mkdtemp(prefix=f"luthier-attack-{name[:30]}-", dir=os.environ.get("ATTACKS_TMP")))
    here = Ground(place)
    try:
        yield here
    finally:
        here.undo.close()
        if not os.environ.get("ATTACKS_KEEP"):
            shutil.rmtree(place, ignore_errors=True)


ONE_AT_A_TIME = threading.RLock()
"""Held by attacks that use the one PostgreSQL server, which some of them stop."""
