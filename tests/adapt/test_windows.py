"""Whole windows: an adapter that moves once in several steps never trains more than was asked."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import luthier as lt
from luthier.jobs import Budget
from luthier.propose.lineages import steps_to
from luthier.store import open_store

ROWS = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, generator=ROWS)
Y = X @ torch.randn(3, 1, generator=ROWS) + 0.3 * torch.randn(60, 1, generator=ROWS)
DATA = lt.Splits(train=lt.Split(X[:40], Y[:40]), valid=lt.Split(X[40:], Y[40:]))  # 4 steps an epoch
SPACE = lt.Space(lr=lt.Float(1e-3, 0.3, log=True), decay=lt.Float(1e-5, 0.1, log=True))
BILEVEL, HYPERNET = lt.adapt.Bilevel("identity"), lt.adapt.Hypernet()  # windows of 5 steps


def penalty(params: Any, hyper: Any) -> Any:
    return hyper["decay"] * sum(value.square().sum() for value in params.values())


def task(**changes: Any) -> lt.TorchTask:
    given: dict[str, Any] = {
        "space": SPACE,
        "model": lambda config: nn.Linear(3, 1),
        "data": DATA,
        "loss": lambda output, target: (output - target).square().mean(),
        "optimizer": lt.optim.sgd,
        "penalty": penalty,
        "batch_size": 10,
    }
    return lt.TorchTask(**{**given, **changes})


def tuned(method: Any, **budget: Any) -> lt.Study:
    return lt.tune(task(), method, progress=False, **budget)


def ages(study: lt.Study) -> list[int]:
    return sorted({int(age) for age in study.history.age})


def test_a_budget_and_its_parts_are_whole_windows() -> None:
    budget = Budget(steps=27, window=5)
    assert (budget.steps_for({}), budget.windows, Budget(steps=27).steps_for({})) == (25, 5, 27)
    for windows in range(1, 60):  # parts go from window to window, and end with the whole
        cut = Budget(steps=5 * windows + 4, window=5)
        for rounds in range(1, min(windows, 12) + 1):
            done = 0
            for number in range(rounds):
                steps = steps_to((number + 1) / rounds, done / cut.steps_for({}), {}, cut)
                assert steps >= 5 and steps % 5 == 0
                done += steps
            assert done == 5 * windows
    assert Budget(epochs=2, epoch_steps=lambda config: config["n"], window=5).steps_for({"n": 6}) == 10
    assert Budget(steps=3, window=5).steps_for({}) == 3, "what does not fit is not made longer"


@pytest.mark.parametrize("adapter", [BILEVEL, HYPERNET], ids=["bilevel", "hypernet"])
def test_trainings_end_at_the_last_whole_window(adapter: Any) -> None:
    study = tuned((lt.propose.Random(), adapter), trials=2, steps=27)
    assert ages(study) == [25] and [job.steps for job in study.history.jobs] == [25, 25]
    best = study.best
    assert best is not None
    again = lt.tune(task(), schedule=best.schedule, progress=False)
    assert max(ages(again)) == 25 and again.best is not None
    if adapter is BILEVEL:  # a hypernetwork moves the weights with its hyperparameters, which no schedule holds
        assert again.best.value == best.value
    plain = tuned("random", trials=2, steps=27)
    assert ages(plain) == [27], "without windows all steps are done"


@pytest.mark.parametrize(
    ("proposer", "budget", "expected"),
    [
        (lt.propose.PBT(rounds=3), {"trials": 2, "steps": 27}, [10, 15, 25]),  # 9, 18, 27: never 9 rounded thrice
        (lt.propose.PBT(rounds=4, fresh=1), {"trials": 3, "epochs": 6}, [5, 10, 15, 20]),
        (lt.propose.Hyperband(brackets=1), {"trials": 9, "steps": 54}, [5, 15, 50]),  # 3 rungs are room for, not 4
        (lt.propose.ASHA(), {"trials": 9, "steps": 27}, [10, 25]),
        (lt.propose.Genetic(population=2, elite=1, inherit="parent"), {"trials": 4, "steps": 8}, [5, 10]),
    ],
    ids=["pbt", "pbt epochs", "hyperband", "asha", "genetic"],
)
def test_parts_of_trainings_never_go_beyond_the_whole(proposer: Any, budget: Any, expected: list[int]) -> None:
    study = tuned((proposer, BILEVEL), **budget)
    assert ages(study) == expected and (study.history.status == 1).all()
    assert all(
        result is not None and job.steps == result.steps
        for job, result in zip(study.history.jobs, study.history.results, strict=True)
    )


def test_freeze_thaw_ends_with_whole_trainings() -> None:
    study = tuned((lt.propose.FreezeThaw(initial=3), BILEVEL), trials=4, steps=29)
    assert max(ages(study)) == 25 and all(age % 5 == 0 for age in ages(study))


def test_the_total_is_kept_to() -> None:
    study = tuned((lt.propose.Random(), BILEVEL), steps=12, total_steps=39)
    assert int(study.history.steps.sum()) == 30 and len(study.trials) == 3
    with pytest.warns(RuntimeWarning, match=re.escape("'bilevel' has 10 of the 12 steps, whole windows of 5")):
        found = lt.compare(
            task(), {"random": "random", "bilevel": BILEVEL}, trials=2, steps=12, seeds=1, progress=False
        )
    assert {row["method"]: row["steps"] for row in found.records()} == {"random": 24, "bilevel": 20}


@pytest.mark.parametrize(
    ("method", "budget", "said"),
    [
        (BILEVEL, {"steps": 3}, ["steps=3", "every 5 steps (inner_steps=5)", "steps=5 or more", "inner_steps=3"]),
        (HYPERNET, {"epochs": 1}, ["epochs=1, 4 steps", "inner_steps=5", "more epochs", "inner_steps=4"]),
        ((lt.propose.Random(), BILEVEL), {"steps": 3, "total_steps": 12}, ["steps=3", "inner_steps=5"]),
        ((lt.propose.PBT(rounds=10), BILEVEL), {"trials": 4, "steps": 20}, ["steps=20", "10 parts", "5 steps", "50"]),
        ((lt.propose.PBT(rounds=4), BILEVEL), {"trials": 4, "epochs": 4}, ["epochs=4", "4 parts", "20 steps"]),
        ((lt.propose.Hyperband(), BILEVEL), {"trials": 9, "steps": 14}, ["steps=14", "3 parts", "15 steps"]),
        ((lt.propose.ASHA(), BILEVEL), {"trials": 9, "epochs": 3}, ["epochs=3", "3 parts", "15 steps"]),
        ((lt.propose.FreezeThaw(), BILEVEL), {"trials": 9, "steps": 14}, ["steps=14", "3 parts", "inner_steps"]),
        ((lt.propose.Genetic(inherit="best"), BILEVEL), {"trials": 20, "steps": 4}, ["steps=4", "inner_steps=5"]),
    ],
)
def test_what_has_no_room_for_a_window_is_refused_at_the_call(method: Any, budget: Any, said: list[str]) -> None:
    trained: list[int] = []
    watched = task(model=lambda config: trained.append(1) or nn.Linear(3, 1), batch_size=10)
    trained.clear()
    with pytest.raises(lt.errors.MethodError) as refused:
        lt.tune(watched, method, progress=False, **budget)
    assert all(part in str(refused.value) for part in said), refused.value
    with pytest.raises(lt.errors.MethodError) as compared:
        lt.compare(
            watched, ["random", method], progress=False, seeds=1, **{n: x for n, x in budget.items() if "_" not in n}
        )
    assert all(part in str(compared.value) for part in said)


def test_a_job_that_the_call_could_not_foresee_is_refused_when_it_begins() -> None:
    class Later(lt.propose.Random().__class__):  # a method of the user's that asks for a part by itself
        def propose(self, history: Any, count: int, seeds: Any) -> list[Any]:
            from dataclasses import replace

            return [replace(job, steps=3 if job.number else 10) for job in super().propose(history, count, seeds)]

    study = lt.tune(task(), (Later(), BILEVEL), trials=2, steps=10, progress=False)
    assert [trial.steps for trial in study.trials] == [10, 0]
    assert study.trials[1].status == "failed"
    assert "steps=3 leaves no room for a move of Bilevel" in study.trials[1].error
    assert "inner_steps=5" in study.trials[1].error


def test_a_study_that_an_earlier_version_began_goes_on(tmp_path: Any) -> None:
    """It trained a window where less was asked; its settings name no window."""
    path, method = str(tmp_path / "old.db"), (lt.propose.Random(), BILEVEL)

    def tune(trials: int, **budget: Any) -> lt.Study:
        return lt.tune(task(), method, trials=trials, store=path, progress=False, **budget)

    first = tune(1, steps=5, name="s")
    assert first.settings["budget"]["window"] == 5
    with open_store(path) as store:
        settings = store.settings("s")
        del settings["budget"]["window"]
        store.update_settings("s", {**settings, "budget": {**settings["budget"], "steps": 3}})
    longer = tune(3, steps=3, name="s")
    assert [trial.steps for trial in longer.trials] == [5, 5, 5]
    assert "window" not in longer.settings["budget"]
    with pytest.raises(lt.errors.MethodError, match="inner_steps=5"):
        tune(3, steps=3, name="another")
    with pytest.raises(lt.errors.MethodError, match="inner_steps=5"):
        tune(3, steps=3, name="s", fresh=True)
    with pytest.warns(RuntimeWarning, match="goes on from"):
        other = lt.tune(task(), "random", trials=4, steps=3, store=path, name="s", progress=False)
    assert [trial.steps for trial in other.trials] == [5, 5, 5, 3], "another method has its own windows"


def test_the_search_of_enas_is_whole_windows_and_names_what_would_do() -> None:
    space = lt.Space(act=lt.Choice(["relu", "tanh"]), lr=lt.Float(1e-3, 0.1, log=True))

    def network(config: Any) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, 4), lt.nn.Choose("act", {"relu": nn.ReLU(), "tanh": nn.Tanh()}), nn.Linear(4, 1)
        )

    searched = task(space=space, model=network, penalty=None)
    enas = lt.adapt.Enas(warmup=0.0, samples=2)  # windows of 10 steps
    method = (lt.propose.Derive(draws=3, draw_steps=3), enas)
    study = lt.tune(searched, method, trials=4, steps=23, progress=False)
    assert study.history.jobs[0].steps == 30
    assert study.history.steps.tolist() == [30, 3, 3, 3, 23, 23]  # 2 · 23 - 9 = 37: 3 windows of 10; children whole
    with pytest.raises(lt.errors.MethodError) as refused:
        lt.tune(searched, "enas", trials=4, steps=23, progress=False)
    said = str(refused.value)
    assert "30 draws of 10 steps leave 0 of the 46 steps of the search, which needs 20" in said
    trials, steps, draws = (int(re.search(rf"{name}=(\d+)", said)[1]) for name in ("trials", "steps", "draws"))  # type: ignore[index]
    for given, least in (({"trials": trials}, True), ({"trials": trials - 1}, False)):
        _bound(least, lt.propose.Derive(), Budget(given["trials"], 23, window=20))
    for length, least in ((steps, True), (steps - 1, False)):
        _bound(least, lt.propose.Derive(), Budget(4, length, window=20))
    for count, least in ((draws, True), (draws + 1, False)):
        _bound(least, lt.propose.Derive(draws=count), Budget(4, 23, window=20))
    with pytest.raises(lt.errors.MethodError, match=r"trials=\d+, or epochs=40, or"):
        lt.tune(searched, "enas", trials=4, epochs=2, progress=False)


def _bound(fits: bool, proposer: Any, budget: Budget) -> None:
    if fits:
        proposer.bind(budget)
        return
    with pytest.raises(lt.errors.MethodError, match="draws of"):
        proposer.bind(budget)
