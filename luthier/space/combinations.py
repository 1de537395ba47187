"""All configurations that some values a name make: counted and numbered without listing them, conditions respected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Conditions = Mapping[str, Mapping[str, tuple[Any, ...]]]


class Combinations:
    """The distinct configurations whose values come from given axes, numbered from 0.

    They are in lexicographic order: the last name changes fastest. A conditional name takes part only where it is
    active. Counting walks the names once and remembers, of the values so far, only which later names they rule out;
    so a grid of any size costs what its conditions cost, not what its size does.

    Args:
        axes: The values of each name, distinct, in order.
        conditions: ``{name: {earlier name: values}}`` as :attr:`luthier.Space.conditions` has them.

    Examples:
        >>> grid = Combinations({"a": [1, 2, 3], "b": "xy"}, {"b": {"a": (2,)}})
        >>> grid.count, [grid[i] for i in range(grid.count)]
        (4, [{'a': 1}, {'a': 2, 'b': 'x'}, {'a': 2, 'b': 'y'}, {'a': 3}])
    """

    def __init__(self, axes: Mapping[str, Sequence[Any]], conditions: Conditions) -> None:
        self._names = list(axes)
        self._axes = [axes[name] for name in self._names]
        place = {name: i for i, name in enumerate(self._names)}
        # children[i]: (later name, the values of name i under which it may be active)
        self._children: list[list[tuple[int, tuple[Any, ...]]]] = [[] for _ in self._names]
        for name, parents in conditions.items():
            for other, values in parents.items():
                self._children[place[other]].append((place[name], values))
        self._counts: dict[tuple[int, frozenset[int]], int] = {}
        self.count = self._count(frozenset())

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < self.count:
            raise IndexError(number)
        config: dict[str, Any] = {}
        ruled_out: frozenset[int] = frozenset()
        for i, (name, axis) in enumerate(zip(self._names, self._axes, strict=True)):
            if i in ruled_out:
                ruled_out = self._after(i, ruled_out, active=False)
                continue
            if not self._children[i]:
                place, number = divmod(number, self._counts[i + 1, ruled_out])
                config[name] = axis[place]
                continue
            config[name], ruled_out, number = self._choose(i, ruled_out, number)
        return config

    def _choose(self, i: int, ruled_out: frozenset[int], number: int) -> tuple[Any, frozenset[int], int]:
        """The value of name ``i`` in configuration ``number`` of those left, the state after it, and what is left."""
        for value in self._axes[i]:
            after = self._after(i, ruled_out, active=True, value=value)
            if number < self._counts[i + 1, after]:
                return value, after, number
            number -= self._counts[i + 1, after]
        raise AssertionError("the counts of the values add up to the count of the state")

    def _after(self, i: int, ruled_out: frozenset[int], active: bool, value: Any = None) -> frozenset[int]:
        """The later names ruled out once name ``i`` is inactive, or has ``value``."""
        more = [child for child, values in self._children[i] if not active or value not in values]
        return (ruled_out - {i}).union(more)

    def _count(self, start: frozenset[int]) -> int:
        layers: list[dict[frozenset[int], dict[frozenset[int], int]]] = []  # at each name: state -> next state -> ways
        states = {start}
        for i in range(len(self._names)):
            layer = {state: self._ways(i, state) for state in states}
            layers.append(layer)
            states = {after for ways in layer.values() for after in ways}
        self._counts.update({(len(layers), state): 1 for state in states})
        for i in reversed(range(len(layers))):
            for state, ways in layers[i].items():
                self._counts[i, state] = sum(n * self._counts[i + 1, after] for after, n in ways.items())
        return self._counts[0, start]

    def _ways(self, i: int, ruled_out: frozenset[int]) -> dict[frozenset[int], int]:
        """Each state after name ``i``, and how many of its values lead there."""
        if i in ruled_out:
            return {self._after(i, ruled_out, active=False): 1}
        axis = self._axes[i]
        named = [v for v in dict.fromkeys(v for _, values in self._children[i] for v in values) if v in axis]
        ways: dict[frozenset[int], int] = {}
        for value in named:
            after = self._after(i, ruled_out, active=True, value=value)
            ways[after] = ways.get(after, 0) + 1
        if len(axis) > len(named):
            rest = (ruled_out - {i}).union(child for child, _ in self._children[i])
            ways[rest] = ways.get(rest, 0) + len(axis) - len(named)
        return ways
