"""The table of trials, sortable and filtered by status, and the failures by message."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from luthier.jobs import DIVERGED, FAILED
from luthier.report.facts import STATUS_NAMES, Facts, metric_names
from luthier.report.figures import Html, Section
from luthier.report.formatting import clipped, duration, escape, export_command, folded, number, plural, setting
from luthier.report.info import StudyInfo
from luthier.space import Choice

ROWS = 600
METRICS = 8
HYPERPARAMETERS = 24
MESSAGE = 2000  # characters of a message that are kept
KINDS = 12  # different failures that are listed


def failures(known: Facts) -> Section | None:
    """Count of each failure, with the first job that met it; None if nothing failed."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for n in np.flatnonzero(np.isin(known.status, [FAILED, DIVERGED])).tolist():
        result = known.history.results[n]
        assert result is not None
        message = _last_line(result.error) or f"{STATUS_NAMES[int(known.status[n])]}, without a message"
        counts[message] += 1
        first.setdefault(message, n)
    if not counts:
        return None
    rows = []
    for message, count in counts.most_common(KINDS):
        result = known.history.results[first[message]]
        whole = result.error if result else ""
        rows.append(f'<li><span class="times">{count:,}×</span> {_message(message, whole)} ')
        rows.append(f'<span class="muted">first in {known.noun} {first[message]}</span></li>')
    left = len(counts) - KINDS
    more = f"<p>{plural(left, 'further message')} left out.</p>" if left > 0 else ""
    return Section("failures", "Failures", [Html(f'<ul class="failures">{"".join(rows)}</ul>{more}')])


def table(known: Facts, info: StudyInfo) -> Section | None:
    """The table of trials, or None where there are none."""
    history = known.history
    if len(history) == 0:
        return None
    rows = _chosen(known)
    every = metric_names(known)
    metrics = every[: max(METRICS, len(history.objectives))]
    names = history.space.names[:HYPERPARAMETERS]
    errors = any(result is not None and result.error for result in history.results)
    heads = [("#", "Number", True), ("status", "Status", False), *((name, f"Metric {name}", True) for name in metrics)]
    heads += [(name, f"Hyperparameter {name}", not isinstance(history.space[name], Choice)) for name in names]
    heads += [("steps", "Training steps of its own", True), ("time", "Wall time", True)]
    heads += [("parent", "The job it continues", True)] if known.continued else []
    heads += [("message", "Message", False)] if errors else []
    body = "".join(_row(known, n, metrics, names, errors) for n in rows)
    head = "".join(
        f'<th scope="col" aria-sort="none" title="{escape(long)}"{" class=n" if numeric else ""}>'
        f'<button type="button">{escape(short)}</button></th>'
        for short, long, numeric in heads
    )
    notes = []
    if len(rows) < len(history):
        notes.append(
            f"{len(rows):,} of {plural(len(history), known.noun)} are listed: the best, the most recent, and failures. "
            f"All of them: <code>{escape(export_command(info))}</code>"
        )
    if len(names) < len(history.space.names) or len(metrics) < len(every):
        notes.append("Some columns are left out; the export has them all.")
    note = f'<p class="notice">{" ".join(notes)}</p>' if notes else ""
    chips = _filters(known, rows)
    hint = f'<p class="caption">Click a column head to sort{", a status to show or hide it" if chips else ""}.</p>'
    grid = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    scroll = f'<div class="scroll"><table id="trials" class="trials">{grid}</table></div>'
    title = f"All {known.noun}s" if len(rows) == len(history) else f"{known.noun.capitalize()}s"
    return Section("table", title, [Html(note + chips + scroll + hint)])


