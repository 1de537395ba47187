"""10 and 7,850 penalties on few images from several starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import luthier as lt
from papers.command import Run
from papers.hypernets.problems import digits_or_mnist, per_class, per_weight, regression, shared

CLASSES, WEIGHTS = 10, 7_850
IMAGES, STARTS = (50, 500), (1e-6, 1e-3)  # training images, and the value at which all penalties begin
STEPS, BATCH, TRAININGS = 1_000, 50, 4  # a search trains so often, which costs about what a training that is tuned does


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Args:
        tuner: An adapter, a proposer, or None for trainings under penalties that stay.
        numbers: Penalties; 1 is one shared by all weights.
    """

    tuner: Any
    numbers: int = CLASSES


def arms(images: int = BATCH) -> dict[str, Arm]:
    """The arms, by their names, for so many training images: warm-up is a quarter of the steps."""
    warm: dict[str, Any] = {"warmup": STEPS / 4 * BATCH / images, "outer_lr": 0.1}
    published: dict[str, Any] = {"samples": 2, "smoothing": 0.0, "follow": False, "gate": 0}
    implicit = lt.adapt.Bilevel("implicit", settings={"iterations": 10}, **warm)
    # Adam moves all 7,850 at once, far beyond the draws in the ten directions of low rank: smaller moves
    low_rank = lt.adapt.Hypernet(structure="low_rank", scale=0.3, **{**warm, "outer_lr": 0.002}, **published)
    return {
        "plain": Arm(None),
        "hypernet": Arm(lt.adapt.Hypernet(**warm)),
        "published": Arm(lt.adapt.Hypernet(structure="linear", **warm, **published)),
        "implicit": Arm(implicit),
        "random": Arm(lt.propose.Random(), 1),
        "gp": Arm(lt.propose.GaussianProcess(initial=2, batch=1), 1),
        "low_rank": Arm(low_rank, WEIGHTS),
        "implicit many": Arm(implicit, WEIGHTS),
    }


def few(run: Run, method: str, seed: int) -> dict[str, Any]:
    """Test losses of an arm by images and start; of a search the best by validation loss, by images alone."""
    inputs, found = 0, {}
    for images in IMAGES:
        arm = arms(images)[method]
        data = digits_or_mnist(seed, images)
        inputs = data.train.inputs.shape[1]
        numbers = {1: None, CLASSES: CLASSES}.get(arm.numbers, CLASSES * (inputs + 1))
        form = {None: shared, CLASSES: per_class}.get(numbers, per_weight)
        settings: dict[str, Any] = {
            "optimizer": lt.optim.Adam(lr=1e-3),
            "device": run.device,
            "evaluate_every": 5_000 / images,
        }
        task = regression(data, 1e-8, 1.0, form, numbers, batch_size=BATCH, **settings)
        kept: dict[str, Any] = {"steps": run.size.steps(STEPS), "seed": seed, "progress": False}
        if numbers is None:
            study = lt.tune(task, arm.tuner, trials=TRAININGS, **kept)
            assert study.best is not None
            found[f"{images}"] = study.best.test["loss"]
            continue
        start = [{"penalty": [value] * numbers} for value in STARTS]
        tuner: Any = lt.propose.Random() if arm.tuner is None else (lt.propose.Random(), arm.tuner)
        study = lt.tune(task, tuner, trials=len(STARTS), start=start, **kept)
        for job, value in enumerate(STARTS):
            with torch.no_grad():
                output = study.model(job).to("cpu")(data.test.inputs)
            found[f"{images} from {value:g}"] = nn.functional.mse_loss(output, data.test.targets).item()
    return {**found, "data": "MNIST" if inputs == 784 else "digits"}
