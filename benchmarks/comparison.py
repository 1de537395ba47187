"""Methods on an MLP, a CNN and an LSTM, each at the same training steps, and read at the same CPU time.

    python benchmarks/comparison.py --part choosing      # all arms of every method, on seeds for choosing alone
    python benchmarks/comparison.py                      # the chosen arms on the seeds for reporting; a picture
    python benchmarks/comparison.py --tasks mlp --methods random pbt --seeds 1

Three trainings far larger than those of the paper that asked for it (papers/autotune: at most 46 weights, points in the
plane): "mlp", 784-128-10 on 5,000 images of Fashion-MNIST; "cnn", two convolutions and two linear layers on 2,000 of
them; "lstm", a character LSTM of 64 units on 32,768 characters of tinyshakespeare. Learning rate, weight decay, dropout
and, with SGD, momentum are searched. Each study may spend the training steps of 12 whole trainings, which are short
(one or two epochs); an adapter that is given alone adapts in each of 12 trainings that random search has started.
"random, longer" is random search with 4 trainings of three times the length, as some of the genetic search's are.

An arm is one way of setting a method. ``comparison_split.json`` has the seeds, and after the first command the arm of
each method whose mean rank among its arms was best over tasks and seeds for choosing; a seed draws the data, the
weights and the search.

*At equal CPU time*: the best validation loss that a study had when it had taken as much processor time as random search
takes in all on that task and seed. The time is the process's, evaluation and the method's own work included. Rows are
kept after each study, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  after the number of threads is set
import torch  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from scipy.stats import rankdata  # noqa: E402
from torch import Tensor, nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import luthier as lt  # noqa: E402
from benchmarks.tinyshakespeare import splits  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SPLIT_FILE = ROOT / "benchmarks" / "comparison_split.json"
OUT = ROOT / "benchmarks" / "results" / "comparison.json"
PICTURE = ROOT / "docs" / "methods.png"
TRIALS = 12
STEPS = {"mlp": 156, "cnn": 124, "lstm": 64}  # of a whole training
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#5c6675", "#000000")

# the arms of each method; the first is what its name stands for, but for numbers that 16 trainings ask for
ARMS: dict[str, dict[str, Callable[[], Any]]] = {
    "random": {"default": lt.propose.Random},
    "random, longer": {"default": lt.propose.Random},
    "gp": {
        "default": lt.propose.GaussianProcess,
        "initial=4, batch=4": lambda: lt.propose.GaussianProcess(initial=4, batch=4),
    },
    "tpe": {"default": lambda: "tpe", "startup=4, batch=4": lambda: lt.interop.optuna.TPE(startup=4, batch=4)},
    "genetic": {
        f"population={size}, parent": lambda size=size: lt.propose.Genetic(population=size, inherit="parent")
        for size in (4, 3)
    },
    "hyperband": {
        "default": lt.propose.Hyperband,
        "gp inside, one bracket": lambda: lt.propose.Hyperband(inner="gp", brackets=1),
    },
    "freeze_thaw": {"initial=4": lambda: lt.propose.FreezeThaw(initial=4)},
    "pbt": {f"{rounds} rounds": lambda rounds=rounds: lt.propose.PBT(rounds=rounds) for rounds in (4, 8)},
    "pb2": {f"{rounds} rounds": lambda rounds=rounds: lt.propose.PB2(rounds=rounds) for rounds in (4, 8)},
    "hypergradient": {
        "default": lambda: "hypergradient",
        "adaptive": lambda: (lt.propose.Random(), lt.adapt.Hypergradient(rule="adaptive")),
    },
    "bilevel": {"unrolled": lambda: lt.adapt.Bilevel("unrolled")},
}


class Characters(nn.Module):
    """A character LSTM with dropout before and after it."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding, self.inputs = nn.Embedding(symbols, 32), lt.nn.Dropout("dropout")
        self.cells, self.outputs = nn.LSTM(32, 64, batch_first=True), lt.nn.Dropout("dropout")
        self.last = nn.Linear(64, symbols)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.outputs(self.cells(self.inputs(self.embedding(x)))[0])).transpose(1, 2)


def mlp(config: lt.Config) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), lt.nn.Dropout("dropout"), nn.Linear(128, 10))


def cnn(config: lt.Config) -> nn.Module:
    features = nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*features, nn.Linear(576, 64), nn.ReLU(), lt.nn.Dropout("dropout"), nn.Linear(64, 10))


@lru_cache(maxsize=1)
def task(name: str, seed: int) -> lt.TorchTask:
    """One of the three trainings."""
    shared = {"weight_decay": lt.Float(1e-6, 0.1, log=True), "dropout": lt.Float(0.0, 0.8)}
    if name == "lstm":
        data, symbols = splits(seed, 1024, 64, 256)
        return lt.TorchTask(
            space=lt.Space(lr=lt.Float(1e-4, 0.1, log=True), **shared),
            model=lambda config: Characters(symbols),
            data=data,
            loss=lt.losses.cross_entropy,
            optimizer=lt.optim.Adam(),
            batch_size=16,
        )
    return lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-4, 1.0, log=True), momentum=lt.Float(0.0, 0.95), **shared),
        model={"mlp": mlp, "cnn": cnn}[name],
        data=lt.data.fashion_mnist(valid=1_000, train={"mlp": 5_000, "cnn": 2_000}[name], seed=seed),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.sgd,
        batch_size={"mlp": 64, "cnn": 32}[name],
    )


