"""Trainings under adapters, and with what others wrote, killed by SIGKILL and resumed, bit for bit as if never cut."""

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
RATE = "'space': lt.Space(lr=lt.Float(1e-3, 0.05, log=True), dropout=lt.Float(0.0, 0.6))"
TRAININGS = {  # plain trainings with what others wrote: the settings of the task, in the driver
    "AdamW, OneCycle, average, best": f"{{{RATE}, 'optimizer': torch.optim.AdamW, 'average': 0.9, 'keep': 'best', "
    "'scheduler': lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=400)}",
    "schedule-free over a loader": f"{{{RATE}, 'optimizer': schedulefree.AdamWScheduleFree, 'data': noisy(), "
    "'accumulate': 2, 'clip_norm': 1.0}",
}
KILLS = (3, 8)  # measurements of a process until it is killed
DRIVER = """
import sys
import time

import schedulefree
import torch
from torch.utils.data import DataLoader

import luthier as lt
from luthier.testing.adapters import digits_task
from luthier.train import stack

torch.set_num_threads(1)
stack.PARTIAL_SECONDS = 0.0  # save at each measurement, as one that takes half a minute would
stack.stack_width = lambda program, adapter, state, members: members



class Noisy(torch.utils.data.Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        return self.split.inputs[i] + 0.1 * torch.rand(()), self.split.targets[i]


def noisy():
    digits = lt.data.digits()
    return lt.Splits(DataLoader(Noisy(digits.train), 32, shuffle=True), digits.valid)


given = eval(sys.argv[2])


def slow(output, target):  # or it would end before it is killed; it says itself that it has come so far
    time.sleep(0.05)
    print(" · step ", file=sys.stderr, flush=True)
    return output.argmax(1).eq(target).double().mean()


settings, adapter = ({**given, "metrics": {"accuracy": slow}}, None) if isinstance(given, dict) else ({}, given)
method = lt.propose.Random() if adapter is None else (lt.propose.Random(), adapter)
task = digits_task(evaluate_every=0.3, **settings)
lt.tune(task, method, trials=2, epochs=6, store=sys.argv[1], name="killed", seed=3)
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


@pytest.mark.parametrize("adapter", [*ADAPTERS.values(), *TRAININGS.values()], ids=[*ADAPTERS, *TRAININGS])
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
