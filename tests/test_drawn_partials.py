"""A child of ENAS that was cut off half-way goes on from its state, which a search has to stand behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_studies import events, run

from luthier.train import stack


@pytest.mark.slow
def test_a_draw_goes_on_from_its_half_way_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("enas", tmp_path / "whole.db")
    monkeypatch.setattr(stack, "PARTIAL_SECONDS", 0.0)
    save, told = stack.save_partials, []

    def cut(checkpoints: Any, state: Any, rows: Any, active: Any, ask: Any) -> None:
        save(checkpoints, state, rows, active, ask)
        if rows[0].job.tag.get("phase") == "draw" and not told:
            told.append(rows[0].job.number)
            raise KeyboardInterrupt

    monkeypatch.setattr(stack, "save_partials", cut)
    with pytest.raises(KeyboardInterrupt):
        run("enas", tmp_path / "cut.db")
    assert told
    study = run("enas", tmp_path / "cut.db")
    assert {result.status for result in study.history.results if result is not None} == {"ok"}
    assert events(study.history).keys() == events(whole.history).keys()
    assert [result and result.metrics for result in study.history.results] == [
        result and result.metrics for result in whole.history.results
    ]
