"""The GFlowNet paper's experiment on real data: surrogate, samplers with the paper's settings and ours, real trainings.

    python -m papers.gflownet.sweep               first: 1,400 trainings, 10 minutes of one core
    python -m papers.gflownet.run                 3 seeds; about 10 minutes of one core each
    python -m papers.gflownet.run --figures       only draw and write the tables again, from results.json

What has been run is kept after every step of a seed, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import luthier as lt
from papers import tables
from papers.gflownet import sweep
from papers.gflownet.pictures import draw_all

# what lies below the public names
flow = importlib.import_module("luthier.propose.flow")
PAPER = importlib.import_module("luthier.propose.flow.settings").PAPER
build = importlib.import_module("luthier.propose.generator").build
metrics = importlib.import_module("luthier.propose.gflownet").metrics
first_apart = importlib.import_module("luthier.space.distance").first_apart

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
DRAWS, SCORED = 100, 1_000  # configurations trained for real, and scored by the surrogate
BATCH, WITHIN, APART = 10, 0.01, 0.1
LEVELS = 28  # bins of the learning rate: the sweep's
SURROGATE = lt.propose.Surrogate(width=64, steps=1_000, lr=0.01, decay=0.1)
EFFECTIVE = 50.0  # exp(entropy) of our target, in leaves of the 1,400

PROPOSERS: dict[str, Callable[[], Any]] = {
    "TPE": lambda: lt.METHODS["tpe"].load()(),
    "gp": lambda: lt.propose.GaussianProcess(batch=BATCH),
    "gflownet, from nothing": lambda: lt.propose.GFlowNet(batch=BATCH),
}
TITLES = {
    "uniform": "uniform (random search)",
    "untrained": "untrained GFlowNet",
    "paper": "paper's settings, trained, temperature 1",
    "paper x0.1": "the same, logits multiplied by 0.1 (as printed)",
    "paper /0.1": "the same, logits divided by 0.1 (as meant)",
    "ours": "ours: exact, R^beta",
    "ours, learnt": "ours: learnt, the same target",
    **{name: f"{name}, 100 trainings alone" for name in PROPOSERS},
}
TRAINED = ("uniform", "untrained", "paper", "paper x0.1", "paper /0.1", "ours")


def history() -> lt.History:
    """The sweep as a history."""
    found = json.loads(sweep.SWEEP.read_text())
    past = lt.History(sweep.SPACE, {"accuracy": "max"})
    for number, row in enumerate(found["rows"]):
        past.add(lt.Job(number, dict(zip(found["columns"][:-1], row, strict=False))))
        past.add(lt.Result(number, "ok", {"accuracy": row[-1]}))
    return past


def surrogate(past: lt.History, seed: int) -> dict[str, Any]:
    """The validation loss: mean squared error of the accuracy on a fifth of the sweep that was not seen."""
    rows = lt.Seeds(seed).rng(0, "validation").permutation(len(past))
    train, valid = np.split(rows, [len(rows) * 4 // 5])
    begin = time.process_time()
    fitted = SURROGATE.fit_points(past.space, past.codes[train], past.mask[train], past.values[train, 0], seed)
    spent = time.process_time() - begin
    mean, deviation = fitted.predict(past.codes[valid], past.mask[valid])
    error = past.values[valid, 0] - mean
    return {
        "method": "surrogate",
        "seed": seed,
        "validation loss": float(np.mean(error**2)),
        "held-out loss": fitted.rmse**2,
        "coverage": float(np.mean(np.abs(error) <= deviation)),
        "variance": float(past.values[valid, 0].var()),
        "cpu": spent,
    }


def samplers(past: lt.History, seed: int) -> tuple[Any, dict[str, tuple[Any, float]], dict[str, Any]]:
    """The fitted surrogate, each sampler with its temperature, and what was measured of them."""
    fitted = replace(lt.propose.GFlowNet(bins=LEVELS, reward="metric", surrogate=SURROGATE), beta=1.0).fit(past, seed)
    ensemble, tree = fitted.surrogate, fitted.sampler.tree
    log_reward = metrics(ensemble, -1.0)
    key = lt.Seeds(seed).key(0, "samplers")
    learnt = flow.learn(tree, log_reward, PAPER, key=key)
    untrained = flow.learn(tree, log_reward, replace(PAPER, evaluations=1, batch=1, lr=1e-12), key=key)
    ours, beta = build(tree, log_reward, None, EFFECTIVE, flow.Settings(), key)
    begin = time.process_time()
    ours_learnt = flow.learn(tree, lambda leaves: beta * log_reward(leaves), key=key)
    spent = time.process_time() - begin
    uniform = flow.exact(tree, lambda leaves: np.zeros(len(leaves)))
    found = {
        "uniform": (uniform, 1.0),
        "untrained": (untrained, 1.0),
        "paper": (learnt, 1.0),
        "paper x0.1": (learnt, 10.0),
        "paper /0.1": (learnt, 0.1),
        "ours": (ours, 1.0),
        "ours, learnt": (ours_learnt, 1.0),
    }
    facts = {
        "beta": beta,
        "losses": learnt.losses.tolist(),
        "our losses": ours_learnt.losses.tolist(),
        "learning cpu": spent,
        "distances": {
            "uniform": flow.distance(uniform, fitted.sampler),
            "untrained": flow.distance(untrained, fitted.sampler),
            "paper": flow.distance(learnt, fitted.sampler),
            "ours": 0.0,
            "ours, learnt": flow.distance(ours_learnt, ours),
        },
    }
    return ensemble, found, facts


def scored(ensemble: Any, sampler: Any, temperature: float, seed: int) -> dict[str, Any]:
    """What the surrogate says of a sampler."""
    tree = sampler.tree
    drawn = sampler.sample(SCORED, rng=lt.Seeds(seed).rng(0, "score"), temperature=temperature)
    predicted = -ensemble.predict(drawn.codes, drawn.mask)[0]
    mass = sampler.log_mass(tree.all, temperature)
    spread = float(np.exp(-(np.exp(mass) * np.where(np.isfinite(mass), mass, 0.0)).sum()))
    return {"predicted": predicted, "predicted mean": float(predicted.mean()), "effective": spread}


def judged(configs: list[dict[str, Any]], accuracies: np.ndarray, best: float) -> dict[str, float]:
    """Of real trainings: the best, the mean, and how many different ones are within 1 % of the best known."""
    codes, mask = sweep.SPACE.encode(configs)
    order = np.argsort(-accuracies, kind="stable")
    good = order[accuracies[order] >= (1 - WITHIN) * best]
    return {
        "best": float(accuracies.max()),
        "mean": float(accuracies.mean()),
        "within": len({tuple(configs[i].values()) for i in good}),
        "different": len(first_apart(sweep.SPACE, codes[good], mask[good], APART)),
    }


def proposed(method: Any, task: lt.TorchTask, seed: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A proposer's 100 real trainings, in batches of 10."""
    study = lt.Study("paper", sweep.SPACE, method=method, metric="accuracy", mode="max", trials=DRAWS, seed=seed)
    while jobs := study.ask(BATCH):
        accuracies = sweep.train([job.config for job in jobs], 1_000 * (seed + 1) + jobs[0].number, task)
        study.tell_many([(job, {"accuracy": float(a)}) for job, a in zip(jobs, accuracies, strict=True)])
    past = study.history
    return [job.config for job in past.jobs], -past.values[:, 0]


