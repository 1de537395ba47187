"""Genetic search: where genes come from, when a generation begins, and which weights are inherited."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import Budget, History, Job
from luthier.propose.genetic import PAPER_SPACE, Genetic
from luthier.propose.random import Random
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.study.study import Study
from luthier.testing import simulate
from tests.networks import digits_task

SPACE = Space(lr=Float(1e-4, 1.0, log=True), momentum=Float(0.0, 0.9), width=Int(8, 512, log=True))


def value(config: Config) -> float:
    return abs(np.log10(config["lr"]) + 2) + (config["momentum"] - 0.8) ** 2 + abs(config["width"] - 64) / 512


def half(history: History, generation: int, size: int) -> list[int]:
    ended = [n for n in range(generation * size, (generation + 1) * size) if history.status[n] == 1]
    return sorted(ended, key=lambda n: history.values[n, 0])[: max(2, (len(ended) + 1) // 2)]


def test_the_first_generation_is_random_search() -> None:
    ours = simulate(Genetic(population=12), value, SPACE, Budget(trials=12))
    random = simulate(Random(), value, SPACE, Budget(trials=12))
    assert [job.config for job in ours.jobs] == [job.config for job in random.jobs]


def test_genes_come_from_the_better_half() -> None:
    history = simulate(Genetic(population=20, elite=0, mutation=0.0, distinct=False), value, SPACE, Budget(trials=100))
    picks = {name: 0 for name in SPACE}
    for job in history.jobs[20:]:
        parents = [history.jobs[n].config for n in half(history, job.number // 20 - 1, 20)]
        for name in SPACE:
            assert job.config[name] in [parent[name] for parent in parents]
        picks = {name: picks[name] + (job.config[name] == parents[0][name]) for name in SPACE}
        assert job.tag == {"generation": job.number // 20} and job.parent is None
    assert history.values[80:].mean() < history.values[:20].mean()


@pytest.mark.parametrize(("mutation", "expected"), [(0.2, 0.2), (1.0, 1.0)])
def test_the_rate_and_the_distribution_of_mutations(mutation: float, expected: float) -> None:
    method = Genetic(population=1000, elite=0, mutation=mutation, distinct=False)
    history = simulate(method, value, SPACE, Budget(trials=2000), batch=500)
    parents = half(history, 0, 1000)
    for name in ("lr", "momentum"):
        old = {history.jobs[n].config[name] for n in parents}
        new = [job.config[name] for job in history.jobs[1000:] if job.config[name] not in old]
        assert abs(len(new) / 1000 - expected) < 0.04, "5 standard deviations are 0.063"
        codes = np.log10(new) / 4 + 1 if name == "lr" else np.array(new) / 0.9
        counts, _ = np.histogram(codes, bins=5, range=(0, 1))
        mean = len(new) / 5
        assert ((counts - mean) ** 2 / mean).sum() < 18.5, "uniform on the scale: chi squared, 4 degrees, 0.1 %"


def test_the_elite_stays_among_the_parents_and_is_not_trained_again() -> None:
    def falling(config: Config) -> float:  # the first generation is the best: all later ones are punished
        calls.append(0)
        return value(config) + (100 if len(calls) > 10 else 0)

    calls: list[int] = []
    history = simulate(Genetic(10, mutation=0.0, elite=3, distinct=False), falling, SPACE, Budget(trials=60))
    elite = half(history, 0, 10)[:3]
    from_elite = 0
    for job in history.jobs[20:]:
        last = half(history, job.number // 10 - 1, 10)
        genes = {value for n in last for value in history.jobs[n].config.values()}
        old = {value for n in elite for value in history.jobs[n].config.values()}
        assert set(job.config.values()) <= genes | old
        from_elite += not set(job.config.values()) <= genes
    assert from_elite >= 5
    configs = {tuple(job.config.values()) for job in simulate(Genetic(10), value, SPACE, Budget(trials=80)).jobs}
    assert len(configs) == 80


def test_a_generation_begins_when_the_one_before_has_ended_in_any_way() -> None:
    study = Study("genetic", SPACE, method=Genetic(population=4), trials=12)
    first = study.ask(10)
    assert len(first) == 4 and study.ask(1) == []
    study.tell(first[0], 1.0)
    study.tell(first[1], status="failed", error="no memory")
    study.tell(first[2], float("nan"))
    assert study.ask(1) == []
    study.tell(first[3], status="pruned", metrics={"loss": 0.5})
    second = study.ask(10)
    assert len(second) == 4 and {job.tag["generation"] for job in second} == {1}
    fresh = [SPACE.sample(Seeds(0).rng(job.number, "propose")) for job in second]
    assert [job.config for job in second] == fresh, "one result is no pair of parents"


def test_a_last_generation_takes_what_is_left_and_a_study_can_be_extended() -> None:
    short = simulate(Genetic(population=8), value, SPACE, Budget(trials=20))
    longer = simulate(Genetic(population=8), value, SPACE, Budget(trials=32))
    assert len(short) == 20 and longer.jobs[:20] == short.jobs
    assert len(simulate(Genetic(8, generations=3), value, SPACE, Budget())) == 24


def test_conditions_hold_in_children() -> None:
    space = Space(
        optimizer=Choice(["sgd", "adam"]),
        momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
        beta=Float(0.8, 0.999, when={"optimizer": "adam"}),
        lr=Float(1e-4, 1.0, log=True),
    )
    method = Genetic(population=20, mutation=0.3, nudge=0.5)
    history = simulate(method, lambda config: config["lr"], space, Budget(trials=400))
    for job in history.jobs:
        assert space.check(job.config) == job.config
    assert {job.config["optimizer"] for job in history.jobs[300:]} == {"sgd", "adam"}


def test_nudges_are_small_and_resets_are_not() -> None:
    far = {}
    for nudge in (0.0, 1.0):
        method = Genetic(population=200, elite=0, mutation=0.5, nudge=nudge, distinct=False)
        history = simulate(method, lambda config: config["momentum"] % 0.01, SPACE, Budget(trials=400), batch=200)
        old = np.array([history.jobs[n].config["momentum"] for n in half(history, 0, 200)])
        new = [job.config["momentum"] for job in history.jobs[200:] if job.config["momentum"] not in old]
        assert 60 < len(new) < 140
        far[nudge] = np.mean([job.config["lr"] for job in history.jobs[200:]])
        codes = history.codes[200:, 0][:, None] - history.codes[half(history, 0, 200), 0][None]
        moved = np.abs(codes).min(axis=1)
        assert (moved[moved > 0] < 0.02).mean() > 0.5  # 100 parents fill the range; what counts is that both run
    assert far[0.0] != far[1.0]


def training(config: Config, steps: int, state: Any) -> tuple[float, Any]:
    """The state is the way so far: (steps, lr, width) of each part; the width may not change on it."""
    way = [*(state or []), (steps, config["lr"], config["width"])]
    assert len({width for _, _, width in way}) == 1, "weights of one width go on under another"
    return sum(s * abs(np.log10(lr) + 2) for s, lr, _ in way) / sum(s for s, *_ in way), way


@pytest.mark.parametrize("inherit", ["parent", "best"])
def test_inherited_weights_go_on_for_the_whole_budget_under_their_own_static_values(inherit: Any) -> None:
    method = Genetic(population=6, inherit=inherit, elite=1)
    history = simulate(method, training, SPACE, Budget(trials=24, steps=5), stateful=True)
    assert (history.status == 1).all() and (history.steps == 5).all()
    changed = 0
    for job in history.jobs[6:]:
        generation, place = divmod(job.number, 6)
        assert history.age[job.number] == 5 * (generation + 1)
        parents = half(history, generation - 1, 6)
        assert job.parent in parents
        assert inherit == "parent" or job.parent == parents[0]
        source = history.jobs[job.parent].config
        assert job.config["width"] == source["width"]
        if place == 0:
            assert job.parent == parents[0] and job.config == source, "the elite trains on, unchanged"
        changed += job.config != source
    assert changed > 8
    free = Genetic(population=6, inherit=inherit, mutate=["lr", "width"])
    moved = simulate(free, lambda config: value(config), SPACE, Budget(trials=24, steps=5))
    widths = [(job.config["width"], moved.jobs[job.parent].config["width"]) for job in moved.jobs[6:] if job.parent]
    assert any(a != b for a, b in widths)


def test_only_inheritance_needs_tasks_that_can_be_continued() -> None:
    assert Genetic().parents is None and Genetic(inherit="best").parents
    study = lt.tune(value, Genetic(population=5), space=SPACE, trials=10, progress=False)
    assert len(study.trials) == 10
    with pytest.raises(MethodError, match="continues trainings"):
        lt.tune(value, Genetic(inherit="parent"), space=SPACE, trials=10, progress=False)


@pytest.mark.parametrize("inherit", ["none", "parent", "best"])
def test_it_trains_digits(inherit: Any) -> None:
    study = lt.tune(digits_task(), Genetic(4, inherit=inherit), trials=12, steps=33, seed=1, progress=False)
    assert (study.history.status == 1).all() and study.best is not None
    assert study.history.age.max() == (33 if inherit == "none" else 99)
    assert len(list(study.model().parameters())) == 4


def test_the_weights_that_are_given_up_are_never_asked_for() -> None:
    bound = Genetic(population=5, inherit="parent").bind(Budget(trials=25, steps=3))
    history, given_up, before = History(SPACE), set(), set()
    while jobs := bound.propose(history, 2, Seeds(0)):
        assert not {job.parent for job in jobs} & given_up
        results = [lt.Result(job.number, "ok", {"loss": value(job.config)}, job.steps) for job in jobs]
        for event in (*jobs, *results):
            history.add(event)
            given_up |= before - bound.parents(history)
            before = bound.parents(history)
    assert len(given_up) >= 20 and before == set()


def test_the_paper() -> None:
    method = Genetic.paper()
    history = simulate(method, lambda config: config["lr"], PAPER_SPACE, Budget(trials=30))
    assert len(history) == 30 and (method.mutation, method.elite, method.inherit) == (0.2, 0, "none")
    for job in history.jobs:
        assert 1e-4 <= job.config["lr"] <= 1.0 and job.config["momentum"] <= 0.9 and job.config["weight_decay"] <= 0.1
    assert np.mean([job.config["lr"] for job in history.jobs[:10]]) > 0.3, "uniform, not log-uniform, as printed"


@pytest.mark.parametrize(
    ("method", "budget", "words"),
    [
        (Genetic(population=1), Budget(), r"population must be .* got 1"),
        (Genetic(mutation=1.5), Budget(), r"mutation must be .* got 1\.5"),
        (Genetic(elite=10), Budget(), r"elite must be .* got 10"),
        (Genetic(inherit="all"), Budget(), r"inherit must be .* got 'all'"),  # type: ignore[arg-type]
        (Genetic(10, generations=3), Budget(trials=31), "trials=31"),
        (Genetic(generations=0), Budget(), r"generations must be .* got 0"),
    ],
)
def test_impossible_settings_are_refused(method: Genetic, budget: Budget, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        method.bind(budget)


def test_equal_configurations_are_avoided() -> None:
    space = Space(a=Choice(["x", "y", "z"]), b=Int(0, 9), c=Float(0, 1))  # no finite one: there nothing comes twice
    seen = {}
    for distinct in (True, False):
        method = Genetic(population=10, distinct=distinct)
        history = simulate(method, lambda config: config["b"] + config["c"], space, Budget(trials=100))
        seen[distinct] = len({tuple(job.config.values()) for job in history.jobs})
    assert seen[True] > seen[False] + 5
    assert isinstance(history.jobs[0], Job)
