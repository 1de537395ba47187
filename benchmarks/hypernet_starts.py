"""Penalties from starts over six decades: where one training ends that moves them, and where it ends untouched.

    python benchmarks/hypernet_starts.py                 # what the results do not have yet
    python benchmarks/hypernet_starts.py --part choosing --methods Hypernet

100 images of Fashion-MNIST, few enough to overfit; a linear network onto the ten classes from zero, Adam at 1e-3, 2,000
steps of the whole batch, one L2 penalty a class, or one a weight and bias, 7,850 in all. Rows: no tuning, `Hypernet`,
the same as published in 2018 but for the centred input (descending by Adam, ungated), and `Bilevel("implicit")` from
each start; `Random` and `GaussianProcess` over one penalty shared by all: four trainings, which cost about what a tuned
one does, and ten. Loss is of 2,000 validation images and of the test split. With 7,850 penalties `Hypernet` is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import torch  # noqa: E402  after the number of threads is set
from torch import Tensor, nn  # noqa: E402

import luthier as lt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SPLIT = json.loads((ROOT / "benchmarks" / "hypernet_starts_split.json").read_text())
OUT = ROOT / "benchmarks" / "results" / "hypernet_starts.json"
STARTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
IMAGES, STEPS, CLASSES, WEIGHTS = 100, 2_000, 10, 7_850
MOVES: dict[str, Any] = {"warmup": 500.0, "outer_lr": 0.05}
IMPLICIT = lt.adapt.Bilevel("implicit", settings={"iterations": 10}, **MOVES)
TUNERS: dict[str, tuple[int, Any]] = {  # numbers that are tuned, and by what
    "no tuning": (CLASSES, None),
    "Hypernet": (CLASSES, lt.adapt.Hypernet(**MOVES)),
    "Hypernet, as published": (CLASSES, lt.adapt.Hypernet(follow=False, gate=0, samples=2, smoothing=0, **MOVES)),
    "Bilevel, implicit": (CLASSES, IMPLICIT),
    "Bilevel, implicit, 7,850": (WEIGHTS, IMPLICIT),
}
SEARCHES: dict[str, tuple[Any, int]] = {
    "random, best of ten": ("random", 10),
    "random, best of four": ("random", 4),
    "gp, best of four": ("gp", 4),
}


def linear() -> nn.Module:
    """A linear network that starts at zero."""
    layer = nn.Linear(784, CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def penalty(params: dict[str, Tensor], hyper: dict[str, Tensor]) -> Tensor:
    """The squared weights of each class by its penalty, or by the one of all; or each weight and bias by its own."""
    given, weight = hyper["penalty"], params["weight"]
    if given.numel() == WEIGHTS:
        own, bias = given[: weight.numel()].view_as(weight), given[weight.numel() :]
        return (own * weight.square()).sum() + (bias * params["bias"].square()).sum()
    return (given.reshape(-1, 1) * weight.square()).sum()


def task(seed: int, numbers: int) -> lt.TorchTask:
    """The training."""
    data = lt.data.fashion_mnist(valid=2_000, seed=seed, train=IMAGES)

    def vectors(split: lt.Split) -> lt.Split:
        return lt.Split(split.inputs.flatten(1), nn.functional.one_hot(split.targets, CLASSES).float())

    return lt.TorchTask(
        space=lt.Space(penalty=lt.Float(1e-8, 1.0, log=True, shape=() if numbers == 1 else (numbers,))),
        model=lambda config: linear(),
        data=lt.Splits(vectors(data.train), vectors(data.valid), vectors(data.test)),
        loss=lt.losses.mean_squared_error,
        penalty=penalty,
        optimizer=lt.optim.Adam(lr=1e-3),
        batch_size=IMAGES,
        evaluate_every=20,
    )


def run(method: str, seed: int) -> list[dict[str, Any]]:
    """The rows of a method: a study of one training from each start, side by side, or a search."""
    begin = time.process_time()
    kept: dict[str, Any] = {"steps": STEPS, "seed": seed, "progress": False}
    if method in SEARCHES:
        kind, trainings = SEARCHES[method]
        study = lt.tune(task(seed, 1), kind, trials=trainings, **kept)
        assert study.best is not None
        found = [("random", study.best.number)]
    else:
        numbers, tuner = TUNERS[method]
        made = lt.propose.Random() if tuner is None else (lt.propose.Random(), tuner)
        start = [{"penalty": [value] * numbers} for value in STARTS]
        study = lt.tune(task(seed, numbers), made, trials=len(STARTS), start=start, **kept)
        found = [(f"{value:g}", number) for number, value in enumerate(STARTS)]  # trials are numbered in this order
    cpu = (time.process_time() - begin) / len(found)
    test, rows = task(seed, 1).data.test, []
    for start, job in found:
        ended = {**study.history.jobs[job].config, **study.history.final(job)}["penalty"]
        logs = [math.log10(x) for x in (ended if isinstance(ended, list | tuple) else [ended])]
        with torch.no_grad():
            loss = nn.functional.mse_loss(study.model(job)(test.inputs), test.targets).item()
        result: Any = study.history.results[job]
        row = {"method": method, "start": start, "seed": seed, "valid": result.metrics["loss"], "test": loss}
        rows.append(row | {"log10 penalty": statistics.median(logs), "cpu": round(cpu, 2)})
    return rows


def main() -> None:
    """Run what the file does not have, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("reporting", "choosing"), default="reporting")
    parser.add_argument("--methods", nargs="+", choices=(*TUNERS, *SEARCHES), default=[*TUNERS, *SEARCHES])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else []
    done = {(row["method"], row["seed"]) for row in rows}
    for seed in SPLIT[arguments.part]["seeds"]:
        for method in arguments.methods:
            if (method, seed) in done:
                continue
            rows += run(method, seed)
            print(*rows[-len(STARTS) :], sep="\n", file=sys.stderr, flush=True)
            command = " ".join(["python benchmarks/hypernet_starts.py", *sys.argv[1:]])
            found = {"command": command, "machine": lt.environment(), "runs": rows}
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    starts = [f"{start:g}" for start in STARTS]
    arms = [(method, start) for method in arguments.methods for start in (["random"] if method in SEARCHES else starts)]
    for method, start in arms:
        mine = [row for row in rows if (row["method"], row["start"]) == (method, start)]
        if mine:
            cells = [[row[name] for row in mine] for name in ("valid", "test", "log10 penalty", "cpu")]
            shown = (f"{statistics.fmean(x):.4f} ± {statistics.stdev(x) if x[1:] else 0:.4f}" for x in cells)
            print(f"{method:28}{start:8}", *shown)


if __name__ == "__main__":
    main()
