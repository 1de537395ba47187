"""The same training for three tools: luthier's is nowhere longer than the shorter of the others, and each one runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PORTS = ROOT / "examples" / "ports"
PROGRAMS = ("loop", "sklearn", "trainable", "resume", "start")
# Ray Tune may live in an environment of its own: pip install "ray[tune]" torch scikit-learn optuna.
PYTHONS = {"optuna": sys.executable, "ray": os.environ.get("LUTHIER_TEST_RAY_TUNE", sys.executable)}
TOOLS = {"luthier": "luthier", "optuna": "optuna", "ray": "ray.tune"}


def length(file: Path) -> int:
    return sum(1 for line in file.read_text().splitlines() if line.strip())


def run(file: Path, folder: Path, python: str = sys.executable) -> float:
    """The best value that a program prints."""
    with tempfile.TemporaryDirectory(
        prefix="ray"
    ) as own:  # a short path, for sockets; no cluster that runs here already
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": own}
        done = subprocess.run([python, file], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"best ([-\d.e]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_is_longer_than_the_shorter_of_the_others(program: str) -> None:
    lengths = {
        tool: length(PORTS / f"{program}_{tool}.py") for tool in TOOLS if (PORTS / f"{program}_{tool}.py").exists()
    }
    assert lengths.pop("luthier") <= min(lengths.values())
    row = next(line for line in (PORTS / "README.md").read_text().splitlines() if f"(`{program}`)" in line)
    told = [cell.strip() for cell in row.strip("|").split("|")[1:]]
    expected = [PORTS / f"{program}_{tool}.py" for tool in TOOLS]
    assert told == [str(length(file)) if file.exists() else "" for file in expected]


@pytest.mark.parametrize("program", PROGRAMS)
def test_ours_run_and_run_again(program: str, tmp_path: Path) -> None:
    first = run(PORTS / f"{program}_luthier.py", tmp_path)
    assert first > 0.4 or program in ("resume", "start")
    if program == "resume":
        assert run(PORTS / f"{program}_luthier.py", tmp_path) == first < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["optuna", "ray"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_others_run(program: str, tool: str, tmp_path: Path) -> None:
    file = PORTS / f"{program}_{tool}.py"
    if not file.exists():
        pytest.skip(f"{tool} has no such program")
    python = PYTHONS[tool]
    there = subprocess.run([python, "-c", f"import {TOOLS[tool]}"], capture_output=True, text=True)
    if there.returncode:
        pytest.skip(f"{TOOLS[tool]} is not installed: {there.stderr.splitlines()[-1]}")
    run(file, tmp_path, python)
