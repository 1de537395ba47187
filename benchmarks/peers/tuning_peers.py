"""Peers of gp on the problems of benchmarks/tuning.py; started by it, in an interpreter that has the peer.

    python benchmarks/peers/tuning_peers.py PEER EVALUATIONS FOLDER < PAIRS

PEER is ``hebo`` (HEBO 0.3.6 as it comes) or ``optuna-gp`` (Optuna's GPSampler), FOLDER has ``tasks.py``, and each line
of the standard input is a task and a seed. Prints a JSON object a study, the row of ``run`` in benchmarks/tuning.py;
CPU time is that of asking and telling alone. HEBO needs NumPy 1, so it has an environment of its own:

    pip install HEBO==0.3.6 'numpy==1.24.4' 'GPy<1.14' 'onnxruntime<1.20'

It knows neither order of options nor names that are active under others: an ordered option is the integer of its place,
and a value that is not active is proposed and left out. Its evolutionary search compares configurations in pairs, in
Python; ``_duplicates`` does that by a set, with the same proposals in less time.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
import warnings
from collections import Counter
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import numpy as np  # noqa: E402  after the number of threads is set

AFTER = (8, 25, 50, 100)


def _duplicates(_: Any, population: Any, others: Any, found: Any) -> Any:
    """Pymoo's comparison of all pairs of mixed configurations by a set instead: the same pairs, sooner."""
    values = [tuple(sorted(one.X.items())) for one in population]
    if others is None:
        later = Counter(values)
        for place, value in enumerate(values):
            later[value] -= 1
            found[place] |= later[value] > 0
        return found
    known = {tuple(sorted(one.X.items())) for one in others}
    found |= np.array([value in known for value in values], dtype=bool)
    return found


class Hebo:
    """HEBO: a warped Gaussian process on power-transformed results, and the Pareto front of three acquisitions."""

    def __init__(self, space: list[Any], seed: int) -> None:
        import torch
        from hebo.design_space.design_space import DesignSpace
        from hebo.optimizers.hebo import HEBO
        from pymoo.core.mixed import MixedVariableDuplicateElimination

        MixedVariableDuplicateElimination._do = _duplicates
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.space = space
        self.inner = HEBO(DesignSpace().parse([self._described(p) for p in space]), scramble_seed=seed)

    @staticmethod
    def _described(p: Any) -> dict[str, Any]:
        if p.kind == "cat":
            return {"name": p.name, "type": "cat", "categories": list(map(str, p.choices))}
        if p.kind == "ord":
            return {"name": p.name, "type": "int", "lb": 0, "ub": len(p.choices) - 1}
        kind = {("float", False): "num", ("float", True): "pow", ("int", False): "int", ("int", True): "pow_int"}
        described = {"name": p.name, "type": kind[p.kind, p.log], "lb": p.low, "ub": p.high}
        return {**described, "base": 10} if p.log else described

    def ask(self) -> dict[str, Any]:
        self.asked = self.inner.suggest(1)
        row = self.asked.iloc[0]
        found: dict[str, Any] = {}
        for p in self.space:
            value = row[p.name]
            if p.kind == "cat":
                found[p.name] = p.choices[list(map(str, p.choices)).index(value)]
            elif p.kind == "ord":
                found[p.name] = p.choices[round(value)]
            else:
                value = min(max(value, p.low), p.high)
                found[p.name] = round(value) if p.kind == "int" else float(value)
        return found

    def tell(self, value: float) -> None:
        self.inner.observe(self.asked, np.array([[value]]))


class OptunaGP:
    """Optuna's GPSampler as it comes."""

    def __init__(self, space: list[Any], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self.inner = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=seed))

    def ask(self) -> dict[str, Any]:
        self.trial = self.inner.ask()
        found: dict[str, Any] = {}
        for p in self.space:
            if p.cond is not None and found.get(p.cond[0]) not in p.cond[1]:
                continue
            if p.kind == "cat":
                found[p.name] = self.trial.suggest_categorical(p.name, list(p.choices))
            elif p.kind == "ord":
                found[p.name] = p.choices[self.trial.suggest_int(p.name, 0, len(p.choices) - 1)]
            else:
                suggest = self.trial.suggest_float if p.kind == "float" else self.trial.suggest_int
                found[p.name] = suggest(p.name, p.low, p.high, log=p.log)
        return found

    def tell(self, value: float) -> None:
        self.inner.tell(self.trial, value)


PEERS = {"hebo": Hebo, "optuna-gp": OptunaGP}


def run(task: Any, peer: str, seed: int, evaluations: int) -> dict[str, Any]:
    """One study of a peer."""
    task.reset(seed)
    spent, lowest, regret, regrets = 0.0, float("inf"), float("nan"), []
    begin = time.process_time()
    chooser = PEERS[peer](task.space, seed)
    for _ in range(evaluations):
        config = chooser.ask()
        spent += time.process_time() - begin
        known: dict[str, Any] = {}
        for p in task.space:  # parents first
            if p.cond is None or known.get(p.cond[0]) in p.cond[1]:
                known[p.name] = config[p.name]
        value = task.f(known)
        if value < lowest:
            lowest, regret = value, task.regret(task.true(known))
        regrets.append(regret)
        begin = time.process_time()
        chooser.tell(value)
    spent += time.process_time() - begin
    row: dict[str, Any] = {"task": task.name, "method": peer, "batch": 1, "seed": seed, "cpu": spent}
    row |= {str(n): regrets[n - 1] for n in AFTER if n <= evaluations}
    return {**row, "end": regrets[-1], "evaluations": len(regrets)}


def main() -> None:
    peer, evaluations, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    sys.path.insert(0, folder)
    warnings.filterwarnings("ignore")
    tasks = importlib.import_module("tasks")
    for line in sys.stdin:
        name, seed = line.split()
        print(json.dumps(run(tasks.get(name), peer, int(seed), evaluations)), flush=True)


if __name__ == "__main__":
    main()
