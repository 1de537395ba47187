"""Make the databases of schema 1 in this folder; to be run with luthier 0.3 of commit d7b0629.

    PYTHONPATH=<that version> python tests/store/schema1/make.py tests/store/schema1 [postgresql://…]

``odd`` holds every spelling that the columns know; ``finished``, ``several`` and ``enas`` are studies of ``lt.tune``;
``running`` and ``pbt`` were stopped in the middle. An SQLite file comes with its folder of checkpoints; what a history
reads from it is written beside it, as one text a line. With a URL the same studies are written there.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import torch

import luthier as lt
from luthier.jobs import History, Job, Report, Result
from luthier.space import Float, Space
from luthier.store import open_store

LONG = [0.1 * k for k in range(100)] + [math.nan, -math.inf, -0.0, 5e-324]
SPACE = lt.Space(x=lt.Float(0.0, 1.0), kind=lt.Choice(["a", "b"]))


class Training:
    """One number that shrinks; it stops its driver when it has been advanced often enough."""

    left = 10**9
    report_every = 2

    def init(self, config, key):
        return {"w": 1.0}

    def advance(self, state, config, steps):
        Training.left -= 1
        if Training.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return {"w": state["w"] * (1 - 0.1 * config["x"]) ** steps}, {}

    def evaluate(self, state):
        return {"loss": state["w"]}


def odd(store) -> None:
    """Events of every kind, with all that is hard to spell."""
    store.create(
        "odd", {"objectives": {"loss": "min", "accuracy": "max"}, "space": Space(x=Float(0, 1)).to_json(), "seed": 0}
    )
    study, history = store.attach("odd", "maker"), History(Space(x=Float(0, 1)), {"loss": "min"})
    jobs = [
        Job(0, {}),
        Job(1, {"lr": 1e-4, "$float": "nan", "all": LONG}, 12, 0, {"deep": {"a": [{"b": math.nan}, -math.inf]}}),
        Job(2, {"ä": "größe \n\0\ud800"}, 2**40),
        Job(3, {"x": 0.5}),
        Job(4, {"x": 0.5}),
    ]
    study.append(jobs, history)
    reports = [
        Report(1, 10, {"loss": math.nan}),
        Report(0, 1, {}, {"lr": 0.1, "$x": -math.inf}),
        Report(1, 20, {"loss": 0.5}, {"mask": [0.25 * k for k in range(100)], "lr": 0.1}),
        Report(1, 30, {"loss": 0.25}, {"mask": [0.5 * k for k in range(100)], "lr": 0.1}),
    ]
    results = [
        Result(1, "diverged", {"loss": math.nan, "$l": math.inf}, 3, {"all": LONG, "lr": math.inf}, math.nan),
        Result(0, "ok", {"loss": 0.1 + 0.2}, 5, {}, 1 / 3, "", ('stack-"0".ckpt', 12)),
        Result(2, "failed", {}, 0, {}, math.inf, "ValueError: 'größe' \n\0 \ud800 \"q\""),
        Result(4, "pruned", {"loss": 1e-300}, 2, {"x": 5e-324}, 1e22),
    ]
    study.record(results, reports)


def interrupted(*args, **more) -> None:
    try:
        lt.tune(*args, **more)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was not stopped in time")


def network_task() -> lt.TorchTask:
    """A linear network on eight rows, with the choices that enas learns."""
    noise = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, generator=noise)
    split = lt.data.Split(inputs, inputs.sum(1, keepdim=True))
    return lt.TorchTask(
        space=lt.Space(act=lt.Choice(["relu", "tanh"])),
        model=lambda config: torch.nn.Sequential(
            torch.nn.Linear(3, 2),
            lt.nn.Choose("act", {"relu": torch.nn.ReLU(), "tanh": torch.nn.Tanh()}),
            torch.nn.Linear(2, 1),
        ),
        data=lt.data.Splits(split, split, split),
        loss=lambda output, target: ((output - target) ** 2).mean(),
        batch_size=4,
    )


def fill(store) -> None:
    quiet = {"store": store, "progress": False, "seed": 3}
    odd(store)
    lt.tune(lambda config: config["x"], "genetic", space=SPACE, trials=40, name="finished", **quiet)
    goals = {"metric": ["loss", "accuracy"], "mode": ["min", "max"]}

    def both(config):
        return {"loss": config["x"], "accuracy": config["x"] ** 2}

    lt.tune(both, space=SPACE, trials=12, name="several", **goals, **quiet)
    Training.left = 25
    interrupted(Training(), space=SPACE, trials=30, steps=8, name="running", **quiet)
    Training.left = 55
    interrupted(Training(), lt.propose.PBT(rounds=4), space=SPACE, trials=4, steps=80, name="pbt", **quiet)
    lt.tune(network_task(), "enas", trials=2, steps=400, name="enas", **quiet)


def main(folder: Path, urls: list[str]) -> None:
    path = folder / "old.v1.db"
    shutil.rmtree(path.with_suffix(".checkpoints"), ignore_errors=True)
    path.unlink(missing_ok=True)
    for place in (path, *urls):
        with open_store(place) as store:
            fill(store)
    with open_store(path) as store, (folder / "events.txt").open("w") as out:
        for summary in store.studies():
            settings = store.settings(summary.name)
            history = History(Space.from_json(settings["space"]), settings["objectives"])
            store.attach(summary.name, "reader").sync(history)
            for event in history.events:
                out.write(f"{summary.name} {event!a}\n")
            out.write(f"{summary.name} {summary.jobs} {summary.done} {summary.best} {summary.best_value!r}\n")
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("VACUUM")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
