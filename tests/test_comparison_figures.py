"""What benchmarks/comparison.py says of its runs: ranks with intervals, and what was there at equal CPU time."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "comparison.py"
SPEC = importlib.util.spec_from_file_location("comparison", FILE)
assert SPEC is not None and SPEC.loader is not None
comparison = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(comparison)


def row(method: str, seed: int, course: list[list[float]], cpu: float = 1.0, task: str = "mlp") -> dict[str, Any]:
    return {"task": task, "method": method, "seed": seed, "course": course, "valid": course[-1][2], "cpu": cpu}


def test_ranks_are_means_over_blocks_and_their_interval_covers_the_seeds() -> None:
    rows = [row("a", seed, [[1, 0.1, value]]) for seed, value in enumerate([1.0, 1.0, 3.0])]
    rows += [row("b", seed, [[1, 0.1, 2.0]]) for seed in range(3)]
    rows += [row("a", 9, [[1, 0.1, 0.0]])]  # a block without b
    found = comparison.ranks(rows, "method", lambda block: [one["valid"] for one in block])
    assert found["a"] == {"rank": 1.33, "low": 1.0, "high": 2.0} and found["b"]["rank"] == 1.67
    few = comparison.ranks(rows[:2] + rows[3:5], "method", lambda block: [one["valid"] for one in block])
    assert few["a"] == {"rank": 1.0, "low": 1.0, "high": 1.0}


def test_equal_cpu_time_is_that_of_random_search() -> None:
    slow = row("slow", 0, [[1, 0.5, 3.0], [2, 1.5, 2.0], [3, 4.0, 0.5]], cpu=4.0)
    late = row("late", 0, [[1, 2.5, 0.1]], cpu=2.5)
    block = [row("random", 0, [[1, 1.0, 2.5], [9, 2.0, 1.0]], cpu=2.0), slow, late]
    assert comparison.at_equal_cpu(block) == [1.0, 2.0, float("inf")]


def test_the_committed_summary_is_of_the_committed_runs() -> None:
    kept = json.loads(comparison.OUT.read_text())
    split = json.loads(comparison.SPLIT_FILE.read_text())
    assert not set(split["choosing"]) & set(split["reporting"])
    rows = kept["reporting"]
    assert json.loads(json.dumps(comparison.summary(rows))) == kept["summary"]
    blocks = {(row["task"], row["method"], row["seed"]) for row in rows}
    assert len(blocks) == len(rows) == len(comparison.STEPS) * len(comparison.ARMS) * len(split["reporting"])
    assert {row["seed"] for row in rows} == set(split["reporting"])
    assert all(row["arm"] == split["arms"][row["method"]] for row in rows)
    budgets = {name: comparison.TRIALS * steps for name, steps in comparison.STEPS.items()}
    spent = np.array([row["steps"] / budgets[row["task"]] for row in rows])
    assert spent.max() <= 1.0 and spent.min() > 0.75  # rungs leave a rest, and what diverges ends


@pytest.mark.parametrize("method", ["gp", "hyperband"])
def test_the_arm_with_the_better_rank_is_chosen(method: str) -> None:
    first, second = comparison.ARMS[method]
    rows = [row(method, 0, [[1, 0.1, value]]) | {"arm": arm} for arm, value in ((first, 2.0), (second, 1.0))]
    assert comparison.choose(rows)[method] == second and comparison.choose([])[method] == first


def test_every_arm_was_tried_on_every_training_and_seed_for_choosing() -> None:
    rows, split = json.loads(comparison.OUT.read_text())["choosing"], json.loads(comparison.SPLIT_FILE.read_text())
    tried = {(row["method"], row["arm"], row["task"], row["seed"]) for row in rows}
    several = {method: arms for method, arms in comparison.ARMS.items() if len(arms) > 1}
    places = [(name, seed) for name in comparison.STEPS for seed in split["choosing"]]
    assert tried == {(method, arm, *place) for method, arms in several.items() for arm in arms for place in places}
    assert len(tried) == len(rows) and split["arms"] == comparison.choose(rows)
