"""Lineage of jobs that continue each other: one row per population member or surviving trial, steps rightwards."""

from __future__ import annotations

import numpy as np

from luthier.report.facts import STATUS_NAMES, Facts
from luthier.report.figures import Figure, Section, axis, layout, step_axis
from luthier.report.formatting import label, number, plural
from luthier.trials import lineage

ROWS = 48
SHADES = 5


def lanes(known: Facts) -> np.ndarray:
    """The row of each job, (jobs,): the proposer's slot where its tags have one, else the chain it continues.

    A job that continues a parent which another job has already continued is a copy: it takes over the row of a line
    that ended where the copy begins (as in population based training), or a new row.
    """
    history = known.history
    slots = [job.tag.get("slot") for job in history.jobs]
    if all(isinstance(slot, int) for slot in slots):
        _, rows = np.unique(np.array(slots), return_inverse=True)
        return rows
    row = np.full(len(history), -1, dtype=np.int64)
    tip: list[int] = []  # last job of each row
    continued = {parent for parent in history.parent.tolist() if parent >= 0}
    ended: dict[int, list[int]] = {}  # age -> rows whose last job nothing continues
    for n, parent in enumerate(history.parent.tolist()):
        start = int(history.age[parent]) if parent >= 0 else 0
        if parent >= 0 and tip[row[parent]] == parent:
            row[n] = row[parent]
        elif parent >= 0 and ended.get(start):
            row[n] = ended[start].pop(0)
        else:
            row[n] = len(tip)
            tip.append(n)
        tip[row[n]] = n
        if n not in continued:
            ended.setdefault(int(history.age[n]), []).append(int(row[n]))
    return row


def lineage_section(known: Facts) -> Section | None:
    """The picture of who continued whom; None where no job continues another."""
    if not known.continued:
        return None
    history, row = known.history, lanes(known)
    path = set(lineage(history, known.best)) if known.best is not None else set()
    kept = _kept_rows(known, row, path)
    place = {old: new for new, old in enumerate(kept)}
    jobs = [n for n in range(len(history)) if int(row[n]) in place]
    height = np.array([place[int(row[n])] for n in jobs])
    end = history.age[jobs]
    start = np.array([history.age[p] if p >= 0 else 0 for p in history.parent[jobs].tolist()])
    data = [
        *_segments(known, jobs, height, start, end),
        *_copies(known, jobs, dict(zip(jobs, height.tolist(), strict=True)), start, path),
        _hover(known, jobs, height, end),
    ]
    y = axis(
        "row: one line of training",
        range=[len(kept) - 0.4, -0.6],
        tickvals=list(range(len(kept))) if len(kept) <= 24 else None,
        ticktext=[str(old) for old in kept] if len(kept) <= 24 else None,
        showgrid=False,
    )
    spec = {"data": data, "layout": layout(step_axis(float(end.max())), y, showlegend=True)}
    total = len(np.unique(row))
    left = f" {len(kept)} of {plural(total, 'row')} are drawn: those that trained longest." if len(kept) < total else ""
    caption = (
        f"Each bar is one job, in five shades from the worst {known.objective} to the best; thin lines lead from a "
        f"parent to a copy of its state in another row, and the thick line is the way that led to the best job.{left}"
    )
    return Section("lineage", "Lineage", [Figure(spec, 130 + 20 * len(kept), caption, alt="Lineage of the jobs")])


def _kept_rows(known: Facts, row: np.ndarray, path: set[int]) -> list[int]:
    """At most ROWS rows: those of the best's lineage, then those that trained longest."""
    rows = np.unique(row)
    reached = np.zeros(len(rows))
    np.maximum.at(reached, row, known.history.age)
    first = {int(row[n]) for n in path}
    ordered = sorted(rows.tolist(), key=lambda r: (r not in first, -reached[r], r))
    return sorted(ordered[:ROWS])


