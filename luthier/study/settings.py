"""Settings that identify a study, as JSON, and the comparison that refuses to resume it under different ones."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from luthier.checks import checked, maybe, real, whole
from luthier.errors import StudyError
from luthier.jobs import Budget, History
from luthier.study.methods import settable

_RISING = ("accuracy", "auc", "reward", "score", "precision", "recall", "f1")  # of these, larger is mostly better


def objectives(metric: str | Sequence[str] | None, mode: str | Sequence[str] | None) -> dict[str, str]:
    """Name of each objective and its direction.

    Args:
        metric: One name or several; None is ``"loss"``.
        mode: ``"min"`` or ``"max"``, one for all or one for each; None is ``"min"``, and is refused for metrics such
            as an accuracy that are hardly ever minimised.

    Raises:
        StudyError: If a name is not a string or comes twice, a mode is neither ``"min"`` nor ``"max"``, or their
            numbers differ.

    Examples:
        >>> objectives(["loss", "accuracy"], ["min", "max"])
        {'loss': 'min', 'accuracy': 'max'}
    """
    names = ["loss"] if metric is None else [metric] if isinstance(metric, str) else metric
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) and name for name in names):
        raise StudyError(
            f"metric={metric!r} is not a name", where="metric", remedy="Give a name, or a list of different names."
        )
    if len(set(names)) < len(names):
        raise StudyError(f"metric={metric!r} names one twice", where="metric", remedy="Name each metric once.")
    if mode is None:
        _check_direction(names)
    if not isinstance(mode, str | Sequence | None):
        raise StudyError(f"mode={mode!r} is not a direction", where="mode", remedy="Use 'min' or 'max'.")
    modes = ["min" if mode is None else mode] * len(names) if mode is None or isinstance(mode, str) else list(mode)
    for one in modes:
        if one not in ("min", "max"):
            raise StudyError(f"mode={one!r} is not a direction", where="mode", remedy="Use 'min' or 'max'.")
    if len(modes) != len(names):
        raise StudyError(
            f"{len(modes)} modes came for {len(names)} metrics, {modes!r} for {list(names)!r}",
            where="mode",
            remedy="Give one mode for all metrics, or one for each.",
        )
    return dict(zip(names, modes, strict=True))


def _check_direction(names: Sequence[str]) -> None:
    for name in names:
        if any(word in name.lower() for word in _RISING):
            raise StudyError(
                f"metric={name!r} came without a mode, and a metric is minimised by default",
                where="mode",
                remedy="Say mode='max' if larger is better, mode='min' if it really is to be minimised.",
            )


class Asked(NamedTuple):
    """A budget and a seed in Python's own numbers."""

    trials: int | None
    epochs: float | None
    steps: int | None
    seconds: float | None
    seed: int
    total_steps: int | None


def asked(
    trials: Any, epochs: Any, steps: Any, seconds: Any, seed: Any, total_steps: Any = None, where: str = "tune"
) -> Asked:
    """A budget and a seed, checked; NumPy's numbers are taken.

    Raises:
        StudyError: If one of them is of the wrong type or sign, or epochs and steps are both given.
    """
    count, length = maybe(whole(1)), maybe(real(above=0))
    rules = {"trials": count, "epochs": length, "steps": count, "seconds": length, "seed": whole()}
    given = {"trials": trials, "epochs": epochs, "steps": steps, "seconds": seconds, "seed": seed}
    found = {name: checked(name, value, rules[name], where=where, error=StudyError) for name, value in given.items()}
    if epochs is not None and steps is not None:
        raise StudyError(
            f"epochs={epochs!r} and steps={steps!r} were both given",
            where="epochs, steps",
            remedy="Say how long a trial trains once: in epochs or in steps.",
        )
    return Asked(**found, total_steps=checked("total_steps", total_steps, count, where=where, error=StudyError))


