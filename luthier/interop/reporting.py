"""A validation as a report of a trial, for the callbacks of training frameworks."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from luthier.errors import TaskError
from luthier.task import Trial


def reported(trial: Trial, step: int, found: Mapping[str, Any], monitor: str) -> bool:
    """Report what a framework has measured; return True if the study asks to stop.

    Raises:
        TaskError: If ``monitor`` is not among the metrics.
    """
    metrics = {name: value for name, value in found.items() if isinstance(value, numbers.Real)}
    if monitor not in metrics:
        raise TaskError(
            f"monitor must be one of {sorted(metrics)}, got {monitor!r}",
            where="Report",
            remedy="Log it during validation, or name what is logged.",
        )
    if trial.last is not None and step <= trial.last[0]:  # validated again where nothing was trained
        return trial.should_stop
    _ = trial.should_stop  # read once before, so that report() raises nothing
    trial.report(step, **metrics)
    return trial.should_stop
