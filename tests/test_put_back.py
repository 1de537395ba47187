"""The faults that scripts/put_back puts back: each of their lines is still there to be put back."""

from __future__ import annotations

import ast
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def faults() -> list[Any]:
    loader = SourceFileLoader("put_back", str(ROOT / "scripts" / "put_back"))
    spec = spec_from_loader("put_back", loader)
    assert spec is not None
    module: Any = module_from_spec(spec)
    loader.exec_module(module)
    return module.FAULTS


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_a_mended_line_is_there_once_and_its_test_exists(fault: Any) -> None:
    text = (ROOT / "luthier" / fault.file).read_text()
    assert text.count(fault.mended) == 1, f"{fault.file} has changed: mend the line in scripts/put_back"
    ast.parse(text.replace(fault.mended, fault.without))
    assert (ROOT / fault.test).exists()
