"""Things that code can reach beside its arguments: numbers, containers, tensors and generators, each with its place.

Libraries are not looked into.
"""

from __future__ import annotations

import functools
import gc
import itertools
import pickle
import random
import sys
import sysconfig
import warnings
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from numbers import Number
from threading import local
from types import BuiltinMethodType, CodeType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

DEEP, MANY = 6, 256  # references followed one after another, those to modules aside; items of a list or dict
WRITTEN = 1 << 22  # bytes of an array that are looked at
CONTAINERS = (list, dict, set, deque, bytearray)
SIMPLE = (bool, int, float, str, bytes, np.generic, Number)
_OF_MODULES = frozenset(vars(nn.Module()))
_SEEDED = (random._inst, np.random.mtrand._rand, torch.default_generator)  # type: ignore[attr-defined]
_STANDARD = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))


class Place(NamedTuple):
    """The place of a value, so that another can be put there.

    Attributes:
        holder: A list, a dict, a cell, a class or another object.
        key: An index, a key, or the name of an attribute.
    """

    holder: Any
    key: Any

    def get(self) -> Any:
        """The value that is there; None for nothing."""
        if isinstance(self.holder, list | deque):
            return self.holder[self.key] if self.key < len(self.holder) else None
        if isinstance(self.holder, dict):
            return self.holder.get(self.key)
        return (
            vars(self.holder).get(self.key) if isinstance(self.holder, type) else getattr(self.holder, self.key, None)
        )

    def put(self, value: Any) -> None:
        """Put a value there."""
        if isinstance(self.holder, dict | list | deque):
            self.holder[self.key] = value
        else:
            setattr(self.holder, self.key, value)

    def clear(self) -> None:
        """Take away what is there."""
        if isinstance(self.holder, dict):
            self.holder.pop(self.key, None)


