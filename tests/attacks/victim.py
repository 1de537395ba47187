"""The program under attack: a user's script, told by one JSON argument what to tune and how to misbehave.

It keeps a log of its own, a line and an fsync for each training begun and ended: what is compared with the database.
"""

import json
import os
import sys
import time

import luthier as lt

spec = json.loads(sys.argv[1])


def write(**line):
    file = os.open(spec["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, (json.dumps({"pid": os.getpid(), **line}) + "\n").encode())
    os.fsync(file)
    os.close(file)


def loss_of(config, seed, step):
    return (config["x"] - 0.3) ** 2 + (config["y"] + 0.2) ** 2 + seed / 2**42 + 1 / (step + 1)


def objective(config, trial):
    known = {"study": trial.study, "number": trial.number, "config": dict(config), "seed": trial.seed}
    write(what="begin", **known)
    steps = spec.get("steps", 3)
    for step in range(steps):
        time.sleep(spec.get("pause", 0.05))
        trial.report(step, loss=loss_of(config, trial.seed, step))
    value = loss_of(config, trial.seed, steps - 1)
    for name, text in spec.get("bad", {}).items():
        if name == "all" or int(name) == trial.number:
            exec(
                text, {"trial": trial, "config": config, "spec": spec, "write": write, "os": os, "time": time, "lt": lt}
            )
    write(what="end", value=value, **known)
    return value


class Walk:
    """A training with a state of some size, whose numbers depend on every step that was made."""

    report_every = 1

    def init(self, config, key):
        import numpy as np

        write(what="init", key=key)
        return {"w": np.random.default_rng(key).standard_normal(spec.get("floats", 1000)), "t": 0}

    def advance(self, state, config, steps):
        time.sleep(spec.get("pause", 0.0))
        for _ in range(steps):
            state = {"w": state["w"] * (1 - 0.1 * abs(config["x"])) + 0.01 * config["y"], "t": state["t"] + 1}
        return state, {}

    def evaluate(self, state):
        return {"loss": float((state["w"] ** 2).mean()) + 0.001 * state["t"]}


def main():
    space = lt.Space(x=lt.Float(-1.0, 1.0), y=lt.Float(-1.0, 1.0))
    walk = spec.get("task") == "walk"
    store = spec["store"]
    how = {key: spec[key] for key in ("lease", "outage", "checkpoints") if key in spec}
    if how:
        store = lt.open_store(store, **how)
    more = {
        key: spec[key] for key in ("workers", "seconds", "trial_seconds", "on_change", "retry_failed") if key in spec
    }
    if walk:
        more["steps"] = spec.get("steps", 20)
    study = lt.tune(
        Walk() if walk else objective,
        spec.get("method", "random"),
        space=space,
        trials=spec.get("trials", 12),
        seed=spec.get("seed", 3),
        store=store,
        name=spec.get("name", "s"),
        **more,
    )
    print("SAW " + json.dumps([[trial.number, trial.status, trial.metrics.get("loss")] for trial in study.trials]))
    print("LEFT IN GOOD ORDER", flush=True)


main()