def _segments(known: Facts, jobs: list[int], height: np.ndarray, start: np.ndarray, end: np.ndarray) -> list[dict]:
    """The bars: finished jobs in shades by fifths of the objective, all others in the colour of their status."""
    status = known.status[jobs]
    drawn = set(jobs)
    ranked = [n for n in known.ranked()[::-1].tolist() if n in drawn]  # worst first
    fifth = {n: i * SHADES // len(ranked) for i, n in enumerate(ranked)}
    shades = np.array([fifth.get(n, -1) for n in jobs])
    traces = []
    for shade in range(SHADES):
        name = {0: "worst fifth", SHADES - 1: "best fifth"}.get(shade)
        traces.append(_bars(np.flatnonzero(shades == shade), height, start, end, f"@scale{shade}", name))
    for code, name in STATUS_NAMES.items():
        traces.append(_bars(np.flatnonzero((status == code) & (shades < 0)), height, start, end, f"@{name}", name))
    return [trace for trace in traces if trace["x"]]


def _bars(
    chosen: np.ndarray, height: np.ndarray, start: np.ndarray, end: np.ndarray, colour: str, name: str | None
) -> dict:
    gap = 0.006 * (float(end.max()) or 1.0) if len(end) else 0.0
    x: list[float | None] = []
    y: list[float | None] = []
    for i in chosen:
        left, right = float(start[i]), float(end[i])
        x += [left + min(gap, 0.3 * (right - left)), right, None]
        y += [float(height[i]), float(height[i]), None]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 9},
        "name": label(name or ""),
        "showlegend": name is not None,
        "hoverinfo": "skip",
    }


def _copies(known: Facts, jobs: list[int], height: dict[int, float], start: np.ndarray, path: set[int]) -> list[dict]:
    """Lines from a parent's row to its child's, and along the path of the best."""
    thin: tuple[list, list] = ([], [])
    thick: tuple[list, list] = ([], [])
    # upright lines would lie on each other; a slant stays well inside the bars that it joins
    slant = min(0.012 * float(known.history.age[jobs].max()), 0.2 * float(np.median(known.history.steps[jobs])))
    for n, begin in zip(jobs, start.tolist(), strict=True):
        parent = int(known.history.parent[n])
        moved = parent in height and height[parent] != height[n]
        x, y = thick if n in path else thin
        if moved:
            x += [begin - slant, begin + slant, None]
            y += [height[parent], height[n], None]
        if n in path:
            x += [begin + (slant if moved else 0), int(known.history.age[n]) - slant, None]
            y += [height[n], height[n], None]
            if not moved and parent >= 0:
                x += [begin - slant, begin, None]
                y += [height[n], height[n], None]
    fine = 1 if len(thin[0]) < 600 else 0.4
    traces = []
    for (x, y), colour, width, name in ((thin, "@ink", fine, "copied"), (thick, "@best", 3, "way to the best")):
        if x:
            line = {"color": colour, "width": width}
            traces.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "name": name})
            traces[-1]["hoverinfo"] = "skip"
    return traces


def _hover(known: Facts, jobs: list[int], height: np.ndarray, end: np.ndarray) -> dict:
    notes = []
    for n in jobs:
        parent = int(known.history.parent[n])
        from_ = "fresh" if parent < 0 else f"continues job {parent}"
        notes.append([n, STATUS_NAMES[int(known.status[n])], number(float(known.values[n]), 5), from_])
    best = ["@best" if n == known.best else "@clear" for n in jobs]
    sizes = [12 if n == known.best else 8 for n in jobs]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": end,
        "y": height,
        "customdata": notes,
        "marker": {"color": best, "size": sizes, "opacity": 1, "line": {"width": 0}},
        "cliponaxis": False,
        "showlegend": False,
        "hovertemplate": "job %{customdata[0]} (%{customdata[1]})<br>"
        f"{label(known.objective)} %{{customdata[2]}}<br>%{{customdata[3]}}, ends at step %{{x:,}}<extra></extra>",
    }
