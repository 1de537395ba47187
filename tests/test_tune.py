"""tune(): the loop, its budgets, what stops it, and what it leaves behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

import luthier as lt
from luthier.errors import ConfigError, MethodError, StudyError, TaskError
from luthier.execute import Local
from luthier.jobs import Budget, History, Job
from luthier.seeds import Seeds
from luthier.study.study import Study

ROOT = Path(__file__).parents[1]
SPACE = lt.Space(x=lt.Float(-1.0, 1.0), layers=lt.Int(1, 4))


def bowl(config: dict[str, Any]) -> float:
    return config["x"] ** 2 + config["layers"]


def curve(config: dict[str, Any], trial: lt.Trial) -> dict[str, float]:
    for step in range(1, 6):
        trial.report(step, loss=bowl(config) + 1 / step)
    return {"loss": bowl(config), "steps": 5}


def configs(study: Study) -> list[dict[str, Any]]:
    return [job.config for job in study.history.jobs]


@dataclass(frozen=True)
class Stopping:
    """Random search that stops what reports a loss above a limit at step 2."""

    limit: float = 3.0
    budget: Budget = field(default_factory=Budget, repr=False)
    extendable: ClassVar[bool] = True

    def bind(self, budget: Budget) -> Stopping:
        return Stopping(self.limit, budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        return lt.propose.Random(self.budget).propose(history, count, seeds)

    def stop(self, history: History, number: int) -> bool:
        last = history.reports[number][-1]
        return last.step >= 2 and last.metrics["loss"] > self.limit


@dataclass(frozen=True)
class Relay:
    """Trains two configurations and continues the better one, three times."""

    budget: Budget = field(default_factory=Budget, repr=False)
    extendable: ClassVar[bool] = False

    def bind(self, budget: Budget) -> Relay:
        return Relay(budget)

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        first = len(history)
        if first < 2:
            make = range(first, min(2, first + count))
            return [Job(n, history.space.sample(seeds.rng(n, "propose")), 4) for n in make]
        if history.pending or first >= 5:
            return []
        (parent,) = self.parents(history)
        return [Job(first, history.final(parent), 4, parent)]

    def parents(self, history: History) -> set[int]:
        if len(history) < 2 or history.pending:
            return {0, 1} & set(history.arrival)
        return {history.best} if len(history) == 2 and history.best is not None else {len(history) - 1}


class Counter:
    """A training whose state counts its steps, and draws from a seed."""

    space = SPACE

    def init(self, config: dict[str, Any], key: int) -> dict[str, Any]:
        return {"x": config["x"], "steps": 0, "key": key}

    def advance(
        self, state: dict[str, Any], config: dict[str, Any], steps: int
    ) -> tuple[dict[str, Any], dict[str, float]]:
        state["steps"] += steps
        return state, {}

    def evaluate(self, state: dict[str, Any]) -> dict[str, float]:
        return {"loss": 1.0 / state["steps"] + state["x"] ** 2, "key": float(state["key"] % 1000)}


def test_a_function_is_tuned() -> None:
    study = lt.tune(bowl, space=SPACE, trials=30, seed=1, progress=False)
    best = study.best
    assert best is not None and study.over
    assert best.metrics["loss"] == min(bowl(config) for config in configs(study))
    assert study.name == "bowl-random"


def test_two_workers_find_the_same_configurations() -> None:
    here = lt.tune(curve, space=SPACE, trials=6, progress=False)
    there = lt.tune(curve, space=SPACE, trials=6, executor=Local(workers=2), progress=False)
    assert configs(there) == configs(here)
    assert [record.metrics for record in there.trials] == [record.metrics for record in here.trials]
    assert all(len(there.history.reports[number]) == 5 for number in range(6))


def test_tuning_a_function_loads_no_large_library() -> None:
    script = (
        "import sys, luthier as lt\n"
        "lt.tune(lambda config: config['x'], space=lt.Space(x=lt.Float(0, 1)), trials=3, progress=False)\n"
        "print([name for name in ('torch', 'scipy', 'sklearn', 'plotly', 'sqlalchemy', 'rich') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_a_file_is_tuned(tmp_path: Path) -> None:
    file = tmp_path / "bowls.py"
    file.write_text(
        "import luthier as lt\nspace = lt.Space(x=lt.Float(-1, 1))\n"
        "def objective(config):\n    return config['x'] ** 2\n"
    )
    study = lt.tune(file, trials=5, progress=False, executor=Local(workers=2))
    assert study.name == "bowls-random" and [record.status for record in study.trials] == ["ok"] * 5


def test_grid_knows_its_own_end() -> None:
    study = lt.tune(bowl, "grid", space=SPACE, progress=False)
    assert len(study.trials) == 5 * 4
    assert len(lt.tune(bowl, lt.propose.Grid(points=2), space=SPACE, progress=False).trials) == 2 * 2


def test_exceptions_and_nan_are_results_and_the_study_goes_on() -> None:
    def fragile(config: dict[str, Any]) -> float:
        if config["layers"] == 2:
            raise ValueError(f"no {config['layers']} layers")
        return math.nan if config["layers"] == 3 else bowl(config)

    study = lt.tune(fragile, space=SPACE, trials=30, progress=False)
    for record in study.trials:
        assert record.status == {2: "failed", 3: "diverged"}.get(record.config["layers"], "ok")  # type: ignore[arg-type]
        assert ("ValueError: no 2 layers" in record.error) == (record.status == "failed")


def test_failures_in_a_row_stop_the_study_and_it_can_go_on(tmp_path: Path) -> None:
    store, calls, broken = tmp_path / "s.db", [], [True]

    def objective(config: dict[str, Any]) -> float:
        calls.append(config)
        if broken and len(calls) > 3:
            raise RuntimeError("the disk has gone away")
        return bowl(config)

    with pytest.raises(StudyError) as caught:
        lt.tune(objective, space=SPACE, trials=30, max_failures=4, store=store, progress=False)
    assert "4 trials failed in a row" in str(caught.value) and "the disk has gone away" in str(caught.value)
    stored = Study.load("objective-random", store)
    assert [record.status for record in stored.trials] == ["ok"] * 3 + ["failed"] * 4
    broken.clear()
    study = lt.tune(objective, space=SPACE, trials=30, max_failures=4, store=store, progress=False)
    assert [record.status for record in study.trials] == ["ok"] * 3 + ["failed"] * 4 + ["ok"] * 23
    assert len(calls) == 30


def test_a_finished_study_is_not_run_again_and_may_be_extended(tmp_path: Path) -> None:
    store, calls = tmp_path / "s.db", []

    def counted(config: dict[str, Any]) -> float:
        calls.append(config)
        return bowl(config)

    arguments: dict[str, Any] = {"space": SPACE, "store": store, "progress": False, "name": "mine"}
    lt.tune(counted, trials=5, **arguments)
    again = lt.tune(counted, trials=5, **arguments)
    assert len(calls) == 5 and len(again.trials) == 5
    more = lt.tune(counted, trials=8, **arguments)
    assert len(calls) == 8
    assert configs(more) == configs(lt.tune(bowl, space=SPACE, trials=8, progress=False))
    with pytest.raises(StudyError, match="seed: stored 0, given 3"):
        lt.tune(counted, trials=8, seed=3, **arguments)
    with pytest.raises(StudyError, match=r"Random.*Grid"):
        lt.tune(counted, "grid", on_change="error", **arguments)
    assert len(calls) == 8


@pytest.mark.parametrize("workers", [1, 2])
def test_a_method_prunes_running_trials(workers: int) -> None:
    def slow_curve(config: dict[str, Any], trial: lt.Trial) -> float:
        for step in range(1, 30):
            time.sleep(0.005 if workers > 1 else 0.0)  # a worker hears of it a moment later
            trial.report(step, loss=bowl(config))
        return bowl(config)

    study = lt.tune(slow_curve, Stopping(), space=SPACE, trials=8, executor=Local(workers=workers), progress=False)
    statuses = {record.status for record in study.trials}
    assert statuses == {"ok", "pruned"}
    for record in study.trials:
        assert (record.status == "pruned") == (bowl(record.config) > 3.0)
        reports = len(study.history.reports[record.number])
        assert reports == 29 if record.status == "ok" else reports == 2 or (workers > 1 and reports < 29)


def test_wall_time_stops_what_is_running() -> None:
    def endless(config: dict[str, Any], trial: lt.Trial) -> float:
        for step in range(10_000):
            time.sleep(0.01)
            trial.report(step, loss=bowl(config))
        return 0.0

    begun = time.monotonic()
    study = lt.tune(endless, space=SPACE, seconds=0.3, progress=False)
    assert time.monotonic() - begun < 3.0
    assert len(study.history.pending) == 1 and study.history.reports[0]  # given back, not judged


def test_wall_time_ends_a_study_without_a_limit_on_trials() -> None:
    study = lt.tune(bowl, space=SPACE, seconds=0.1, progress=False)
    assert len(study.trials) > 5 and len(study.history.pending) <= 1  # one may be in hand, and is given back


def test_trainables_are_continued_and_only_needed_checkpoints_stay(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    study = lt.tune(Counter(), Relay(), trials=2, steps=4, store=store, progress=False)
    jobs, results = study.history.jobs, study.history.results
    assert [job.parent for job in jobs[2:]] == [study.history.jobs[2].parent, 2, 3]
    last = results[4]
    assert last is not None and int(study.history.age[4]) == 16
    assert last.metrics["loss"] == 1 / 16 + jobs[4].config["x"] ** 2  # the state went from job to job
    best = study.best
    assert best is not None and best.number == 4 and best.result.checkpoint is not None
    files = [file.name for file in (tmp_path / "s.db.checkpoints").rglob("*.ckpt")]
    assert files == [best.result.checkpoint[0]]


def test_a_finished_torch_task_reads_its_test_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from luthier.data import Split, Splits
    from luthier.train import restore

    noise = torch.Generator().manual_seed(0)
    splits = []
    for rows in (64, 32, 32):
        inputs = torch.randn(rows, 3, generator=noise)
        splits.append(Split(inputs, inputs.sum(1, keepdim=True)))
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 0.1, log=True)),
        model=lambda config: nn.Linear(3, 1),
        data=Splits(*splits),
        loss=lambda output, target: ((output - target) ** 2).mean(),
        batch_size=16,
    )
    reads: list[int] = []
    measure = restore.final_test
    monkeypatch.setattr(
        restore, "final_test", lambda work, job, result: (reads.append(job.number), measure(work, job, result))[1]
    )
    arguments: dict[str, Any] = {"epochs": 2, "store": tmp_path / "s.db", "progress": False}
    study = lt.tune(task, trials=4, **arguments)
    best = study.best
    assert best is not None and reads == [best.number]
    model = study.model()
    with torch.no_grad():
        error = ((model(splits[2].inputs) - splits[2].targets) ** 2).mean().item()
    assert best.test["loss"] == pytest.approx(error, rel=1e-5)
    assert len(list((tmp_path / "s.db.checkpoints").rglob("*.ckpt"))) == 1
    again = lt.tune(task, trials=4, **arguments).best
    assert again == best and len(reads) == 1


def test_ctrl_c_keeps_what_has_ended_and_says_how_to_go_on(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import os, sys, time\nimport luthier as lt\n"  # a print of two workers may be two writes, one inside the other
        "def slow(config):\n    time.sleep(0.05)\n    os.write(1, b'ended\\n')\n    return config['x']\n"
        "workers = int(sys.argv[2])\n"
        "lt.tune(slow, space=lt.Space(x=lt.Float(0, 1)), trials=1000, store=sys.argv[1], name='slow',\n"
        "        executor=lt.execute.Local(workers=workers))\n"
    )
    for workers in (1, 2):
        store = tmp_path / f"s{workers}.db"
        process = subprocess.Popen(
            [sys.executable, str(script), str(store), str(workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline() == "ended\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode != 0 and "KeyboardInterrupt" in errors
        assert "goes on from there" in errors
        study = Study.load("slow", store)
        assert len(study.history.arrival) >= 4 - workers  # what each was at had not come back yet
        left = dict(study.history.pending)
        one = Study("slow", study.history.space, trials=1000, store=store)
        assert one.ask(len(left)) == list(left.values()) if left else True  # given back at once
        one.close()


def test_what_cannot_work_is_refused_before_anything_is_trained() -> None:
    for arguments, error, words in [
        ({"space": SPACE}, MethodError, ["trials", "seconds"]),
        ({"space": SPACE, "trials": 3, "method": Relay()}, MethodError, ["continues trainings", "Trainable"]),
        ({"space": SPACE, "trials": 3, "max_failures": 0}, StudyError, ["max_failures must be an integer ≥ 1, got 0"]),
        ({"trials": 3}, TaskError, ["space"]),
    ]:
        with pytest.raises(error) as caught:
            lt.tune(bowl, progress=False, **arguments)
        assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(MethodError, match="neither epochs nor steps"):
        lt.tune(Counter(), trials=3, progress=False)
    with pytest.raises(ConfigError):
        Study("s", SPACE, trials=1).enqueue({"x": 5.0, "layers": 1})


def test_a_stack_under_a_limit_of_wall_time_is_no_wider_than_the_time_allows() -> None:
    from luthier.testing.adapters import digits_task

    study = lt.tune(digits_task(), space=None, steps=60, seconds=5, progress=False)
    finished = [result for result in study.history.results if result and result.status == "ok"]
    assert study.best is not None and len(finished) >= 8, "256 at once would all have been pruned or have been late"


class TwoMethods:
    """A proposer with the methods of the protocol and nothing else."""

    def bind(self, budget: lt.Budget) -> TwoMethods:
        self.budget = budget
        return self

    def propose(self, history: lt.History, count: int, seeds: lt.Seeds) -> list[lt.Job]:
        numbers = range(len(history), min(len(history) + count, self.budget.trials or 0))
        return [lt.Job(n, history.space.sample(seeds.rng(n, "propose")), 1) for n in numbers]


@pytest.mark.filterwarnings("ignore:.*reported nothing")
def test_a_proposer_needs_two_methods_and_nothing_else(tmp_path: Path) -> None:
    given: dict[str, Any] = {"space": lt.Space(x=lt.Float(0, 1)), "store": tmp_path / "s.db", "progress": False}
    whole = lt.tune(lambda c: c["x"], TwoMethods(), trials=4, name="s", **given)
    again = lt.tune(lambda c: c["x"], TwoMethods(), trials=4, name="s", **given)
    assert [job.config for job in again.history.jobs] == [job.config for job in whole.history.jobs]
    with pytest.raises(lt.LuthierError, match="stored 4, given 5"):
        lt.tune(lambda c: c["x"], TwoMethods(), trials=5, name="s", **given)
    median = lt.tune(lambda c: c["x"], lt.propose.Median(inner=TwoMethods()), trials=3, name="m", **given)
    assert len(median.trials) == 3
