"""Successive halving by stopping: its decisions against the definition, and the same for a function and a Trainable."""

from __future__ import annotations

import math
from typing import Any

import pytest

import luthier as lt
from luthier.errors import MethodError
from luthier.jobs import PRUNED, Budget, History, Job, Report
from luthier.propose.asha import ASHA
from luthier.propose.freeze_thaw import FreezeThaw
from luthier.propose.hyperband import Hyperband
from luthier.propose.stopping import Stopping
from luthier.space import Config, Float, Space
from luthier.testing import simulate
from luthier.testing.problems import decay

RATE = Space(lr=Float(1e-5, 1e2, log=True))


def by_definition(history: History, eta: int, steps: list[int], skip: list[int]) -> dict[int, int]:
    """Jobs that have to stop, and the step at which each does: the reports once more, in order, rung by rung."""
    values: dict[tuple[int, int], list[float]] = {}
    reached: dict[int, int] = {}
    stopped: dict[int, int] = {}
    for event in history.events:
        if isinstance(event, Report):
            first = skip[event.number]
            rung = reached.get(event.number, first)
            while rung < len(steps) and event.step >= steps[rung]:
                loss = event.metrics["loss"]
                others = values.setdefault((first, rung), [])
                others.append(loss if math.isfinite(loss) else math.inf)
                better = sum(value < others[-1] for value in others)
                if better >= max(1, len(others) // eta) or others[-1] == math.inf:
                    stopped.setdefault(event.number, event.step)
                rung += 1
                reached[event.number] = rung
    return stopped


def test_it_stops_what_the_definition_stops() -> None:
    budget = Budget(trials=60, steps=27)
    for method, every, workers in ((Stopping(), 1, 1), (Stopping(rungs=3), 2, 3), (Stopping(brackets=None), 1, 4)):
        history = simulate(method, decay, RATE, budget, stateful=True, report_every=every, workers=workers)
        milestones = [budget.steps_for({}, 3.0 ** (rung + 1 - method.rungs)) for rung in range(method.rungs - 1)]
        skip = [int(job.tag["bracket"]) for job in history.jobs]
        stopped = by_definition(history, 3, milestones, skip)
        pruned = [number for number in range(len(history)) if history.status[number] == PRUNED]
        assert pruned == sorted(number for number in stopped if stopped[number] < 27) and len(pruned) > 15
        assert all(history.age[number] == stopped[number] for number in pruned)
        plain = simulate(lt.propose.Random(), decay, RATE, budget, stateful=True)
        assert [job.config for job in history.jobs] == [job.config for job in plain.jobs], "random search chooses"


def test_brackets_are_those_of_hyperband_and_the_last_kind_never_stops() -> None:
    promoting = simulate(Hyperband(rungs=3), decay, RATE, Budget(trials=40, steps=27), stateful=True)
    first = [job for job in promoting.jobs if job.parent is None]
    stopping = simulate(
        Hyperband(rungs=3).stopping(), decay, RATE, Budget(trials=40, steps=27), stateful=True, report_every=1
    )
    assert [job.tag["bracket"] for job in stopping.jobs] == [int(job.tag["bracket"]) % 3 for job in first]
    last = [job.number for job in stopping.jobs if job.tag["bracket"] == 2]
    assert last and all(stopping.age[number] == 27 for number in last)


def test_what_is_not_finite_is_stopped_and_the_inner_proposer_learns_of_the_first_rung() -> None:
    bound, history = Stopping(inner="genetic", rungs=2, eta=2).bind(Budget(trials=40, steps=10)), History(RATE)
    for number in range(8):
        history.add(Job(number, {"lr": 0.1}, 10, tag={"bracket": 0}))
        history.add(Report(number, 1, {"accuracy": 0.5}))
        assert not bound.stop(history, number), "it has not reported what is compared"
        history.add(Report(number, 6, {"loss": math.nan if number % 2 else 8.0 - number}))
        assert bound.stop(history, number) == bool(number % 2), "each finite one is the best so far"
    seen = bound._state(history).seen
    assert seen.values[[0, 2, 4, 6], 0].tolist() == [8, 6, 4, 2] and not seen.pending and seen.best == 6


def test_a_function_is_stopped_where_a_trainable_is_and_the_study_resumes(tmp_path: Any) -> None:
    def function(config: Config, trial: lt.Trial) -> float:
        loss: Any = None
        for step in range(1, trial.steps + 1):
            value, loss = decay(config, 1, loss)
            trial.report(step, loss=value)
        return value

    class Training:
        report_every = 1

        def init(self, config: Config, key: int) -> Any:
            return None

        def advance(self, state: Any, config: Config, steps: int) -> Any:
            value, state = decay(config, steps, state)
            return state, {"loss": value}

        def evaluate(self, state: Any) -> dict[str, float]:
            return {"loss": state}

    settings: dict[str, Any] = {"space": RATE, "trials": 40, "steps": 27, "seed": 3, "progress": False}
    for name, method in (("asha", ASHA()), ("hyperband", Hyperband())):
        whole = lt.tune(function, name, **settings)
        trainable = lt.tune(Training(), method.stopping(), **settings)
        ends = [[(trial.status, trial.steps, trial.config) for trial in study.trials] for study in (whole, trainable)]
        assert ends[0] == ends[1] and sum(status == "pruned" for status, *_ in ends[0]) > 10
        kept: dict[str, Any] = {**settings, "store": tmp_path / "study.db", "name": name}
        lt.tune(function, name, **{**kept, "trials": 15})
        again = lt.tune(function, name, **kept)
        assert [(trial.status, trial.steps, trial.config) for trial in again.trials] == ends[0]


def test_methods_that_only_continue_trainings_refuse_functions() -> None:
    with pytest.raises(MethodError, match="continues trainings"):
        lt.tune(lambda config: config["lr"], "pbt", space=RATE, trials=9, steps=81, progress=False)


def test_asha_continues_nothing_that_it_has_let_go() -> None:
    """Long trainings diverge, so that the study has to go back again and again to what was not promoted."""

    def training(config: Config, steps: int, age: int | None) -> tuple[float, int]:
        age = (age or 0) + steps
        return math.nan if age > 1 and config["lr"] < 10 else config["lr"], age

    class Watch:
        def bind(self, budget: Budget) -> Any:
            self.inner, self.gone = ASHA(rungs=3).bind(budget), set[int]()
            return self

        def propose(self, history: History, count: int, seeds: Any) -> list[Job]:
            jobs = self.inner.propose(history, count, seeds)
            assert not self.gone & {job.parent for job in jobs}, "a training whose state was removed"
            self.gone |= set(history.arrival) - self.inner.parents(history)
            return jobs

    for seed in range(5):
        for workers in (1, 3):
            watch: Any = Watch()
            budget = Budget(trials=60, steps=9)
            history = simulate(watch, training, RATE, budget, seed, stateful=True, workers=workers, limit=500)
            assert not history.pending and 60 < len(history) < 90 and len(watch.gone) > 20


@pytest.mark.parametrize("method", [ASHA(), Hyperband(), Stopping(), Stopping(brackets=None), FreezeThaw(initial=3)])
def test_rungs_are_as_many_as_the_steps_have_room_for(method: Any) -> None:
    for steps, rungs in ((3, 2), (8, 2), (9, 3), (26, 3), (27, 4), (1000, 4)):
        assert method.bind(Budget(trials=9, steps=steps)).rungs == rungs
    history = simulate(method, decay, RATE, Budget(trials=9, steps=9), stateful=True, report_every=1)
    assert history.age.max() == 9 and history.steps.sum() < 81, "one is trained whole, and not all"
    with pytest.raises(MethodError, match="steps=2 cannot be cut into 3 parts"):
        method.bind(Budget(trials=9, steps=2))
