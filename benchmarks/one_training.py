"""One training that tunes itself, beside ten: dropout rates, weight decay and learning rate of networks that overfit.

    python benchmarks/one_training.py                     # what the results do not have yet of the seeds for reporting
    python benchmarks/one_training.py --part choosing     # the seeds on which settings were chosen
    python benchmarks/one_training.py --tasks lstm --rows hypernet random --seeds 1

Two trainings that overfit badly where they start: "lstm", a character LSTM of 64 units on 8,192 characters of
tinyshakespeare, and "cnn", two convolutions on 300 images of Fashion-MNIST. Every row begins from the same values or
draws from the same space; losses are those at the end of the training, the least on the way is beside it. CPU time is
the process's, and goes evenly over the training steps of a row. Rows:

- "untuned": the start's values, held;
- "hypernet", "bilevel, implicit": one training from the start that moves its hyperparameters but for the learning rate,
  which does not enter the training loss;
- "hypernet and rate", "bilevel and rate" (implicit), "bilevel, unrolled": one that moves the learning rate too;
- "hypernet and rate, lowest": the hypernetwork's with the least rate of the space for a start;
- "hypernet, replayed": another training under the course of values that the hypernet took;
- "hypernet, last held": another one at its last values, held from the first step;
- "hypernet, then the rate": the same with the learning rate moved by `lt.adapt.Hypergradient`;
- "untuned, random's rate", "hypernet, random's rate": from the start, but with the learning rate of random search's
  best training: what is left is what the hypernet can move;
- "random", "gp", "freeze_thaw", "pbt": ten trainings, or a population of ten, over the same space with the learning
  rate; the one with the least validation loss at its end.

The text is read from the folder that LUTHIER_DATA names, by default ../shared/data beside the checkout, and its
checksum, as the seeds for choosing and reporting, is in ``one_training_split.json``. State is kept after every run.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import torch  # noqa: E402  after the number of threads is set
from torch import Tensor, nn  # noqa: E402

import luthier as lt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SPLIT = json.loads((ROOT / "benchmarks" / "one_training_split.json").read_text())
DATA = Path(os.environ.get("LUTHIER_DATA", ROOT.parent / "shared" / "data"))
OUT = ROOT / "benchmarks" / "results" / "one_training.json"
FIGURE = ROOT / "docs" / "one_training.png"
STEPS, TRAININGS = {"lstm": 400, "cnn": 480}, 10
WINDOW = 32  # characters
START: dict[str, dict[str, float]] = {
    "lstm": {"lr": 2e-2, "weight_decay": 1e-6, "drop_symbols": 0.05, "drop_input": 0.05, "drop_output": 0.05},
    "cnn": {"lr": 0.05, "weight_decay": 1e-5, "drop_features": 0.05, "drop_hidden": 0.05, "noise": 0.05},
}
RATES = lt.Float(0.0, 0.9)
SPACES = {
    "lstm": lt.Space(
        lr=lt.Float(1e-3, 1e-1, log=True),
        weight_decay=lt.Float(1e-7, 1e-2, log=True),
        drop_symbols=RATES,
        drop_input=RATES,
        drop_output=RATES,
    ),
    "cnn": lt.Space(
        lr=lt.Float(5e-3, 0.5, log=True),
        weight_decay=lt.Float(1e-6, 1e-1, log=True),
        drop_features=RATES,
        drop_hidden=RATES,
        noise=lt.Float(0.0, 1.0),
    ),
}
HYPERNET = lt.adapt.Hypernet(structure="gated", samples=2, smoothing=0.0, warmup=2, outer_lr=0.3, gate=1.0)
BILEVEL = lt.adapt.Bilevel("implicit", settings={"iterations": 3, "damping": 1e-2}, outer_lr=0.3)
TUNERS: dict[str, Any] = {
    "hypernet": HYPERNET,
    "hypernet and rate": replace(HYPERNET, rate=True),
    "bilevel, implicit": BILEVEL,
    "bilevel and rate": replace(BILEVEL, rate=True),
    "bilevel, unrolled": lt.adapt.Bilevel("unrolled", outer_lr=0.2),
}
SEARCHES: dict[str, Any] = {
    "random": lt.propose.Random(),
    "gp": lt.propose.GaussianProcess(initial=4, batch=2),
    "freeze_thaw": lt.propose.FreezeThaw(initial=4),
    "pbt": lt.propose.PBT(),
}
AFTER = ("hypernet, replayed", "hypernet, last held", "hypernet, then the rate")
RATED = ("untuned, random's rate", "hypernet, random's rate")
LOWEST = "hypernet and rate, lowest"
ROWS = ("untuned", *TUNERS, *AFTER, *SEARCHES, *RATED, LOWEST)


class Characters(nn.Module):
    """A character LSTM with dropout of whole characters, and before and after it."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding, self.symbols = nn.Embedding(symbols, 32), lt.nn.Dropout("drop_symbols")
        self.inputs = lt.nn.Dropout("drop_input")
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.outputs, self.last = lt.nn.Dropout("drop_output"), nn.Linear(64, symbols)

    def forward(self, x: Tensor) -> Tensor:
        read = self.embedding(x) * self.symbols(torch.ones(*x.shape, 1))
        return self.last(self.outputs(self.lstm(self.inputs(read))[0])).transpose(1, 2)


