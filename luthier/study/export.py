"""A study in other shapes: plain rows for CSV, JSON and pandas, and the HTML page."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.errors import StudyError
from luthier.jobs import History
from luthier.study.kept import kept_files, trial_files
from luthier.study.succession import methods_said
from luthier.text import cell, public_url
from luthier.trials import notes_of, on_test, status_of, steps_done, trials_of

if TYPE_CHECKING:
    from luthier.report import StudyInfo
    from luthier.study.ledger import Ledger


def records(history: History, waiting: Collection[int] = ()) -> list[dict[str, Any]]:
    """One dict a job, in order of number.

    Keys: ``number``, ``trial`` (first job of its chain), ``parent``, ``status`` (how it ended; ``"running"``, or
    ``"waiting"`` of the jobs in ``waiting``, which nobody runs), ``steps`` (its own, done by now), ``age`` (those of
    the lineage), ``seconds``, ``error``, ``feasible`` where there are limits (None of what is not judged); then
    ``config.<name>`` for each hyperparameter, ``final.<name>`` for each that an adapter moved, ``metrics.<name>``, and
    ``notes.<name>`` for what ``trial.note`` has kept.

    Examples:
        >>> from luthier.jobs import Job, Result
        >>> from luthier.space import Float, Space
        >>> history = History(Space(x=Float(0, 1)))
        >>> history.add(Job(0, {"x": 0.5})); history.add(Result(0, "ok", {"loss": 2.0}, steps=1))
        >>> [(row["config.x"], row["metrics.loss"], row["status"]) for row in records(history)]
        [(0.5, 2.0, 'ok')]
    """
    notes = notes_of(history)
    trial_of = {number: trial.number for trial in trials_of(history) for number in trial.jobs}
    rows = []
    for job in history.jobs:
        result, age = history.results[job.number], steps_done(history, job)
        row: dict[str, Any] = {
            "number": job.number,
            "trial": trial_of[job.number],
            "parent": job.parent,
            "status": status_of(history, job.number, waiting),
            "steps": age - (0 if job.parent is None else int(history.age[job.parent])),
            "age": age,
            "seconds": None if result is None else result.seconds,
            "error": "" if result is None else result.error,
        }
        if history.limits:
            violated = history.violation[job.number]
            row["feasible"] = None if np.isnan(violated) else bool(violated == 0)
        row |= {f"config.{name}": value for name, value in job.config.items()}
        if result is not None:
            row |= {f"final.{name}": value for name, value in result.final.items() if value != job.config.get(name)}
            row |= {f"metrics.{name}": value for name, value in result.metrics.items()}
        row |= {f"notes.{name}": value for name, value in notes.get(job.number, {}).items()}
        rows.append(row)
    return rows


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every key that occurs: the fixed ones first, then configuration, final values and metrics."""
    order = {"config": 1, "final": 2, "metrics": 3, "notes": 4, "expected": 5, "deviation": 6}
    names = dict.fromkeys(key for row in rows for key in row)
    return sorted(names, key=lambda name: order.get(name.partition(".")[0], 0) if "." in name else 0)


def rows_to_csv(rows: list[dict[str, Any]]) -> str:
    """One line a row under a header of all keys; empty where a row has no such value, lists as JSON.

    A text that a spreadsheet would run as a formula has an apostrophe before it, which spreadsheets do not show.
    """
    names = columns(rows) or ["number"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, names))
    for row in rows:
        writer.writerow(cell(row.get(name, "")) for name in names)
    return text.getvalue()


def rows_to_json(rows: list[dict[str, Any]]) -> str:
    """A list of objects, one a row; numbers that JSON does not have are the strings "nan", "inf" and "-inf"."""
    return json.dumps(_plain(rows), indent=1) + "\n"


def _text(value: Any) -> Any:
    """A text that UTF-8 can say: half a character, as of a file's name, is JSON and CSV to Python alone."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else _text(value)


def to_pandas(rows: list[dict[str, Any]]) -> Any:
    """A ``pandas.DataFrame`` of rows, whose texts can be written as UTF-8.

    Raises:
        StudyError: If pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise StudyError(
            f"pandas cannot be imported ({error})",
            where="to_pandas",
            remedy="Install it (pip install pandas), or use to_records(), which needs nothing.",
        ) from error
    rows = [{_text(name): _text(value) for name, value in row.items()} for row in rows]
    return pandas.DataFrame(rows, columns=columns(rows) or ["number"])  # pyright: ignore[reportArgumentType]


def to_html(ledger: Ledger, path: str | Path) -> Path:
    """Write the study as one HTML page; the absolute path of the file.

    Raises:
        StudyError: If the file cannot be written.
    """
    from luthier import report  # here, for it loads Plotly and scikit-learn

    ledger.sync()
    return report.write(ledger.history, page_info(ledger, ledger.settings), path)


def page_info(ledger: Ledger, settings: dict[str, Any], fitted: bool = True) -> StudyInfo:
    """The facts that a page tells beside the history.

    Args:
        ledger: The study, up to date.
        settings: Its settings as they are stored now.
        fitted: Fit the sampler of a generative method to all results, which takes long, and tell what it draws.
    """
    from luthier.report import StudyInfo
    from luthier.study.sampling import samples

    history, name = ledger.history, ledger.name
    shown = {key: value for key, value in settings.items() if key not in ("test", "wall_seconds", "method_seconds")}
    if len(history.fingerprints) > 1:
        shown["code_changed_at"] = [f"{first}" for first, _ in history.fingerprints[1:]]
    return StudyInfo(
        name,
        {**shown, "method": methods_said(history, settings)},
        created={study.name: study.created for study in ledger.store.studies()}.get(name),
        wall_seconds=settings.get("wall_seconds"),
        test_metrics=None if history.best is None else on_test(settings.get("test"), history.best) or None,
        export=f"luthier export {shlex.quote(name)} --store {shlex.quote(public_url(ledger.store.url))}",
        samples=samples(history, settings) if fitted else None,
        folder=trial_files(ledger) or "",
        files=kept_files(ledger),
        waiting=ledger.waiting(),
    )
