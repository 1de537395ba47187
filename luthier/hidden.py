"""State that a user's code keeps where no training owns it: in globals, closures, classes, generators of its own.

Members of a stack would share it and a resumed training would not have it. It is found by running the code again from
the same arguments: another result, or a generator that has moved on.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from luthier.errors import TaskError

DEEP, MANY = 6, 32  # references that are followed one after another, and items of a list or dict
SHARED = "members of a stack would share it, and a resumed training would not have it"
_OF_MODULES = frozenset(vars(nn.Module()))
_SEEDED = (random._inst, np.random.mtrand._rand, torch.default_generator)  # type: ignore[attr-defined]
_STANDARD = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))


@dataclass(frozen=True)
class Code:
    """Something of the user's that has to give the same when it is run again.

    Args:
        where: Its place, for the error.
        what: Its name and what it is run on, as the beginning of a sentence.
        remedy: The way out, as a sentence.
        owners: The functions and objects that are run, by the names of their attributes in the error.
    """

    where: str
    what: str
    remedy: str
    owners: Mapping[str, Any] = field(default_factory=dict)

    def checked(self, run: Callable[[], Any], other: Callable[[], Any] | None = None, *, often: bool = False) -> Any:
        """The result of ``run``, a nest, which is run again to be compared.

        Args:
            run: Runs the code.
            other: Runs it on something else in between: a mean over all calls shows then.
            often: A training runs it at every step: what it counts then is refused too, for it may act on it later.

        Raises:
            TaskError: If it is another one, or a generator has moved on.
        """
        first = run()
        before, drawn = outside(self.owners), drawn_from()
        if other is not None:
            with suppress(Exception):  # of what it was not made for
                other()
        again, now = run(), drawn_from()
        if often and drawn != now:
            raise self.error([next(name for name in now if now[name] != drawn[name])])
        self.compare(first, again, before, often=often)
        return first

    def compare(self, first: Any, again: Any, before: Mapping[str, Any], *, often: bool = False) -> None:
        """Compare two results, between which :func:`outside` was ``before``."""
        now = outside(self.owners)
        changed = moved(before, now)
        drawn = [name for name in changed if often or isinstance(now[name], bytes)]
        if drawn or not alike(first, again):
            raise self.error(drawn or changed)

    def error(self, changed: list[str]) -> TaskError:
        """The refusal, which names the first thing that has changed."""
        how = f"changes {changed[0]}" if changed else "gives something else when it is run again"
        return TaskError(f"{self.what} {how}: {SHARED}", where=self.where, remedy=self.remedy)


def alike(one: Any, other: Any) -> bool:
    """Return True if two nests hold the same: to the bit on a CPU, where sums have one order."""
    (mine, here), (theirs, there) = pytree.tree_flatten(one), pytree.tree_flatten(other)
    return here == there and all(map(_same, mine, theirs))


def _same(a: Any, b: Any) -> bool:
    try:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            return type(a) is type(b) and bool(a is b or np.all(a == b) or (a != a and b != b))
        return _same_numbers(a.detach(), b.detach())
    except Exception:  # a type that cannot be compared is no evidence
        return True


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (t if t.layout == torch.strided else t.to_dense() for t in (a, b))
    if a.device.type == "cpu" or not a.is_floating_point():
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max() if b.numel() else 0), equal_nan=True)


def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names whose values differ."""
    return [name for name, value in after.items() if name in before and not _same(before[name], value)]


