"""PB2 beside PBT and random search at the same number of members and steps, seed by seed.

    python benchmarks/pb2.py [--seeds 16] [--output benchmarks/results/pb2.json]

Three trainings whose answers are known (10 members, 90 steps, 9 rounds; log10 of the best loss) and one real one:
scikit-learn's digits on a small network (10 members, 20 epochs, 10 rounds; validation loss of the best member, and the
loss of the same member on the test split, which nothing was chosen by). What is in the output file already is not run
again, so that a run may be cut off.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import luthier as lt

METHODS = ("random", "pbt", "pb2")
MEMBERS, STEPS, ROUNDS, EPOCHS = 10, 90, 9, 20
RATE = lt.Space(lr=lt.Float(1e-5, 1e2, log=True))
MIXED = lt.Space(
    lr=lt.Float(1e-5, 1e2, log=True),
    momentum=lt.Float(0.0, 0.99),
    batch_size=lt.Int(8, 512, log=True),
    rule=lt.Choice(["plain", "clip", "sign", "norm"]),
)


def drift(config: dict, steps: int, state: tuple[float, int] | None) -> tuple[float, tuple[float, int]]:
    """A training whose best learning rate falls from 1 to 0.001 within 90 steps."""
    loss, age = state or (1.0, 0)
    for t in range(age, age + steps):
        loss *= 1 - 0.1 * math.exp(-2 * (math.log10(config["lr"]) + 3 * min(t / STEPS, 1)) ** 2)
    return loss, (loss, age + steps)


def decay(config: dict, steps: int, state: float | None) -> tuple[float, float]:
    """A training whose loss falls at each step, fastest for a learning rate of 0.1."""
    return lt.testing.problems.decay(config, steps, state)


def mixed(config: dict, steps: int, state: tuple[float, int] | None) -> tuple[float, tuple[float, int]]:
    """As drift, with a momentum that should rise, a batch size that should grow and an option that stays right."""
    loss, age = state or (1.0, 0)
    for t in range(age, age + steps):
        part = t / STEPS
        far = (math.log10(config["lr"]) + 3 * part) ** 2 + 4 * (config["momentum"] - part) ** 2
        far += 0.3 * (math.log2(config["batch_size"] / 16) - 4 * part) ** 2 + (config["rule"] != "norm")
        loss *= 1 - 0.1 * math.exp(-far)
    return loss, (loss, age + steps)


def method(name: str, rounds: int, mutate: list[str] | None = None) -> Any:
    """A method under its defaults; it moves all Floats, or the names given."""
    kind = lt.METHODS[name].load()
    return kind() if name == "random" else kind(rounds=rounds, mutate=mutate)


def toy(space: lt.Space, objective: Callable[..., Any], name: str, seed: int) -> dict[str, float]:
    budget = lt.Budget(trials=MEMBERS, steps=STEPS)
    history = lt.testing.simulate(method(name, ROUNDS, space.names), objective, space, budget, seed, stateful=True)
    return {"log10 loss": math.log10(float(history.values[history.best or 0, 0]))}


def digits(name: str, seed: int) -> dict[str, float]:
    task = Path(__file__).resolve().parents[1] / "examples" / "digits.py"
    study = lt.tune(
        task,
        method(name, 10),
        trials=MEMBERS,
        epochs=EPOCHS,
        seed=seed,
        progress=False,
    )
    assert study.best is not None
    return {"validation loss": study.best.metrics["loss"], "test loss": study.best.test["loss"]}


PROBLEMS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "drift": lambda name, seed: toy(RATE, drift, name, seed),
    "decay": lambda name, seed: toy(RATE, decay, name, seed),
    "mixed": lambda name, seed: toy(MIXED, mixed, name, seed),
    "digits": digits,
}


def summary(runs: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Mean and standard deviation of each measure on each problem, and how often pb2 was below."""
    rows: dict[str, Any] = {}
    for problem, found in runs.items():
        for measure in found["random"][0]:
            values = {name: [one[measure] for one in found[name]] for name in METHODS}
            row: dict[str, Any] = {
                name: {"mean": round(statistics.mean(v), 4), "sd": round(statistics.stdev(v), 4)}
                for name, v in values.items()
            }
            for other in ("random", "pbt"):
                wins = sum(a < b for a, b in zip(values["pb2"], values[other], strict=True))
                row[f"pb2 below {other}"] = f"{wins} of {len(values['pb2'])}"
            rows[f"{problem}, {measure}"] = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/pb2.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    runs = kept.get("runs") or {problem: {name: [] for name in METHODS} for problem in PROBLEMS}
    machine = lt.environment()
    for problem, run in PROBLEMS.items():
        for seed in range(len(runs[problem]["pb2"]), arguments.seeds):
            found = {name: run(name, seed) for name in METHODS}
            for name in METHODS:
                runs[problem][name].append({measure: round(value, 6) for measure, value in found[name].items()})
            print(problem, seed, found, flush=True)
            arguments.output.write_text(json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n")
    rows = summary(runs)
    print(json.dumps(rows, indent=1))
    arguments.output.write_text(json.dumps({"machine": machine, "rows": rows, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
