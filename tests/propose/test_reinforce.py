"""The controller as a proposer: what it makes of results, and what it says of itself."""

from __future__ import annotations

import math

import pytest
import torch

from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job, Result
from luthier.policy import Reinforce as Learner
from luthier.propose import Random, Reinforce
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Space
from luthier.testing import simulate

GRID = Space(a=Choice(range(14)), b=Choice(range(14)), c=Choice(["x", "y"]))


def away(config: Config) -> float:
    return abs(config["a"] - 3) + abs(config["b"] - 8) + (config["c"] == "x")


@pytest.mark.parametrize("settings", [{}, {"policy": "lstm"}, {"reward": "value"}])
def test_later_configurations_are_better(settings):
    history = simulate(Reinforce(distinct=False, **settings), away, GRID, Budget(trials=300))
    start, end = history.values[:50, 0].mean(), history.values[-50:, 0].mean()
    assert end < 0.7 * start
    assert history.values.min() <= 1


def test_it_hardly_asks_twice():
    def different(distinct: bool) -> int:
        history = simulate(Reinforce(distinct=distinct), away, GRID, Budget(trials=120))
        return len({repr(job.config) for job in history.jobs})

    assert different(True) == 120 and different(False) < 110


def test_a_controller_that_may_repeat_itself_collapses_and_says_so():
    proposer = Reinforce(distinct=False, entropy=0.0, lr=0.3)
    history = simulate(proposer, away, GRID, Budget(trials=600))
    facts = proposer.describe(history, Seeds(0))
    assert facts["collapse"].collapsed and away(facts["collapse"].config) == 0
    assert max(facts["probabilities"]["a"]["probabilities"]) > 0.95
    early = proposer.describe(simulate(proposer, away, GRID, Budget(trials=20)), Seeds(0))["collapse"]
    assert not early.collapsed


def history_of(proposer: Reinforce, count: int, seeds: Seeds) -> History:
    """The first jobs of a study, none of them told."""
    history = History(GRID)
    for job in proposer.propose(history, count, seeds):
        history.add(job)
    return history


def test_what_was_drawn_from_an_earlier_policy_is_weighted_by_how_probable_it_is_now():
    """20 jobs at once: the second ten are judged after the first ten have moved the policy."""
    proposer, seeds = Reinforce(reward="value", entropy=0.0, lr=1.0), Seeds(0)
    history = history_of(proposer, 20, seeds)
    for number in range(20):
        history.add(Result(number, "ok", {"loss": away(history.jobs[number].config)}))
    after = proposer._memory(history, seeds)
    policy, learner = after.policy, Learner(lr=1.0, entropy_weight=0.0)
    state = learner.init(policy.init(seeds.key(0, "policy")))
    actions = policy.actions([job.config for job in history.jobs])
    rewards = -torch.tensor([away(job.config) for job in history.jobs], dtype=torch.float64)
    then = policy.evaluate(state["params"], actions).log_prob
    state, _ = learner.update(policy, state, actions[:10], rewards[:10])
    ratio = (policy.evaluate(state["params"], actions[10:]).log_prob - then[10:]).exp()
    assert bool((ratio > 2).any()) and bool((ratio < 1).any())  # the limit of 2 matters here
    state, _ = learner.update(policy, state, actions[10:], rewards[10:], weights=ratio.clamp(max=2.0))
    for name, value in state["params"].items():
        assert torch.allclose(after.state["params"][name], value, rtol=0, atol=1e-12)


def test_a_failure_counts_as_the_worst_result():
    proposer, seeds = Reinforce(entropy=0.0), Seeds(1)
    history = history_of(proposer, 10, seeds)
    history.add(Result(0, "failed", error="boom"))
    for number in range(1, 10):
        history.add(Result(number, "ok", {"loss": math.inf if number == 1 else 5.0 + number}))
    memory = proposer._memory(history, seeds)
    before = memory.policy.init(seeds.key(0, "policy"))
    actions = memory.policy.actions([history.jobs[0].config, history.jobs[9].config])
    change = (
        memory.policy.evaluate(memory.state["params"], actions).log_prob
        - memory.policy.evaluate(before, actions).log_prob
    )
    assert change[0] < 0


def test_jobs_of_another_method_teach_nothing_and_do_no_harm():
    history = simulate(Random(), away, GRID, Budget(trials=30))
    proposer, seeds = Reinforce().bind(Budget(trials=60)), Seeds(0)
    jobs = proposer.propose(history, 4, seeds)
    assert [job.number for job in jobs] == [30, 31, 32, 33] and all(job.tag["update"] == 0 for job in jobs)


def test_real_numbers_and_the_tag_of_a_job():
    space = Space(lr=Float(1e-4, 1.0, log=True))
    history = simulate(Reinforce(), lambda c: (math.log10(c["lr"]) + 2) ** 2, space, Budget(trials=200))
    assert history.values[-30:, 0].mean() < 0.3 * history.values[:30, 0].mean()
    job: Job = history.jobs[-1]
    assert set(job.tag) == {"actions", "log_prob", "entropy", "update"} and job.tag["update"] == 19


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "gru"}, "policy='gru' is unknown"),
        ({"reward": "loss"}, "reward='loss' is unknown"),
        ({"continuous": "grid"}, "continuous='grid' is unknown"),
        ({"batch": 0}, "batch=0"),
        ({"window": 1}, "window=1"),
        ({"entropy": -1.0}, "entropy=-1.0"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(MethodError, match=message):
        Reinforce(**settings).bind(Budget(trials=10))
