"""The GFlowNet paper's experiment on real data: surrogate, samplers with the paper's settings and ours, real trainings.

    python -m papers.gflownet.run              3 seeds; first the sweep of 1,400 trainings
    python -m papers.gflownet.run --full       all training images: days of one core
    python -m papers.gflownet.run --figures    only draw and write the tables again, from results.json

``--device`` and ``--anew`` are those of every paper (papers/command.py); on the device are the trainings of the
sweep and of what is sampled, the surrogate and the samplers are small and stay on the CPU. What has been run is kept
after every step of a seed, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import luthier as lt
from papers.command import Paper, Run, main
from papers.gflownet import sweep
from papers.gflownet.pictures import draw_all

# what lies below the public names
flow = importlib.import_module("luthier.propose.flow")
build = importlib.import_module("luthier.propose.generator").build
metrics = importlib.import_module("luthier.propose.gflownet").metrics
first_apart = importlib.import_module("luthier.space.distance").first_apart

BATCH, WITHIN, APART = 10, 0.01, 0.1
THEIRS = lt.propose.GFlowNet.paper().training
SURROGATE = lt.propose.Surrogate(width=64, steps=1_000, lr=0.01, decay=0.1)
EFFECTIVE = 50.0  # exp(entropy) of our target, in leaves of the 1,400


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    rows: int | None = 4_000  # training images
    rates: int = 28  # learning rates of the sweep, and bins of the samplers
    epochs: int = 10  # of the sweep, at most
    draws: int = 100  # configurations of each sampler that are trained for real
    scored: int = 1_000  # and that are scored by the surrogate
    seeds: int = 3


REDUCED = Size()
FULL = Size(rows=None, scored=10_000, seeds=5)  # of Fashion-MNIST's 60,000, 10,000 are for validation

PROPOSERS: dict[str, Callable[[], Any]] = {
    "TPE": lambda: lt.METHODS["tpe"].load()(),
    "gp": lambda: lt.propose.GaussianProcess(batch=BATCH),
    "gflownet, from nothing": lambda: lt.propose.GFlowNet(batch=BATCH),
}
TITLES = {
    "uniform": "uniform (random search)",
    "untrained": "untrained GFlowNet",
    "paper": "paper's settings, trained, temperature 1",
    "paper longer": "the same, 100,000 trajectories",
    "paper faster": "the same, learning rate 100 times as high",
    "paper, our settings": "our settings, the same target",
    "paper x0.1": "paper's settings, logits multiplied by 0.1 (as printed)",
    "paper /0.1": "paper's settings, logits divided by 0.1 (as meant)",
    "ours": "ours: exact, R^beta",
    "ours, learnt": "ours: learnt, the same target",
    **{name: f"{name}, 100 trainings alone" for name in PROPOSERS},
}
TRAINED = ("uniform", "untrained", "paper", "paper /0.1", "ours")
SCORED = ("paper longer", "paper faster", "paper, our settings")  # by the surrogate alone
SAMPLERS = [name for name in TITLES if name not in PROPOSERS]


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


def samplers(past: lt.History, seed: int, rates: int) -> tuple[Any, dict[str, tuple[Any, float]], dict[str, Any]]:
    """The fitted surrogate, each sampler with its temperature, and what was measured of them."""
    fitted = replace(lt.propose.GFlowNet(bins=rates, reward="metric", surrogate=SURROGATE), beta=1.0).fit(past, seed)
    ensemble, tree = fitted.surrogate, fitted.sampler.tree
    log_reward = metrics(ensemble)
    key = lt.Seeds(seed).key(0, "samplers")
    learnt = flow.learn(tree, log_reward, THEIRS, key=key)
    longer = flow.learn(tree, log_reward, replace(THEIRS, evaluations=10 * THEIRS.evaluations), key=key)
    faster = flow.learn(tree, log_reward, replace(THEIRS, lr=100 * THEIRS.lr), key=key)
    instead = flow.learn(tree, log_reward, key=key)
    untrained = flow.learn(tree, log_reward, replace(THEIRS, evaluations=1, batch=1, lr=1e-12), key=key)
    ours, beta = build(tree, log_reward, None, EFFECTIVE, flow.Settings(), key)
    begin = time.process_time()
    ours_learnt = flow.learn(tree, lambda leaves: beta * log_reward(leaves), key=key)
    spent = time.process_time() - begin
    uniform = flow.exact(tree, lambda leaves: np.zeros(len(leaves)))
    found = {
        "uniform": (uniform, 1.0),
        "untrained": (untrained, 1.0),
        "paper": (learnt, 1.0),
        "paper longer": (longer, 1.0),
        "paper faster": (faster, 1.0),
        "paper, our settings": (instead, 1.0),
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
            "paper longer": flow.distance(longer, fitted.sampler),
            "paper faster": flow.distance(faster, fitted.sampler),
            "paper, our settings": flow.distance(instead, fitted.sampler),
            "ours": 0.0,
            "ours, learnt": flow.distance(ours_learnt, ours),
        },
    }
    return ensemble, found, facts


def scored(ensemble: Any, sampler: Any, temperature: float, seed: int, count: int) -> dict[str, Any]:
    """What the surrogate says of a sampler."""
    tree = sampler.tree
    drawn = sampler.sample(count, rng=lt.Seeds(seed).rng(0, "score"), temperature=temperature)
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


def proposed(method: Any, task: lt.TorchTask, seed: int, draws: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A proposer's 100 real trainings, in batches of 10."""
    study = lt.Study("paper", sweep.SPACE, method=method, metric="accuracy", mode="max", trials=draws, seed=seed)
    while jobs := study.ask(BATCH):
        accuracies = sweep.train([job.config for job in jobs], 1_000 * (seed + 1) + jobs[0].number, task)
        study.tell_many([(job, {"accuracy": float(a)}) for job, a in zip(jobs, accuracies, strict=True)])
    past = study.history
    return [job.config for job in past.jobs], -past.values[:, 0]


