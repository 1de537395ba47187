"""The data of a task, as they are read under one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, IterableDataset

from luthier.errors import DataError, TaskError
from luthier.split import as_splits
from luthier.task.reading import Convert, InMemory, Source, source_of

if TYPE_CHECKING:
    from luthier.task.torch_task import TorchTask

DEFAULT = 64  # rows of a minibatch


class Sources:
    """The parts of a task's data, as they are read under one configuration.

    Args:
        task: Says where minibatches are trained, and in how many a step takes.
        data: Splits, or what stands for them.
        size: Rows of a minibatch, None where that is left to the data.

    Raises:
        DataError: If they are no data.
        TaskError: If there are too few rows for a minibatch, or the size of one is given twice.
    """

    def __init__(self, task: TorchTask, data: Any, size: Any) -> None:
        self.splits = as_splits(data, "TorchTask(data=…)")
        self._check_size(task, size)
        self._size = DEFAULT if size is None else int(size)
        convert = Convert(torch.device(task.device or "cpu"), task.dtype)
        parts = {"train": self.splits.train, "valid": self.splits.valid, "test": self.splits.test}
        self._parts = {name: source_of(part, convert) for name, part in parts.items() if part is not None}
        if task.own_batches and not all(isinstance(self._parts[name], InMemory) for name in ("train", "valid")):
            raise TaskError(
                "own_batches=True with data that are not in memory",
                where="TorchTask(own_batches=…)",
                remedy="Give tensors, lt.Split(inputs, targets): one pass of a dataset feeds all members alike.",
            )
        steps = self._parts["train"].steps(self.size("train"))
        if steps < task.accumulate:
            raise TaskError(
                f"an epoch has {steps} minibatches and a step takes {task.accumulate}",
                where="TorchTask(data=…)",
                remedy="Give more rows, or smaller minibatches.",
            )

    def __getitem__(self, split: str) -> Source:
        if split not in self._parts:
            raise DataError(
                f"there is no {split} split", where="TorchTask(data=…)", remedy=f"Give lt.Splits(…, {split}=…)."
            )
        return self._parts[split]

    def __contains__(self, split: object) -> bool:
        return split in self._parts

    def size(self, split: str) -> int:
        """Rows of a minibatch."""
        part = getattr(self.splits, split)
        if isinstance(part, DataLoader):
            return int(part.batch_size or 1)
        return self._size if isinstance(part, IterableDataset) else min(self._size, len(part))

    def _check_size(self, task: TorchTask, size: Any) -> None:
        """Refuse a size of minibatches that is none, or another than the loader's."""
        train = self.splits.train
        loader = isinstance(train, DataLoader)
        if "batch_size" in task.space.domains and loader and not callable(task.data):
            raise TaskError(
                "batch_size is in the space, and the DataLoader has one of its own",
                where="TorchTask(data=…)",
                remedy="Give the dataset itself, or a function: data=lambda config: lt.Splits(train=DataLoader(…, "
                'batch_size=config["batch_size"]), …).',
            )
        if size is None:
            return
        rows = None if loader or isinstance(train, IterableDataset) else len(train)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or (rows and size > rows > 0):
            if "batch_size" in task.space.domains and rows and isinstance(size, int) and size > rows:
                return  # one of many sizes: at most the rows
            raise TaskError(
                f"batch_size={size}" + ("" if rows is None else f" with {rows} training rows"),
                where="TorchTask(batch_size=…)",
                remedy=f"Choose a whole number from 1 to {rows}." if rows else "Choose a whole number from 1 on.",
            )
        if loader and train.batch_size != size and "batch_size" not in task.space.domains:
            raise TaskError(
                f"batch_size={size} and a DataLoader with batch_size={train.batch_size}",
                where="TorchTask(batch_size=…)",
                remedy="Leave it to the loader.",
            )

    def example(self, split: str = "train", rows: int = 4) -> Any:
        """A small minibatch."""
        return self[split].example(rows)

    def check(self) -> None:
        """Read the first examples of each part.

        Raises:
            DataError: If they are made up of other tensors than those of the training part, or cannot be read again.
        """
        first = self.example()
        for name in ("valid", "test"):
            if name not in self:
                continue
            form, there = (_form(each) for each in (self.example(name), first))
            if form != there:
                raise DataError(
                    f"a minibatch of {name} is {form} and one of train {there}",
                    where=f"Splits({name}=…)",
                    remedy="Give all parts the same inputs and targets, in the same nest.",
                )


def _form(batch: Any) -> Any:
    """The nest of a minibatch with the number of axes in the place of a tensor, the type in that of anything else."""
    return pytree.tree_map(lambda x: x.ndim if isinstance(x, Tensor) else type(x).__name__, batch)
