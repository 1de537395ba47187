"""One split as minibatches: tensors in memory, a map-style dataset or a stream, each a function of the step.

So a training may begin anywhere: alone, in a stack, after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from luthier.errors import DataError, LuthierError
from luthier.hidden import alike
from luthier.seeds import Seeds
from luthier.split import Split
from luthier.task.call import describe
from luthier.task.keyed import KeyedRows, Order, OwnGenerators, places_of, sampled, seed_all, shuffles

EVALUATED = 1000  # rows in memory that are measured at once
WIDE = 256  # bytes of a row from which on gathering costs less than a shuffled copy of all


@dataclass(frozen=True)
class Convert:
    """Puts a minibatch where it is trained: on the device, floats in their type."""

    device: torch.device
    dtype: torch.dtype

    def __call__(self, batch: Any) -> Any:
        return pytree.tree_map_only(Tensor, self._placed, batch)

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.device, dtype, non_blocking=tensor.device.type == "cpu" and tensor.is_pinned())


class Source(Protocol):
    """One split."""

    def steps(self, size: int) -> int:
        """Minibatches of one epoch, where this source leaves their size open."""
        ...

    def stream(self, size: int, seeds: Seeds, purpose: str) -> Callable[[int], Any]:
        """A function from the number of a minibatch, counted over all epochs, to that minibatch."""
        ...

    def in_order(self, size: int) -> Iterator[Any]:
        """All rows once, as minibatches, for a measurement: always the same."""
        ...

    def example(self, rows: int) -> Any:
        """A minibatch of so many rows or, where that cannot be chosen, of some."""
        ...


def source_of(part: Any, convert: Convert) -> Source:
    """The source that reads a part of `luthier.Splits`; ``convert`` puts a minibatch where it is trained."""
    if isinstance(part, Split):
        return InMemory(part, convert)
    loader = part if isinstance(part, DataLoader) else None
    dataset = part if loader is None else loader.dataset
    return (Streamed if isinstance(dataset, IterableDataset) else MapStyle)(dataset, loader, convert)


def rows_of_tree(tree: Any, index: Any) -> Any:
    """The rows of every tensor of a nest."""
    if isinstance(tree, Tensor):
        return tree.index_select(0, index) if isinstance(index, Tensor) and index.ndim == 1 else tree[index]
    if type(tree) is tuple:  # a pair, mostly: pytree would take longer than a step of a small network
        return tuple(rows_of_tree(part, index) for part in tree)
    return pytree.tree_map_only(Tensor, lambda tensor: rows_of_tree(tensor, index), tree)


class Listed(list[Any]):
    """A list without tensors, such as the texts of a minibatch: one leaf of its nest, however many rows it has."""


def plain(batch: Any) -> Any:
    """A minibatch in few types: mappings as dicts, lists as tuples, NumPy arrays as tensors."""
    if isinstance(batch, Tensor):
        if batch.is_nested:
            raise DataError(
                "a minibatch is a nested tensor, which no operator runs for several members",
                where="TorchTask(data=…)",
                remedy="Pad it: torch.nn.utils.rnn.pad_sequence, with the lengths or a mask beside it.",
            )
        return batch
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biufc":
        return torch.from_numpy(batch)
    if isinstance(batch, Mapping):
        return {name: plain(value) for name, value in batch.items()}
    if isinstance(batch, list) or type(batch) is tuple:
        parts = tuple(plain(value) for value in batch)
        return parts if any(isinstance(x, Tensor) for x in pytree.tree_leaves(parts)) else Listed(batch)
    return batch


def _read_on(
    begin: Callable[[int], Iterator[Any]], take: Callable[[Iterator[Any]], Any], convert: Convert, steps: int = 0
) -> Callable[[int], Any]:
    """A function from a minibatch's number to it, which begins a pass only where it is not read on.

    Args:
        begin: A pass from a number on.
        take: The next minibatch of a pass.
        convert: Puts it where it is trained.
        steps: Minibatches after which each pass ends; 0 is one pass for all epochs.
    """
    following, guard = -1, OwnGenerators()
    iterator: Iterator[Any] = iter(())

    def at(number: int) -> Any:
        nonlocal following, iterator
        with guard:
            if number != following or (steps and number % steps == 0):
                iterator = begin(number)
            batch = take(iterator)
        following = number + 1
        return convert(plain(batch))

    return at


class InMemory:
    """Tensors, moved to their device once.

    Each epoch has a permutation drawn from (seed, epoch). A split of narrow rows is shuffled once an epoch, so that a
    minibatch is a slice; of wide ones each minibatch is gathered. A last, smaller one is left out.
    """

    def __init__(self, split: Split, convert: Convert) -> None:
        self._split, self._convert = split, convert
        self._batch: Any = None

    @property
    def batch(self) -> Any:
        """All rows."""
        if self._batch is None:
            self._batch = self._convert(self._split.batch)
        return self._batch

    def __len__(self) -> int:
        return len(self._split)

    def steps(self, size: int) -> int:
        """Whole minibatches."""
        return len(self) // size

    def stream(self, size: int, seeds: Seeds, purpose: str) -> Callable[[int], Any]:
        """One order for all."""
        epoch, shuffled, order = -1, None, torch.empty(0)
        wide = any(leaf[:1].nbytes > WIDE for leaf in pytree.tree_leaves(self.batch) if isinstance(leaf, Tensor))

        def at(number: int) -> Any:
            nonlocal epoch, shuffled, order
            now, position = divmod(number, self.steps(size))
            if now != epoch:
                epoch, order = now, self._order(seeds, now, purpose)
                shuffled = None if wide else rows_of_tree(self.batch, order)
            rows = slice(position * size, (position + 1) * size)
            return rows_of_tree(self.batch, order[rows]) if wide else rows_of_tree(shuffled, rows)

        return at

    def own_streams(self, size: int, seeds: Sequence[Seeds], purpose: str) -> Callable[[int], Any]:
        """An order for each member: minibatches are (members, batch, …)."""
        epoch, order = -1, torch.empty(0)

        def at(number: int) -> Any:
            nonlocal epoch, order
            now, position = divmod(number, self.steps(size))
            if now != epoch:
                epoch, order = now, torch.stack([self._order(each, now, purpose) for each in seeds])
            return rows_of_tree(self.batch, order[:, position * size : (position + 1) * size])

        return at

    def in_order(self, size: int) -> Iterator[Any]:
        """Slices."""
        size = -(-len(self) // -(-len(self) // EVALUATED))  # even ones: batch norm cannot take a last row by itself
        for first in range(0, len(self), size):
            yield rows_of_tree(self.batch, slice(first, first + size))

    def example(self, rows: int) -> Any:
        """The first rows."""
        return rows_of_tree(self.batch, slice(0, rows))

    def _order(self, seeds: Seeds, epoch: int, purpose: str) -> Tensor:
        device = next(leaf.device for leaf in pytree.tree_leaves(self.batch) if isinstance(leaf, Tensor))
        return torch.from_numpy(seeds.rng(epoch, purpose).permutation(len(self))).to(device)


class MapStyle:
    """A map-style dataset, read by torch's DataLoader with its workers, ``collate_fn`` and sampler.

    Without a loader, or with one that shuffles, the order is a permutation drawn from (seed, epoch). Any other sampler
    is asked once an epoch, with the generators set by (seed, epoch). One seed a minibatch is enough for the transforms,
    since workers fetch a minibatch as a whole: their number cannot matter.
    """

    def __init__(self, dataset: Any, loader: DataLoader[Any] | None, convert: Convert) -> None:
        self._dataset, self._loader, self._convert = dataset, loader, convert

    def steps(self, size: int) -> int:
        """Steps in one pass: the loader's length, or else the number of whole minibatches."""
        return len(self._dataset) // size if self._loader is None else len(self._loader)

    def stream(self, size: int, seeds: Seeds, purpose: str) -> Callable[[int], Any]:
        """One pass of the dataset while it is read on; any other step begins a new one there."""

        def begin(number: int) -> Iterator[Any]:
            order = Order(self._rows(size, seeds, purpose), self.steps(size), number)
            return self._read(order, KeyedRows(self._dataset, seeds, purpose), self._workers)

        return _read_on(begin, next, self._convert)

    def in_order(self, size: int) -> Iterator[Any]:
        """The order of the loader's sampler, or of the rows where that would shuffle."""
        guard = OwnGenerators()
        with guard:
            places = [places_of(0, position, each) for position, each in enumerate(self._evaluated(size))]
            batches = self._read(places, KeyedRows(self._dataset, Seeds(0), "evaluate"), self._workers)
        for batch in guard.each(batches):
            yield self._convert(plain(batch))

    def example(self, rows: int) -> Any:
        """The first rows, read twice: what is not the same again could not be resumed.

        Raises:
            DataError: If it is not the same again.
        """
        found = []
        for _ in range(2):
            with OwnGenerators():
                chosen = 0 if self._unbatched else list(range(min(rows, len(self._dataset))))
                samples = KeyedRows(self._dataset, Seeds(0), "example")
                try:
                    found.append(plain(next(self._read([places_of(0, 0, chosen)], samples, {}))))
                except LuthierError:
                    raise
                except Exception as error:  # of the dataset, its transforms or collate_fn
                    raise DataError(
                        f"reading its first rows fails: {describe(error)}",
                        where=f"TorchTask(data=…), {type(self._dataset).__name__}",
                        remedy="Call next(iter(DataLoader(dataset, batch_size=4))) to see the whole error.",
                    ) from error
        if not alike(*found):
            raise DataError(
                f"{type(self._dataset).__name__} gives other numbers when the same rows are read again",
                where="TorchTask(data=…)",
                remedy="Let transforms draw from torch's, random's or NumPy's global generator, which luthier sets "
                "before each minibatch, and not from a generator of their own.",
            )
        return self._convert(found[0])

    @property
    def _workers(self) -> dict[str, Any]:
        """Settings of the loader's workers."""
        if self._loader is None:
            return {}
        given = {name: getattr(self._loader, name) for name in ("num_workers", "timeout", "worker_init_fn")}
        given["pin_memory"] = self._loader.pin_memory
        if self._loader.num_workers > 0:
            given |= {"prefetch_factor": self._loader.prefetch_factor}
            given |= {"multiprocessing_context": self._loader.multiprocessing_context}
        return given

    @property
    def _unbatched(self) -> bool:
        """The loader has no batch size: what the dataset gives is a minibatch already."""
        return self._loader is not None and self._loader.batch_sampler is None

    def _read(self, places: Any, samples: KeyedRows, workers: dict[str, Any]) -> Iterator[Any]:
        how = {"sampler": places, "batch_size": None} if self._unbatched else {"batch_sampler": places}
        if self._loader is not None:
            how["collate_fn"] = self._loader.collate_fn
        if self._convert.device.type == "cuda":  # copied while the device computes
            workers = {**workers, "pin_memory": True}
        return iter(DataLoader(samples, **how, **workers))

    def _rows(self, size: int, seeds: Seeds, purpose: str) -> Callable[[int], Sequence[Any]]:
        """The rows of each minibatch of an epoch, as a function of the epoch."""
        loader, count = self._loader, len(self._dataset)
        if loader is None or (shuffles(loader.sampler) and type(loader.batch_sampler) is BatchSampler):
            width = size if loader is None else int(loader.batch_size or 1)
            whole = loader is None or loader.drop_last
            end = count - width + 1 if whole else count

            def permuted(epoch: int) -> Sequence[list[int]]:
                order = seeds.rng(epoch, purpose).permutation(count).tolist()
                return [order[first : first + width] for first in range(0, end, width)]

            return permuted
        return lambda epoch: sampled(loader, seeds.key(epoch, f"{purpose}, sampler"), epoch)

    def _evaluated(self, size: int) -> Sequence[Any]:
        loader, count = self._loader, len(self._dataset)
        if loader is not None and not shuffles(loader.sampler):
            return sampled(loader, 0, 0)
        if self._unbatched:
            return range(count)
        width = max(64, size) if loader is None else int(loader.batch_size or 1)
        return [list(range(first, min(first + width, count))) for first in range(0, count, width)]


