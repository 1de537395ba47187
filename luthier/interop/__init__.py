"""Other tuning libraries: their methods used here, ours used there, and studies carried over.

Each needs a package that is not installed with luthier, and is imported when it is first used:
``luthier.interop.optuna`` needs ``pip install 'luthier[optuna]'``; so do ``botorch`` and ``cmaes`` need theirs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.interop import botorch, cmaes, optuna

__all__ = ["botorch", "cmaes", "optuna"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"luthier.interop.{name}")
    raise AttributeError(f"module 'luthier.interop' has no attribute {name!r}")
