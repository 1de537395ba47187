"""A training's state in the few types that a checkpoint holds, and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from luthier.errors import CheckpointError

_KINDS = ("array", "scalar", "bytes", "tuple", "items", "object")
_PREFIX = "luthier."  # marks a dict that stands for something else


def pack(state: Any, where: str) -> Any:
    """Rewrite ``state`` as dicts with string keys, lists, tensors, numbers, strings, True, False and None.

    Args:
        state: Dicts, lists and tuples of tensors, NumPy arrays, numbers, strings, bytes, True, False and None, and of
            networks, optimizers and whatever else has ``state_dict`` and ``load_state_dict``.
        where: Name of the state, for the message.

    Returns:
        The same in fewer types: NumPy arrays as tensors, tuples and dicts with other keys as marked dicts.

    Raises:
        CheckpointError: If it contains anything else.
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
    kept = getattr(state, "state_dict", None)
    if callable(kept) and callable(getattr(state, "load_state_dict", None)):
        return {f"{_PREFIX}object": pack(kept(), f"{where}.state_dict()")}
    raise CheckpointError(
        f"a {type(state).__name__} cannot be kept",
        where=where,
        remedy="Keep dicts, lists and tuples of tensors, NumPy arrays, numbers and strings, or write save(state) and "
        "load(blob) that turn the state into those (for a NumPy generator: rng.bit_generator.state).",
    )


def holds_objects(blob: Any) -> bool:
    """Return True if :func:`unpack` needs a fresh state, whose networks and optimizers load what was kept."""
    if isinstance(blob, list):
        return any(map(holds_objects, blob))
    return isinstance(blob, dict) and (f"{_PREFIX}object" in blob or any(map(holds_objects, blob.values())))


def unpack(blob: Any, fresh: Any = None) -> Any:
    """Return the state that :func:`pack` was given (a bytearray comes back as bytes).

    Args:
        blob: The packed state.
        fresh: A state of the same form, where :func:`holds_objects`: its networks and optimizers are loaded.

    Raises:
        CheckpointError: If it has no network or optimizer where one was kept, or one of another form.
    """
    if isinstance(blob, list):
        return [unpack(value, _part(fresh, index)) for index, value in enumerate(blob)]
    if not isinstance(blob, dict):
        return blob
    kind = next(iter(blob)).removeprefix(_PREFIX) if len(blob) == 1 else ""
    if f"{_PREFIX}{kind}" not in blob or kind not in _KINDS:
        return {key: unpack(value, _part(fresh, key)) for key, value in blob.items()}
    inner = blob[f"{_PREFIX}{kind}"]
    if kind == "tuple":
        return tuple(unpack(value, _part(fresh, index)) for index, value in enumerate(inner))
    if kind == "items":
        keys = [unpack(key) for key, _ in inner]
        return {key: unpack(value, _part(fresh, key)) for key, (_, value) in zip(keys, inner, strict=True)}
    if kind == "object":
        return _loaded(fresh, unpack(inner))
    array = inner.numpy()
    return array.tobytes() if kind == "bytes" else array if kind == "array" else array[()]


def _part(fresh: Any, key: Any) -> Any:
    try:
        return fresh[key]
    except (KeyError, IndexError, TypeError):
        return None


def _loaded(fresh: Any, kept: Any) -> Any:
    if not callable(getattr(fresh, "load_state_dict", None)):
        raise CheckpointError(
            f"the state has a network or an optimizer that init does not make: it gives {type(fresh).__name__} there",
            where="the state of a Trainable",
            remedy="Make all networks and optimizers in init, or write save(state) and load(blob).",
        )
    fresh.load_state_dict(kept)
    return fresh
