"""Processes of this machine: their start, their connection, their end; and the driver's side of a worker."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import final

from luthier.errors import ExecutionError
from luthier.execute.desk import Hand
from luthier.execute.worker import Stop, Train

TOLD = (signal.SIGTERM, signal.SIGHUP)

# The user's __main__ is not imported, so scripts need no guard. -P keeps the working directory off the path.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path.insert(0, sys.argv[1]); "
    "from luthier.execute.{module} import main; main(int(sys.argv[2]))"
)


def launch(module: str, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that runs ``main`` of a module beside this one, and return it with our end of its connection.

    Ctrl-C is the parent's, which then ends its processes.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-c", _START.format(module=module), str(Path(__file__).resolve().parents[2])]
    try:
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, Connection(ours.detach())


def ending(code: int) -> str:
    """Return how a process ended, as the end of a sentence."""
    if code >= 0:
        return f"ended with exit code {code}"
    signals = {number.value: number.name for number in signal.Signals}
    return f"was killed by {signals.get(-code, f'signal {-code}')}"


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
        pools: dict[str, str] = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
        )
        try:
            self.process, self.connection = launch("worker", pools)
        except OSError as error:
            raise ExecutionError(
                f"a worker process cannot be started: {error}", where="Local", remedy="Use workers=1."
            ) from error
        self.slot, self.device = slot, device
        self.ready = False  # it has its work and no chunk
        self.loaded = False  # it has its work
        self.gone = False
        self.hand = Hand()
        self.overdue = False  # it was not, and has been killed

    def train(self, chunk: Train | None) -> None:
        """Send it the chunk that it was handed, if there was one."""
        if chunk is not None:
            self.ready = False
            self.send(chunk)

    def check_time(self) -> None:
        """Kill it where it is not through with its chunk in time."""
        if self.hand.late and not self.overdue:
            self.overdue = True
            self.process.kill()

    def stop(self, numbers: set[int]) -> None:
        """Ask those of its jobs that are among ``numbers`` to stop, each once."""
        if new := self.hand.ask(numbers):
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
        told = abs(code) % 128 in TOLD and (code < 0 or code > 128)
        return f"{self.process.pid} {ending(code)}", told

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
