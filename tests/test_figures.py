"""Figures in README.md, docs/ and papers/ come from result files: each table names its file, and its numbers are there.

A number is looked up among what the file says of its row and its column: values under keys, or of runs with words, that
share a word with the row's or the column's title, where there are any; else among all of the file. So most wrong
figures are found, and not every one. In prose, what has a deviation is a figure; it is in a table of its page, or
in one of the files that the page names. (Tables of papers/ are held by test_papers.py.)
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAPERS = sorted((ROOT / "papers").glob("*/README.md"))
TABLE = re.compile(r"(?:<!-- figures: (\S+) -->\n+)?((?:^\|.*\n)+)", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")
PAIR = re.compile(r"\d+(?:\.\d+)? ± \d+(?:\.\d+)?")
SEVERAL = 5  # decimals from which on a table is one of figures; fewer are defaults of settings
WORDS = re.compile(r"[a-z0-9]{2,}")
PLAIN = {"the", "of", "and", "at", "in", "is", "to", "one", "after", "each", "by", "its", "it", "as", "mean", "summary"}
MOST = 200  # runs, beyond which single ones are not what a table shows


class Cell(NamedTuple):
    """A number of a table, with the words of its row and of its column."""

    number: str
    row: frozenset[str]
    column: frozenset[str]


class Value(NamedTuple):
    """A number that may be quoted of a result file, with the words that lead to it."""

    value: float
    words: frozenset[str]


def words(text: str) -> frozenset[str]:
    return frozenset(WORDS.findall(text.lower())) - PLAIN


def tables(text: str) -> Iterator[tuple[str | None, list[Cell]]]:
    """The result file that each table of figures names, and its numbers."""
    for file, table in TABLE.findall(text):
        head, _, *rows = [line[1:-1].split("|") for line in table.splitlines()]
        cells = [
            Cell(number, words(" ".join(takewhile(lambda text: not NUMBER.search(text), row))), words(title))
            for row in rows
            for title, cell in list(zip(head, row, strict=True))[1:]  # after the row's title
            for number in NUMBER.findall(cell)
        ]
        if file or len(cells) >= SEVERAL:
            yield file or None, cells


def values(found: Any, path: frozenset[str] = frozenset()) -> Iterator[Value]:
    """Numbers that may be quoted: those of a result, and means, medians and deviations of its lists and of its runs."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        yield Value(float(found), path)
    elif isinstance(found, str):
        yield from (Value(float(number), path) for number in NUMBER.findall(found))
    elif isinstance(found, dict):
        path |= frozenset[str]().union(*(words(one) for one in found.values() if isinstance(one, str)))
        runs = [{**row, "key": re.sub(r", seed \d+", "", key)} for key, row in found.items() if _is_run(key, row)]
        yield from _grouped(runs, path)
        for key, one in found.items():
            yield from values(one, path | words(key))
    elif isinstance(found, list) and found and all(isinstance(one, dict) for one in found):
        yield from _grouped(found, path)
        for one in found:
            yield from (values(one, path) if len(found) < MOST else ())
    elif isinstance(found, list):
        yield from (Value(value, path) for value in _spread(found))
        for one in found:
            yield from values(one, path)


def _is_run(key: str, row: Any) -> bool:
    return ", seed " in key and isinstance(row, dict)


def _grouped(runs: list[dict[str, Any]], path: frozenset[str]) -> Iterator[Value]:
    """Statistics of each number over the runs that share some of their words."""
    rows = [_flat(run) for run in runs]
    shared = sorted({name for row in rows for name, value in row.items() if isinstance(value, str)} | {"batch"})
    for size in range(len(shared) + 1):
        for names in combinations(shared, size):
            groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
            for row in rows:
                groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
            for group, members in groups.items():
                of_group = path.union(*(words(str(word)) for word in group))
                for name in {name for row in members for name in row}:
                    found = _spread([row.get(name) for row in members])
                    yield from (Value(value, of_group | words(name)) for value in found)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A run with what is nested in it under names of its own."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= {f"{name} {k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _spread(found: list[Any]) -> list[float]:
    numbers = [float(one) for one in found if isinstance(one, int | float) and not isinstance(one, bool)]
    numbers = [one for one in numbers if math.isfinite(one)]
    return [f(numbers) for f in (statistics.fmean, statistics.stdev, statistics.median)] if len(numbers) > 1 else []


@lru_cache
def known(file: Path) -> list[Value]:
    """What may be quoted of a result file, each once."""
    return [one for one in dict.fromkeys(values(json.loads(file.read_text()))) if math.isfinite(one.value)]


def missing(cells: list[Cell], file: Path) -> list[str]:
    """The numbers that no value of a result file gives, as it is or in per cent, rounded to the digits shown."""
    return [cell.number for cell in cells if not _there(cell, known(file))]


def _there(cell: Cell, among: list[Value]) -> bool:
    for title in (cell.row, cell.column):
        among = [one for one in among if one.words & title] or among
    half = 0.5001 * 10.0 ** -len(cell.number.partition(".")[2])  # a half may be rounded either way
    quoted = float(cell.number)
    return any(abs(abs(one.value) * scale - quoted) <= half for one in among for scale in (1.0, 100.0))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_come_from_result_files(page: Path) -> None:
    for file, cells in tables(page.read_text()):
        assert file is not None, f"a table of {page.name} with {cells[0]} names no file: <!-- figures: PATH -->"
        assert missing(cells, ROOT / file) == [], f"{page.name}: not in {file}"


def unsupported(text: str, files: list[Path]) -> list[str]:
    """Means with deviations in the prose of a page that neither its tables nor a result file of it has."""
    prose = " ".join(line for line in text.splitlines() if not line.startswith("|"))
    shown = {pair for line in text.splitlines() if line.startswith("|") for pair in PAIR.findall(line)}
    pairs = (pair for pair in PAIR.findall(prose) if pair not in shown)
    return [pair for pair in pairs if not any(_together(pair, file) for file in files)]


def _together(pair: str, file: Path) -> bool:
    """Whether a mean and its deviation are in a file under the same words."""
    groups: dict[frozenset[str], list[Value]] = {}
    for one in known(file):
        groups.setdefault(one.words - {"sd"}, []).append(one)
    mean, deviation = (Cell(number, frozenset(), frozenset()) for number in pair.split(" ± "))
    return any(_there(mean, among) and _there(deviation, among) for among in groups.values())


@pytest.mark.parametrize("page", PAGES + PAPERS, ids=lambda page: page.parent.name + "/" + page.name)
def test_deviations_in_prose_come_from_results(page: Path) -> None:
    text = page.read_text()
    named = [ROOT / file for file in dict.fromkeys(file for file, _ in tables(text) if file)]
    assert unsupported(text, [page.parent / "results.json"] if page in PAPERS else named) == []


def test_a_changed_deviation_in_prose_is_found() -> None:
    text = "| a |\n|---|\n| 1.50 ± 0.20 |\n\nIt is 1.50 ± 0.20, and not 1.50 ± 0.25 or 7.3 ± 0.1.\n"
    assert unsupported(text, []) == ["1.50 ± 0.25", "7.3 ± 0.1"]


def test_most_changed_figures_are_found() -> None:
    found = []
    for page in PAGES:
        for file, cells in tables(page.read_text()):
            assert file is not None
            changed = [cell._replace(number=cell.number[:-1] + str((int(cell.number[-1]) + 4) % 10)) for cell in cells]
            found.append(len(missing(changed, ROOT / file)) / len(changed))
    assert len(found) > 15 and statistics.fmean(found) > 0.6
