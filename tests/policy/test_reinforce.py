"""The learner: it finds the best of a known table, resumes bit for bit, and bears rewards that are no numbers."""

from __future__ import annotations

import pytest
import torch

from luthier.errors import MethodError
from luthier.policy import LSTM, Factorised, Reinforce, collapsed, uniform
from luthier.seeds import Seeds
from luthier.space import Choice, Float, Space
from tests.policy.tables import NETWORK, Exact, table

LEARNED = {
    "factorised": (Factorised(NETWORK), Reinforce(lr=0.1, entropy_weight=0.01)),
    "lstm": (LSTM(NETWORK, hidden=32, tanh_constant=None, temperature=1.0), Reinforce(lr=5e-3, entropy_weight=0.01)),
}


def learn(policy, learner, state, rewards, start, stop, seed=0):
    """The updates from ``start`` to ``stop``, with 10 decisions each; noise is keyed by the update."""
    facts = {}
    for update in range(start, stop):
        decisions = policy.sample(state["params"], uniform(Seeds(seed).rng(update, "noise"), 10, policy))
        state, facts = learner.update(policy, state, decisions.actions, rewards(decisions))
    return state, facts


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", LEARNED)
def test_expected_reward_rises_to_within_two_percent_of_the_best(name, seed):
    policy, learner = LEARNED[name]
    exact = Exact(policy, table(NETWORK, seed))
    state = learner.init(policy.init(seed))
    before = exact.reward(state["params"])
    state, _ = learn(policy, learner, state, lambda d: exact.rewards_of(policy.configs(d)), 0, 150, seed)
    after, best = exact.reward(state["params"]), exact.rewards.max()
    assert before < 0.6 * best
    assert after > 0.98 * best
    assert collapsed(policy, state["params"], probability=0.9).config == exact.configs[int(exact.rewards.argmax())]


@pytest.mark.parametrize("pathwise", [False, True])
def test_gaussian_moves_to_the_best_number(pathwise):
    space = Space(lr=Float(1e-4, 1.0, log=True))
    policy, learner = Factorised(space), Reinforce(lr=0.05, entropy_weight=0.0)
    state = learner.init(policy.init(0))
    for update in range(300):
        decisions = policy.sample(state["params"], uniform(Seeds(0).rng(update, "noise"), 10, policy))
        away = decisions.codes - 0.75  # the best is 0.1
        settings = {"pathwise": -2 * away} if pathwise else {}
        state, facts = learner.update(policy, state, decisions.actions, -away[:, 0].square(), **settings)
    assert facts["reward"] > -1e-3
    assert policy.configs(policy.mode(state["params"]))[0]["lr"] == pytest.approx(0.1, rel=0.25)


def test_a_checkpointed_state_goes_on_bit_for_bit(tmp_path):
    policy, learner = LEARNED["lstm"]
    exact = Exact(policy, table(NETWORK))

    def rewards(decisions):
        return exact.rewards_of(policy.configs(decisions))

    whole, facts = learn(policy, learner, learner.init(policy.init(0)), rewards, 0, 20)
    half, _ = learn(policy, learner, learner.init(policy.init(0)), rewards, 0, 11)
    torch.save(half, tmp_path / "state.pt")
    resumed, again = learn(policy, learner, torch.load(tmp_path / "state.pt"), rewards, 11, 20)
    for slot in ("params", "first", "second"):
        assert all(torch.equal(whole[slot][name], resumed[slot][name]) for name in whole[slot])
    assert all(torch.equal(facts[name], again[name]) for name in facts)


