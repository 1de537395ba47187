"""The policy gradient against the exact gradient of the expected reward, and the two gradients of the Gaussian head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.policy import LSTM, Factorised, Params, Policy, Reinforce, policy_gradient, uniform
from luthier.policy.heads import gaussian
from luthier.seeds import Seeds
from luthier.space import Choice, Float, Space
from tests.policy.tables import NETWORK, Exact, repeated, scattered, table

BATCHES, COUNT = 400, 4  # independent estimates of each gradient, and the decisions in each
POLICIES = {"factorised": Factorised(NETWORK), "lstm": LSTM(NETWORK, hidden=6, temperature=1.0)}


def flat(tree: Params, lead: int = 0) -> Tensor:
    return torch.cat([x.reshape(*x.shape[:lead], -1) for x in tree.values()], -1)


def estimates(policy: Policy, params: Params, rewards: object, advantage: object, seed: int = 0, **settings) -> Tensor:
    """BATCHES estimates of the gradient, (BATCHES, parameters), each from COUNT decisions of its own."""
    stack = repeated(params, BATCHES)
    rng = Seeds(seed).rng(0, "noise")
    noise = uniform(rng, BATCHES * COUNT, policy).reshape(BATCHES, COUNT, -1)
    decisions = policy.sample(stack, noise)
    values = rewards(policy.configs(decisions)).reshape(BATCHES, COUNT)  # type: ignore[operator]
    found, _ = policy_gradient(policy, stack, decisions.actions, advantage(values), **settings)  # type: ignore[operator]
    return flat(found, 1)


def z_scores(samples: Tensor, exact: Tensor) -> Tensor:
    """How many standard errors the mean of estimates is off, along the exact gradient and 30 random directions."""
    rng = np.random.default_rng(5)
    directions = torch.as_tensor(rng.normal(size=(len(exact), 30)))
    directions = torch.cat([(exact / exact.norm()).unsqueeze(1), directions], 1)
    along = (samples - exact) @ directions  # (BATCHES, 31)
    return along.mean(0) / (along.std(0) / len(samples) ** 0.5)


def without_baseline(rewards: Tensor) -> Tensor:
    return rewards


def earlier_baseline(rewards: Tensor) -> Tensor:
    """What `Reinforce` does after its first update, the scale left out."""
    learner = Reinforce(normalise=False)
    lead = rewards.shape[0]
    moments = {name: torch.full((lead,), value, dtype=torch.float64) for name, value in STATE.items()}
    return learner.advantages(moments, rewards, torch.isfinite(rewards))[0]


def first_baseline(rewards: Tensor) -> Tensor:
    """What it does in its first update."""
    moments = {name: torch.zeros(rewards.shape[0], dtype=torch.float64) for name in STATE}
    return Reinforce(normalise=False).advantages(moments, rewards, torch.isfinite(rewards))[0]


STATE = {"baseline": 0.31, "variance": 0.2, "weight": 3.0, "judged": 3.0}
BASELINES = {"none": without_baseline, "of earlier updates": earlier_baseline, "of the others": first_baseline}


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("name", POLICIES)
def test_estimate_agrees_with_the_exact_gradient_within_its_standard_error(name, baseline):
    policy = POLICIES[name]
    exact = Exact(policy, table(NETWORK))
    params = scattered(policy.init(0))
    samples = estimates(policy, params, exact.rewards_of, BASELINES[baseline])
    truth = flat(exact.gradient(params))
    z = z_scores(samples, truth)
    assert z.abs().max() < 4 and z.square().mean() < 4
    assert z_scores(samples, 0.5 * truth)[0] > 4  # the standard error is small enough to tell it from half of it


def test_a_baseline_that_contains_the_decision_itself_is_found_to_be_biased():
    policy = POLICIES["factorised"]
    exact = Exact(policy, table(NETWORK))
    params = scattered(policy.init(0))
    samples = estimates(policy, params, exact.rewards_of, lambda r: r - r.mean(-1, keepdim=True))
    assert z_scores(samples, flat(exact.gradient(params))).abs().max() > 4


def test_baseline_lowers_the_variance():
    policy = POLICIES["lstm"]
    exact = Exact(policy, table(NETWORK) + 2.0)  # rewards far from zero
    params = scattered(policy.init(0))
    plain = estimates(policy, params, exact.rewards_of, without_baseline)
    with_it = estimates(policy, params, exact.rewards_of, lambda r: r - 2.31)
    assert with_it.var(0).sum() < 0.1 * plain.var(0).sum()


@pytest.mark.parametrize("name", POLICIES)
def test_entropy_bonus_is_the_gradient_of_the_entropy(name):
    policy = POLICIES[name]
    exact = Exact(policy, torch.zeros(len(table(NETWORK)), dtype=torch.float64))
    params = scattered(policy.init(0))
    samples = estimates(policy, params, exact.rewards_of, without_baseline, entropy_weight=1.0)
    z = z_scores(samples, flat(exact.gradient(params, entropy_weight=1.0)))
    assert z.abs().max() < 4 and z.square().mean() < 4


@pytest.mark.parametrize("baseline", [0.0, 0.31, -7.0])
@pytest.mark.parametrize("name", POLICIES)
def test_weights_correct_for_decisions_of_an_earlier_policy_exactly(name, baseline):
    """Every decision once, weighted by its probability then: the expectation of the estimate, without noise."""
    policy = POLICIES[name]
    exact = Exact(policy, table(NETWORK))
    then, now = scattered(policy.init(0), scale=0.4), scattered(policy.init(0), seed=2, scale=0.7)
    p_then, p_now = (exact.log_probs(params).exp() for params in (then, now))
    truth, count = flat(exact.gradient(now)), len(p_then)
    for ratio, right in ((p_now / p_then, True), (torch.ones_like(p_now), False)):
        weights = count * p_then * ratio
        found, _ = policy_gradient(policy, now, exact.actions, exact.rewards - baseline, weights=weights)
        assert (float((flat(found) - truth).norm()) < 1e-13) is right


# --- the Gaussian head

LINE = Space(x=Float(1e-4, 1.0, log=True))
TARGET = 0.8  # the reward is -(u - TARGET)² of the unconstrained number u


def closed_form(params: Params) -> Tensor:
    """The gradient of E[-(u - a)²] = -(mean - a)² - deviation² by the two outputs of the head."""
    raw = params["x"].clone().requires_grad_()
    mean, deviation = gaussian(raw)
    (found,) = torch.autograd.grad(-((mean - TARGET) ** 2) - deviation**2, raw)
    return found


def gaussian_samples(pathwise: bool) -> tuple[Tensor, Tensor]:
    policy = Factorised(LINE)
    params = {"x": torch.tensor([-0.6, 0.4], dtype=torch.float64)}
    stack = repeated(params, BATCHES)
    noise = uniform(Seeds(1).rng(0, "noise"), BATCHES * COUNT, policy).reshape(BATCHES, COUNT, -1)
    decisions = policy.sample(stack, noise)
    u, code = decisions.actions, decisions.codes
    rewards = -((u - TARGET) ** 2)[..., 0]
    slope = -2 * (u - TARGET) / (code * (1 - code))  # by the code: du/dcode = 1 / (code (1 - code))
    settings = {"pathwise": slope} if pathwise else {}
    found, _ = policy_gradient(policy, stack, decisions.actions, rewards, **settings)
    return flat(found, 1), closed_form(params)


def test_score_and_pathwise_gradients_of_the_gaussian_agree_with_the_closed_form_and_each_other():
    score, truth = gaussian_samples(pathwise=False)
    path, _ = gaussian_samples(pathwise=True)
    for samples in (score, path):
        z = (samples.mean(0) - truth) / (samples.std(0) / BATCHES**0.5)
        assert z.abs().max() < 3.5
    paired = score - path  # of the same decisions
    assert (paired.mean(0) / (paired.std(0) / BATCHES**0.5)).abs().max() < 3.5
    assert path.var(0).sum() < 0.5 * score.var(0).sum()


def test_pathwise_gradient_through_the_state_and_the_score_of_later_options_add_up():
    """A real number first, an option after it whose probabilities depend on the number through the LSTM's state."""
    space = Space(rate=Float(0.0, 1.0), kind=Choice(["a", "b", "c"]))
    policy = LSTM(space, hidden=5, temperature=1.0)
    params = scattered(policy.init(0))
    bonus = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)

    def reward(code: Tensor, kind: Tensor) -> Tensor:
        return torch.sin(4 * code) * (1 + kind) + bonus[kind.long()]

    # exactly: quadrature over the standard normal number, a sum over the options
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z, weight = torch.as_tensor(nodes), torch.as_tensor(weights / weights.sum())
    expected = torch.zeros((), dtype=torch.float64)
    for kind in range(3):
        start = policy.sample(params, torch.full((80, 2), 0.5, dtype=torch.float64))
        mean, deviation = (start.actions[0, 0], gaussian_of(policy, params)[1])
        actions = torch.stack((mean + deviation * z, torch.full((80,), float(kind), dtype=torch.float64)), 1)
        along = policy.evaluate(leaves, actions, pathwise=True)  # log_prob is that of the option alone
        expected = expected + (weight * along.log_prob.exp() * reward(along.codes[:, 0], actions[:, 1])).sum()
    found = torch.autograd.grad(expected, list(leaves.values()), allow_unused=True)
    truth = flat({n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(leaves.items(), found, strict=True)})

    stack = repeated(params, BATCHES)
    noise = uniform(Seeds(2).rng(0, "noise"), BATCHES * COUNT, policy).reshape(BATCHES, COUNT, -1)
    drawn = policy.sample(stack, noise)
    code, kind = drawn.codes[..., 0], drawn.actions[..., 1]
    slopes = torch.stack((4 * torch.cos(4 * code) * (1 + kind), torch.zeros_like(code)), -1)
    gradient, _ = policy_gradient(policy, stack, drawn.actions, reward(code, kind) - 0.5, pathwise=slopes)
    z_hybrid = z_scores(flat(gradient, 1), truth)
    assert z_hybrid.abs().max() < 4 and z_hybrid.square().mean() < 4
    score, _ = policy_gradient(policy, stack, drawn.actions, reward(code, kind) - 0.5)
    z_score = z_scores(flat(score, 1), truth)
    assert z_score.abs().max() < 4 and z_score.square().mean() < 4
    # leaving out either part is found
    blind, _ = policy_gradient(
        policy, stack, drawn.actions, reward(code, kind) - 0.5, pathwise=torch.zeros_like(slopes)
    )
    assert z_scores(flat(blind, 1), truth).abs().max() > 5


def gaussian_of(policy: LSTM, params: Params) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the first column, from the log-probabilities of three numbers."""
    mean = policy.mode(params).actions[0, 0]
    zero = torch.zeros(2, dtype=torch.float64)
    rows = torch.stack((torch.stack((mean, zero[0])), torch.stack((mean + 1, zero[0]))))
    both = policy.evaluate(params, rows)
    stretch = -(both.codes[:, 0] * (1 - both.codes[:, 0])).log()
    option = policy.evaluate(params, rows, pathwise=True).log_prob
    density = both.log_prob - option - stretch
    return mean, (0.5 / (density[0] - density[1])).sqrt()
