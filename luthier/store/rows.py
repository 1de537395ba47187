"""Events as rows of the log, and rows as events, with what a hand may have broken named.

A body is JSON (see :mod:`luthier.store.encoding`) without what is at its default. One row holds the reports of a whole
write, ``[[number, step, metrics, hyperparameters?], …]``; a report with long vectors has a row of its own, so that they
can be taken out of it later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from luthier.errors import StoreError
from luthier.jobs import NOTE_KINDS, STATUS_CODES, Event, Job, Note, Report, Result
from luthier.store import encoding

JOB, REPORTS, RESULT, NOTE = range(4)  # kinds of events; here, for a study in memory needs no SQLAlchemy
Made = TypeVar("Made")
# What comes of reading a row that a hand has changed: no JSON, other types, numbers and nests without end.
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


class Packed(NamedTuple):
    """A row of the log that has no place in it yet, and what will be read back from it."""

    kind: int
    number: int | None
    body: str
    vectors: bytes | None
    events: Sequence[Event | Note]
    long: bool = False  # a report with long vectors


def packed(event: Job | Result | Note) -> Packed:
    """The row of a job, a result or a note, all of them normal."""
    if isinstance(event, Job):
        body: dict[str, Any] = {"steps": event.steps}
        if event.parent is not None:
            body["parent"] = event.parent
        if event.tag:
            body["tag"] = event.tag
        return Packed(JOB, event.number, *_with("config", event.config, body), [event])
    if isinstance(event, Note):
        return Packed(
            NOTE, event.body.get("number"), encoding.spelled({"kind": event.kind, "body": event.body}), None, [event]
        )
    body = {"status": event.status, "metrics": event.metrics, "steps": event.steps, "seconds": event.seconds}
    if event.error:
        body["error"] = event.error
    if event.checkpoint is not None:
        body["checkpoint"] = list(event.checkpoint)
    if not event.final:
        return Packed(RESULT, event.number, encoding.dumps(body), None, [event])
    return Packed(RESULT, event.number, *_with("final", event.final, body), [event])


def packed_reports(reports: Sequence[Report]) -> list[Packed]:
    """The rows of some reports, all of them normal, in their order."""
    rows: list[Packed] = []
    short: list[Report] = []

    def finish() -> None:
        if short:
            entries = [_entry(report) for report in short]
            rows.append(Packed(REPORTS, None, encoding.dumps(entries), None, short[:]))
            short.clear()

    for report in reports:
        if encoding.has_vectors(report):
            finish()
            text, blob = encoding.pack(report.hyperparameters, "f4")
            body = f"[{encoding.dumps(_entry(report)[:3])[:-1]},{text}]]"
            rows.append(Packed(REPORTS, report.number, body, blob, [report], long=True))
        else:
            short.append(report)
    finish()
    return rows


def unpacked(row: Any) -> Sequence[Event | Note]:
    """The events of a row; ValueError where it makes no sense."""
    if row.kind == REPORTS:
        body = _json(row.body, row.vectors)
        if type(body) is not list:
            raise ValueError(f"the reports are {body!r}, not a list")
        return [_report(entry) for entry in body]
    body = mapping("body", row.body, row.vectors)
    if row.kind == JOB:
        number, parent = _whole("number", row.number), body.get("parent")
        if parent is not None and not 0 <= _whole("parent", parent) < number:
            raise ValueError(f"parent is {parent}, which is no earlier job")
        tag = _mapping("tag", body.get("tag", {}))
        return [Job(number, _mapping("config", body["config"]), _whole("steps", body["steps"]), parent, tag)]
    if row.kind == RESULT:
        return [_result(row.number, body)]
    if row.kind == NOTE and body.get("kind") in NOTE_KINDS:
        return [Note(body["kind"], _mapping("body", body["body"]))]
    raise ValueError(f"kind is {row.kind!r}")


def read(make: Callable[[Any], Made], row: Any, where: str) -> Made:
    """``make(row)``; a row that makes no sense raises StoreError with the table and the job that it is of."""
    try:
        return make(row)
    except _DAMAGED as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        number = getattr(row, "number", None)
        if number is None and hasattr(row, "seq"):
            number = f"event {row.seq}"
        elif number is not None:
            number = f"job {number}"
        raise StoreError(
            what,
            where=f"{where}, {number}" if number else where,
            remedy="The row was changed by hand or by another program: restore a backup, or delete the study.",
        ) from error


def mapping(column: str, text: Any, blob: bytes | None = None) -> dict[str, Any]:
    """The dict that a JSON column holds, with its long vectors; ValueError where it is none."""
    return _mapping(f"the column {column}", _json(text, blob, column))


def _with(name: str, values: Any, body: dict[str, Any]) -> tuple[str, bytes | None]:
    text, blob = encoding.pack(values)
    return f'{{"{name}":{text},{encoding.dumps(body)[1:]}', blob


def _entry(report: Report) -> list[Any]:
    entry = [report.number, report.step, report.metrics]
    return [*entry, report.hyperparameters] if report.hyperparameters else entry


def _report(entry: Any) -> Report:
    if type(entry) is not list or not 3 <= len(entry) <= 4:
        raise ValueError(f"a report is {entry!r}")
    number, step, metrics = entry[:3]
    if not (type(number) is type(step) is int and number >= 0 and step >= 0):  # most of what is read is reports
        number, step = _whole("number", number), _whole("step", step)
    return Report(number, step, _metrics(metrics), _mapping("hyperparameters", entry[3]) if len(entry) > 3 else {})


def _result(number: Any, body: dict[str, Any]) -> Result:
    status, checkpoint = body["status"], body.get("checkpoint")
    if status not in STATUS_CODES:
        raise ValueError(f"status is {status!r}")
    if checkpoint is not None:
        checkpoint = (str(checkpoint[0]), _whole("row of the checkpoint", checkpoint[1]))
    seconds = body["seconds"]
    if type(seconds) not in (float, int):
        raise ValueError(f"seconds is {seconds!r}")
    return Result(
        _whole("number", number),
        status,
        _metrics(body["metrics"]),
        _whole("steps", body["steps"]),
        _mapping("final", body.get("final", {})),
        float(seconds),
        str(body.get("error", "")),
        checkpoint,
    )


def _json(text: Any, blob: bytes | None = None, column: str = "body") -> Any:
    try:
        return encoding.loads(text, blob)
    except _DAMAGED as error:
        shown = repr(text) if len(repr(text)) < 60 else repr(text)[:57] + "…"
        raise ValueError(f"the column {column} does not hold luthier's JSON but {shown} ({error})") from error


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"{name} holds {value!r}, not a mapping")
    return value


def _metrics(value: Any) -> dict[str, float]:
    metrics = value if type(value) is dict else _mapping("metrics", value)
    for name, number in metrics.items():
        if type(number) is not float:
            if type(number) is not int:
                raise ValueError(f"metrics holds {name}={number!r}, not a number")
            metrics[name] = float(number)
    return metrics


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}, not a count")
    return value
