"""Minibatches as a function of the step: the same order alone, in any stack, and after a resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.seeds import Seeds
from luthier.task.stream import rows_of_tree

if TYPE_CHECKING:
    from luthier.task.program import Batch, Program


class Batches:
    """The minibatches of one split.

    Each epoch has a permutation drawn from (seed, epoch); a last, smaller batch is left out. The split is shuffled
    once an epoch, so that a minibatch is a slice.

    Args:
        program: Gives the batch size and the data.
        split: ``"train"`` or ``"valid"``.
        seeds: The study's seeds, for an order that all members share.
        keys: One key a member for orders of their own, (members,); batches are then (members, batch, …).
    """

    def __init__(self, program: Program, split: str, seeds: Seeds, keys: torch.Tensor | None = None) -> None:
        from luthier.task.stream import Stream

        part = getattr(program.task.data, split)
        self._stream = None
        if not hasattr(part, "inputs"):
            task = program.task
            size = min(program.batch_size, len(part))
            self._stream = Stream(part, size, seeds, f"shuffle {split}", task.convert, task.loader)
            return
        self._inputs, self._targets = program.task.tensors(split)
        self._rows = len(part)
        self._size = min(program.batch_size, self._rows)
        self._count = self._rows // self._size
        self._purpose = f"shuffle {split}"
        self._seeds = [seeds] if keys is None else [Seeds(int(key)) for key in keys]
        self._shared = keys is None
        self._epoch, self._program = -1, program

    def at(self, step: int) -> Batch:
        """The minibatch of training step ``step``, counted from 0 over the whole lineage."""
        if self._stream is not None:
            return self._stream.at(step)
        epoch, position = divmod(step, self._count)
        if epoch != self._epoch:
            self._shuffle(epoch)
        rows = slice(position * self._size, (position + 1) * self._size)
        if self._shared:
            return rows_of_tree(self._shuffled, rows)
        index = self._order[:, rows]
        return rows_of_tree((self._inputs, self._targets), index)

    def _shuffle(self, epoch: int) -> None:
        orders = [seeds.rng(epoch, self._purpose).permutation(self._rows) for seeds in self._seeds]
        self._order = torch.from_numpy(np.stack(orders)).to(self._program.device)
        if self._shared:
            self._shuffled = rows_of_tree((self._inputs, self._targets), self._order[0])
        self._epoch = epoch
