"""A record of what functions read from a configuration, and so of what they depend on."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from typing import Any

from luthier.space.groups import Grouped, GroupView
from luthier.space.values import key

Path = tuple[tuple[str, Any], ...]
"""(name, value) in the order in which they are read."""


class Recorder(dict[str, Any]):
    """A configuration that remembers, in order, which of its names were read.

    Users' functions get a copy each (:meth:`own`), which is a dict to them: whatever reads one as a whole, such as
    ``{**config}``, ``json.dumps`` and ``print``, reads every name, and what is changed in it is changed there alone.

    Args:
        config: The values.
        quiet: Names whose readings are not noted.
        seen: The record of readings; by default one of its own.
    """

    def __init__(
        self, config: Mapping[str, Any], quiet: frozenset[str] = frozenset(), seen: dict[str, None] | None = None
    ) -> None:
        super().__init__(dict.items(config) if isinstance(config, Recorder) else config)  # which is no reading
        self.groups: frozenset[str] = getattr(config, "groups", frozenset())
        self.quiet = quiet
        self.seen: dict[str, None] = {} if seen is None else seen

    def own(self, quiet: frozenset[str] = frozenset()) -> Recorder:
        """A copy for one function, whose readings are noted here."""
        return Recorder(self, quiet, self.seen)

    def note(self, name: str) -> None:
        """Remember that ``name`` was read."""
        if name not in self.quiet:
            self.seen.setdefault(name)

    def __getitem__(self, name: str) -> Any:
        if name in self.groups:
            return GroupView(self, name)  # what is read in it is noted by its whole name
        self.note(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:  # type: ignore[override]
        """The value of a name, or ``default``."""
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return self.get(name, self) is not self  # type: ignore[arg-type]

    # With an __iter__ of its own, {**config} and dict(config) ask for each value.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return ItemsView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return ValuesView(self)

    def copy(self) -> dict[str, Any]:
        """All values, as a dict whose groups can be read too."""
        return Grouped({**self}, self.groups) if self.groups else {**self}

    def pop(self, name: str, *default: Any) -> Any:  # type: ignore[override]
        """Take a name out of this copy."""
        self.note(name)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Take the last name out of this copy."""
        name = next(reversed(self))
        return name, self.pop(name)

    def setdefault(self, name: str, default: Any = None) -> Any:  # type: ignore[override]
        """The value of a name; one that is not there gets the default."""
        self.note(name)
        return super().setdefault(name, default)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**other, **self}

    def __eq__(self, other: object) -> bool:
        return self.copy() == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.copy())

    def __reduce__(self):  # copies too are made by it
        return (Grouped, ({**self}, self.groups)) if self.groups else (dict, ({**self},))


class Readings:
    """Results of a function of a configuration, by what it has read.

    What a function reads next depends only on what it has read before, so a walk along earlier readings answers
    without calling it again.
    """

    def __init__(self) -> None:
        self._next: dict[Path, str | None] = {}
        self._found: dict[Path, Any] = {}

    def of(self, function: Callable[[Any], Any], config: Mapping[str, Any]) -> tuple[Path, Any]:
        """Return the path of names and values read, and the result; ``function`` gets a :class:`Recorder`."""
        path: Path = ()
        while path in self._next:
            name = self._next[path]
            if name is None:
                return path, self._found[path]
            path = (*path, (name, _hashable(config.get(name))))
        recorder = Recorder(config)
        result = function(recorder)
        path = ()
        for name in recorder.seen:
            self._next[path] = name
            path = (*path, (name, _hashable(config.get(name))))
        self._next[path], self._found[path] = None, result
        return path, result


def _hashable(value: Any) -> Any:
    """A key under which 1, 1.0 and True differ."""
    return (type(value).__name__, key(value))
