"""Events as rows and back, exactly: plain JSON, a spelling for what JSON lacks, and blobs for long vectors.

JSON has no NaN and no infinity: they are written ``{"$float": "nan"}``. Tuples in configurations, which are options of
the user's, are written ``{"$tuple": […]}``. A mapping with a name that starts with ``$``
is written ``{"$dict": [[name, value], …]}``, so that every mapping comes back as it was. A vector of more than
:data:`LONG` floats is written ``{"$f8": [offset, count]}`` and lies in a blob beside the text: exact (float64) in the
configuration and the final hyperparameters of a job, float32 in its reports.

Of the long vectors in a job's reports at most :data:`SNAPSHOTS` are kept: every one at first, then every second, every
fourth, … (:func:`stride`). The other values of those reports stay, and the job's result has the last vector exactly.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from luthier.errors import StudyError
from luthier.jobs import NOTE_KINDS, STATUS_CODES, Event, Job, Note, Report, Result

Kind = TypeVar("Kind", bound=Event | Note)

LONG = 64
SNAPSHOTS = 200

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_SCALARS = frozenset({float, int, str, bool, type(None)})
_THINNED = object()


def stride(count: int) -> int:
    """Return the interval of kept snapshots: the smallest power of two that leaves at most SNAPSHOTS of ``count``."""
    return 1 << (max(1, math.ceil(count / SNAPSHOTS)) - 1).bit_length()


# -- values ----------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The value in plain JSON types (the same object where it is plain already).

    NumPy values, tensors and tuples become numbers and lists, as they would by being stored and read.

    Raises:
        TypeError: If it holds something else, or a mapping with names that are not strings.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        for name, entry in value.items():
            if type(entry) not in _SCALARS or type(name) is not str:
                return {_name(name): plain(entry) for name, entry in value.items()}
        return value
    if kind is list:
        return value if _SCALARS.issuperset(map(type, value)) else [plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {_name(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors
        return value.tolist()
    for base in (str, float, int):
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"{value!r} of type {kind.__name__} cannot be stored as JSON")


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is not a string and would be read back as one")
    return str(name)


def dumps(value: Any) -> str:
    """JSON text of a plain value, see the module's page for its spelling of NaN."""
    try:
        text = _encode(value)
    except ValueError:
        return _encode(_spell(value))
    return _encode(_spell(value)) if '"$' in text else text


def spelled(value: Any) -> str:
    """Like :func:`dumps`, for a value that may hold tuples."""
    return _encode(_spell(value))


def loads(text: str, blob: bytes | None = None) -> Any:
    """The inverse of :func:`dumps` and :func:`pack`.

    Raises:
        ValueError: If the text is not what they write.
    """
    value = json.loads(text)
    return _restore(value, blob) if '"$' in text else value


def pack(values: Mapping[str, Any], dtype: str = "f8") -> tuple[str, bytes | None]:
    """JSON text and, if there are long vectors, the blob that holds them."""
    if not any(_is_long(value) or _has_tuple(value) for value in values.values()):
        return dumps(values), None
    parts: list[bytes] = []
    spelled, offset = {}, 0
    for name, value in values.items():
        if _is_long(value):
            parts.append(np.asarray(value, dtype=f"<{dtype}").tobytes())
            spelled[name] = {f"${dtype}": [offset, len(value)]}
            offset += len(parts[-1])
        else:
            spelled[name] = _spell(value)
    return _encode(_escape(spelled)), b"".join(parts) if parts else None


def _has_tuple(value: Any) -> bool:
    return type(value) is tuple or (type(value) is list and any(map(_has_tuple, value)))


def _options(config: Any) -> Any:
    """A configuration in plain types, in which tuples are left as they are."""
    if type(config) is dict and not any(map(_has_tuple, config.values())):
        return plain(config)
    return {_name(name): _option(value) for name, value in config.items()}


def _option(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(map(_option, value))
    return plain(value)


def _is_long(value: Any) -> bool:
    return type(value) is list and len(value) > LONG and set(map(type, value)) == {float}


def _spell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, list):
        return [_spell(entry) for entry in value]
    if isinstance(value, tuple):
        return {"$tuple": [_spell(entry) for entry in value]}
    if isinstance(value, dict):
        return _escape({name: _spell(entry) for name, entry in value.items()})
    return value


def _escape(spelled: dict[str, Any]) -> dict[str, Any]:
    marked = any(name.startswith("$") for name in spelled)
    return {"$dict": [[name, entry] for name, entry in spelled.items()]} if marked else spelled