def run(seed: int, results: dict[str, Any]) -> None:
    """One seed, step by step; each is skipped where its results are there."""
    past, task = history(), sweep.task()
    best = float(-past.values[:, 0].min())
    done = {(r["method"], r["seed"]) for r in results["runs"]}
    if ("surrogate", seed) not in done:
        keep(results, [surrogate(past, seed)])
    if ("uniform", seed) not in done:
        ensemble, found, facts = samplers(past, seed)
        rows, drawn = {}, {}
        for name, (sampler, temperature) in found.items():
            rows[name] = {"method": name, "seed": seed, **scored(ensemble, sampler, temperature, seed)}
            if name in facts["distances"]:
                rows[name]["L1"] = facts["distances"][name]
            if name in TRAINED:
                rng = lt.Seeds(seed).rng(0, "draws")
                leaves = sampler.sample(DRAWS, rng=rng, temperature=temperature)
                drawn[name] = sampler.tree.configs(leaves)
        begin = time.process_time()
        accuracies = sweep.train([c for configs in drawn.values() for c in configs], seed + 1, task)
        spent = time.process_time() - begin
        for i, (name, configs) in enumerate(drawn.items()):
            real = accuracies[i * DRAWS : (i + 1) * DRAWS]
            rows[name] |= judged(configs, real, best)
            rows[name]["real"] = real.tolist()
            rows[name]["configs"] = [list(c.values()) for c in configs]
        for row in rows.values():
            row["predicted"] = np.round(row["predicted"], 4).tolist() if seed == 0 else []
        results["facts"][str(seed)] = {**facts, "training cpu": spent}
        keep(results, list(rows.values()))
    for name, make in PROPOSERS.items():
        if (name, seed) not in done:
            configs, real = proposed(make(), task, seed)
            row = {"method": name, "seed": seed, **judged(configs, real, best), "real": real.tolist()}
            keep(results, [row | {"configs": [list(c.values()) for c in configs]}])


