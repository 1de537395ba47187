"""Syne Tune's DyHPO and MOBSTER for benchmarks/curves.py; started by it, in an interpreter that has them.

    python benchmarks/peers/curves_peers.py PEER < STUDIES

PEER is ``syne-tune dyhpo`` or ``syne-tune mobster``, both as they come. DyHPO is here a mixture: its own rule, with the
Gaussian process of MOBSTER in place of the authors' network, and with probability 0.25 successive halving's. MOBSTER
stops trainings, by default. Both have the library's older schedulers, which its version 0.14.0 is the last to have:

    pip install 'syne-tune[gpsearchers]==0.14.0'       # needs NumPy 1

A study is a line of JSON: the domains, the steps of a whole training and of the study, the seed, and the pool of
configurations, if there are no others (the peer is told them, as freeze_thaw is). Each configuration that is started is
printed, and the next line of the standard input is its curve; of it a peer sees what it has paid for. At the end comes
the study's result: the lowest value so far after each step, trainings started, CPU seconds of asking and telling.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
import warnings
from datetime import datetime
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import numpy as np  # noqa: E402  after the number of threads is set
from syne_tune.backend.trial_status import Trial  # noqa: E402
from syne_tune.config_space import lograndint, loguniform, randint, uniform  # noqa: E402
from syne_tune.optimizer.legacy_baselines import MOBSTER, DyHPO  # noqa: E402

PEERS = {"syne-tune dyhpo": DyHPO, "syne-tune mobster": MOBSTER}
DOMAINS = {("Float", False): uniform, ("Float", True): loguniform, ("Int", False): randint, ("Int", True): lograndint}


def scheduler(peer: str, study: dict[str, Any]) -> Any:
    """The peer with its defaults, on the space of a study."""
    np.random.seed(study["seed"])
    random.seed(study["seed"])
    space = {name: DOMAINS[kind, log](low, high) for name, kind, low, high, log in study["domains"]}
    options: dict[str, Any] = {"debug_log": False}
    if study["pool"] is not None:  # the only ones that it may propose; nothing to optimize between them
        options |= {"restrict_configurations": study["pool"], "skip_local_optimization": True}
    kept: dict[str, Any] = {"metric": "loss", "mode": "min", "resource_attr": "step", "max_t": study["steps"]}
    return PEERS[peer](space, random_seed=study["seed"], search_options=options, **kept)


def run(peer: str, study: dict[str, Any]) -> dict[str, Any]:
    """One study of a peer."""
    begin = time.process_time()
    chosen = scheduler(peer, study)
    spent = time.process_time() - begin
    trials, curves, ages, trace = list[Trial](), list[list[float]](), list[int](), list[float]()
    while len(trace) < study["total"]:
        begin = time.process_time()
        asked = chosen.suggest(len(trials))
        if asked.spawn_new_trial_id:
            trial = Trial(len(trials), asked.config, datetime.now())
            chosen.on_trial_add(trial)
        else:
            trial = trials[asked.checkpoint_trial_id]
        spent += time.process_time() - begin
        number = trial.trial_id
        if number == len(trials):
            print(json.dumps({"config": {name: trial.config[name] for name, *_ in study["domains"]}}), flush=True)
            trials.append(trial)
            curves.append(json.loads(sys.stdin.readline()))
            ages.append(0)
        going = True
        while going and len(trace) < study["total"]:
            value = curves[number][ages[number]]
            ages[number] += 1
            trace.append(min(value, trace[-1] if trace else value))
            begin = time.process_time()
            going = chosen.on_trial_result(trial, {"loss": value, "step": ages[number]}) == "CONTINUE"
            if not going:  # laid aside, stopped or at its end
                chosen.on_trial_remove(trial)
            spent += time.process_time() - begin
    return {"trace": trace, "started": len(trials), "cpu": spent}


def main() -> None:
    """Studies of the standard input, one after the other."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    while line := sys.stdin.readline():
        print(json.dumps(run(sys.argv[1], json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
