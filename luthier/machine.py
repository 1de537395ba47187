"""The environment of a run: versions, processor, commit. Studies and result files carry it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

PACKAGES = ("luthier", "torch", "numpy", "scipy")


def environment(*packages: str, folder: str | Path | None = None) -> dict[str, str | int]:
    """Versions and hardware that the numbers of a run may depend on.

    Args:
        packages: Further distributions whose versions are wanted; those that are not installed are left out.
        folder: Folder whose git commit is read, the working directory by default.

    Returns:
        JSON values: ``python``, the version of each package, ``system``, ``processor``, ``cores`` that this process
        may use; ``capability``, the instruction set that torch runs, once torch is imported; ``commit`` inside a git
        checkout, with a ``+`` where tracked files were changed.

    Examples:
        >>> from luthier import environment
        >>> sorted({"python", "luthier", "processor", "cores"} - set(environment()))
        []
    """
    told: dict[str, str | int] = {"python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            told[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    told["system"] = f"{platform.system()} {platform.machine()}"
    told["processor"] = _processor()
    told["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch = sys.modules.get("torch")  # importing it takes a second, which a study of functions need not spend
    if torch is not None:
        told["capability"] = torch.backends.cpu.get_cpu_capability()
    commit = _commit(Path(folder or "."))
    return {**told, "commit": commit} if commit else told


def _processor() -> str:
    """The processor's own name with family and model, which the name alone often hides on rented machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    first: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        first.setdefault(name.strip(), value.strip())
    if "model name" not in first:
        return platform.processor() or platform.machine()
    return f"{first['model name']} (family {first.get('cpu family', '?')}, model {first.get('model', '?')})"


def _commit(folder: Path) -> str:
    """The commit of the checkout around a folder, or nothing."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
