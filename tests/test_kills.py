"""A few kills and SIGTERMs for each of seven methods, and drivers that share a study; the command does twenty each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_studies import CASES

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL") or not hasattr(os, "fork"), reason="no SIGKILL on this system"),
]


def said(tmp_path: Path, *arguments: str) -> list[str]:
    """What the command prints."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "LUTHIER_CHECKPOINTS": str(tmp_path)}
    command = [sys.executable, str(HERE / "kills.py"), *arguments]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()


@pytest.mark.parametrize("name", ["KILL", "TERM"])
def test_what_is_ended_on_the_way_ends_the_same(name: str, tmp_path: Path) -> None:
    lines = said(tmp_path, "--kills", "3", "--signals", name, "--drivers")
    assert len(lines) == len(CASES) and all("the same to the bit" in line for line in lines)


def test_drivers_that_are_killed_count_each_trial_once(tmp_path: Path) -> None:
    lines = said(tmp_path, "--kills", "3", "--methods", "random", "--signals", "KILL", "--drivers", "1", "3", "5")
    assert sum("every trial exactly once" in line for line in lines) == (
        6 if "LUTHIER_TEST_POSTGRES" in os.environ else 3
    )
