"""The things that trials have kept beside their results: values by ``trial.note`` and files in ``trial.folder``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.jobs import History
from luthier.report.figures import Html, Section
from luthier.report.formatting import clipped, escape, grid, number
from luthier.report.info import KeptFile, StudyInfo
from luthier.trials import notes_of

TRIALS = 200  # that are listed, the latest
FILES = 20  # of each trial that are listed
TEXT = 2_000  # characters of a note that are shown


def kept(history: History, info: StudyInfo) -> Section | None:
    """The notes and files of all trials; None where there are none.

    Args:
        history: The study's history.
        info: Names the folder of the trials' files, and the files by job.
    """
    notes = {job: values for job, values in notes_of(history).items() if values}
    numbers = sorted(info.files.keys() | notes.keys())
    if not numbers:
        return None
    rows = []
    for job in numbers[-TRIALS:]:
        cells = [f'<td class="n">{job}</td>']
        cells += [f"<td>{note_list(notes.get(job, {}))}</td>"] if notes else []
        cells += [f"<td>{file_list(info.files.get(job, ()))}</td>"] if info.files else []
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = ["#", *(["notes"] if notes else []), *(["files"] if info.files else [])]
    where = f'<p class="caption">The files lie in <code>{escape(info.folder)}</code>.</p>' if info.files else ""
    left = f'<p class="notice">The latest {TRIALS} of {len(numbers):,}.</p>' if len(numbers) > TRIALS else ""
    table = f'<div class="scroll">{grid("config", heads, rows)}</div>'
    return Section("kept", "Notes and files", [Html(where + left + table)])


def note_list(notes: Mapping[str, Any]) -> str:
    """Notes as lines of HTML."""
    return "<br>".join(f"{escape(name)}: {escape(_told(value))}" for name, value in notes.items())


def file_list(found: Sequence[KeptFile]) -> str:
    """Files as lines of HTML, with their sizes."""
    lines = [f"{escape(one.name)} <span class=muted>{number(one.size)} bytes</span>" for one in found[:FILES]]
    return "<br>".join([*lines, *([f"and {len(found) - FILES:,} more"] if len(found) > FILES else [])])


def _told(value: Any) -> str:
    return clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), TEXT)
