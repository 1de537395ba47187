"""Contract of every executor, as a pytest class: subclass it, say how to make an executor, and run pytest."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from luthier.execute import Executor
from luthier.jobs import Job, Lost, Partial, Report
from luthier.seeds import Seeds
from luthier.space import Config, Float, Space
from luthier.store.checkpoints import Checkpoints
from luthier.task import Trial, as_task
from luthier.train import Work, run
from luthier.train.halt import Halt, guard

SPACE = Space(x=Float(-1.0, 1.0))


def parabola(config: Config, trial: Trial) -> dict[str, float]:
    """Reports twice, then gives a value that depends on the configuration and on the trial's seed."""
    for step in (1, 2):
        trial.report(step, loss=config["x"] ** 2 / step)
    return {"loss": config["x"] ** 2, "seed": trial.seed % 1000}


def troubled(config: Config) -> Any:
    """Ends in another way in each quarter of the space."""
    if config["x"] < -0.5:
        raise ValueError("too low")
    if config["x"] < 0.0:
        return float("nan")
    return {"accuracy": 1.0} if config["x"] < 0.5 else config["x"]


def endless(config: Config, trial: Trial) -> float:
    """Reports until it is stopped: a minute at most."""
    for step in range(6_000):
        trial.report(step, loss=config["x"])
        time.sleep(0.01)
    return config["x"]


def polite(config: Config, trial: Trial) -> float:
    """Reports until it is asked to stop, then returns a value of its own."""
    for step in range(6_000):
        if trial.should_stop:
            return 7.0
        trial.report(step, loss=config["x"])
        time.sleep(0.01)
    return config["x"]


def deadly(config: Config) -> float:
    """Kills its own process where x is negative."""
    if config["x"] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return config["x"]


def silent(config: Config) -> float:
    """Says nothing for a minute."""
    time.sleep(60)
    return config["x"]


class Walk:
    """A Trainable whose state tells how it was reached."""

    report_every = 2

    def init(self, config: Config, key: int) -> dict[str, Any]:
        return {"at": float(key % 97), "steps": 0}

    def advance(self, state: dict[str, Any], config: Config, steps: int) -> tuple[dict[str, Any], Mapping[str, float]]:
        for _ in range(steps):
            state = {"at": state["at"] * 0.5 + config["x"], "steps": state["steps"] + 1}
        return state, {}

    def evaluate(self, state: dict[str, Any]) -> Mapping[str, float]:
        return {"loss": state["at"], "steps": state["steps"]}


class Slow(Walk):
    """Takes a while, and keeps its state in the place where it is advanced, in a network too."""

    def init(self, config: Config, key: int) -> dict[str, Any]:
        import torch

        return {**super().init(config, key), "network": torch.nn.Linear(1, 1)}

    def advance(self, state: dict[str, Any], config: Config, steps: int) -> tuple[dict[str, Any], Mapping[str, float]]:
        import torch

        time.sleep(0.02)
        state["at"], state["steps"] = state["at"] * 0.5 + config["x"], state["steps"] + steps
        torch.nn.init.constant_(state["network"].weight, state["at"])
        return state, {"loss": state["network"].weight.item()}

    def evaluate(self, state: dict[str, Any]) -> Mapping[str, float]:
        return {"steps": state["steps"]}


def collect_all(executor: Executor, count: int, seconds: float = 60.0) -> list[Any]:
    """Collect the results of ``count`` jobs, by number.

    Raises:
        TimeoutError: If they take longer than ``seconds``.
    """
    results: list[Any] = []
    deadline = time.monotonic() + seconds
    while len(results) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(results)} of {count} results after {seconds} s")
        results += executor.collect(1.0)
    return sorted(results, key=lambda result: result.number)


def facts(results: list[Any]) -> list[tuple[Any, ...]]:
    """Parts of results that must not depend on where a job ran: all but its time and its checkpoint's place."""
    return [(r.number, r.status, str(dict(r.metrics)), r.steps, dict(r.final), r.error) for r in results]