class Clock:
    """A follower that notes the process's time at which each result was there."""

    def __init__(self) -> None:
        self.begun, self.at = time.process_time(), list[float]()

    def started(self, study: lt.Study) -> None:
        pass

    def events(self, history: lt.History, new: Any) -> None:
        self.at += [time.process_time() - self.begun] * (len(history.arrival) - len(self.at))

    def finished(self, study: lt.Study) -> None:
        pass


def run(name: str, method: str, arm: str, seed: int) -> dict[str, Any]:
    """One study: the best so far against steps and against CPU seconds, wherever it falls."""
    torch.set_num_threads(1)
    made, tuned, clock = ARMS[method][arm](), task(name, seed), Clock()
    early = method in ("hyperband", "freeze_thaw")  # they begin as many trainings as the steps pay for
    longer = 3 if method == "random, longer" else 1
    study = lt.tune(
        tuned,
        made,
        trials=None if early else TRIALS // longer,
        steps=longer * STEPS[name],
        total_steps=TRIALS * STEPS[name],
        seed=seed,
        callbacks=[clock],
        progress=False,
    )
    cpu, history, best = time.process_time() - clock.begun, study.history, study.best
    assert best is not None
    spent, lowest, course = 0, float("inf"), []
    for number, at in zip(history.arrival, clock.at, strict=True):
        spent += int(history.steps[number])
        value = float(history.values[number, 0])
        if history.good[number] and value < lowest:
            lowest = value
            course.append([spent, round(at, 3), round(value, 5)])
    return {
        **{"task": name, "method": method, "arm": arm, "seed": seed, "valid": best.value, "test": best.test["loss"]},
        **{"steps": spent, "cpu": round(cpu, 2), "started": sum(job.parent is None for job in history.jobs)},
        "course": course,
    }


def at_cpu(row: dict[str, Any], seconds: float) -> float:
    """The best validation loss that was there when so many CPU seconds were taken; infinite before the first."""
    return min((value for _, at, value in row["course"] if at <= seconds), default=float("inf"))


