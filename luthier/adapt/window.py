"""Windows of an adapter: the steps between two of its moves, of which a training has a whole number."""

from __future__ import annotations

from typing import Any

from luthier.errors import MethodError


def whole(adapter: Any, steps: int, where: str) -> int:
    """``steps`` rounded down to whole windows.

    Args:
        adapter: The adapter.
        steps: Steps that were asked for.
        where: The place, for errors.

    Raises:
        MethodError: If not one window fits.

    Examples:
        >>> from luthier.adapt import Bilevel
        >>> whole(Bilevel(inner_steps=5), 27, "job 0")
        25
    """
    if steps < adapter.window:
        raise too_short(adapter, f"steps={steps}", steps, where)
    return steps // adapter.window * adapter.window


def too_short(adapter: Any, given: str, steps: int, where: str, most: str = "") -> MethodError:
    """The error of a training, or of a part of one, in which not one window fits.

    Args:
        adapter: The adapter.
        given: The argument that the user gave.
        steps: Steps that it comes to.
        where: The place.
        most: Other remedies, instead of so many steps.
    """
    name = type(adapter).__name__
    inner = getattr(adapter, "inner_steps", None) == adapter.window
    window = f"inner_steps={adapter.window}" if inner else f"window={adapter.window}"
    shorter = f", or {name}(inner_steps={steps})" if inner and steps > 0 else f", or {name} with a shorter window"
    return MethodError(
        f"{given} leaves no room for a move of {name}, which comes after every {adapter.window} steps ({window})",
        where=where,
        remedy=f"Give {most or f'at least {adapter.window} steps'}{shorter}.",
    )
