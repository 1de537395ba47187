"""Sizes that a checkpoint claims, held against the bytes that it has, before anything of that size is made.

``torch.load(weights_only=True)`` runs no foreign code, but it inflates compressed records and lets a tensor's header
name any size: a file of a few hundred bytes could ask for all memory.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

_REBUILT = ("_rebuild_tensor_v2", "_rebuild_tensor_v3")
_SLACK = 1 << 20  # of the records beside the tensors


def check_claims(data: bytes) -> None:
    """Read the structure of a checkpoint, and of its tensors no more than their sums.

    Raises:
        ValueError: If it claims more than it holds, is made of what no checkpoint is, or has changed since.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes: dict[str, int] = {}
        structure = ""
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED or record.file_size > len(data):
                raise ValueError(f"its record {record.filename[:80]!r} claims {record.file_size:,} bytes")
            sizes[record.filename.partition("/")[2]] = record.file_size
            structure = record.filename if record.filename.endswith("/data.pkl") else structure
        if sum(sizes.values()) > len(data) + _SLACK:
            raise ValueError(f"its records claim {sum(sizes.values()):,} bytes")
        if not structure:
            raise ValueError("it has no record data.pkl")
        _Structure(archive.read(structure), sizes).load()
        if (damaged := archive.testzip()) is not None:  # torch does not compare the sums that it writes
            raise ValueError(f"its record {damaged[:80]!r} has other bytes than were written")


class _Structure(pickle.Unpickler):
    """Reader of a checkpoint's structure that builds nothing: tensors are checked and left out."""

    def __init__(self, data: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(data))
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in _REBUILT:
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage"):
            import torch

            found = getattr(torch, name, None)
            if isinstance(found, torch.dtype):
                return found
            if name == "Size" or name.endswith("Storage"):
                return _nothing
        raise ValueError(f"it holds {module}.{name}, which no checkpoint does")

    def persistent_load(self, pid: Any) -> int:
        """The bytes of a storage."""
        kind, _, key, _, count = pid
        size = self._sizes.get(f"data/{key}")
        if kind != "storage" or size is None or not 0 <= count <= size:
            raise ValueError(f"its storage {str(key)[:80]!r} claims {count!r} numbers in {size or 0:,} bytes")
        return size

    def _tensor(self, storage: int, offset: int, shape: tuple[int, ...], *_: Any) -> None:
        count = math.prod(shape)
        if min((offset, *shape)) < 0 or count + offset > max(storage, 0):
            raise ValueError(f"a tensor of shape {list(shape)!r} claims more than its {storage:,} bytes")


def _nothing(*_: Any) -> None:
    return None
