"""The stages of the experiment: parts of Fashion-MNIST, and how long a training on them is."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from torch import nn

import luthier as lt
from papers.joint_enas.network import DECIDED, FIXED, JOINT, network

STAGES = {"large": "larger images", "long": "long trainings", "short": "short trainings"}


@dataclass(frozen=True)
class Stage:
    """How much there is of everything.

    Args:
        train: Training images; None is all of them.
        valid: Validation images.
        scale: Images are means of so many by so many pixels.
        batch: Images of a minibatch.
        epochs: Epochs of each training from scratch.
        trainings: Trainings in all: a search over shared weights takes half of them.
        draws: Children that a search draws, of which the best are trained.
        draw_steps: Steps of each.
        child: Minibatches on which a child trains in the search.
        seeds: Number of seeds.
    """

    train: int | None
    valid: int
    scale: int
    batch: int
    epochs: int
    trainings: int
    draws: int
    draw_steps: int
    child: int
    seeds: int


@dataclass(frozen=True)
class Size:
    """How large everything is on each of the stages."""

    train: tuple[int | None, ...] = (6_000, 2_560, 640)
    valid: tuple[int, ...] = (2_000, 1_000, 1_000)
    scale: tuple[int, ...] = (1, 2, 2)
    batch: tuple[int, ...] = (64, 32, 32)
    epochs: tuple[int, ...] = (3, 3, 1)
    trainings: tuple[int, ...] = (10, 4, 30)
    draws: tuple[int, ...] = (30, 24, 24)
    draw_steps: tuple[int, ...] = (10, 3, 3)
    child: tuple[int, ...] = (5, 3, 3)
    seeds: tuple[int, ...] = (3, 5, 5)

    def stage(self, name: str) -> Stage:
        """One stage at this size."""
        place = list(STAGES).index(name)
        return Stage(*(values[place] for values in astuple(self)))


REDUCED = Size()
FULL = Size(
    *((None,) * 3, (10_000,) * 3, (1,) * 3, (64,) * 3),
    *((10, 10, 1), (30,) * 3, (30,) * 3, (10,) * 3, (5,) * 3, (5,) * 3),
)
CHOOSING = Stage(1_920, 1_000, 2, 32, epochs=3, trainings=6, draws=8, draw_steps=5, child=3, seeds=1)


def task_of(space: lt.Space, stage: Stage, device: str) -> lt.TorchTask:
    """The space on one of the stages."""
    whole = lt.data.fashion_mnist(valid=stage.valid, train=stage.train)
    parts = (whole.train, whole.valid, whole.test)
    small = [lt.Split(nn.functional.avg_pool2d(part.inputs, stage.scale), part.targets) for part in parts]
    return lt.TorchTask(
        space=space,
        model=lambda config: network(28 // stage.scale),
        data=lt.Splits(*small, whole.classes),
        loss=lt.losses.cross_entropy,
        optimizer=DECIDED if space is JOINT else FIXED,
        batch_size=stage.batch,
        metrics={"accuracy": lt.metrics.accuracy},
        device=device,
    )
