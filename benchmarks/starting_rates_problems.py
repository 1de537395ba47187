"""Small trainings on which rules for the learning rate are chosen, and others on which they are reported.

MNIST's official test set is read from ``mnist_t10k`` in the folder that LUTHIER_DATA names, as papers/hypernets does.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn import datasets
from tinyshakespeare import DATA, characters
from torch import Tensor, nn

import luthier as lt

MNIST = {  # SHA-256 of the decompressed files
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class Problem(NamedTuple):
    """A training.

    Args:
        data: Inputs and targets.
        model: Makes the network.
        targets: Losses to be reached, falling.
        batch: Rows of a minibatch.
    """

    data: Callable[[], tuple[Tensor, Tensor]]
    model: Callable[[], nn.Module]
    targets: tuple[float, ...]
    batch: int = 64


def white(x: Any) -> Tensor:
    """Columns of mean 0 and deviation 1."""
    x = torch.as_tensor(x, dtype=torch.float32)
    return (x - x.mean(0)) / (x.std(0) + 1e-6)


def cancer() -> tuple[Tensor, Tensor]:
    data: Any = datasets.load_breast_cancer()
    return white(data.data), torch.tensor(data.target)


def conditioned() -> tuple[Tensor, Tensor]:
    x, y = datasets.make_classification(4000, 50, n_informative=30, n_classes=5, random_state=1)
    return white(x) * torch.logspace(0, -1.5, 50), torch.tensor(y)


def moons() -> tuple[Tensor, Tensor]:
    x, y = datasets.make_moons(2000, noise=0.2, random_state=3)
    return white(x), torch.tensor(y)


def diabetes() -> tuple[Tensor, Tensor]:
    data: Any = datasets.load_diabetes()
    return white(data.data), white(data.target[:, None])


def blobs() -> tuple[Tensor, Tensor]:
    form: Any = {"n_informative": 20, "n_classes": 10, "n_clusters_per_class": 2, "class_sep": 1.5}
    x, y = datasets.make_classification(4000, 40, **form, random_state=2)
    return white(x), torch.tensor(y)


def mnist() -> tuple[Tensor, Tensor]:
    """MNIST's official test set at half its size, (10000, 1, 14, 14)."""
    raw = []
    for name, checksum in MNIST.items():
        path = DATA / "mnist_t10k" / name
        if not path.exists():
            raise SystemExit(f"there is no {path}: LUTHIER_DATA names the folder that holds mnist_t10k/{name}")
        raw.append(gzip.decompress(path.read_bytes()))
        if hashlib.sha256(raw[-1]).hexdigest() != checksum:
            raise SystemExit(f"{path} is not MNIST's official file")
    images = torch.from_numpy(np.frombuffer(raw[0], np.uint8, offset=16).copy()).view(-1, 1, 28, 28) / 255
    labels = torch.from_numpy(np.frombuffer(raw[1], np.uint8, offset=8).astype(np.int64))
    return nn.functional.avg_pool2d((images - images.mean()) / images.std(), 2), labels


def melodies() -> tuple[Tensor, Tensor]:
    """Six sequences of ten steps and two numbers, drowned in noise."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(6, (4000,), generator=generator)
    clean = torch.randn(6, 10, 2, generator=generator)
    return clean[labels] + torch.randn(4000, 10, 2, generator=generator), labels


def text() -> tuple[Tensor, Tensor]:
    """Windows of sixteen characters of tinyshakespeare, and the characters after each."""
    read = characters()[: 8000 * 16 + 1]
    return read[:-1].view(-1, 16), read[1:].view(-1, 16)


def digits() -> tuple[Tensor, Tensor]:
    part = lt.data.digits().train
    return part.inputs.flatten(1), part.targets


def fashion(scale: int) -> Callable[[], tuple[Tensor, Tensor]]:
    def load() -> tuple[Tensor, Tensor]:
        part = lt.data.fashion_mnist(valid=10_000, train=20_000).train
        return nn.functional.avg_pool2d(part.inputs, scale), part.targets

    return load


class Melodies(nn.Module):
    """A GRU that tells sequences apart."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0][:, -1])


class Characters(nn.Module):
    """An LSTM that foretells the next character of each, (windows, characters there are, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.out = nn.Embedding(65, 16), nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 65)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.embedding(x))[0]).transpose(1, 2)


class Sequences(nn.Module):
    """An LSTM that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(14, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x.squeeze(1))[0][:, -1])


def layers(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            made += [nn.Linear(before, after), activation()]
        return nn.Sequential(*made[:-1])

    return make


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


def strided() -> nn.Module:
    """Two convolutions with strides in place of pooling."""
    first, second = nn.Conv2d(1, 6, 5, stride=2), nn.Conv2d(6, 12, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))


PROBLEMS = {
    "cancer": Problem(cancer, layers(30, 2), (0.07,), 32),
    "conditioned": Problem(conditioned, layers(50, 5), (1.3, 1.2)),
    "moons": Problem(moons, layers(2, 32, 32, 2, activation=nn.Tanh), (0.2, 0.12)),
    "diabetes": Problem(diabetes, layers(10, 32, 1), (0.5, 0.42), 32),
    "blobs": Problem(blobs, layers(40, 64, 10), (0.6, 0.35)),
    "deep": Problem(mnist, layers(196, 48, 48, 10), (0.6, 0.3)),
    "images": Problem(mnist, strided, (0.6, 0.3), 32),
    "melodies": Problem(melodies, Melodies, (0.7, 0.4)),
    "characters": Problem(text, Characters, (2.6, 2.4), 16),
    "digits": Problem(digits, layers(64, 10), (0.5, 0.29), 128),
    "fashion": Problem(fashion(1), layers(784, 10), (0.6, 0.5), 128),
    "perceptron": Problem(fashion(1), layers(784, 128, 10), (0.6, 0.45), 128),
    "convolutional": Problem(fashion(2), convolutional, (0.8, 0.6)),
    "lstm": Problem(fashion(2), Sequences, (1.0, 0.7)),
}
