"""The page of one trial: its curves, its configuration beside the best one's, its error, notes and lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from luthier.errors import StoreError
from luthier.jobs import History
from luthier.report.figures import Figure, Html, Section, layout, step_axis, value_axis
from luthier.report.formatting import duration, escape, folded_json, grid, label, number, setting, tile
from luthier.report.kept import file_list, note_list
from luthier.report.table import metric_list
from luthier.study.kept import kept_files, trial_files
from luthier.trials import TrialRecord

CURVES = 12
SHOWN = {"ok": "finished"}


def trial_parts(study: Any, job: int) -> tuple[str, list[Section]]:
    """The head and the sections of the page of the trial that a job belongs to.

    Raises:
        StoreError: If the study has no such job.
    """
    history = study.history
    records = study.trials
    trial = next((one for one in records if job in one.jobs), None)
    if trial is None:
        raise StoreError(
            f"there is no trial {job}", where=f"study {study.name!r}", remedy=f"It has {len(records)} trials."
        )
    best = next((one for one in records if history.best in one.jobs), None)
    found = [
        _error(trial),
        _curves(history, trial),
        _configuration(history, trial, best),
        _kept(study._ledger, trial),
        _lineage(history, trial, records),
    ]
    return _head(study, trial, best), [section for section in found if section is not None]


def _head(study: Any, trial: TrialRecord, best: TrialRecord | None) -> str:
    status = "infeasible" if trial.feasible is False else SHOWN.get(trial.status, trial.status)
    mark = " · the best" if best is trial else ""
    tiles = [("status", status, status), ("steps", f"{trial.steps:,}", ""), ("time", duration(trial.seconds), "")]
    shown = "".join(tile(value, name, kind) for name, value, kind in tiles)
    measured = metric_list(trial.metrics.items()) if trial.metrics else ""
    link = f'<a href="../../{escape(quote(study.name, safe=""))}">{escape(study.name)}</a>'
    return (
        f'<header><p class="over">luthier · {link}</p>'
        f'<h1>Trial {trial.number}{mark}</h1><div class="tiles">{shown}</div>{measured}</header>'
    )


def _error(trial: TrialRecord) -> Section | None:
    if not trial.error:
        return None
    return Section("error", "Error", [Html(f'<pre class="error">{escape(trial.error)}</pre>')])


def _curves(history: History, trial: TrialRecord) -> Section | None:
    """Each metric that was reported more than once, over the steps of the trial's jobs."""
    series: dict[str, list[tuple[int, float]]] = {}
    for job in trial.jobs:
        for report in history.reports.get(job) or ():
            for name, value in report.metrics.items():
                series.setdefault(name, []).append((report.step, float(value)))
    names = [*history.objectives, *(name for name in series if name not in history.objectives)]
    figures = []
    for name in [name for name in names if len(series.get(name, ())) > 1][:CURVES]:
        steps, values = zip(*series[name], strict=True)
        mode = history.objectives.get(name, "min")
        axis, _ = value_axis(name, np.array(values, dtype=float), mode)
        line = {
            "type": "scatter",
            "mode": "lines+markers",
            "x": list(steps),
            "y": list(values),
            "line": {"color": "@primary", "width": 2},
            "marker": {"color": "@primary", "size": 5},
            "hovertemplate": f"step %{{x}}<br>{label(name)} %{{y:.5g}}<extra></extra>",
        }
        spec = {"data": [line], "layout": layout(step_axis(float(steps[-1])), axis)}
        figures.append(Figure(spec, 300, alt=f"{name} over the steps of trial {trial.number}"))
    return Section("curves", "Curves", [figures]) if figures else None


def _configuration(history: History, trial: TrialRecord, best: TrialRecord | None) -> Section:
    """The trial's values beside those of the best; differences are marked."""
    other = None if best is None or best is trial else best
    final = history.final(trial.jobs[-1]) if history.results[trial.jobs[-1]] is not None else {}
    names = [name for name in history.space.names if name in trial.config or (other and name in other.config)]
    names += [name for name in trial.config if name not in names]
    heads = ["hyperparameter", "this trial"] + ([f"trial {other.number}, the best"] if other else [])
    rows = []
    for name in names:
        mine = _value(trial.config, name)
        if name in final and final[name] != trial.config.get(name):
            mine += f" → {setting(final[name], 6)}"
        cells = f'<td class="n">{escape(mine)}</td>'
        differs = False
        if other is not None:
            theirs = _value(other.config, name)
            differs = theirs != _value(trial.config, name)
            cells += f'<td class="n">{escape(theirs)}</td>'
        rows.append(f'<tr{" class=differs" if differs else ""}><th scope="row">{escape(name)}</th>{cells}</tr>')
    text = grid("config", heads, rows) + folded_json("as JSON", trial.config)
    return Section("configuration", "Configuration", [Html(text)])


def _value(config: Mapping[str, Any], name: str) -> str:
    return setting(config[name], 6) if name in config else "·"


def _kept(ledger: Any, trial: TrialRecord) -> Section | None:
    """Notes and files that the training has kept."""
    files = kept_files(ledger, trial.jobs)
    rows = [f"<p>{note_list(trial.notes)}</p>"] if trial.notes else []
    for job, found in files.items():
        place = f"{trial_files(ledger)}/{job}"
        rows.append(f"<p>{file_list(found)}</p><p class=caption>The files lie in <code>{escape(place)}</code>.</p>")
    return Section("kept", "Notes and files", [Html("".join(rows))]) if rows else None


def _lineage(history: History, trial: TrialRecord, records: Sequence[TrialRecord]) -> Section | None:
    """The jobs of the trial, where it came from, and the trials that were copied from it."""
    copies = [one.number for one in records if one.parent in trial.jobs]
    if len(trial.jobs) == 1 and trial.parent is None and not copies:
        return None
    trial_of = {job: one.number for one in records for job in one.jobs}
    blocks = []
    if trial.parent is not None:
        source = trial_of[trial.parent]
        blocks.append(f'<p>Began as a copy of <a href="{source}">trial {source}</a>, after its job {trial.parent}.</p>')
    rows = []
    for job in trial.jobs:
        result = history.results[job]
        value = "" if result is None else number(result.metrics.get(next(iter(history.objectives)), float("nan")), 5)
        status = trial.status if result is None else SHOWN.get(result.status, result.status)
        config = ", ".join(f"{name} {setting(part)}" for name, part in history.jobs[job].config.items())
        rows.append(
            f'<tr><td class="n">{job}</td><td><span class="dot {status}"></span>{status}</td>'
            f'<td class="n">{int(history.age[job]):,}</td><td class="n">{escape(value)}</td>'
            f'<td class="message">{escape(config)}</td></tr>'
        )
    heads = ("job", "status", "steps at its end", next(iter(history.objectives)), "configuration")
    blocks.append(f'<div class="scroll">{grid("now", heads, rows)}</div>')
    if copies:
        links = ", ".join(f'<a href="{one}">trial {one}</a>' for one in copies)
        blocks.append(f"<p>Copied by {links}.</p>")
    return Section("lineage", "Lineage", [Html("".join(blocks))])
