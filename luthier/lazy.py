"""Imports that wait until they are needed: names of a package at their first use, and packages that may be missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from luthier.errors import LuthierError, StudyError


def lazy(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a package.

    Args:
        package: Its ``__name__``.
        places: The file of each name, dotted below the package, and with a colon what it is called there if that is
            another name; "" for a module of the package itself.
    """

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not places[name]:
            return importlib.import_module(f"{package}.{name}")
        file, _, there = places[name].partition(":")
        value = getattr(importlib.import_module(f"{package}.{file}"), there or name)
        setattr(sys.modules[package], name, value)  # the next use finds it without this function
        return value

    def __dir__() -> list[str]:
        own = vars(sys.modules[package])
        return sorted({*own.get("__all__", ()), *(name for name in own if name.startswith("__"))})

    return __getattr__, __dir__


@contextmanager
def optional_import(
    package: str, where: str, error: type[LuthierError] = StudyError, instead: str = "."
) -> Iterator[None]:
    """Inside, a package is imported that need not be installed.

    Args:
        package: Its name, which in small letters is that of the extra that brings it.
        where: The place that an error names.
        error: Its class.
        instead: End of the remedy, after the command that installs the package.

    Raises:
        LuthierError: If it cannot be imported.
    """
    try:
        yield
    except ImportError as cause:
        remedy = f"Install it: pip install 'luthier[{package.lower()}]'{instead}"
        raise error(f"{package} cannot be imported ({cause})", where=where, remedy=remedy) from cause
