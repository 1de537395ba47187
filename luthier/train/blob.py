"""A training's state in the few types that a checkpoint holds, and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from luthier.errors import CheckpointError

_KINDS = ("array", "scalar", "bytes", "tuple", "items")
_PREFIX = "luthier."  # marks a dict that stands for something else


def pack(state: Any, where: str) -> Any:
    """``state`` made of dicts with string keys, lists, tensors, numbers, strings, True, False and None.

    Args:
        state: Dicts, lists and tuples of tensors, NumPy arrays, numbers, strings, bytes, True, False and None.
        where: What it is the state of, for the message.

    Returns:
        The same in fewer types: NumPy arrays as tensors, tuples and dicts with other keys as marked dicts.

    Raises:
        CheckpointError: If something else is in it.
    """
    if state is None or type(state) in (bool, int, float, str):
        return state
    if isinstance(state, dict):
        if all(type(key) is str for key in state) and not any(key.startswith(_PREFIX) for key in state):
            return {key: pack(value, f"{where}[{key!r}]") for key, value in state.items()}
        return {
            f"{_PREFIX}items": [[pack(key, where), pack(value, f"{where}[{key!r}]")] for key, value in state.items()]
        }
    if type(state) in (list, tuple):
        packed = [pack(value, f"{where}[{index}]") for index, value in enumerate(state)]
        return packed if type(state) is list else {f"{_PREFIX}tuple": packed}
    torch = sys.modules.get("torch")  # a tensor cannot be here before it is imported
    if torch is not None and isinstance(state, torch.Tensor):
        return state.detach()
    if isinstance(state, np.ndarray | np.generic) and state.dtype.kind in "biufc":
        import torch  # a checkpoint is written by it, so the time is not lost

        array = np.array(state, dtype=state.dtype.newbyteorder("="))  # a copy: torch wants writable memory
        return {f"{_PREFIX}{'array' if isinstance(state, np.ndarray) else 'scalar'}": torch.from_numpy(array)}
    if isinstance(state, bytes | bytearray):
        import torch

        return {f"{_PREFIX}bytes": torch.from_numpy(np.frombuffer(bytes(state), dtype=np.uint8).copy())}
    raise CheckpointError(
        f"a {type(state).__name__} cannot be kept",
        where=where,
        remedy="Keep dicts, lists and tuples of tensors, NumPy arrays, numbers and strings, or write save(state) and "
        "load(blob) that turn the state into those (for a NumPy generator: rng.bit_generator.state).",
    )


def unpack(blob: Any) -> Any:
    """The state that :func:`pack` was given (a bytearray comes back as bytes)."""
    if isinstance(blob, list):
        return [unpack(value) for value in blob]
    if not isinstance(blob, dict):
        return blob
    kind = next(iter(blob)).removeprefix(_PREFIX) if len(blob) == 1 else ""
    if f"{_PREFIX}{kind}" not in blob or kind not in _KINDS:
        return {key: unpack(value) for key, value in blob.items()}
    inner = blob[f"{_PREFIX}{kind}"]
    if kind == "tuple":
        return tuple(unpack(value) for value in inner)
    if kind == "items":
        return {unpack(key): unpack(value) for key, value in inner}
    array = inner.numpy()
    return array.tobytes() if kind == "bytes" else array if kind == "array" else array[()]
