"""Ctrl-C at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

import luthier as lt
from luthier.study.interrupt import Interrupts
from luthier.train import halt


def ctrl_c() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)  # Python runs the handler between two instructions
    return "done"


def test_it_waits_where_records_are_written() -> None:
    with Interrupts() as interrupts:
        assert ctrl_c() == "done"
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_it_stops_user_code_at_once() -> None:
    reached = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.allowed():
        reached.append(1)
        ctrl_c()
        reached.append(2)
    assert reached == [1]


def test_a_report_out_of_user_code_is_written_first() -> None:
    written: list[str] = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.allowed():
        interrupts.deferred(lambda: written.append(ctrl_c()))
        written.append("more")
    assert written == ["done"]


def test_a_second_one_is_always_raised() -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        assert ctrl_c() == "done"
        ctrl_c()


def test_the_handler_before_is_put_back_and_other_threads_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
    seen = []

    def elsewhere() -> None:
        with Interrupts() as interrupts:
            interrupts.check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_a_training_forks_end_by_a_signal_as_without_luthier(workers: int) -> None:
    def train(config: dict[str, float]) -> dict[str, float]:
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        forked.start()
        forked.terminate()  # what a Pool does at its end, and then it waits
        forked.join(5)
        code = forked.exitcode
        forked.kill()
        return {"loss": config["x"], "code": 0.0 if code is None else float(code)}

    study = lt.tune(train, space=lt.Space(x=lt.Float(0, 1)), trials=2, workers=workers, progress=False)
    assert [trial.metrics["code"] for trial in study.trials] == [-signal.SIGTERM] * 2


def test_a_thread_takes_back_what_was_to_be_raised_in_it_once_it_may_not_be_interrupted(monkeypatch) -> None:
    taken_back: list[tuple[int, object]] = []
    monkeypatch.setattr(halt, "_raise_in", lambda thread, kind: taken_back.append((thread, kind)))
    rung: list[int] = []

    def train() -> None:
        with halt.guard().allowed():
            with halt.guard().allowed():
                rung.append(threading.get_ident())
            assert taken_back == []  # it may be interrupted still

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert taken_back == [(rung[0], None)]
