"""GFlowNet: as a proposer, and as a sampler of finished studies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job, Result
from luthier.propose import GFlowNet, Surrogate, generator
from luthier.propose.flow import Settings
from luthier.propose.generator import entropy, sharpness
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.space.distance import distances
from luthier.testing import simulate

QUICK = Surrogate(members=2, width=16, steps=60)
SMALL = Space(a=Int(1, 8), b=Choice(["x", "y", "z"]), c=Int(0, 4, when={"b": ["x", "y"]}))


def accuracy(config: Config) -> float:
    """Best at a = 6, b = "y", c = 2."""
    return 0.9 - 0.02 * (config["a"] - 6) ** 2 - (0.2 if config["b"] != "y" else 0.05 * abs(config["c"] - 2))


def study(count: int = 60, space: Space = SMALL, value=accuracy, mode: str = "max") -> History:
    history = History(space, {"score": mode})
    for number, config in enumerate(space.sample(np.random.default_rng(0), count)):
        history.add(Job(number, config))
        history.add(Result(number, "ok", {"score": value(config)}))
    return history


def test_fit_samples_in_proportion_to_the_reward() -> None:
    found = GFlowNet(beta=3.0, reward="metric", surrogate=QUICK).fit(study())
    leaves = found.sampler.tree.all
    configs = found.sampler.tree.configs(leaves)
    target = found.predict(configs)[0] ** 3
    np.testing.assert_allclose(np.exp(found.log_prob(configs)), target / target.sum(), rtol=1e-6)
    drawn = found.sample(20_000, seed=1)
    best = configs[int(np.argmax(target))]
    share = sum(config == best for config in drawn) / 20_000
    assert abs(share - target.max() / target.sum()) < 4 * math.sqrt(share / 20_000)


def test_beta_sharpens_the_target_and_temperature_the_sampling() -> None:
    means = {}
    history = study()
    for beta in (1.0, 10.0):
        found = GFlowNet(beta=beta, reward="metric", surrogate=QUICK).fit(history)
        for temperature in (0.1, 1.0, 10.0):
            drawn = found.sample(2_000, temperature=temperature, seed=0)
            means[beta, temperature] = np.mean([accuracy(config) for config in drawn])
    assert means[10.0, 1.0] > means[1.0, 1.0] + 0.02
    assert means[1.0, 0.1] > means[1.0, 1.0] + 0.02 > means[1.0, 10.0] + 0.02


def test_beta_is_chosen_by_the_entropy() -> None:
    found = GFlowNet(batch=2, effective=3.0, surrogate=QUICK).fit(study())
    mass = found.sampler.log_mass(found.sampler.tree.all)
    assert math.exp(-(np.exp(mass) * mass).sum()) == pytest.approx(6.0, rel=0.01)
    values = np.random.default_rng(0).normal(size=500)
    for effective in (2.0, 30.0, 400.0):
        assert math.exp(entropy(sharpness(values, effective) * values)) == pytest.approx(effective, rel=1e-3)


def test_top_is_good_distinct_and_apart() -> None:
    found = GFlowNet().fit(study())
    best = found.top(5, apart=0.1)
    codes, mask = SMALL.encode(best)
    gaps = distances(SMALL, codes, mask, codes, mask) + 10 * np.eye(len(best))
    assert len(best) == 5 and gaps.min() > 0.1
    predicted = found.predict(best)[0]
    assert list(predicted) == sorted(predicted, reverse=True), "the best first, of a maximised metric"
    assert accuracy(best[0]) > 0.8


def test_a_study_is_as_good_as_its_history() -> None:
    made = lt.Study("small", SMALL, metric="score", mode="max", trials=30)
    while jobs := made.ask(10):
        made.tell_many([(job, accuracy(job.config)) for job in jobs])
    one, other = (GFlowNet(surrogate=QUICK).fit(given) for given in (made, made.history))
    assert one.sample(20) == other.sample(20)


def test_a_learnt_sampler_is_near_the_exact_one() -> None:
    history = study()
    settings = Settings(evaluations=3_000, hidden=32)
    exact, learnt = (
        GFlowNet(beta=4.0, reward="metric", surrogate=QUICK, sampler=kind, training=settings).fit(history).sampler
        for kind in ("exact", "learnt")
    )
    leaves = exact.tree.all
    assert np.abs(np.exp(exact.log_mass(leaves)) - np.exp(learnt.log_mass(leaves))).sum() < 0.08


def test_both_of_two_optima_are_found() -> None:
    space = Space(x=Float(-5.0, 5.0), y=Float(-5.0, 5.0))
    history = simulate(GFlowNet(), lambda c: (abs(c["x"]) - 3) ** 2 + c["y"] ** 2, space, Budget(trials=60), batch=10)
    good = [job.config["x"] for job, value in zip(history.jobs, history.values[:, 0], strict=True) if value < 0.3]
    assert sum(x > 0 for x in good) >= 2 and sum(x < 0 for x in good) >= 2


def test_forty_hyperparameters_are_learnt() -> None:
    space = Space({f"x{i}": Float(0.0, 1.0) for i in range(40)})
    training = Settings(evaluations=200, batch=50, updates=2, hidden=16)
    method = GFlowNet(beta=2.0, batch=5, initial=5, training=training)
    history = simulate(method, lambda c: sum((x - 0.5) ** 2 for x in c.values()), space, Budget(trials=11), batch=5)
    assert len(history) == 11
    assert len({tuple(job.config.values()) for job in history.jobs}) == 11
    found = GFlowNet(beta=2.0, surrogate=QUICK, training=training).fit(history)
    assert np.isfinite(found.log_prob(found.sample(5))).all()
    again = method.bind(Budget(trials=20))
    jobs = again.propose(history, 5, Seeds(0))
    history._folds.clear()  # what was kept may be dropped: the chain of learnt samplers is computed again
    assert again.propose(history, 5, Seeds(0)) == jobs


def test_a_long_training_says_how_far_it_is(monkeypatch, capsys) -> None:
    monkeypatch.setattr(generator, "EVERY", 0.0)
    history = study(space=Space({f"x{i}": Float(0.0, 1.0) for i in range(12)}), value=lambda c: sum(c.values()))
    method = GFlowNet(surrogate=QUICK, training=Settings(evaluations=400, batch=100, updates=1, hidden=8))
    quiet = method.fit(history, progress=False)
    assert not capsys.readouterr().err
    assert method.fit(history).sample(3) == quiet.sample(3)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "gflownet: training 1 of at most 9, 100% done"  # one of those that look for beta: briefly
    assert [line[-9:] for line in said[-4:]] == [" 25% done", " 50% done", " 75% done", "100% done"]
    GFlowNet(beta=2.0, surrogate=method.surrogate, training=method.training).fit(history)
    assert capsys.readouterr().err.splitlines()[-1] == "gflownet: training 1 of at most 1, 100% done"


def test_one_leaf() -> None:
    space = Space(a=Int(3, 3), b=Choice(["only"]))
    history = simulate(GFlowNet(), lambda c: 1.0, space, Budget(trials=10))
    assert [job.config for job in history.jobs] == [{"a": 3, "b": "only"}]
    history.add(Job(1, {"a": 3, "b": "only"}))
    history.add(Result(1, "ok", {"loss": 1.0}))
    found = GFlowNet(surrogate=QUICK).fit(history)
    assert found.sample(2) == 2 * [{"a": 3, "b": "only"}]
    assert found.log_prob(found.sample(1)).tolist() == [0.0]


def test_all_equal_results_give_the_uniform_distribution() -> None:
    found = GFlowNet(surrogate=Surrogate(members=1, steps=200)).fit(study(value=lambda config: 0.5))
    mass = found.sampler.log_mass(found.sampler.tree.all)
    assert np.isfinite(mass).all()
    history = simulate(GFlowNet(batch=5, initial=5), lambda c: 2.0, SMALL, Budget(trials=15), batch=5)
    assert len(history) == 15


def test_a_finite_space_is_visited_whole_and_once() -> None:
    history = simulate(GFlowNet(batch=6, initial=6), lambda c: -accuracy(c), SMALL, Budget(trials=500), batch=6)
    assert len(history) == SMALL.size == len({tuple(job.config.items()) for job in history.jobs})


def test_errors() -> None:
    negative = study(value=lambda config: accuracy(config) - 2.0)
    with pytest.raises(MethodError, match="reward"):
        GFlowNet(reward="metric", surrogate=QUICK).fit(negative)
    with pytest.raises(MethodError, match="reward"):
        GFlowNet(reward="metric", surrogate=QUICK).fit(study(mode="min"))
    with pytest.raises(MethodError, match="0 of 0"):
        GFlowNet().fit(History(SMALL))
    for settings in (
        {"beta": 0.0},
        {"beta": float("inf")},
        {"batch": 0},
        {"initial": 1},
        {"apart": 1.5},
        {"model": "trees"},
        {"within": -1},
    ):
        with pytest.raises(MethodError, match=next(iter(settings))):
            GFlowNet(**settings).bind(Budget())
    with pytest.raises(MethodError, match="2 objectives"):
        GFlowNet().propose(History(SMALL, {"a": "min", "b": "min"}), 1, Seeds(0))
    found = GFlowNet(surrogate=QUICK).fit(study())
    with pytest.raises(MethodError, match="temperature"):
        found.sample(3, temperature=0.0)
    with pytest.raises(MethodError, match="count"):
        found.top(0)


def test_a_sampler_names_every_mistake() -> None:
    space = lt.Space(x=lt.Float(-5.0, 5.0), y=lt.Float(-5.0, 5.0))
    budget = Budget(trials=30)
    least = simulate(lt.propose.Random(), lambda c: c["x"] ** 2, space, budget)
    below = simulate(lt.propose.Random(), lambda c: c["x"], space, budget, objectives={"accuracy": "max"})
    sampler = GFlowNet().fit(least)
    mistakes: list[tuple[Any, str]] = [
        (lambda: GFlowNet().fit("study"), "'study' is not a study"),
        (lambda: GFlowNet(beta="sharp").fit(least), "beta must be .* got 'sharp'"),  # type: ignore[arg-type]
        (lambda: GFlowNet(surrogate=None).fit(least), "surrogate=None"),  # type: ignore[arg-type]
        (lambda: GFlowNet(training=5).fit(least), "training=5"),  # type: ignore[arg-type]
        (lambda: GFlowNet(bins=0).fit(least), "bins must be .* got 0"),
        (lambda: GFlowNet(reward="metric").fit(least), "minimised"),
        (lambda: GFlowNet(reward="metric").fit(below), "metric of -4"),
        (lambda: sampler.top(0), "count must be .* got 0"),
        (lambda: sampler.top(2, apart=-1.0), "apart must be .* got -1"),
        (lambda: sampler.top(2, apart=float("nan")), "apart must be .* got nan"),
        (lambda: sampler.sample(2, temperature="hot"), "temperature must be .* got 'hot'"),  # type: ignore[arg-type]
        (lambda: sampler.sample(2, temperature=0.0), "temperature must be .* got 0"),
        (lambda: sampler.log_prob({"x": 0.0, "y": 0.0}), "not a list of configurations"),
        (lambda: sampler.log_prob([{"x": 9.0, "y": 0.0}]), "9.0"),
        (lambda: sampler.predict([{"x": 0.0, "z": 0.0}]), "z"),
    ]
    for make, words in mistakes:
        with pytest.raises(lt.LuthierError, match=words):
            make()


def test_an_accuracy_near_zero_is_a_reward() -> None:
    space = lt.Space(x=lt.Float(-5.0, 5.0))
    history = simulate(
        lt.propose.Random(),
        lambda c: max(0.0, 1 - abs(c["x"])),
        space,
        Budget(trials=40),
        objectives={"accuracy": "max"},
    )
    sampler = GFlowNet(reward="metric", beta=1.0).fit(history)
    assert np.mean([abs(config["x"]) for config in sampler.sample(200)]) < 1.2  # uniform would be 2.5
