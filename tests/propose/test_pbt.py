"""Population based training: who copies whom, what is copied, and where the hyperparameters may go."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job, Result
from luthier.propose.grid import Grid
from luthier.propose.pbt import PBT, explore
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.study.study import Study
from luthier.testing import simulate
from luthier.testing.problems import decay

RATE = Space(lr=Float(1e-5, 1e2, log=True))


def rounds_of(history: History) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for job in history.jobs:
        found.setdefault(job.tag["round"], []).append(job.number)
    return found


def run(method: PBT, trials: int = 10, steps: int = 90, **settings: Any) -> History:
    return simulate(method, decay, RATE, Budget(trials=trials, steps=steps), stateful=True, **settings)


def test_the_worst_copy_the_best_and_all_others_go_on_unchanged() -> None:
    history = run(PBT(rounds=3))
    rounds = rounds_of(history)
    assert [len(numbers) for numbers in rounds.values()] == [10, 10, 10]
    for round_ in (1, 2):
        ranked = sorted(rounds[round_ - 1], key=lambda n: history.values[n, 0])
        top, bottom = set(ranked[:2]), set(ranked[-2:])
        for number in rounds[round_]:
            job, own = history.jobs[number], number - 10
            if own in bottom:
                assert job.parent in top
                assert job.config != history.jobs[job.parent].config
            else:
                assert job.parent == own and job.config == history.jobs[own].config
    assert history.steps.sum() == 10 * 90 and set(history.age[rounds[2]]) == {90}


def test_a_tournament_is_between_two() -> None:
    history = run(PBT(rounds=6, exploit="tournament"), trials=8)
    copies = [job for job in history.jobs if job.parent is not None and job.parent != job.number - 8]
    assert len(copies) > 8
    for job in copies:
        assert history.values[job.parent, 0] < history.values[job.number - 8, 0]
    kept = [job for job in history.jobs if job.parent is not None and job.parent == job.number - 8]
    assert all(job.config == history.jobs[job.parent].config for job in kept if job.parent is not None)


EVERYTHING = Space(
    lr=Float(1e-5, 1.0, log=True),
    momentum=Float(0.0, 0.99),
    shift=Float(-1.0, 1.0),
    decays=Float(1e-6, 1e-1, log=True, shape=(3,)),
    width=Int(8, 512, log=True),
    depth=Int(0, 3),
    constant=Int(7, 7),
    batch_size=Choice([16, 32, 64], ordered=True),
    activation=Choice(["relu", "tanh", None]),
    optimizer=Choice(["sgd", "adam"]),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
    beta=Float(0.8, 0.999, when={"optimizer": "adam"}),
)


def test_ten_thousand_mutations_stay_inside_every_kind_of_domain() -> None:
    rng = np.random.default_rng(0)
    config = EVERYTHING.sample(rng)
    seen: dict[str, set[Any]] = {name: set() for name in EVERYTHING}
    at_bound = 0
    for i in range(10_000):
        factors = (0.8, 1.2) if i % 2 else (0.1, 10.0)
        config = explore(EVERYTHING, config, EVERYTHING.names, rng, factors, resample=0.1)
        assert repr(EVERYTHING.check(config)) == repr(config)
        at_bound += config["momentum"] in (0.0, 0.99)
        for name, value in config.items():
            seen[name].add(json.dumps(value))
    assert at_bound > 100, "the walk should have been stopped by bounds"
    assert all(len(seen[name]) > 1_000 for name in ("lr", "momentum", "shift", "decays", "beta"))
    assert len(seen["depth"]) == 4 and len(seen["batch_size"]) == len(seen["activation"]) == 3


def test_only_the_named_hyperparameters_move() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        config = EVERYTHING.sample(rng)
        moved = explore(EVERYTHING, config, ["lr", "depth"], rng, (0.8, 1.2), 0.25)
        assert {name for name in config if moved[name] != config[name]} <= {"lr", "depth"}
        assert moved["lr"] != config["lr"]


def mixed(config: Config, steps: int, state: tuple[int, ...] | None) -> tuple[float, tuple[int, ...]]:
    """A training that fails where weights of one width and depth go on under others."""
    shape = (config["width"], config["depth"])
    assert state is None or state == shape, "the weights do not fit"
    return abs(math.log10(config["lr"]) + 2) + 0.1 * config["depth"] + config["width"] / 512, shape


@pytest.mark.parametrize("asynchronous", [False, True])
def test_names_that_shape_the_network_change_with_the_weights_only(asynchronous: bool) -> None:
    space = Space(lr=Float(1e-5, 1.0, log=True), width=Int(8, 512, log=True), depth=Int(0, 3))
    budget = Budget(trials=12, steps=8)
    history = simulate(PBT(rounds=8, asynchronous=asynchronous), mixed, space, budget, stateful=True, workers=3)
    assert (history.status == 1).all()
    shapes = {(job.config["width"], job.config["depth"]) for job in history.jobs}
    assert len(shapes) == 12
    history = simulate(PBT(rounds=8, fresh=4), mixed, space, budget, stateful=True)
    fresh = [job for job in history.jobs if job.tag.get("fresh")]
    assert len(fresh) == 4 and len({(job.config["width"], job.config["depth"]) for job in history.jobs}) == 12
    assert all(job.parent is None and job.steps == job.tag["round"] + 1 for job in fresh), "they catch up at once"
    assert set(history.age[rounds_of(history)[7]]) == {8}


def test_a_member_that_failed_copies_another() -> None:
    for seed in range(5):
        history = run(PBT(rounds=6), failures={"failed": 0.3, "diverged": 0.1}, seed=seed)
        assert len(history) == 60
        for job in history.jobs:
            assert job.parent is None or history.status[job.parent] == 1


def test_a_round_that_was_lost_is_made_up_for() -> None:
    study = Study("lost", RATE, method=PBT(rounds=4), trials=3, steps=8)
    while jobs := study.ask(3):
        for job in jobs:
            lost = job.tag["round"] == 2
            study.tell(job, None if lost else {"loss": job.config["lr"]}, status="failed" if lost else None)
    history = study.history
    assert len(history) == 12
    for number in rounds_of(history)[3]:
        parent = history.jobs[number].parent
        assert parent is not None and history.jobs[parent].tag["round"] == 1
        assert history.jobs[number].steps == 4 and history.age[number] == 8, "it has to catch up"


def test_when_all_is_lost_it_begins_again() -> None:
    history = run(PBT(rounds=3), trials=4, steps=9, failures={"failed": 1.0})
    assert len(history) == 12 and all(job.parent is None for job in history.jobs)
    assert [job.steps for job in history.jobs] == [3] * 4 + [6] * 4 + [9] * 4


def test_steps_add_up_where_they_cannot_be_divided() -> None:
    history = run(PBT(rounds=4), trials=4, steps=10)
    assert set(history.age[rounds_of(history)[3]]) == {10}
    space = Space(lr=Float(1e-3, 1.0, log=True), batch_size=Choice([16, 32], ordered=True))
    budget = Budget(trials=6, epochs=2, epoch_steps=lambda config: 320 // config["batch_size"])
    method = PBT(rounds=5, mutate=["lr", "batch_size"], resample=0.5)
    history = simulate(method, lambda config: config["lr"], space, budget)
    for number in rounds_of(history)[4]:
        epochs, link = 0.0, number
        while link is not None:
            job = history.jobs[link]
            epochs += job.steps * job.config["batch_size"] / 320
            link = job.parent
        assert epochs == pytest.approx(2.0, abs=0.051), "an epoch has other steps under another batch size"


def test_batches_and_workers_give_the_same_schedule_and_other_seeds_another() -> None:
    one = run(PBT(rounds=5), seed=3)
    for settings in ({"batch": 7}, {"workers": 4}, {"workers": 3, "batch": 2}):
        assert run(PBT(rounds=5), seed=3, **settings).jobs == one.jobs
    assert run(PBT(rounds=5), seed=4).jobs != one.jobs


def test_asynchronous_members_do_not_wait() -> None:
    waited = run(PBT(rounds=5), workers=10)
    free = run(PBT(rounds=5, asynchronous=True), workers=10)
    for history, waits in ((waited, True), (free, False)):
        ended: dict[int, int] = {}
        early = 0
        for event in history.events:
            if isinstance(event, Result):
                round_ = history.jobs[event.number].tag["round"]
                ended[round_] = ended.get(round_, 0) + 1
            elif isinstance(event, Job) and event.tag["round"]:
                early += ended[event.tag["round"] - 1] < 10
        assert (early == 0) == waits
        assert len(history) == 50 and set(history.age[rounds_of(history)[4]]) == {90}
    for job in free.jobs:
        if job.parent is not None:
            assert free.jobs[job.parent].tag["round"] == job.tag["round"] - 1, (
                "only members of the same age are compared"
            )


def test_the_states_that_may_be_named_are_kept_and_no_others() -> None:
    for method in (PBT(rounds=6), PBT(rounds=6, asynchronous=True), PBT(rounds=6, exploit="tournament", fresh=2)):
        bound = method.bind(Budget(trials=10, steps=90))
        named: list[set[int]] = []
        note = named.append

        class Watched:
            def bind(self, budget: Budget) -> Any:
                return self

            def propose(self, history: History, count: int, seeds: Seeds, bound: PBT = bound, note: Any = note) -> Any:
                kept = bound.parents(history)
                jobs = bound.propose(history, count, seeds)
                assert {job.parent for job in jobs if job.parent is not None} <= kept
                note(kept)
                return jobs

        watched: Any = Watched()
        history = simulate(watched, decay, RATE, Budget(), stateful=True, workers=3, failures={"failed": 0.1})
        assert max(map(len, named)) <= 31 and bound.parents(history) == set()
        for i, (before, after) in enumerate(pairwise(named)):  # what was given up is never asked for again
            assert not any((before - after) & later for later in named[i + 1 :])


def surrogate(config: Config, steps: int, state: list[float] | None) -> tuple[float, list[float]]:
    """Gradient ascent on 1.2 - h0 θ0² - h1 θ1² from (0.9, 0.9); what counts is 1.2 - θ0² - θ1² (the paper's fig. 2)."""
    theta = [0.9, 0.9] if state is None else list(state)
    for _ in range(steps):
        theta = [t - 0.02 * h * t for t, h in zip(theta, (config["h0"], config["h1"]), strict=True)]
    return -(1.2 - theta[0] ** 2 - theta[1] ** 2), theta


def test_figure_two_of_the_paper() -> None:
    space = Space(h0=Float(0.0, 1.0), h1=Float(0.0, 1.0))
    budget = Budget(trials=2, steps=800)
    grid = Grid(points={"h0": [0.0, 1.0], "h1": [0.0]})
    fixed = [
        -surrogate({"h0": 1.0, "h1": 0.0}, 800, None)[0],
        -surrogate({"h0": 0.0, "h1": 1.0}, 800, None)[0],
    ]
    fixed.append(-float(simulate(grid, surrogate, space, budget, stateful=True).values.min()))
    assert max(fixed) < 0.4, "neither half of the surrogate leads to the optimum"
    for seed in range(5):
        history = History(space)
        for slot, (h0, h1) in enumerate(((1.0, 0.0), (0.0, 1.0))):
            history.add(Job(slot, {"h0": h0, "h1": h1}, 20, None, {"slot": slot, "round": 0}))
        simulate(PBT(rounds=40), surrogate, space, budget, seed, stateful=True, history=history)
        assert -history.values.min() > 1.19


@pytest.mark.parametrize(
    ("method", "budget", "words"),
    [
        (PBT(rounds=1), Budget(trials=4, steps=10), r"rounds must be .* got 1"),
        (PBT(), Budget(trials=4, steps=9), "steps=9"),
        (PBT(), Budget(trials=4), "neither steps nor epochs"),
        (PBT(), Budget(steps=100), "trials=None"),
        (PBT(fresh=3), Budget(trials=4, steps=10), "fresh=3"),
        (PBT(quantile=0.6), Budget(trials=4, steps=10), r"quantile must be .* got 0\.6"),
        (PBT(factors=()), Budget(trials=4, steps=10), "factors="),
        (PBT(factors=(0.8, -1)), Budget(trials=4, steps=10), r"factors must be .* got \-1"),
        (PBT(mutate="lr"), Budget(trials=4, steps=10), "mutate='lr'"),
        (PBT(exploit="best"), Budget(trials=4, steps=10), r"exploit must be .* got 'best'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_refused(method: PBT, budget: Budget, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        method.bind(budget)


def test_unknown_and_missing_names_are_refused() -> None:
    bound = PBT(mutate=["rate"]).bind(Budget(trials=4, steps=10))
    with pytest.raises(MethodError, match="mutate='rate'"):
        bound.propose(History(RATE), 1, Seeds(0))
    bound = PBT().bind(Budget(trials=4, steps=10))
    with pytest.raises(MethodError, match="no Float"):
        bound.propose(History(Space(n=Int(1, 4))), 1, Seeds(0))