def _restore(value: Any, blob: bytes | None) -> Any:
    if isinstance(value, list):
        return [_restore(entry, blob) for entry in value]
    if not isinstance(value, dict):
        return value
    mark = next(iter(value), "")
    if not mark.startswith("$"):
        pairs = value.items()
    elif mark == "$dict":
        pairs = value[mark]
    elif mark == "$float":
        return float(value[mark])
    elif mark == "$tuple":
        return tuple(_restore(entry, blob) for entry in value[mark])
    elif mark in ("$f8", "$f4"):
        return _vector(mark, value[mark], blob)
    else:
        raise ValueError(f"{mark!r} is no mark of luthier")
    restored = ((name, _restore(entry, blob)) for name, entry in pairs)
    return {name: entry for name, entry in restored if entry is not _THINNED}


def _vector(mark: str, place: list[int], blob: bytes | None) -> Any:
    if blob is None:
        if mark == "$f4":
            return _THINNED
        raise ValueError("its blob of vectors is gone")
    offset, count = place
    return np.frombuffer(blob, dtype=f"<{mark[1:]}", count=count, offset=offset).tolist()


# -- events ----------------------------------------------------------------------------------------------------------


def normal(event: Kind) -> Kind:
    """The event as it will be read back (the same object where nothing changes).

    Raises:
        StudyError: If it holds what cannot be stored: a metric that is no number, a note that is not JSON.
    """
    try:
        if isinstance(event, Report):
            return _normal_report(event)
        if isinstance(event, Note):
            return _normal_note(event)
        return _normal_job(event) if isinstance(event, Job) else _normal_result(event)  # pyright: ignore[reportReturnType]
    except (TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        remedy = "Use numbers for metrics, and numbers, strings, booleans, None, lists and dicts elsewhere."
        where = event.kind if isinstance(event, Note) else f"job {event.number}"
        raise StudyError(f"{type(event).__name__}: {error}", where=where, remedy=remedy) from error


def thinned(report: Report) -> Report:
    """The report without its long vectors."""
    short = {name: value for name, value in report.hyperparameters.items() if not _is_long(value)}
    return replace(report, hyperparameters=short)


def has_vectors(report: Report) -> bool:
    """Return True if the report holds a long vector."""
    return bool(report.hyperparameters) and any(_is_long(value) for value in report.hyperparameters.values())


def _normal_report(report: Report) -> Report:
    metrics, step, hyper = report.metrics, report.step, report.hyperparameters
    if not hyper and type(step) is int and 0 <= step < 2**63 and _numbers(metrics) is metrics:
        return report
    metrics, step = _numbers(metrics), _whole(step)
    if hyper:
        hyper = {name: _float32(value) if _is_long(value) else value for name, value in plain(hyper).items()}
    return Report(report.number, step, metrics, hyper or {})


def _normal_job(job: Job) -> Job:
    config, tag = _options(job.config), plain(job.tag)
    steps, parent = _whole(job.steps), None if job.parent is None else _whole(job.parent)
    if parent is not None and parent >= job.number:
        raise ValueError(f"parent={parent} is not an earlier job")
    if config is job.config and tag is job.tag and steps is job.steps and parent is job.parent:
        return job
    return Job(job.number, config, steps, parent, tag)


def _normal_note(note: Note) -> Note:
    if note.kind not in NOTE_KINDS:
        raise ValueError(f"kind={note.kind!r} is not one of {', '.join(NOTE_KINDS)}")
    body = {_name(name): _options(value) if name == "config" else plain(value) for name, value in note.body.items()}
    if note.kind == "foreign":
        body = body | {"metrics": _numbers(body["metrics"])}
    return Note(note.kind, body)


def _normal_result(result: Result) -> Result:
    if result.status not in STATUS_CODES:
        raise ValueError(f"status={result.status!r} is not one of {', '.join(STATUS_CODES)}")
    checkpoint = result.checkpoint
    if checkpoint is not None:
        checkpoint = (_name(checkpoint[0]), _whole(checkpoint[1]))
    return replace(
        result,
        metrics=_numbers(result.metrics),
        steps=_whole(result.steps),
        final=_options(result.final),
        seconds=float(result.seconds),
        error=_name(result.error),
        checkpoint=checkpoint,
    )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    if type(metrics) is dict:
        for name, value in metrics.items():
            if type(value) is not float or type(name) is not str:
                break
        else:
            return metrics
    return {_name(name): _number(name, value) for name, value in metrics.items()}


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"the metric {name!r} is {value!r}, not a number") from None


def _whole(value: Any) -> int:
    if type(value) is not int:
        value = operator.index(value)
    if not 0 <= value < 2**63:
        raise ValueError(f"{value} is not a count of steps or a place (0 to 2**63 - 1)")
    return value


def _float32(values: list[float]) -> list[float]:
    with np.errstate(over="ignore"):  # beyond float32: infinity, as documented for reports
        return np.asarray(values, dtype="<f4").tolist()
