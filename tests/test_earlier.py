"""Studies of earlier versions go on with what they were begun with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from networks import digits_task

import luthier as lt
from luthier.store import open_store
from luthier.study.opening import as_begun
from luthier.study.settings import describe


def test_a_study_whose_adapter_had_other_settings_goes_on(tmp_path: Path) -> None:
    """The database is as the version before wrote it: its adapters had an optimism, which was left alone here."""
    task = digits_task(space=lt.Space(lr=lt.Float(1e-5, 1.0, log=True)))
    older = lt.adapt.Hypergradient(bounds=(1e-4, 0.5))
    given: dict[str, Any] = {"steps": 20, "progress": False, "name": "old"}
    lt.tune(task, older, trials=1, store=tmp_path / "old.db", **given)
    store = open_store(tmp_path / "old.db")
    settings = store.settings("old")
    settings["method"]["adapter"]["optimism"] = None
    store.update_settings("old", settings)
    store.close()
    whole = lt.tune(task, older, trials=3, steps=20, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # not by another method
        study = lt.tune(task, older, trials=3, store=tmp_path / "old.db", **given)
    assert not study.history.methods and study.settings["method"]["adapter"]["rule"] == "multiplicative"
    assert [t.metrics["loss"] for t in study.trials] == [t.metrics["loss"] for t in whole.trials]


def test_only_what_is_left_at_its_default_is_taken_from_the_study() -> None:
    stored = {**describe(lt.adapt.Hypergradient()), "optimism": None}
    assert as_begun(lt.adapt.Hypergradient(), stored) == (lt.adapt.Hypergradient(), stored)
    for other in (lt.adapt.Hypergradient(rule="adaptive"), lt.adapt.Hypergradient(0.1)):
        assert as_begun(other, stored) == (other, describe(other))
    used, adaptive = {**stored, "optimism": 0.1}, {**stored, "rule": "adaptive", "hyper_lr": 2.0}
    assert as_begun(lt.adapt.Hypergradient(), used)[1] != used, "a setting that was used is missed"
    assert as_begun(lt.adapt.Hypergradient(rule="adaptive"), adaptive)[1] != adaptive, "the rule is another now"
    search = describe(lt.adapt.Enas("unrolled"))
    del search["shared"]
    assert as_begun(lt.adapt.Enas("unrolled"), search)[0].shared is None
    safer = lt.adapt.Enas("unrolled", shared=lt.optim.SGD(lr=0.1))
    assert as_begun(safer, search)[0] is safer
    hypernet = describe(lt.adapt.Hypernet())
    del hypernet["follow"], hypernet["gate"], hypernet["rate"]
    begun = as_begun(lt.adapt.Hypernet(), hypernet)
    assert begun == (lt.adapt.Hypernet(follow=False, gate=0.0), hypernet)
    for same in (lt.adapt.Hypernet(), lt.adapt.Bilevel()):
        still = describe(same)
        del still["rate"]
        assert as_begun(same, still) == (same, still)
    assert as_begun(None, None) == (None, None) and as_begun(None, stored)[0] is None