@pytest.mark.parametrize("name", LEARNED)
def test_stack_of_learners_equals_each_alone_bit_for_bit(name):
    policy, learner = LEARNED[name]
    noise = [uniform(Seeds(key).rng(0, "noise"), 6, policy) for key in range(2)]
    rewards = torch.tensor([[0.1, 0.4, float("nan"), 0.2, 0.9, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]).double()
    alone = [learner.init(policy.init(key)) for key in range(2)]
    stack = {
        slot: {n: torch.stack([a[slot][n] for a in alone]) for n in alone[0][slot]}
        for slot in alone[0]
        if isinstance(alone[0][slot], dict)
    }
    stack |= {slot: torch.stack([a[slot] for a in alone]) for slot in alone[0] if slot not in stack}
    for _ in range(3):
        drawn = policy.sample(stack["params"], torch.stack(noise))
        each = [policy.sample(a["params"], n) for a, n in zip(alone, noise, strict=True)]
        stack, _ = learner.update(policy, stack, drawn.actions, rewards)
        alone = [learner.update(policy, a, d.actions, r)[0] for a, d, r in zip(alone, each, rewards, strict=True)]
    for i, a in enumerate(alone):
        assert torch.equal(stack["baseline"][i], a["baseline"])
        assert all(torch.equal(stack["params"][n][i], p) for n, p in a["params"].items())


def test_rewards_that_are_no_numbers_are_left_out():
    policy, learner = LEARNED["factorised"]
    state = learner.init(policy.init(0))
    actions = policy.sample(state["params"], uniform(Seeds(0).rng(0, "noise"), 4, policy)).actions
    bad = torch.tensor([1.0, float("nan"), 3.0, float("-inf")]).double()
    after, facts = learner.update(policy, state, actions, bad)
    assert facts["dropped"] == 2 and facts["reward"] == 2.0 and after["baseline"] == 2.0
    assert all(bool(p.isfinite().all()) for p in after["params"].values())
    none, facts = learner.update(policy, after, actions, torch.full((4,), float("nan")).double())
    assert facts["dropped"] == 4 and none["baseline"] == 2.0 and none["weight"] == after["weight"]


@pytest.mark.parametrize("value", [0.1, -1e300, 0.0])
def test_constant_rewards_teach_nothing(value):
    policy, learner = Factorised(NETWORK), Reinforce(entropy_weight=0.0)
    state = learner.init(policy.init(0))
    for update in range(3):
        actions = policy.sample(state["params"], uniform(Seeds(0).rng(update, "noise"), 7, policy)).actions
        state, facts = learner.update(policy, state, actions, torch.full((7,), value, dtype=torch.float64))
        assert facts["gradient_norm"] == 0
    assert all(torch.equal(p, policy.init(0)[name]) for name, p in state["params"].items())


def test_scale_and_shift_of_the_rewards_do_not_matter():
    policy, learner = LEARNED["factorised"]
    exact = Exact(policy, table(NETWORK))
    ends = []
    for scale, shift in ((1.0, 0.0), (1e6, -3e6)):
        state, _ = learn(
            policy,
            learner,
            learner.init(policy.init(0)),
            lambda d, a=scale, b=shift: a * exact.rewards_of(policy.configs(d)) + b,
            0,
            20,
        )
        ends.append(state["params"])
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-6) for name in ends[0])


def test_gradient_is_clipped():
    policy = Factorised(Space(kind=Choice(["a", "b"])))
    learner = Reinforce(clip=1e-12, normalise=False, entropy_weight=0.0)
    actions = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    state, facts = learner.update(policy, learner.init(policy.init(0)), actions, torch.tensor([0.0, 100.0]).double())
    assert facts["gradient_norm"] > 10
    assert torch.sqrt(sum(m.square().sum() for m in state["first"].values())) <= 0.1 * 1.0001e-12


def test_entropy_bonus_holds_a_policy_back_from_collapse():
    space = Space(kind=Choice(["a", "b", "c"]))
    policy = Factorised(space)
    chances = []
    for weight in (0.0, 2.0):
        learner = Reinforce(lr=0.1, entropy_weight=weight)
        state = learner.init(policy.init(0))
        state, _ = learn(policy, learner, state, lambda d: (d.actions[:, 0] == 1).double(), 0, 200)
        chances.append(collapsed(policy, state["params"]))
    assert chances[0].collapsed and not chances[1].collapsed
    assert chances[1].config == {"kind": "b"}


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"baseline_decay": 1.0},
        {"baseline": "mean"},
        {"entropy_weight": -1.0},
        {"clip": 0.0},
        {"beta1": -0.1},
    ],
)
def test_refusals(settings):
    with pytest.raises(MethodError, match=next(iter(settings))):
        Reinforce(**settings)
