"""Bayesian optimisation: batches, waiting, the end, bad results, suggestions. (See tests/contracts, too.)"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job, Result
from luthier.propose import GaussianProcess, Random, door
from luthier.propose.gaussian_process.fold import Chain, model, observed
from luthier.propose.threads import one_thread
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.testing import PROBLEMS, SPACES, rebuild, simulate

BRANIN = PROBLEMS["branin"]
LINE = Space(x=Float(0.0, 1.0))


def told(space: Space, objective: Callable[[Config], float], count: int, seed: int = 0) -> History:
    """A history of ``count`` random configurations that have ended."""
    return simulate(Random(), objective, space, Budget(trials=count), seed)


def test_a_batch_is_distinct_and_spread_out() -> None:
    for seed in range(3):
        history = told(BRANIN.space, BRANIN.objective, 20, seed)
        jobs = GaussianProcess().bind(Budget()).propose(history, 8, Seeds(seed))
        codes, _ = history.space.encode([job.config for job in jobs])
        apart = np.sqrt(((codes[:, None] - codes[None]) ** 2).mean(axis=2))[np.triu_indices(8, 1)]
        assert len(jobs) == 8 and apart.min() >= 0.01
        assert apart.max() > 0.3, "the whole batch is in one place"


def test_a_batch_is_what_single_proposals_would_be_while_the_earlier_ones_are_running() -> None:
    history = told(BRANIN.space, BRANIN.objective, 15)
    bound = GaussianProcess().bind(Budget())
    batch = bound.propose(rebuild(history), 5, Seeds(1))
    for job in batch:
        assert bound.propose(history, 1, Seeds(1)) == [job]
        history.add(job)


def test_running_jobs_count() -> None:
    history = told(LINE, lambda config: (config["x"] - 0.3) ** 2, 10)
    bound = GaussianProcess().bind(Budget())
    [first] = bound.propose(history, 1, Seeds(0))
    history.add(first)
    [second] = bound.propose(history, 1, Seeds(0))
    assert abs(second.config["x"] - first.config["x"]) >= 0.01


def test_no_more_than_a_batch_is_running() -> None:
    bound, history = GaussianProcess(batch=3).bind(Budget(trials=20)), History(LINE)
    for job in bound.propose(history, 64, Seeds(0)):
        history.add(job)
    assert len(history.pending) == 3
    assert bound.propose(history, 64, Seeds(0)) == []
    history.add(Result(1, "ok", {"loss": 1.0}))
    assert [job.number for job in bound.propose(history, 64, Seeds(0))] == [3]


def test_a_finite_space_is_visited_once_and_whole_and_then_it_ends() -> None:
    space = Space(a=Int(0, 2), b=Choice(["x", "y"]), c=Choice([1, 2], when={"b": "x"}), d=Int(5, 5))
    for batch in (1, 4):
        history = simulate(GaussianProcess(), lambda config: float(config["a"]), space, Budget(trials=100), batch=batch)
        assert len({str(job.config) for job in history.jobs}) == len(history) == space.size == 9


def test_nothing_is_proposed_twice_in_a_discrete_space() -> None:
    space = Space(a=Choice(list("abcdefgh")), b=Int(0, 30), c=Choice(list(range(12)), ordered=True))
    assert space.size is not None and space.size > 1500  # too large to be searched whole
    history = simulate(GaussianProcess(), lambda config: 1.0, space, Budget(trials=60), batch=6)
    assert len({str(job.config) for job in history.jobs}) == 60


@pytest.mark.parametrize("batch", [1, 3])
def test_a_leaf_of_one_configuration_is_tried_once_though_it_is_the_best(batch: int) -> None:
    space = Space(kind=Choice(["plain", "deep"]), depth=Float(0, 1, when={"kind": "deep"}))
    history = simulate(
        GaussianProcess(initial=3), lambda c: c.get("depth", -1.0), space, Budget(trials=10), seed=1, batch=batch
    )
    assert sum(job.config["kind"] == "plain" for job in history.jobs) == 1
    assert len({str(job.config) for job in history.jobs}) == 10


def test_a_large_finite_space_that_is_nearly_used_up_is_used_up() -> None:
    space = Space(a=Int(1, 1600))
    history = History(space)
    for number, a in enumerate(range(1, 1599)):
        history.add(Job(number, {"a": a}))
        history.add(Result(number, "failed"))  # without a finite result there is no model
    jobs = door.propose(GaussianProcess().bind(Budget()), history, 8, Seeds(0))
    assert sorted(job.config["a"] for job in jobs) == [1599, 1600]


def test_failed_regions_are_avoided() -> None:
    def objective(config: Config, steps: int, state: Any) -> tuple[float, Any]:
        return (math.nan if config["x"] > 0.5 else (config["x"] - 0.4) ** 2), None

    history = simulate(GaussianProcess(), objective, LINE, Budget(trials=30), stateful=True)
    late = [job.config["x"] for job in history.jobs[12:]]
    assert np.mean([x > 0.5 for x in late]) < 0.3
    assert history.values[history.best, 0] < 1e-3


def test_heavy_tails_do_not_hide_the_optimum() -> None:
    def objective(config: Config) -> float:
        return 10.0 ** (8 * abs(config["x"] - 0.7)) + math.exp(60 * max(0.0, 0.3 - config["x"]))

    history = simulate(GaussianProcess(), objective, LINE, Budget(trials=25))
    assert abs(history.jobs[history.best or 0].config["x"] - 0.7) < 0.02


def test_suggestions_do_not_trust_one_lucky_result() -> None:
    noise, bound = Seeds(0).rng(0, "noise of the test"), GaussianProcess()
    suggested, lucky = [], []
    for seed in range(4):
        history = simulate(
            bound, lambda config: BRANIN.objective(config) + 2 * noise.normal(), BRANIN.space, Budget(trials=45), seed
        )
        config = bound.suggest(history)
        assert config in [job.config for job in history.jobs]
        suggested.append(BRANIN.objective(config) - BRANIN.optimum)
        lucky.append(BRANIN.objective(history.jobs[history.best or 0].config) - BRANIN.optimum)
    assert np.mean(suggested) < 0.6 * np.mean(lucky)


def test_a_suggestion_is_never_a_failed_job_and_needs_a_result() -> None:
    history, bound = History(LINE), GaussianProcess().bind(Budget())
    with pytest.raises(MethodError, match="no result"):
        bound.suggest(history)
    for number, status in enumerate(["failed", "ok", "diverged"]):
        history.add(Job(number, {"x": number / 3}))
        history.add(Result(number, status, {"loss": 5.0} if status == "ok" else {}))  # type: ignore[arg-type]
    assert bound.suggest(history) == {"x": 1 / 3}


def test_the_direction_of_the_metric_is_that_of_the_user() -> None:
    objectives = {"accuracy": "max"}
    history = simulate(
        GaussianProcess(), lambda c: -((c["x"] - 0.8) ** 2), LINE, Budget(trials=20), objectives=objectives
    )
    assert abs(GaussianProcess().suggest(history)["x"] - 0.8) < 0.02


@pytest.mark.parametrize("batch", [1, 4])
def test_the_chain_of_fits_is_the_same_after_a_resume(batch: int) -> None:
    whole = simulate(GaussianProcess(), BRANIN.objective, BRANIN.space, Budget(trials=32), batch=batch)
    ours, theirs = model(whole, 8, 400), model(rebuild(whole), 8, 400)
    assert ours is not None and theirs is not None
    assert ours.posterior.theta.tobytes() == theirs.posterior.theta.tobytes()


def test_one_fit_a_batch() -> None:
    history = simulate(GaussianProcess(), BRANIN.objective, BRANIN.space, Budget(trials=32), batch=8)
    assert model(history, 8, 400) is not None
    chain = history.fold(("gaussian process", 8, 400), lambda: pytest.fail("the fold was not kept"), lambda c, e: c)
    assert isinstance(chain, Chain) and chain.fitted == 24 and chain.arrived == 32


def test_two_finite_results_are_enough_for_a_model() -> None:
    history = told(BRANIN.space, BRANIN.objective, 2)
    assert observed(history, 1, 100) is None and observed(history, 2, 100) is not None


def test_of_many_results_the_best_and_the_latest_are_kept() -> None:
    history = told(BRANIN.space, BRANIN.objective, 60)
    data = observed(history, 60, 20)
    assert data is not None and len(data.numbers) == 20
    values = history.values[:, 0]
    assert set(np.argsort(values)[:10]) <= set(data.numbers)
    others = sorted(set(range(60)) - set(np.argsort(values)[:10].tolist()))
    assert set(others[-10:]) <= set(data.numbers)
    assert len(GaussianProcess(points=20).bind(Budget()).propose(history, 2, Seeds(0))) == 2


def test_vectors_and_conditions_are_modelled() -> None:
    space = Space(
        kind=Choice(["a", "b"]),
        weights=Float(-1, 1, shape=(4,), when={"kind": "b"}),
        rate=Float(0, 1, when={"kind": "a"}),
    )

    def objective(config: Config) -> float:
        return config["rate"] + 0.5 if config["kind"] == "a" else sum((w - 0.3) ** 2 for w in config["weights"])

    history = simulate(GaussianProcess(), objective, space, Budget(trials=50))
    assert history.values[history.best, 0] < 0.08
    late = [job.config["kind"] for job in history.jobs[30:]]
    assert late.count("b") > 0.7 * len(late)


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"initial": 1}, "initial"), ({"batch": 0}, "batch"), ({"points": 5.5}, "points"), ({"batch": True}, "batch")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(MethodError, match=name):
        GaussianProcess(**settings).bind(Budget())


def test_what_it_cannot_model_is_refused() -> None:
    bound = GaussianProcess().bind(Budget())
    with pytest.raises(MethodError, match="2 objectives, loss, latency"):
        bound.propose(History(LINE, {"loss": "min", "latency": "min"}), 1, Seeds(0))
    with pytest.raises(MethodError, match="200 columns"):
        bound.propose(History(Space(x=Float(0, 1, shape=(200,)))), 1, Seeds(0))
    with pytest.raises(MethodError, match="0 columns"):
        bound.propose(History(Space()), 1, Seeds(0))


def test_linear_algebra_has_one_thread_within_a_proposal_and_what_it_had_after_it() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    with one_thread():
        assert set(threads()) == {1}
    assert threads() == before


def hartmann(config: Config) -> float:
    """Hartmann's function of six numbers, lowest at -3.32237 (Dixon and Szegö, 1978)."""
    x = np.array(config["x"])
    a = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    p = 1e-4 * np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    return float(-np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(a * (x - p) ** 2).sum(axis=1)))


