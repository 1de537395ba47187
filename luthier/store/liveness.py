"""Identity and liveness of processes on this machine, so that a dead driver's jobs can be taken over at once."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, told apart from a later one that was given the same id.

    Args:
        host: Machine, boot and process-id namespace: ids are only compared where they mean the same.
        pid: Process id.
        started: Time at which it started, in the kernel's own units; "" where the system does not tell.
    """

    host: str
    pid: int
    started: str

    @property
    def dead(self) -> bool:
        """True if the system says that the process has certainly ended; False where this machine cannot know.

        A process that is not seen may be another user's, hidden from us (proc(5), hidepid): only ESRCH is a death, or a
        start that is seen and is another's.
        """
        if self.host != _host() or (sys.platform == "linux" and "/" not in self.host):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # EPERM: it lives, and is another user's
            pass
        seen = _seen(self.pid)
        return seen is not None and (seen.state in "ZX" or (bool(self.started) and seen.started != self.started))


def this_process() -> ProcessIdentity:
    """The process that asks."""
    pid = os.getpid()
    seen = _seen(pid)
    return ProcessIdentity(_host(), pid, "" if seen is None else seen.started)


@cache
def _host() -> str:
    parts = [socket.gethostname()]
    try:  # two containers may share a name and a disk, but not process ids
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        pass
    return "/".join(parts)


class _Seen(NamedTuple):
    state: str
    started: str


def _seen(pid: int) -> _Seen | None:
    """State and start time of a process by proc(5), or None where it cannot be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return _Seen(fields[0], fields[19])