def keep(results: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Add rows, write the file, say so."""
    results["runs"] += rows
    RESULTS.write_text(json.dumps(results) + "\n")
    for row in rows:
        print({name: value for name, value in row.items() if not isinstance(value, list)}, flush=True)


def layout() -> dict[str, Any]:
    """The tables of the README."""
    sampled = [
        *({"key": "predicted mean", "title": "mean by the surrogate", "digits": 3},),
        *({"key": "mean", "title": "mean, trained", "digits": 3},),
        *({"key": "best", "title": "best", "digits": 4},),
        *({"key": "within", "title": "within 1 %", "digits": 1},),
        *({"key": "different", "title": "of them different", "digits": 1},),
    ]
    fit = [
        {"key": "validation loss", "title": "validation loss", "digits": 5},
        {"key": "coverage", "title": "within one deviation", "digits": 2},
        {"key": "cpu", "title": "CPU s", "digits": 1},
    ]
    exactness = [
        {"key": "L1", "title": "L1 distance to its target", "digits": 3},
        {"key": "effective", "title": "exp(entropy)", "digits": 0},
    ]
    rows = [{"title": title, "where": {"method": name}} for name, title in TITLES.items()]
    claim = {"title": "the paper", "cells": {"validation loss": "0.0006"}}
    return {
        "surrogate": {
            "by": "",
            "columns": fit,
            "rows": [claim, {"title": "ours", "where": {"method": "surrogate"}}],
        },
        "flows": {"by": "sampler", "columns": exactness, "rows": rows[: -len(PROPOSERS)]},
        "samples": {"by": "100 configurations from", "columns": sampled, "rows": rows},
    }


def main() -> None:
    """Run what is missing, then write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figures", action="store_true", help="only draw, from results.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": [], "facts": {}}
    results |= {
        "command": "python -m papers.gflownet.run",
        "machine": f"{platform.machine()}, one thread of a shared machine",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tables": layout(),
    }
    for seed in range(0 if arguments.figures else arguments.seeds):
        run(seed, results)
    RESULTS.write_text(json.dumps(results) + "\n")
    draw_all(results, history(), HERE)
    readme = HERE / "README.md"
    if readme.exists():
        readme.write_text(tables.filled(readme.read_text(), results))


if __name__ == "__main__":
    main()
