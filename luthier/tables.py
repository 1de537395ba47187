"""What the command line prints of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from luthier.report.standings import Standing, spread
from luthier.trials import Best, TrialRecord


def best_table(best: Best, title: str) -> Table:
    """The final hyperparameters and the metrics of a job."""
    table = Table(title=Text(f"{title}: job {best.number}"), title_justify="left", show_header=False)
    for name, value in best.final.items():
        table.add_row(name, _value(value))
    table.add_section()
    for name, value in best.metrics.items():
        table.add_row(name, _value(value), style="green")
    for name, value in best.test.items():
        table.add_row(f"test {name}", _value(value), style="bold green")
    return table


def front_table(front: Sequence[Best], title: str) -> Table:
    """The Pareto set of several objectives: one line a job, the best by the first objective first."""
    return jobs_table(front, f"{title}: {len(front)} in the Pareto set")


def jobs_table(jobs: Sequence[Best], title: str) -> Table:
    """One line a job."""
    table = Table(title=Text(title), title_justify="left")
    metrics, tests = list(jobs[0].metrics), list(jobs[0].test)
    for heading in ("job", *metrics, *(f"test {name}" for name in tests), "configuration"):
        table.add_column(heading, overflow="fold")
    for one in jobs:
        values = [_value(one.metrics[name]) for name in metrics] + [_value(one.test.get(name, "")) for name in tests]
        table.add_row(str(one.number), *values, ", ".join(f"{n} {_value(v)}" for n, v in one.final.items()))
    return table


def trials_table(records: list[TrialRecord], metrics: list[str]) -> Table:
    """One line a trial."""
    table = Table(title=f"the latest {len(records)} trials", title_justify="left")
    for heading in ("trial", "status", *metrics, "steps", "seconds", "configuration"):
        table.add_column(heading, overflow="fold")
    for row in records:
        values = [_value(row.metrics[name]) if name in row.metrics else "" for name in metrics]
        text = ", ".join(f"{name} {_value(value)}" for name, value in row.config.items())
        failure = f"; {row.error.splitlines()[0]}" if row.error else ""
        style = "red" if row.status in ("failed", "diverged") else None
        table.add_row(
            str(row.number), row.status, *values, str(row.steps), f"{row.seconds:.3g}", text + failure, style=style
        )
    return table


def standings_table(rows: Sequence[Standing], objective: str, title: str) -> Table:
    """One line a method, best mean rank first."""
    table = Table(title=Text(title), title_justify="left")
    headings = ("method", "mean rank", f"validation {objective}", f"test {objective}", "trials", "steps", "seconds")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        values = (f"{row.rank:.2f}", spread(row.valid), spread(row.test), f"{row.trials:g}", f"{row.steps:,.0f}")
        table.add_row(row.label, *values, f"{row.wall_seconds:.1f}")
    return table


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_value(part) for part in value[:6])
        return f"[{shown}{', …' if len(value) > 6 else ''}]"
    return str(value)
