"""Our executors under the contract tests, and what one worker in this process must cost."""

from __future__ import annotations

import time

from luthier.execute import Executor, Local
from luthier.jobs import Job
from luthier.seeds import Seeds
from luthier.task import as_task
from luthier.testing.executors import SPACE, ExecutorContract, ProcessContract
from luthier.train import Work


class TestLocalInThisProcess(ExecutorContract):
    def make(self) -> Executor:
        return Local(workers=1)

    def test_64_trivial_calls_cost_little(self) -> None:
        executor = self.make()
        begun = time.perf_counter()
        executor.start(Work(as_task(lambda config: config["x"], SPACE), Seeds(0)), lambda reports: set())
        executor.submit([Job(n, {"x": n / 64}) for n in range(64)], {})
        results = [result for _ in range(64) for result in executor.collect(None)]
        executor.close()
        assert len(results) == 64
        assert time.perf_counter() - begun < 0.15


class TestLocalTwoWorkers(ExecutorContract):
    def make(self) -> Executor:
        return Local(workers=2)


class TestLocalTwoWorkersAsProcesses(ProcessContract):
    def make(self) -> Executor:
        return Local(workers=2)
