"""Docstrings: their examples run, and print what they say; their first words are those of a sentence."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import luthier

MODULES = sorted(
    one.name
    for one in pkgutil.walk_packages(luthier.__path__, "luthier.", onerror=lambda name: None)
    if not one.name.endswith("__main__")
)
# First words that make a clause of a docstring's first line, or of an argument's description, and no phrase
CLAUSE = "What|Whether|How|Where|When|Which|Why|That|Of|As"
OPENING = re.compile(rf"({CLAUSE}|From|By|To|In|On|At(?! most| least)|If|With|For|Within)\b|.*; (whether|what|how)\b")
ENTRY = re.compile(rf"\s+\*{{0,2}}\w[\w, *]*: ({CLAUSE})\b")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except luthier.LuthierError as error:  # an optional package
        pytest.skip(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert doctest.testmod(module).failed == 0


def test_docstrings_begin_with_a_noun_or_an_imperative() -> None:
    odd = []
    for path in sorted(Path(luthier.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first, *others = (ast.get_docstring(node, clean=False) or "").splitlines() or [""]
                odd += [f"{path}: {line}" for line in (first,) if OPENING.match(line)]
                odd += [f"{path}: {line.strip()}" for line in others if ENTRY.match(line)]
    assert not odd, "begin with a noun or an imperative"
