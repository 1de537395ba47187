"""What a policy is: a distribution that sums to one, drawn by noise, over exactly the configurations of its space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from luthier.errors import MethodError
from luthier.policy import LSTM, Decisions, Factorised, Policy, collapsed, uniform
from luthier.policy.heads import gaussian, gaussian_entropy
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.testing import SPACES
from tests.policy.tables import NETWORK, Exact, repeated, scattered, table

KINDS = {"factorised": Factorised, "lstm": LSTM}
MIXED = Space(
    depth=Int(1, 3),
    width=Int(8, 512, log=True),
    lr=Float(1e-4, 1.0, log=True),
    optimizer=Choice(["sgd", "adam"]),
    momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
    dropout=Float(0.0, 0.8, shape=(2,), when={"depth": [2, 3]}),
)


def made(kind: str, space: Space, **settings) -> tuple[Policy, dict]:
    policy = KINDS[kind](space, **settings)
    return policy, scattered(policy.init(0), scale=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_configurations_sum_to_one(kind):
    policy, params = made(kind, NETWORK)
    log_probs = Exact(policy, table(NETWORK)).log_probs(params)
    assert torch.isclose(log_probs.exp().sum(), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-14)
    assert log_probs.exp().max() / log_probs.exp().min() > 3  # it is not uniform


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_come_as_often_as_they_are_probable(kind):
    policy, params = made(kind, NETWORK)
    exact = Exact(policy, table(NETWORK))
    drawn = policy.sample(params, uniform(Seeds(0).rng(0, "noise"), 40_000, policy))
    counts = np.bincount([exact.index[repr(config)] for config in policy.configs(drawn)], minlength=len(exact.configs))
    expected = 40_000 * exact.log_probs(params).exp().numpy()
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    # the mean of the entropies along the way is the entropy of the whole, and so is that of -log p
    for estimate in (drawn.entropy, -drawn.log_prob):
        error = (estimate.mean() - exact.entropy(params)) / (estimate.std() / 200)
        assert abs(error) < 4


def test_entropy_of_independent_options_is_exact():
    space = Space(a=Choice([1, 2, 3]), b=Choice(["x", "y"]))
    policy, params = made("factorised", space)
    exact = Exact(policy, torch.zeros(6, dtype=torch.float64))
    assert torch.isclose(policy.mode(params).entropy[0], exact.entropy(params), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [*SPACES.values(), MIXED], ids=[*SPACES, "all kinds"])
def test_decisions_are_configurations_and_back(kind, space):
    policy, params = made(kind, space)
    drawn = policy.sample(params, uniform(Seeds(1).rng(0, "noise"), 200, policy))
    configs = policy.configs(drawn)
    for config, active in zip(configs, drawn.active, strict=True):
        assert space.check(config) == config
        names = {column.name for column, on in zip(space.columns, active.tolist(), strict=True) if on}
        assert names == set(config)
    again = policy.actions(configs)
    exact = [head.column for head in policy.plan.heads if not head.gaussian or head.smooth]
    assert torch.allclose(again[:, exact], drawn.actions[:, exact], rtol=0, atol=1e-6)
    whole = {name for name, domain in space.domains.items() if isinstance(domain, Int)}  # a Gaussian of it is rounded
    for before, after in zip(configs, policy.configs(policy.evaluate(params, again)), strict=True):
        assert all(after[name] == before[name] for name in whole & set(before))
    judged = policy.evaluate(params, drawn.actions)
    assert torch.equal(judged.active, drawn.active)
    assert torch.allclose(judged.log_prob, drawn.log_prob, rtol=0, atol=1e-12)
    assert torch.allclose(judged.entropy, drawn.entropy, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_configurations_and_carry_the_gradient(kind):
    policy, params = made(kind, MIXED)
    params = {name: p.requires_grad_() for name, p in params.items()}
    noise = uniform(Seeds(1).rng(0, "noise"), 50, policy)
    drawn, path = policy.sample(params, noise), policy.rsample(params, noise)
    assert torch.equal(drawn.codes, path.codes) and torch.equal(drawn.actions, path.actions)
    assert not drawn.codes.requires_grad and path.codes.requires_grad
    values = policy.values(path)
    for i, config in enumerate(policy.configs(drawn)):
        for name in set(values) & set(config):
            np.testing.assert_allclose(values[name][i].detach().numpy(), config[name], rtol=1e-12)
    (slope,) = torch.autograd.grad(values["lr"].sum(), path.codes)
    np.testing.assert_allclose(slope[:, 2].numpy(), values["lr"].detach().numpy() * 4 * np.log(10))
    assert torch.equal(policy.evaluate(params, drawn.actions, pathwise=True).codes[:, 2], path.codes[:, 2])


def test_density_of_the_code_integrates_to_one_and_its_entropy_is_right():
    policy = Factorised(Space(x=Float(0.0, 1.0)))
    codes = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # the midpoint rule: 2e-4 off at the steepest
    for raw in ([0.0, 1.942], [2.0, 0.5], [-3.0, 3.0]):
        params = {"x": torch.tensor(raw, dtype=torch.float64)}
        log_density = policy.evaluate(params, (codes.log() - torch.log1p(-codes)).unsqueeze(1)).log_prob
        assert abs(log_density.exp().mean() - 1) < 1e-3
        entropy = -(log_density.exp() * log_density).mean()
        assert abs(gaussian_entropy(*gaussian(params["x"])) - entropy) < 2e-3
    start = gaussian_entropy(*gaussian(policy.init(0)["x"]))
    assert -0.03 < start <= 0  # nearly uniform


@pytest.mark.parametrize("kind", KINDS)
def test_many_whole_numbers_are_a_rounded_gaussian_learnt_by_score(kind):
    policy, params = made(kind, Space(width=Int(8, 512, log=True), few=Int(1, 32)))
    assert [head.gaussian for head in policy.plan.heads] == [True, False]
    params = {name: p.requires_grad_() for name, p in params.items()}
    noise = uniform(Seeds(0).rng(0, "noise"), 5000, policy)
    path = policy.rsample(params, noise)
    assert not path.codes.requires_grad and path.log_prob.requires_grad  # rounding has no derivative
    if kind == "factorised":
        fresh = policy.sample(policy.init(0), noise)
        logs = np.log([config["width"] for config in policy.configs(fresh)])
        expected = stats.uniform(np.log(8), np.log(64)).cdf
        assert stats.kstest(logs, expected).statistic < 0.05  # nearly uniform on the scale of the domain
    facts = policy.probabilities(params, noise)["width"]
    assert 8 <= facts["low"] < facts["mean"] < facts["high"] <= 512  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_for_the_report(kind):
    policy, params = made(kind, MIXED)
    noise = uniform(Seeds(0).rng(0, "noise"), 4000, policy)
    facts = policy.probabilities(params, noise)
    configs = policy.configs(policy.sample(params, noise))
    assert list(facts) == ["depth", "width", "lr", "optimizer", "momentum", "dropout[0]", "dropout[1]"]
    sgd = sum(config["optimizer"] == "sgd" for config in configs) / 4000
    assert facts["momentum"]["active"] == pytest.approx(sgd)
    assert facts["optimizer"]["probabilities"][0] == pytest.approx(sgd, abs=0.03)  # type: ignore[index]
    low, middle, high = (facts["lr"][name] for name in ("low", "mean", "high"))
    inside = sum(low <= config["lr"] <= high for config in configs) / 4000  # type: ignore[operator]
    assert 1e-4 <= low < middle < high <= 1.0 and 0.6 < inside < 0.75  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_stack_equals_alone_bit_for_bit(kind):
    policy = KINDS[kind](MIXED)
    members = [scattered(policy.init(key), seed=key, scale=0.5) for key in range(3)]
    stack = {name: torch.stack([member[name] for member in members]) for name in members[0]}
    noise = torch.stack([uniform(Seeds(key).rng(0, "noise"), 7, policy) for key in range(3)])
    together = policy.sample(stack, noise)
    for i, member in enumerate(members):
        alone = policy.sample(member, noise[i])
        assert all(torch.equal(a, b[i]) for a, b in zip(alone, together, strict=True))


def test_lstm_knows_what_was_decided_before_and_the_factorised_does_not():
    def conditional(policy: Policy) -> list[float]:
        params = scattered(policy.init(0))
        exact = Exact(policy, table(NETWORK))
        p = exact.log_probs(params).exp()
        shares = []
        for layers in (2, 3):
            of = torch.tensor([config["layers"] == layers for config in exact.configs])
            adam = torch.tensor([config["optimizer"] == "adam" for config in exact.configs])
            shares.append(float(p[of & adam].sum() / p[of].sum()))
        return shares

    first, second = conditional(Factorised(NETWORK))
    assert first == pytest.approx(second, abs=1e-14)
    first, second = conditional(LSTM(NETWORK))
    assert abs(first - second) > 1e-3


def test_inactive_decisions_leave_no_trace():
    policy, params = made("lstm", NETWORK)
    config: Config = {"layers": 1, "activation": "relu", "optimizer": "adam"}
    actions = policy.actions([config])
    other = actions.clone()
    other[0, 1], other[0, 4] = 1.0, 2.0  # of names that are inactive
    a, b = policy.evaluate(params, actions), policy.evaluate(params, other)
    assert torch.equal(a.log_prob, b.log_prob) and torch.equal(a.codes, b.codes)


def test_tanh_constant_bounds_the_odds():
    policy = LSTM(Space(kind=Choice(["a", "b", "c"])), tanh_constant=1.1)
    params = scattered(policy.init(0), scale=100.0)
    p = policy.evaluate(params, torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)).log_prob.exp()
    assert p.max() / p.min() == pytest.approx(np.exp(2.2), rel=1e-6)


def test_some_names_alone():
    policy = LSTM(MIXED, names=["optimizer", "momentum"])
    drawn = policy.sample(policy.init(0), uniform(Seeds(0).rng(0, "noise"), 20, policy))
    assert policy.columns == 2 and all(set(config) <= {"optimizer", "momentum"} for config in policy.configs(drawn))


@pytest.mark.parametrize("kind", KINDS)
def test_collapse_is_detected(kind):
    policy = KINDS[kind](NETWORK, **({"tanh_constant": None} if kind == "lstm" else {}))
    params = policy.init(0)
    before = collapsed(policy, params)
    assert not before.collapsed and before.probability < 0.2 and "most probable is" in str(before)
    start = "start " if kind == "lstm" else ""
    for name in NETWORK:
        params[start + name] = params[start + name].clone()
        params[start + name][0] = 9.0
    found = collapsed(policy, params)
    exact = Exact(policy, table(NETWORK))
    assert found.collapsed and found.config == {
        "layers": 1,
        "activation": "relu",
        "optimizer": "sgd",
        "momentum": 0.0,
    }
    assert found.probability == pytest.approx(float(exact.log_probs(params).exp().max()), rel=1e-12)


def test_collapse_of_a_real_number_and_of_nothing_free():
    policy = Factorised(Space(x=Float(0.0, 1.0), kind=Choice(["a", "b"])))
    params = {"x": torch.tensor([1.0, -9.0]), "kind": torch.tensor([8.0, 0.0])}
    narrow = collapsed(policy, params)
    assert narrow.collapsed and narrow.widest < 0.01
    assert not collapsed(policy, params | {"x": torch.tensor([1.0, 2.0])}).collapsed
    assert not collapsed(policy, params | {"kind": torch.tensor([1.0, 0.0])}).collapsed
    only = Factorised(Space(kind=Choice(["only"])))
    assert not collapsed(only, only.init(0)).collapsed  # there was never anything to decide


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Factorised(NETWORK, names=["layer"]), "layer: it is not in the space"),
        (lambda: LSTM(NETWORK, names=["norm"]), "'layers', which is not among the names"),
        (lambda: LSTM(NETWORK, names=[]), "nothing to decide"),
        (lambda: LSTM(NETWORK, hidden=0), r"hidden must be .* got 0"),
        (lambda: LSTM(NETWORK, temperature=0.0), r"temperature must be .* got 0\.0"),
        (lambda: LSTM(Space(a=Float(0, 1), b=Int(1, 2, when={"a": 0.5}))), "a density gives no probability"),
        (lambda: LSTM(Space(a=Int(0, 9999), b=Int(1, 2, when={"a": 5}))), "more than 4096 values"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(MethodError, match=message):
        make()


def test_decisions_of_a_stack_of_stacks():
    policy, params = made("lstm", NETWORK)
    noise = uniform(Seeds(0).rng(0, "noise"), 24, policy).reshape(2, 3, 4, -1)
    drawn = policy.sample(repeated(repeated(params, 3), 2), noise)
    alone = policy.sample(params, noise[1, 2])
    assert isinstance(drawn, Decisions) and torch.equal(drawn.codes[1, 2], alone.codes)
