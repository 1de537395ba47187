"""Real trainings in eight dimensions: what is found for accuracy alone, chosen among by latency afterwards.

    python benchmarks/diverse_trainings.py            # 10 seeds; writes results/diverse_trainings.json

A training is a convolutional or a dense network on 700 of scikit-learn's digits, 100 steps under SGD or Adam; its kind,
depth, width, activation, dropout, optimizer, learning rate and weight decay are searched, 60 trainings in batches of 5
by each method, for the validation loss alone. Read off is the set ``study.diverse(5, within=9, by="loss", apart=0.3)``:
the best, then again and again the best that is farther than 0.3 from all before it. `diverse` and `gflownet` are told
the distance. The set's networks are trained again under three other seeds: "mean of the set" is their validation
accuracy, in per cent, and 10 for each that is missing.

Then somebody asks for latency, the time that 100 images take, measured, the least of 30 passes. How accurate is the
best network that is as fast as the fastest quarter, or half, of random configurations?

- "of the set": chosen among the five by that mean; 10 where none is fast enough;
- "of all": chosen among all 60, by the one validation accuracy that each had in the study.

Those accuracies are on the test split, means of three trainings under yet other seeds. Runs are written as they end,
and what the file holds is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  after the number of threads is set
import torch  # noqa: E402
from torch import nn  # noqa: E402

import luthier as lt  # noqa: E402

OUT = Path(__file__).resolve().parent / "results" / "diverse_trainings.json"
SEEDS = range(100, 110)  # the stage was made, and the distance chosen, on seeds 0 and 1
TRIALS, BATCH, COUNT, APART, STEPS = 60, 5, 5, 0.3, 100
REPEATS, CHANCE = 3, 10.0
LIMITS = {"fastest quarter": 0.25, "fastest half": 0.5}
SPACE = lt.Space(
    kind=lt.Choice(["dense", "convolutional"]),
    depth=lt.Int(1, 2),
    width=lt.Int(4, 32, log=True),
    activation=lt.Choice(["relu", "tanh", "gelu"]),
    dropout=lt.Float(0.0, 0.6),
    optimizer=lt.Choice(["sgd", "adam"]),
    lr=lt.Float(1e-4, 1.0, log=True),
    weight_decay=lt.Float(1e-6, 1e-1, log=True),
)
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
METHODS: dict[str, Callable[[], Any]] = {
    "diverse": lambda: lt.propose.Diverse(count=COUNT, apart=APART, batch=BATCH),
    "gflownet": lambda: lt.propose.GFlowNet(batch=BATCH, apart=APART),
    "gp": lambda: lt.propose.GaussianProcess(batch=BATCH),
    "tpe": lambda: lt.METHODS["tpe"].load()(),
    "random": lt.propose.Random,
}


@cache
def images() -> lt.Splits:
    return lt.data.digits(train=700, valid=500)


def network(config: Mapping[str, Any]) -> nn.Sequential:
    convolutional, width = config["kind"] == "convolutional", config["width"]
    layers: list[nn.Module] = [] if convolutional else [nn.Flatten()]
    before = 1 if convolutional else 64
    for _ in range(config["depth"]):
        layer = nn.Conv2d(before, width, 3, padding=1) if convolutional else nn.Linear(before, width)
        layers += [layer, ACTIVATIONS[config["activation"]]()]
        before = width
    if convolutional:
        layers += [nn.MaxPool2d(2), nn.Flatten()]
        before *= 16
    return nn.Sequential(*layers, nn.Dropout(config["dropout"]), nn.Linear(before, 10))


def trained(config: Mapping[str, Any], seed: int) -> dict[str, float]:
    """A training: its validation loss, and its accuracies in per cent."""
    torch.manual_seed(seed)
    data, model = images(), network(config)
    settings: dict[str, Any] = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
    if config["optimizer"] == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), **settings)
    else:
        optimizer = torch.optim.SGD(model.parameters(), **settings, momentum=0.9)
    for _ in range(STEPS):
        rows = torch.randint(len(data.train.targets), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.train.inputs[rows]), data.train.targets[rows]).backward()
        optimizer.step()
    model.eval()
    found: dict[str, float] = {}
    with torch.no_grad():
        for name, part in (("valid", data.valid), ("test", data.test)):
            scores = model(part.inputs)
            found[name] = 100.0 * float((scores.argmax(1) == part.targets).float().mean())
            found.setdefault("loss", float(nn.functional.cross_entropy(scores, part.targets)))
    return found


@torch.no_grad()
def latency(config: Mapping[str, Any]) -> float:
    """Milliseconds for 100 images, the least of 30 passes."""
    model, batch, times = network(config).eval(), images().valid.inputs[:100], list[float]()
    for _ in range(30):
        begin = time.perf_counter()
        model(batch)
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times)


def repeated(config: Mapping[str, Any], first: int) -> dict[str, float]:
    """Mean accuracies of trainings under seeds from ``first`` on."""
    runs = [trained(config, first + i) for i in range(REPEATS)]
    return {name: statistics.fmean(run[name] for run in runs) for name in ("valid", "test")}


@cache
def limits(seed: int) -> dict[str, float]:
    """Limits on the latency: quantiles of random configurations."""
    times = [latency(config) for config in SPACE.sample(np.random.default_rng(seed), 100)]
    return {title: float(np.quantile(times, share)) for title, share in LIMITS.items()}


def run(method: str, seed: int) -> dict[str, Any]:
    """One study, and what is chosen from it under each limit."""
    study = lt.Study("trainings", SPACE, method=METHODS[method](), trials=TRIALS, seed=seed)
    fresh = itertools.count(10_000 * seed)  # seeds of the trainings
    every: list[tuple[Mapping[str, Any], float]] = []
    while jobs := study.ask(BATCH):
        told = [(job, trained(job.config, next(fresh))) for job in jobs]
        every += [(job.config, values["valid"]) for job, values in told]
        study.tell_many(told)
    members = [one.config for one in study.diverse(COUNT, within=9.0, by="loss", apart=APART)]
    chosen_among = {
        "of the set": [
            (config, repeated(config, 10_000 * seed + 1_000 + REPEATS * i)["valid"]) for i, config in enumerate(members)
        ],
        "of all": every,
    }
    values = [value for _, value in chosen_among["of the set"]]
    row: dict[str, Any] = {"method": method, "seed": seed}
    row["mean of the set"] = statistics.fmean(values + [CHANCE] * (COUNT - len(values)))
    for whose, group in chosen_among.items():
        times = [latency(config) for config, _ in group]
        for title, limit in limits(seed).items():
            fast = [pair for pair, passed in zip(group, times, strict=True) if passed <= limit]
            best = max(fast, key=lambda pair: pair[1], default=None)
            row[f"{title}, {whose}"] = CHANCE if best is None else repeated(best[0], 10_000 * seed + 2_000)["test"]
    return row


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a method: means over the seeds, and their deviations."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        line: dict[str, Any] = {"method": method, "runs": len(mine)}
        for name in (name for name in mine[0] if name not in ("method", "seed")):
            values = [row[name] for row in mine]
            line[name], line[f"{name} sd"] = statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0
        lines.append(line)
    return lines


def main() -> None:
    """Run the studies, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else []
    for seed in arguments.seeds:
        for method in METHODS:
            if any((row["method"], row["seed"]) == (method, seed) for row in rows):
                continue
            rows.append(run(method, seed))
            print({k: round(v, 1) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            written = {"command": "python benchmarks/diverse_trainings.py", "machine": lt.environment("optuna")}
            arguments.out.write_text(json.dumps(written | {"summary": summary(rows), "runs": rows}, indent=1) + "\n")
    for line in summary(rows):
        print(line["method"].ljust(12), {k: round(v, 2) for k, v in line.items() if isinstance(v, float)})


if __name__ == "__main__":
    main()
