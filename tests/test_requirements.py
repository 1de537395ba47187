"""A promised requirement that is missing is a failure, not a skip."""

from __future__ import annotations

import pytest
from requirements import require


def test_missing_is_skipped(monkeypatch):
    monkeypatch.delenv("LUTHIER_REQUIRE", raising=False)
    monkeypatch.delenv("LUTHIER_TEST_POSTGRES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="LUTHIER_TEST_POSTGRES"):
        require("postgres")


def test_missing_but_promised_fails(monkeypatch):
    monkeypatch.setenv("LUTHIER_REQUIRE", "fashion-mnist, postgres")
    monkeypatch.delenv("LUTHIER_TEST_POSTGRES", raising=False)
    with pytest.raises(pytest.fail.Exception, match="promised"):
        require("postgres")


def test_found_is_named(monkeypatch):
    monkeypatch.setenv("LUTHIER_TEST_POSTGRES", "postgresql://localhost/test")
    assert require("postgres") == "postgresql://localhost/test"


def test_promise_of_something_unknown(monkeypatch):
    monkeypatch.setenv("LUTHIER_REQUIRE", "postgress")
    with pytest.raises(ValueError, match="postgress"):
        require("postgres")