class ExecutorContract:
    """Subclass it as ``class TestMine(ExecutorContract)`` and define :meth:`make`."""

    def make(self) -> Executor:
        """Return an executor that has not been started."""
        raise NotImplementedError

    @pytest.fixture
    def started(self) -> Iterator[Callable[..., Executor]]:
        """Starts executors for a test and closes them after it."""
        made: list[Executor] = []

        def start(task: Any, on_reports: Any = None, **options: Any) -> Executor:
            made.append(self.make())
            work = Work(as_task(task, SPACE), Seeds(3), **options)
            made[-1].start(work, on_reports or (lambda reports: set()))
            return made[-1]

        yield start
        for executor in made:
            executor.close(wait=False)

    def test_same_jobs_same_results(self, started: Callable[..., Executor]) -> None:
        jobs = [Job(n, {"x": n / 10 - 0.5}) for n in range(8)]
        heard: list[Any] = []
        executor = started(parabola, lambda reports: heard.extend(reports) or set())
        executor.submit(jobs[:5], {})
        executor.submit(jobs[5:], {})
        results = collect_all(executor, 8)
        expected: list[Any] = []
        work = Work(as_task(parabola, SPACE), Seeds(3))
        alone = [r for job in jobs for r in run(work, [job], {}, lambda reports: expected.extend(reports) or set())]
        assert facts(results) == facts(alone)
        assert sorted(heard, key=lambda r: (r.number, r.step)) == expected
        assert all(0 <= result.seconds < 30 for result in results)

    def test_failures_are_results(self, started: Callable[..., Executor]) -> None:
        executor = started(troubled)
        executor.submit([Job(n, {"x": x}) for n, x in enumerate((-0.8, -0.2, 0.2, 0.8))], {})
        low, nan, missing, fine = collect_all(executor, 4)
        assert (low.status, nan.status, missing.status, fine.status) == ("failed", "diverged", "failed", "ok")
        assert "ValueError: too low" in low.error
        assert "'loss'" in missing.error and "accuracy" in missing.error
        assert fine.metrics == {"loss": 0.8} and not fine.error

    def test_a_function_may_end_by_itself(self, started: Callable[..., Executor]) -> None:
        executor = started(polite, lambda reports: {0})
        executor.submit([Job(0, {"x": 0.5})], {})
        (result,) = collect_all(executor, 1)
        assert (result.status, result.metrics) == ("pruned", {"loss": 7.0})

    def test_stops_on_reports(self, started: Callable[..., Executor]) -> None:
        executor = started(
            endless, lambda reports: {r.number for r in reports if r.step >= 3 and r.metrics["loss"] > 0}
        )
        executor.submit([Job(0, {"x": 0.5})], {})
        (result,) = collect_all(executor, 1)
        assert result.status == "pruned"
        assert result.metrics == {"loss": 0.5}

    def test_continues_from_a_checkpoint(self, started: Callable[..., Executor], tmp_path: Path) -> None:
        executor = started(Walk(), checkpoints=Checkpoints(tmp_path), save=True)
        executor.submit([Job(0, {"x": 0.5}, steps=3)], {})
        (first,) = collect_all(executor, 1)
        executor.submit([Job(1, {"x": 0.5}, steps=4, parent=0)], {0: first})
        (second,) = collect_all(executor, 1)
        walk = Walk()
        state, _ = walk.advance(walk.init({"x": 0.5}, Seeds(3).key(0, "train")), {"x": 0.5}, 7)
        assert second.status == "ok", second.error
        assert second.steps == 4 and second.metrics == walk.evaluate(state)

    @pytest.mark.parametrize("function", [endless, silent])
    def test_what_runs_is_given_back(self, started: Callable[..., Executor], function: Any) -> None:
        heard: list[Any] = []
        executor = started(function, lambda events: heard.extend(events) or set())
        executor.submit([Job(n, {"x": 0.5}) for n in range(3)], {})
        begun = time.monotonic()
        back: list[Any] = []
        with guard().active(), guard().until(time.monotonic() + 1.0), contextlib.suppress(Halt):
            while not back and time.monotonic() - begun < 5.0:  # in this process, only the thread's guard can end it
                back = executor.collect(0.2)
                if time.monotonic() - begun > 1.0:
                    break
        back += executor.give_back(5.0)
        assert time.monotonic() - begun < 9.0
        assert sorted((lost.number, lost.why) for lost in back) == [(0, "asked"), (1, "asked"), (2, "asked")]

    def test_a_state_given_back_is_gone_on_from(self, started: Callable[..., Executor], tmp_path: Path) -> None:
        job, saved = Job(0, {"x": 0.5}, steps=200), {}
        options: dict[str, Any] = {"checkpoints": Checkpoints(tmp_path), "save": True}

        def listen(events: list[Any]) -> set[int]:
            saved.update({event.number: event for event in events if isinstance(event, Partial)})
            if any(isinstance(event, Report) and event.step >= 20 for event in events):
                guard().give_back()
            return set()

        executor = started(Slow(), listen, **options)
        executor.submit([job], {})
        begun = time.monotonic()
        with guard().active():
            back: list[Any] = []
            while not back and guard().due() is None and time.monotonic() - begun < 30.0:
                back = executor.collect(0.1)
            back += executor.give_back(5.0)
        assert [(lost.number, lost.why) for lost in back] == [(0, "asked")]
        assert 0 < saved[0].steps < 200
        executor.close()
        heard: list[Report] = []
        again = started(
            Slow(), lambda events: heard.extend(e for e in events if isinstance(e, Report)) or set(), **options
        )
        again.submit([job], {}, {0: saved[0].file})
        (result,) = collect_all(again, 1)
        again.close()  # a cluster has one seat for both
        whole = started(Slow(), **options)
        whole.submit([job], {})
        assert facts([result]) == facts(collect_all(whole, 1)) and result.status == "ok", result.error
        # the reports of the first attempt come once more
        assert [one.step for one in heard if isinstance(one, Report)] == list(range(2, 201, 2))

    def test_a_trial_has_its_time(self, started: Callable[..., Executor]) -> None:
        for function, status, said in ((endless, "pruned", ""), (silent, "failed", "over its time")):
            executor = started(function, trial_seconds=0.3)
            executor.submit([Job(0, {"x": 0.5})], {})
            begun = time.monotonic()
            (result,) = collect_all(executor, 1)
            assert time.monotonic() - begun < 8.0
            assert (result.status, result.metrics) == (status, {"loss": 0.5} if status == "pruned" else {})
            assert said in result.error and bool(said) == bool(result.error)
            executor.close()

    def test_capacity_and_an_empty_queue(self, started: Callable[..., Executor]) -> None:
        executor = started(parabola)
        assert executor.capacity >= 1
        begun = time.monotonic()
        assert executor.collect(5.0) == []  # nothing is queued: nothing to wait for
        assert time.monotonic() - begun < 4.0

    def test_close_twice_and_start_again(self, started: Callable[..., Executor]) -> None:
        executor = started(parabola)
        executor.submit([Job(0, {"x": 0.1})], {})
        executor.close()
        executor.close()
        executor.start(Work(as_task(parabola, SPACE), Seeds(3)), lambda reports: set())
        executor.submit([Job(1, {"x": 0.5})], {})
        (result,) = collect_all(executor, 1)
        assert result.number == 1 and result.metrics["loss"] == 0.25


