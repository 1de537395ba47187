"""Minibatches of a map-style Dataset by torch's DataLoader: the same at every step, however and wherever it is read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, Sampler

from luthier.seeds import Seeds


class KeyedSamples(Dataset[Any]):
    """A dataset whose minibatches are a function of (epoch, first row), random transforms included.

    torch's workers fetch a minibatch as a whole, so one seed for it is enough, whichever worker it is.
    """

    def __init__(self, dataset: Any, seeds: Seeds, purpose: str) -> None:
        self.dataset, self.seeds, self.purpose = dataset, seeds, purpose

    def __getitems__(self, places: list[tuple[int, int]]) -> list[Any]:
        epoch, first = places[0]
        seed = self.seeds.key(first, f"{self.purpose} {epoch}")
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        rows = [row for _, row in places]
        many = getattr(self.dataset, "__getitems__", None)
        return many(rows) if many else [self.dataset[row] for row in rows]


class KeyedOrder(Sampler[list[tuple[int, int]]]):
    """The rows of each minibatch from ``start`` on, without end: a permutation an epoch, by (seed, epoch)."""

    def __init__(self, rows: int, size: int, seeds: Seeds, purpose: str, start: int) -> None:
        self.rows, self.size, self.seeds, self.purpose, self.start = rows, size, seeds, purpose, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        count, step, known = self.rows // self.size, self.start, -1
        order: list[int] = []
        while True:
            epoch, position = divmod(step, count)
            if epoch != known:
                order, known = self.seeds.rng(epoch, self.purpose).permutation(self.rows).tolist(), epoch
            yield [(epoch, row) for row in order[position * self.size : (position + 1) * self.size]]
            step += 1


class Stream:
    """The minibatches of a dataset by step; reading on is one pass, any other step begins a new one there.

    Args:
        dataset: Map-style: ``len`` and ``[row]``.
        size: Rows of a minibatch.
        seeds: Of order and transforms.
        purpose: Sets the order of one split apart from another's.
        convert: Puts a batch on the device.
        loader: Of DataLoader: num_workers, collate_fn, …
    """

    def __init__(self, dataset: Any, size: int, seeds: Seeds, purpose: str, convert: Any, loader: Any = None) -> None:
        self._dataset, self._size, self._seeds, self._purpose = dataset, size, seeds, purpose
        self._convert, self._loader = convert, dict(loader or {})
        self._next, self._iterator = -1, iter(())
        self._kept: dict[int, Any] = {}

    def at(self, step: int) -> Any:
        """The minibatch of training step ``step``."""
        if step in self._kept:
            return self._kept[step]
        if step != self._next:
            order = KeyedOrder(len(self._dataset), self._size, self._seeds, self._purpose, step)
            samples = KeyedSamples(self._dataset, self._seeds, self._purpose)
            self._iterator = iter(DataLoader(samples, batch_sampler=order, **self._loader))
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()
        batch = self._convert(next(self._iterator))
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])
        self._next = step + 1
        self._kept = {**dict(list(self._kept.items())[-3:]), step: batch}
        return batch


def in_order(dataset: Any, size: int, convert: Any, loader: Any = None) -> Iterator[Any]:
    """All rows once, for a measurement."""
    samples = KeyedSamples(dataset, Seeds(0), "evaluate")
    rows = [
        [(0, row) for row in range(first, min(first + size, len(dataset)))] for first in range(0, len(dataset), size)
    ]
    for batch in DataLoader(samples, batch_sampler=rows, **dict(loader or {})):  # type: ignore[arg-type]
        yield convert(batch)


def rows_of_tree(tree: Any, index: Any) -> Any:
    """The rows of every tensor of a nest."""
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor[index], tree)
