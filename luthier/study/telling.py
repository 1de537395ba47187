"""Checks of what a user tells about a job, before anything is recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from luthier.errors import StudyError
from luthier.jobs import STATUS_CODES, Job, Result, Status
from luthier.study.ledger import Ledger
from luthier.study.refusals import check_limited
from luthier.task.call import as_metrics, as_objectives, is_finite


def held(ledger: Ledger, job: Job | int, verb: str) -> int:
    """The number of a job that this process holds.

    Raises:
        StudyError: If there is no such job, it has ended, or another process holds it.
    """
    number = job.number if isinstance(job, Job) else int(job) if isinstance(job, np.integer) else job
    if isinstance(number, int) and not isinstance(number, bool) and number in ledger.mine:
        return number
    ledger.sync()  # another process may have asked for it
    if isinstance(number, bool) or not isinstance(number, int):
        what, remedy = f"{number!r} is neither a job nor a number", "Give a job that ask() returned, or its number."
    elif not 0 <= number < len(ledger.history):
        what, remedy = f"job {number} does not exist", f"Ask for it first; there are {len(ledger.history)} jobs."
    elif (result := ledger.history.results[number]) is not None:
        what, remedy = f"job {number} has ended already ({result.status})", "Tell each job once."
    else:
        what, remedy = f"job {number} is not held by this process", "Tell a job in the process that asked for it."
    raise StudyError(what, where=f"study {ledger.name!r}, {verb}", remedy=remedy)


def told(
    ledger: Ledger,
    job: Job | int,
    metrics: Mapping[str, Any] | float | None,
    status: Status | None = None,
    error: str = "",
    steps: int | None = None,
    final: Mapping[str, Any] | None = None,
) -> Result:
    """The result of a job in a user's words: see :meth:`luthier.study.study.Study.tell`.

    Raises:
        StudyError: If this process has no such job, the status is unknown, or a limited metric is never there.
        TaskError: If an objective is missing or a value is not a real number.
    """
    number = held(ledger, job, "tell")
    goals, where = ledger.history.objectives, f"tell(job {number})"
    if status is not None and status not in STATUS_CODES:
        raise StudyError(f"status={status!r} is unknown", where=where, remedy=f"Use {', '.join(STATUS_CODES)}.")
    if status not in (None, "ok") and (metrics is None or isinstance(metrics, Mapping)):
        values = as_metrics(metrics or {}, where)
    else:
        values = as_objectives(metrics, goals, where)
    if status in (None, "ok"):
        status = "ok" if is_finite(values, goals) else "diverged"
    done = ledger.history.jobs[number].steps if steps is None else steps
    seconds = time.perf_counter() - ledger.mine[number]
    result = Result(number, status, values, done, dict(final or {}), seconds, error)
    check_limited(ledger.history, result)
    return result
