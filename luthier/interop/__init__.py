"""Other libraries: methods of tuners used here and ours used there, and callbacks for training frameworks.

May import: public (luthier itself and all that is below it).

Each needs a package that is not installed with luthier, and is imported when it is first used:
``luthier.interop.optuna`` needs ``pip install 'luthier[optuna]'``, and so on by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.lazy import lazy

if TYPE_CHECKING:
    from luthier.interop import botorch, cmaes, lightning, optuna, transformers

__all__ = ["botorch", "cmaes", "lightning", "optuna", "transformers"]

__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, ""))
