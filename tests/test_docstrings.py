"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import warnings

import pytest

import luthier

MODULES = sorted(
    one.name
    for one in pkgutil.walk_packages(luthier.__path__, "luthier.", onerror=lambda name: None)
    if not one.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except luthier.LuthierError as error:  # an optional package
        pytest.skip(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert doctest.testmod(module).failed == 0
