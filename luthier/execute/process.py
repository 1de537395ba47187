"""The driver's side of one worker process: its start, its connection, its end."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import final

from luthier.errors import ExecutionError
from luthier.execute.worker import Stop, Train
from luthier.jobs import Job, Report

TOLD = tuple(int(getattr(signal, name)) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

# The worker does not import the user's __main__, so scripts need no guard. -P keeps the working directory off the path.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path.insert(0, sys.argv[1]); "
    "from luthier.execute.worker import main; main(int(sys.argv[2]))"
)


@final
class Process:
    """The driver's side of one worker process.

    Args:
        slot: Its place among the workers.
        device: The device that it trains on, where the workers have each their own.
        threads: Threads that a training may use.

    Raises:
        ExecutionError: If it cannot be started.
    """

    def __init__(self, slot: int = 0, device: str | None = None, threads: int = 1) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise ExecutionError(
                f"worker processes are not supported on {sys.platform}", where="Local", remedy="Use workers=1."
            )
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-P", "-c", _START, root, str(theirs.fileno())]
        pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment = {**os.environ, **pools}
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment
            )
        except OSError as error:
            ours.close()
            raise ExecutionError(
                f"a worker process cannot be started: {error}", where="Local", remedy="Use workers=1."
            ) from error
        finally:
            theirs.close()
        self.connection = Connection(ours.detach())
        self.slot, self.device = slot, device
        self.ready = False  # it has its work and no chunk
        self.loaded = False  # it has its work
        self.gone = False
        self.left: dict[int, Job] = {}  # jobs of its chunk that have not ended
        self.asked: set[int] = set()  # those of them that were asked to stop
        self.latest: dict[int, Report] = {}  # the last report of each job of its chunk
        self.begun = time.monotonic()
        self.until: float | None = None  # when it has to be through with its chunk
        self.overdue = False  # it was not, and has been killed

    def train(self, message: Train, seconds: float | None) -> None:
        """Give it a chunk that may take so many seconds."""
        self.ready, self.begun = False, time.monotonic()
        self.until = None if seconds is None else self.begun + seconds
        self.left = {job.number: job for job in message.jobs}
        self.asked, self.latest = set(), {}
        self.send(message)

    def check_time(self) -> None:
        """Kill it where it is not through with its chunk in time: it hangs, or it would have ended by itself."""
        if self.until is not None and self.left and time.monotonic() > self.until and not self.overdue:
            self.overdue = True
            self.process.kill()

    def stop(self, numbers: set[int]) -> None:
        """Ask those of its jobs that are among ``numbers`` to stop, each once."""
        new = (numbers & self.left.keys()) - self.asked
        if new:
            self.asked |= new
            self.send(Stop(new))

    def said(self) -> Iterator[object]:
        """The messages that have come; sets ``gone`` where it has died and there are no more."""
        try:
            while self.connection.poll():
                yield pickle.loads(self.connection.recv_bytes())
            self.gone = self.process.poll() is not None and not self.connection.poll()
        except (EOFError, OSError):
            self.gone = True

    def send(self, message: object) -> None:
        """Send a message; a dead worker is noticed when it is listened to."""
        self.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    def send_bytes(self, data: bytes) -> None:
        """Send a message that is pickled already."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(data)

    def obituary(self) -> tuple[str, bool]:
        """Reap the process; return how it ended, as the end of a sentence, and whether it was told to."""
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:  # its connection is closed and it lives: nothing can be made of it
            self.process.kill()
            code = self.process.wait()
        self.connection.close()
        signals = {number.value: number.name for number in signal.Signals}
        told = abs(code) % 128 in TOLD and (code < 0 or code > 128)
        if code < 0:
            return f"{self.process.pid} was killed by {signals.get(-code, f'signal {-code}')}", told
        return f"{self.process.pid} ended with exit code {code}", told

    def end(self, wait: bool) -> None:
        """Ask it to end, or kill it."""
        if wait:
            self.send(None)
        else:
            self.process.kill()

    def reap(self, seconds: float, kill: bool) -> None:
        """Wait for its end; past ``seconds`` it is told with a signal."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            (self.process.kill if kill else self.process.terminate)()
            if kill:
                self.process.wait()
        if self.process.returncode is not None and not self.connection.closed:
            self.connection.close()
