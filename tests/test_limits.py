"""Limits on metrics: what lies outside is a result and never the best, for methods, stores, pages and the shell."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import luthier as lt
from luthier import limits
from luthier.cli import app
from luthier.errors import MethodError, StudyError
from luthier.jobs import Budget, History, Job, Report, Result
from luthier.propose.inner import first_results
from luthier.seeds import Seeds
from luthier.store import open_store
from luthier.study.export import rows_to_csv
from luthier.testing import simulate
from luthier.testing.simulation import rebuild
from luthier.trials import front

SPACE = lt.Space(x=lt.Float(-1.0, 1.0), y=lt.Float(-1.0, 1.0))
LIMITS = {"latency": (None, 10.0)}  # x at least 0.5, so the best is x=0.5, y=0 with loss 0.25


def bowl(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["x"] ** 2 + config["y"] ** 2, "latency": 20.0 * (1.0 - config["x"])}


def tune(task: Any = bowl, method: Any = "random", **changes: Any) -> lt.Study:
    return lt.tune(task, method, **{"space": SPACE, "trials": 20, "limits": LIMITS, "progress": False, **changes})


def small_task() -> lt.TorchTask:
    return lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 1.0, log=True)),
        model=lambda _: torch.nn.Linear(2, 1),
        data=lt.Splits(
            train=lt.Split(torch.ones(8, 2), torch.ones(8, 1)), valid=lt.Split(torch.ones(8, 2), torch.ones(8, 1))
        ),
        loss=lt.losses.mean_squared_error,
    )


def told(rows: list[dict[str, float] | str], bounds: Any = LIMITS, **objectives: str) -> History:
    """A history with these results in order; a text is the error of a failure."""
    history = History(SPACE, objectives or {"loss": "min"}, bounds)
    for number, row in enumerate(rows):
        history.add(Job(number, {"x": 0.0, "y": 0.0}))
        failed = isinstance(row, str)
        history.add(Result(number, "failed", error=row) if failed else Result(number, "ok", row, 1))  # type: ignore[arg-type]
    return history


def test_what_lies_outside_ranks_below_all_that_lies_inside_and_by_its_violation() -> None:
    rows: list[dict[str, float] | str] = [
        {"loss": 0.0, "latency": 30.0},  # twice the bound too much
        {"loss": 1e299, "latency": 10.0},  # the bound itself is inside
        {"loss": 0.5, "latency": 10.5},
        {"loss": 0.5},  # without the metric nothing is known to be kept
        {"loss": 0.1, "latency": math.nan},
        {"loss": 7.0, "latency": -5.0},
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB at train.py:3 in train\n  more",
        "ValueError: a message about an OutOfMemoryError",
    ]
    history = told(rows)
    assert history.violation[:3].tolist() == [2.0, 0.0, 0.05] and history.violation[5] == 0
    assert np.isinf(history.violation[[3, 4, 6]]).all() and np.isnan(history.violation[7])
    order = np.argsort(history.values[:6, 0], kind="stable").tolist()
    assert order == [5, 1, 2, 0, 3, 4] and np.isfinite(history.values[:6]).all() and np.isnan(history.values[6:]).all()
    assert history.best == 5 and history.good.tolist() == [False, True, False, False, False, True, False, False]
    assert history.measured[:6, 0].tolist() == [0.0, 1e299, 0.5, 0.5, 0.1, 7.0]  # what was measured stays
    levels = limits.levelled(history.values[:6, 0])
    assert np.argsort(levels, kind="stable").tolist() == order and levels.max() < 3e299
    assert math.isnan(told(rows, bounds=None).violation[6])  # without limits a failure is a failure


def test_violations_of_different_units_add_up() -> None:
    bounds = {"latency": (None, 10.0), "accuracy": (0.9, 1.0), "drift": (-1.0, None), "bias": (0.0, 0.0)}
    inside = {"latency": 1.0, "accuracy": 0.95, "drift": 3.0, "bias": 0.0}
    assert limits.violation(bounds, inside) == 0
    assert limits.violation(bounds, {**inside, "latency": 15.0, "accuracy": 0.85}) == pytest.approx(0.5 + 0.5)
    assert limits.violation(bounds, {**inside, "drift": -2.0, "bias": -0.25}) == pytest.approx(1.0 + 0.25)


def test_several_objectives_and_those_that_are_maximised() -> None:
    rows = [{"gain": 9.0, "cost": 0.0, "latency": 11.0}, {"gain": 3.0, "cost": 2.0, "latency": 1.0}]
    rows += [{"gain": 5.0, "cost": 4.0, "latency": 1.0}, {"gain": 2.0, "cost": 3.0, "latency": 1.0}]
    history = told([*rows], gain="max", cost="min")
    assert history.values[1:].tolist() == [[-3.0, 2.0], [-5.0, 4.0], [-2.0, 3.0]] and history.best == 2
    assert (history.values[0] > 1e299).all() and history.measured[0].tolist() == [-9.0, 0.0]
    assert front(history) == [2, 1]
    pairs = {"metric": ["loss", "other"], "mode": "min"}
    study = tune(lambda c: {**bowl(c), "other": -bowl(c)["loss"]}, "genetic", trials=40, **pairs)
    assert len(study.front) > 3 and all(one.metrics["latency"] <= 10 for one in study.front)


def test_a_report_is_judged_by_what_it_has_and_a_pruned_trial_too() -> None:
    history = told([])
    history.add(Job(0, {"x": 0.0, "y": 0.0}, 9))
    history.add(Report(0, 1, {"loss": 3.0}))
    assert history.objective_values({"loss": 3.0}) == [3.0]
    assert history.objective_values({"loss": 3.0, "latency": 11.0})[0] > 1e299
    history.add(Result(0, "pruned", {"loss": 3.0}, 1))
    assert np.isnan(history.violation[0]) and history.values[0, 0] == 3.0


@pytest.mark.parametrize("bounds", [{"latency": (None, 10)}, {"latency": (0.0, 10.0), "loss": (0.4, None)}])
def test_everything_that_names_the_best_keeps_the_limits(bounds: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    study = tune(
        trials=60,
        limits=bounds,
        store=tmp_path / "s.db",
        name="s",
        stop=[lambda study: seen.append(0 if study.best is None else study.best.number) or False],
    )
    kept = [n for n in range(60) if bowl(study.history.jobs[n].config)["latency"] <= 10]
    if "loss" in bounds:
        kept = [n for n in kept if bowl(study.history.jobs[n].config)["loss"] >= 0.4]
    assert 3 < len(kept) < 30, "the problem has an outside, and an inside"
    best = min(kept, key=lambda n: bowl(study.history.jobs[n].config)["loss"])
    outside = min(range(60), key=lambda n: bowl(study.history.jobs[n].config)["loss"])
    assert outside not in kept, "the best of all lies outside"
    loaded = lt.Study.load("s", tmp_path / "s.db")
    for one in (study, loaded):
        assert one.best is not None and one.best.number == best and [row.number for row in one.front] == [best]
        assert {row.number for row in one.diverse(60, within=100.0)} == set(kept)
        assert [row.number for row in one.trials if row.feasible] == kept
        assert not lt.stop.Target(bowl(one.history.jobs[outside].config)["loss"])(one)
        assert lt.stop.Target(one.best.value)(one)
    assert lt.stop.NoImprovement(59 - best)(study) if best < 59 else True
    assert not set(seen) - {0, *kept}
    [row] = open_store(tmp_path / "s.db").studies()
    assert (row.best, row.best_value) == (best, study.best.value)  # type: ignore[union-attr]  # what `studies` lists
    again = study.retrain(count=2, seeds=1, task=bowl)
    assert {one.number for one in again} <= set(kept) and again[0].studies[0].settings["limits"]
    rows = list(csv.DictReader(io.StringIO(rows_to_csv(loaded.to_records()))))
    assert [n for n in range(60) if rows[n]["feasible"] == "True"] == kept


def test_limits_are_a_setting_of_the_study(tmp_path: Path) -> None:
    first = tune(store=tmp_path / "s.db", name="s")
    assert first.settings["limits"] == {"latency": [None, 10.0]}
    assert len(tune(store=tmp_path / "s.db", name="s", trials=25, limits={"latency": [None, 10]}).trials) == 25
    with pytest.raises(StudyError, match=r'limits: stored \{"latency": \[null, 10.0\]\}, given null'):
        tune(store=tmp_path / "s.db", name="s", limits=None)
    assert "limits" not in tune(store=tmp_path / "s.db", name="t", limits={}).settings


def test_running_out_of_memory_is_outside_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    def train(config: dict[str, Any]) -> dict[str, float]:
        if config["x"] < 0:
            torch.empty(10**16)  # torch's own error on the CPU
        if config["y"] < -0.8:
            raise MemoryError
        return bowl(config)

    study = tune(train, "tpe", trials=30, max_failures=2, progress=True)
    states = [(trial.status, trial.feasible) for trial in study.trials]
    assert ("failed", False) in states and ("failed", None) not in states  # and they do not end it as failures do
    assert study.best is not None and study.best.metrics["latency"] <= 10
    shown = capsys.readouterr().err
    assert "which counts as outside the limits" in shown and "outside the limits ·" in shown
    assert "failed or diverged" not in shown.splitlines()[-1]
    with pytest.raises(StudyError, match="2 trials failed in a row"):
        tune(train, limits=None, max_failures=2, seed=3)


def test_a_stack_that_runs_out_of_memory_is_judged_job_by_job(monkeypatch: pytest.MonkeyPatch) -> None:
    from luthier.train import stack

    width, trained = stack.run_stack, []

    def run_stack(work: Any, jobs: list[Job], *more: Any) -> Any:
        trained.append([job.number for job in jobs])
        if len(jobs) > 1 or jobs[0].number == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return width(work, jobs, *more)

    monkeypatch.setattr(stack, "run_stack", run_stack)
    study = lt.tune(small_task(), "random", trials=4, epochs=1, limits={"loss": (None, 1e9)}, progress=False)
    assert trained == [[0, 1, 2, 3], [0], [1], [2], [3]]
    assert [trial.feasible for trial in study.trials] == [True, True, False, True]
    with pytest.raises(StudyError, match="all 4 trials failed"):
        lt.tune(small_task(), "random", trials=4, epochs=1, progress=False)


def test_a_study_with_nothing_inside_has_no_best_and_says_what_is_nearest() -> None:
    with pytest.warns(
        RuntimeWarning, match=r"none of 20 results .* latency ≤ -1; the nearest is job \d+ with latency="
    ) as seen:
        study = tune(limits={"latency": (None, -1)})
    least = min(range(20), key=lambda n: study.history.results[n].metrics["latency"])  # type: ignore[union-attr]
    assert study.best is None and study.front == [] and f"job {least} with" in str(seen[0].message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"latency": (None, None)}, r"bounds must limit something, got \(None, None\)"),
        ({"latency": (3, 1)}, r"the lower bound must be ≤ the upper, got \(3, 1\)"),
        ({"latency": 10}, r"limits\['latency'\]: bounds must be a pair \(low, high\), got 10"),
        ({"latency": (None, math.nan)}, "a bound must be a finite number or None"),
        ({"latency": (None, "10")}, "a bound must be a finite number or None"),
        ({"latency": (True, None)}, "a bound must be a finite number or None"),
        ({3: (None, 1)}, "a limit must be of a metric by name, got 3"),
        (["latency"], r"limits must be a mapping of metrics to bounds, got \['latency'\]"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_call(given: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        tune(lambda _: pytest.fail("it trains"), limits=given)
    with pytest.raises(StudyError, match=message):
        lt.Study("s", SPACE, limits=given)


def test_a_metric_that_is_never_reported_is_named_with_the_first_result() -> None:
    calls: list[int] = []
    with pytest.raises(StudyError, match=r"the metric 'latncy' is limited, and job 0 did not report it.*loss, latency"):
        tune(lambda config: calls.append(1) or bowl(config), limits={"latncy": (None, 10)})
    assert len(calls) == 1
    sometimes = tune(lambda c: bowl(c) if c["x"] > -0.9 else {"loss": -1.0}, seed=2, trials=60)
    assert min(trial.metrics["loss"] for trial in sometimes.trials) == -1.0, "some lack it"
    assert sometimes.best is not None and sometimes.best.value > 0
    by_hand = lt.Study("s", SPACE, limits=LIMITS, trials=3)
    first, second = by_hand.ask(2)
    with pytest.raises(StudyError, match=f"the metric 'latency' is limited, and job {first.number} did not report it"):
        by_hand.tell(first, 1.0)
    by_hand.tell(first, {"loss": 1.0, "latency": 3.0})
    by_hand.tell(second, 0.5)
    assert by_hand.best is not None and by_hand.best.number == first.number


def test_methods_that_cannot_keep_limits_are_refused() -> None:
    task = small_task()
    with pytest.raises(MethodError, match=r"moves the hyperparameters of one training along its loss.*Random"):
        lt.tune(task, "hypergradient", epochs=1, limits={"loss": (None, 1)}, progress=False)
    with pytest.raises(StudyError, match=r"limits='latency' is not measured by the task.*loss, train_loss"):
        lt.tune(task, "random", trials=2, epochs=1, limits=LIMITS, progress=False)


METHODS: dict[str, Any] = {
    "genetic": lt.propose.Genetic(),
    "gp": lt.propose.GaussianProcess(),
    "gflownet": lt.propose.GFlowNet(),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_find_the_best_inside_and_the_same_after_a_resume(name: str) -> None:
    def run(history: History | None = None) -> History:
        return simulate(METHODS[name], bowl, SPACE, Budget(trials=50), limits=LIMITS, history=history)

    whole = run()
    assert whole.best is not None and whole.values[whole.best, 0] < 0.45 and whole.measured.min() < 0.25
    inside = whole.violation == 0
    assert inside[30:].mean() > 0.4, "a quarter of the space is inside"
    again = run(rebuild(whole, 83))
    assert [job.config for job in again.jobs] == [job.config for job in whole.jobs]


@pytest.mark.parametrize(
    "name", ["hyperband", "asha", "pbt", pytest.param("pb2", marks=pytest.mark.slow), "freeze_thaw"]
)
def test_rungs_and_populations_go_on_with_what_lies_inside(name: str) -> None:
    """Outside is better by far, so that one glance at the raw loss would go on with it alone."""

    class Walk:
        space: lt.Space | None = SPACE

        def init(self, config: dict[str, Any], seed: int) -> dict[str, Any]:
            return {"done": 0}

        def advance(self, state: dict[str, Any], config: dict[str, Any], steps: int) -> tuple[dict[str, Any], None]:
            return {"done": state["done"] + steps, "config": config}, None

        def evaluate(self, state: dict[str, Any]) -> dict[str, float]:
            values = bowl(state["config"])
            outside = 100.0 * (values["latency"] > 10)
            return {**values, "loss": values["loss"] + 1.0 / state["done"] - outside}

    study = tune(Walk(), name, trials=27, steps=27, seed=1, space=None)
    ages, inside = study.history.age, study.history.violation == 0
    assert study.best is not None and study.best.metrics["latency"] <= 10
    whole = [job for job in range(len(ages)) if ages[job] == 27]
    share = np.mean([inside[job] for job in whole])
    started = [job.number for job in study.history.jobs if job.parent is None]
    begun = np.mean([bowl(study.history.jobs[n].config)["latency"] <= 10 for n in started])
    assert share > min(1.5 * begun, 0.9)


def test_an_inner_proposer_sees_the_limits_and_forgives_reports_without_the_metric() -> None:
    history = told([bowl({"x": -1.0, "y": 0.0}), bowl({"x": 0.8, "y": 0.0}), {"loss": 0.1}])
    seen = first_results(history, "a test")
    assert seen.limits == history.limits and seen.values[:2, 0].tolist() == history.values[:2, 0].tolist()
    assert seen.best == 1 and np.isnan(seen.violation[2]) and seen.values[2, 0] == 0.1


def test_children_of_shared_weights_are_ranked_by_the_limits_on_what_they_measured() -> None:
    proposer = lt.propose.Derive(draws=3).bind(Budget(trials=4, steps=100))
    history = History(SPACE, {"loss": "min"}, {"size": (None, 1.0)})
    for job in proposer.propose(history, 9, Seeds(0)):
        history.add(job)
    history.add(Result(0, "ok", {"shared_loss": 1.0}, history.jobs[0].steps, history.jobs[0].config))
    for job in proposer.propose(history, 9, Seeds(0)):
        history.add(job)
    assert np.isnan(history.violation[0]), "a search measures no objective, and is not judged"
    for number, (loss, size) in enumerate([(0.1, 2.0), (0.5, 0.5), (0.3, 1.0)], start=1):
        history.add(Result(number, "ok", {"shared_loss": loss, "shared_size": size}, 10, {"x": loss, "y": 0.0}))
    assert [job.tag["draw"] for job in proposer.propose(history, 9, Seeds(0))] == [3, 2]


def test_a_function_is_stopped_for_its_reports_outside() -> None:
    def train(config: dict[str, Any], trial: lt.Trial) -> dict[str, float]:
        values = bowl(config)
        values["loss"] -= 100.0 * (values["latency"] > 10)
        for step in range(27):
            trial.report(step, **values)
        return values

    for method in ("asha", "median"):
        study = tune(train, method, trials=60, steps=27)
        inside = np.array([bowl(trial.config)["latency"] <= 10 for trial in study.trials])
        whole = np.array([trial.status == "ok" for trial in study.trials])
        assert whole[inside].mean() > 1.3 * whole[~inside].mean(), method


def test_optunas_samplers_are_told_of_limits_as_constraints() -> None:
    pytest.importorskip("optuna")
    from luthier.interop.optuna import to_optuna

    tpe = tune(method="tpe", trials=40)
    assert (tpe.history.violation[20:] == 0).mean() > 0.35 and tpe.best is not None and tpe.best.value < 0.45
    copy = to_optuna(tpe)
    assert copy.best_trial.number == tpe.best.number


@pytest.mark.slow
def test_any_sampler_of_optunas_is_told_of_them() -> None:
    optuna = pytest.importorskip("optuna")
    from luthier.interop.optuna import Sampler

    gp = tune(method=Sampler(optuna.samplers.GPSampler), trials=16)
    assert (gp.history.violation[11:] == 0).mean() > 0.5 and gp.best is not None and gp.best.value < 0.5


def test_compare_takes_the_best_inside() -> None:
    found = lt.compare(bowl, ["random", "genetic"], space=SPACE, trials=30, seeds=2, limits=LIMITS, progress=False)
    for run in found.runs:
        best = found.studies[run.label, run.seed].best
        assert best is not None and best.metrics["latency"] <= 10
    values = {(row["method"], row["seed"]): row["loss"] for row in found.records()}
    assert all(value == found.studies[key].best.value for key, value in values.items())  # type: ignore[union-attr]


def test_keep_best_keeps_the_weights_of_the_best_inside() -> None:
    from luthier.train.best import best_report

    class Kept:
        objectives, limits = {"loss": "min"}, {"size": (None, 1.0)}

    reports = [
        Report(0, i, {"loss": loss, "size": size}) for i, (loss, size) in enumerate([(1, 3), (5, 1), (4, 0), (6, 0)])
    ]
    found = best_report(Kept(), reports)  # type: ignore[arg-type]
    assert found is not None and found.step == 2


def test_the_shell_and_the_page(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from luthier.space import Float, Space\nfrom luthier.task import FunctionTask\n"
        "def f(config):\n"
        "    return {'loss': config['x'] ** 2, 'latency': 20.0 * (1.0 - config['x'])}\n"
        "task = FunctionTask(f, Space(x=Float(-1.0, 1.0)))\n"
    )
    runner, store = CliRunner(), str(tmp_path / "s.db")
    base = ["tune", str(file), "--trials", "20", "--store", store, "--name", "s", "--quiet"]
    done = runner.invoke(app, [*base, "--limit", "latency=:10", "--limit", "loss=0.0:"])
    assert done.exit_code == 0, done.output
    study = lt.Study.load("s", store)
    assert study.settings["limits"] == {"latency": [None, 10.0], "loss": [0.0, None]}
    assert runner.invoke(app, [*base, "--limit", "latency<=10", "--limit", "loss>=0"]).exit_code == 0  # the same study
    for wrong in ("latency", "latency=10", "latency=a:b", "=:3", "latency<=x", "latency=:"):
        refused = runner.invoke(app, [*base, "--limit", wrong])
        assert refused.exit_code != 0 and "latency" in refused.output + str(refused.exception) + refused.stderr, wrong
    outside = sum(trial.feasible is False for trial in study.trials)
    shown = runner.invoke(app, ["show", "s", "--store", store]).output
    assert "latency ≤ 10, loss ≥ 0" in shown and f"20 trials: 20 ok; {outside} outside the limits" in shown
    assert "ok, outside" in shown
    page = study.write_report(tmp_path / "s.html").read_text()
    assert "latency ≤ 10, loss ≥ 0" in page and 'data-status="infeasible"' in page
    assert f"{study.history.good.sum()} of 20 trials finished" in page
    with pytest.warns(RuntimeWarning, match="none of 20 results lies within the limits"):
        hopeless = runner.invoke(app, [*base, "--name", "t", "--limit", "latency=:-1"])
    assert (
        hopeless.exit_code == 1 and "none of 20 trials ended well within the limits (latency ≤ -1)" in hopeless.stderr
    )
    assert (
        "none with a finite loss within the limits"
        in lt.Study.load("t", store).write_report(tmp_path / "t.html").read_text()
    )
