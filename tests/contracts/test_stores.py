"""Memory, SQLite and PostgreSQL behave alike: the same contract for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import postgres_url

from luthier.store import open_store
from luthier.testing.store_events import Connect
from luthier.testing.stores import StoreContract

__all__ = ["postgres_url"]  # a fixture


class TestMemory(StoreContract):
    @pytest.fixture
    def connect(self) -> Iterator[Connect]:
        stores = []

        def connect(lease: float = 60.0):
            stores.append(stores[0] if stores else open_store(lease=lease))
            return stores[0]

        yield connect
        for store in stores:
            store.close()


class TestSQLite(StoreContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Iterator[Connect]:
        with contextlib.ExitStack() as stack:
            yield lambda lease=60.0: stack.enter_context(open_store(tmp_path / "studies.db", lease=lease))


class TestSQLiteFull(StoreContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Iterator[Connect]:
        url = f"sqlite:///{tmp_path}/studies.db?synchronous=full&timeout=30"
        with contextlib.ExitStack() as stack:
            yield lambda lease=60.0: stack.enter_context(open_store(url, lease=lease))


@pytest.mark.server
class TestPostgreSQL(StoreContract):
    @pytest.fixture
    def connect(self, postgres_url: str, tmp_path: Path) -> Iterator[Connect]:
        with contextlib.ExitStack() as stack:
            yield lambda lease=60.0: stack.enter_context(
                open_store(postgres_url, lease=lease, checkpoints=tmp_path / "checkpoints")
            )
