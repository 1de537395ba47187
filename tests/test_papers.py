"""Every papers/*/README.md shows exactly what its results.json holds, and its script and figures are there."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PAPERS = Path(__file__).resolve().parents[1] / "papers"
FOLDERS = sorted(file.parent for file in PAPERS.glob("*/README.md"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"papers_{name}", PAPERS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load("tables")
RUNS = [
    {"method": "a", "seed": 0, "loss": 1.0},
    {"method": "a", "seed": 1, "loss": 3.0},
    {"method": "b", "seed": 1, "loss": 5.0},
    {"method": "b", "seed": 0, "loss": 2.0},
    {"method": "c", "seed": 0, "loss": None},
]
COLUMNS: list[dict[str, Any]] = [
    {"key": "loss", "title": "loss", "digits": 2},
    {"key": "loss", "title": "less a's", "digits": 2, "against": {"method": "a"}},
    {"key": "loss", "title": "runs", "show": "count"},
    {"key": "claim", "title": "paper"},
]
ROWS = [
    {"title": "A", "where": {"method": "a"}, "cells": {"claim": "0.9"}},
    {"title": "B", "where": {"method": "b"}},
    {"title": "C", "where": {"method": "c"}},
    {"title": "theirs", "cells": {"claim": "0.1"}},
]
RESULTS = {"runs": RUNS, "tables": {"all": {"by": "method", "columns": COLUMNS, "rows": ROWS}}}


def test_a_table_is_computed_from_the_runs() -> None:
    assert tables.render(RESULTS, "all").splitlines()[2:] == [
        "| A | 2.00 ± 1.41 | - | 2 | 0.9 |",  # (1 + 3) / 2, sqrt(2)
        "| B | 3.50 ± 2.12 | 1.50 ± 0.71 | 2 | - |",  # paired: 2 - 1 and 5 - 3
        "| C | - | - | - | - |",
        "| theirs | - | - | - | 0.1 |",
    ]
    text = "before\n<!-- results: all -->\nold\n<!-- end of results -->\nafter\n"
    full = tables.filled(text, RESULTS)
    assert tables.render(RESULTS, "all") in full and "old" not in full and full.startswith("before\n")
    assert tables.filled(full, RESULTS) == full and tables.places(full) == ["all"]
    others = full.replace("results: all", "results: elsewhere")
    assert tables.filled(others, RESULTS) == others


def test_there_are_papers() -> None:
    assert "genetic" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_readme_shows_the_results(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    files = [folder / "results.json", *(file for file in [folder / "why.json"] if file.exists())]
    every = [json.loads(file.read_text()) for file in files]
    assert all((folder / script).is_file() for script in ("run.py", *(file.stem + ".py" for file in files[1:])))
    shown = tables.places(readme)
    assert shown and sorted(shown) == sorted(name for results in every for name in results["tables"]), "each its place"
    for results in every:
        for name in results["tables"]:
            assert tables.render(results, name) in readme, f"{results['command']} writes it"


SECTIONS = ["What the paper claims", "Its numbers", "Ours", "Figures", "Deviations", "What we conclude"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_readme_has_the_form_of_all(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    assert re.findall(r"^## (.*)$", readme, re.MULTILINE) == SECTIONS
    command = f"    python -m papers.{folder.name}.run"
    assert f"{command}  " in readme and f"{command} --full --device cuda " in readme
    assert json.loads((folder / "results.json").read_text())["command"] == command.strip()
    flat = " ".join(readme.split())
    assert all(said in flat for said in ("±", "seed", "core", "torch 2.13.0", "cut down, by its test"))
    listed = [line for line in section(readme, "Deviations").splitlines() if re.match(r"\d+\. ", line)]
    assert [line.partition(".")[0] for line in listed] == [str(place + 1) for place in range(len(listed))] != []
    described = re.findall(r"^\| \[(\S+)\]\(\1\) \| [^|]+ \| [^|]+ \|$", section(readme, "Figures"), re.MULTILINE)
    assert sorted(described) == sorted(figure.name for figure in folder.glob("*.png")), "each figure with its caption"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_conclusion_quotes_the_tables(folder: Path) -> None:
    """Every number with a decimal point in it stands in a table of results, or is the paper's or a deviation's own."""
    readme = (folder / "README.md").read_text()
    text = section(readme, "What we conclude")
    given = set(re.findall(NUMBER, readme.replace(text, "")))
    assert sorted(set(re.findall(NUMBER, text)) - given) == []


NUMBER = r"(?<![\w.])\d+\.\d+(?:e-\d+)?(?![\w.]*\d)"


def section(readme: str, title: str) -> str:
    return readme.partition(f"## {title}\n")[2].partition("\n## ")[0]
