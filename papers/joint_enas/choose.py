"""The settings of the arms of papers/joint_enas/run.py, chosen on seeds that its tables do not use.

    python -m papers.joint_enas.choose    runs what is missing of choosing.json, and prints a table

Each way of training the shared weights with each response, on a stage of its own; and on the stages of the tables
random search alone, whose configuration of the lowest validation loss is their best fixed setting.
"""

from __future__ import annotations

import json
import statistics
import time

import torch

import luthier as lt
from papers.joint_enas.network import JOINT
from papers.joint_enas.run import ARMS, HERE, SAFE, SPLIT, Arm, one, searched
from papers.joint_enas.stages import CHOOSING, REDUCED, task_of

FILE = HERE / "choosing.json"
RESPONSES = ("none", "identity", "unrolled")
FASTER = lt.adapt.Reinforce(lr=2e-2)
CANDIDATES = {
    "random": ARMS["random"],
    "random fixed": ARMS["random fixed"],
    **{f"{response}, theirs": Arm("", JOINT, searched(response)) for response in RESPONSES},
    **{f"{response}, safe": Arm("", JOINT, searched(response, shared=SAFE)) for response in RESPONSES},
    "identity, theirs, faster": Arm("", JOINT, searched("identity", learner=FASTER)),
}


def main() -> None:
    """Run, write after each study, and print means over the seeds."""
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text())["runs"] if FILE.exists() else []
    wanted = [("choosing", CHOOSING, name, SPLIT["choosing"][0]) for name in CANDIDATES]
    wanted += [(name, REDUCED.stage(name), "random", seed) for name in ("long", "short") for seed in SPLIT["choosing"]]
    for name, stage, method, seed in wanted:
        if any((row["stage"], row["method"], row["seed"]) == (name, method, seed) for row in rows):
            continue
        arm = CANDIDATES[method]
        found = one(stage, arm, task_of(arm.space, stage, "cpu"), seed, time.process_time)
        rows.append({"stage": name, "method": method, "seed": seed, **found})
        FILE.write_text('{"runs": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n")
    for name, method in dict.fromkeys((row["stage"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["stage"], row["method"]) == (name, method) and "valid_loss" in row]
        keys = ("valid_loss", "valid_accuracy", "mean_accuracy", "seconds")
        print(f"{name:9} {method:26} {len(mine)}", *(f"{statistics.fmean(r[key] for r in mine):8.3f}" for key in keys))


if __name__ == "__main__":
    main()
