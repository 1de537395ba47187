"""Small data sets in MNIST's format, written for a test."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from luthier.data import FASHION_FILES

NAMES = list(FASHION_FILES)  # training images, training labels, test images, test labels


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, train: int = 50, test: int = 20) -> dict[str, np.ndarray]:
    """A small set in MNIST's format: 5 by 4 pixels."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = rng.integers(0, 256, (count, 5, 4))
        arrays[f"{part}-labels-idx1-ubyte.gz"] = rng.integers(0, 10, count)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(gzip.compress(idx_bytes(array)))
    return arrays
