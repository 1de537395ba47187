"""Ten penalties from starts over five decades: where one training ends that moves them, and where it ends untouched.

    python benchmarks/hypernet_starts.py

100 images of Fashion-MNIST, few enough to overfit; a linear network onto the ten classes from zero, Adam at 1e-3, 2,000
steps of the whole batch, one L2 penalty a class. Rows: no tuning, `Hypernet` and `Bilevel("implicit")` from each start,
and `Random` over one penalty shared by all classes, the best of ten such trainings. Loss is of 2,000 validation images
and of the test split. Seeds from 100 on; both adapters' warm-up and outer rate were seen on seed 10 alone.
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

OUT = Path(__file__).resolve().parent / "results" / "hypernet_starts.json"
STARTS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
IMAGES, STEPS, CLASSES, TRAININGS = 100, 2_000, 10, 10
MOVES: dict[str, Any] = {"warmup": 500.0, "outer_lr": 0.05}
TUNERS: dict[str, Any] = {
    "no tuning": None,
    "Hypernet": lt.adapt.Hypernet(**MOVES),
    "Bilevel, implicit": lt.adapt.Bilevel("implicit", settings={"iterations": 10}, **MOVES),
}


def linear() -> nn.Module:
    """A linear network that starts at zero."""
    layer = nn.Linear(784, CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def penalty(params: dict[str, Tensor], hyper: dict[str, Tensor]) -> Tensor:
    """The squared weights of each class by its penalty, or by the one of all."""
    return (hyper["penalty"].reshape(-1, 1) * params["weight"].square()).sum()


def task(seed: int, shared: bool) -> lt.TorchTask:
    """The training."""
    data = lt.data.fashion_mnist(valid=2_000, seed=seed, train=IMAGES)

    def vectors(split: lt.Split) -> lt.Split:
        return lt.Split(split.inputs.flatten(1), nn.functional.one_hot(split.targets, CLASSES).float())

    return lt.TorchTask(
        space=lt.Space(penalty=lt.Float(1e-8, 1.0, log=True, shape=() if shared else (CLASSES,))),
        model=lambda config: linear(),
        data=lt.Splits(vectors(data.train), vectors(data.valid), vectors(data.test)),
        loss=lt.losses.mean_squared_error,
        penalty=penalty,
        optimizer=lt.optim.Adam(lr=1e-3),
        batch_size=IMAGES,
    )


def run(method: str, start: float | None, seed: int) -> dict[str, Any]:
    """One row."""
    begin = time.process_time()
    kept: dict[str, Any] = {"steps": STEPS, "seed": seed, "progress": False}
    if start is None:
        study = lt.tune(task(seed, True), "random", trials=TRAININGS, **kept)
    else:
        tuner = TUNERS[method]
        first = [{"penalty": [start] * CLASSES}]
        made = lt.propose.Random() if tuner is None else (lt.propose.Random(), tuner)
        study = lt.tune(task(seed, False), made, trials=1, start=first, **kept)
    best = study.best
    assert best is not None
    ended = {**best.config, **best.final}["penalty"]
    row = {"method": method, "start": "random" if start is None else f"{start:g}", "seed": seed}
    logs = [math.log10(x) for x in (ended if isinstance(ended, list | tuple) else [ended])]
    losses = {"valid": best.metrics["loss"], "test": best.test["loss"]}
    return row | losses | {"log10 penalty": statistics.median(logs), "cpu": time.process_time() - begin}


def main() -> None:
    """Run what the file does not have, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else []
    done = {(row["method"], row["start"], row["seed"]) for row in rows}
    arms = [("random search, best of ten", None), *((method, start) for start in STARTS for method in TUNERS)]
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for method, start in arms:
            if (method, "random" if start is None else f"{start:g}", seed) in done:
                continue
            rows.append(run(method, start, seed))
            print(rows[-1], file=sys.stderr, flush=True)
            command = " ".join(["python benchmarks/hypernet_starts.py", *sys.argv[1:]])
            found = {"command": command, "machine": lt.environment(), "runs": rows}
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    for method, start in arms:
        mine = [r for r in rows if (r["method"], r["start"]) == (method, "random" if start is None else f"{start:g}")]
        cells = [[row[name] for row in mine] for name in ("valid", "test", "log10 penalty", "cpu")]
        shown = (f"{statistics.fmean(x):.4f} ± {statistics.stdev(x) if x[1:] else 0:.4f}" for x in cells)
        print(f"{method:28}{'' if start is None else f'{start:g}':8}", *shown)


if __name__ == "__main__":
    main()
