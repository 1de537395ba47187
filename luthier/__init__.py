"""luthier tunes neural networks: one description of a training problem, every way of tuning it.

Names are imported when they are first used, so ``import luthier`` is quick and does not load PyTorch.

Examples:
    >>> import luthier as lt
    >>> space = lt.Space(x=lt.Float(-1.0, 1.0))
    >>> study = lt.tune(lambda config: config["x"] ** 2, space=space, trials=32, progress=False)
    >>> len(study.trials), study.best.metrics["loss"] < 0.01
    (32, True)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Without STRICT, MKL picks its code by the shape of a product, and on processors with AVX-512 a network alone and the
# same network in a stack differ in their last bits. MKL reads this at its first product. It is put into the process's
# environment alone: os.environ is the user's, who may look there whether it was set; a worker does this for itself.
if "MKL_CBWR" not in os.environ:
    os.putenv("MKL_CBWR", "AVX2,STRICT")

from luthier.lazy import lazy

if TYPE_CHECKING:
    from luthier import (
        adapt,
        data,
        errors,
        execute,
        follow,
        interop,
        losses,
        metrics,
        nn,
        optim,
        pareto,
        propose,
        report,
        response,
        serve,
        stop,
        store,
        testing,
    )
    from luthier.data import Split, Splits
    from luthier.errors import LuthierError
    from luthier.jobs import Budget, History, Job, Lost, Report, Result
    from luthier.machine import environment
    from luthier.seeds import Seeds
    from luthier.space import Choice, Config, Float, Int, Space
    from luthier.store import open_store
    from luthier.study.compare import Comparison, compare
    from luthier.study.methods import METHODS, Method
    from luthier.study.study import Study
    from luthier.study.tuning import tune
    from luthier.task import Trainable
    from luthier.task.call import Pruned, Trial
    from luthier.task.torch_task import TorchTask
    from luthier.trials import Best, TrialRecord

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Best",
    "Budget",
    "Choice",
    "Comparison",
    "Config",
    "Float",
    "History",
    "Int",
    "Job",
    "Lost",
    "LuthierError",
    "Method",
    "Pruned",
    "Report",
    "Result",
    "Seeds",
    "Space",
    "Split",
    "Splits",
    "Study",
    "TorchTask",
    "Trainable",
    "Trial",
    "TrialRecord",
    "adapt",
    "compare",
    "data",
    "environment",
    "errors",
    "execute",
    "follow",
    "interop",
    "losses",
    "metrics",
    "nn",
    "open_store",
    "optim",
    "pareto",
    "propose",
    "report",
    "response",
    "serve",
    "stop",
    "store",
    "testing",
    "tune",
]

_MODULES = frozenset(
    (
        *("adapt", "data", "errors", "execute", "follow", "interop", "losses", "metrics", "nn", "optim"),
        *("pareto", "propose", "report", "response", "serve", "stop", "store", "testing"),
    )
)
_PLACES = {
    "METHODS": "study.methods",
    "Best": "trials",
    "Budget": "jobs",
    "Choice": "space",
    "Comparison": "study.compare",
    "Config": "space",
    "Float": "space",
    "History": "jobs",
    "Int": "space",
    "Job": "jobs",
    "Lost": "jobs",
    "LuthierError": "errors",
    "Method": "study.methods",
    "Pruned": "task.call",
    "Report": "jobs",
    "Result": "jobs",
    "Seeds": "seeds",
    "Space": "space",
    "Split": "data",
    "Splits": "data",
    "Study": "study.study",
    "TorchTask": "task.torch_task",
    "Trainable": "task",
    "Trial": "task.call",
    "TrialRecord": "trials",
    "compare": "study.compare",
    "environment": "machine",
    "open_store": "store",
    "tune": "study.tuning",
}

_found, __dir__ = lazy(__name__, _PLACES | dict.fromkeys(_MODULES, ""))

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _PLACES and name not in _MODULES:
            from luthier.attributes import answer

            answer("", name)  # raises where it is another tool's name
        return _found(name)
