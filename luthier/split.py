"""Training, validation and test data as a user has them: tensors and nests of them, Datasets, DataLoaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from luthier.errors import DataError

Device = torch.device | str | None


@dataclass(frozen=True, eq=False)
class Split:
    """Examples in memory and their targets.

    Args:
        inputs: (n, ...), one example a row: a tensor or a NumPy array, or a tuple or dict of them (nested as you like)
            where a network has several inputs.
        targets: (n, ...), one target a row, in the same forms; None where they are among the inputs, as in batches of
            Hugging Face's: loss and metrics are then given the whole batch as the target.

    Raises:
        DataError: If the numbers of rows differ, there is none, or something is no tensor.

    Examples:
        >>> Split({"ids": torch.zeros(6, 8, dtype=torch.int64), "mask": torch.ones(6, 8)}, torch.zeros(6))
        Split(inputs={'ids': (6, 8) int64, 'mask': (6, 8) float32}, targets=(6,) float32)
    """

    inputs: Any
    targets: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _tensors(self.inputs, "inputs"))
        object.__setattr__(self, "targets", None if self.targets is None else _tensors(self.targets, "targets"))
        leaves = pytree.tree_leaves(self.batch)
        rows = {len(leaf) if leaf.dim() else None for leaf in leaves}
        if len(rows) != 1 or None in rows:
            raise DataError(
                f"inputs {_shape(self.inputs)} and targets {_shape(self.targets)} differ in their first axis",
                where="Split",
                remedy="Give one target for each input, along the first axis.",
            )
        if rows == {0}:
            raise DataError("there is no row", where="Split", remedy="Give one example at least.")

    @property
    def batch(self) -> Any:
        """All rows as one minibatch: (inputs, targets), or the inputs where the targets are among them."""
        return self.inputs if self.targets is None else (self.inputs, self.targets)

    def __len__(self) -> int:
        return len(pytree.tree_leaves(self.inputs)[0])

    def __repr__(self) -> str:
        targets = "" if self.targets is None else f", targets={_shape(self.targets)}"
        return f"Split(inputs={_shape(self.inputs)}{targets})"

    def to(self, device: Device) -> Split:
        """The same split on ``device``; itself where ``device`` is None."""
        if device is None:
            return self
        try:
            return self._mapped(lambda tensor: tensor.to(device))
        except (RuntimeError, AssertionError) as error:  # torch says "not compiled with CUDA" by an assertion
            raise DataError(
                f"device={str(device)!r} cannot be used ({str(error).splitlines()[0]})",
                where="device",
                remedy="Name a device that this machine has, with room for the data, such as 'cpu'.",
            ) from error

    def subset(self, count: int) -> Split:
        """The first ``count`` examples (a view, not a copy)."""
        check_count("count", count, 1, len(self))
        return self._mapped(lambda tensor: tensor[:count])

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Split:
        return Split(*pytree.tree_map_only(Tensor, function, (self.inputs, self.targets)))


Part = Any
"""A Split, or a Dataset, a sequence of examples or a DataLoader that yields minibatches of them."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Data that a training learns from, on which its configuration is chosen, and by which it is judged in the end.

    A part is a :class:`Split` in memory (or the pair ``(inputs, targets)`` that makes one; a TensorDataset becomes
    one), a ``torch.utils.data.Dataset`` or sequence of examples, or a ``DataLoader`` with its own batch size, sampler,
    ``collate_fn`` and workers. A minibatch that is a pair is (inputs, target); of anything else the whole is both.
    Inputs in a tuple reach the network in order, ``model(*inputs)``, those in a dict by name, ``model(**inputs)``.

    Args:
        train: Data for the weights.
        valid: Data for the hyperparameters.
        test: Read once, for the configurations that a study ends with; None where there is none.
        classes: Name of each class, where the targets are class numbers.

    Raises:
        DataError: If a part is empty or no data, or parts have other structures than the training part.

    Examples:
        >>> Splits(*(Split(torch.zeros(n, 3), torch.zeros(n)) for n in (6, 2, 2)))
        Splits(train=6, valid=2, test=2, inputs=(3,) float32, targets=() float32)
    """

    train: Part
    valid: Part
    test: Part = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            given = getattr(self, name)
            if given is not None or name != "test":
                object.__setattr__(self, name, _part(given, f"Splits({name}=…)"))
        if isinstance(self.train, Split):
            for name in ("valid", "test"):
                part = getattr(self, name)
                if isinstance(part, Split):
                    _check_alike(self.train, part, name)

    def __repr__(self) -> str:
        parts = {name: getattr(self, name) for name in ("train", "valid", "test")}
        counts = ", ".join(f"{name}={_count(part)}" for name, part in parts.items() if part is not None)
        one = ""
        if isinstance(self.train, Split):
            one = f", inputs={_shape(self.train.inputs, 1)}"
            one += "" if self.train.targets is None else f", targets={_shape(self.train.targets, 1)}"
        return f"Splits({counts}{one}{f', classes={len(self.classes)}' if self.classes else ''})"

    def to(self, device: Device) -> Splits:
        """The same splits, tensors in memory on ``device``."""
        parts = {name: getattr(self, name) for name in ("train", "valid", "test")}
        moved = {name: part.to(device) if isinstance(part, Split) else part for name, part in parts.items()}
        return Splits(**moved, classes=self.classes)


def as_splits(data: Any, where: str) -> Splits:
    """Splits from what stands for them: (train, valid), (train, valid, test), or a mapping with these names.

    Raises:
        DataError: If it is none of these.
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, Mapping) and {"train", "valid"} <= set(data) <= {"train", "valid", "test", "classes"}:
        return Splits(**data)
    if type(data) is tuple and len(data) in (2, 3):
        return Splits(*data)
    raise DataError(
        f"{_named(data)} is no training and validation data",
        where=where,
        remedy="Give lt.Splits(train=…, valid=…), each a Split, a Dataset or a DataLoader.",
    )


