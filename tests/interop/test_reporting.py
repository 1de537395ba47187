"""What the callbacks of frameworks report, without a framework."""

from __future__ import annotations

import luthier as lt
from luthier.interop.reporting import reported


def test_a_validation_that_is_repeated_where_nothing_was_trained_is_reported_once() -> None:
    def train(config: dict, trial: lt.Trial) -> dict[str, float]:
        for step, loss in ((1, 3.0), (1, 9.0), (2, 2.0)):
            assert not reported(trial, step, {"loss": loss, "name": "epoch"}, "loss")
        return {"loss": 2.0}

    space = lt.Space(x=lt.Float(0, 1))
    study = lt.tune(train, space=space, trials=1, max_failures=1, progress=False)
    assert [(one.step, dict(one.metrics)) for one in study.history.reports[0]] == [
        (1, {"loss": 3.0}),
        (2, {"loss": 2.0}),
    ]
