"""The fingerprint of a task's code: what changes it, and what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import luthier as lt
from luthier.task import as_task
from luthier.task.file import load_file
from luthier.task.fingerprint import fingerprint

SPACE = lt.Space(x=lt.Float(0, 1))
SCRIPT = '''
import functools, math
import luthier as lt

RATE = {rate}

def helper(value, power={power}):
    return value ** power

class Base:
    """{text}"""
    gain = {gain}

    @property
    def twice(self):
        return {twice} * self.gain

class Model(Base):
    def __call__(self, value):
        return helper(value) + self.twice

@functools.lru_cache
def cached():
    return {inner}

def objective(config):
    """{text}"""
    # {text}
    model = Model()
    rows = [row * RATE for row in range({rows})]
    return model(config["x"]) + math.pi + sum(rows) + cached()
'''
GIVEN: dict[str, Any] = {"rate": 1.0, "power": 2, "gain": 3, "twice": 2, "inner": 5, "rows": 4, "text": "as it was"}


def of(folder: Path, **changes: Any) -> str:
    file = folder / f"task_{len(list(folder.iterdir()))}" / "train.py"
    file.parent.mkdir()
    file.write_text(SCRIPT.format(**{**GIVEN, **changes}))
    return fingerprint(as_task(load_file(file).objective, SPACE))


@pytest.mark.parametrize("name", [name for name in GIVEN if name != "text"])
def test_every_part_of_the_code_counts(name: str, tmp_path: Path) -> None:
    before = of(tmp_path)
    assert before and of(tmp_path, **{name: GIVEN[name] + 7}) != before


def test_comments_places_and_processes_do_not_count(tmp_path: Path) -> None:
    before = of(tmp_path)
    assert of(tmp_path) == before == of(tmp_path, text="told in other words\n\n\n    #")
    code = (
        "import sys, luthier as lt\nfrom luthier.task import as_task\nfrom luthier.task.file import load_file\n"
        "from luthier.task.fingerprint import fingerprint\n"
        "print(fingerprint(as_task(load_file(sys.argv[1]).objective, lt.Space(x=lt.Float(0, 1)))))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "task_0" / "train.py")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == before


def test_what_a_run_changes_is_no_code() -> None:
    calls, count = [], 0

    def counted(config: dict[str, Any]) -> float:
        nonlocal count
        count += 1
        calls.append(config)
        return config["x"] * factor

    class Steps:
        def __init__(self, width: int) -> None:
            self.width, self.done = width, 0

        def init(self, config: dict[str, Any], key: int) -> int:
            self.done += 1
            return 0

        def advance(self, state: int, config: dict[str, Any], steps: int) -> Any:
            return state, {}

        def evaluate(self, state: int) -> dict[str, float]:
            return {"loss": 0.0}

    factor = 2.0
    task = as_task(counted, SPACE)
    before = fingerprint(task)
    counted({"x": 0.5})
    assert fingerprint(task) == before
    factor = 3.0
    assert fingerprint(task) != before, "what a closure holds is part of it"
    trainable = Steps(4)
    before = fingerprint(as_task(trainable, SPACE))
    trainable.init({}, 0)
    assert fingerprint(as_task(trainable, SPACE)) == before != fingerprint(as_task(Steps(5), SPACE))


def test_of_a_torch_task_every_part_counts() -> None:
    from torch import nn

    def network(width: int) -> Any:
        return lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))

    def task(**changes: Any) -> lt.TorchTask:
        given: dict[str, Any] = {
            "space": lt.Space(lr=lt.Float(0.1, 1.0)),
            "model": network(8),
            "data": lt.data.digits(train=64, valid=32, test=32),
            "loss": lt.losses.cross_entropy,
            "optimizer": lt.optim.SGD(momentum=0.9),
        }
        return lt.TorchTask(**{**given, **changes})

    before = fingerprint(task())
    changes: list[dict[str, Any]] = [
        {"model": network(9)},
        {"loss": lambda output, target: output.square().mean()},
        {"optimizer": lt.optim.SGD(momentum=0.8)},
        {"batch_size": 32},
        {"metrics": {"accuracy": lt.metrics.accuracy}},
    ]
    assert fingerprint(task()) == before
    assert len({before, *(fingerprint(task(**change)) for change in changes)}) == 1 + len(changes)
