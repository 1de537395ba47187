"""Events as rows of the tables, and rows as events, with what a hand may have broken named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

from luthier.errors import StoreError
from luthier.jobs import STATUS_CODES, Job, Report, Result
from luthier.store import codec

Made = TypeVar("Made")
# What comes of reading a row that a hand has changed: no JSON, other types, numbers and nests without end.
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


def job_row(job: Job) -> dict[str, Any]:
    """A job as the values of its row in the table of jobs."""
    config, vectors = codec.pack(job.config)
    return {
        "b_number": job.number,
        "b_config": config,
        "b_vectors": vectors,
        "b_steps": job.steps,
        "b_parent": job.parent,
        "b_tag": codec.dumps(job.tag) if job.tag else None,
    }


def result_row(result: Result) -> dict[str, Any]:
    """A result as the values that end its job's row."""
    final, vectors = codec.pack(result.final) if result.final else (None, None)
    file, row = result.checkpoint or (None, None)
    return {
        "b_number": result.number,
        "b_status": result.status,
        "b_metrics": codec.dumps(result.metrics),
        "b_steps": result.steps,
        "b_final": final,
        "b_vectors": vectors,
        "b_seconds": None if math.isnan(result.seconds) else result.seconds,  # SQLite has no NaN
        "b_error": json.dumps(result.error) if result.error else None,  # JSON, for what a text column refuses
        "b_file": file,
        "b_row": row,
    }


def report_row(report: Report) -> dict[str, Any]:
    """A report as the values of its row; long vectors in float32."""
    hyper, vectors = codec.pack(report.hyperparameters, "f4") if report.hyperparameters else (None, None)
    return {
        "b_number": report.number,
        "b_step": report.step,
        "b_metrics": codec.dumps(report.metrics),
        "b_hyperparameters": hyper,
        "b_vectors": vectors,
        "b_position": None,
    }


def job(row: Any) -> Job:
    """The job of a row; ValueError where a column makes no sense."""
    config = mapping("config", row.config, row.config_vectors)
    number, parent = _whole("number", row.number), row.parent
    if parent is not None and not 0 <= _whole("parent", parent) < number:
        raise ValueError(f"the column parent is {parent}, which is no earlier job")
    return Job(number, config, _whole("steps", row.steps), parent, mapping("tag", row.tag) if row.tag else {})


def result(row: Any) -> Result:
    """The result of a row of an ended job; ValueError where a column makes no sense."""
    if row.status not in STATUS_CODES:
        raise ValueError(f"the column status is {row.status!r}")
    checkpoint = None
    if row.checkpoint_file is not None:
        checkpoint = (str(row.checkpoint_file), _whole("checkpoint_row", row.checkpoint_row))
    return Result(
        _whole("number", row.number),
        row.status,
        _metrics(row.metrics),
        _whole("steps_done", row.steps_done),
        mapping("final", row.final, row.final_vectors) if row.final else {},
        math.nan if row.seconds is None else float(row.seconds),
        str(_json("error", row.error)) if row.error else "",
        checkpoint,
    )


def report(row: Any) -> Report:
    """The report of a row; ValueError where a column makes no sense."""
    hyper = mapping("hyperparameters", row.hyperparameters, row.vectors) if row.hyperparameters else {}
    return Report(_whole("number", row.number), _whole("step", row.step), _metrics(row.metrics), hyper)


def read(make: Callable[[Any], Made], row: Any, where: str) -> Made:
    """``make(row)``; a row that makes no sense raises StoreError with the table and the job that it is of."""
    try:
        return make(row)
    except _DAMAGED as error:
        raise StoreError(
            str(error),
            where=f"{where}, job {row.number}" if hasattr(row, "number") else where,
            remedy="The row was changed by hand or by another program: restore a backup, or delete the study.",
        ) from error


def _json(column: str, text: Any, blob: bytes | None = None) -> Any:
    try:
        return codec.loads(text, blob)
    except _DAMAGED as error:
        shown = repr(text) if len(repr(text)) < 60 else repr(text)[:57] + "…"
        raise ValueError(f"the column {column} does not hold luthier's JSON but {shown} ({error})") from error


def mapping(column: str, text: Any, blob: bytes | None = None) -> dict[str, Any]:
    """The dict that a JSON column holds, with its long vectors; ValueError where it is none."""
    value = _json(column, text, blob)
    if type(value) is not dict:
        raise ValueError(f"the column {column} holds {value!r}, not a mapping")
    return value


def _metrics(text: Any) -> dict[str, float]:
    metrics = mapping("metrics", text)
    for name, value in metrics.items():
        if type(value) is not float:
            if type(value) is not int:
                raise ValueError(f"the column metrics holds {name}={value!r}, not a number")
            metrics[name] = float(value)
    return metrics


def _whole(column: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the column {column} is {value!r}, not a count")
    return value