class Array:
    """A tensor or array, which equals another if it is the same and nothing has been written into it."""

    def __init__(self, value: Any) -> None:
        self.value = value
        if isinstance(value, Tensor):
            self._state: Any = None if value.is_inference() else value._version, _written(value)
        else:
            self._state = _written(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self.value is other.value and self._state == other._state

    __hash__ = None  # type: ignore[assignment]


def _written(value: Any) -> int | None:
    """A sum of what is in a tensor or array, which .data and views change unsaid; None for a large one."""
    if value.nbytes <= WRITTEN and not (isinstance(value, Tensor) and value.device.type != "cpu"):
        with suppress(Exception):  # of vmap's, and in types that NumPy does not have
            return zlib.adler32((value.detach().numpy() if isinstance(value, Tensor) else value).tobytes())
    return None


class Look:
    """All that owners can reach now.

    Args:
        owners: Functions and objects by name.

    Attributes:
        found: By names in words: numbers, the length of a container, :class:`Array`, and the states of generators, as
            bytes.
        values: The same by the values themselves, and everything else that has a place.
        places: The places of each; a value without one is in a tuple or is a default.
    """

    def __init__(self, owners: Mapping[str, Any]) -> None:
        self.found: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.places: dict[str, list[Place]] = {}
        self._seen: dict[int, tuple[str, Any]] = {}  # holds them, so that no id is used again
        for name, owner in owners.items():
            self._at("the attribute", name, owner, None, 0)

    def _at(self, kind: str, path: str, value: Any, place: Place | None, deep: int) -> None:
        """Note a value, or what it refers to."""
        if place is not None:
            path = self._own_path(kind, path, place)
        name = f"{kind} {path!r}"
        if id(value) in self._seen and not isinstance(value, SIMPLE):
            first = self._seen[id(value)][0]
            if place is not None and self.values.get(first) is value:  # not its object's, whose name a class has
                self.places[first].append(place)
            return
        if place is not None:
            self.values[name], self.places[name] = value, [place]
        if isinstance(value, SIMPLE):
            self.found[name], self.values[name] = value, value
        elif value is not None:
            self._seen[id(value)] = name, value
            if isinstance(value, Tensor | np.ndarray):
                self.found[name] = Array(value)
                return
            state = _state(value)
            if state is not None:
                self.found[name] = state
                return
            if isinstance(value, CONTAINERS) and place is not None:
                self.found[name] = f"{len(value)} items"
            elif isinstance(value, tuple) and place is not None and value and all(isinstance(x, SIMPLE) for x in value):
                self.found[name] = tuple(value)  # a shape
                return
            if deep < DEEP:
                for more in _within(kind, path, value, place):
                    self._at(*more, deep + (not isinstance(more[2], nn.Module)))

    def _own_path(self, kind: str, path: str, place: Place) -> str:
        """A path that no other place has: two closures or modules may have one name."""
        while taken := self.places.get(f"{kind} {path!r}"):
            if taken[0].holder is place.holder and taken[0].key == place.key:
                break
            path += "'"
        return path


@contextmanager
def restored(owners: Mapping[str, Any]) -> Iterator[Look]:
    """Everything that owners can reach; after the block it is in its places again, and what is new there is gone."""
    before = Look(owners)
    try:
        yield before
    finally:
        for name, places in Look(owners).places.items():
            if name not in before.places:
                for place in places:
                    place.clear()
        for name, places in before.places.items():
            for place in places:
                if place.get() is not before.values[name]:
                    place.put(before.values[name])


More = tuple[str, str, Any, Place | None]


def _within(kind: str, path: str, value: Any, place: Place | None) -> Iterator[More]:
    if isinstance(value, list | deque):
        yield from ((kind, f"{path}[{i}]", x, Place(value, i)) for i, x in enumerate(itertools.islice(value, MANY)))
    elif isinstance(value, tuple):
        yield from ((kind, f"{path}[{i}]", x, None) for i, x in enumerate(value[:MANY]))
    elif isinstance(value, dict):
        items = list(itertools.islice(value.items(), MANY))
        yield from ((kind, f"{path}[{key!r}]", x, Place(value, key)) for key, x in items)
    elif isinstance(value, functools.partial):
        yield from ((kind, path, each, None) for each in (value.func, value.args, value.keywords))
    elif isinstance(value, MethodType):
        yield from ((kind, path, each, None) for each in (value.__func__, value.__self__))
    elif isinstance(value, staticmethod | classmethod):
        yield kind, path, value.__func__, None
    elif isinstance(value, property):
        yield kind, path, value.fget, None
    elif isinstance(value, BuiltinMethodType):
        if isinstance(value.__self__, CONTAINERS) or _state(value.__self__) is not None:  # draw = generator.normal
            yield kind, path, value.__self__, None
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, type):
        yield from _of_class(value)
    elif isinstance(value, nn.Module):
        hooks = [*value._forward_hooks.values(), *value._forward_pre_hooks.values()]
        hooks += [*value._backward_hooks.values(), *value._backward_pre_hooks.values()]
        yield from ((kind, f"{path}.{name}", each, None) for name, each in value._modules.items())
        yield from ((kind, path, hook, None) for hook in hooks)
        own = vars(value)
        for n, x in list(own.items()):
            if n not in _OF_MODULES and (n[0] != "_" or is_users(type(value).__module__)):
                yield kind, f"{path}.{n}", x, Place(own, n)
        yield kind, path, type(value), None
    elif isinstance(value, ContextVar):
        yield kind, f"{path}.get()", value.get(None), None
    elif isinstance(value, functools._lru_cache_wrapper):
        yield kind, path, value.__wrapped__, None
        kept = (each for each in gc.get_referents(value) if type(each) is dict and "__wrapped__" not in each)
        yield from (("the cache of", path, each, None) for each in kept)
    elif not isinstance(value, ModuleType) and (isinstance(value, local) or is_users(type(value).__module__)):
        yield from _of_object(kind, path, value)
    if isinstance(value, torch.optim.Optimizer):
        hooks = [*value._optimizer_step_pre_hooks.values(), *value._optimizer_step_post_hooks.values()]
        yield from ((kind, path, hook, None) for hook in hooks)


