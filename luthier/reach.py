"""Numbers and lists that a user's code keeps from call to call, followed to see if they can reach what it computes.

A count of calls, a mean of losses or a log for the eye changes no training; one that comes back into a tensor or a
branch does. Each kept number is replaced by a :class:`Kept`, with which only arithmetic and printing is possible, and
each kept list or dict by an empty one that can only be written into. A comparison is taken both ways, also where it
would come out differently after a thousand steps only. Whatever else is done with them, and a result that differs in a
bit, says that they reach it.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.places import CONTAINERS, Array, Look, Place, restored

PATHS, ASKED, ROUNDS = 64, 10_000, 4  # runs of one round, comparisons of a run, and rounds
LARGE = 1e4  # as float16 has it, in place of what a kept tensor holds
_REMAINDER = {6, 19}  # of BINARY_OP: % and %=

Names = dict[str, tuple[list[Place], Any] | None]


class ReachedError(Exception):
    """A kept value is about to reach a result."""


class Trace:
    """One run of the code: the kept values that reached something, and the comparisons that were asked.

    Args:
        given: Outcomes of comparisons, by their places in the code; others come out as they do.
    """

    def __init__(self, given: Mapping[Any, bool]) -> None:
        self.given, self.taken, self.reached = given, dict[Any, bool](), ""
        self.compared, self.used = set[str](), ""  # names, and the last one in arithmetic
        self.asked, self.over = 0, False

    def reach(self, name: str) -> None:
        """Note that a value reaches something, and stop the run."""
        if not self.over:
            self.reached = self.reached or name
            raise ReachedError(name)

    def branch(self, name: str, natural: bool) -> bool:
        """The outcome of a comparison."""
        if self.over:
            return natural
        frame = sys._getframe(2)
        site = frame.f_code, frame.f_lasti
        self.compared.add(name)
        self.asked += 1
        if self.asked > ASKED:
            self.reach(name)
        if site in self.given:
            return self.given[site]
        self.taken.setdefault(site, natural)
        return natural


def _value(one: Any) -> Any:
    """A kept number as it is; anything else is itself."""
    return object.__getattribute__(one, "_kept") if type(one) is Kept else one


class Kept:
    """A number that code has kept: arithmetic gives another, printing its value, a comparison an outcome to be tried.

    Args:
        value: The number, or a tensor that was computed from one.
        name: Its place, in words.
        trace: The run.
    """

    __array_ufunc__ = None  # so that arrays leave arithmetic to it
    __slots__ = ("_kept", "_name", "_trace")

    def __init__(self, value: Any, name: str, trace: Trace) -> None:
        self._kept, self._name, self._trace = value, name, trace

    @property
    def __class__(self) -> type:  # type: ignore[override]
        # not a tensor's: torch believes it, and reads memory that is not there
        return Kept if isinstance(self._kept, Tensor) else type(self._kept)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        found = getattr(self._kept, attribute)
        if not callable(found):
            return Kept(found, self._name, self._trace)
        return lambda *args: Kept(found(*map(_value, args)), self._name, self._trace)

    def __repr__(self) -> str:
        return repr(self._kept)

    def __str__(self) -> str:
        return str(self._kept)

    def __format__(self, spec: str) -> str:
        return format(self._kept, spec)

    def __bool__(self) -> bool:
        return self._trace.branch(self._name, bool(self._kept))

    def __hash__(self) -> int:
        if _calls("STORE_SUBSCR"):  # a log by steps: what it is stored in is followed itself
            return hash(self._kept)
        self._trace.reach(self._name)
        return hash(self._kept)

    def __round__(self, *digits: int) -> Any:
        return Kept(round(self._kept, *digits), self._name, self._trace)


def _calls(name: str, arguments: set[int] | None = None) -> bool:
    """Return True if the user's instruction that has led here is this one."""
    frame = sys._getframe(2)
    code, at = frame.f_code.co_code, frame.f_lasti
    return dis.opname[code[at]] == name and (arguments is None or code[at + 1] in arguments)


def _arithmetic(function: Callable[..., Any], *, turned: bool = False) -> Callable[..., Any]:
    def own(self: Kept, *other: Any) -> Any:
        self._trace.used = self._name
        values = [self._kept, *map(_value, other)]
        return Kept(function(*(reversed(values) if turned else values)), self._name, self._trace)

    return own


