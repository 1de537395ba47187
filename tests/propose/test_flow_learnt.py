"""The learnt flow sampler against the exact one: by enumeration, never by counting samples."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from propose.flow_spaces import TREES, conditionals, modes
from torch import nn

from luthier.errors import MethodError
from luthier.propose.flow import Settings, Tree, distance, exact, learn, terminating
from luthier.propose.flow.objectives import OBJECTIVES, Flows
from luthier.propose.flow.paths import paths
from luthier.propose.flow.policies import Experts, Shared
from luthier.propose.flow.training_settings import PAPER
from luthier.propose.flow.walks import along, tables
from luthier.space import Choice, Float, Space

SMALL = Tree(
    Space(
        a=Float(0.0, 1.0),
        b=Choice(["u", "v", "w"]),
        c=Float(0.0, 1.0, when={"b": ["u", "v"]}),
        d=Choice([True, False], when={"b": ["v", "w"]}),
    ),
    bins=5,
)
QUICK = Settings(evaluations=2_000, batch=250, updates=30)


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_distance_after_ten_thousand_evaluations(tree):
    reward = modes(tree, seed=0)
    truth = exact(tree, reward)
    sampler = learn(tree, reward, key=0)
    assert sampler.evaluations == 10_000
    assert distance(sampler, truth) <= 0.08
    assert abs(sampler.log_z - truth.log_z) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_distance_after_64_000_evaluations(tree, seed):
    reward = modes(tree, seed)
    truth = exact(tree, reward)
    sampler = learn(tree, reward, Settings(evaluations=64_000, batch=800), key=seed)
    assert sampler.evaluations == 64_000
    assert distance(sampler, truth) <= 0.03
    assert abs(sampler.log_z - truth.log_z) <= 0.05


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "plain_flow_matching"])
def test_objectives_agree_in_the_limit(objective):
    reward = modes(SMALL, seed=3, width=0.3)
    sampler = learn(SMALL, reward, replace(QUICK, objective=objective), key=1)
    truth = exact(SMALL, reward)
    assert distance(sampler, truth) < 0.01
    assert sampler.log_z == pytest.approx(truth.log_z, abs=0.005)


def test_plain_flow_matching_agrees_where_flows_are_of_one_size():
    def reward(leaves):
        return 0.5 * np.sin(4 * leaves.codes).sum(axis=1) - 2.0

    settings = replace(QUICK, objective="plain_flow_matching", prior=True, updates=60)
    assert distance(learn(SMALL, reward, settings, key=1), exact(SMALL, reward)) < 0.05


@torch.no_grad()
def random_flows(log_z: float | None = None) -> Flows:
    """The flows of an untrained policy with random heads, on every way of a conditional tree, in float64."""
    generator = torch.Generator().manual_seed(0)
    policy = Shared(SMALL, 16, 2, generator).double()
    for head in policy.heads:
        nn.init.normal_(head.weight, generator=generator)
    policy._features = [one.double() for one in policy._features]
    ways = paths(SMALL, SMALL.all.actions)
    edges, states = along(ways, tables(policy, ways, 0.3, True))
    reward = torch.from_numpy(modes(SMALL, seed=0)(SMALL.all))
    weight = torch.full_like(reward, 1 / len(reward))
    root = states[0, 0] if log_z is None else torch.tensor(log_z)
    return Flows(edges, states, ways.active, reward, root, weight)


def test_objectives_are_their_definitions_way_by_way():
    flows = random_flows(log_z=2.5)
    whole, logs, plain = [], [], []
    for edge, state, active, reward in zip(flows.edges, flows.states, flows.active, flows.log_reward, strict=True):
        n = int(active.sum())
        forward, reached = edge[:n] - state[:n], torch.cat([state[1:n], reward[None]])
        whole.append(2.5 + forward.sum() - reward)
        plain.append(((edge[:n].exp() - reached.exp()) ** 2).mean())
        logs.append(((edge[:n] - reached) ** 2).mean())
    gaps = torch.stack(whole)
    assert float(OBJECTIVES["trajectory_balance"](flows)) == pytest.approx(float((gaps**2).mean()), rel=1e-9)
    assert float(OBJECTIVES["flow_matching"](flows)) == pytest.approx(float(torch.stack(logs).mean()), rel=1e-9)
    assert float(OBJECTIVES["plain_flow_matching"](flows)) == pytest.approx(float(torch.stack(plain).mean()), rel=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_vanish_at_the_exact_flow(objective):
    reward = modes(SMALL, seed=0)
    truth = exact(SMALL, reward)
    steps, parents = conditionals(truth), truth.parents
    after = [np.arange(SMALL.size)]  # each leaf's state after each level
    for parent in reversed(parents[1:]):
        after.insert(0, parent[after[0]])
    edges, flow = [], np.full(1, truth.log_z)
    for parent, step, place in zip(parents, steps, after, strict=True):
        before, flow = flow, flow[parent] + step
        edges.append((flow[place], before[parent[place]]))
    ways = paths(SMALL, SMALL.all.actions)
    assert ways.order is not None
    edge, state = (torch.from_numpy(np.stack(one, axis=1)).gather(1, ways.order) for one in zip(*edges, strict=True))
    rewards = torch.from_numpy(reward(SMALL.all))
    weight = torch.full_like(rewards, 1 / len(rewards))
    flows = Flows(edge, state, ways.active, rewards, torch.tensor(truth.log_z, dtype=torch.float64), weight)
    assert float(OBJECTIVES[objective](flows)) < 1e-20


@pytest.mark.parametrize("policy", [Shared, Experts])
def test_probabilities_sum_to_one_and_are_those_that_are_drawn(policy):
    settings = Settings(evaluations=500, batch=250, updates=5, policy=policy.__name__.lower())
    sampler = learn(SMALL, modes(SMALL, seed=0), settings, key=0)
    for temperature in (0.5, 1.0, 10.0):
        mass = terminating(sampler, temperature)
        assert mass.sum() == pytest.approx(1.0, abs=1e-9)
        drawn = sampler.sample(40_000, rng=np.random.default_rng(0), temperature=temperature)
        frequency = np.bincount(SMALL.rank(drawn), minlength=SMALL.size) / 40_000
        np.testing.assert_allclose(frequency, mass, atol=5 * np.sqrt(mass.max() / 40_000))
        np.testing.assert_allclose(
            sampler.log_prob(drawn) - sampler.log_mass(drawn), SMALL.log_density(drawn), atol=1e-12
        )


def test_untrained_policy_with_known_counts_is_uniform_over_leaves():
    sampler = learn(SMALL, lambda leaves: np.zeros(len(leaves)), Settings(evaluations=100, batch=100), key=0)
    np.testing.assert_allclose(terminating(sampler), 1 / SMALL.size, rtol=1e-3)
    assert sampler.log_z == pytest.approx(math.log(SMALL.size), abs=1e-3)


def test_same_key_same_sampler_and_no_global_randomness():
    reward = modes(SMALL, seed=0)
    before = torch.random.get_rng_state()
    one, two, other = (learn(SMALL, reward, replace(QUICK, updates=2), key=key) for key in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(terminating(one), terminating(two))
    assert distance(one, other) > 0
    drawn = [one.sample(n, rng=np.random.default_rng(1)) for n in (50, 50, 5)]
    np.testing.assert_array_equal(drawn[0].codes, drawn[1].codes)


def test_each_leaf_is_evaluated_once():
    seen: list[bytes] = []
    reward = modes(SMALL, seed=0)

    def counted(leaves):
        seen.extend(row.tobytes() for row in leaves.actions)
        return reward(leaves)

    sampler = learn(SMALL, counted, replace(QUICK, updates=1), key=0)
    assert len(seen) == len(set(seen)) == sampler.distinct <= SMALL.size
    assert sampler.evaluations == QUICK.evaluations


def test_warm_start_begins_where_the_earlier_sampler_ended_and_leaves_it_alone():
    reward = modes(SMALL, seed=0)
    truth = exact(SMALL, reward)
    first = learn(SMALL, reward, QUICK, key=0)
    mass = terminating(first)
    few = Settings(evaluations=100, batch=100, updates=3, lr=1e-4)
    warm, cold = (learn(SMALL, reward, few, key=1, start=start) for start in (first, None))
    assert distance(warm, truth) < 0.02 < 0.3 < distance(cold, truth)
    np.testing.assert_array_equal(terminating(first), mass)
    with pytest.raises(MethodError, match="hidden"):
        learn(SMALL, reward, Settings(hidden=32), key=0, start=first)
    with pytest.raises(MethodError, match="another tree"):
        learn(TREES["plain"], modes(TREES["plain"], 0), key=0, start=first)


def test_forty_hyperparameters():
    tree = Tree(Space({f"x{i}": Float(0.0, 1.0) for i in range(40)}))

    def reward(leaves):
        return 0.3 * np.sin(6 * leaves.codes + np.arange(40)).sum(axis=1)

    one = 0.3 * np.sin(6 * (np.arange(16)[:, None] + 0.5) / 16 + np.arange(40))
    log_z = float(np.log(np.exp(one).sum(axis=0)).sum())  # the reward is a product: so is Z
    sampler = learn(tree, reward, Settings(evaluations=2_000, states=4_096, hidden=64), key=0)
    drawn = sampler.sample(1_000, rng=np.random.default_rng(0))
    divergence = float(np.mean(sampler.log_mass(drawn) - (reward(drawn) - log_z)))  # of the sampler from the target
    uniform = float(np.mean(log_z - 40 * np.log(16) - one.mean(axis=0).sum()))
    assert divergence < 0.65 * uniform
    assert sampler.log_z == pytest.approx(log_z, abs=0.5)


def test_one_leaf_zero_rewards_and_mistakes():
    lone = learn(
        Tree(Space(a=Choice(["x"]))), lambda leaves: np.full(len(leaves), -0.4), Settings(evaluations=10), key=0
    )
    assert lone.log_z == pytest.approx(-0.4, abs=1e-5) and terminating(lone).tolist() == [1.0]
    reward = modes(SMALL, seed=0)

    def partly(leaves):
        return np.where(leaves.actions[:, 0] == 2, -np.inf, reward(leaves))

    sampler = learn(SMALL, partly, QUICK, key=0)
    assert terminating(sampler)[SMALL.all.actions[:, 0] == 2].sum() < 0.01
    with pytest.raises(MethodError, match="rewards are zero"):
        learn(SMALL, lambda leaves: np.full(len(leaves), -np.inf), QUICK, key=0)
    with pytest.raises(MethodError, match="log reward nan cannot be"):
        learn(SMALL, lambda leaves: np.full(len(leaves), np.nan), QUICK, key=0)
    for setting in ({"objective": "best"}, {"policy": "best"}, {"epsilon": 2.0}, {"lr": 0.0}, {"batch": 0}):
        with pytest.raises(MethodError, match=next(iter(setting))):
            Settings(**setting)


def test_settings_of_the_paper_leave_the_sampler_nearly_uniform():
    tree = TREES["eight modes"]
    reward = modes(tree, seed=0)
    truth = exact(tree, reward)
    uniform = float(np.abs(terminating(truth) - 1 / tree.size).sum())
    assert distance(learn(tree, reward, PAPER, key=0), truth) > 0.8 * uniform


def test_it_takes_one_thread():
    """Two take ten times the processor time of one where others are at work, and round otherwise."""
    used = []

    def reward(leaves):
        used.append(torch.get_num_threads())
        return np.zeros(len(leaves))

    torch.set_num_threads(2)
    try:
        learn(SMALL, reward, Settings(evaluations=100, batch=50), key=0)
        assert set(used) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