class Streamed:
    """An IterableDataset: each epoch is read from its beginning, with the generators set by (seed, epoch).

    A resumed training reads, and drops, what came before in its epoch. It is the same again only where the dataset is:
    a function of the global generators, with the same number of workers. That cannot be promised for it.
    """

    def __init__(self, dataset: Any, loader: DataLoader[Any] | None, convert: Convert) -> None:
        self._dataset, self._loader, self._convert = dataset, loader, convert
        if not hasattr(dataset, "__len__"):
            raise DataError(
                f"{type(dataset).__name__} does not say how many examples an epoch has",
                where="TorchTask(data=…)",
                remedy="Give the IterableDataset a __len__: the number of examples that one iteration yields.",
            )

    def steps(self, size: int) -> int:
        """Minibatches in the dataset's own length."""
        return -(-len(self._dataset) // size) if self._loader is None else len(self._loader)

    def stream(self, size: int, seeds: Seeds, purpose: str) -> Callable[[int], Any]:
        """One pass an epoch."""

        def begin(number: int) -> Iterator[Any]:
            epoch, position = divmod(number, self.steps(size))
            iterator = self._read(size, seeds.key(epoch, purpose))
            for _ in range(position):
                self._next(iterator)
            return iterator

        return _read_on(begin, self._next, self._convert, self.steps(size))

    def in_order(self, size: int) -> Iterator[Any]:
        """One pass."""
        guard = OwnGenerators()
        with guard:
            batches = self._read(max(64, size), 0)
        for batch in guard.each(batches):
            yield self._convert(plain(batch))

    def example(self, rows: int) -> Any:
        """The first minibatch."""
        with OwnGenerators():
            return self._convert(plain(self._next(self._read(rows, 0))))

    def _read(self, size: int, seed: int) -> Iterator[Any]:
        seed_all(seed)
        generator = torch.Generator().manual_seed(seed)  # from which workers are seeded
        if self._loader is None:
            return iter(DataLoader(self._dataset, batch_size=size, generator=generator))
        names = ("batch_size", "drop_last", "collate_fn", "num_workers", "timeout", "worker_init_fn", "pin_memory")
        given = {name: getattr(self._loader, name) for name in names}
        if self._loader.num_workers > 0:
            given["prefetch_factor"] = self._loader.prefetch_factor
        return iter(DataLoader(self._dataset, generator=generator, **given))

    def _next(self, iterator: Iterator[Any]) -> Any:
        try:
            return next(iterator)
        except StopIteration:
            raise DataError(
                f"{type(self._dataset).__name__} ended before the {len(self._dataset)} examples of its length",
                where="TorchTask(data=…)",
                remedy="Let __len__ give the number of examples that one iteration yields, all workers together.",
            ) from None