def _of_object(kind: str, path: str, value: Any) -> Iterator[More]:
    """The attributes of an object, in slots too, and its class."""
    own = getattr(value, "__dict__", {})
    yield from ((kind, f"{path}.{name}", each, Place(own, name)) for name, each in list(own.items()))
    for owner in type(value).__mro__:
        slots = vars(owner).get("__slots__", ()) if is_users(owner.__module__) else ()
        for name in (slots,) if isinstance(slots, str) else slots:
            if name[:2] != "__" and hasattr(value, name):
                yield kind, f"{path}.{name}", getattr(value, name), Place(value, name)
    yield kind, path, type(value), None


def _of_function(function: FunctionType) -> Iterator[More]:
    """Values to which a function of the user's refers by names."""
    if not is_users(function.__module__):
        return
    names, known = _names(function.__code__), function.__globals__
    for name in names:
        if name in known:
            value = known[name]
            yield "the global", name, value, Place(known, name)
            if isinstance(value, ModuleType) and is_users(value.__name__):
                own = vars(value)
                yield from (("the global", f"{name}.{x}", own[x], Place(own, x)) for x in names if x in own)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield "the variable of a closure", name, cell.cell_contents, Place(cell, "cell_contents")
        except ValueError:  # not set yet
            continue
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    yield from (("a default of", function.__name__, value, None) for value in defaults)
    own = vars(function)
    yield from (("the attribute", f"{function.__name__}.{n}", x, Place(own, n)) for n, x in list(own.items()))


def _of_class(kind: type) -> Iterator[More]:
    """The attributes of a class of the user's."""
    for owner in kind.__mro__:
        if is_users(owner.__module__):
            for name, value in list(vars(owner).items()):
                yield "the attribute", f"{owner.__name__}.{name}", value, Place(owner, name)


def _names(code: CodeType) -> dict[str, None]:
    found = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


@functools.cache
def is_users(module: str | None) -> bool:
    """Return True for a module that is neither luthier's nor a library's."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if module is None or file is None:  # a notebook, or made by exec
        return module not in sys.builtin_module_names
    installed = "site-packages" in file or "dist-packages" in file or file.startswith(_STANDARD)
    return not installed and module.partition(".")[0] != "luthier"


def _state(value: Any) -> bytes | None:
    """The state of a generator of random numbers, or of an iterator; None for those that are seeded for each call."""
    if any(value is one for one in _SEEDED):
        return None
    if isinstance(value, np.random.Generator):
        return pickle.dumps(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return pickle.dumps(value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):  # which has no state
        return pickle.dumps(value.getstate())
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, frozenset):
        return f"{len(value)} items".encode()  # which grows by being another
    return repr(_position(value)).encode() if _iterates(value) else None


def _iterates(value: Any) -> bool:
    """Return True for an iterator that Python has; one of the user's is an object like others."""
    return isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools")


def _position(value: Any) -> Any:
    """The place that an iterator has come to, where it can be seen."""
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        own = [x for x in frame.f_locals.values() if isinstance(x, SIMPLE)] if frame else []
        return frame and (frame.f_lasti, own, _position(value.gi_yieldfrom))
    if isinstance(value, SIMPLE):
        return value
    if _iterates(value):
        with suppress(TypeError), warnings.catch_warnings():  # from Python 3.14 on those of itertools do not say
            warnings.simplefilter("ignore", DeprecationWarning)
            _, given, *state = value.__reduce__()  # type: ignore[misc]
            return [_position(each) for each in (*given, *state)]
    if isinstance(value, tuple):
        return [_position(each) for each in value]
    return len(value) if isinstance(value, Sized) else None
