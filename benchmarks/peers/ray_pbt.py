"""Ray Tune on the trainings of benchmarks/pbt.py and cluster.py; started by them, in an interpreter with Ray Tune.

    python benchmarks/peers/ray_pbt.py MEMBERS ROUNDS REPEATS MODE [WORK] [SHAPE]

MODE is ``default`` (the class API as documented: a checkpoint folder for every round, results printed) or ``best``
(nothing printed or logged, trials kept in their actors, checkpoints in /dev/shm where there is one). WORK is ``pbt``
(PopulationBasedTraining) or ``trivial`` (MEMBERS trials of a function that returns at once, at random). SHAPE is
``node`` (one with two CPUs) or ``cluster`` (a head without CPUs and two nodes with one each). Prints one JSON object:
versions, seconds of each repeat and milliseconds a round of all members, without the start of Ray itself, and how many
members ended with values outside the space.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"RAY_DEDUP_LOGS": "0", "RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0"}
if sys.argv[4] == "best":
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_GLOBAL_CHECKPOINT_S": "3600"}

import ray
from ray import tune
from ray.cluster_utils import Cluster
from ray.tune.schedulers import PopulationBasedTraining

LR, MOMENTUM = (1e-3, 1.0), (0.0, 0.9)
BEST = sys.argv[4] == "best"
WORK, SHAPE = (*sys.argv[5:7], *("pbt", "node")[len(sys.argv[5:7]) :])


class Tiny(tune.Trainable):
    """The training of two numbers."""

    def setup(self, config: dict[str, Any]) -> None:
        self.weight, self.velocity, self.settings = 1.0, 0.0, config

    def step(self) -> dict[str, float]:
        self.velocity = self.settings["momentum"] * self.velocity - self.settings["lr"] * self.weight
        self.weight += self.velocity
        return {"loss": self.weight**2}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "state.json").write_text(json.dumps([self.weight, self.velocity]))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.weight, self.velocity = json.loads(Path(checkpoint, "state.json").read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.settings = new_config
        return True


def trivial(config: dict[str, Any]) -> dict[str, float]:
    """A training that ends at once."""
    return {"loss": config["lr"]}


def measure(members: int, rounds: int, seed: int) -> tuple[float, list[dict[str, float]]]:
    """Seconds of one study, and the hyperparameters that its trials ended with."""
    population = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={"lr": tune.loguniform(*LR), "momentum": tune.uniform(*MOMENTUM)},
        synch=True,
        log_config=not BEST,
    )
    pbt = WORK == "pbt"
    task: Any = Tiny if pbt else trivial
    place = "/dev/shm" if BEST and Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        tuner = tune.Tuner(
            tune.with_resources(task, {"cpu": 0.05}) if pbt or BEST else task,
            param_space={"lr": tune.loguniform(*LR), "momentum": tune.uniform(*MOMENTUM)},
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                num_samples=members,
                scheduler=population if pbt else None,
                reuse_actors=BEST,
                max_concurrent_trials=2 if BEST and not pbt else None,
            ),
            run_config=tune.RunConfig(
                name=f"{WORK}-{seed}",
                storage_path=folder,
                stop={"training_iteration": rounds} if pbt else None,
                verbose=0 if BEST else 1,
            ),
        )
        clock = time.perf_counter()
        found = tuner.fit()
        seconds = time.perf_counter() - clock
    assert len(found) == members and not found.errors
    return seconds, [dict(one.config or {}) for one in found]


def outside(config: dict[str, float]) -> bool:
    return not (LR[0] <= config["lr"] <= LR[1] and MOMENTUM[0] <= config["momentum"] <= MOMENTUM[1])


def connect() -> None:
    """Start Ray in the shape that is wanted."""
    more: Any = {"log_to_driver": False, "configure_logging": not BEST}
    if SHAPE == "node":
        ray.init(num_cpus=2, include_dashboard=False, **more)
        return
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    ray.init(address=made.address, **more)


def main() -> None:
    members, rounds, repeats = (int(word) for word in sys.argv[1:4])
    connect()
    runs = [measure(members, rounds, seed) for seed in range(repeats)]
    configs = [config for _, ended in runs for config in ended]
    print(
        json.dumps(
            {
                "ray": ray.__version__,
                "python": sys.version.split()[0],
                "seconds": [round(seconds, 1) for seconds, _ in runs],
                "milliseconds a round": [round(1e3 * seconds / rounds, 1) for seconds, _ in runs],
                "members that ended outside the space": f"{sum(map(outside, configs))} of {len(configs)}",
            }
        )
    )


if __name__ == "__main__":
    main()