def text() -> Tensor:
    """The characters of the text as numbers."""
    path = DATA / SPLIT["text"]["file"]
    if not path.exists():
        raise SystemExit(f"there is no {path}: LUTHIER_DATA names the folder ({SPLIT['text']['from']})")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SPLIT["text"]["sha256"]:
        raise SystemExit(f"{path} is another text than {SPLIT['text']['from']}")
    place = {symbol: i for i, symbol in enumerate(sorted(set(raw)))}
    return torch.tensor([place[symbol] for symbol in raw])


def lstm(seed: int) -> lt.TorchTask:
    """The LSTM; the last parts of the text are for validation and test, whatever the seed."""
    ids = text()

    def part(start: int, windows: int) -> lt.Split:
        chosen = ids[start : start + windows * WINDOW + 1]
        return lt.Split(chosen[:-1].view(windows, WINDOW).clone(), chosen[1:].view(windows, WINDOW).clone())

    symbols, held = int(ids.max()) + 1, len(ids) * 8 // 10
    begin = (seed * 7_919 * WINDOW) % (held - 300 * WINDOW)
    return lt.TorchTask(
        space=SPACES["lstm"],
        model=lambda config: Characters(symbols),
        data=lt.Splits(part(begin, 256), part(held, 128), part(len(ids) * 9 // 10, 512)),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.Adam(),
        batch_size=16,
    )


def cnn(seed: int) -> lt.TorchTask:
    """The convolutional network."""

    def noisy(inputs: Tensor, hyper: dict[str, Tensor], noise: Any) -> Tensor:
        return inputs + hyper["noise"].view(-1, *(1,) * (inputs.ndim - 1)) * noise.normal(0, inputs.shape[1:])

    def model(config: dict[str, Any]) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()),
            *(lt.nn.Dropout("drop_features"), nn.Linear(576, 64), nn.ReLU(), lt.nn.Dropout("drop_hidden")),
            nn.Linear(64, 10),
        )

    return lt.TorchTask(
        space=SPACES["cnn"],
        model=model,
        data=lt.data.fashion_mnist(valid=1_000, train=300, seed=seed),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.SGD(momentum=0.9),
        augment=noisy,
        batch_size=30,
    )


TASKS = {"lstm": lstm, "cnn": cnn}


def study(name: str, row: str, seed: int, earlier: dict[str, Any]) -> lt.Study:
    """The study of a row; ``earlier`` is the row of the hypernet, or of the random search, that it comes after."""
    kept: dict[str, Any] = {"steps": STEPS[name], "seed": seed, "progress": False}
    tuner: Any
    task, start = TASKS[name](seed), dict(START[name])
    if row in RATED:
        start["lr"] = earlier["values"]["lr"]
    elif row == LOWEST:
        domain: Any = SPACES[name].domains["lr"]
        start["lr"] = domain.low
    if row in SEARCHES:
        return lt.tune(task, SEARCHES[row], trials=TRAININGS, **kept)
    if row == "hypernet, replayed":
        course = [(step, START[name] | values) for step, values in earlier["schedule"] if step < STEPS[name]]
        return lt.tune(task, schedule=course, **kept)
    if row == "hypernet, last held":
        return lt.tune(task, schedule=[(0, START[name] | earlier["values"])], **kept)
    if row == "hypernet, then the rate":
        start, tuner = START[name] | earlier["values"], lt.adapt.Hypergradient()
    else:
        tuner = TUNERS.get(row.split(",")[0] if row in (*RATED, LOWEST) else row)
    return lt.tune(
        task, lt.propose.Random() if tuner is None else (lt.propose.Random(), tuner), trials=1, start=[start], **kept
    )


