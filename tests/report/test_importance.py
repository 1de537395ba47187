"""Importance of hyperparameters: right where the answer is known, and silent or modest where it is not."""

from __future__ import annotations

from luthier.jobs import History, Job, Result
from luthier.report import StudyInfo, render
from luthier.report.importance import importance
from luthier.seeds import Seeds
from luthier.space import Choice, Float, Space


def test_importance_finds_what_the_objective_depends_on() -> None:
    space = Space(a=Float(0, 1), kind=Choice(["x", "y"]), b=Float(0, 1, when={"kind": ["x"]}), nothing=Float(0, 1))
    history, rng = History(space, {"score": "max"}), Seeds(0).rng(0, "importance test")
    for n, config in enumerate(space.sample(rng, 120)):
        history.add(Job(n, config))
        history.add(Result(n, "ok", {"score": 3 * config["a"] + config.get("b", 0.0)}))
    found = importance(history)
    assert found is not None and found.reliable
    assert found.names[0] == "a"
    assert found.explained > 0.7
    by_name = dict(zip(found.names, found.mean, strict=True))
    assert by_name["a"] > 5 * by_name["b"] > 0
    assert by_name["b"] > 3 * abs(by_name["nothing"])
    assert (found.deviation > 0).all()
    again = importance(history)
    assert again is not None and again.mean.tolist() == found.mean.tolist()


def test_importance_is_called_unreliable_with_few_trials_and_left_out_with_fewer() -> None:
    def text(trials: int) -> str:
        history = History(Space(a=Float(0, 1), b=Float(0, 1)), {"loss": "min"})
        for n, config in enumerate(history.space.sample(Seeds(0).rng(0, "few"), trials)):
            history.add(Job(n, config))
            history.add(Result(n, "ok", {"loss": config["a"]}))
        return render(history, StudyInfo("study"))

    assert 'id="importance"' not in text(4)
    assert "only 7 finished" in text(7)
    reliable = text(30)
    assert 'id="importance"' in reliable and "Unreliable" not in reliable


def test_importance_of_a_constant_objective_is_left_out() -> None:
    history = History(Space(a=Float(0, 1)), {"loss": "min"})
    for n, config in enumerate(history.space.sample(Seeds(0).rng(0, "constant"), 20)):
        history.add(Job(n, config))
        history.add(Result(n, "ok", {"loss": 1.0}))
    assert importance(history) is None
