"""A study begun anew under its name keeps the one that was there."""

from __future__ import annotations

from pathlib import Path

import pytest

import luthier as lt
from luthier.errors import StudyError

SPACE = lt.Space(x=lt.Float(0.0, 1.0))


def test_begin_anew_and_keep_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "a.db"
    given = {"space": SPACE, "store": store, "name": "mine"}
    first = lt.tune(lambda config: config["x"], trials=3, progress=False, **given)
    lt.tune(lambda config: config["x"], trials=5, seed=1, fresh=True, **given)
    assert "kept as 'mine-1'" in capsys.readouterr().err
    lt.tune(lambda config: config["x"], trials=2, seed=2, fresh=True, progress=False, **given)
    kept = lt.Study.load("mine-1", store)
    assert [dict(job.config) for job in kept.history.jobs] == [dict(job.config) for job in first.history.jobs]
    assert [len(lt.Study.load(name, store).trials) for name in ("mine", "mine-1", "mine-2")] == [2, 3, 5]
    new = lt.tune(
        lambda config: config["x"], trials=1, fresh=True, progress=False, space=SPACE, store=store, name="new"
    )
    assert len(new.trials) == 1


def test_in_memory_there_is_nothing_to_rename() -> None:
    with lt.open_store() as store:
        lt.tune(lambda config: config["x"], space=SPACE, trials=1, store=store, name="mine", progress=False)
        with pytest.raises(StudyError, match="fresh=True"):
            lt.tune(lambda c: c["x"], space=SPACE, trials=1, store=store, name="mine", fresh=True, progress=False)
