"""How a running study shows itself."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

import luthier as lt
from luthier.study.progress import Live, Plain, Tick, duration

SPACE = lt.Space(x=lt.Float(-1.0, 1.0))


def bowl(config: dict[str, Any]) -> float:
    return config["x"] ** 2


def test_progress_is_a_line_now_and_then_and_one_at_the_end() -> None:
    stream = io.StringIO()
    plain = Plain("mine", stream, every=0.0)
    tick = Tick(done=3, running=1, total=10, fresh=3, best=0.125, metric="loss", troubled=1)
    plain.show(tick)
    plain.close(tick)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("mine: 3/10 done · 1 running · 1 failed or diverged · best loss 0.125 · ")
    assert [duration(s) for s in (0.4, 59.5, 60.6, 3700)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]


def test_the_live_line_is_drawn_at_most_four_times_a_second() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    live = Live("mine", stream)
    shown = 0
    for done in range(50):
        if live.wants(time.monotonic()):
            live.show(Tick(done, 1, 50, done, 0.5, "loss"))
            shown += 1
    live.close(Tick(50, 0, 50, 50, 0.25, "loss"))
    assert shown == 1
    assert "50/50 done" in stream.getvalue() and "best loss 0.25" in stream.getvalue()


def test_progress_goes_to_stderr_and_false_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    lt.tune(bowl, space=SPACE, trials=3, progress=False)
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    lt.tune(bowl, space=SPACE, trials=3)
    told = capsys.readouterr()
    assert told.out == "" and "bowl-random: 3/3 done" in told.err and "best loss" in told.err
