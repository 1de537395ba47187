"""A method as it is given, by name, by object or as a pair of objects, in its two parts: a proposer and an adapter."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from luthier.errors import MethodError
from luthier.optional import optional
from luthier.propose.inner import PLACES
from luthier.study.methods import ELSEWHERE, METHODS, MethodName, parts_of, settable, starter
from luthier.task import Task, level

if TYPE_CHECKING:
    from luthier.jobs import Budget, History, Job
    from luthier.seeds import Seeds


class Between(Protocol):
    """A proposer as ``tune`` takes it; see :class:`luthier.propose.Proposer`."""

    def bind(self, budget: Budget, /) -> Any: ...
    def propose(self, history: History, count: int, seeds: Seeds, /) -> list[Job]: ...


class During(Protocol):
    """An adapter as ``tune`` takes it; see :class:`luthier.adapt.Adapter`."""

    @property
    def window(self) -> int: ...
    def step(self, task: Any, state: Any, batches: Any, valid: Any, /) -> Any: ...


class Resolved(NamedTuple):
    """A method in its two parts.

    Args:
        proposer: Proposer of the configurations to start, not bound to a budget yet.
        adapter: Adapter that moves hyperparameters during a training, or None.
        alone: The adapter was given alone, and the proposer only starts its configurations.
    """

    proposer: Any
    adapter: Any
    alone: bool = False


AnyMethod: TypeAlias = MethodName | Between | During | Resolved | tuple[MethodName | Between, MethodName | During]


def resolve(method: Any = "random", options: Mapping[str, Any] | None = None, objectives: int = 1) -> Resolved:
    """The proposer and the adapter that ``method`` means.

    Args:
        method: A name of the table, a proposer, an adapter, or a pair (proposer, adapter) of names or objects.
            An adapter alone comes with the proposer that it names, or with random search, which starts its
            configurations.
        options: Settings for a method given by name, ``{"points": 5}``.
        objectives: Number of objectives; a name may mean another class where there are several.

    Returns:
        Both parts; what :func:`resolve` has returned is returned as it is.

    Raises:
        MethodError: If the name is not in the table, an option is not one of the method's, or the object is neither
            a proposer nor an adapter.

    Examples:
        >>> resolve("random").adapter is None
        True
    """
    if isinstance(method, Resolved):
        return method
    if isinstance(method, tuple):
        return _pair(method, options, objectives)
    if isinstance(method, str):
        return _by_name(method, dict(options or {}), objectives)
    if options:
        raise MethodError(
            f"options {dict(options)!r} came with a method object, {method!r}",
            where="method",
            remedy="Options belong to a method given by name; an object carries its settings itself.",
        )
    kind = _kind(method)
    made = _with_inner(method)
    return Resolved(made, None) if kind == "between" else Resolved(starter(made)(), made, alone=True)


def _by_name(name: str, options: Mapping[str, Any], objectives: int) -> Resolved:
    """A method of the table; settings of one that adapts may be those of the proposer that comes with it."""
    _check_name(name)
    kinds = parts_of(name, objectives)
    _check_options(name, kinds, options)
    made = []
    for kind in kinds:
        own = {field.name for field in settable(kind)}
        made.append(kind(**{option: value for option, value in options.items() if option in own}))
    return Resolved(_with_inner(made[0]), None) if len(made) == 1 else Resolved(made[1], made[0], alone=True)


def for_task(method: Resolved, task: Task) -> Resolved:
    """The form of a method that a task allows: where trainings cannot be continued, one that only stops them early."""
    if level(task) == "function" and optional(method.proposer, "stopping"):
        return method._replace(proposer=method.proposer.stopping())
    return method


def _pair(pair: tuple, options: Mapping[str, Any] | None, objectives: int) -> Resolved:
    if len(pair) != 2:
        raise MethodError(
            f"a tuple of {len(pair)} was given",
            where="method",
            remedy="A composed method is a pair (proposer, adapter).",
        )
    if options:
        raise MethodError(
            f"options {dict(options)!r} came with a pair",
            where="method",
            remedy="Give the pair as objects that carry their settings.",
        )
    proposer, adapter = (_named(part, objectives) if isinstance(part, str) else part for part in pair)
    for part, wanted in ((proposer, "between"), (adapter, "during")):
        if _kind(part) != wanted:
            raise MethodError(
                f"{part!r} stands in the place of the {'proposer' if wanted == 'between' else 'adapter'}",
                where="method",
                remedy="A composed method is a pair (proposer, adapter), in this order.",
            )
    return Resolved(_with_inner(proposer), adapter)


def _with_inner(proposer: Any) -> Any:
    """The same, its inner proposer made where only the table knows its name."""
    inner = getattr(proposer, "inner", None)
    if not isinstance(inner, str) or inner in PLACES or inner not in METHODS or METHODS[inner].kind == "during":
        return proposer
    return dataclasses.replace(proposer, inner=METHODS[inner].load()())


def _check_name(name: str) -> None:
    if name not in METHODS:
        words = next((ours for ours, theirs in ELSEWHERE.items() if name.lower().strip("_-") in theirs.split()), None)
        close = [words] if words else difflib.get_close_matches(name, METHODS, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise MethodError(
            f"there is no method {name!r}",
            where="method",
            remedy=f"{hint}The methods are: {', '.join(METHODS)}; or give a proposer or an adapter object.",
        )


def _check_options(name: str, kinds: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Refuse what is a setting of none of the classes."""
    known = [field.name for kind in kinds for field in settable(kind)]
    for option, value in options.items():
        if option not in known:
            raise MethodError(
                f"{option}={value!r} is not a setting of {name!r}",
                where=f"method {name}",
                remedy=f"Its settings are: {', '.join(known)}." if known else "It has no settings.",
            )


def _named(name: str, objectives: int) -> Any:
    _check_name(name)
    return METHODS[name].load(objectives)()


def _kind(part: Any) -> Literal["between", "during"]:
    if isinstance(part, type):
        raise MethodError(
            f"the class {part.__name__} was given",
            where="method",
            remedy=f"Give an object of it: {part.__name__}().",
        )
    if callable(getattr(part, "propose", None)) and callable(getattr(part, "bind", None)):
        return "between"
    if callable(getattr(part, "step", None)) and hasattr(part, "window"):
        return "during"
    raise MethodError(
        f"{part!r} is neither a proposer (bind, propose) nor an adapter (window, init, step)",
        where="method",
        remedy=f"Give one of {', '.join(METHODS)}, a proposer, an adapter, or a pair of them.",
    )