def outside(owners: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that a user's code can reach, and the states of generators, as bytes; by names in words.

    Libraries are not looked into.
    """
    look = _Look()
    for name, owner in owners.items():
        look.at("the attribute", name, owner, 0)
    return look.found


def drawn_from() -> dict[str, bytes]:
    """The states of the generators that the whole process has."""
    names = ("the generator of random", "the generator of NumPy", "the generator of torch")
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state().numpy().tobytes())
    return dict(zip(names, map(pickle.dumps, states), strict=True))


class _Look:
    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._seen: dict[int, Any] = {}  # holds what it has seen, so that no number of an object is used again

    def at(self, kind: str, path: str, value: Any, deep: int) -> None:
        """Note a value, or what it refers to."""
        if type(value) in (bool, int, float):
            self.found[f"{kind} {path!r}"] = value
        elif value is not None and not isinstance(value, str | Tensor | np.ndarray) and id(value) not in self._seen:
            self._seen[id(value)] = value
            state = _state(value)
            if state is not None:
                self.found[f"{kind} {path!r}"] = state
            elif deep < DEEP:
                for more in self._within(kind, path, value):
                    self.at(*more, deep + 1)

    def _within(self, kind: str, path: str, value: Any) -> Iterator[tuple[str, str, Any]]:
        if isinstance(value, list | tuple | deque):
            yield from ((kind, f"{path}[{i}]", each) for i, each in enumerate(value) if len(value) <= MANY)
        elif isinstance(value, dict):
            yield from ((kind, f"{path}[{key!r}]", each) for key, each in value.items() if len(value) <= MANY)
        elif isinstance(value, functools.partial):
            yield from ((kind, path, each) for each in (value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            yield from ((kind, path, each) for each in (value.__func__, value.__self__))
        elif isinstance(value, staticmethod | classmethod):
            yield kind, path, value.__func__
        elif isinstance(value, property):
            yield kind, path, value.fget
        elif isinstance(value, BuiltinMethodType):
            if _state(value.__self__) is not None:  # draw = generator.normal
                yield kind, path, value.__self__
        elif isinstance(value, FunctionType):
            yield from _of_function(value)
        elif isinstance(value, type):
            yield from _of_class(value)
        elif isinstance(value, nn.Module):
            yield from ((kind, f"{path}.{name}", each) for name, each in value._modules.items())
            yield from ((kind, path, hook) for hook in value._forward_hooks.values())
            yield from ((kind, path, hook) for hook in value._forward_pre_hooks.values())
            yield from ((kind, f"{path}.{name}", x) for name, x in vars(value).items() if name not in _OF_MODULES)
            yield kind, path, type(value)
        elif not isinstance(value, ModuleType) and _is_users(type(value).__module__):
            yield from ((kind, f"{path}.{name}", each) for name, each in getattr(value, "__dict__", {}).items())
            yield kind, path, type(value)


def _of_function(function: FunctionType) -> Iterator[tuple[str, str, Any]]:
    """Values to which a function of the user's refers by names."""
    if not _is_users(function.__module__):
        return
    names, known = _names(function.__code__), function.__globals__
    for name in names:
        if name in known:
            value = known[name]
            yield "the global", name, value
            if isinstance(value, ModuleType) and _is_users(value.__name__):
                own = vars(value)
                yield from (("the global", f"{name}.{other}", own[other]) for other in names if other in own)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield "the variable of a closure", name, cell.cell_contents
        except ValueError:  # not set yet
            continue
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    yield from (("a default of", function.__name__, value) for value in defaults)


def _of_class(kind: type) -> Iterator[tuple[str, str, Any]]:
    """The attributes of a class of the user's."""
    for owner in kind.__mro__:
        if _is_users(owner.__module__):
            yield from (("the attribute", f"{owner.__name__}.{name}", value) for name, value in vars(owner).items())


def _names(code: CodeType) -> dict[str, None]:
    found = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


@functools.cache
def _is_users(module: str | None) -> bool:
    """Return True for a module that is neither luthier's nor a library's."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if module is None or file is None:  # a notebook, or made by exec
        return module not in sys.builtin_module_names
    installed = "site-packages" in file or "dist-packages" in file or file.startswith(_STANDARD)
    return not installed and module.partition(".")[0] != "luthier"


def _state(value: Any) -> bytes | None:
    """The state of a generator of random numbers, or of a count; None for those that are seeded for each call."""
    if any(value is one for one in _SEEDED):
        return None
    if isinstance(value, np.random.Generator):
        return pickle.dumps(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return pickle.dumps(value.get_state())
    if isinstance(value, random.Random):
        return pickle.dumps(value.getstate())
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    return repr(value).encode() if isinstance(value, itertools.count) else None