class ProcessContract:
    """Contract of executors whose jobs run in other processes, beside :class:`ExecutorContract`."""

    make = ExecutorContract.make
    started = ExecutorContract.started

    def test_the_timeout_is_kept(self, started: Callable[..., Executor]) -> None:
        executor = started(endless)
        executor.submit([Job(0, {"x": 0.5})], {})
        begun = time.monotonic()
        assert executor.collect(0.3) == []
        assert time.monotonic() - begun < 2.0

    def test_a_dead_worker_loses_its_job_alone(self, started: Callable[..., Executor]) -> None:
        executor = started(deadly)
        executor.submit([Job(n, {"x": x}) for n, x in enumerate((0.1, -0.5, 0.2, 0.3))], {})
        first, lost, *others = collect_all(executor, 4)
        assert [result.status for result in (first, *others)] == ["ok", "ok", "ok"]
        assert isinstance(lost, Lost) and lost.why == "process" and "SIGKILL" in lost.error
        executor.submit([Job(1, {"x": 0.5})], {})  # which counts, and what comes of it, is the study's business
        assert collect_all(executor, 1)[0].metrics == {"loss": 0.5}

    def test_a_worker_told_to_end_hands_its_job_back(self, started: Callable[..., Executor]) -> None:
        told: list[int] = []

        def tell(events: list[Any]) -> set[int]:
            if not told:
                told.append(int(events[0].metrics["process"]))
                os.kill(told[0], signal.SIGTERM)
            return {1}

        executor = started(Whoever(), tell)
        executor.submit([Job(0, {"x": 0.5})], {})
        (lost,) = collect_all(executor, 1)
        assert isinstance(lost, Lost) and lost.why == "machine" and "SIGTERM" in lost.error
        executor.submit([Job(1, {"x": 0.5})], {})
        assert collect_all(executor, 1)[0].status == "pruned"
        assert told and not Path(f"/proc/{told[0]}/cmdline").exists()


class Whoever:
    """Reports the process in which it runs until it is stopped."""

    def __call__(self, config: Config, trial: Trial) -> float:
        for step in range(6_000):
            trial.report(step, loss=0.0, process=os.getpid())
            time.sleep(0.01)
        return 0.0
