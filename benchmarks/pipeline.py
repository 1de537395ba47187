"""Eight members on one pass of a data pipeline beside eight plain loops that each read it, one thread each.

    python benchmarks/pipeline.py [--repeats 3] [--steps 100] [--flat 1000] [--output FILE]

Fashion-MNIST through a map-style Dataset with a transform of each image on the CPU: a random rotation, crop and flip,
in NumPy and SciPy as people write them. Plain loops and study alternate, over the same DataLoader, network, optimizer
and steps; the ratio is that of their CPU times. It is bounded where the pipeline is what takes the time; a LeNet's own
step takes as long as its data, so that one pass of them saves less. Then a study of ``--flat`` steps tells its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import luthier as lt

MEMBERS, BATCH = 8, 64
GROWTH = 0.02  # of the memory after a fifth of the steps, until the last


class Turned(Dataset):
    """Images, each turned by up to 15 degrees, moved by up to two pixels, and mirrored one time in two."""

    def __init__(self, split: lt.data.Split) -> None:
        self.images, self.targets = split.inputs.numpy(), split.targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = ndimage.rotate(self.images[i, 0], np.random.uniform(-15, 15), reshape=False)
        top, left = np.random.randint(5, size=2)
        image = np.pad(image, 2)[top : top + 28, left : left + 28]
        image = image[:, ::-1] if np.random.rand() < 0.5 else image
        return torch.from_numpy(np.ascontiguousarray(image[None])), self.targets[i]


def mlp(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def lenet(config: dict[str, Any]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


NETWORKS: dict[str, tuple[Any, float | None]] = {"784-128-10": (mlp, 3.0), "LeNet": (lenet, None)}  # least ratio


def loader(rows: int) -> tuple[DataLoader, lt.data.Splits]:
    data = lt.data.fashion_mnist(train=rows, valid=500)
    return DataLoader(Turned(data.train), BATCH, shuffle=True), data


def plain(network: Any, batches: DataLoader, steps: int, rates: list[float]) -> float:
    """CPU seconds of one loop after the other."""
    clock = time.process_time()
    for rate in rates:
        model = network({})
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        for _ in range(steps // len(batches)):
            for inputs, targets in batches:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
    return time.process_time() - clock


def tuned(network: Any, batches: DataLoader, valid: Any, steps: int, **settings: Any) -> float:
    """CPU seconds of a study, with all that belongs to it."""
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 0.1, log=True)),
        model=network,
        data=lt.Splits(batches, valid),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.SGD(momentum=0.9),
        evaluate_every=max(1, steps // len(batches) // 10),
    )
    clock = time.process_time()
    study = lt.tune(task, trials=MEMBERS, epochs=steps // len(batches), seed=0, progress=False, **settings)
    assert all(trial.status == "ok" and trial.steps == steps for trial in study.trials)
    return time.process_time() - clock


class Memory(lt.follow.Follower):
    """Resident memory of this process in MB, whenever something is reported."""

    def __init__(self) -> None:
        self.megabytes: dict[int, float] = {}

    def events(self, history: Any, new: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        for event in new:
            if isinstance(event, lt.Report):
                self.megabytes[event.step] = pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--flat", type=int, default=1000, help="steps over which memory is watched")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "pipeline.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    batches, data = loader(rows=BATCH * 50)
    rates = np.geomspace(1e-3, 0.1, MEMBERS).tolist()
    found: dict[str, Any] = {"machine": lt.environment(), "steps": given.steps, "members": MEMBERS}
    for name, (network, least) in NETWORKS.items():
        pairs = []
        for _ in range(given.repeats):
            loops = plain(network, batches, given.steps, rates)
            pairs.append((loops, tuned(network, batches, data.valid, given.steps)))
            print(f"{name}: eight plain loops {pairs[-1][0]:.1f} s, a study of eight {pairs[-1][1]:.1f} s", flush=True)
        ratios = [slow / fast for slow, fast in pairs]
        found[name] = {"target": least, "ratio": statistics.median(ratios), "ratios": ratios, "seconds": pairs}
    memory = Memory()
    tuned(mlp, batches, data.valid, given.flat, callbacks=[memory])
    after = [size for step, size in memory.megabytes.items() if step >= given.flat / 5]
    found["megabytes by step"] = {str(step): round(size, 1) for step, size in memory.megabytes.items()}
    found["growth of memory"] = after[-1] / after[0] - 1
    given.output.write_text(json.dumps(found, indent=2) + "\n")
    print(
        {name: round(found[name]["ratio"], 2) for name in NETWORKS}, f"memory grows by {found['growth of memory']:.2%}"
    )
    missed = [name for name, (_, least) in NETWORKS.items() if least is not None and found[name]["ratio"] < least]
    assert not missed and found["growth of memory"] < GROWTH


if __name__ == "__main__":
    main()