def _comparison(function: Callable[..., Any]) -> Callable[..., Any]:
    def own(self: Kept, other: Any) -> bool:
        return self._trace.branch(self._name, bool(function(self._kept, _value(other))))

    return own


def _conversion(name: str) -> Callable[..., Any]:
    def own(self: Kept) -> Any:
        if not _calls("BINARY_OP", _REMAINDER):  # "%d" % step
            self._trace.reach(self._name)
        return getattr(self._kept, name)() if hasattr(self._kept, name) else int(self._kept)

    return own


for _each in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift"):
    setattr(Kept, f"__{_each.rstrip('_')}__", _arithmetic(getattr(operator, _each)))
    setattr(Kept, f"__r{_each.rstrip('_')}__", _arithmetic(getattr(operator, _each), turned=True))
for _each in ("neg", "pos", "abs", "invert"):
    setattr(Kept, f"__{_each}__", _arithmetic(getattr(operator, _each)))
for _each in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Kept, f"__{_each}__", _comparison(getattr(operator, _each)))
for _each in ("int", "float", "index", "complex", "trunc", "floor", "ceil", "len", "iter"):
    setattr(Kept, f"__{_each}__", _conversion(f"__{_each}__"))

# Methods of lists, dicts, sets and deques that only write, and what printing and copying need
_WRITES = frozenset(
    "append appendleft extend extendleft insert add update clear discard __setitem__ __iadd__ __ior__ __init__ __new__ "
    "__class__ __repr__ __str__ __format__ __hash__ __init_subclass__ __subclasshook__ __getattribute__ __setattr__ "
    "__delattr__ __dir__ __doc__ __sizeof__ __class_getitem__ __module__ __dict__ __weakref__ __missing__ __getstate__ "
    "maxlen rotate default_factory".split()
)


# Methods of a dict that ask for one key
_BY_KEY = frozenset(("__contains__", "__getitem__", "get", "setdefault"))


def _written_only(value: Any, name: str, trace: Trace, *, by_key: bool = False) -> Any:
    """An empty list, dict, set or deque like this one, from which nothing can be read.

    ``by_key`` allows a dict to be asked for a key: a cache by shapes makes what it does not find. A number in it is a
    kept one, and how many it holds stays unknown.
    """

    def asked(method: Callable[..., Any]) -> Callable[..., Any]:
        def own(*args: Any, **named: Any) -> Any:
            found = method(*args, **named)
            return Kept(found, name, trace) if type(found) in (int, float, complex) else found

        return own

    def read(method: Callable[..., Any]) -> Callable[..., Any]:
        def own(*args: Any, **named: Any) -> Any:
            trace.reach(name)
            return method(*args, **named)

        return own

    kind = type(value)
    found = {each: method for each in dir(kind) if each not in _WRITES and callable(method := getattr(kind, each))}
    own = {each: asked(it) if by_key and each in _BY_KEY else read(it) for each, it in found.items()}
    kind = type(kind.__name__, (kind,), own)
    if isinstance(value, deque):
        return kind(maxlen=value.maxlen)
    return kind(value.default_factory) if hasattr(value, "default_factory") else kind()


