"""Every example file runs: its task is tuned for a moment, through the public interface."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from requirements import require

import luthier as lt

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NEEDS = {"enas.py": "fashion-mnist", "fashion_mnist.py": "fashion-mnist"}


def defines_task(file: Path) -> bool:
    targets = [node.targets for node in ast.parse(file.read_text()).body if isinstance(node, ast.Assign)]
    return any(isinstance(name, ast.Name) and name.id == "task" for names in targets for name in names)


TASKS = sorted(file.name for file in EXAMPLES.glob("*.py") if defines_task(file))


def test_there_are_examples():
    assert {"fashion_mnist.py", "digits.py"} <= set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_task_is_tuned(name):
    if name in NEEDS:
        require(NEEDS[name])
    study = lt.tune(EXAMPLES / name, method="random", trials=4, steps=50, seed=0, progress=False)
    assert len(study.trials) == 4 and study.best is not None
    assert study.best.metrics["accuracy"] > 0.15  # ten classes: guessing gives 0.10
