"""The tables of papers/*/README.md: every number in them is computed from the results.json beside it.

    python -m papers.tables papers/genetic

A README has a place for each table, between ``<!-- results: name -->`` and ``<!-- end of results -->``, and what stands
there is exactly what :func:`render` makes of the runs. A results.json has::

    "runs": [{"method": "random", "seed": 0, "test_loss": 0.61, …}, …]
    "tables": {"name": {
        "by": "method",                                                 heading of the first column
        "columns": [{"key": "test_loss", "title": "test loss", "digits": 3}, …],
        "rows": [{"title": "random search", "where": {"method": "random"}, "cells": {"claim": "0.11"}}, …]}}

A cell is the mean ± the standard deviation (n - 1) of ``key`` over the runs that have all of the row's ``where``; a
column with ``"show": "count"`` shows how many these are. A column with ``"against": {"method": "random"}`` shows the
paired difference to the run of the same seed there. What a row gives in ``cells`` stands as it is: a paper's own
number.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLACE = re.compile(r"(<!-- results: ([\w-]+) -->\n)(?:.*?\n)??(<!-- end of results -->)", re.DOTALL)
NONE = "-"


def render(results: Mapping[str, Any], name: str) -> str:
    """One table in Markdown.

    Args:
        results: What a results.json holds.
        name: The table.

    Raises:
        KeyError: If there is no such table.
    """
    table = results["tables"][name]
    columns = table["columns"]
    lines = [[table["by"], *(column["title"] for column in columns)], ["---"] * (1 + len(columns))]
    for row in table["rows"]:
        lines.append([row["title"], *(_cell(results["runs"], row, column) for column in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(text: str, results: Mapping[str, Any]) -> str:
    """A README with its tables as the results have them; those of other results stay as they are."""

    def as_they_are(place: re.Match[str]) -> str:
        known = place[2] in results["tables"]
        return f"{place[1]}{render(results, place[2])}\n{place[3]}" if known else place[0]

    return PLACE.sub(as_they_are, text)


def places(text: str) -> list[str]:
    """The tables for which a README has a place."""
    return [name for _, name, _ in PLACE.findall(text)]


def spread(values: Sequence[float], digits: int) -> str:
    """``0.123 ± 0.045``: mean and standard deviation, or the one value there is."""
    if not values:
        return NONE
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _cell(runs: Sequence[Mapping[str, Any]], row: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    key, digits = column["key"], column.get("digits", 3)
    if key in row.get("cells", {}):
        return row["cells"][key]
    if "where" not in row:
        return NONE
    values = _values(runs, row["where"], key)
    if column.get("show") == "count":
        return str(len(values)) if values else NONE
    if "against" in column:
        other = _values(runs, {**row["where"], **column["against"]}, key)
        if row["where"].items() >= column["against"].items():
            return NONE
        return spread([values[seed] - other[seed] for seed in values if seed in other], digits)
    return spread(list(values.values()), digits)


def _values(runs: Sequence[Mapping[str, Any]], where: Mapping[str, Any], key: str) -> dict[int, float]:
    """Finite values by seed."""
    found = {run["seed"]: run[key] for run in runs if key in run and where.items() <= run.items()}
    return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a README.md and a results.json")
    for folder in parser.parse_args().folders:
        readme = folder / "README.md"
        readme.write_text(filled(readme.read_text(), json.loads((folder / "results.json").read_text())))


if __name__ == "__main__":
    main()
