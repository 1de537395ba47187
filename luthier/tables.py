"""Tables that the command line prints about a study."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from luthier.report.standings import Standing, spread
from luthier.text import plain
from luthier.trials import Best, TrialRecord


def new_table(title: str, *headings: str, right: Collection[str] = ()) -> Table:
    """Create an empty table whose title and headings are shown verbatim: no user text is treated as markup.

    Args:
        title: Title above the table, at the left.
        headings: Headings of its columns; none for a table without a head.
        right: Headings of the columns that hold numbers.
    """
    table = Table(title=Text(plain(title)), title_justify="left", show_header=bool(headings))
    for heading in headings:
        table.add_column(Text(plain(heading)), overflow="fold", justify="right" if heading in right else "left")
    return table


def add_row(table: Table, *cells: object, style: str | None = None) -> None:
    """A row of texts, shown as they are."""
    table.add_row(*(Text(plain(cell)) for cell in cells), style=style)


def best_table(best: Best, title: str) -> Table:
    """The final hyperparameters and the metrics of a job."""
    table = new_table(f"{title}: job {best.number}")
    for name, value in best.final.items():
        add_row(table, name, _value(value))
    table.add_section()
    for name, value in best.metrics.items():
        add_row(table, name, _value(value), style="green")
    for name, value in best.test.items():
        add_row(table, f"test {name}", _value(value), style="bold green")
    return table


def front_table(front: Sequence[Best], title: str) -> Table:
    """The Pareto set of several objectives: one line a job, the best by the first objective first."""
    return jobs_table(front, f"{title}: {len(front)} in the Pareto set")


def jobs_table(jobs: Sequence[Best], title: str) -> Table:
    """One line a job."""
    metrics, tests = list(jobs[0].metrics), list(jobs[0].test)
    table = new_table(title, "job", *metrics, *(f"test {name}" for name in tests), "configuration")
    for one in jobs:
        values = [_value(one.metrics[name]) for name in metrics] + [_value(one.test.get(name, "")) for name in tests]
        add_row(table, one.number, *values, ", ".join(f"{n} {_value(v)}" for n, v in one.final.items()))
    return table


def trials_table(records: list[TrialRecord], metrics: list[str]) -> Table:
    """One line a trial; of one that runs, its latest values, the steps done, and the seconds since it was begun."""
    headings = ("trial", "status", *metrics, "steps", "seconds", "configuration")
    table = new_table(f"the latest {len(records)} trials", *headings)
    for row in records:
        values = [_value(row.metrics[name]) if name in row.metrics else "" for name in metrics]
        text = ", ".join(f"{name} {_value(value)}" for name, value in row.config.items())
        failure = "".join(f"; {line}" for line in row.error.strip().splitlines()[:1])
        style = "red" if row.status in ("failed", "diverged") else None if row.feasible in (None, True) else "yellow"
        status = f"{row.status}, outside" if row.feasible is False else row.status
        seconds = row.seconds if row.since is None else max(0.0, time.time() - row.since)
        add_row(table, row.number, status, *values, row.steps, f"{seconds:.3g}", text + failure, style=style)
    return table


def standings_table(rows: Sequence[Standing], objective: str, title: str) -> Table:
    """One line a method, best mean rank first."""
    headings = ("method", "mean rank", f"validation {objective}", f"test {objective}", "trials", "steps", "seconds")
    table = new_table(title, *headings, right=headings[1:])
    for row in rows:
        values = (f"{row.rank:.2f}", spread(row.valid), spread(row.test), f"{row.trials:g}", f"{row.steps:,.0f}")
        add_row(table, row.label, *values, f"{row.wall_seconds:.1f}")
    return table


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_value(part) for part in value[:6])
        return f"[{shown}{', …' if len(value) > 6 else ''}]"
    return str(value)
