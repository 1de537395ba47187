"""Ray Tune's PopulationBasedTraining on the trainings of benchmarks/pbt.py; started by it, in an interpreter with Ray.

    python benchmarks/peers/ray_pbt.py MEMBERS ROUNDS REPEATS MODE

MODE is ``default`` (the class API as documented: a checkpoint folder for every round, results printed) or ``best``
(nothing printed or logged, trials kept in their actors, checkpoints in /dev/shm where there is one). Prints one JSON
object: versions, milliseconds a round of all members for each repeat without the start of Ray itself, and what share of
the values that were perturbed lie outside the space.
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
from ray.tune.schedulers import PopulationBasedTraining

LR, MOMENTUM = (1e-3, 1.0), (0.0, 0.9)


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

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.weight, self.velocity = json.loads(Path(checkpoint_dir, "state.json").read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.settings = new_config
        return True


def measure(members: int, rounds: int, mode: str, seed: int) -> tuple[float, list[dict[str, float]]]:
    """Seconds of one study, and the hyperparameters that its trials ended with."""
    best = mode == "best"
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={"lr": tune.loguniform(*LR), "momentum": tune.uniform(*MOMENTUM)},
        synch=True,
        log_config=not best,
    )
    place = "/dev/shm" if best and Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        tuner = tune.Tuner(
            tune.with_resources(Tiny, {"cpu": 0.05}),
            param_space={"lr": tune.loguniform(*LR), "momentum": tune.uniform(*MOMENTUM)},
            tune_config=tune.TuneConfig(
                metric="loss", mode="min", num_samples=members, scheduler=scheduler, reuse_actors=best
            ),
            run_config=tune.RunConfig(
                name=f"pbt-{seed}", storage_path=folder, stop={"training_iteration": rounds}, verbose=0 if best else 1
            ),
        )
        clock = time.perf_counter()
        found = tuner.fit()
        seconds = time.perf_counter() - clock
    assert len(found) == members and not found.errors
    return seconds, [dict(one.config or {}) for one in found]


def outside(config: dict[str, float]) -> bool:
    return not (LR[0] <= config["lr"] <= LR[1] and MOMENTUM[0] <= config["momentum"] <= MOMENTUM[1])


def main() -> None:
    members, rounds, repeats, mode = *(int(word) for word in sys.argv[1:4]), sys.argv[4]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=mode != "best")
    runs = [measure(members, rounds, mode, seed) for seed in range(repeats)]
    configs = [config for _, ended in runs for config in ended]
    print(
        json.dumps(
            {
                "ray": ray.__version__,
                "python": sys.version.split()[0],
                "milliseconds a round": [round(1e3 * seconds / rounds, 1) for seconds, _ in runs],
                "members that ended outside the space": f"{sum(map(outside, configs))} of {len(configs)}",
            }
        )
    )


if __name__ == "__main__":
    main()
