"""Reading a dataset as a function of (seed, epoch, position): keyed generators, orders and samplers.

Torch's, Python's and NumPy's global generators, from which transforms draw, are set before each minibatch, and are
afterwards as they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from luthier.errors import DataError
from luthier.seeds import Seeds

Place = tuple[int, int, int]  # (epoch, position of the minibatch in it, row)


class KeyedRows(Dataset[Any]):
    """A dataset whose minibatches are functions of (epoch, position): the generators are set before each is read."""

    def __init__(self, dataset: Any, seeds: Seeds, purpose: str) -> None:
        self._dataset, self._seeds, self._purpose = dataset, seeds, purpose

    def __getitems__(self, places: list[Place]) -> list[Any]:
        epoch, position, _ = places[0]
        seed_all(self._seeds.key(position, f"{self._purpose} {epoch}"))
        rows = [row for _, _, row in places]
        many = getattr(self._dataset, "__getitems__", None)
        return many(rows) if many else [self._dataset[row] for row in rows]

    def __getitem__(self, place: Place) -> Any:
        epoch, position, row = place
        seed_all(self._seeds.key(position, f"{self._purpose} {epoch}"))
        return self._dataset[row]


class Order:
    """The places of each minibatch from number ``start`` on, without end."""

    def __init__(self, rows: Callable[[int], Sequence[Any]], steps: int, start: int) -> None:
        self._rows, self._steps, self._start = rows, steps, start

    def __iter__(self) -> Iterator[Any]:
        epoch, first = divmod(self._start, self._steps)
        while True:
            batches = self._rows(epoch)
            if len(batches) != self._steps:
                raise DataError(
                    f"the sampler gives {len(batches)} minibatches in epoch {epoch}, and its length is {self._steps}",
                    where="DataLoader(sampler=…)",
                    remedy="Let every epoch have as many as __len__ says.",
                )
            for position in range(first, self._steps):
                yield places_of(epoch, position, batches[position])
            epoch, first = epoch + 1, 0


class OwnGenerators:
    """The global generators of a stream: set back to its own within, and to what they were after it."""

    def __init__(self) -> None:
        self._inside: Any = None
        self._outside: Any = None

    def __enter__(self) -> None:
        self._outside = _states()
        if self._inside is not None:
            _restore(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = _states()
        _restore(self._outside)

    def each(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The minibatches, each read within."""
        while True:
            with self:
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """All global generators set by ``seed`` within, also those of a device, and as they were after it."""
    kept = _states()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seed_all(seed)
        try:
            yield
        finally:
            _restore(kept)


def places_of(epoch: int, position: int, rows: Any) -> Any:
    """Return (epoch, position, row) for each of a batch's rows, or for ``rows`` itself where it is no list or tuple."""
    if isinstance(rows, list | tuple):
        return [(epoch, position, row) for row in rows]
    return (epoch, position, rows)


def shuffles(sampler: Any) -> bool:
    """Return True if the sampler only permutes all rows."""
    plain_shuffle = type(sampler) is RandomSampler and not sampler.replacement
    return plain_shuffle and sampler.num_samples == len(sampler.data_source)


def sampled(loader: DataLoader[Any], seed: int, epoch: int) -> list[Any]:
    """Return what the loader's sampler yields in an epoch.

    Raises:
        DataError: If it yields something else when asked again under the same seed, which the first epoch checks.
    """
    asked: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    owners = [asked, loader.sampler, getattr(asked, "sampler", None)]
    found: list[list[Any]] = []
    for _ in range(2 if epoch == 0 else 1):
        seed_all(seed)
        with _generators(owners, seed):
            for one in owners:
                if hasattr(one, "set_epoch"):
                    one.set_epoch(epoch)
            found.append([list(rows) if isinstance(rows, list | tuple) else rows for rows in asked])
    if found[0] != found[-1]:
        drawing = asked.sampler if type(asked) is BatchSampler else asked
        raise DataError(
            f"{type(drawing).__name__} gives another order when it is asked again under the same seed",
            where="DataLoader(sampler=…)",
            remedy="Let it draw from its attribute `generator`, or from torch's global generator in __iter__.",
        )
    return found[0]


@contextmanager
def _generators(owners: list[Any], seed: int) -> Iterator[None]:
    """Samplers with a generator of their own draw from one that is set by ``seed``."""
    kept = [(one, one.generator) for one in owners if hasattr(one, "generator")]
    fresh = torch.Generator().manual_seed(seed)
    for one, _ in kept:
        one.generator = fresh
    try:
        yield
    finally:
        for one, generator in reversed(kept):
            one.generator = generator


def seed_all(seed: int) -> None:
    """Seed the global generators of torch (CPU), ``random`` and NumPy, which takes the seed modulo 2^32."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def _states() -> Any:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _restore(states: Any) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