def work(run: Run) -> None:
    """The sweep, then what has not been run, seed by seed."""
    past, task = sweep.sweep(run), sweep.task(run.size.rows, run.device)
    best = float(-past.values[:, 0].min())
    run.results.setdefault("facts", {})
    for seed in range(run.size.seeds):
        if not run.made(method="surrogate", seed=seed):
            run.keep([surrogate(past, seed)])
        if not all(run.made(method=name, seed=seed) for name in SAMPLERS):
            run.keep(sampled(run, past, task, seed, best))
        for name, make in PROPOSERS.items():
            if not run.made(method=name, seed=seed):
                configs, real = proposed(make(), task, seed, run.size.draws)
                row = {"method": name, "seed": seed, **judged(configs, real, best), "real": real.tolist()}
                run.keep([row | {"configs": [list(c.values()) for c in configs]}])


def sampled(run: Run, past: lt.History, task: lt.TorchTask, seed: int, best: float) -> list[dict[str, Any]]:
    """The samplers that have not been run: each one's distance and samples, 100 of them trained for real."""
    ensemble, found, facts = samplers(past, seed, run.size.rates)
    run.results["facts"][str(seed)] = facts
    rows, drawn = {}, {}
    for name, (sampler, temperature) in found.items():
        if run.made(method=name, seed=seed):
            continue
        rows[name] = {"method": name, "seed": seed, **scored(ensemble, sampler, temperature, seed, run.size.scored)}
        if name in facts["distances"]:
            rows[name]["L1"] = facts["distances"][name]
        if name in TRAINED:
            leaves = sampler.sample(run.size.draws, rng=lt.Seeds(seed).rng(0, "draws"), temperature=temperature)
            drawn[name] = sampler.tree.configs(leaves)
    accuracies = sweep.train([c for configs in drawn.values() for c in configs], seed + 1, task) if drawn else ()
    for i, (name, configs) in enumerate(drawn.items()):
        real = np.asarray(accuracies[i * run.size.draws : (i + 1) * run.size.draws])
        rows[name] |= judged(configs, real, best)
        rows[name]["real"] = real.tolist()
        rows[name]["configs"] = [list(c.values()) for c in configs]
    for row in rows.values():
        row["predicted"] = np.round(row["predicted"], 4).tolist() if seed == 0 else []
    return list(rows.values())


def tables_of() -> dict[str, Any]:
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
        "samples": {
            "by": "100 configurations from",
            "columns": sampled,
            "rows": [row for row in rows if row["where"]["method"] not in SCORED],
        },
    }


def draw(run: Run) -> None:
    """The paper's figures 2 and 3, and where samples fall."""
    draw_all(run.results, sweep.sweep(run), run.folder)


PAPER = Paper("gflownet", __doc__, REDUCED, FULL, work, tables_of, draw, also=("sweep.json", "sweep.db"))

if __name__ == "__main__":
    main(PAPER)
