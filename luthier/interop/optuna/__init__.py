"""Optuna: its samplers as proposers, any proposer as a sampler, and studies in both directions.

Examples:
    >>> import luthier as lt
    >>> from luthier.interop.optuna import TPE
    >>> space = lt.Space(x=lt.Float(-5.0, 5.0), y=lt.Float(-5.0, 5.0))
    >>> study = lt.tune(lambda c: c["x"] ** 2 + c["y"] ** 2, TPE(), space=space, trials=60, progress=False)
    >>> study.best.metrics["loss"] < 1
    True
"""

from __future__ import annotations

from luthier.interop.optuna.proposers import NSGA2, TPE, Sampler
from luthier.interop.optuna.sampler import OptunaSampler
from luthier.interop.optuna.studies import from_optuna, to_optuna

__all__ = ["NSGA2", "TPE", "OptunaSampler", "Sampler", "from_optuna", "to_optuna"]
