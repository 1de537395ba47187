"""Who runs on this machine, and whether it still does: what lets a dead driver's jobs be taken over at once."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process, told apart from a later one that was given the same id.

    Args:
        host: Machine, boot and process-id namespace: ids are only compared where they mean the same.
        pid: Process id.
        started: When it started, in the kernel's own units; "" where the system does not tell.
    """

    host: str
    pid: int
    started: str

    @property
    def dead(self) -> bool:
        """Whether the process certainly has ended; False where this machine cannot know."""
        if self.host != _host() or os.name != "posix":
            return False
        if Path("/proc/self/stat").exists():
            return _started(self.pid) != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(_host(), pid, _started(pid) or "")


@cache
def _host() -> str:
    parts = [socket.gethostname()]
    try:  # two containers may share a name and a disk, but not process ids
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        pass
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """Start time of a process by proc(5), or None if it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    state, start = fields[0], fields[19]
    return None if state in "ZX" else start
