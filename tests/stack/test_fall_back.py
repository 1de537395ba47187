"""A trace that fails in the middle of a run: the stack goes on in its eager form from the last measurement."""

import pytest
import torch
from torch import nn

import luthier as lt
from luthier.stack import run, trace


def tune(trials=3):
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 1e-1, log=True), momentum=lt.Float(0.0, 0.9)),
        model=lambda config: nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 10)),
        data=lt.data.digits(flat=True),
        loss=lt.losses.cross_entropy,
        batch_size=50,
    )
    return lt.tune(task, "random", trials=trials, epochs=3, seed=0, progress=False)


def test_a_trace_that_raises_in_the_middle_changes_no_number_and_is_told(monkeypatch):
    monkeypatch.setattr(run, "TRACED_STEPS", 1)
    whole = tune()
    assert whole.execution == "a stack, each layer called once for all members, at most 3 wide, traced"
    calls = []

    class Breaks(trace.Traced):
        def __call__(self, batches, valid):
            calls.append(1)
            metrics = super().__call__(batches, valid)  # the state is written over before it fails
            if len(calls) == 40:
                raise RuntimeError("out of luck")
            return metrics

    monkeypatch.setattr(run, "Traced", Breaks)
    with pytest.warns(UserWarning, match="a trace failed after step .*out of luck"):
        broken = tune()
    assert len(calls) == 40 and "out of luck" in broken.execution
    assert [trial.metrics for trial in broken.trials] == [trial.metrics for trial in whole.trials]
    for a, b in zip(broken.model().parameters(), whole.model().parameters(), strict=True):
        assert torch.equal(a, b)
