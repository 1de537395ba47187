"""The reference: every public name says what it takes and shows its use."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier as lt

SPACES = ("adapt", "execute", "follow", "propose", "report", "serve")  # packages whose names users name
BARE = {"METHODS", "Config", "LuthierError", "Pruned"}  # a table, a type, errors: said in a line
INTERFACES = {"adapt.Adapter", "propose.Proposer"}  # their methods have the arguments, docs/extend.md the examples


def public() -> Iterator[tuple[str, Any]]:
    for name in lt.__all__:
        found = getattr(lt, name)
        if not isinstance(found, types.ModuleType):
            yield name, found
    for space in SPACES:
        for name in getattr(lt, space).__all__:
            found = getattr(getattr(lt, space), name)
            if not isinstance(found, types.ModuleType):
                yield f"{space}.{name}", found


NAMES = {name: found for name, found in public() if name not in BARE | INTERFACES}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_arguments_and_an_example(name: str) -> None:
    text = inspect.getdoc(NAMES[name]) or ""
    assert "Examples:\n    >>>" in text
    try:
        taken = list(inspect.signature(NAMES[name]).parameters)
    except ValueError:
        taken = []
    own = [one for one in taken if one not in ("args", "kwargs") and not one.startswith("_")]
    written = "Args:" in text or "Attributes:" in text
    assert not own or written or name in ("Trainable", "execute.Executor")  # of which users write their own


def test_the_reference_page_names_what_is_public() -> None:
    page = Path(__file__).resolve().parents[1].joinpath("docs", "api.md").read_text()
    named = {line.removeprefix("::: luthier.") for line in page.splitlines() if line.startswith("::: luthier.")}
    beside = {"Config", "LuthierError", "METHODS", "interop", "testing"}  # in others, or with a page of their own
    assert set(lt.__all__) - named == beside