def front_table(known: Facts) -> Html:
    """The Pareto set of several objectives, best by the first one first."""
    history = known.history
    objectives, names = list(history.objectives), history.space.names[:HYPERPARAMETERS]
    heads = "".join(
        f"<th scope='col' title='{escape(long)}'>{escape(name)}</th>"
        for name, long in (
            ("#", "Number"),
            *((name, f"Metric {name}, {mode}") for name, mode in history.objectives.items()),
            *((name, f"Hyperparameter {name}") for name in names),
        )
    )
    rows = []
    for n in known.front[:ROWS]:
        result, config = history.results[n], history.jobs[n].config
        assert result is not None
        cells = [_number_cell(n, str(n)), *(_value_cell(result.metrics[name], 5) for name in objectives)]
        cells += [_value_cell(config[name]) if name in config else '<td class="off">·</td>' for name in names]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    left = len(known.front) - len(rows)
    more = f'<p class="notice">{plural(left, known.noun)} more of the set are not listed.</p>' if left else ""
    grid = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return Html(f'<div class="scroll"><table class="trials front">{grid}</table></div>{more}')


def _chosen(known: Facts) -> list[int]:
    """The rows to list, in order of number: all, or the best half, recent failures, and the most recent."""
    total = len(known.history)
    if total <= ROWS:
        return list(range(total))
    kept = {*known.ranked()[: ROWS // 2].tolist(), *known.front[:ROWS]}
    kept |= set(np.flatnonzero(np.isin(known.status, [FAILED, DIVERGED]))[-ROWS // 6 :].tolist())
    for n in range(total - 1, -1, -1):
        if len(kept) >= ROWS:
            break
        kept.add(n)
    return sorted(kept)


def _filters(known: Facts, rows: list[int]) -> str:
    counts = Counter(STATUS_NAMES[int(code)] for code in known.status[rows])
    if len(counts) < 2:
        return ""
    chips = "".join(
        f'<button type="button" class="chip" data-status="{name}" aria-pressed="true">'
        f'<span class="dot {name}"></span>{name} {counts[name]:,}</button>'
        for name in STATUS_NAMES.values()
        if counts[name]
    )
    return f'<div class="chips" role="group" aria-label="Filter by status">{chips}</div>'


def _row(known: Facts, n: int, metrics: list[str], names: list[str], errors: bool) -> str:
    history = known.history
    job, result = history.jobs[n], history.results[n]
    status = STATUS_NAMES[int(known.status[n])]
    cells = [_number_cell(n, str(n)), f'<td><span class="dot {status}"></span>{status}</td>']
    measured = result.metrics if result else {}
    cells += [_value_cell(measured[name], 5) if name in measured else "<td></td>" for name in metrics]
    cells += [_value_cell(job.config[name]) if name in job.config else '<td class="off">·</td>' for name in names]
    cells.append(_number_cell(int(history.steps[n]), f"{int(history.steps[n]):,}"))
    cells.append(_number_cell(result.seconds, duration(result.seconds)) if result else "<td></td>")
    if known.continued:
        cells.append("<td></td>" if job.parent is None else _number_cell(job.parent, str(job.parent)))
    if errors:
        error = result.error if result else ""
        cells.append(f'<td class="message">{_message(_last_line(error), error)}</td>')
    best = ' class="best"' if n in (known.front or (known.best,)) else ""
    return f'<tr data-status="{status}"{best}>{"".join(cells)}</tr>'


def _number_cell(value: float, text: str) -> str:
    return f'<td class="n" data-v="{float(value):.9g}">{escape(text)}</td>'


def _value_cell(value: object, digits: int = 4) -> str:
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        real = float(value)
        sortable = f' data-v="{real:.9g}"' if math.isfinite(real) else ""
        return f'<td class="n"{sortable}>{escape(setting(value, digits))}</td>'
    return f"<td>{escape(clipped(setting(value, digits), 60))}</td>"


def _message(short: str, whole: str) -> str:
    """The last line of a message; the rest of it folded away."""
    line = clipped(short, 300)
    if len(whole.strip()) <= len(line):
        return escape(line)
    tail = whole if len(whole) <= MESSAGE else f"…{whole[-MESSAGE:]}"  # the end of a traceback says most
    return folded(line, tail)


def _last_line(error: str) -> str:
    lines: Iterable[str] = (line.strip() for line in reversed(error.strip().splitlines()))
    return next((line for line in lines if line), "")


def metric_list(metrics: Iterable[tuple[str, float]]) -> str:
    """Metrics as a definition list."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(number(v, 5))}</dd></div>" for k, v in metrics)
    return f'<dl class="metrics">{items}</dl>'
