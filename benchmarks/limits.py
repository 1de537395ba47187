"""Limits on metrics: how soon methods find a result inside, and how good the best inside is, beside Optuna's samplers.

    python benchmarks/limits.py                              # the seeds for reporting, all methods
    python benchmarks/limits.py --seeds 0 1 2 3 4 --methods gp   # those on which settings were chosen
    python benchmarks/limits.py --table                      # the table of what has been run

Five problems from the literature with a known best inside, and a table of real trainings (FCNet on protein structure,
its validation error under a limit on the number of weights), which is not part of this repository: LUTHIER_DATA names
the folder that holds ``dev/tables``, by default ../shared/data beside the checkout. A regret is the distance of the
best result inside from the best there is, as a part of that of the median result inside of random search; at most 1,
which also stands for no result inside. One worker, one thread; what has been run is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402  after the number of threads is set
import optuna  # noqa: E402

import luthier as lt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LUTHIER_DATA", ROOT.parent / "shared" / "data"))
OUT = ROOT / "benchmarks" / "results" / "limits.json"
CHOOSING, REPORTING = range(5), range(100, 110)
AFTER = (25, 50, 100)  # evaluations
FEWER = {"Optuna GPSampler": 50}  # evaluations of what takes 10 to 40 CPU seconds for 100
SAMPLES = 20_000  # of which the median inside is taken

Values = Callable[[Mapping[str, Any]], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Problem:
    """A function under limits.

    Args:
        space: Its space.
        values: The objective ``loss``, minimised, and the limited metrics of a configuration.
        limits: Bounds of these, as :func:`luthier.tune` takes them.
        best: The lowest loss inside.
    """

    space: lt.Space
    values: Values
    limits: dict[str, tuple[float | None, float | None]]
    best: float

    @cache  # noqa: B019  the problems live as long as the program
    def typical(self) -> float:
        """The median loss inside, of random configurations."""
        drawn = [self.values(config) for config in self.space.sample(np.random.default_rng(0), SAMPLES)]
        return statistics.median(values["loss"] for values in drawn if self.inside(values))

    def inside(self, values: Mapping[str, float]) -> bool:
        """Return True if all limits are kept."""
        return all(excess <= 0 for excess in self.excesses(values))

    def excesses(self, values: Mapping[str, float]) -> list[float]:
        """What Optuna calls constraints: the excess over each bound."""
        found = []
        for name, (low, high) in self.limits.items():
            found += [] if low is None else [low - values[name]]
            found += [] if high is None else [values[name] - high]
        return found


def cube(low: float, high: float, count: int) -> lt.Space:
    """A space of ``count`` numbers in one range."""
    return lt.Space(**{f"x{i}": lt.Float(low, high) for i in range(count)})


def simulation_1(config: Mapping[str, Any]) -> dict[str, float]:
    """Gardner et al. 2014, section 4.1, simulation 1."""
    x, y = config["x0"], config["x1"]
    return {"loss": math.cos(2 * x) * math.cos(y) + math.sin(x), "c": math.cos(x + y)}


def simulation_2(config: Mapping[str, Any]) -> dict[str, float]:
    """Gardner et al. 2014, section 4.1, simulation 2: one part in sixty is inside."""
    x, y = config["x0"], config["x1"]
    return {"loss": math.sin(x) + y, "c": math.sin(x) * math.sin(y)}


def branin(config: Mapping[str, Any]) -> dict[str, float]:
    """Branin under a disk that holds one of its three minima (Gelbart, Snoek and Adams 2014)."""
    x, y = config["x"], config["y"]
    value = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
    return {"loss": value + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10, "c": (x - 2.5) ** 2 + (y - 7.5) ** 2}


def vessel(config: Mapping[str, Any]) -> dict[str, float]:
    """The pressure vessel of Sandgren 1990, with continuous thicknesses."""
    shell, head, radius, length = (config[name] for name in ("shell", "head", "radius", "length"))
    cost = 0.6224 * shell * radius * length + 1.7781 * head * radius**2
    return {
        "loss": cost + 3.1661 * shell**2 * length + 19.84 * shell**2 * radius,
        "stress": shell - 0.0193 * radius,
        "cap": head - 0.00954 * radius,
        "volume": math.pi * radius**2 * length + 4 / 3 * math.pi * radius**3,
    }


_SHARP = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_PLACE = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(config: Mapping[str, Any]) -> dict[str, float]:
    """Hartmann's function of six numbers inside the unit ball (Letham et al. 2019)."""
    x = np.array([config[f"x{i}"] for i in range(6)])
    value = -np.array([1, 1.2, 3, 3.2]) @ np.exp(-(_SHARP * (x - _PLACE) ** 2).sum(axis=1))
    return {"loss": float(value), "c": float((x**2).sum())}


