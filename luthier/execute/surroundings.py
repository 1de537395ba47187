"""Settings of a script's process that a training reads there: a worker that never ran the script is given it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

_AT_FIRST = ("torch.float32", "highest", False, False)


@dataclass(frozen=True)
class Surroundings:
    """Settings of a process that change what a training does.

    Args:
        argv: ``sys.argv``.
        recursion: Depth that calls may have.
        torch: torch's default dtype, the precision of its products, whether what is not deterministic is refused, and
            by a warning only; None where these are as they are at first, so that a worker need not import torch.
    """

    argv: list[str]
    recursion: int
    torch: tuple[str, str, bool, bool] | None


def surroundings() -> Surroundings:
    """Return those of this process."""
    torch, own = sys.modules.get("torch"), _AT_FIRST
    if torch is not None:
        refused, warned = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        own = str(torch.get_default_dtype()), torch.get_float32_matmul_precision(), refused, warned
    return Surroundings(list(sys.argv), sys.getrecursionlimit(), None if own == _AT_FIRST else own)


def settle(given: Surroundings) -> None:
    """Make those of another process this one's."""
    sys.argv[:] = given.argv
    sys.setrecursionlimit(given.recursion)
    if given.torch is not None:
        import torch

        dtype, precision, refused, warned = given.torch
        torch.set_default_dtype(getattr(torch, dtype.removeprefix("torch.")))
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(refused, warn_only=warned)
