"""Names with dots: hyperparameters in groups, flat in a space and by group for the user's code."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, final

from luthier.errors import SpaceError


def flatten(domains: Mapping[str, Any], prefix: str = "", taken: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Pairs (dotted name, domain) of nested mappings.

    A condition inside a group is on the name of the same group where there is one, else on the whole name.

    Args:
        domains: Names to domains, or to mappings of these.
        prefix: The group, with its dot.
        taken: Names before.
    """
    names = list(taken)
    for name, value in domains.items():
        whole = f"{prefix}{name}"
        if isinstance(value, Mapping):
            if not value:
                raise SpaceError("the group is empty", where=whole, remedy="Put domains into it, or leave it out.")
            for pair in flatten(value, f"{whole}.", names):
                names.append(pair[0])
                yield pair
            continue
        if prefix and getattr(value, "when", None):
            near = {other: f"{prefix}{other}" for other in value.when if f"{prefix}{other}" in names}
            value = replace(value, when={near.get(other, other): accepted for other, accepted in value.when.items()})
        names.append(whole)
        yield whole, value


def groups_of(names: Collection[str]) -> frozenset[str]:
    """The groups that dotted names make: ``a`` and ``a.b`` of ``a.b.c``.

    Raises:
        SpaceError: If a name is a group too.
    """
    found = {name[:i] for name in names for i, letter in enumerate(name) if letter == "."}
    if both := found & set(names):
        name = min(both)
        raise SpaceError("it is a hyperparameter and a group of others", where=name, remedy="Rename one of them.")
    return frozenset(found)


@final
class Grouped(dict[str, Any]):
    """A configuration as the user's code gets it: a dict by whole names, whose groups can be read too.

    Examples:
        >>> config = Grouped({"layers": 2, "optimizer.kind": "sgd", "optimizer.lr": 0.1}, frozenset({"optimizer"}))
        >>> config["optimizer.lr"], config["optimizer"]["lr"], dict(**config["optimizer"])
        (0.1, 0.1, {'kind': 'sgd', 'lr': 0.1})
    """

    def __init__(self, config: Mapping[str, Any] = {}, groups: frozenset[str] = frozenset()) -> None:
        super().__init__(config)
        self.groups = groups

    def __missing__(self, name: str) -> Grouped:
        if name not in self.groups:
            raise KeyError(name)
        inside = f"{name}."
        below = {other[len(inside) :]: value for other, value in self.items() if other.startswith(inside)}
        return Grouped(below, frozenset(g[len(inside) :] for g in self.groups if g.startswith(inside)))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.groups

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name or the dict of a group; ``default`` where there is neither."""
        try:
            return self[name]
        except KeyError:
            return default

    def copy(self) -> Grouped:
        """A shallow copy."""
        return Grouped(self, self.groups)

    def __reduce__(self):
        return Grouped, (dict(self), self.groups)


@final
class GroupView(Mapping[str, Any]):
    """A view of the names of one group in a mapping by whole names: what is read in it is read there.

    Args:
        config: By whole names.
        name: The group.
    """

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._config, self._inside = config, f"{name}."

    def __getitem__(self, name: str) -> Any:
        return self._config[f"{self._inside}{name}"]

    def __iter__(self) -> Iterator[str]:
        return (name[len(self._inside) :] for name in self._config if name.startswith(self._inside))

    def __len__(self) -> int:
        return sum(1 for _ in self)