def run(name: str, row: str, seed: int, earlier: dict[str, Any]) -> dict[str, Any]:
    """One row of one seed."""
    begun = time.process_time()
    found = study(name, row, seed, earlier)
    cpu = time.process_time() - begun
    best = found.best
    assert best is not None
    reports = found.history.reports
    course = [(report.step, report.metrics["loss"]) for report in reports[best.number]]
    values = {n: float(f"{v:.4g}") for n, v in ({**best.config, **best.final}).items()}
    schedule = [[step, {n: float(f"{v:.4g}") for n, v in there.items()}] for step, there in best.schedule]
    least = [report.metrics["loss"] for each in reports.values() for report in each]
    return {
        **{"task": name, "row": row, "seed": seed},
        **{"valid": best.metrics["loss"], "test": best.test["loss"], "least": min(least)},
        **{"cpu": round(cpu, 2), "steps": sum(result.steps for result in found.history.results if result)},
        **{"course": [[step, round(loss, 4)] for step, loss in course], "values": values},
        **({"schedule": schedule} if row in ("hypernet", "hypernet and rate") else {}),
    }


def differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test loss of every row less that of another one, paired by seed: mean and standard error."""
    by, found = {(row["task"], row["row"], row["seed"]): row["test"] for row in rows}, []
    for name, base, kind in itertools.product(TASKS, ("random", "pbt", "hypernet", "hypernet, last held"), ROWS):
        pairs = [
            (by[name, kind, s], by[name, base, s]) for n, k, s in by if (n, k) == (name, kind) and (n, base, s) in by
        ]
        apart = [mine - its for mine, its in pairs]
        if apart[1:] and kind != base:
            error = statistics.stdev(apart) / math.sqrt(len(apart))
            found.append({"task": name, "row": kind, "less": base, "test": [statistics.fmean(apart), error]})
    return found


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Table: every row's losses and cost, and its paired difference in test loss from random search."""
    lines = []
    for name in TASKS:
        for kind in ROWS:
            mine = [row for row in rows if (row["task"], row["row"]) == (name, kind)]
            if not mine:
                continue
            cells = [mean_and(1.0 * row[key] for row in mine) for key in ("valid", "test", "least", "cpu", "steps")]
            ahead = "".join(
                "{:+.3f} ± {:.3f}".format(*one["test"])
                for one in differences(rows)
                if (one["task"], one["row"], one["less"]) == (name, kind, "random")
            )
            lines.append(f"| {name} | {kind} | " + " | ".join(cells) + f" | {ahead} |")
    return lines


def mean_and(values: Any) -> str:
    """Mean ± standard deviation."""
    values = list(values)
    digits = 3 if max(values) < 20 else 0
    spread = statistics.stdev(values) if values[1:] else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Test loss at the end over CPU seconds, a mark a row, means of the seeds with their standard deviation."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(TASKS), figsize=(11, 4.5), constrained_layout=True)
    for axis, name in zip(axes, TASKS, strict=True):
        for i, kind in enumerate(ROWS):
            mine = [row for row in rows if (row["task"], row["row"]) == (name, kind)]
            if not mine:
                continue
            x, y = ([row[key] for row in mine] for key in ("cpu", "test"))
            shape = next(
                (m for m, kinds in (("s", SEARCHES), ("^", AFTER), ("D", RATED), ("v", (LOWEST,))) if kind in kinds),
                "o",
            )
            mark = {"color": f"C{i % 10}", "marker": shape}
            spread = statistics.stdev(y) if y[1:] else 0.0
            axis.errorbar(statistics.fmean(x), statistics.fmean(y), spread, label=kind, capsize=3, linestyle="", **mark)
        axis.set(title=name, xlabel="CPU seconds", ylabel="test loss at the end", xlim=(0, None))
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what the file does not have, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("reporting", "choosing"), default="reporting")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, help="so many of the part's, by default all")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.out.read_text())["runs"] if given.out.exists() else []
    done = {(row["task"], row["row"], row["seed"]): row for row in rows}
    for seed in SPLIT[given.part]["seeds"][: given.seeds]:
        for name in given.tasks:
            for kind in given.rows:
                if (name, kind, seed) in done:
                    continue
                earlier = done.get((name, "random" if kind in RATED else "hypernet", seed), {})
                rows.append(run(name, kind, seed, earlier))
                done[name, kind, seed] = rows[-1]
                print(
                    {k: v for k, v in rows[-1].items() if k not in ("course", "schedule")}, file=sys.stderr, flush=True
                )
                command = " ".join(["python benchmarks/one_training.py", *sys.argv[1:]])
                made = {"command": command, "machine": lt.environment(), "runs": rows, "apart": differences(rows)}
                given.out.write_text(json.dumps(made) + "\n")
    print(
        "| task | row | validation loss | test loss | least validation loss | CPU s | steps | test loss less random's |"
    )
    print("\n".join(["|---" * 8 + "|", *summary(rows)]))
    if given.part == "reporting":
        draw(rows, FIGURE if given.out == OUT else given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
