"""Trainings under each adapter, killed with SIGKILL and resumed: they end as if nothing had been, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from luthier.study.study import Study

ROOT = Path(__file__).parents[1]
ADAPTERS = {  # a row for each adapter: how to make one, in the driver
    "hypergradient": "lt.adapt.Hypergradient()",
    "implicit": "lt.adapt.Bilevel(lt.response.implicit, inner_steps=4, settings={'iterations': 3})",
    "unrolled": "lt.adapt.Bilevel(lt.response.unrolled, inner_steps=4)",
    "hypernet": "lt.adapt.Hypernet()",
}
KILLS = (3, 8)  # measurements of a process until it is killed
DRIVER = """
import sys

import torch

import luthier as lt
from luthier.testing.adapters import digits_task
from luthier.train import stack

torch.set_num_threads(1)
stack.PARTIAL_SECONDS = 0.0  # save at each measurement, as one that takes half a minute would
stack.stack_width = lambda program, adapter, state, members: members
method = (lt.propose.Random(), eval(sys.argv[2]))
lt.tune(digits_task(evaluate_every=0.3), method, trials=2, epochs=6, store=sys.argv[1], name="killed", seed=3)
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system"),
]


def start(folder: Path, adapter: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A driver at work, and the file with what it says: a line a measurement."""
    script, said = folder / "driver.py", folder / f"said-{len(list(folder.glob('said-*')))}.txt"
    script.write_text(DRIVER)
    with said.open("wb") as stream:
        command = [sys.executable, str(script), str(folder / "study.db"), adapter]
        return subprocess.Popen(command, stderr=stream, env={**os.environ, "PYTHONPATH": str(ROOT)}), said


def finish(folder: Path, adapter: str) -> None:
    driver, said = start(folder, adapter)
    assert driver.wait(timeout=300) == 0, said.read_text()


def kill(folder: Path, adapter: str, measurements: int) -> None:
    driver, said = start(folder, adapter)
    while driver.poll() is None and said.read_text().count(" · step ") < measurements:
        time.sleep(0.01)
    assert driver.poll() is None, f"it ended before it was killed: {said.read_text()}"
    driver.kill()
    assert driver.wait() == -signal.SIGKILL


def ended(folder: Path) -> tuple[Any, list[Any]]:
    """What was recorded, and the tensors of the best training at its end."""
    study = Study.load("killed", folder / "study.db")
    history = study.history
    recorded = [
        (result.status, dict(result.metrics), dict(result.final), list(history.reports[result.number]))
        for result in history.results
        if result is not None
    ]
    best = study.best.result.checkpoint
    state = study._ledger.checkpoints.load(best[0])[0]
    return recorded, [leaf[best[1]] for leaf in pytree.tree_leaves(state)]


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_killed_twice_it_ends_as_if_it_had_not_been(adapter: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    finish(whole, adapter)
    for measurements in KILLS:
        kill(cut, adapter, measurements)
    finish(cut, adapter)
    (expected, tensors), (found, others) = ended(whole), ended(cut)
    assert len(expected) == 2 and all(len(reports) > sum(KILLS) for *_, reports in expected)
    assert found == expected
    assert len(tensors) == len(others) and all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
