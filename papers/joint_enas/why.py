"""Two runs that say why the joint controller is no better than random search on the stage "short".

    python -m papers.joint_enas.why             runs what is missing of why.json, writes its tables and its figure
    python -m papers.joint_enas.why updates     one of the two alone

"updates": everything as on "short", but for the length of the search: as there, 4 times and 16 times as long. Beside
the joint controller stand random search at the same total steps, and a search whose controller never learns: what lies
between the two searches is what the controller's learning adds.

"rates": what a child's learning rate is worth. Networks and optimizers are drawn uniformly, train for 3 steps (as a
child in the search) or 20 (as a whole training of this stage), from fresh weights or from those of a search that learns
nothing, and are sorted by the rate of those that drew Adam: so the horizon and the weights are told from each other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

import luthier as lt
from papers import figures, tables
from papers.command import text
from papers.joint_enas.network import JOINT
from papers.joint_enas.run import ARMS, HERE, SAFE, SPLIT, one
from papers.joint_enas.stages import REDUCED, Stage, task_of

FILE = HERE / "why.json"
STAGE, SEEDS = REDUCED.stage("short"), SPLIT["reporting"]["short"]
LEARN = ("none", "none safe", "unrolled")
LONGER = {1: ("random", "shared", *LEARN), 4: ("random", "shared", *LEARN), 16: ("random", "shared", *LEARN[1:])}
SHOWN = 24  # points of a curve that are kept
DRAWN = 60  # networks of each kind and seed
EDGES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WEIGHTS = {"fresh": None, "theirs": None, "safe": SAFE}
WHOLE = 20  # steps of a whole training there
Row = dict[str, Any]


def longer(method: str, times: int, task: lt.TorchTask, seed: int) -> Row:
    """An arm of "short" with so many times its search; as many children as there are trained from scratch."""
    half, arm = STAGE.trainings // 2, ARMS[method]
    stage = replace(STAGE, trainings=half * (times + 1))

    def made(stage: Stage) -> Any:
        found = arm.method(stage)
        if method == "random":
            return found
        derive, adapter = found
        return replace(derive, search=times / (times + 1)), adapter

    found = one(stage, replace(arm, method=made), task, seed, time.process_time)
    curves = found.pop("curves", {})
    if curves:
        found["updates"] = found["search_steps"][-1] // (4 * stage.child)
        kept = np.unique(np.linspace(0, len(found["search_steps"]) - 1, SHOWN).round().astype(int))
        found["search_steps"] = [found["search_steps"][place] for place in kept]
        found["curves"] = {name: [curves[name][place] for place in kept] for name in ("entropy", "lr")}
    return found


def drawn(weights: str, steps: int, task: lt.TorchTask, seed: int) -> Row:
    """Means over those of the drawn that have Adam, by learning rate."""
    if weights == "fresh":
        study, phase, prefix = lt.tune(task, "random", trials=DRAWN, steps=steps, seed=seed, progress=False), None, ""
    else:
        trials = STAGE.trainings // 2 + DRAWN * steps // WHOLE  # whole trainings that search and draws may take
        derive = lt.propose.Derive(search=trials / (trials + 1), draws=DRAWN, draw_steps=steps)
        adapter = lt.adapt.Enas("identity", steps=STAGE.child, learner=None, shared=WEIGHTS[weights])
        study = lt.tune(task, (derive, adapter), trials=trials + 1, steps=WHOLE, seed=seed, progress=False)
        phase, prefix = "draw", "shared_"
    history = study.history
    found = [(history.results[job.number], job) for job in history.jobs if job.tag.get("phase") == phase]
    told = [(result.final or job.config, result.metrics) for result, job in found if result and result.status == "ok"]
    adam = [(config["lr"], metrics) for config, metrics in told if config["optimizer"] == "adam"]
    row: Row = {"drawn": len(adam)}
    for low, high in pairwise(EDGES):
        mine = [metrics for lr, metrics in adam if low <= lr < high]
        for metric, scale in (("loss", 1), ("accuracy", 100)) if mine else ():
            row[f"{metric} from {low:g}"] = scale * float(np.mean([one[prefix + metric] for one in mine]))
    return row


def wanted(parts: list[str]) -> Iterator[tuple[Row, Callable[[lt.TorchTask], Row]]]:
    """What is to be run, each with how: one seed after the other, and the longest searches last."""
    for seed in SEEDS if "rates" in parts else ():
        for steps in (STAGE.child, WHOLE):
            for weights in WEIGHTS:
                place = {"part": "rates", "weights": weights, "steps": steps, "seed": seed}
                yield place, lambda task, w=weights, n=steps, s=seed: drawn(w, n, task, s)
    for times, methods in LONGER.items() if "updates" in parts else ():
        for seed in SEEDS:
            for method in methods:
                place = {"part": "updates", "method": method, "times": times, "seed": seed}
                yield place, lambda task, m=method, k=times, s=seed: longer(m, k, task, s)


def tables_of() -> dict[str, Any]:
    """What the README shows."""
    learns = [
        {"key": "updates", "title": "updates", "digits": 0},
        {"key": "test_accuracy", "title": "seeds", "show": "count"},
        {"key": "test_accuracy", "title": "test accuracy, %", "digits": 1},
        {"key": "test_accuracy", "title": "test, less random search's", "digits": 1, "against": {"method": "random"}},
        {"key": "test_accuracy", "title": "test, less of one that never learns", "digits": 1}
        | {"against": {"method": "shared"}},
        {"key": "mean_accuracy", "title": "mean of the trained, %", "digits": 1},
        {"key": "entropy", "title": "entropy at the end, nats", "digits": 2},
        {"key": "lr", "title": "mean learning rate at the end", "digits": 4},
        {"key": "steps", "title": "training steps", "digits": 0},
    ]
    rows = [
        {
            "title": f"{ARMS[method].title}, {'as long' if times == 1 else f'{times} times'}",
            "where": {"part": "updates", "method": method, "times": times},
        }
        for times, methods in LONGER.items()
        for method in methods
    ]
    found = {"updates": {"by": "short trainings, longer searches", "columns": learns, "rows": rows}}
    names = {"fresh": "fresh weights", "theirs": "shared weights", "safe": "shared weights, children train copies"}
    kinds = [(weights, steps) for weights in WEIGHTS for steps in (STAGE.child, WHOLE)]
    for metric, unit, digits in (("accuracy", ", %", 1), ("loss", "", 2)):
        bins = [
            {"key": f"{metric} from {low:g}", "title": f"{low:g} to {high:g}", "digits": digits}
            for low, high in pairwise(EDGES)
        ]
        lines = [
            {
                "title": f"{names[weights]}, {steps} steps",
                "where": {"part": "rates", "weights": weights, "steps": steps},
            }
            for weights, steps in kinds
        ]
        found[f"rates-{metric}"] = {"by": f"validation {metric}{unit}, by rate", "columns": bins, "rows": lines}
    return found


def draw(rows: list[Row]) -> None:
    """Mean learning rate and entropy of the controller over its updates."""
    for curve, y in (("lr", "log10 of the mean learning rate"), ("entropy", "entropy of the controller, nats")):
        series = {}
        for method in LEARN:
            runs = [row for row in rows if (row.get("method"), row.get("times")) == (method, 4) and "curves" in row]
            if runs:
                steps = np.array(runs[0]["search_steps"]) / (4 * STAGE.child)
                values = np.array([row["curves"][curve] for row in runs])
                series[ARMS[method].title] = (steps, np.log10(values) if curve == "lr" else values)
        if series:
            figures.lines(HERE / f"longer_{curve}.png", series, x="updates of the controller", y=y)


def main() -> None:
    """Run, write after each study, then write the tables and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["rates", "updates"], help="rates, updates, or both")
    parts = parser.parse_args().parts
    torch.set_num_threads(1)
    results = json.loads(FILE.read_text()) if FILE.exists() else {"runs": []}
    task = task_of(JOINT, STAGE, "cpu")
    for place, made in wanted(parts):
        if not any(place.items() <= row.items() for row in results["runs"]):
            results["runs"].append({**place, **made(task)})
            print({name: value for name, value in results["runs"][-1].items() if not isinstance(value, dict | list)})
            FILE.write_text(text(results))
    results |= {"command": "python -m papers.joint_enas.why", "machine": lt.environment(), "tables": tables_of()}
    FILE.write_text(text(results))
    draw(results["runs"])
    readme = HERE / "README.md"
    readme.write_text(tables.filled(readme.read_text(), results))
    for name in results["tables"]:
        print(tables.render(results, name), end="\n\n")


if __name__ == "__main__":
    main()
