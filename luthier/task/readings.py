"""A record of what functions read from a configuration, and so of what they depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from luthier.space.groups import GroupView
from luthier.space.values import key

Path = tuple[tuple[str, Any], ...]
"""(name, value) in the order in which they are read."""


class Recorder(Mapping[str, Any]):
    """A configuration that remembers, in order, which of its names were read.

    It is no dict: ``{**config}`` would copy a dict's values without asking for them.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        # dict(…) of a recorder would read every name of it
        self._config: dict[str, Any] = dict(config._config if isinstance(config, Recorder) else config)
        self.groups: frozenset[str] = getattr(config, "groups", frozenset())
        self.seen: dict[str, None] = {}

    def note(self, name: str) -> None:
        """Remember that ``name`` was read."""
        self.seen.setdefault(name)

    def __getitem__(self, name: str) -> Any:
        if name in self.groups:
            return GroupView(self, name)  # what is read in it is noted by its whole name
        self.note(name)
        return self._config[name]

    def unnoted(self, name: str) -> Any:
        """A value that is not remembered as read."""
        return self._config[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def copy(self) -> dict[str, Any]:
        """All values, as a dict."""
        return {**self}


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
