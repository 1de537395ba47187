"""What a test needs from the machine: a test without it is skipped, or fails where the machine promised it.

The promise is the environment variable LUTHIER_REQUIRE, a comma-separated list of the names below. CI gives it, so
that a test on real data or on a real server cannot be skipped there unnoticed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def _fashion_mnist() -> str:
    from luthier.data import FASHION_FILES, FASHION_PACKAGE

    own = Path(os.environ.get("LUTHIER_DATA") or FASHION_PACKAGE)
    for folder in (own / "fashion-mnist", own, FASHION_PACKAGE):
        if all((folder / name).is_file() for name in FASHION_FILES):
            return str(folder)
    return ""


FINDERS: dict[str, tuple[Callable[[], str], str]] = {
    "fashion-mnist": (_fashion_mnist, "Fashion-MNIST is not here: apt-get install dataset-fashion-mnist"),
    "mnist": (lambda: os.environ.get("LUTHIER_TEST_MNIST", ""), "LUTHIER_TEST_MNIST names no folder of MNIST's files"),
    "postgres": (
        lambda: os.environ.get("LUTHIER_TEST_POSTGRES", ""),
        "LUTHIER_TEST_POSTGRES names no PostgreSQL server: see `make postgres`",
    ),
    "chromium": (
        lambda: shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or "",
        "no Chromium is here: apt-get install chromium",
    ),
}


def require(name: str) -> str:
    """Where ``name`` is (a folder, a URL, a program); without it the running test is skipped, or fails if promised."""
    promised = {word.strip() for word in os.environ.get("LUTHIER_REQUIRE", "").split(",")} - {""}
    if unknown := promised - FINDERS.keys():
        raise ValueError(f"LUTHIER_REQUIRE names {sorted(unknown)}, which is not among {sorted(FINDERS)}")
    find, missing = FINDERS[name]
    found = find()
    if found:
        return found
    if name in promised:
        pytest.fail(f"promised by LUTHIER_REQUIRE, but {missing}")
    pytest.skip(missing)