def build(history: History, seed: int, proposer: Any, adapter: Any, budget: Budget, task: str) -> dict[str, Any]:
    """The settings of a study as JSON; an empty history names its space, objectives and limits."""
    limits = {name: list(bounds) for name, bounds in history.limits.items()}
    return {
        "space": history.space.to_json(),
        "objectives": dict(history.objectives),  # the store ranks studies by the first of them
        **({"limits": limits} if limits else {}),
        "seed": seed,
        "method": {"proposer": describe(proposer), "adapter": describe(adapter)},
        "budget": {
            "trials": budget.trials,
            "steps": budget.steps,
            "epochs": None if budget.epochs is None else float(budget.epochs),  # 5 and 5.0 are the same study
            **({} if budget.total is None else {"total_steps": budget.total}),
            **({} if budget.window == 1 else {"window": budget.window}),
        },
        "task": task,
    }


def describe(value: Any) -> Any:
    """A method, or any part of one, as JSON: the same for the same settings in every process."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in settable(type(value))}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        parts = [describe(part) for part in value]
        return sorted(parts, key=json.dumps) if isinstance(value, set | frozenset) else parts
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def label(method: Mapping[str, Any]) -> str:
    """A method, as settings have it, in a few words: ``"Random"`` or ``"Random + Hypergradient"``."""
    parts = method["proposer"], method["adapter"]
    return " + ".join(part["class"] if isinstance(part, dict) else str(part) for part in parts if part is not None)


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], extendable: bool) -> list[str]:
    """List the differences between two settings of one study that keep the second from going on with it.

    Another method may go on, under more or fewer trials. How long a trial trains may be said then or no longer be said;
    two different lengths would give results that cannot be compared.

    Args:
        stored: The settings in the store.
        given: Those of this call, as :func:`build` makes them.
        extendable: True if ``trials`` may differ.
    """
    given = json.loads(json.dumps(given))
    lines = list(_walk(_by_name(stored.get("space")), _by_name(given["space"]), "space"))
    spaces = [one if isinstance(one, dict) else {} for one in (stored.get("space"), given["space"])]
    before, now = (space.get("constraint", "nothing") for space in spaces)
    lines += _walk(before, now, "space.constraint")
    other = stored.get("method") != given["method"]
    free = (
        ("budget.trials:", "budget.total_steps:", "budget.window:")
        if other
        else ("budget.trials:",)
        if extendable
        else ()
    )
    if other and (_unsaid(stored.get("budget")) or _unsaid(given["budget"])):
        free = ("budget.",)
    for key in ("objectives", "limits", "seed", "budget"):
        lines += _walk(stored.get(key), given.get(key), key)
    return [line for line in lines if not line.startswith(free)]


def _unsaid(budget: Any) -> bool:
    """True if a budget does not say how long a trial trains."""
    return isinstance(budget, dict) and budget.get("steps") is None and budget.get("epochs") is None


def _by_name(space: Any) -> Any:
    try:
        return {record["name"]: record for record in space["domains"]}
    except (TypeError, KeyError):  # damaged: shown as it is
        return space


def _walk(stored: Any, given: Any, place: str) -> Iterator[str]:
    if json.dumps(stored) == json.dumps(given):  # not ==, because the order of a space's names matters
        return
    if isinstance(stored, dict) and isinstance(given, dict) and stored.get("class") == given.get("class"):
        for key in [*stored, *(key for key in given if key not in stored)]:
            absent = "nothing"
            yield from _walk(stored.get(key, absent), given.get(key, absent), f"{place}.{key}")
        if list(stored) != list(given) and all(stored.get(key) == given.get(key) for key in {*stored, *given}):
            yield f"{place}: stored in the order {', '.join(stored)}, given as {', '.join(given)}"
    else:
        yield f"{place}: stored {_short(stored)}, given {_short(given)}"


def _short(value: Any) -> str:
    text = value["class"] if isinstance(value, dict) and set(value) == {"class"} else json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def refuse(name: str, url: str, lines: Sequence[str]) -> None:
    """Raise for settings that differ; nothing where ``lines`` is empty.

    Raises:
        StudyError: Listing what differs, stored against given.
    """
    if lines:
        raise StudyError(
            f"the stored study has other settings: {'; '.join(lines)}",
            where=f"study {name!r} in {url}",
            remedy="Give this study another name=, or call it with the stored settings to go on.",
        )
