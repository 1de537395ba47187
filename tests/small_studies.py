"""Seven small studies, one for each kind of method, which are to end the same whatever is done to them on the way."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

import luthier as lt
from luthier.jobs import History, Note, Result

SPACE = lt.Space(lr=lt.Float(1e-3, 0.3, log=True), l2=lt.Float(1e-6, 1e-2, log=True))


class Training:
    """One number that shrinks."""

    report_every = 2
    pause = 0.0  # seconds that a step takes

    def init(self, config: lt.Config, key: int) -> dict[str, Any]:
        return {"w": 1.0 + key % 7}

    def advance(self, state: Any, config: lt.Config, steps: int) -> Any:
        time.sleep(self.pause * steps)
        return {"w": state["w"] * (1 - config["lr"]) ** steps + config["l2"]}, {}

    def evaluate(self, state: Any) -> dict[str, float]:
        return {"loss": state["w"]}


def network(space: lt.Space) -> lt.TorchTask:
    noise = torch.Generator().manual_seed(0)
    inputs = torch.randn(16, 3, generator=noise)
    split = lt.data.Split(inputs, inputs.sum(1, keepdim=True))
    choose: dict[Any, Any] = {"relu": torch.nn.ReLU(), "tanh": torch.nn.Tanh()}

    def model(config: lt.Config) -> torch.nn.Module:
        middle = lt.nn.Choose("act", choose) if "act" in space.names else torch.nn.Tanh()
        return torch.nn.Sequential(torch.nn.Linear(3, 2), middle, torch.nn.Linear(2, 1))

    return lt.TorchTask(
        space=space,
        model=model,
        data=lt.data.Splits(split, split, split),
        loss=lambda output, target: ((output - target) ** 2).mean(),
        batch_size=8,
        optimizer=lt.optim.sgd if "lr" in space.names else lt.optim.SGD(lr=0.1),
    )


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "random": (Training(), "random", {"trials": 80, "steps": 6}),
    "gp": (Training(), "gp", {"trials": 40, "steps": 4}),
    "hyperband": (Training(), "hyperband", {"trials": 15, "steps": 27}),
    "pbt": (Training(), lt.propose.PBT(rounds=4), {"trials": 4, "steps": 16}),
    "hypergradient": (network(lt.Space(lr=SPACE["lr"])), "hypergradient", {"trials": 4, "steps": 12}),
    "bilevel": (network(lt.Space(weight_decay=lt.Float(1e-6, 0.1, log=True))), "bilevel", {"trials": 1, "steps": 20}),
    "enas": (network(lt.Space(act=lt.Choice(["relu", "tanh"]))), "enas", {"trials": 2, "steps": 400}),
}


def events(history: History) -> dict[int, list[str]]:
    """All that happened to each job but what a clock says of it, and the random parts of the names of files.

    Jobs of one stack end together, and whether a report of one is written before the result of another is the clock's.
    """
    found: dict[int, list[str]] = {}
    for event in history.log:
        if not isinstance(event, Note):
            told = replace(event, seconds=0.0, checkpoint=None) if isinstance(event, Result) else event
            found.setdefault(event.number, []).append(repr(told))
    return found


def run(method: str, store: Any, **settings: Any) -> lt.Study:
    """The study of that name, in a store."""
    task, given, budget = CASES[method]
    space = SPACE if isinstance(task, Training) else None
    return lt.tune(task, given, space=space, seed=3, progress=False, store=store, name=method, **budget, **settings)


def best_state(study: lt.Study) -> list[tuple[str, bytes]]:
    """The bytes of all tensors in the state of the best job, and the spelling of all else; nothing if none is kept."""
    best = study.history.results[study.history.best or 0]
    if best is None or best.checkpoint is None:
        return []
    file, row = best.checkpoint
    checkpoints: Any = study._ledger.checkpoints  # type: ignore[attr-defined]
    leaves, _ = pytree.tree_flatten(checkpoints.load(file)[0])
    return [  # of a stack's file only its own row
        (str(leaf.dtype), leaf[row].numpy().tobytes()) if isinstance(leaf, torch.Tensor) else (repr(leaf), b"")
        for leaf in leaves
    ]