def ranks(
    rows: list[dict[str, Any]], label: str, values: Callable[[list[dict[str, Any]]], list[float]]
) -> dict[str, Any]:
    """Mean rank of each label over the blocks (task, seed) that have all of them, and its 95 % interval.

    The interval is of 2,000 resamplings of the seeds within each task.
    """
    labels = list(dict.fromkeys(row[label] for row in rows))
    blocks: dict[str, list[np.ndarray]] = {}
    for name, seed in dict.fromkeys((row["task"], row["seed"]) for row in rows):
        block = {row[label]: row for row in rows if (row["task"], row["seed"]) == (name, seed)}
        if len(block) == len(labels):
            blocks.setdefault(name, []).append(rankdata(values([block[one] for one in labels])))
    if not blocks:
        return {}
    random = np.random.default_rng(0)
    of_task = [np.array(block) for block in blocks.values()]  # (seeds, labels) each
    drawn = [
        np.concatenate([one[random.integers(len(one), size=len(one))] for one in of_task]).mean(axis=0)
        for _ in range(2_000)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    mean = np.concatenate(of_task).mean(axis=0)
    return {
        one: {"rank": round(float(mean[i]), 2), "low": round(float(low[i]), 2), "high": round(float(high[i]), 2)}
        for i, one in enumerate(labels)
    }


def at_equal_cpu(block: list[dict[str, Any]]) -> list[float]:
    """Of the rows of one task and seed, each one's best at the CPU time that random search takes in all."""
    (whole,) = [row["cpu"] for row in block if row["method"] == "random"]
    return [at_cpu(row, whole) for row in block]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ranks of the methods, and for each task mean and standard deviation over seeds."""
    by_steps = ranks(rows, "method", lambda block: [row["test"] for row in block])
    by_valid = ranks(rows, "method", lambda block: [row["valid"] for row in block])
    by_cpu = ranks(rows, "method", at_equal_cpu) if any(row["method"] == "random" for row in rows) else {}
    found: dict[str, Any] = {}
    for method in sorted(by_steps, key=lambda one: by_steps[one]["rank"]):
        line: dict[str, Any] = {"arm": next(row["arm"] for row in rows if row["method"] == method)}
        line |= {"test, equal steps": by_steps[method], "validation, equal steps": by_valid[method]}
        line |= {"validation, equal CPU": by_cpu.get(method)}
        for name in STEPS:
            runs = [row for row in rows if (row["task"], row["method"]) == (name, method)]
            for what in ("valid", "test", "cpu"):
                values = [row[what] for row in runs]
                if len(values) > 1:
                    line[f"{name} {what}"] = {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}
        found[method] = line
    return found


def choose(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The arm of each method with the best mean rank by validation loss among its own."""
    chosen = {}
    for method, arms in ARMS.items():
        own = [row for row in rows if row["method"] == method]
        found = ranks(own, "arm", lambda block: [row["valid"] for row in block]) if len(arms) > 1 else {}
        chosen[method] = min(found, key=lambda arm: found[arm]["rank"]) if found else next(iter(arms))
    return chosen


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Best validation loss so far, mean over the seeds, a panel a task: against steps above, CPU seconds below."""
    figure = Figure(figsize=(11, 6.6), dpi=110)
    FigureCanvasAgg(figure)  # a file alone, no window
    panels = figure.subplots(2, 3)
    order = list(summary(rows))
    for column, name in enumerate(STEPS):
        of_task = [row for row in rows if row["task"] == name]
        ends = {0: TRIALS * STEPS[name], 1: statistics.fmean(r["cpu"] for r in of_task if r["method"] == "random")}
        for which, end in ends.items():
            axes, grid = panels[which, column], np.linspace(0, end, 200)
            lowest, highest = float("inf"), -float("inf")
            for place, method in enumerate(order):
                curves = [_read(row["course"], which, grid) for row in of_task if row["method"] == method]
                mean = np.mean(curves, axis=0)  # infinite, so not drawn, until every seed has a result
                style, colour = ("-", "--")[place // len(COLOURS)], COLOURS[place % len(COLOURS)]
                axes.plot(grid, mean, style, color=colour, label=method, drawstyle="steps-post", lw=1.5)
                if np.isfinite(mean[-1]):
                    lowest, highest = min(lowest, mean[-1]), max(highest, mean[-1])
            axes.set_ylim(lowest - 0.1 * (highest - lowest), highest + 1.2 * (highest - lowest))
            axes.set_xlabel("training steps spent, all trainings together" if which == 0 else "CPU seconds")
            axes.set_title(name if which == 0 else "", fontsize=11)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("best validation loss so far")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=6, frameon=False, fontsize=9)
    figure.savefig(file, metadata={"Software": None})  # the same results, the same bytes


def _read(course: list[list[float]], which: int, grid: np.ndarray) -> np.ndarray:
    spent, values = [point[which] for point in course], np.array([np.inf, *(point[2] for point in course)])
    return values[np.searchsorted(spent, grid, side="right")]


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    kinds = ("test, equal steps", "validation, equal steps", "validation, equal CPU")
    print(f"{'method':16}{'arm':24}" + "".join(f"{kind:>26}" for kind in kinds) + f"   test loss: {', '.join(STEPS)}")
    for method, line in found.items():
        cells = [
            f"{line[k]['rank']:.2f} ({line[k]['low']:.2f} to {line[k]['high']:.2f})" if line[k] else "" for k in kinds
        ]
        tests = [line.get(f"{name} test") for name in STEPS]
        ends = "  ".join(f"{one['mean']:.3f} ± {one['sd']:.3f}" for one in tests if one)
        print(f"{method:16}{line['arm']:24}" + "".join(f"{cell:>26}" for cell in cells) + f"   {ends}")


def main() -> None:
    """Run the studies that are missing, print the table, write JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["choosing", "reporting"], default="reporting")
    parser.add_argument("--tasks", nargs="+", default=list(STEPS))
    parser.add_argument("--methods", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=int, help="so many of the part's")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    split = json.loads(SPLIT_FILE.read_text())
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"choosing": [], "reporting": []}
    rows = kept[arguments.part]
    done = {(row["task"], row["method"], row["arm"], row["seed"]) for row in rows}
    several = [method for method in arguments.methods if len(ARMS[method]) > 1]
    arms = {"choosing": {m: list(ARMS[m]) for m in several}, "reporting": {m: [split["arms"].get(m)] for m in ARMS}}
    for seed in split[arguments.part][: arguments.seeds]:
        for name in arguments.tasks:
            for method in several if arguments.part == "choosing" else arguments.methods:
                for arm in arms[arguments.part][method]:
                    if (name, method, arm, seed) in done:
                        continue
                    rows.append(run(name, method, arm, seed))
                    kept |= {"machine": lt.environment("optuna"), "trials": TRIALS, "steps": STEPS}
                    kept["summary"] = summary(kept["reporting"])
                    arguments.out.parent.mkdir(parents=True, exist_ok=True)
                    arguments.out.write_text(json.dumps(kept) + "\n")
        print(f"seed {seed}: done", file=sys.stderr, flush=True)
    if arguments.part == "choosing":
        split["arms"] = choose(rows)
        SPLIT_FILE.write_text(json.dumps(split, indent=1) + "\n")
        print(json.dumps(split["arms"], indent=1))
    elif summary(rows):
        show(summary(rows))
        if arguments.out == OUT:
            draw(rows, PICTURE)


if __name__ == "__main__":
    main()