def trainings(name: str, inputs: int, most: float) -> Problem:
    """A table of real trainings of networks with two hidden layers: its error, and the number of weights and biases."""
    table = np.load(DATA / "dev" / "tables" / f"{name}.npz")
    error = table["Y"].astype(float).mean(axis=-1)
    axes = {str(n): json.loads(str(c)) for n, c in zip(table["names"], table["choices"], strict=True)}
    numbers = {n: all(isinstance(value, int | float) for value in options) for n, options in axes.items()}
    space = lt.Space(**{n: lt.Choice(options, ordered=numbers[n]) for n, options in axes.items()})
    first, second = [n for n in axes if "units" in n]

    def values(config: Mapping[str, Any]) -> dict[str, float]:
        place = tuple(options.index(config[n]) for n, options in axes.items())
        a, b = config[first], config[second]
        return {"loss": float(np.log(error[place])), "weights": (inputs + 1) * a + (a + 1) * b + b + 1}

    at = [list(axes).index(n) for n in (first, second)]
    small = [
        float(np.log(np.take(np.take(error, i, at[0]), j, at[1] - (at[0] < at[1])).min()))
        for i, a in enumerate(axes[first])
        for j, b in enumerate(axes[second])
        if (inputs + 1) * a + (a + 1) * b + b + 1 <= most
    ]
    return Problem(space, values, {"weights": (None, most)}, min(small))


def problems() -> dict[str, Problem]:
    """All problems by name."""
    found = {
        "Gardner 1": Problem(cube(0.0, 6.0, 2), simulation_1, {"c": (None, 0.5)}, -2.0),
        "Gardner 2": Problem(cube(0.0, 6.0, 2), simulation_2, {"c": (None, -0.95)}, 0.2532358975460342),
        "Branin, disk": Problem(
            lt.Space(x=lt.Float(-5.0, 10.0), y=lt.Float(0.0, 15.0)), branin, {"c": (None, 50.0)}, 0.39788735772973816
        ),
        "vessel": Problem(
            lt.Space(
                shell=lt.Float(0.0625, 6.1875),
                head=lt.Float(0.0625, 6.1875),
                radius=lt.Float(10.0, 200.0),
                length=lt.Float(10.0, 200.0),
            ),
            vessel,
            {"stress": (0.0, None), "cap": (0.0, None), "volume": (1_296_000.0, None)},
            5885.332773616458,
        ),
        "Hartmann, ball": Problem(cube(0.0, 1.0, 6), hartmann, {"c": (None, 1.0)}, -3.322368011415512),
    }
    if (DATA / "dev" / "tables").is_dir():
        found["small network"] = trainings("fcnet_protein_structure", 9, 10_000)
    return found


def ours(method: Any, problem: Problem, seed: int, trials: int) -> list[dict[str, float]]:
    """The results of a method of ours, in order."""
    study = lt.tune(
        lambda config: problem.values(config),
        method,
        space=problem.space,
        trials=trials,
        limits=problem.limits,
        seed=seed,
        progress=False,
    )
    return [dict(trial.metrics) for trial in study.trials]


def optunas(sampler: Callable[[int], Any], problem: Problem, seed: int, trials: int) -> list[dict[str, float]]:
    """The results of a sampler of Optuna's, told of the limits as constraints."""
    study = optuna.create_study(sampler=sampler(seed))
    found = []
    for _ in range(trials):
        trial = study.ask()
        values = problem.values(
            {name: _suggested(trial, name, domain) for name, domain in problem.space.domains.items()}
        )
        for place, excess in enumerate(problem.excesses(values)):
            trial.set_constraint(str(place), excess)
        study.tell(trial, values["loss"])
        found.append(values)
    return found


