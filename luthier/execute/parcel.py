"""Work packed for another process or machine, which has neither the driver's files nor its path."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import linecache
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from luthier.execute.surroundings import Surroundings, settle, surroundings
from luthier.execute.worker import Pickler, Unpickler, pickled
from luthier.task.file import FILES

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

LARGE = 1 << 16  # bytes of a tensor that is worth a place of its own in the cluster's memory
MOST_SOURCE = 64 << 20  # bytes of a user's modules that are sent; beyond, something else lies on the path


@dataclass(frozen=True)
class ModuleSource:
    """A user's module: where the driver has it, and its text."""

    path: str
    text: str
    package: bool


@dataclass(frozen=True)
class Parcel:
    """Work as bytes.

    Args:
        payload: The pickled work, without its large tensors.
        surroundings: Settings of the driver's process.
        arrays: Those tensors. A cluster keeps one copy a machine, which all its seats read.
        sources: The user's own modules by name: everything imported that no installed package brings.
    """

    payload: bytes
    surroundings: Surroundings
    arrays: list[np.ndarray] = field(default_factory=list)
    sources: Mapping[str, ModuleSource] = field(default_factory=dict)


def pack(work: Any, data: Any = None) -> Parcel:
    """Pack a study's work, or whatever else is to be done elsewhere.

    What the script and files loaded by path define goes by value, so that no other machine runs them again and reads
    the data that they read; of other modules the text goes.

    Args:
        work: Anything that can be pickled.
        data: The part of it whose large tensors a machine needs once.

    Raises:
        TaskError: If a part of the task cannot be sent; it names the part.
    """
    arrays: list[np.ndarray] = []
    shared = {id(tensor) for tensor in _tensors(data)}

    class Packer(Pickler):
        def persistent_id(self, obj: Any) -> None:
            self.noted(obj)

        def reducer_override(self, obj: Any) -> Any:
            if id(obj) not in shared:
                return super().reducer_override(obj)
            arrays.append(obj.detach().contiguous().numpy())
            return _shared, (len(arrays) - 1,)

    by_value = [sys.modules[name] for name in FILES if name in sys.modules]
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        payload, _ = pickled(work, Packer)
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return Parcel(payload, surroundings(), arrays, dict(_sources()))


def unpack(parcel: Parcel) -> Any:
    """Return what was packed; its data stays in the memory of the parcel's arrays."""
    sys.meta_path.insert(0, _Finder(parcel.sources))
    _ARRAYS[:] = parcel.arrays
    settle(parcel.surroundings)
    try:
        return Unpickler(io.BytesIO(parcel.payload)).work()
    finally:
        _ARRAYS.clear()


_ARRAYS: list[np.ndarray] = []  # of the parcel that is being unpacked in this process


def _shared(index: int) -> Tensor:
    import torch

    with warnings.catch_warnings():  # a batch is copied out of the data: nobody writes there
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(_ARRAYS[index])


def _tensors(part: Any, depth: int = 4) -> Iterator[Tensor]:
    """Large tensors on the CPU inside data, however it nests them."""
    torch = sys.modules.get("torch")  # not imported: there is none
    if torch is None:
        return
    if isinstance(part, torch.Tensor):
        plain = type(part) is torch.Tensor and part.device.type == "cpu" and part.layout == torch.strided
        if plain and part.dtype != torch.bfloat16 and part.nbytes >= LARGE:
            yield part
    elif depth and isinstance(part, Mapping):
        for inner in part.values():
            yield from _tensors(inner, depth - 1)
    elif depth and isinstance(part, list | tuple):
        for inner in part:
            yield from _tensors(inner, depth - 1)
    elif depth and hasattr(part, "__dict__") and not isinstance(part, type | types.FunctionType):
        yield from _tensors(vars(part), depth - 1)


def _sources() -> Iterator[tuple[str, ModuleSource]]:
    """The modules that this process has imported and that are the user's own: no package that is installed."""
    paths = sysconfig.get_paths()
    installed = tuple(str(Path(paths[kind]).resolve()) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    total = 0
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        top = name.partition(".")[0]
        if not file or not file.endswith(".py") or name in FILES or top in ("luthier", "__main__", "__mp_main__"):
            continue
        path = str(Path(file).resolve())
        if path.startswith(installed) or "site-packages" in path or "dist-packages" in path:
            continue
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError):
            continue
        total += len(text)
        if total > MOST_SOURCE:
            return
        yield name, ModuleSource(path, text, hasattr(module, "__path__"))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the driver's modules from their text, before whatever this machine has under their names."""

    def __init__(self, sources: Mapping[str, ModuleSource]) -> None:
        self.sources = sources

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        source = self.sources.get(fullname)
        if source is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=source.path, is_package=source.package)

    def exec_module(self, module: types.ModuleType) -> None:
        source = self.sources[module.__name__]
        module.__file__ = source.path
        lines = source.text.splitlines(keepends=True)
        linecache.cache[source.path] = (len(source.text), None, lines, source.path)  # so that tracebacks show them
        exec(compile(source.text, source.path, "exec", dont_inherit=True), module.__dict__)
