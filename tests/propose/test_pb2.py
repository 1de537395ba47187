"""Population based bandits: the covariance that forgets, the bound, what the model is told, and where moves may go."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job, Result
from luthier.propose import PB2, PBT, Replay
from luthier.propose.gaussian_process import fit as fitting
from luthier.propose.gaussian_process.candidates import around, perturb
from luthier.propose.gaussian_process.drift import Drifting
from luthier.propose.gaussian_process.kernel import Kernel
from luthier.propose.gaussian_process.linear import JITTER
from luthier.propose.gaussian_process.posterior import posterior
from luthier.propose.pb2 import Bound, Hold, beta, changes, features_of, imagined, kernel_of, landed, standing
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.space.encoder import Encoding, encoding_of, join
from luthier.testing import simulate
from luthier.testing.problems import decay
from luthier.trials import schedule

RATE = Space(lr=Float(1e-5, 1e2, log=True))
EVERYTHING = Space(
    lr=Float(1e-5, 1.0, log=True),
    momentum=Float(0.0, 0.99),
    decays=Float(1e-6, 1e-1, log=True, shape=(2,)),
    width=Int(8, 512, log=True),
    depth=Int(0, 3),
    constant=Int(7, 7),
    batch_size=Choice([16, 32, 64], ordered=True),
    activation=Choice(["relu", "tanh", None]),
    optimizer=Choice(["sgd", "adam"]),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
    beta=Float(0.8, 0.999, when={"optimizer": "adam"}),
)


def run(method: Any, trials: int = 10, steps: int = 90, space: Space = RATE, **settings: Any) -> History:
    objective = settings.pop("objective", decay)
    return simulate(method, objective, space, Budget(trials=trials, steps=steps), stateful=True, **settings)


# --- the covariance


def dense(theta: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    """The covariance of two points as the papers write it: lengthscales, s, noise, then ε from log w."""
    lengths, scale, epsilon = np.exp(theta[:2]), np.exp(theta[2]), 1.0 - np.exp(-2.0 * np.exp(theta[-1]))
    r = np.sqrt(np.sum(((one[:-1] - two[:-1]) / lengths) ** 2))
    matern = scale * (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)
    return matern * (1 - epsilon) ** (abs(one[-1] - two[-1]) / 2)


def test_the_covariance_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    kernel = Drifting(Kernel(np.arange(2), np.arange(0)))
    theta = np.log([0.4, 1.3, 1.7, 0.05, -0.5 * np.log(1 - 0.3)])
    x, new = (np.column_stack([rng.random((n, 2)), rng.integers(0, 9, n)]) for n in (12, 5))
    expected = np.array([[dense(theta, a, b) for b in x] for a in x])
    np.testing.assert_allclose(kernel.gram(theta, x).covariance, expected, atol=1e-12)
    crossed = kernel.cross(theta, kernel.scaled(theta, x), kernel.scaled(theta, new))
    np.testing.assert_allclose(crossed, [[dense(theta, a, b) for b in new] for a in x], atol=1e-7)
    y = rng.normal(size=12)
    mean, deviation = posterior(kernel, theta, x, y).predict(new)
    inverse = np.linalg.inv(expected + (0.05 + JITTER) * np.eye(12))
    np.testing.assert_allclose(mean[:, 0], crossed.T @ inverse @ y, atol=1e-6)
    np.testing.assert_allclose(deviation**2, 1.7 - np.diag(crossed.T @ inverse @ crossed), atol=1e-6)


def test_its_gradient_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(1)
    encoding = Encoding(EVERYTHING)
    kernel = kernel_of(encoding)
    points = encoding.sample(rng, 25)
    x = np.column_stack([encoding.features(points), rng.normal(size=25), rng.integers(0, 6, 25)])
    y, limits = rng.normal(size=25), fitting.bounds(kernel)
    theta = limits[:, 0] + (limits[:, 1] - limits[:, 0]) * rng.uniform(0.3, 0.7, kernel.size)
    _, gradient = fitting.objective(kernel, x, y, theta)
    for i in range(kernel.size):
        ahead, behind = theta.copy(), theta.copy()
        ahead[i], behind[i] = ahead[i] + 1e-5, behind[i] - 1e-5
        slope = (fitting.objective(kernel, x, y, ahead)[0] - fitting.objective(kernel, x, y, behind)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-5), i


def test_the_fit_finds_out_how_fast_things_change() -> None:
    rng = np.random.default_rng(2)
    found = {}
    for epsilon in (0.002, 0.4):
        kernel = Drifting(Kernel(np.arange(1), np.arange(0)))
        theta = np.log([0.5, 1.0, 0.01, -0.5 * np.log(1 - epsilon)])
        x = np.column_stack([rng.random(150), np.repeat(np.arange(15.0), 10)])
        y = np.linalg.cholesky(kernel.gram(theta, x).covariance + 0.01 * np.eye(150)) @ rng.normal(size=150)
        fitted = fitting.fit(kernel, x, y, fitting.start(kernel), 100)
        found[epsilon] = 1.0 - np.exp(-2.0 * np.exp(fitted[kernel.at_drift]))
    assert found[0.002] < 0.03 and 0.2 < found[0.4] <= 0.5 + 1e-9


# --- the bound and what the model is told


def test_the_bound_has_the_standard_deviation_and_the_weight_of_the_paper() -> None:
    history = run(PBT(rounds=3))
    encoding, told = encoding_of(RATE), list(range(20))
    kernel, features = kernel_of(encoding), features_of(history, encoding, [history.jobs[n] for n in told])
    y = changes(history, told)
    process = posterior(kernel, fitting.start(kernel), features, y)
    points = encoding.sample(np.random.default_rng(0), 50)
    x = np.column_stack([encoding.features(points), np.full(50, 0.1), np.full(50, 2.0)])
    mean, deviation = process.predict(x)
    assert beta(0.2, 20) == pytest.approx(0.2 * np.log(8.0)) and beta(0.2, 1) == 0.0
    bound = Bound(process, encoding, 0.1, 2.0, beta(0.2, 20))(points)
    np.testing.assert_allclose(bound, -(mean[:, 0] - np.sqrt(0.2 * np.log(8.0)) * deviation), atol=1e-12)


def test_running_members_take_the_uncertainty_and_leave_the_mean() -> None:
    history = run(PBT(rounds=3))
    encoding = encoding_of(RATE)
    kernel, features = kernel_of(encoding), features_of(history, encoding, history.jobs[:10])
    process = posterior(kernel, fitting.start(kernel), features, changes(history, range(10)))
    running = features_of(history, encoding, history.jobs[10:13])
    mean, deviation = process.predict(running)
    after, less = imagined(process, running).predict(running)
    np.testing.assert_allclose(after, mean, atol=1e-5)
    # the deviation is that of a process that has been told anything there: it does not depend on what
    y = np.concatenate([process.y[:, 0], np.random.default_rng(0).normal(size=3)])
    _, told = posterior(kernel, process.theta, np.concatenate([features, running]), y).predict(running)
    np.testing.assert_allclose(less, told, atol=1e-6)
    assert (less < deviation).all()


def test_changes_are_compared_within_their_round() -> None:
    history = History(RATE)
    values = [4.0, 2.0, 3.0, 1.0, 3.5, 1.9, 2.5, np.nan]
    for n in range(8):
        parent = None if n < 4 else n - 4
        history.add(Job(n, {"lr": 0.1}, 1, parent, {"slot": n % 4, "round": n // 4}))
    for n, value in enumerate(values):
        status = "ok" if np.isfinite(value) else "diverged"
        history.add(Result(n, status, {"loss": value}, 1))
    y = changes(history, range(8))
    first = np.array(values[:4])
    np.testing.assert_allclose(y[:4], (first - first.mean()) / first.std())
    fall = np.array(values[4:7]) - first[:3]
    np.testing.assert_allclose(y[4:7], (fall - fall.mean()) / fall.std())
    assert y[7] == 2.0, "what diverged is the worst of its round"
    assert standing(history, 1) == pytest.approx(0.25 * (2.0 - first.mean()) / first.std())


def test_huge_values_do_not_overflow() -> None:
    def huge(config: Config, steps: int, state: Any) -> tuple[float, Any]:
        return (1e300 if config["lr"] < 1e-3 else -1e300) * config["lr"], None

    assert len(run(PB2(rounds=5), objective=huge)) == 50


# --- moves


def nowhere(config: Config, steps: int, state: float | None) -> tuple[float, float]:
    """A training that likes the corners: every number at a bound, the last option."""
    codes, mask = EVERYTHING.encode([config])
    value = (state or 0.0) - steps * float(codes[mask].sum())
    return value, value


def test_explorations_stay_inside_every_kind_of_domain() -> None:
    method = PB2(rounds=25, exploit="tournament", mutate=EVERYTHING.names, points=30)
    history = run(method, 12, 25, EVERYTHING, objective=nowhere)
    explored = [job for job in history.jobs[12:] if job.parent != job.number - 12]
    assert len(explored) > 80
    for job in explored:
        assert repr(EVERYTHING.check(job.config)) == repr(job.config)
    best = history.jobs[history.best or 0].config
    assert best["momentum"] > 0.9 and best["depth"] == 3, "it found the corner"


def test_all_that_could_be_chosen_in_ten_thousand_ways_is_inside_its_domain() -> None:
    rng, encoding = np.random.default_rng(0), encoding_of(EVERYTHING)
    seen: dict[str, set[str]] = {name: set() for name in EVERYTHING}
    for _ in range(100):
        config = EVERYTHING.sample(rng)
        names = [name for name in EVERYTHING if rng.random() < 0.5]
        origin = encoding.points([config])
        hold = Hold(encoding, names, origin, rng)
        pool = hold(around(encoding, join(origin, encoding.sample(rng, 3)), 40, 40, rng))
        for scale in (0.1, 10.0):
            pool = hold(perturb(encoding, pool.take(slice(0, 50)), 1, scale, rng))
            for code in pool.codes:
                found = landed(EVERYTHING, code, config, names)
                assert repr(EVERYTHING.check(found)) == repr(found)
                assert all(found[n] == config[n] for n in found if n in config and n not in names)
                for name, value in found.items():
                    seen[name].add(json.dumps(value))
    assert seen["constant"] == {"7"}
    assert all(len(seen[name]) > 1_000 for name in ("lr", "momentum", "decays", "beta")), "floats went everywhere"
    assert len(seen["depth"]) == 4 and len(seen["batch_size"]) == len(seen["activation"]) == 3


def test_only_the_named_hyperparameters_move() -> None:
    history = run(PB2(rounds=10, mutate=["lr", "depth"]), 10, 30, EVERYTHING, objective=nowhere)
    moved = set()
    for job in history.jobs[10:]:
        assert job.parent is not None
        before = history.jobs[job.parent].config
        assert job.config.keys() == before.keys()
        moved |= {name for name in before if before[name] != job.config[name]}
    assert moved == {"lr", "depth"}


def test_a_move_that_switches_a_name_on_gives_it_a_value() -> None:
    history = run(PB2(rounds=10, mutate=["lr", "optimizer"]), 10, 30, EVERYTHING, objective=nowhere)
    pairs = [(history.jobs[job.parent].config, job.config) for job in history.jobs if job.parent is not None]
    assert any(a["optimizer"] != b["optimizer"] for a, b in pairs)
    for before, after in pairs:
        kept = {name for name in before if name in after} - {"lr", "optimizer"}
        assert all(before[name] == after[name] for name in kept)


# --- the method


def test_it_follows_a_good_region_that_wanders_better_than_blind_moves() -> None:
    def wandering(config: Config, steps: int, state: tuple[float, int] | None) -> tuple[float, tuple[float, int]]:
        loss, age = state or (0.0, 0)
        for t in range(age, age + steps):
            loss += (np.log10(config["lr"]) + 3 * t / 90) ** 2 + (config["momentum"] - 0.9 * t / 90) ** 2
        return loss, (loss, age + steps)

    space = Space(lr=Float(1e-5, 1e2, log=True), momentum=Float(0.0, 0.99))
    wins = 0
    for seed in range(8):
        ours, blind = (run(m, space=space, objective=wandering, seed=seed) for m in (PB2(rounds=9), PBT(rounds=9)))
        wins += ours.values[-10:].min() < blind.values[-10:].min()
    assert wins >= 7


def test_same_seed_same_schedule_in_batches_and_on_workers_and_another_seed_another() -> None:
    one = run(PB2(rounds=5), seed=3)
    ways: list[dict[str, Any]] = [{"batch": 7}, {"workers": 4}, {"workers": 3, "batch": 2}]
    for settings in ways:
        assert run(PB2(rounds=5), seed=3, **settings).jobs == one.jobs
    assert run(PB2(rounds=5), seed=4).jobs != one.jobs
    assert one.jobs[:10] == run(PBT(rounds=5), seed=3).jobs[:10], "they start alike"


def test_its_schedule_can_be_replayed() -> None:
    history = run(PB2(rounds=5))
    assert history.best is not None
    way = schedule(history, history.best, 0)
    assert len(way) > 1
    again = simulate(Replay(way), decay, RATE, Budget(trials=1, steps=90), stateful=True)
    assert again.values[-1, 0] == history.values[history.best, 0]


@pytest.mark.parametrize(
    ("method", "budget", "words"),
    [
        (PB2(rounds=1), Budget(trials=4, steps=10), r"method pb2: rounds must be .* got 1"),
        (PB2(), Budget(trials=4), "neither steps nor epochs"),
        (PB2(), Budget(steps=100), "trials=None"),
        (PB2(exploration=-1.0), Budget(trials=4, steps=10), r"exploration must be .* got \-1\.0"),
        (PB2(points=5), Budget(trials=4, steps=10), r"points must be .* got 5"),
        (PB2(mutate="lr"), Budget(trials=4, steps=10), "mutate='lr'"),
        (PB2(exploit="best"), Budget(trials=4, steps=10), r"exploit must be .* got 'best'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_refused(method: PB2, budget: Budget, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        method.bind(budget)


def test_spaces_that_it_cannot_model_are_refused() -> None:
    bound = PB2().bind(Budget(trials=4, steps=10))
    with pytest.raises(MethodError, match="no Float"):
        bound.propose(History(Space(n=Int(1, 4))), 1, Seeds(0))
    with pytest.raises(MethodError, match="200 columns"):
        bound.propose(History(Space(v=Float(0.0, 1.0, shape=(200,)))), 1, Seeds(0))