def _filled(value: Any, amount: float) -> Any:
    """A tensor or array like this one that holds something else, if it holds numbers."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc" or not value.size:
            return value
        return np.full_like(value, _filled(torch.from_numpy(value.reshape(-1)[:1].copy()), amount).item())
    whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    most = float(torch.iinfo(value.dtype).max // 2) if whole else LARGE
    return torch.full_like(value.detach(), amount * most if value.dtype != torch.bool else amount > 0)


class Reach(NamedTuple):
    """The kept value that reaches a result, by name, "" for none; and those that are compared with something."""

    name: str
    compared: frozenset[str]


def reaching(
    run: Callable[[], Any],
    same: Callable[[Any, Any], bool],
    owners: Mapping[str, Any],
    changed: Iterable[str],
    shapes: Collection[str] = (),
) -> Reach:
    """Find out whether what code has changed can reach what ``run`` gives.

    Args:
        run: Runs the code; gives the same at every call.
        same: Compares two results.
        owners: Things that the code can reach, as :class:`luthier.places.Look` takes it.
        changed: Names of what the code has changed, as it has them.
        shapes: Names of what it has changed for other shapes alone.
    """
    names: Names = dict.fromkeys((*changed, *shapes))
    expected, compared = run(), frozenset[str]()
    for _ in range(ROUNDS):
        more: Names = {}
        for amount in (1.0, -1.0):  # in place of what a tensor holds, times a large number
            paths = _Paths(names, amount, frozenset(shapes))
            name = paths.walk(run, same, owners, expected)
            compared |= paths.compared
            if name:
                return Reach(name, compared)
            more |= {name: where for name, where in paths.written.items() if name not in names}
        if not more:
            return Reach("", compared)
        names |= more
    return Reach(next(reversed(names)), compared)


class _Paths:
    """All ways through the code that comparisons with kept values can take.

    Args:
        names: The kept values, with where they were and what they were if they are not there before a run.
        amount: A factor on what kept tensors hold.
        shapes: Names of those that other shapes alone have changed.

    Attributes:
        compared: The kept values that decide which way is taken.
        written: Numbers, containers and tensors that some way changes, by name.
    """

    def __init__(self, names: Names, amount: float, shapes: frozenset[str]) -> None:
        self.names, self.amount, self.shapes = names, amount, shapes
        self.compared, self.written = frozenset[str](), Names()
        self._usual: set[str] | None = None  # names of other objects that the natural way replaces

    def walk(self, run: Callable[[], Any], same: Callable[[Any, Any], bool], owners: Any, expected: Any) -> str:
        """The name of a value that reaches the result on some way, or ""."""
        todo: list[dict[Any, bool]] = [{}]
        for _ in range(PATHS):
            if not todo:
                return ""
            trace = Trace(todo.pop())
            with restored(owners) as before:
                for name in self.names:
                    if name in before.found and name not in before.places and not _inside(name, self.names):
                        return name  # it cannot be replaced
                self._put(before, trace)
                try:
                    equal = same(run(), expected)
                except Exception:
                    equal = False
                trace.over = True
                reached = trace.reached or ("" if equal else trace.used or next(iter(self.names)))
                reached = reached or self._changes(before, Look(owners))
            if reached:
                return reached
            taken = dict(trace.given)
            for site, natural in trace.taken.items():
                todo.append({**taken, site: not natural})
                taken[site] = natural
            self.compared |= trace.compared
        return next(iter(self.names)) if todo else ""

    def _put(self, look: Look, trace: Trace) -> None:
        """Put stand-ins in the places of the kept values."""
        for name, where in self.names.items():
            if name in look.places:
                value, by_key = look.values[name], name in self.shapes and isinstance(look.values[name], dict)
                other = _replaced(value, name, trace, self.amount, by_key=by_key)
                for place in look.places[name]:
                    place.put(other)
            elif where is not None:  # made by an earlier run
                for place in where[0]:
                    place.put(_replaced(where[1], name, trace, self.amount))

    def _changes(self, before: Look, now: Look) -> str:
        """Note what a run has changed; the name of something that only this way replaces, or ""."""
        others = set()
        for name, value in now.values.items():
            if name in self.names:
                continue
            if name not in now.found:
                if name in before.values and value is not before.values[name]:
                    others.add(name)
            elif type(value) is Kept or name not in before.found or not _unchanged(before.found[name], now.found[name]):
                self.written[name] = now.places.get(name, []), _value(value)
        if self._usual is None:
            self._usual = others
        return next(iter(others - self._usual), "")


def _unchanged(before: Any, now: Any) -> bool:
    """Return True for equal numbers, and for a tensor that was made again as it was: a cache, not a memory."""
    if not isinstance(before, Array) or not isinstance(now, Array) or before.value is now.value:
        return type(before) is type(now) and before == now
    one, other = (
        each.value if isinstance(each.value, Tensor) else torch.from_numpy(each.value) for each in (before, now)
    )
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _inside(name: str, names: Collection[str]) -> bool:
    """Return True if a value is in a list or dict that is replaced as a whole."""
    return any(name.startswith((f"{other[:-1]}[", f"{other[:-1]}.")) for other in names)


def _replaced(value: Any, name: str, trace: Trace, amount: float, *, by_key: bool = False) -> Any:
    """A stand-in for a kept value."""
    if isinstance(value, CONTAINERS):
        return _written_only(value, name, trace, by_key=by_key)
    if isinstance(value, Tensor | np.ndarray):
        return _filled(value, amount)
    if isinstance(value, tuple):
        return tuple(Kept(each, name, trace) for each in value)
    return Kept(value, name, trace)