@pytest.mark.slow
def test_it_reaches_known_optima_far_sooner_than_random_search() -> None:
    space = Space(x=Float(0, 1, shape=(6,)))
    found = [simulate(GaussianProcess(), hartmann, space, Budget(trials=70), seed).values.min() for seed in range(6)]
    random = [simulate(Random(), hartmann, space, Budget(trials=700), seed).values.min() for seed in range(6)]
    assert np.median(found) < -3.15 and np.median(found) < np.median(random) - 0.2
    found = [
        simulate(GaussianProcess(), BRANIN.objective, BRANIN.space, Budget(trials=40), seed).values.min()
        for seed in range(6)
    ]
    assert np.median(found) < BRANIN.optimum + 1e-3


@pytest.mark.slow
def test_eight_at_once_lose_little() -> None:
    lowest: dict[int, list[float]] = {1: [], 8: []}
    space = Space(x=Float(0, 1, shape=(6,)))
    for seed in range(6):
        for batch in lowest:
            history = simulate(GaussianProcess(), hartmann, space, Budget(trials=96), seed, batch=batch)
            lowest[batch].append(float(history.values.min()))
    reductions = {batch: np.mean([-0.3 - value for value in values]) for batch, values in lowest.items()}
    assert reductions[8] > 0.8 * reductions[1]


@pytest.mark.slow
def test_the_fits_of_300_results_take_seconds() -> None:
    import time

    begin = time.process_time()
    simulate(GaussianProcess(), BRANIN.objective, BRANIN.space, Budget(trials=300))
    assert time.process_time() - begin < 30.0


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_long_runs_in_every_space_stay_valid(name: str) -> None:
    space = SPACES[name]
    history = simulate(GaussianProcess(), lambda c: float(len(str(c)) % 7), space, Budget(trials=120), batch=5)
    assert len({str(job.config) for job in history.jobs}) == len(history)
