"""Other tuning libraries: their methods used here, ours used there, and studies carried over.

Each needs a package that is not installed with luthier, and is imported when it is first used:
``luthier.interop.optuna`` needs ``pip install 'luthier[optuna]'``; so do ``botorch`` and ``cmaes`` need theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.lazy import lazy

if TYPE_CHECKING:
    from luthier.interop import botorch, cmaes, optuna

__all__ = ["botorch", "cmaes", "optuna"]

__getattr__ = lazy(__name__, dict.fromkeys(__all__, ""))
