"""Another method goes on with a study: it learns from what is there, says so, and a resumed study goes on the same."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError, StudyError
from luthier.jobs import History, Job
from luthier.propose import door
from luthier.propose.sight import Sight
from luthier.seeds import Seeds
from luthier.testing.problems import decay

SPACE = lt.Space(x=lt.Float(0, 1), y=lt.Float(0, 1))
GOES_ON = "ignore:study '[st]'. .* goes on:RuntimeWarning"


def bowl(config: dict[str, Any]) -> float:
    return (config["x"] - 0.31) ** 2 + (config["y"] - 0.72) ** 2


class Decay:
    """A training in pieces, whose loss falls fastest for lr = 0.1."""

    space = lt.Space(lr=lt.Float(1e-5, 1e2, log=True), width=lt.Int(1, 3))
    report_every = 3

    def init(self, config: dict[str, Any], key: int) -> dict[str, float]:
        return {"loss": 1.0}

    def advance(self, state: dict[str, float], config: dict[str, Any], steps: int) -> tuple[Any, dict[str, float]]:
        value, _ = decay(config, steps, state["loss"])
        return {"loss": value}, {}

    def evaluate(self, state: dict[str, float]) -> dict[str, float]:
        return dict(state)


METHODS: dict[str, Any] = {
    "random": "random",
    "grid": lt.propose.Grid(4),
    "gp": lt.propose.GaussianProcess(batch=2),
    "genetic": lt.propose.Genetic(population=6),
    "asha": "asha",
    "hyperband": "hyperband",
    "pbt": lt.propose.PBT(rounds=3),
    "median": lt.propose.Median(inner="gp"),
    "freeze_thaw": "freeze_thaw",
    "gflownet": lt.propose.GFlowNet(batch=4),
}


def same(history: History, sight: tuple[Any, Any]) -> int:
    """Replay the log: at every job of the last method, it proposes this very job; their number."""
    again, seeds = History(history.space, history.objectives), Seeds(0)
    first, view = history.methods[-1].first, None
    for event, at in zip(history.log, history.times, strict=True):
        if isinstance(event, Job) and event.number >= first:
            view = view or Sight(*sight, again, again.methods[-1].place)
            [job] = door.propose(view.bound, again, 1, seeds, view)
            assert (job.number, job.config, job.steps, job.parent) == (
                event.number,
                event.config,
                event.steps,
                event.parent,
            )
        again.add(event, at)
    return len(again) - first


@pytest.mark.filterwarnings(GOES_ON)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_after_others_and_replays(method: str, tmp_path: Path) -> None:
    for first in ("random", "pbt") if method in ("gp", "asha") else ("asha",):
        kept: dict[str, Any] = {"steps": 27, "store": tmp_path / f"{first}.db", "name": "s", "progress": False}
        begun = len(lt.tune(Decay(), METHODS["gp" if first == method else first], trials=6, **kept).history)
        study = lt.tune(Decay(), METHODS[method], trials=13, **kept)
        history = study.history
        assert sum(job.parent is None for job in history.jobs) == 13 and not history.pending
        assert [one.first for one in history.methods] == [begun]
        assert same(history, (study._ledger.sight.given, study._ledger.budget)) >= 7
        if method in ("gp", "pbt"):
            page = study.write_report(tmp_path / "page.html").read_text()
            assert f"from job {begun} on" in page, "the page says so, and can read the notes of both"


@pytest.mark.filterwarnings(GOES_ON)
@pytest.mark.parametrize("method", ["gp", "asha", "pbt", "genetic"])
def test_a_resumed_study_goes_on_by_the_method_that_it_has_now(method: str, tmp_path: Path) -> None:
    def run(file: str, trials: int, **more: Any) -> lt.Study:
        kept: dict[str, Any] = {"steps": 27, "store": tmp_path / file, "name": "s", "progress": False}
        if trials == 6:
            return lt.tune(Decay(), "random", trials=trials, **kept)
        return lt.tune(Decay(), METHODS[method], trials=trials, **kept, **more)

    first = len(run("cut.db", 6).history)
    for jobs in (2, 3, 5):
        run("cut.db", 14, stop=lambda study, jobs=jobs: len(study.history.arrival) >= first + jobs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        cut = run("cut.db", 14)
    run("whole.db", 6)
    whole = run("whole.db", 14)
    assert [(job.config, job.steps, job.parent) for job in cut.history.jobs] == [
        (job.config, job.steps, job.parent) for job in whole.history.jobs
    ]
    assert len(cut.history.methods) == 1 and len(cut.history) > first + 5


def test_the_new_method_learns_from_what_the_old_one_found(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"space": SPACE, "name": "s", "progress": False}
    alone = [lt.tune(bowl, "gp", trials=4, seed=seed, **kept).best for seed in range(5)]
    after = []
    for seed in range(5):
        store = tmp_path / f"{seed}.db"
        lt.tune(bowl, "random", trials=20, seed=seed, store=store, **kept)
        with pytest.warns(RuntimeWarning, match="GaussianProcess goes on from Random, with the results of its 20 jobs"):
            study = lt.tune(bowl, "gp", trials=24, seed=seed, store=store, **kept)
        after.append(min(study.history.values[20:, 0]))
        assert study.suggest() is not None and study.over
    assert np.median(after) < 1e-3 < np.median([best.value for best in alone if best])
    loaded = lt.Study.load("s", tmp_path / "0.db")
    assert loaded.settings["method"]["proposer"]["class"] == "GaussianProcess"
    with pytest.warns(
        RuntimeWarning, match=r"goes on under other settings \(batch 8 → 2\), with the results of its 24"
    ):
        lt.tune(bowl, lt.propose.GaussianProcess(batch=2), trials=25, store=tmp_path / "0.db", **kept)
    with pytest.warns(RuntimeWarning, match="PBT goes on from GaussianProcess, and learns nothing from its 25 jobs"):
        lt.Study("s", SPACE, method=lt.propose.PBT(rounds=2), trials=30, steps=4, store=tmp_path / "0.db").close()


def test_what_keeps_another_method_from_going_on(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"space": SPACE, "name": "s", "store": tmp_path / "s.db", "progress": False}
    lt.tune(bowl, "random", trials=6, **kept)
    for change, what in (
        ({"trials": 6}, r"its method is Random, and this call gives GaussianProcess; 6 trials are begun.*trials=12"),
        ({"trials": 9, "on_change": "error"}, "its method is Random, and this call gives GaussianProcess"),
        ({"trials": 9, "seed": 4}, "seed: stored 0, given 4"),
    ):
        with pytest.raises(StudyError, match=what):
            lt.tune(bowl, "gp", **change, **kept)
    with pytest.raises(MethodError, match="trials=1 with fresh=0 are not two members"):
        lt.Study("s", SPACE, method=lt.propose.PBT(rounds=2), trials=7, steps=4, store=tmp_path / "s.db")
    assert not lt.Study.load("s", tmp_path / "s.db").history.methods, "what was refused has changed nothing"
    kept |= {"store": tmp_path / "steps.db"}
    lt.tune(Decay(), "random", trials=3, steps=9, **{**kept, "space": None})
    with pytest.raises(StudyError, match=r"budget.steps: stored 9, given 27"):
        lt.tune(Decay(), "asha", trials=9, steps=27, **{**kept, "space": None})


@pytest.mark.filterwarnings(GOES_ON)
def test_the_call_whose_method_has_been_succeeded_ends(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"space": SPACE, "name": "s", "store": tmp_path / "s.db", "progress": False}
    began, go = threading.Event(), threading.Event()

    def waits(config: dict[str, Any]) -> float:
        if not began.is_set():
            began.set()
            go.wait(20)
        return bowl(config)

    old: list[lt.Study] = []
    thread = threading.Thread(target=lambda: old.append(lt.tune(waits, "random", trials=500, **kept)))
    thread.start()
    began.wait(20)
    with lt.Study("s", SPACE, method="gp", trials=12, store=tmp_path / "s.db") as study:
        for _ in range(4):
            [job] = study.ask()
            study.tell(job, bowl(job.config))
        with lt.Study("t", SPACE, trials=9, store=tmp_path / "s.db") as asleep:
            asleep.ask()
            lt.Study("t", SPACE, method="gp", trials=9, store=tmp_path / "s.db").close()
            assert asleep._ledger._propose(1) == [], "in the very transaction that would have added its job"
        go.set()
        thread.join(20)
        assert not thread.is_alive() and len(old[0].history) == 5, "one by random, whose result counts; four by gp"
        assert study.history.results[0] is not None and len(study.ask(20)) > 0


@pytest.mark.filterwarnings(GOES_ON)
def test_an_adapter_goes_on_when_nothing_is_half_trained(tmp_path: Path) -> None:
    import torch
    from torch import nn

    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    split = lt.data.Split(inputs, (inputs[:, 0] > 0).long())
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True)),
        model=lambda config: nn.Linear(4, 2),
        data=lt.Splits(split, split),
        loss=lt.losses.cross_entropy,
        optimizer=lt.optim.sgd,
        batch_size=16,
    )
    kept: dict[str, Any] = {"epochs": 2, "name": "s", "store": tmp_path / "s.db", "progress": False}
    lt.tune(task, "random", trials=2, **kept)
    study = lt.tune(task, ("random", "hypergradient"), trials=4, **kept)
    moved = [result.final for result in study.history.results if result is not None]
    for number, goes in ((0, False), (3, True)):
        assert (moved[number].get("lr", 0.0) != study.history.jobs[number].config["lr"]) is goes
    assert study.model() is not None
    with lt.Study("t", task.space, trials=2, epochs=2.0, store=tmp_path / "s.db") as asked:
        asked.ask()
    with pytest.raises(StudyError, match="1 jobs that were trained otherwise have not ended, 0 first"):
        lt.tune(task, ("random", "hypergradient"), trials=4, **{**kept, "name": "t"})
