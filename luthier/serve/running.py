"""The jobs running now: a line for each, with its curve so far."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from luthier.jobs import PENDING, Report
from luthier.report.facts import Facts
from luthier.report.figures import Html, Section
from luthier.report.formatting import duration, escape, grid, label, number, plural, setting

ROWS = 40
WIDTH, HEIGHT, POINTS = 150, 30, 60  # of a curve, and points in it


def running_section(known: Facts) -> Section | None:
    """The jobs that run, the latest first; None where there are none."""
    history = known.history
    running = [job for job in history.pending.values() if known.status[job.number] == PENDING]
    jobs = sorted(running, key=lambda job: -job.number)
    if not jobs:
        return None
    rows = []
    for job in jobs[:ROWS]:
        reports = history.reports.get(job.number) or []
        metric, points = _curve(reports, known.objective)
        before = 0 if job.parent is None else int(history.age[job.parent])
        done = max(0, reports[-1].step - before) if reports else 0
        steps = f"{done:,} of {job.steps:,}" if job.steps > 1 else f"{done:,}" if done else ""
        latest = f"{escape(label(metric, 32))} {escape(number(points[-1], 5))}" if points else ""
        config = ", ".join(f"{name} {setting(value)}" for name, value in list(job.config.items())[:8])
        rows.append(
            f'<tr><td class="n"><a href="trial/{job.number}">{job.number}</a></td><td class="n">{steps}</td>'
            f"<td>{_line(points)}</td><td>{latest}</td><td>{_since(known, job.number)}</td>"
            f'<td class="message">{escape(config)}</td></tr>'
        )
    table = grid("now", ("#", "steps", "curve", "latest", "since", "configuration"), rows)
    left = f'<p class="notice">{plural(len(jobs) - ROWS, "job")} more.</p>' if len(jobs) > ROWS else ""
    return Section("running", "Running now", [Html(f'<div class="scroll">{table}</div>{left}')])


def _curve(reports: Sequence[Report], objective: str) -> tuple[str, list[float]]:
    """The objective over a job's reports, or the first metric that they have."""
    names = list(dict.fromkeys(name for report in reports[-3:] for name in report.metrics))
    if not names:
        return "", []
    name = objective if objective in names else names[0]
    values = [float(report.metrics[name]) for report in reports if name in report.metrics]
    return name, values[:: max(1, math.ceil(len(values) / POINTS))] + values[-1:]


def _line(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    span = high - low
    if not math.isfinite(span):
        return ""
    across, up = (WIDTH - 4) / (len(finite) - 1), (HEIGHT - 6) / (span or 2.0)
    base = low if span else low - 1.0
    points = " ".join(f"{2 + across * n:.1f},{HEIGHT - 3 - up * (v - base):.1f}" for n, v in enumerate(finite))
    return (
        f'<svg class="spark" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true"><polyline points="{points}"/></svg>'
    )


def _since(known: Facts, job: int) -> str:
    """Age of the job, where the store keeps times."""
    times, asked = getattr(known.history, "times", None), getattr(known.history, "asked", None)
    if times is None or asked is None or job >= len(asked):
        return ""
    seconds = time.time() - float(asked[job])
    return escape(duration(seconds)) if math.isfinite(seconds) and 0 <= seconds < 1e9 else ""