def check_count(name: str, value: object, low: int, high: int) -> None:
    """Refuse a number of examples that is not to be had."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise DataError(
            f"{name}={value!r} is not a whole number from {low} to {high}",
            where=name,
            remedy=f"Give a number of examples within the {high} that can be had, or a larger data set.",
        )


def _part(given: Any, where: str) -> Any:
    """A part in the form in which it is read."""
    if isinstance(given, TensorDataset):
        inputs, *targets = given.tensors
        given = Split(inputs, *targets) if len(targets) == 1 else Split(given.tensors if targets else inputs)
    elif type(given) is tuple and len(given) == 2 and all(_is_table(each) for each in pytree.tree_leaves(given)):
        given = Split(*given)
    if isinstance(given, Split | IterableDataset):
        return given
    if isinstance(given, DataLoader):
        if not isinstance(given.dataset, IterableDataset) and _rows(given.dataset, where) == 0:
            raise DataError("the dataset of the loader is empty", where=where, remedy="Give one example at least.")
        return given
    if isinstance(given, Dataset) or (hasattr(given, "__getitem__") and not isinstance(given, str | Mapping | Tensor)):
        if isinstance(given, np.ndarray) or _rows(given, where) == 0:
            fault = "an array without targets" if isinstance(given, np.ndarray) else "an empty dataset"
            raise DataError(fault, where=where, remedy="Give lt.Split(inputs, targets), or a dataset with examples.")
        return given
    raise DataError(
        f"{_named(given)} is no data",
        where=where,
        remedy="Give lt.Split(inputs, targets), a Dataset with __len__ and __getitem__, or a DataLoader.",
    )


def _is_table(value: Any) -> bool:
    """Many rows in one object, as an array has them."""
    return (isinstance(value, Tensor | np.ndarray) and value.ndim > 0) or hasattr(value, "to_numpy")


def _rows(dataset: Any, where: str) -> int:
    try:
        return len(dataset)
    except TypeError as error:
        raise DataError(
            f"{type(dataset).__name__} has no length",
            where=where,
            remedy="Give it __len__, the number of its examples, or make it an IterableDataset.",
        ) from error


def _tensors(tree: Any, name: str) -> Any:
    """A nest with a tensor in every place; arrays, and what gives one by ``to_numpy``, become tensors."""

    def tensor(leaf: Any) -> Tensor:
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.is_nested:
            return leaf
        if isinstance(leaf, Tensor):
            raise DataError(
                f"there is a {'nested' if leaf.is_nested else 'sparse'} tensor among the {name}",
                where="Split",
                remedy="Give rows that lie side by side, tensor.to_dense(); what belongs to no row, such as the matrix "
                "of a graph, goes into the model (register_buffer), or into minibatches by a DataLoader's collate_fn.",
            )
        array = leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf
        if isinstance(array, np.ndarray) and array.dtype.kind in "biufc":
            fresh = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
            return torch.from_numpy(np.ascontiguousarray(fresh) if array.ndim else fresh)
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(leaf).__name__}"
        raise DataError(
            f"there is {kind} among the {name}",
            where="Split",
            remedy="Give tensors or NumPy arrays of numbers, with one example a row, or tuples and dicts of them; "
            "texts come by a Dataset or a DataLoader.",
        )

    if isinstance(tree, Mapping) and type(tree) is not dict:
        tree = dict(tree)
    found = pytree.tree_map(tensor, tree)
    if not pytree.tree_leaves(found):
        raise DataError(f"{name}={tree!r} holds no tensor", where="Split", remedy="Give a tensor, or a nest of them.")
    return found


def _check_alike(train: Split, part: Split, name: str) -> None:
    """Refuse rows that are made up of other parts, or of parts with other numbers of axes, than those of training."""
    here, there = (pytree.tree_flatten(each.batch) for each in (part, train))
    if here[1] == there[1] and all(a.ndim == b.ndim for a, b in zip(here[0], there[0], strict=True)):
        return
    raise DataError(
        f"a row of {name} is {_shape(part.batch, 1)} and one of train {_shape(train.batch, 1)}",
        where=f"Splits({name}=…)",
        remedy="Give all parts the same inputs and targets, in the same nest.",
    )


def _count(part: Any) -> str:
    if isinstance(part, DataLoader):
        return "DataLoader"
    return type(part).__name__ if isinstance(part, IterableDataset) else str(len(part))


def _named(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _shape(tree: Any, skip: int = 0) -> str:
    """``(1, 28, 28) float32``: the shape without its first ``skip`` axes, and the type; a nest has its own form."""
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape[skip:])} {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name!r}: {_shape(each, skip)}" for name, each in tree.items()) + "}"
    if isinstance(tree, tuple | list):
        return "(" + ", ".join(_shape(each, skip) for each in tree) + ")"
    return repr(tree)