def _suggested(trial: Any, name: str, domain: Any) -> Any:
    if isinstance(domain, lt.Float):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    if domain.ordered:
        return domain.options[trial.suggest_int(name, 0, len(domain.options) - 1)]
    return trial.suggest_categorical(name, list(domain.options))


METHODS: dict[str, Callable[[Problem, int, int], list[dict[str, float]]]] = {
    "gp": lambda *given: ours("gp", *given),
    "tpe (Optuna's, through luthier)": lambda *given: ours("tpe", *given),
    "random": lambda *given: ours("random", *given),
    "Optuna TPESampler": lambda *given: optunas(lambda seed: optuna.samplers.TPESampler(seed=seed), *given),
    "Optuna GPSampler": lambda *given: optunas(
        lambda seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=True), *given
    ),
}


def measured(problem: Problem, results: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Regrets after so many results, and the place of the first one inside, or None."""
    inside = [problem.inside(values) for values in results]
    losses = [values["loss"] if good else math.inf for values, good in zip(results, inside, strict=True)]
    scale = problem.typical() - problem.best
    regrets = [min(1.0, (min(losses[:count]) - problem.best) / scale) for count in AFTER if count <= len(losses)]
    return {"regret": regrets, "first": inside.index(True) + 1 if any(inside) else None, "inside": sum(inside)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each problem and method, and for each method over all problems, of the seeds that it has on them."""
    lines = ["| problem | method | seeds | " + " | ".join(f"after {count}" for count in AFTER) + " | first inside |"]
    lines.append("|" + "---|" * (len(AFTER) + 4))
    names = list(dict.fromkeys(row["problem"] for row in rows))
    for problem in [*names, "all"]:
        wanted = names if problem == "all" else [problem]
        for method in METHODS:
            found = {(row["problem"], row["seed"]): row for row in rows if row["method"] == method}
            seeds = [s for s in sorted({row["seed"] for row in rows}) if all((name, s) in found for name in wanted)]
            own = [[found[name, seed] for name in wanted] for seed in seeds]
            if own:
                lines.append(f"| {problem} | {method} | {len(seeds)} | {' | '.join(_cells(own))} |")
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The lines of the table over all problems, by method."""
    heads, _, *lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table(rows).splitlines()]
    found = {line[1]: dict(zip(heads[2:], line[2:], strict=True)) for line in lines if line[0] == "all"}
    for method, line in found.items():
        line["CPU s"] = f"{statistics.fmean(row['cpu_seconds'] for row in rows if row['method'] == method):.1f}"
    return found


def _cells(own: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Regrets, mean ± sd over seeds of the mean over problems, and the mean place of the first inside."""
    cells = []
    for place in range(len(AFTER)):
        if any(place >= len(row["regret"]) for one in own for row in one):
            cells.append("")
            continue
        means = [statistics.fmean(row["regret"][place] for row in one) for one in own]
        cells.append(f"{statistics.fmean(means):.4f} ± {statistics.stdev(means) if len(means) > 1 else 0:.4f}")
    firsts = [AFTER[-1] + 1 if row["first"] is None else row["first"] for one in own for row in one]
    return [*cells, f"{statistics.fmean(firsts):.1f}"]


def main() -> None:
    """Run what is asked for and missing, seed by seed; print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(REPORTING))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--problems", nargs="+")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = json.loads(given.out.read_text())["runs"] if given.out.exists() else []
    have = {(row["problem"], row["method"], row["seed"]) for row in rows}
    known = problems()
    for seed in () if given.table else given.seeds:
        for name, problem in known.items():
            for method in given.methods:
                if (name, method, seed) in have or (given.problems and name not in given.problems):
                    continue
                began = time.process_time()
                row = measured(problem, METHODS[method](problem, seed, FEWER.get(method, AFTER[-1])))
                spent = round(time.process_time() - began, 2)
                rows.append({"problem": name, "method": method, "seed": seed, **row, "cpu_seconds": spent})
                print(name, method, seed, row, spent, flush=True)
                versions = {"optuna": optuna.__version__, "numpy": np.__version__}
                written = {"versions": versions, "summary": summary(rows), "runs": rows}
                given.out.write_text(json.dumps(written, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
