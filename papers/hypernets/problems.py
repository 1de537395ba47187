"""The problems of the hypernet paper: linear regression onto the ten classes, as in the paper."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import luthier as lt

CLASSES = 10
# MNIST's official test set of 10,000 images, LeCun, Cortes and Burges, in the folder mnist_t10k of the one that
# LUTHIER_DATA names; SHA-256 of the decompressed files
MNIST = {
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
VALID, TEST = 2_000, 4_000  # of its images
Params = dict[str, Tensor]


def zeros(inputs: int) -> nn.Module:
    """A linear network that starts at zero, so that trainings differ in their hyperparameters alone."""
    layer = nn.Linear(inputs, CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def one_hot(split: lt.Split, rows: int | None = None, dtype: torch.dtype = torch.float32) -> lt.Split:
    """Inputs as rows, and classes as vectors."""
    targets = nn.functional.one_hot(split.targets[:rows], CLASSES)
    return lt.Split(split.inputs[:rows].flatten(1).to(dtype), targets.to(dtype))


def shared(params: Params, hyper: Params) -> Tensor:
    """One penalty of all weights."""
    return hyper["penalty"] * params["weight"].square().sum()


def per_class(params: Params, hyper: Params) -> Tensor:
    """One penalty of each class' weights."""
    return (hyper["penalty"].unsqueeze(1) * params["weight"].square()).sum()


def per_weight(params: Params, hyper: Params) -> Tensor:
    """One penalty of each weight and bias."""
    count = params["weight"].numel()
    weight, bias = hyper["penalty"][:count].view_as(params["weight"]), hyper["penalty"][count:]
    return (weight * params["weight"].square()).sum() + (bias * params["bias"].square()).sum()


def regression(
    data: lt.Splits,
    low: float,
    high: float,
    penalty: Callable[..., Tensor],
    numbers: int | None = None,
    **settings: Any,
) -> lt.TorchTask:
    """A task with one vector of penalties, or one number."""
    inputs = data.train.inputs.shape[1]
    shape = () if numbers is None else (numbers,)
    return lt.TorchTask(
        space=lt.Space(penalty=lt.Float(low, high, log=True, shape=shape)),
        model=lambda config: zeros(inputs),
        data=data,
        loss=lt.losses.mean_squared_error,
        penalty=penalty,
        metrics={"accuracy": right},
        **settings,
    )


def right(output: Tensor, target: Tensor) -> Tensor:
    """The share of examples whose class is found."""
    return (output.argmax(1) == target.argmax(1)).double().mean()


def small_digits(seed: int, train: int, dtype: torch.dtype = torch.float32) -> lt.Splits:
    """The digits with few examples to train on."""
    data = lt.data.digits(seed=seed)
    return lt.Splits(
        one_hot(data.train, train, dtype), one_hot(data.valid, None, dtype), one_hot(data.test, None, dtype)
    )


def digits_or_mnist(seed: int, train: int) -> lt.Splits:
    """Few of MNIST's images to train on; scikit-learn's digits where LUTHIER_DATA has no MNIST."""
    folder = Path(os.environ.get("LUTHIER_DATA", "")) / "mnist_t10k"
    if not all((folder / name).is_file() for name in MNIST):
        return small_digits(seed, train)
    raw = [gzip.decompress((folder / name).read_bytes()) for name in MNIST]
    for name, content in zip(MNIST, raw, strict=True):
        if hashlib.sha256(content).hexdigest() != MNIST[name]:
            raise SystemExit(f"{folder / name} is not MNIST's official file")
    images = torch.from_numpy(np.frombuffer(raw[0], np.uint8, offset=16).copy()).view(-1, 784) / 255
    labels = torch.from_numpy(np.frombuffer(raw[1], np.uint8, offset=8).astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept, valid, test = order[VALID + TEST :][:train], order[:VALID], order[VALID : VALID + TEST]
    mean, deviation = images[kept].mean(), images[kept].std()
    learn, check, last = (one_hot(lt.Split((images[i] - mean) / deviation, labels[i])) for i in (kept, valid, test))
    return lt.Splits(learn, check, last)


@dataclass(frozen=True)
class Start:
    """A proposer of one configuration: all penalties alike; a single number where there is one penalty."""

    numbers: int
    value: float = 1e-4
    budget: lt.Budget | None = None
    extendable: ClassVar[bool] = False

    def bind(self, budget: lt.Budget) -> Start:
        """The same, with the steps of a training."""
        return replace(self, budget=budget)

    def propose(self, history: lt.History, count: int, seeds: lt.Seeds) -> list[lt.Job]:
        """The configuration, once."""
        config: dict[str, Any] = {"penalty": [self.value] * self.numbers if self.numbers > 1 else self.value}
        return [] if len(history) or self.budget is None else [lt.Job(0, config, self.budget.steps_for(config))]
