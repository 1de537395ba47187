"""The phases of a search over shared weights, as jobs."""

from __future__ import annotations

import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import Budget, History, Result
from luthier.propose import Derive
from luthier.seeds import Seeds

SPACE = lt.Space(lr=lt.Float(1e-3, 1.0, log=True), depth=lt.Choice([1, 2, 3]))
BUDGET = Budget(trials=6, steps=100)


def drawn(number, lr, **metrics):
    return Result(number, "ok", metrics, 20, {"lr": lr, "depth": 2})


def searched(proposer, mode="min", draws=(0.5, 0.1, 0.3, 0.1), metrics=("shared_loss",), count=8):
    """The history after the search and its draws, each of which is as good as its learning rate."""
    history = History(SPACE, {metrics[0].removeprefix("shared_"): mode})
    (search,) = proposer.propose(history, count, Seeds(0))
    history.add(search)
    assert proposer.propose(history, count, Seeds(0)) == [], "it waits"
    history.add(Result(0, "ok", {"shared_loss": 1.0}, search.steps, search.config))
    while len(history) <= proposer.draws:
        jobs = proposer.propose(history, count, Seeds(0))
        assert jobs
        for job in jobs:
            history.add(job)
    for number, lr in enumerate(draws, start=1):
        assert proposer.propose(history, count, Seeds(0)) == []
        history.add(drawn(number, lr, **dict.fromkeys(metrics, lr)))
    return history


def test_the_search_has_its_share_and_children_the_rest():
    proposer = Derive(draws=4).bind(BUDGET)
    history = searched(proposer)
    search, *draws = history.jobs
    assert search.steps == 300 - 4 * 10 and search.tag == {"phase": "search"} and proposer.children == 3
    assert [(job.parent, job.config, job.steps, job.tag["phase"]) for job in draws] == 4 * [
        (0, search.config, 10, "draw")
    ]
    jobs = proposer.propose(history, 8, Seeds(0))
    assert sum(job.steps for job in [*history.jobs, *jobs]) == 6 * 100, "the whole budget"
    assert [(job.config["lr"], job.tag["draw"], job.steps) for job in jobs] == [
        (0.1, 2, 100),
        (0.3, 3, 100),
        (0.5, 1, 100),
    ]
    assert all(job.parent is None and job.tag["phase"] == "train" for job in jobs), (
        "from scratch, and none of them twice"
    )


def test_the_answer_does_not_depend_on_how_calls_are_split():
    proposer = Derive(draws=4).bind(BUDGET)
    whole, single = searched(proposer, count=8), searched(proposer, count=1)
    assert whole.jobs == single.jobs
    expected = proposer.propose(whole, 8, Seeds(0))
    for job in expected:
        assert proposer.propose(single, 1, Seeds(0)) == [job]
        single.add(job)
    assert proposer.propose(single, 1, Seeds(0)) == []
    assert proposer.parents(whole) == set() and proposer.parents(History(SPACE)) == {0}


def test_larger_is_better_where_the_objective_says_so():
    proposer = Derive(draws=4).bind(BUDGET)
    history = searched(proposer, mode="max", metrics=("shared_accuracy",))
    assert [job.config["lr"] for job in proposer.propose(history, 8, Seeds(0))] == [0.5, 0.3, 0.1]


def test_a_child_that_diverged_is_not_trained():
    proposer = Derive(draws=4).bind(BUDGET)
    history = searched(proposer, draws=(0.5, float("nan"), 0.3, 0.2))
    assert [job.config["lr"] for job in proposer.propose(history, 8, Seeds(0))] == [0.2, 0.3, 0.5]


def test_a_search_that_failed_ends_the_study():
    proposer = Derive(draws=4).bind(BUDGET)
    history = History(SPACE)
    history.add(proposer.propose(history, 1, Seeds(0))[0])
    history.add(Result(0, "diverged", {}, 20))
    assert proposer.propose(history, 4, Seeds(0)) == []


def test_a_metric_that_nobody_has_is_refused():
    proposer = Derive(draws=4, rank="accuracy").bind(BUDGET)
    with pytest.raises(MethodError, match="'accuracy'") as error:
        proposer.propose(searched(proposer), 1, Seeds(0))
    assert "shared_loss" in error.value.remedy


@pytest.mark.parametrize(
    "settings", [{"search": 0.0}, {"search": 1.0}, {"draws": 0}, {"draws": 1.5}, {"draw_steps": 0}]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(MethodError):
        Derive(**settings)


def test_draws_that_leave_nothing_to_the_search_are_refused():
    with pytest.raises(
        MethodError, match=r"30 draws of 10 steps leave 0 of the 300 steps.* Give trials=7, or steps=101"
    ):
        Derive().bind(BUDGET).propose(History(SPACE), 1, Seeds(0))


@pytest.mark.parametrize("budget", [Budget(trials=1, steps=10), Budget(trials=None, steps=10), Budget(trials=4)])
def test_a_budget_that_does_not_fit_is_refused(budget):
    with pytest.raises(MethodError):
        Derive().bind(budget)
