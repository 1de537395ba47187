"""A fingerprint of a task's code: the same while the functions and classes that it is made of stay the same.

What can be had is followed: the task's own functions and classes, the functions and classes of the user's that they
name, what closures and defaults hold, and the plain values among them. Installed packages and luthier itself are named
and not followed. Functions are told by what they do, their bytecode with its constants and names, so that a comment, an
empty line or another place in the file changes nothing.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
LARGE = 10_000  # parts after which a value is no longer looked into


def fingerprint(task: Any) -> str:
    """The fingerprint of a task, 16 hexadecimal digits; "" where nothing of it can be had.

    Args:
        task: A FunctionTask, a TrainableTask or a TorchTask.

    Examples:
        >>> from luthier.space import Float, Space
        >>> from luthier.task import as_task
        >>> one, two = (as_task(f, Space(x=Float(0, 1))) for f in (lambda c: c["x"], lambda c: -c["x"]))
        >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(two)
        (True, False)
    """
    walk = _Walk()
    parts = [*walk.of(_roots(task))]
    if not parts:
        return ""
    text = "\n".join([f"python {sys.version_info[:2]}", *parts])
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()


def _roots(task: Any) -> dict[str, Any]:
    """The user's parts of a task: code and settings, not the space, which is compared as it is, nor the data."""
    if hasattr(task, "function"):
        return {"function": task.function}
    if hasattr(task, "trainable"):
        return {"trainable": task.trainable}
    named = [field.name for field in dataclasses.fields(task) if field.init and field.name not in ("space", "data")]
    return {name: getattr(task, name) for name in named if name not in ("device", "compile")}


class _Walk:
    """Goes through what code is made of, each object once, and says it in lines that are equal for equal code."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice

    def of(self, value: Any) -> Iterator[str]:
        """The lines of a value."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            yield f"{type(value).__name__} {value!r}"
            return
        if id(value) in self._seen:
            yield f"again {self._seen[id(value)]}"
            return
        if len(self._seen) > LARGE:
            return
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        yield from self._parts(value)

    def _parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from self.of(value.__func__)
            yield from self.of(value.__self__)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                yield from self.of(part)
        elif isinstance(value, staticmethod | classmethod | property | functools.cached_property):
            for name in ("__func__", "fget", "fset", "func"):
                if getattr(value, name, None) is not None:
                    yield from self.of(getattr(value, name))
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType):
            yield f"name {getattr(value, '__module__', '')} {value.__name__}"
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, Mapping):
            for key, part in value.items():
                yield f"key {key!r}" if isinstance(key, str | int) else f"key {type(key).__name__}"
                yield from self.of(part)
        elif isinstance(value, list | tuple):
            yield f"{type(value).__name__} {len(value)}"
            for part in value:
                yield from self.of(part)
        elif isinstance(value, set | frozenset):
            yield f"set {sorted(map(repr, value))}"
        else:
            yield from self._object(value)

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        yield f"function {function.__name__}"
        if not _own(function):
            yield f"of {function.__module__} {function.__qualname__}"
            return
        yield from self._code(function.__code__)
        yield from self.of(function.__defaults__)
        yield from self.of(function.__kwdefaults__)
        moved = _stored(function.__code__, "STORE_GLOBAL", "STORE_DEREF")  # counters and the like, no code
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield f"closure {name}"
            try:
                yield from self._global(cell.cell_contents) if name not in moved else ()
            except ValueError:  # not filled yet
                continue
        for name in sorted(_names(function.__code__) - moved):
            if name in function.__globals__:
                yield f"global {name}"
                yield from self._global(function.__globals__[name])

    def _global(self, value: Any) -> Iterator[str]:
        """Parts of a value that code names: functions, classes, plain values; other objects, perhaps data, by kind."""
        value = inspect.unwrap(value) if callable(value) else value  # functools.cache and other decorators
        plain = value is None or isinstance(value, bool | int | float | complex | str | bytes | tuple)
        if plain or isinstance(value, type | types.FunctionType | types.ModuleType | functools.partial):
            yield from self.of(value)
        else:
            yield f"object {type(value).__module__} {type(value).__qualname__}"

    def _code(self, code: types.CodeType) -> Iterator[str]:
        yield f"code {code.co_name} {code.co_code.hex()}"
        yield f"names {code.co_names} {code.co_varnames} {code.co_freevars}"
        for constant in code.co_consts[_has_doc(code) :]:
            if isinstance(constant, types.CodeType):
                yield from self._code(constant)
            elif isinstance(constant, frozenset):
                yield f"set {sorted(map(repr, constant))}"
            else:
                yield f"constant {constant!r}"

    def _class(self, kind: type) -> Iterator[str]:
        yield f"class {kind.__qualname__}"
        if not _own(kind):
            yield f"of {kind.__module__}"
            return
        for base in kind.__bases__:
            yield from self.of(base)
        for name, part in sorted(vars(kind).items()):
            if name in ("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__firstlineno__"):
                continue
            if name.startswith("_abc_") or name in ("__static_attributes__", "__annotate__", "__annotate_func__"):
                continue
            yield f"attribute {name}"
            yield from self._attribute(part)

    def _attribute(self, part: Any) -> Iterator[str]:
        wrapped = isinstance(part, staticmethod | classmethod | property | functools.cached_property)
        if wrapped or isinstance(part, list | dict):
            yield from self.of(part)
        else:
            yield from self._global(part)

    def _object(self, value: Any) -> Iterator[str]:
        """Settings of an object: of dataclasses and the user's own classes the values; of others the class alone."""
        kind = type(value)
        yield from self.of(kind)
        if dataclasses.is_dataclass(value) or (_own(kind) and not hasattr(value, "__array__")):
            moved = _moved(kind)
            for name, part in sorted(getattr(value, "__dict__", {}).items()):
                if not name.startswith("_") and not hasattr(part, "__array__") and name not in moved:
                    yield f"field {name}"
                    yield from self._attribute(part)


def _has_doc(code: types.CodeType) -> bool:
    """Return True if the first constant of a function's code is its docstring, which only a reader uses."""
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)
    return bool(code.co_flags & inspect.CO_NEWLOCALS and code.co_consts and isinstance(code.co_consts[0], str))


def _stored(code: types.CodeType, *operations: str) -> set[str]:
    """The names that code, or a function inside it, writes by one of these operations."""
    found = {one.argval for one in dis.get_instructions(code) if one.opname in operations}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _stored(constant, *operations)
    return found


def _moved(kind: type) -> set[str]:
    """The attributes that methods of a class write after an object was made: its state and not its settings."""
    found: set[str] = set()
    for one in kind.__mro__:
        for name, part in vars(one).items():
            if isinstance(part, types.FunctionType) and name not in ("__init__", "__post_init__"):
                found |= _stored(part.__code__, "STORE_ATTR")
    return found


def _names(code: types.CodeType) -> set[str]:
    """All names that code looks up, those of the functions inside it too."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _own(thing: Any) -> bool:
    """Return True if code is the user's, not an installed library's or ours."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    code = getattr(thing, "__code__", None)
    file = code.co_filename if code is not None else getattr(module, "__file__", None)
    if file is None:
        return getattr(thing, "__module__", "") in ("__main__", "__mp_main__")
    return not str(file).startswith((_OURS, *_LIBRARIES, "<frozen"))
