"""Permitted contents of a checkpoint, and the latest checkpoints in memory for continuing in the same process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from luthier.errors import CheckpointError
from luthier.store.folder import Stamp

BYTES = 1 << 26  # of states that are kept in memory


class _Kept(NamedTuple):
    """A state that this process has just written."""

    content: Any
    size: int
    stamp: Stamp  # of its file


class Recent:
    """The contents of files that this process has written last, at most ``BYTES`` in all."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}  # oldest first
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return Recent().__dict__  # not sent along to other processes

    def names(self) -> list[str]:
        """The files whose contents are kept, oldest first."""
        return list(self._kept)

    def add(self, name: str, content: Any, size: int, stamp: Stamp | None) -> None:
        """Keep a content that :func:`checked` returned, and let go of the oldest where that is too much."""
        if stamp is None or size > BYTES or _shared(content):
            return
        self._kept[name] = _Kept(_copied(content), size, stamp)
        self._bytes += size
        while self._bytes > BYTES:
            self._bytes -= self._kept.pop(next(iter(self._kept))).size

    def forget(self, name: str) -> None:
        """Let go of the content of a file that is removed."""
        if name in self._kept:
            self._bytes -= self._kept.pop(name).size

    def get(self, name: str, stamp: Stamp | None) -> Any:
        """A copy of the content of a file whose stamp is this; None where it is not kept."""
        kept = self._kept.get(name)
        return None if kept is None or kept.stamp != stamp else _copied(kept.content)


def checked(value: Any, path: str) -> Any:
    """A copy of ``value`` that :func:`torch.load` can read without pickle: tensors detached, on the CPU, without what
    lies around a view in its storage.

    Raises:
        CheckpointError: If it holds something else, named by its ``path``.
    """
    import torch

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()
    if isinstance(value, Mapping):
        return {checked(key, f"a key of {path}"): checked(entry, f"{path}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(checked(entry, f"{path}[{place}]") for place, entry in enumerate(value))
    raise CheckpointError(
        f"{type(value).__name__} cannot be stored in a checkpoint",
        where=path,
        remedy="A state is made of dicts and lists of tensors, numbers, strings, booleans and None.",
    )


def _copied(value: Any) -> Any:
    """A copy of what :func:`checked` returned: whoever holds the other may write into its tensors."""
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(entry) for entry in value)
    return value.clone() if hasattr(value, "clone") else value


def _shared(value: Any) -> bool:
    """Return True if two tensors share memory, which a file preserves and copying them one by one would not."""
    seen: list[int] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, (dict, list, tuple)):
            todo += one.values() if isinstance(one, dict) else one
        elif hasattr(one, "untyped_storage") and one.numel():
            seen.append(one.untyped_storage().data_ptr())
    return len(set(seen)) < len(seen)
