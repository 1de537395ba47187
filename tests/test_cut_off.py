"""Studies of ``lt.tune`` through transactions that are cut off and answers that are lost: the same to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_studies import CASES, events, run

import luthier as lt
from luthier.seeds import Seeds
from luthier.store import open_store
from luthier.testing.store_faults import disturbed


@pytest.mark.slow
@pytest.mark.parametrize("method", CASES)
def test_a_study_ends_the_same(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.store.connect.PAUSES", (0.0, 0.0))
    whole = run(method, tmp_path / "whole.db")
    with open_store(tmp_path / "cut.db") as store, disturbed(store, Seeds(1).rng(0, "faults"), 0.3) as counts:
        study = run(method, store)
        assert sum(counts) >= 5, counts
    assert events(study.history) == events(whole.history)
    assert events(lt.Study.load(method, tmp_path / "cut.db").history) == events(whole.history)
